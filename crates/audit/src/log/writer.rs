//! The one thread that writes.

use std::{
    collections::BTreeSet,
    io,
    sync::{Arc, PoisonError, atomic::Ordering, mpsc},
    time::Duration,
};

use bartizan_model::{Clock, Entropy, Timestamp};

use crate::{
    checkpoint::{Checkpoint, Origin, Signer},
    event::{Details, Entry, EventId, Kind, Note, Outcome},
    log::{Job, Lost, Options, State, current::Current, recover::Recovered},
    segment::{Start, checkpoint_line, start_line},
    storage::Storage,
    text::Text,
    tree::{Frontier, Hash},
};

/// How many entries are made durable at once, at most.
const BATCH: usize = 1024;

/// How long others are waited for, for each entry of the last group, and at most: on a fast disk a few entries at a time would
/// be made durable at the price of all that come meanwhile. Nobody who is alone waits.
const GATHER_EACH: Duration = Duration::from_micros(50);
const GATHER: Duration = Duration::from_millis(1);

/// How long an entry may be, in bytes, before what is long in it is left out.
const LONGEST: usize = 1 << 20;

/// What a writer works with.
pub struct Setting {
    pub storage: Box<dyn Storage>,
    pub origin: Origin,
    pub signer: Signer,
    pub options: Options,
    pub state: Arc<State>,
}

pub struct Writer {
    setting: Setting,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    /// Everything that is durable.
    durable: Durable,
    /// Older segments: first entry, bytes, and when they were closed.
    older: Vec<Closed>,
    /// The segment being written, if there is one.
    current: Option<Current>,
    interrupted: Vec<EventId>,
    cut: u64,
    /// When a checkpoint was last told.
    told: Timestamp,
    /// What the last commit wrote.
    fresh: Vec<Entry>,
}

/// The log as of the last checkpoint.
pub struct Durable {
    pub frontier: Frontier,
    pub note: String,
    pub open_calls: BTreeSet<EventId>,
}

/// A segment that is not written any more.
#[derive(Clone, Copy, Debug)]
pub struct Closed {
    pub first: u64,
    pub bytes: u64,
    pub at: Timestamp,
}

/// What a commit is about to write.
struct Draft {
    bytes: Vec<u8>,
    frontier: Frontier,
    note: String,
    /// The place each entry got.
    places: Vec<u64>,
    /// Which calls are opened and closed by it.
    calls: Vec<Turn>,
    entries: Vec<Entry>,
}

enum Turn {
    Opened(EventId),
    Closed(EventId),
}

impl Writer {
    pub fn new(
        setting: Setting,
        (clock, entropy): (Arc<dyn Clock>, Arc<dyn Entropy>),
        recovered: Recovered,
    ) -> Self {
        let Recovered { durable, older, current, cut } = recovered;
        // Nothing is signed yet: the empty log is, by whoever first writes it.
        let durable = durable.unwrap_or_else(|| {
            let empty =
                Checkpoint { origin: setting.origin.clone(), size: 0, root: Frontier::default().root() };
            Durable {
                frontier: Frontier::default(),
                note: setting.signer.sign(&empty),
                open_calls: BTreeSet::new(),
            }
        });
        let interrupted = durable.open_calls.iter().copied().collect();
        let told = clock.now();
        Self { setting, clock, entropy, durable, older, current, interrupted, cut, told, fresh: Vec::new() }
    }

    /// Writes the first entries: that the log was opened, and how the calls ended that the last process left open.
    pub fn begin(&mut self) -> Result<(), Lost> {
        let cut = (self.cut > 0).then_some(self.cut);
        let message = cut.map(|_| Text::new("bytes past the last signed checkpoint were cut and kept aside"));
        let mut entries =
            vec![self.entry(Kind::LogOpened, Details { count: cut, message, ..Details::default() })];
        for call in std::mem::take(&mut self.interrupted) {
            let details =
                Details { call: Some(call), outcome: Some(Outcome::Interrupted), ..Details::default() };
            entries.push(self.entry(Kind::CallClosed, details));
        }
        self.commit(entries).map(drop).map_err(|error| Lost::Storage(Arc::new(error)))
    }

