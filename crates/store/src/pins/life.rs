//! A definition's life: where it stands, the forms it had, and the steps it took.

use bartizan_model::Timestamp;

use super::{Finding, Key};
use crate::Digest;

/// Where a definition stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// A form of it was approved. If another waits, it is held all the same.
    Approved,
    /// Nobody has decided about it.
    Pending,
    /// A person rejected what was offered. It stays held, even in its approved form, until a person says otherwise.
    Rejected,
    /// It was approved, and nobody is offered it any more. In its approved form it may come back.
    Withdrawn,
}

impl State {
    /// The state as it is kept and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Approved => "approved",
            Self::Pending => "pending",
            Self::Rejected => "rejected",
            Self::Withdrawn => "withdrawn",
        }
    }

    /// The state that [`State::as_str`] shows as `text`.
    pub fn named(text: &str) -> Option<Self> {
        [Self::Approved, Self::Pending, Self::Rejected, Self::Withdrawn]
            .into_iter()
            .find(|s| s.as_str() == text)
    }
}

/// A definition and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// Which one.
    pub key: Key,
    /// Where it stands.
    pub state: State,
    /// The form that was approved.
    pub approved: Option<Digest>,
    /// The form that waits for a decision.
    pub waiting: Option<Digest>,
    /// The form that was rejected last.
    pub refused: Option<Digest>,
    /// The form the server switched to last; none for one that was only imported.
    pub offered: Option<Digest>,
    /// How often it turned into another form, or came back, since a person decided or it was first held after that.
    pub turns: u32,
    /// When it was first offered or imported.
    pub first_seen: Timestamp,
    /// When it was last offered, to an hour.
    pub last_seen: Timestamp,
    /// Who decided last.
    pub decided_by: Option<String>,
    /// When.
    pub decided_at: Option<Timestamp>,
    /// The pins' version at the last change of what may be shown or called of it.
    pub version: u64,
}

impl Pin {
    /// Whether it may be called, and shown in its approved form.
    pub fn is_open(&self) -> bool {
        self.state == State::Approved && self.approved.is_some() && self.waiting.is_none()
    }
}

/// One form of a definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    /// SHA-256 of `text`.
    pub hash: Digest,
    /// SHA-256 of the definition without its name.
    pub body: Digest,
    /// Canonical JSON.
    pub text: String,
    /// When it was first offered or imported.
    pub first_seen: Timestamp,
    /// When it was last approved.
    pub approved_at: Option<Timestamp>,
    /// What was found in it.
    pub findings: Vec<Finding>,
}

/// One step in a definition's life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// When.
    pub at: Timestamp,
    /// What.
    pub event: Event,
    /// The form it was about.
    pub hash: Option<Digest>,
    /// Who decided; empty for what a server did.
    pub by: String,
}

/// What happened to a definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A person, the configuration or trust on first use approved it.
    Approved,
    /// A form was offered that is not the approved one, nor the one that waits.
    Changed,
    /// It was offered for the first time.
    FirstSeen,
    /// It changes again and again; of what it turns into next nothing is told until a person decides.
    Flapping,
    /// It came from a `bartizan.lock`.
    Imported,
    /// A person rejected it.
    Rejected,
    /// A person ended the hold: it is as it was approved.
    Released,
    /// It was withdrawn and is offered again, as it was approved.
    Returned,
    /// The approved form is offered again after another.
    Reverted,
    /// A person made an earlier form the approved one.
    RolledBack,
    /// Its row was not as we wrote it; it is pending again.
    Tampered,
    /// Nobody is offered it any more.
    Withdrawn,
}

impl Event {
    const ALL: [Self; 12] = [
        Self::Approved,
        Self::Changed,
        Self::FirstSeen,
        Self::Flapping,
        Self::Imported,
        Self::Rejected,
        Self::Released,
        Self::Returned,
        Self::Reverted,
        Self::RolledBack,
        Self::Tampered,
        Self::Withdrawn,
    ];

    /// The event as it is kept and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Approved => "approved",
            Self::Changed => "changed",
            Self::FirstSeen => "first-seen",
            Self::Flapping => "flapping",
            Self::Imported => "imported",
            Self::Rejected => "rejected",
            Self::Released => "released",
            Self::Returned => "returned",
            Self::Reverted => "reverted",
            Self::RolledBack => "rolled-back",
            Self::Tampered => "tampered",
            Self::Withdrawn => "withdrawn",
        }
    }

    /// The event that [`Event::as_str`] shows as `text`.
    pub fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|event| event.as_str() == text)
    }
}

/// A caller that was offered a definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// Who, as [`CallerKey`] writes it; empty for ourselves.
    pub caller: String,
    /// In which form.
    pub hash: Digest,
    /// When last, to a minute.
    pub last_seen: Timestamp,
}

/// Everything that is kept of a definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it stands.
    pub pin: Pin,
    /// Its forms, the newest first.
    pub forms: Vec<Form>,
    /// Its life, the latest step last.
    pub history: Vec<Step>,
    /// Who is offered it, by whole looks.
    pub sightings: Vec<Sighting>,
}

impl Record {
    /// The form with this hash.
    pub fn form(&self, hash: Option<Digest>) -> Option<&Form> {
        hash.and_then(|hash| self.forms.iter().find(|form| form.hash == hash))
    }
}
