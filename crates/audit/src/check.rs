//! Walking a log from its first line: the one reading of it that start-up and offline verification share.

use crate::{
    checkpoint::{Checkpoint, Origin, PublicKey},
    event::rfc3339,
    segment::{Line, Raw},
    tree::{Frontier, Hash},
};

/// What is wrong with a log, and where it first shows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, serde::Serialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Problem {
    /// The bytes of these entries are not those that were signed. One number where it can be told, otherwise the
    /// smallest range that has a signature of its own.
    #[error("entries {first} to {last} (line {line} of segment {segment}) are not what was signed")]
    Altered {
        /// The first entry that may be altered.
        first: u64,
        /// The last one.
        last: u64,
        /// The segment's first entry.
        segment: u64,
        /// Where it shows.
        line: u64,
    },
    /// These entries are gone.
    #[error("entries {first} to {last} are missing (before line {line} of segment {segment})")]
    Missing {
        /// The first one that is missing.
        first: u64,
        /// The last one.
        last: u64,
        /// The first entry of the segment in which it shows.
        segment: u64,
        /// Where it shows.
        line: u64,
    },
    /// There is an entry where another belongs.
    #[error(
        "entry {found} stands in the place of entry {expected} (line {line} of segment {segment}): reordered, repeated or inserted"
    )]
    Reordered {
        /// The entry that belongs there.
        expected: u64,
        /// The entry that is there.
        found: u64,
        /// The segment's first entry.
        segment: u64,
        /// Where.
        line: u64,
    },
    /// The checkpoint that was written after this many entries is gone.
    #[error("the checkpoint after {size} entries is missing (before line {line} of segment {segment})")]
    CheckpointMissing {
        /// How many entries it covered.
        size: u64,
        /// The segment's first entry.
        segment: u64,
        /// The line before which it belongs.
        line: u64,
    },
    /// A checkpoint is not what was signed, or not signed with this key, or not for this log.
    #[error(
        "the checkpoint after entry {after} (line {line} of segment {segment}) does not bear this key's signature"
    )]
    CheckpointAltered {
        /// How many entries come before it.
        after: u64,
        /// The segment's first entry.
        segment: u64,
        /// Where.
        line: u64,
    },
    /// A segment's first line is not what was signed.
    #[error("the first line of segment {segment} is not what was signed")]
    StartAltered {
        /// The segment's first entry, as its name says.
        segment: u64,
    },
    /// The log ends in entries or bytes that no checkpoint covers.
    #[error(
        "the log is cut off: after entry {signed} (line {line} of segment {segment}) there is no checkpoint"
    )]
    Truncated {
        /// How many entries the last checkpoint covers.
        signed: u64,
        /// The segment's first entry.
        segment: u64,
        /// Where the unsigned part begins.
        line: u64,
    },
    /// The log is shorter than it once was.
    #[error("the log was rolled back: it had {expected} entries once and has {found} now")]
    RolledBack {
        /// How many entries the expected checkpoint covers.
        expected: u64,
        /// How many there are.
        found: u64,
    },
    /// The log is another than it once was.
    #[error("the log was rewritten: its first {size} entries are not those of the expected checkpoint")]
    Rewritten {
        /// How many entries the expected checkpoint covers.
        size: u64,
    },
    /// The expected checkpoint cannot be compared with anything that is kept.
    #[error(
        "the expected checkpoint covers {size} entries, and those before {first} are dropped: it cannot be compared"
    )]
    TooOld {
        /// How many entries the expected checkpoint covers.
        size: u64,
        /// The first entry that is kept.
        first: u64,
    },
    /// The log of the expected checkpoint is not there.
    #[error("there is no log `{origin}`, of which a checkpoint is expected")]
    NoSuchLog {
        /// The expected checkpoint's origin.
        origin: String,
    },
}

/// A reading under way.
#[derive(Debug)]
pub struct Checker<'a> {
    key: &'a PublicKey,
    /// Taken from the first checkpoint if not given.
    origin: Option<Origin>,
    frontier: Frontier,
    last: Option<(Checkpoint, String)>,
    segment: u64,
    /// The entries since the last checkpoint: what their numbers claim, and their lines.
    batch: Vec<(u64, u64)>,
    dropped: u64,
    time_went_back: Option<u64>,
    latest: String,
    started: bool,
}

