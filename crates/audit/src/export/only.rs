//! A receiver that wants some kinds of events and no others.

use std::{collections::BTreeSet, sync::Arc};

use bartizan_model::Timestamp;

use super::{Answer, Format, Record, Shipment, Verdict};
use crate::event::{EventId, Kind};

/// Another format, for these kinds of events only.
pub struct Only {
    /// What it wants. Empty for everything.
    pub kinds: BTreeSet<Kind>,
    /// How it wants them.
    pub format: Arc<dyn Format>,
}

impl Format for Only {
    fn max_events(&self) -> usize {
        self.format.max_events()
    }

    fn max_bytes(&self) -> usize {
        self.format.max_bytes()
    }

    fn encode(&self, record: &Record) -> Option<Vec<u8>> {
        let wanted = self.kinds.is_empty() || self.kinds.contains(&record.entry.kind);
        if wanted { self.format.encode(record) } else { None }
    }

    fn pack(&self, events: &[Vec<u8>], first: EventId, now: Timestamp) -> Shipment {
        self.format.pack(events, first, now)
    }

    fn judge(&self, answer: &Answer) -> Verdict {
        self.format.judge(answer)
    }
}
