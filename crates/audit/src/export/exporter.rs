//! At least once, in order, from the log itself.
//!
//! The log is the buffer: it is durable, and it is there anyway. Beside it, a cursor says how far a receiver has taken
//! it, so a restart or a dead receiver loses nothing and costs no second copy. What a receiver refuses for good is
//! named in a dead-letter file and in the log; the entry itself stays in the log.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{self, Seek, SeekFrom, Write},
    ops::Range,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bartizan_model::{Clock, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Format, Record, Transport, Verdict};
use crate::{
    PublicKey,
    event::{Details, Entry, Event, EventId, Kind, Pseudonym},
    log::Log,
    persons::{Person, Persons},
    segment::{Line, Lines},
    storage::{segment_path, segments},
    text::Text,
    witness::newest_checkpoint,
};

/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How often the log is looked at when all is delivered.
const POLL: Duration = Duration::from_millis(250);

/// How long an exporter believes what it knows of people: an erased one is not named for longer.
const MEMORY: Duration = Duration::from_secs(10);

/// The longest dead-letter file. Later letters are only counted in the log.
const DEAD_LETTERS: u64 = 16 << 20;

/// Delivers one log to one receiver.
pub struct Exporter {
    name: String,
    folder: PathBuf,
    format: Arc<dyn Format>,
    transport: Arc<dyn Transport>,
    clock: Arc<dyn Clock>,
    /// What signs the log, if it is not the one that our process writes.
    ended: Option<PublicKey>,
    /// Whether the receiver is told arguments and results, where they are recorded.
    tells_content: bool,
    cursor: Cursor,
    /// Where in the files an entry is that was reached before.
    reached: Option<(u64, Place)>,
    pending: Option<Batch>,
    people: People,
    failures: u32,
    /// How many events the next shipment may hold: fewer after one was refused.
    width: usize,
    progress: Arc<Progress>,
}

/// How an exporter is doing, for whoever watches it.
#[derive(Debug, Default)]
pub struct Progress {
    next: AtomicU64,
    delivered: AtomicU64,
    given_up: AtomicU64,
    trouble: Mutex<Option<String>>,
}

impl Progress {
    /// The next entry to deliver.
    pub fn next(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// How many events were taken since the process began.
    pub fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    /// How many events were given up since the process began.
    pub fn given_up(&self) -> u64 {
        self.given_up.load(Ordering::Relaxed)
    }

    /// Why the last attempt failed; `None` if it did not.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }
}

/// Why an exporter cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// Its files cannot be read or written.
    #[error("the exporter `{name}` cannot use its files: {source}")]
    Io {
        /// The exporter.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// Its name cannot name files.
    #[error("an exporter's name is 1 to 32 of a-z, 0-9 and -")]
    Name,
}

/// What one step did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Everything durable is delivered.
    Idle,
    /// A shipment was taken, or passed over for good: this many events.
    Done(usize),
    /// Try again after this long.
    Wait(Duration, String),
}

/// How far a receiver has taken the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Cursor {
    /// The next entry.
    next: u64,
}

struct Batch {
    events: Vec<Encoded>,
    /// The cursor when all of it is delivered.
    then: u64,
}

struct Encoded {
    seq: u64,
    id: EventId,
    kind: Kind,
    bytes: Vec<u8>,
}

#[derive(Default)]
struct People {
    known: HashMap<Pseudonym, Arc<Person>>,
    read: Option<Timestamp>,
}

/// Where a line is.
#[derive(Clone, Copy)]
struct Place {
    segment: u64,
    offset: u64,
}

