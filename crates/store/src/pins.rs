//! Pins: every definition a server offers, in the form a person approved (attacks.md PO-01, PO-04, PO-13).
//!
//! A [`Pin`] moves by two forces. [`Pins::observe`] brings what a server offers now: a form that is not the approved one
//! waits, and holds the definition back until somebody looks. [`Pins::decide`] brings what that person ruled. Both run in
//! one transaction, so that any number of processes may watch the same servers, and each piece of news has one teller.
//!
//! The store compares hashes. What a change *says* is `bartizan-shield`'s to read, from the forms kept here.

mod doubts;
mod keeper;
mod life;
mod looking;
pub(crate) mod rows;
mod seen;
mod set;
mod step;
mod stored;

use async_trait::async_trait;
use bartizan_model::{CallerKey, ServerName, Timestamp};

use crate::{DatabaseError, Digest};

pub use keeper::Keeper;
pub use life::{Event, Form, Pin, Record, Sighting, State, Step};
pub use set::{PinSet, Pinned};
pub use stored::StoredPins;

/// Names longer than this are withheld unseen, in bytes.
pub const NAME_BYTES: usize = 1024;

/// Definitions that one server may have pinned; more are withheld unseen.
pub const PINS_PER_SERVER: usize = 10_000;

/// Forms of one definition that are kept though nobody approved them, and as many steps of history as eight times this.
pub const FORMS: i64 = 32;

/// What kind of thing is defined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Who the server is: its command and package, or its address and keys. Its name is [`IDENTITY`].
    Identity,
    /// What it tells the model on arrival. Its name is [`INSTRUCTIONS`].
    Instructions,
    /// A prompt, by name.
    Prompt,
    /// A resource, by URI.
    Resource,
    /// A resource template, by URI template.
    Template,
    /// A tool, by name.
    Tool,
}

/// The name under which a server's identity is pinned.
pub const IDENTITY: &str = "identity";

/// The name under which a server's instructions are pinned.
pub const INSTRUCTIONS: &str = "instructions";

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 6] =
        [Self::Identity, Self::Instructions, Self::Prompt, Self::Resource, Self::Template, Self::Tool];

    /// The kind as it is kept and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Identity => "server-identity",
            Self::Instructions => "instructions",
            Self::Prompt => "prompt",
            Self::Resource => "resource",
            Self::Template => "template",
            Self::Tool => "tool",
        }
    }

    /// The kind that [`Kind::as_str`] shows as `text`.
    pub fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// Which definition.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Whose it is.
    pub server: ServerName,
    /// What it is.
    pub kind: Kind,
    /// The server's name for it: any text at all.
    pub name: String,
}

/// A definition as a server offers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offered {
    /// What it is.
    pub kind: Kind,
    /// The server's name for it.
    pub name: String,
    /// SHA-256 of `text`.
    pub hash: Digest,
    /// SHA-256 of the definition without its name: equal for a definition that was only renamed.
    pub body: Digest,
    /// The definition as canonical JSON.
    pub text: String,
    /// What a scan found in it.
    pub findings: Vec<Finding>,
}

/// Something a scan found in one form of a definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The rule that found it.
    pub rule: String,
    /// How bad it is, in the scanner's words.
    pub severity: String,
    /// What was found, for a person.
    pub words: String,
    /// Whether it alone keeps trust on first use from approving (attacks.md PO-13).
    pub blocks: bool,
}

/// What a definition's first sight is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Policy {
    /// Nothing: a person approves it.
    ApproveByHand,
    /// What a server offers up to the first whole look at a kind is approved, unless a finding blocks it. What is added
    /// later, or shown to others only, waits for a person (attacks.md PO-13, PO-16).
    TrustOnFirstUse,
}

/// How much of a server's definitions a look shows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Extent {
    /// Some: what is missing says nothing.
    Part,
    /// All of these kinds that this caller is offered: what is missing is gone for this caller.
    Whole(Vec<Kind>),
}

/// A look at what a server offers. Lists that come in pages are looked at page by page, as a [`Extent::Part`], and once
/// more as a whole when they are complete: only a whole look ends the first use, and notices what is gone.
#[derive(Clone, Debug)]
pub struct Look {
    /// The server.
    pub server: ServerName,
    /// Whose look it is; [`CallerKey::nobody`] for our own.
    pub caller: CallerKey,
    /// What first sight is worth.
    pub policy: Policy,
    /// How much it shows.
    pub extent: Extent,
    /// What it shows.
    pub offered: Vec<Offered>,
}

/// What came of a look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// One for each definition offered, in that order.
    pub sights: Vec<Sight>,
    /// Definitions that nobody is offered any more, since this look; none of those that come and go.
    pub withdrawn: Vec<Key>,
    /// The pins' version after it.
    pub version: u64,
}

/// What is to be done with one offered definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sight {
    /// Which one.
    pub key: Key,
    /// Whether it may be shown.
    pub decision: Decision,
    /// What this look was the first to see. Told once, to one observer, and no more of what is flapping.
    pub news: Option<Event>,
}

/// Whether a definition may be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is what was approved.
    Show,
    /// It is not.
    Withhold(Reason),
}

/// Why a definition is withheld.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its form changed after approval, and nobody has looked yet.
    Changed,
    /// The look shows two of that name (attacks.md PO-08). To a whole look that is as if it showed none.
    Duplicate,
    /// The server's own identity changed, and nobody has looked yet.
    Identity,
    /// Nobody has approved it yet.
    Pending,
    /// A person rejected it.
    Rejected,
    /// Its name is longer than [`NAME_BYTES`] or has a NUL in it, or the server has [`PINS_PER_SERVER`] already.
    Unkeepable,
}