impl<'a> Checker<'a> {
    pub fn new(key: &'a PublicKey, origin: Option<Origin>) -> Self {
        Self {
            key,
            origin,
            frontier: Frontier::default(),
            last: None,
            segment: 0,
            batch: Vec::new(),
            dropped: 0,
            time_went_back: None,
            latest: String::new(),
            started: false,
        }
    }

    /// How many entries are covered by the last checkpoint.
    pub fn signed(&self) -> u64 {
        self.last.as_ref().map_or(0, |(checkpoint, _)| checkpoint.size)
    }

    /// The last checkpoint and its note.
    pub fn last(&self) -> Option<&(Checkpoint, String)> {
        self.last.as_ref()
    }

    /// The edge of the tree over everything read.
    pub fn frontier(&self) -> &Frontier {
        &self.frontier
    }

    /// The entry below which the log itself says it has dropped everything.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// The first entry that is older than one before it.
    pub fn time_went_back(&self) -> Option<u64> {
        self.time_went_back
    }

    /// Begins the segment named `first` with its first line.
    pub fn start(&mut self, first: u64, raw: Option<&Raw<'_>>) -> Result<(), Problem> {
        if self.started && first != self.frontier.size() {
            let (expected, segment) = (self.frontier.size(), self.segment);
            return Err(if first > expected {
                Problem::Missing { first: expected, last: first - 1, segment: first, line: 1 }
            } else {
                Problem::Reordered { expected, found: first, segment, line: 1 }
            });
        }
        self.segment = first;
        if raw.is_none_or(|raw| !raw.whole) {
            return Err(Problem::Truncated { signed: self.signed(), segment: first, line: 1 });
        }
        let altered = Problem::StartAltered { segment: first };
        let line = raw.and_then(|raw| Line::parse(raw.bytes));
        let Some(Line::Start(start)) = line else { return Err(altered) };
        let frontier = start.frontier().filter(|frontier| start.first == first && frontier.size() == first);
        let Some(frontier) = frontier else { return Err(altered) };
        let checkpoint =
            self.open(&start.checkpoint).filter(|c| c.size == first && c.root == frontier.root());
        let Some(checkpoint) = checkpoint else { return Err(altered) };
        if self.started && frontier != self.frontier {
            return Err(altered);
        }
        self.started = true;
        self.frontier = frontier;
        self.last = Some((checkpoint, start.checkpoint));
        Ok(())
    }

    /// Takes a line after the first one.
    pub fn line(&mut self, raw: &Raw<'_>) -> Result<Seen, Problem> {
        let at = self.frontier.size();
        let altered = || Problem::Altered { first: at, last: at, segment: self.segment, line: raw.number };
        if !raw.whole {
            return Err(Problem::Truncated {
                signed: self.signed(),
                segment: self.segment,
                line: raw.number,
            });
        }
        match Line::parse(raw.bytes) {
            None if raw.bytes.starts_with(br#"{"ch"#) => Err(self.checkpoint_altered(raw)),
            None | Some(Line::Start(_)) => Err(altered()),
            Some(Line::Checkpoint(note)) => self.checkpoint(note, raw),
            Some(Line::Entry(bytes, position)) => {
                if position.base != self.signed() {
                    // Either this entry is altered or it follows a checkpoint that is not there.
                    let follows = position.seq == at && position.base == at;
                    return Err(if follows {
                        Problem::CheckpointMissing { size: at, segment: self.segment, line: raw.number }
                    } else {
                        self.out_of_place(position.seq, raw)
                    });
                }
                self.batch.push((position.seq, raw.number));
                if position.kind == "log.dropped" {
                    self.dropped = self.dropped.max(position.count.unwrap_or(0));
                }
                if went_back(&position.time, &self.latest) {
                    self.time_went_back.get_or_insert(at);
                } else {
                    self.latest = position.time.into_owned();
                }
                self.frontier.push(Hash::leaf(bytes));
                Ok(Seen::Entry { seq: at })
            }
        }
    }

    /// Ends the segment: everything in it must be covered.
    pub fn end(&self, lines: u64) -> Result<(), Problem> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let line = self.batch.first().map_or(lines, |(_, line)| *line);
        Err(Problem::Truncated { signed: self.signed(), segment: self.segment, line })
    }