impl Exporter {
    /// Delivers the log in `folder` from where the exporter `name` left off, or from its first entry.
    ///
    /// # Errors
    /// [`ExportError`].
    pub fn new(
        name: &str,
        folder: &Path,
        format: Arc<dyn Format>,
        transport: Arc<dyn Transport>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ExportError> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if !(1..=32).contains(&name.len()) || !name.bytes().all(allowed) {
            return Err(ExportError::Name);
        }
        let path = folder.join(format!("export-{name}.cursor"));
        let cursor = match fs::read(&path) {
            // What a crash left empty or torn is no cursor: rather everything once more than nothing ever again.
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Cursor::default()),
            Err(error) => Err(error),
        };
        let cursor = cursor.map_err(|source| ExportError::Io { name: name.to_owned(), source })?;
        let width = format.max_events();
        let progress = Arc::new(Progress { next: AtomicU64::new(cursor.next), ..Progress::default() });
        Ok(Self {
            name: name.to_owned(),
            folder: folder.to_owned(),
            format,
            transport,
            clock,
            ended: None,
            tells_content: false,
            cursor,
            reached: None,
            pending: None,
            people: People::default(),
            failures: 0,
            width,
            progress,
        })
    }

    /// The same for a log in a folder that no process writes any more, signed by `key`: that of a command, or of a process that
    /// ended before all was delivered. `None` if somebody else is delivering it.
    ///
    /// # Errors
    /// [`ExportError`].
    pub fn of_ended(
        name: &str,
        folder: &Path,
        format: Arc<dyn Format>,
        transport: Arc<dyn Transport>,
        clock: Arc<dyn Clock>,
        key: PublicKey,
    ) -> Result<Option<(Self, File)>, ExportError> {
        let exporter = Self::new(name, folder, format, transport, clock)?;
        let path = folder.join(format!("export-{name}.lock"));
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
        let lock = lock.map_err(|source| exporter.io(source))?;
        match lock.try_lock() {
            Ok(()) => Ok(Some((Self { ended: Some(key), ..exporter }, lock))),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(source)) => Err(exporter.io(source)),
        }
    }

    /// The same, which tells its receiver arguments and results too, if `tells`.
    #[must_use]
    pub fn with_content(self, tells: bool) -> Self {
        Self { tells_content: tells, ..self }
    }

    /// How many entries of the log are durable.
    fn durable(&self, log: &Log) -> Result<u64, ExportError> {
        match &self.ended {
            None => Ok(log.durable()),
            Some(key) => {
                let newest = newest_checkpoint(&self.folder, key).map_err(|source| self.io(source))?;
                Ok(newest.map_or(0, |(_, checkpoint)| checkpoint.size))
            }
        }
    }

    /// The next entry to deliver.
    pub fn next(&self) -> u64 {
        self.cursor.next
    }

    /// How it is doing, also while it [runs](Self::run).
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// Delivers until `stop` is done, and tells `told` of every step. What is not delivered by then is delivered after the
    /// next start.
    ///
    /// # Errors
    /// [`ExportError`] if the exporter's own files fail; a receiver that fails is waited for.
    pub async fn run(
        mut self,
        log: Log,
        mut told: impl FnMut(&Step),
        stop: impl Future<Output = ()>,
    ) -> Result<(), ExportError> {
        let mut stop = std::pin::pin!(stop);
        loop {
            let step = tokio::select! {
                biased;
                () = &mut stop => break,
                step = self.step(&log) => step?,
            };
            told(&step);
            let pause = match step {
                Step::Done(_) => continue,
                Step::Idle => POLL,
                Step::Wait(pause, _) => pause,
            };
            tokio::select! {
                biased;
                () = &mut stop => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
        Ok(())
    }

    /// Sends one shipment, the same one again if the last attempt failed. `log` is our process's own: people are looked up there,
    /// and what is given up is told there.
    ///
    /// # Errors
    /// [`ExportError`].
    pub async fn step(&mut self, log: &Log) -> Result<Step, ExportError> {
        if self.ended.is_none() {
            log.hold(&self.name, self.cursor.next);
        }
        let batch = match self.pending.take() {
            Some(batch) => batch,
            None => match self.gather(log)? {
                Some(batch) => batch,
                None => return Ok(Step::Idle),
            },
        };
        let Some(first) = batch.events.first().map(|event| event.id) else {
            // Nothing this receiver wants.
            self.advance(batch.then)?;
            return Ok(Step::Done(0));
        };
        let bytes: Vec<_> = batch.events.iter().map(|event| event.bytes.clone()).collect();
        let answer = self.transport.carry(self.format.pack(&bytes, first, self.clock.now())).await;
        let verdict = match answer {
            Ok(answer) => self.format.judge(&answer),
            Err(unreachable) => {
                self.pending = Some(batch);
                return Ok(self.pause(None, unreachable.to_string()));
            }
        };
        let count = batch.events.len();
        match verdict {
            Verdict::Delivered => {
                self.width = (self.width * 2).min(self.format.max_events());
                self.progress.delivered.fetch_add(count as u64, Ordering::Relaxed);
                self.advance(batch.then)?;
                Ok(Step::Done(count))
            }
            Verdict::Retry { after } => {
                self.pending = Some(batch);
                Ok(self.pause(after, "the receiver asks for patience".to_owned()))
            }
            Verdict::Misconfigured(why) => {
                self.pending = Some(batch);
                Ok(self.pause(Some(LONGEST_PAUSE), why))
            }
            Verdict::Split(_) if count > 1 => {
                // Gathered anew, half as many: one of them is at fault.
                self.width = count.div_ceil(2);
                Ok(Step::Done(0))
            }
            Verdict::Split(why) | Verdict::Reject(why) => {
                self.give_up(log, &batch.events, &why)?;
                self.advance(batch.then)?;
                Ok(Step::Done(count))
            }
        }
    }

    fn pause(&mut self, asked: Option<Duration>, why: String) -> Step {
        let doubled = Duration::from_secs(1 << self.failures.min(6));
        self.failures = self.failures.saturating_add(1);
        self.progress.set_trouble(Some(why.clone()));
        Step::Wait(asked.unwrap_or(doubled).min(LONGEST_PAUSE.max(asked.unwrap_or_default())), why)
    }

    /// The next events, or `None` if all is delivered.
    fn gather(&mut self, log: &Log) -> Result<Option<Batch>, ExportError> {
        let durable = self.durable(log)?;
        if self.cursor.next >= durable {
            return Ok(None);
        }
        let records = self.read(log, durable)?;
        let then = records.last().map_or(self.cursor.next, |record| record.entry.seq + 1);
        let mut batch = Batch { events: Vec::new(), then };
        let mut bytes = 0;
        for record in &records {
            let Some(encoded) = self.format.encode(record) else { continue };
            let (seq, id, kind) = (record.entry.seq, record.entry.id, record.entry.kind);
            let event = Encoded { seq, id, kind, bytes: encoded };
            if event.bytes.len() > self.format.max_bytes() {
                self.give_up(log, &[event], "larger than the receiver takes")?;
                continue;
            }
            bytes += event.bytes.len();
            if bytes > self.format.max_bytes() {
                batch.then = seq;
                break;
            }
            batch.events.push(event);
        }
        Ok(Some(batch))
    }

    /// The next entries, as many as a shipment may hold. Read anew each time: what is not yet durable may be cut and
    /// written again, so nothing read ahead is kept.
    fn read(&mut self, log: &Log, durable: u64) -> Result<Vec<Record>, ExportError> {
        let mut records = Vec::new();
        let all = segments(&self.folder).map_err(|source| self.io(source))?;
        let oldest = all.first().copied().unwrap_or(0);
        if self.cursor.next < oldest {
            let missed = Details {
                count: Some(oldest - self.cursor.next),
                message: Some(Text::new(&format!(
                    "{}: entries were dropped before they were delivered",
                    self.name
                ))),
                ..Details::default()
            };
            log.mention(Event::new(Kind::ExportFailed).with(missed));
            self.advance(oldest)?;
        }
        while self.cursor.next + (records.len() as u64) < durable && records.len() < self.width {
            let wanted = self.cursor.next + records.len() as u64;
            let before = records.len();
            if let Some(at) = self.locate(&all, wanted) {
                self.read_segment(log, at, wanted..durable, &mut records)?;
            }
            if records.len() == before {
                return Err(self.io(io::Error::other(format!("entry {wanted} is not where it should be"))));
            }
        }
        Ok(records)
    }

    /// Reads on in one segment, to its end at most.
    fn read_segment(
        &mut self,
        log: &Log,
        at: Place,
        mut wanted: Range<u64>,
        records: &mut Vec<Record>,
    ) -> Result<(), ExportError> {
        let mut file =
            File::open(segment_path(&self.folder, at.segment)).map_err(|source| self.io(source))?;
        file.seek(SeekFrom::Start(at.offset)).map_err(|source| self.io(source))?;
        let mut lines = Lines::new(file);
        while !wanted.is_empty() && records.len() < self.width {
            let Some(raw) = lines.next().map_err(|source| self.io(source))? else { return Ok(()) };
            let Some(Line::Entry(bytes, position)) = Line::parse(raw.bytes) else { continue };
            if position.seq != wanted.start {
                continue;
            }
            let Ok(entry) = serde_json::from_slice::<Entry>(bytes) else {
                return Err(self.io(io::Error::other(format!("entry {} cannot be read", wanted.start))));
            };
            let person =
                entry.person.and_then(|person| self.people.find(log.persons(), person, self.clock.now()));
            let line = String::from_utf8_lossy(bytes).into_owned();
            let record = if self.tells_content { Record::with_content } else { Record::new };
            records.push(record(entry, line, person.as_deref()));
            wanted.start += 1;
            let offset = at.offset + raw.offset + raw.bytes.len() as u64 + 1;
            self.reached = Some((wanted.start, Place { segment: at.segment, offset }));
        }
        Ok(())
    }

    /// Where entry `seq` is, or something before it in the same segment.
    fn locate(&self, all: &[u64], seq: u64) -> Option<Place> {
        let first = *all.iter().rev().find(|first| **first <= seq)?;
        let start = Place { segment: first, offset: 0 };
        Some(
            self.reached.filter(|(at, place)| *at == seq && place.segment == first).map_or(start, |(_, p)| p),
        )
    }

    fn advance(&mut self, next: u64) -> Result<(), ExportError> {
        self.failures = 0;
        self.cursor.next = next;
        self.progress.next.store(next, Ordering::Relaxed);
        self.progress.set_trouble(None);
        let path = self.folder.join(format!("export-{}.cursor", self.name));
        let save = || {
            let mut draft = tempfile::NamedTempFile::new_in(&self.folder)?;
            draft.write_all(&serde_json::to_vec(&self.cursor)?)?;
            // A cursor that a crash takes back delivers twice, which is allowed.
            draft.persist(path).map_err(|refused| refused.error)
        };
        save().map(drop).map_err(|source| self.io(source))
    }

    /// Names events that nobody will take.
    fn give_up(&self, log: &Log, events: &[Encoded], why: &str) -> Result<(), ExportError> {
        #[derive(Serialize)]
        struct Letter<'a> {
            seq: u64,
            id: EventId,
            kind: Kind,
            reason: &'a str,
        }
        let path = self.folder.join(format!("export-{}.dead", self.name));
        let write = || {
            let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
            if file.metadata()?.len() > DEAD_LETTERS {
                return Ok(());
            }
            for event in events {
                let letter = Letter { seq: event.seq, id: event.id, kind: event.kind, reason: why };
                let mut line = serde_json::to_vec(&letter)?;
                line.push(b'\n');
                file.write_all(&line)?;
            }
            file.sync_data()
        };
        write().map_err(|source| self.io(source))?;
        self.progress.given_up.fetch_add(events.len() as u64, Ordering::Relaxed);
        // Of a letter about a dead letter there would be no end.
        let worth_telling = events.iter().filter(|event| event.kind != Kind::ExportFailed);
        let count = worth_telling.count() as u64;
        if count > 0 {
            let details = Details {
                count: Some(count),
                message: Some(Text::new(&format!("{}: {why}", self.name))),
                ..Details::default()
            };
            log.mention(Event::new(Kind::ExportFailed).with(details));
        }
        Ok(())
    }

    fn io(&self, source: io::Error) -> ExportError {
        ExportError::Io { name: self.name.clone(), source }
    }
}

impl People {
    fn find(&mut self, persons: &Persons, pseudonym: Pseudonym, now: Timestamp) -> Option<Arc<Person>> {
        // Nor is what was read at a time that is still to come, after the clock was set back.
        let stale = self.read.is_none_or(|read| now.since(read) >= MEMORY || read > now);
        if stale || (!self.known.contains_key(&pseudonym) && self.read != Some(now)) {
            // Who cannot be looked up goes by his pseudonym.
            self.known = persons.everybody().unwrap_or_default();
            self.read = Some(now);
        }
        self.known.get(&pseudonym).cloned()
    }
}
