//! What is answered.

use serde::{Deserialize, Serialize};

use crate::{arguments::BadArguments, bundle::Version, canonical::Ambiguous};

/// Yes or no. There is no third answer: whatever is in doubt is denied.
#[derive(Clone, Debug)]
pub enum Decision {
    /// Yes.
    Permit(Permit),
    /// No, or not yet.
    Deny(Denial),
}

/// The proof that a query was permitted. Only a decision makes one.
#[derive(Clone, Debug)]
pub struct Permit {
    pub(crate) policies: Vec<String>,
    pub(crate) version: Version,
}

impl Permit {
    /// The policies that decided, by id, sorted.
    pub fn policies(&self) -> &[String] {
        &self.policies
    }

    /// The bundle that decided.
    pub fn version(&self) -> Version {
        self.version
    }
}

/// Why a query was denied.
#[derive(Clone, Debug)]
pub struct Denial {
    /// The kind of reason.
    pub reason: Reason,
    /// The policies that decided, by id, sorted; for the audit, not for the caller.
    pub policies: Vec<String>,
    /// What would turn the answer; empty if nothing would.
    pub obligations: Vec<Obligation>,
    /// The bundle that decided.
    pub version: Version,
}

/// The kinds of denial.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The arguments cannot be read, or not in one way (attacks.md EP-04).
    #[error("{0}")]
    Arguments(BadArguments),
    /// A URI, host or URL has more than one reading.
    #[error("the address cannot be decided about: {0}")]
    Address(Ambiguous),
    /// A policy could not be evaluated.
    #[error("a policy could not be evaluated")]
    Evaluation,
    /// A policy forbids it.
    #[error("a policy forbids it")]
    Forbidden,
    /// No policy permits it.
    #[error("no policy permits it")]
    NoPermit,
    /// It needs what `obligations` names.
    #[error("it needs more: a scope, a fresh sign-in or an approval")]
    Obligation,
    /// The server or tool is not in the catalogue, so nothing can be said about it.
    #[error("there is no such server, or the tool is not pinned")]
    Unknown,
    /// A policy reads the arguments, and some have no type in the pinned schema.
    #[error("a policy reads the arguments, and some have no type that it can read")]
    Unmapped,
}

impl Reason {
    /// The stable code for the caller and the audit.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Arguments(_) => "policy.arguments",
            Self::Address(_) => "policy.address",
            Self::Evaluation => "policy.error",
            Self::Forbidden => "policy.forbidden",
            Self::NoPermit => "policy.no_permit",
            Self::Obligation => "policy.obligation",
            Self::Unknown => "policy.unknown",
            Self::Unmapped => "policy.unmapped",
        }
    }
}

/// What would turn a denial into a permit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Obligation {
    /// `@approval("role")`: a person with this role says yes; `self` is the caller.
    Approval(String),
    /// `@max_age("seconds")`: a sign-in no older than this.
    MaxAge(u64),
    /// `@require_mfa`: a sign-in with a second factor.
    Mfa,
    /// `@step_up("scope")`: a token with this scope.
    StepUp(String),
}

impl Decision {
    /// Whether it is a permit.
    pub fn is_permit(&self) -> bool {
        matches!(self, Self::Permit(_))
    }

    /// The denial, if it is one.
    pub fn denial(&self) -> Option<&Denial> {
        match self {
            Self::Permit(_) => None,
            Self::Deny(denial) => Some(denial),
        }
    }
}
