//! Every way a sign-in at the identity provider fails, and how it is said.

use crate::{Error, discovery::Fault};

/// Why nobody was signed in. The text is for the operator.
#[derive(Debug, thiserror::Error)]
pub(in crate::signin) enum Lost {
    #[error("the identity provider's answer has neither a code nor an error")]
    Answer,
    #[error("the gate's credential cannot be used: {0}")]
    Credential(String),
    #[error("the ID token: {0}")]
    IdToken(Error),
    #[error("the answer was another issuer's (RFC 9207)")]
    MixedUp,
    #[error("the ID token was made for another sign-in (`nonce`)")]
    Nonce,
    #[error(
        "the person signed in too long ago for `max_age`, or the ID token does not say when (`auth_time`)"
    )]
    NotRecent,
    #[error("the token endpoint answered {status} ({error})")]
    Refused { status: u16, error: String },
    #[error("the identity provider is out of reach: {0}")]
    Unavailable(Fault),
}

impl Lost {
    /// The status, and what the person reads.
    pub fn said(&self) -> (u16, &'static str) {
        match self {
            Self::Answer | Self::MixedUp => {
                (400, "The answer is not one of your organisation's sign-in service.")
            }
            Self::Credential(_) | Self::Unavailable(_) => (502, "The sign-in service cannot be reached."),
            Self::IdToken(Error::GuestRefused) => (403, "Guests may not sign in here."),
            Self::IdToken(Error::GroupsUnknown) => (403, "Your groups cannot be determined."),
            Self::IdToken(Error::IssuerUnavailable(_)) => (502, "The sign-in service cannot be reached."),
            Self::IdToken(_) | Self::Nonce => {
                (502, "The sign-in service vouches for nobody that we can accept.")
            }
            Self::NotRecent => (403, "The application needs a fresh sign-in."),
            Self::Refused { .. } => (502, "The sign-in service did not confirm your sign-in."),
        }
    }

    /// For the audit trail; stable.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Answer => "provider.answer",
            Self::Credential(_) => "provider.credential",
            Self::IdToken(error) => error.verdict().reason,
            Self::MixedUp => "provider.mixed-up",
            Self::Nonce => "provider.nonce",
            Self::NotRecent => "provider.not-recent",
            Self::Refused { .. } => "provider.refused",
            Self::Unavailable(_) => "provider.unavailable",
        }
    }
}