    /// Writes what comes until nobody is left to send.
    pub fn run(mut self, inbox: &mpsc::Receiver<Job>) {
        let mut crowd: u32 = 1;
        while let Ok(first) = inbox.recv() {
            let mut jobs = vec![first];
            if crowd > 1 {
                std::thread::sleep(GATHER_EACH.saturating_mul(crowd).min(GATHER));
            }
            jobs.extend(inbox.try_iter().take(BATCH - 1));
            crowd = u32::try_from(jobs.len()).unwrap_or(u32::MAX);
            let state = Arc::clone(&self.setting.state);
            state.waiting.fetch_sub(jobs.len(), Ordering::Relaxed);
            let (mut entries, waiting): (Vec<_>, Vec<_>) =
                jobs.into_iter().map(|job| (job.entry, job.written)).unzip();
            let count = entries.len() as u64;
            let lost_before = state.lost.load(Ordering::Relaxed);
            if lost_before > 0 {
                entries.push(
                    self.entry(Kind::LogLost, Details { count: Some(lost_before), ..Details::default() }),
                );
            }
            let now = self.clock.now();
            let due = now.since(self.told) >= self.setting.options.tell_checkpoint_every;
            entries.extend(due.then(|| self.checkpoint_entry()));
            match self.commit(entries) {
                Ok(places) => {
                    if due {
                        self.told = now;
                    }
                    state.lost.fetch_sub(lost_before, Ordering::Relaxed);
                    for (written, place) in waiting.into_iter().zip(places) {
                        // Whoever does not wait any more does not need to know.
                        let _ = written.map(|written| written.send(Ok(place)));
                    }
                    // Only now: nobody's answer waits for an observer.
                    state.tell(&self.fresh);
                }
                Err(error) => {
                    state.count_lost(count);
                    let lost = Lost::Storage(Arc::new(error));
                    for written in waiting.into_iter().flatten() {
                        let _ = written.send(Err(lost.clone()));
                    }
                }
            }
        }
        // The log is whole without it, and whatever room stays is told from it.
        let _ = self.commit(vec![self.entry(Kind::LogClosed, Details::default())]);
        let _ = self.current.as_mut().map_or(Ok(()), Current::seal);
    }

    /// Makes `entries` durable, all or none, and tells the places they got.
    fn commit(&mut self, entries: Vec<Entry>) -> io::Result<Vec<u64>> {
        self.clean()?;
        let full =
            self.current.as_ref().is_none_or(|current| current.bytes() >= self.setting.options.segment_bytes);
        let (draft, dropped) =
            if full { self.draft_segment(entries)? } else { (self.draft(Vec::new(), entries)?, 0) };
        let written = if full { self.write_segment(&draft) } else { self.append(&draft) };
        if let Err(error) = written {
            // What is on the disk now is not the log. It must be gone before anything else is signed.
            let _ = self.clean();
            return Err(error);
        }
        (self.durable.frontier, self.durable.note) = (draft.frontier, draft.note);
        for turn in draft.calls {
            match turn {
                Turn::Opened(call) => self.durable.open_calls.insert(call),
                Turn::Closed(call) => self.durable.open_calls.remove(&call),
            };
        }
        let state = &self.setting.state;
        *state.checkpoint.lock().unwrap_or_else(PoisonError::into_inner) =
            Arc::from(self.durable.note.as_str());
        state.durable.store(self.durable.frontier.size(), Ordering::Release);
        self.drop_below(dropped);
        self.fresh = draft.entries;
        Ok(draft.places)
    }

    /// Entries and the checkpoint over them, after `bytes`.
    fn draft(&self, mut bytes: Vec<u8>, entries: Vec<Entry>) -> io::Result<Draft> {
        let mut frontier = self.durable.frontier.clone();
        let (mut places, mut calls) = (Vec::with_capacity(entries.len()), Vec::new());
        let mut placed = Vec::with_capacity(entries.len());
        let base = frontier.size();
        let mut line = Vec::new();
        for mut entry in entries {
            (entry.seq, entry.base) = (frontier.size(), base);
            line.clear();
            serde_json::to_writer(&mut line, &entry)?;
            if line.len() > LONGEST {
                // Rather a short record than none.
                let details = std::mem::take(entry.details.as_mut());
                *entry.details = shortened(details);
                line = serde_json::to_vec(&entry)?;
            }
            frontier.push(Hash::leaf(&line));
            bytes.extend_from_slice(&line);
            bytes.push(b'\n');
            places.push(entry.seq);
            match entry.kind {
                Kind::CallOpened => calls.push(Turn::Opened(entry.id)),
                Kind::CallClosed => calls.extend(entry.details.call.map(Turn::Closed)),
                _ => {}
            }
            placed.push(entry);
        }
        let origin = self.setting.origin.clone();
        let note =
            self.setting.signer.sign(&Checkpoint { origin, size: frontier.size(), root: frontier.root() });
        bytes.extend(checkpoint_line(&note).ok_or(io::ErrorKind::InvalidData)?);
        Ok(Draft { bytes, frontier, note, places, calls, entries: placed })
    }

