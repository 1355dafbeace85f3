//! Writing the log: evidence before the act.
//!
//! One thread writes. Whoever has something to record waits until it is durable; while the disk is busy others queue
//! up behind it and are made durable together (group commit), so nobody waits longer than he would alone.

mod current;
mod recover;
mod writer;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::Duration,
};

use bartizan_model::{Caller, Clock, Entropy, ServerName};
use tokio::sync::oneshot;

use crate::{
    check::Problem,
    checkpoint::{Origin, Signer},
    event::{Change, Details, Entry, Event, EventId, Kind, Moment, Outcome, Sealed},
    persons::{Person, Persons},
    private::PrivateFileError,
    storage::Storage,
    text::Text,
};

use writer::Writer;

/// How many events may wait for the disk. More would only wait in vain.
const QUEUE: usize = 16_384;

/// What a log needs.
pub struct Setup {
    /// The log's own name; no two logs under one key share it.
    pub origin: Origin,
    /// What signs its checkpoints.
    pub signer: Signer,
    /// Who the people in it are.
    pub persons: Arc<Persons>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where event ids come from.
    pub entropy: Arc<dyn Entropy>,
    /// Sizes and ages.
    pub options: Options,
}

/// Sizes, ages and the one relaxation.
#[derive(Clone, Debug)]
pub struct Options {
    /// A segment is closed when it is this long, in bytes.
    pub segment_bytes: u64,
    /// Segments whose newest entry is older than this are dropped, once nobody holds them ([`Log::hold`]).
    pub keep_for: Option<Duration>,
    /// The oldest segments are dropped while all together are longer than this, in bytes, whoever holds them.
    pub keep_bytes: Option<u64>,
    /// Who holds all of it from the start, until they say themselves what they need ([`Log::hold`]): opening a log may already
    /// close a segment.
    pub needed_by: Vec<String>,
    /// The last checkpoint is told in an entry of its own this often, while there is something to record.
    pub tell_checkpoint_every: Duration,
    /// Lets calls go on when they cannot be recorded; what was lost is counted and recorded when writing works again.
    pub dangerous_best_effort: bool,
}

impl Default for Options {
    /// Segments of 64 MiB, kept for ever; a checkpoint told every five minutes; no relaxation.
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            keep_for: None,
            keep_bytes: None,
            needed_by: Vec::new(),
            tell_checkpoint_every: Duration::from_secs(300),
            dangerous_best_effort: false,
        }
    }
}

/// The log, open for writing. Cheap to clone; the last clone to go ends it in good order.
#[derive(Clone)]
pub struct Log(Arc<Shared>);

/// A call whose beginning is durable. Dropped without [`Log::close`], it is recorded as abandoned.
#[must_use = "a call that was opened must be closed"]
pub struct Opened {
    log: Log,
    /// What the closing entry repeats. `None` once closed, or if nothing of the call could be recorded.
    opening: Option<Box<Opening>>,
    receipt: Receipt,
}

/// What the closing entry of a call repeats of its opening.
struct Opening {
    id: EventId,
    person: Option<Arc<Person>>,
    client: Option<Text>,
    address: Option<Sealed>,
    server: Option<ServerName>,
    method: Option<Text>,
    tool: Option<Text>,
    resource: Option<Text>,
    trace: Option<Text>,
}

impl Opening {
    fn of(entry: &Entry, person: Option<Arc<Person>>) -> Self {
        let said = &entry.details;
        Self {
            id: entry.id,
            person,
            client: entry.client.clone(),
            address: entry.address.clone(),
            server: said.server.clone(),
            method: said.method.clone(),
            tool: said.tool.clone(),
            resource: said.resource.clone(),
            trace: said.trace.clone(),
        }
    }
}

/// Proof that an event is durable. Only the log makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "answer only with it in hand"]
pub struct Receipt {
    id: EventId,
    /// `None` if it was let go unrecorded under `dangerous_best_effort`.
    seq: Option<u64>,
}

