//! Drift: what a server's definitions became since somebody approved them.
//!
//! *Attack.* A tool is approved with a harmless description, and weeks later the server serves another one (rug pull,
//! attacks.md PO-01; conditional metadata, PO-14). *Caught:* one character more in a property's default is another hash.
//! *Harmless look-alike:* the same JSON with its keys in another order, which is the same hash.
//!
//! [`Definition::read`] makes the canonical form, [`compare`] says what an offer is to what was approved, [`Change`] shows
//! the difference to a person, and [`LockFile`] carries approved forms in git.

mod definition;
mod difference;
mod identity;
mod json;
mod lock;
mod visible;

pub(crate) use definition::sha256;
pub use definition::{Definition, Unreadable};
pub use difference::{Change, Word};
pub use identity::{Identity, Package, Run};
pub use json::Fault;
pub use lock::{LockError, LockFile, Locked};
pub use visible::{is_hidden, visible};

/// How often a definition may go back to a form it had before; at the second time it flaps.
const TURNS: usize = 2;

/// What is known of a definition when it is offered, or not offered.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known<'a> {
    /// Its approved form.
    pub approved: Option<&'a Definition>,
    /// The hashes of the forms it went through before this offer, the latest last; none where it was withdrawn.
    pub past: &'a [Option<[u8; 32]>],
    /// The hashes of the forms that other callers are offered now.
    pub elsewhere: &'a [[u8; 32]],
    /// Approved definitions of the same server and kind that are offered no more.
    pub gone: &'a [Definition],
}

/// What an offer is to what was approved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Drift {
    /// Another form than the approved one.
    Changed(Vec<Change>),
    /// It goes back and forth between forms.
    Flapping {
        /// How often it went back.
        turns: usize,
        /// How it differs from the approved form now.
        changes: Vec<Change>,
    },
    /// Nothing like it was approved.
    New,
    /// It is offered no more.
    Removed,
    /// What was approved under another name, which is offered no more.
    Renamed {
        /// That name.
        from: String,
    },
    /// It was withdrawn and is offered again; unchanged if there are no changes.
    Returned(Vec<Change>),
    /// Different callers are offered different bodies (attacks.md PO-14). Different *sets* are no drift.
    Split {
        /// How many forms are offered at once.
        forms: usize,
        /// How this one differs from the approved form.
        changes: Vec<Change>,
    },
    /// The approved form.
    Unchanged,
}

impl Drift {
    /// A stable word for records and machines.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Changed(_) => "drift.changed",
            Self::Flapping { .. } => "drift.flapping",
            Self::New => "drift.new",
            Self::Removed => "drift.removed",
            Self::Renamed { .. } => "drift.renamed",
            Self::Returned(_) => "drift.returned",
            Self::Split { .. } => "drift.split",
            Self::Unchanged => "drift.unchanged",
        }
    }

    /// How it differs from the approved form.
    pub fn changes(&self) -> &[Change] {
        match self {
            Self::Changed(changes)
            | Self::Flapping { changes, .. }
            | Self::Returned(changes)
            | Self::Split { changes, .. } => changes,
            Self::New | Self::Removed | Self::Renamed { .. } | Self::Unchanged => &[],
        }
    }
}

/// Says what `offered` is to what is known; `None` is a definition that is not offered.
///
/// Of several answers the most telling one is given: callers treated differently, then flapping, then the change itself.
pub fn compare(known: &Known<'_>, offered: Option<&Definition>) -> Drift {
    let Some(offered) = offered else {
        let was_there = known.approved.is_some() || known.past.last().is_some_and(Option::is_some);
        return if was_there { Drift::Removed } else { Drift::Unchanged };
    };
    let changes = known.approved.map(|approved| approved.changes(offered)).unwrap_or_default();
    let mut forms: Vec<_> = known.elsewhere.iter().copied().chain([offered.hash()]).collect();
    forms.sort_unstable();
    forms.dedup();
    if forms.len() > 1 {
        return Drift::Split { forms: forms.len(), changes };
    }
    let turns = turns(known.past, offered.hash());
    if turns >= TURNS {
        return Drift::Flapping { turns, changes };
    }
    let was_withdrawn = matches!(known.past, [.., None]);
    match known.approved {
        _ if was_withdrawn => Drift::Returned(changes),
        Some(approved) if approved.hash() == offered.hash() => Drift::Unchanged,
        Some(_) => Drift::Changed(changes),
        None => match known.gone.iter().find(|gone| gone.body() == offered.body()) {
            Some(gone) => Drift::Renamed { from: gone.name().to_owned() },
            None => Drift::New,
        },
    }
}

/// How often a definition went back to a form, or an absence, that it had left before.
fn turns(past: &[Option<[u8; 32]>], now: [u8; 32]) -> usize {
    let mut forms: Vec<_> = past.iter().copied().chain([Some(now)]).collect();
    forms.dedup();
    let is_return = |(at, form): (usize, &Option<[u8; 32]>)| forms.iter().take(at).any(|f| f == form);
    forms.iter().enumerate().filter(|place| is_return(*place)).count()
}

#[cfg(test)]
mod tests;