    /// A new segment with `entries`, behind what every segment but the first begins with. Also the entry below which
    /// everything may go.
    fn draft_segment(&self, mut entries: Vec<Entry>) -> io::Result<(Draft, u64)> {
        let start = Start {
            first: self.durable.frontier.size(),
            subtrees: self.durable.frontier.subtrees().to_vec(),
            checkpoint: self.durable.note.clone(),
        };
        let bytes = start_line(&start).ok_or(io::ErrorKind::InvalidData)?;
        let asked = entries.len();
        let drop_below = self.expired();
        if self.current.is_some() {
            let open_calls = self.durable.open_calls.iter().copied().collect();
            entries.insert(0, self.entry(Kind::LogRotated, Details { open_calls, ..Details::default() }));
        }
        if drop_below > 0 {
            entries.push(
                self.entry(Kind::LogDropped, Details { count: Some(drop_below), ..Details::default() }),
            );
        }
        let rotated = usize::from(self.current.is_some());
        let mut draft = self.draft(bytes, entries)?;
        draft.places = draft.places.into_iter().skip(rotated).take(asked).collect();
        Ok((draft, drop_below))
    }

    fn append(&mut self, draft: &Draft) -> io::Result<()> {
        let Some(current) = &mut self.current else { return Err(io::ErrorKind::NotFound.into()) };
        current.append(&draft.bytes)
    }

    fn write_segment(&mut self, draft: &Draft) -> io::Result<()> {
        let first = self.durable.frontier.size();
        let storage = self.setting.storage.as_ref();
        // A leftover of an attempt that failed: nothing in it was ever acknowledged, and nothing else is written
        // before this succeeds.
        storage.remove(first)?;
        // Before there is another: only the newest segment has room, whenever we die.
        self.current.as_mut().map_or(Ok(()), Current::seal)?;
        let written = self.current.as_ref().map_or(0, Current::written);
        let mut new = Current::begin(storage.create(first)?, first, written);
        new.append(&draft.bytes)?;
        if let Some(old) = self.current.replace(new) {
            self.older.push(Closed { first: old.first, bytes: old.bytes(), at: self.clock.now() });
            storage.sealed(old.first);
        }
        Ok(())
    }

    /// Cuts what a failed write left behind.
    fn clean(&mut self) -> io::Result<()> {
        self.current.as_mut().map_or(Ok(()), Current::clean)
    }

    /// The entry below which the retention wants everything gone, at the end of some older segment; 0 if nothing is.
    /// The current segment, which is being closed when this is asked, stays.
    fn expired(&self) -> u64 {
        let options = &self.setting.options;
        let holds = self.setting.state.holds.lock().unwrap_or_else(PoisonError::into_inner);
        let hold = holds.values().min().copied().unwrap_or(u64::MAX);
        drop(holds);
        let now = self.clock.now();
        let current = self.current.as_ref().map_or(0, Current::bytes);
        let mut total = self.older.iter().map(|segment| segment.bytes).sum::<u64>() + current;
        let ends =
            self.older.iter().skip(1).map(|next| next.first).chain(self.current.iter().map(|c| c.first));
        let mut below = 0;
        for (segment, end) in self.older.iter().zip(ends) {
            let too_old =
                options.keep_for.is_some_and(|keep| now.since(segment.at) > keep && keep > Duration::ZERO);
            let too_much = options.keep_bytes.is_some_and(|keep| total > keep);
            if !(too_much || (too_old && end <= hold)) {
                break;
            }
            below = end;
            total -= segment.bytes;
        }
        below
    }

    /// Drops the segments below `entry`: only after the log says so durably.
    fn drop_below(&mut self, entry: u64) {
        let kept = self.older.iter().position(|segment| segment.first >= entry).unwrap_or(self.older.len());
        for segment in self.older.drain(..kept) {
            // Whatever stays behind is dropped by the operator; the log is whole either way.
            let _ = self.setting.storage.remove(segment.first);
        }
    }

    fn checkpoint_entry(&self) -> Entry {
        let checkpoint = Note::try_from(self.durable.note.clone()).ok();
        self.entry(Kind::LogCheckpoint, Details { checkpoint, ..Details::default() })
    }

    fn entry(&self, kind: Kind, details: Details) -> Entry {
        Entry::blank(kind, Box::new(details), self.clock.as_ref(), self.entropy.as_ref())
    }
}

/// The same without what can be long, except what recovery needs.
fn shortened(details: Details) -> Details {
    let message =
        Some(Text::new("arguments, result, findings and lists were left out: together longer than 1 MiB"));
    let (findings, alterations, policies, labels) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    Details { findings, alterations, policies, labels, message, ..details.without_content() }
}