/// Why an event is not recorded. Whatever it was about must not happen, or not be told.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Lost {
    /// The log is closed.
    #[error("the audit log is closed")]
    Closed,
    /// Too many events wait for the disk.
    #[error("the audit log has {QUEUE} events waiting for the disk")]
    Overloaded,
    /// The person's pseudonym or key cannot be had.
    #[error("the person cannot be recorded: {0}")]
    Person(Arc<PrivateFileError>),
    /// The disk refused.
    #[error("the audit log cannot be written: {0}")]
    Storage(Arc<std::io::Error>),
    /// Somebody keeps calls from being made, such as a witness that is required and missing.
    #[error("no call is made: {0}")]
    Barred(Arc<str>),
    /// The event cannot be put into words.
    #[error("the event cannot be written as JSON")]
    Unwritable,
}

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The disk refused.
    #[error("the audit log cannot be opened: {0}")]
    Storage(#[from] std::io::Error),
    /// It was tampered with or damaged. It is left as it is.
    #[error(
        "the audit log does not verify: {0}; look into it with `bartizan audit verify`, then move its folder away to begin a new log"
    )]
    Tampered(#[from] Problem),
    /// The first entries could not be written.
    #[error(transparent)]
    Lost(#[from] Lost),
}

struct Shared {
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    state: Arc<State>,
    persons: Arc<Persons>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    origin: Origin,
    best_effort: bool,
}

/// Is told of every entry once it is durable, in order, by the thread that writes: it must be quick and wait for nothing.
pub trait Observer: Send + Sync {
    /// `entry` is durable.
    fn seen(&self, entry: &Entry);
}

/// What the writing thread tells the world.
#[derive(Default)]
struct State {
    /// How many entries are durable.
    durable: AtomicU64,
    /// How many events wait for the disk.
    waiting: AtomicUsize,
    /// Events that could not be written since the last time one could.
    lost: AtomicU64,
    /// Events that could not be written, ever.
    lost_total: AtomicU64,
    /// The last durable checkpoint.
    checkpoint: Mutex<Arc<str>>,
    /// Who still needs which entries: from this one on.
    holds: Mutex<BTreeMap<String, u64>>,
    /// Why no call is opened now.
    barred: Mutex<Option<Arc<str>>>,
    /// Who is told of every entry.
    observers: Mutex<Vec<Arc<dyn Observer>>>,
}

/// An event on its way to the disk.
struct Job {
    entry: Entry,
    written: Option<oneshot::Sender<Result<u64, Lost>>>,
}

impl State {
    fn count_lost(&self, events: u64) {
        self.lost.fetch_add(events, Ordering::Relaxed);
        self.lost_total.fetch_add(events, Ordering::Relaxed);
    }

    fn tell(&self, entries: &[Entry]) {
        let observers = self.observers.lock().unwrap_or_else(PoisonError::into_inner);
        for observer in observers.iter() {
            entries.iter().for_each(|entry| observer.seen(entry));
        }
    }
}

impl Log {
    /// Starts writing the log in `storage`: verifies its newest segment and every segment's first line, cuts what a
    /// crash left past the last signed checkpoint, and closes the calls that were open when the last process died.
    ///
    /// # Errors
    /// [`OpenError`]; a log that does not verify is not touched.
    pub fn start(storage: impl Storage + 'static, setup: Setup) -> Result<Self, OpenError> {
        let Setup { origin, signer, persons, clock, entropy, options } = setup;
        let holds = options.needed_by.iter().map(|who| (who.clone(), 0)).collect();
        let state = Arc::new(State { holds: Mutex::new(holds), ..State::default() });
        let recovered = recover::recover(&storage, &signer.public_key(), &origin)?;
        let best_effort = options.dangerous_best_effort;
        let mut writer = Writer::new(
            writer::Setting {
                storage: Box::new(storage),
                origin: origin.clone(),
                signer,
                options,
                state: Arc::clone(&state),
            },
            (Arc::clone(&clock), Arc::clone(&entropy)),
            recovered,
        );
        writer.begin()?;
        let (jobs, inbox) = mpsc::channel();
        let thread =
            std::thread::Builder::new().name("audit-log".to_owned()).spawn(move || writer.run(&inbox))?;
        Ok(Self(Arc::new(Shared {
            jobs: Mutex::new(Some(jobs)),
            thread: Mutex::new(Some(thread)),
            state,
            persons,
            clock,
            entropy,
            origin,
            best_effort,
        })))
    }

    /// The log's own name, whose last part names its folder below the audit folder.
    pub fn origin(&self) -> &Origin {
        &self.0.origin
    }

    /// Records that a call is about to be made; the kind of `event` becomes `call.opened`. Durable when this returns:
    /// only then may the upstream hear of it.
    ///
    /// # Errors
    /// [`Lost`]: the call must not be made.
    pub async fn open(&self, event: Event) -> Result<Opened, Lost> {
        let event = Event { kind: Kind::CallOpened, ..self.known(event) };
        let person = event.person.clone();
        if let Some(why) = &*self.0.state.barred.lock().unwrap_or_else(PoisonError::into_inner) {
            return Err(Lost::Barred(Arc::clone(why)));
        }
        let entry = match self.entry(event) {
            Err(_) if self.0.best_effort => {
                let receipt = Receipt { id: EventId::random(self.0.entropy.as_ref()), seq: None };
                return Ok(Opened { log: self.clone(), opening: None, receipt });
            }
            entry => entry?,
        };
        let receipt = Receipt { id: entry.id, seq: None };
        let opening = Some(Box::new(Opening::of(&entry, person)));
        // Before the wait: if nobody waits to its end, the call is recorded as abandoned.
        let mut opened = Opened { log: self.clone(), opening, receipt };
        match self.write(entry).await {
            Ok(receipt) => opened.receipt = receipt,
            Err(lost) => {
                opened.opening = None;
                return Err(lost);
            }
        }
        Ok(opened)
    }

    /// Records how a call ended: durable when this returns, and only then may the caller be answered. `details` are
    /// what is new; who called what is repeated from the opening.
    ///
    /// # Errors
    /// [`Lost`]: the answer must be withheld. The call stays open in the log and the next start closes it.
    pub async fn close(&self, mut opened: Opened, details: Details) -> Result<Receipt, Lost> {
        match opened.opening.take() {
            Some(opening) => self.write(self.closing(*opening, details)).await,
            None => Ok(opened.receipt.clone()),
        }
    }

    /// Records anything else. A [`Kind::CallEvent`] names its call in `details.call`.
    ///
    /// # Errors
    /// [`Lost`]: what it is about must not happen, or not be told.
    pub async fn note(&self, event: Event) -> Result<Receipt, Lost> {
        match self.entry(event) {
            Err(_) if self.0.best_effort => {
                Ok(Receipt { id: EventId::random(self.0.entropy.as_ref()), seq: None })
            }
            entry => self.write(entry?).await,
        }
    }

    /// Forgets a person for good (see [`Persons::erase`]), on behalf of `by`: recorded first, then done. `false` if the
    /// log does not know him.
    ///
    /// # Errors
    /// [`Lost`]: he may not be forgotten; ask again.
    pub async fn erase(&self, person: &Caller, by: &Caller) -> Result<bool, Lost> {
        let change = match self.0.persons.find(person) {
            Some(known) => Some(Change {
                entity: Text::new("person"),
                name: Text::new(&known.pseudonym().to_string()),
                from: None,
                to: None,
            }),
            // What an erasure left that was cut short, or what others could read: it does not say who it is, and is to go all the same.
            None if self.0.persons.has_file(person) => None,
            None => return Ok(false),
        };
        let details = Details { change, ..Details::default() };
        let _ = self.note(Event::new(Kind::PersonErased).by(by).with(details)).await?;
        self.0.persons.erase(person).map_err(|error| Lost::Person(Arc::new(error)))
    }

    /// Records something without waiting: what has happened already and nobody's answer depends on, such as a line
    /// of a server's standard error. If the disk refuses, the loss is counted and recorded later.
    pub fn mention(&self, event: Event) {
        if let Ok(entry) = self.entry(event) {
            // A loss is counted where it happens.
            let _ = self.submit(Job { entry, written: None });
        }
    }

    /// The people in this log, for digests and seals.
    pub fn persons(&self) -> &Persons {
        &self.0.persons
    }

    /// How many entries are durable.
    pub fn durable(&self) -> u64 {
        self.0.state.durable.load(Ordering::Acquire)
    }

    /// How many events could not be written since the log was opened.
    pub fn lost(&self) -> u64 {
        self.0.state.lost_total.load(Ordering::Relaxed)
    }

    /// The signed note of the last durable checkpoint: for a witness, and for `verify --expect`.
    pub fn checkpoint(&self) -> Arc<str> {
        Arc::clone(&self.0.state.checkpoint.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Opens no call from now on, for this reason; or opens them again. All else is recorded as before.
    pub fn bar(&self, why: Option<&str>) {
        *self.0.state.barred.lock().unwrap_or_else(PoisonError::into_inner) = why.map(Arc::from);
    }

    /// Has `observer` told of every entry that is written from now on.
    pub fn observe(&self, observer: Arc<dyn Observer>) {
        self.0.state.observers.lock().unwrap_or_else(PoisonError::into_inner).push(observer);
    }

    /// Keeps entries from `seq` on, whatever their age, because `who` still needs them. `u64::MAX` lets go.
    pub fn hold(&self, who: &str, seq: u64) {
        let mut holds = self.0.state.holds.lock().unwrap_or_else(PoisonError::into_inner);
        holds.insert(who.to_owned(), seq);
    }

    /// `plain` sealed under the key of `person`, for an event of his.
    pub fn seal(&self, person: &Person, plain: &[u8]) -> Option<Sealed> {
        person.seal(plain, self.0.entropy.as_ref())
    }

    /// The event with the person behind its caller, if that can be told.
    fn known(&self, event: Event) -> Event {
        let person = event.person.or_else(|| self.0.persons.of(event.caller.as_ref()?).ok());
        Event { person, ..event }
    }

    fn entry(&self, event: Event) -> Result<Entry, Lost> {
        let person = match (event.person, &event.caller) {
            (None, Some(caller)) => Some(self.0.persons.of(caller).map_err(|error| {
                // Unrecorded rather than recorded as nobody's.
                self.0.state.count_lost(1);
                Lost::Person(Arc::new(error))
            })?),
            (person, _) => person,
        };
        let address = event.address.map(|address| address.to_string());
        let sealed = address.as_ref().zip(person.as_ref());
        let through = event.caller.as_ref().map(|caller| caller.client().to_owned());
        let client = event.client.or(through).filter(|client| !client.is_empty());
        Ok(Entry {
            person: person.as_ref().map(|person| person.pseudonym()),
            client: client.map(|client| Text::new(&client)),
            address: sealed
                .and_then(|(address, person)| person.seal(address.as_bytes(), self.0.entropy.as_ref())),
            stranger_address: address.filter(|_| person.is_none()).map(|address| Text::new(&address)),
            ..self.blank(event.kind, event.details)
        })
    }

    fn closing(&self, opening: Opening, details: Details) -> Entry {
        let Opening { id, person, client, address, server, method, tool, resource, trace } = opening;
        let details = Box::new(Details {
            call: Some(id),
            server: details.server.or(server),
            method: details.method.or(method),
            tool: details.tool.or(tool),
            resource: details.resource.or(resource),
            trace: details.trace.or(trace),
            ..details
        });
        let person = person.map(|person| person.pseudonym());
        Entry { person, client, address, ..self.blank(Kind::CallClosed, details) }
    }

    fn blank(&self, kind: Kind, details: Box<Details>) -> Entry {
        Entry::blank(kind, details, self.0.clock.as_ref(), self.0.entropy.as_ref())
    }

    async fn write(&self, entry: Entry) -> Result<Receipt, Lost> {
        let id = entry.id;
        let (written, done) = oneshot::channel();
        let result = match self.submit(Job { entry, written: Some(written) }) {
            Ok(()) => done.await.unwrap_or(Err(Lost::Closed)),
            Err(lost) => Err(lost),
        };
        match result {
            Ok(seq) => Ok(Receipt { id, seq: Some(seq) }),
            Err(_) if self.0.best_effort => Ok(Receipt { id, seq: None }),
            Err(lost) => Err(lost),
        }
    }

    fn submit(&self, job: Job) -> Result<(), Lost> {
        let state = &self.0.state;
        // What nobody waits for, such as a flood of a server's words, leaves room for what somebody does.
        let room = if job.written.is_some() { QUEUE } else { QUEUE / 2 };
        if state.waiting.fetch_add(1, Ordering::Relaxed) >= room {
            state.waiting.fetch_sub(1, Ordering::Relaxed);
            state.count_lost(1);
            return Err(Lost::Overloaded);
        }
        let jobs = self.0.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.as_ref().ok_or(Lost::Closed)?.send(job).map_err(|_| Lost::Closed)
    }
}

impl Entry {
    /// An entry that has no place in the log yet.
    fn blank(kind: Kind, details: Box<Details>, clock: &dyn Clock, entropy: &dyn Entropy) -> Self {
        let (id, time) = (EventId::random(entropy), Moment::from_unix_millis(clock.now_millis()));
        Self {
            seq: 0,
            base: 0,
            id,
            time,
            kind,
            person: None,
            client: None,
            address: None,
            stranger_address: None,
            details,
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // The thread ends when nobody can send to it any more.
        self.jobs.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = thread.join();
        }
    }
}

impl Opened {
    /// The call's id, for [`Kind::CallEvent`] and for correlation upstream (spec.md G-04).
    pub fn id(&self) -> EventId {
        self.receipt.id
    }

    /// Who makes it, to the log: what is recorded of its end is digested and sealed under the same key as its beginning, whoever is
    /// erased meanwhile. `None` if nothing of it could be recorded.
    pub fn person(&self) -> Option<&Arc<Person>> {
        self.opening.as_ref()?.person.as_ref()
    }

    /// Proof that the opening is durable.
    pub fn receipt(&self) -> &Receipt {
        &self.receipt
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        if let Some(opening) = self.opening.take() {
            let outcome = Details { outcome: Some(Outcome::Abandoned), ..Details::default() };
            let entry = self.log.closing(*opening, outcome);
            let _ = self.log.submit(Job { entry, written: None });
        }
    }
}

impl Receipt {
    /// The event's id.
    pub fn id(&self) -> EventId {
        self.id
    }

    /// The entry's number; `None` if it went unrecorded under `dangerous_best_effort`.
    pub fn seq(&self) -> Option<u64> {
        self.seq
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").field("durable", &self.durable()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Opened").field(&self.receipt).finish()
    }
}