    fn checkpoint(&mut self, note: String, raw: &Raw<'_>) -> Result<Seen, Problem> {
        let Some(checkpoint) = self.open(&note) else { return Err(self.checkpoint_altered(raw)) };
        let signed = self.signed();
        if checkpoint.size == self.frontier.size()
            && checkpoint.root == self.frontier.root()
            && checkpoint.size > signed
        {
            self.batch.clear();
            self.last = Some((checkpoint, note));
            return Ok(Seen::Checkpoint);
        }
        Err(self.located(&checkpoint, raw))
    }

    /// Names the first entry since the last checkpoint that is not where `checkpoint` says it was.
    fn located(&self, checkpoint: &Checkpoint, raw: &Raw<'_>) -> Problem {
        let (from, to) = (self.signed(), checkpoint.size);
        if to <= from {
            // A checkpoint that was already passed.
            return self.checkpoint_altered(raw);
        }
        let wrong = self.batch.iter().zip(from..).find(|((seq, _), expected)| seq != expected);
        let held = self.batch.len() as u64;
        let segment = self.segment;
        match wrong {
            Some((&(found, line), expected)) => {
                let elsewhere = self.batch.iter().any(|(seq, _)| *seq == expected);
                if elsewhere || held > to - from {
                    Problem::Reordered { expected, found, segment, line }
                } else if held == to - from {
                    Problem::Altered { first: expected, last: expected, segment, line }
                } else {
                    let next = if found > expected && found < to { found } else { expected + 1 };
                    Problem::Missing { first: expected, last: next - 1, segment, line }
                }
            }
            None if held < to - from => {
                Problem::Missing { first: from + held, last: to - 1, segment, line: raw.number }
            }
            None if held > to - from => {
                let line =
                    self.batch.get(usize::try_from(to - from).unwrap_or(0)).map_or(raw.number, |b| b.1);
                Problem::Reordered { expected: to, found: to, segment, line }
            }
            None => {
                let line = self.batch.first().map_or(raw.number, |(_, line)| *line);
                Problem::Altered { first: from, last: to - 1, segment, line }
            }
        }
    }

    /// An entry that names another checkpoint than the last one.
    fn out_of_place(&self, seq: u64, raw: &Raw<'_>) -> Problem {
        let (expected, segment, line) = (self.frontier.size(), self.segment, raw.number);
        if seq == expected {
            Problem::Altered { first: expected, last: expected, segment, line }
        } else if seq > expected {
            Problem::Missing { first: expected, last: seq - 1, segment, line }
        } else {
            Problem::Reordered { expected, found: seq, segment, line }
        }
    }

    fn checkpoint_altered(&self, raw: &Raw<'_>) -> Problem {
        Problem::CheckpointAltered { after: self.frontier.size(), segment: self.segment, line: raw.number }
    }

    /// The checkpoint in `note`, if it is this log's and has the one signature we write.
    fn open(&mut self, note: &str) -> Option<Checkpoint> {
        let one_signature = note.split_once("\n\n")?.1.matches('\n').count() == 1;
        let checkpoint = self.key.open(note).filter(|_| one_signature)?;
        let origin = self.origin.get_or_insert_with(|| checkpoint.origin.clone());
        (*origin == checkpoint.origin).then_some(checkpoint)
    }
}

/// What a line was.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen {
    /// An entry; not yet covered by a checkpoint.
    Entry {
        /// Its number.
        seq: u64,
    },
    /// A checkpoint that covers everything before it.
    Checkpoint,
}
/// Whether the time `now` lies before `latest`. Of equal length they sort as text; older versions wrote whole seconds.
fn went_back(now: &str, latest: &str) -> bool {
    if now.len() == latest.len() { now < latest } else { rfc3339::moment(now) < rfc3339::moment(latest) }
}
