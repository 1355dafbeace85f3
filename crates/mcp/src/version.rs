//! Protocol revisions and the two eras they fall into.

/// How a conversation begins and what carries its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Era {
    /// `initialize`, then a session (2025-11-25 and older).
    Legacy,
    /// Every request carries everything (2026-07-28).
    Modern,
}

/// A protocol revision that is spoken here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Revision {
    /// 2025-03-26: the only one with batches.
    V2025_03_26,
    /// 2025-06-18
    V2025_06_18,
    /// 2025-11-25
    V2025_11_25,
    /// 2026-07-28
    V2026_07_28,
}

impl Revision {
    /// Every revision, oldest first.
    pub const ALL: [Self; 4] = [Self::V2025_03_26, Self::V2025_06_18, Self::V2025_11_25, Self::V2026_07_28];

    /// The revision called `name`, if it is spoken here.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|r| r.name() == name)
    }

    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::V2025_03_26 => "2025-03-26",
            Self::V2025_06_18 => "2025-06-18",
            Self::V2025_11_25 => "2025-11-25",
            Self::V2026_07_28 => "2026-07-28",
        }
    }

    /// Its era.
    pub fn era(self) -> Era {
        if self >= Self::V2026_07_28 { Era::Modern } else { Era::Legacy }
    }

    /// Whether arrays of messages are part of it (spec.md B-10).
    pub fn has_batches(self) -> bool {
        self == Self::V2025_03_26
    }

    /// Whether event streams begin with an event that has an id and no data (spec.md B-13).
    pub fn primes_streams(self) -> bool {
        self == Self::V2025_11_25
    }
}

impl Era {
    /// The revisions of this era that are spoken here, for people: `2025-11-25, 2025-06-18 or 2025-03-26`.
    pub fn revisions(self) -> &'static str {
        match self {
            Self::Legacy => "2025-11-25, 2025-06-18 or 2025-03-26",
            Self::Modern => "2026-07-28",
        }
    }
}