impl Reason {
    /// A stable word for records and machines.
    pub fn code(self) -> &'static str {
        match self {
            Self::Changed => "pins.changed",
            Self::Duplicate => "pins.duplicate",
            Self::Identity => "pins.identity_changed",
            Self::Pending => "pins.pending",
            Self::Rejected => "pins.rejected",
            Self::Unkeepable => "pins.unkeepable",
        }
    }
}

/// What a person rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// This form is the approved one. It must be the form that waits, is offered, or was approved.
    Approve {
        /// Of what.
        key: Key,
        /// The form that was looked at.
        hash: Digest,
    },
    /// This form says more of the same as the form `from`, and takes its place, if that stands approved and nothing was decided or
    /// offered since.
    Extend {
        /// Of what.
        key: Key,
        /// The form that stood approved.
        from: Digest,
        /// The one that says more.
        form: Form,
    },
    /// A form from a `bartizan.lock` is the approved one.
    Import {
        /// Of what.
        key: Key,
        /// The form.
        form: Form,
    },
    /// This form is refused, and the definition held. Of an approved form, the approval is taken back.
    Reject {
        /// Of what.
        key: Key,
        /// The form that was looked at.
        hash: Digest,
    },
    /// The hold ends without a new approval: the server offers the approved form again.
    Release {
        /// Of what.
        key: Key,
    },
    /// An earlier form is the approved one again: `to`, or the one approved before.
    RollBack {
        /// Of what.
        key: Key,
        /// Which form.
        to: Option<Digest>,
    },
}

impl Ruling {
    /// What is ruled about.
    pub fn key(&self) -> &Key {
        match self {
            Self::Approve { key, .. }
            | Self::Extend { key, .. }
            | Self::Import { key, .. }
            | Self::Reject { key, .. }
            | Self::Release { key }
            | Self::RollBack { key, .. } => key,
        }
    }
}

/// Why pins could not be read or changed. Names are a server's to choose, so they are shown escaped.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// The database failed.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// A text is not what its hash says.
    #[error("the text of `{}` is not what its hash says", .0.name.escape_debug())]
    Forged(Key),
    /// What was looked at is not on offer any more.
    #[error("`{}` changed since you looked at it: look again", .0.name.escape_debug())]
    Moved(Key),
    /// There was no earlier approved form.
    #[error("`{}` has no earlier approved form to go back to", .0.name.escape_debug())]
    NothingEarlier(Key),
    /// An older state of the database was put in place of the newer one (attacks.md PO-13).
    #[error(
        "the pins are older than they were: version {found}, where {known} was seen; if you restored a backup on \
         purpose, remove the file `pins.seen` and start again"
    )]
    RolledBack {
        /// The version now.
        found: u64,
        /// The version seen before.
        known: u64,
    },
    /// The file that remembers the version cannot be used, or is not as we wrote it.
    #[error("cannot use the file `pins.seen`: {0}")]
    Seen(std::io::Error),
    /// The approved form is not on offer.
    #[error("`{}` is not offered as it was approved: approve, reject or roll back instead", .0.name.escape_debug())]
    StillChanged(Key),
    /// There is no such pin.
    #[error("there is no {} `{}` of server `{}`", .0.kind.as_str(), .0.name.escape_debug(), .0.server)]
    Unknown(Key),
}

impl PinError {
    /// Whether it says only that the store could not be asked just now; see [`DatabaseError::is_passing`].
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Database(error) => error.is_passing(),
            // What is in it, and is not ours, is another matter.
            Self::Seen(error) => error.kind() != std::io::ErrorKind::InvalidData,
            _ => false,
        }
    }
}

impl From<sqlx::Error> for PinError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

/// Where pins are kept.
#[async_trait]
pub trait Pins: Send + Sync {
    /// Brings in what a server offers, and answers what may be shown.
    ///
    /// # Errors
    /// [`PinError`]; nothing changed then, and nothing may be shown.
    async fn observe(&self, look: &Look, now: Timestamp) -> Result<Observation, PinError>;

    /// Carries out what `by` ruled, all of it or nothing; the answer is the pins' version.
    ///
    /// # Errors
    /// [`PinError`], for the first ruling that cannot be.
    async fn decide(&self, rulings: &[Ruling], by: &str, now: Timestamp) -> Result<u64, PinError>;

    /// Every pin, of one server or of all, by key.
    ///
    /// # Errors
    /// [`PinError::Database`].
    async fn list(&self, server: Option<&ServerName>) -> Result<Vec<Pin>, PinError>;

    /// Everything about one definition.
    ///
    /// # Errors
    /// [`PinError::Database`].
    async fn read(&self, key: &Key) -> Result<Option<Record>, PinError>;

    /// What may be called now, and its version.
    ///
    /// # Errors
    /// [`PinError`]; nothing may be called then.
    async fn snapshot(&self) -> Result<PinSet, PinError>;

    /// What may be called now, if that is another version than `known`. Only what changed since is read.
    ///
    /// # Errors
    /// [`PinError`]; nothing may be called then that `known` does not hold.
    async fn since(&self, known: &PinSet) -> Result<Option<PinSet>, PinError> {
        if self.version().await? == known.version() {
            return Ok(None);
        }
        self.snapshot().await.map(Some)
    }

    /// The version alone: another number than before means that [`Pins::snapshot`] differs.
    ///
    /// # Errors
    /// [`PinError`]; nothing may be called then.
    async fn version(&self) -> Result<u64, PinError>;
}
