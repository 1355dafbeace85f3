//! Every page that says no, and the one place that says how.

use bartizan_store::{DatabaseError, links::LinkError};

use super::{decisions::Undecided, desk::Unanswerable, provider::Lost, seen};
use crate::{Deed, Report, Unrecorded};

/// Why a person does not get further.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Too many requests or decisions came from this address; the seconds to wait.
    Crowded(u64),
    Database(DatabaseError),
    Desk(Unanswerable),
    /// The form was shown in another browser, to somebody else, too long ago, or never.
    FormForeign,
    /// The form was sent before.
    FormSpent,
    /// Something of ours that cannot fail did.
    Internal,
    /// The link was used, has expired, or was never one.
    LinkUnknown,
    Malformed,
    /// The methods that would do.
    Method(&'static str),
    /// Nobody is signed in who would have to be.
    NotSignedIn,
    /// Another site's page sent this.
    OtherSite,
    Provider(Lost),
    /// It cannot be recorded, so it is not done.
    Unrecorded,
    /// The sign-in was begun in another browser (attacks.md CD-01).
    StateForeign,
    /// The sign-in was finished, has expired, or was never begun (attacks.md CD-09).
    StateUnknown,
    /// A held call is not shown, or not decided about (attacks.md EP-08).
    Undecided(Undecided),
}

/// How a refusal is said.
pub(super) struct Said {
    pub status: u16,
    pub title: &'static str,
    pub words: String,
    /// For the audit trail; stable.
    pub reason: &'static str,
}

const AGAIN: &str = "Go back to your application and connect again.";

impl Refusal {
    pub fn said(&self) -> Said {
        let said =
            |status, title, words: &str, reason| Said { status, title, words: words.to_owned(), reason };
        let again =
            |status, title, words: &str, reason| said(status, title, &format!("{words} {AGAIN}"), reason);
        match self {
            Self::Crowded(_) => again(
                429,
                "Not now",
                "Too many requests came from your network. Wait ten minutes.",
                "signin.crowded",
            ),
            Self::Database(_) => again(503, "Not now", "The gate cannot reach its database.", "signin.store"),
            Self::Desk(Unanswerable::Page { status, words }) => {
                said(status.as_u16(), "This request cannot be answered", words, "signin.request")
            }
            Self::Desk(Unanswerable::Redirect { stranger, words, .. }) => {
                let name = seen::called(stranger.as_deref().unwrap_or_default());
                let words = format!(
                    "The application that calls itself “{name}” asked for something that this gate does not give, or asked in \
                     a way it does not understand. Nothing was allowed. You may close this page, or tell the application. What is \
                     wrong, for whoever wrote it: {words}."
                );
                said(400, "This request cannot be answered", &words, "signin.request")
            }
            Self::FormForeign => again(
                403,
                "This page is out of date",
                "It was shown too long ago, in another browser, or before you signed in; or your browser keeps no cookies.",
                "signin.form-foreign",
            ),
            Self::FormSpent => {
                again(403, "Already decided", "This form was sent before.", "signin.form-spent")
            }
            Self::Internal => again(500, "Something went wrong", "This is our fault.", "signin.internal"),
            Self::LinkUnknown => said(
                400,
                "This link does not work any more",
                "A link signs you in once, within ten minutes. Run \"bartizan login\" for a fresh one.",
                "signin.link-unknown",
            ),
            Self::Malformed => {
                again(400, "This cannot be read", "The request is malformed.", "signin.malformed")
            }
            Self::Method(_) => {
                said(405, "Not this way", "This address does not take such requests.", "signin.method")
            }
            Self::NotSignedIn => said(403, "You are not signed in", "Sign in first.", "signin.not-signed-in"),
            Self::OtherSite => again(
                403,
                "Another page sent this",
                "Decisions are only taken from our own pages, by an up-to-date browser.",
                "signin.other-site",
            ),
            Self::Provider(lost) => {
                let (status, words) = lost.said();
                again(status, "You could not be signed in", words, lost.reason())
            }
            Self::Unrecorded => {
                again(503, "Not now", "The gate cannot write down what it does.", "audit.unavailable")
            }
            Self::StateForeign => again(
                403,
                "This sign-in began in another browser",
                "If somebody sent you a link to here, do not follow it.",
                "signin.state-foreign",
            ),
            Self::StateUnknown => again(
                400,
                "This sign-in is over",
                "It was finished before, took longer than ten minutes, or never began here.",
                "signin.state-unknown",
            ),
            Self::Undecided(why) => match why {
                Undecided::Own => said(
                    403,
                    "Not yours to decide",
                    "You asked for this call yourself; somebody else has to approve it.",
                    "approval.own",
                ),
                Undecided::Over => said(
                    409,
                    "There is nothing left to decide",
                    "It was decided before, has expired, or the tool or the policy has changed since it was asked.",
                    "approval.over",
                ),
                Undecided::Role => said(
                    403,
                    "Not yours to decide",
                    "You do not have the role that decides about this.",
                    "approval.role",
                ),
                Undecided::Unavailable(_) => said(
                    503,
                    "Not now",
                    "The gate cannot find out what waits. Try again.",
                    "approval.unavailable",
                ),
                Undecided::Unknown => said(
                    404,
                    "There is no such request",
                    "It was never made here, or is long over.",
                    "approval.unknown",
                ),
            },
        }
    }
}

impl Refusal {
    /// The refusal for the record. The half that speaks OAuth records its own; a method that an address does not take
    /// is nobody's sign-in.
    pub fn report(&self) -> Option<Report> {
        match self {
            Self::Desk(_) | Self::Method(_) => None,
            refusal => Some(Report::new(Deed::SignInRefused, refusal.said().reason)),
        }
    }

    /// Where a page leads whose words do not end at another program: an address of ours, and what it is called.
    pub fn onward(&self) -> Option<(&'static str, &'static str)> {
        matches!(self, Self::NotSignedIn).then_some(("/account", "Your account"))
    }
}

impl From<LinkError> for Refusal {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Database(error) => Self::Database(error),
            LinkError::Unsealed(_) => {
                tracing::error!(%error, "an account that a person linked cannot be read");
                Self::Internal
            }
        }
    }
}

impl From<Unrecorded> for Refusal {
    fn from(_: Unrecorded) -> Self {
        Self::Unrecorded
    }
}

impl From<Undecided> for Refusal {
    fn from(undecided: Undecided) -> Self {
        Self::Undecided(undecided)
    }
}

impl From<DatabaseError> for Refusal {
    fn from(error: DatabaseError) -> Self {
        Self::Database(error)
    }
}

impl From<Unanswerable> for Refusal {
    fn from(unanswerable: Unanswerable) -> Self {
        Self::Desk(unanswerable)
    }
}

impl From<Lost> for Refusal {
    fn from(lost: Lost) -> Self {
        Self::Provider(lost)
    }
}
