//! Every bound of the data plane, in one place.

use std::time::Duration;

/// Bytes of a request body, unless configured otherwise.
pub const REQUEST_BYTES: usize = 4 * 1024 * 1024;
/// Body of a request to something else than an MCP endpoint: forms and small documents.
pub const PAGE_BYTES: usize = 64 * 1024;
/// Bytes of one message from a server.
pub const ANSWER_BYTES: usize = 16 * 1024 * 1024;
/// Bytes of all header lines of a request together; more is 431.
pub const HEAD_BYTES: usize = 64 * 1024;
/// Header lines of a request.
pub const HEAD_LINES: usize = 100;
/// How long a request's head may take.
pub const HEAD_WAIT: Duration = Duration::from_secs(10);
/// How long a request's body may take.
pub const BODY_WAIT: Duration = Duration::from_secs(30);
/// How long the rest of a request may take that was refused before it was read.
pub const UNREAD_WAIT: Duration = Duration::from_secs(5);
/// How long a client may take no byte of an answer that waits for it, unless configured otherwise.
pub const WRITE_WAIT: Duration = Duration::from_secs(30);
/// How long an HTTP/2 connection may stay on which nothing is under way, unless configured otherwise. One of HTTP/1.1 has
/// [`HEAD_WAIT`] for its next request.
pub const HTTP2_IDLE: Duration = Duration::from_secs(60);
/// Connections at once.
pub const CONNECTIONS: usize = 8192;
/// Connections at once from one address that is not loopback.
pub const CONNECTIONS_PER_ADDRESS: usize = 512;
/// Streams at once in one HTTP/2 connection.
pub const HTTP2_STREAMS: u32 = 128;
/// How long requests may go on after a stop was asked for.
pub const DRAIN: Duration = Duration::from_secs(20);

/// How long a server may say nothing while a request waits.
pub const REQUEST_IDLE: Duration = Duration::from_secs(300);
/// How long a request may take, progress or not (spec.md B-08).
pub const REQUEST_CAP: Duration = Duration::from_secs(3600);
/// How long our own questions to a server may take.
pub const CONTROL_WAIT: Duration = Duration::from_secs(10);
/// How long our own look at everything a server defines may take.
pub const INVENTORY_WAIT: Duration = Duration::from_secs(60);
/// How long a `wrap` waits for answers after its client has closed its end.
pub const LAST_ANSWERS: Duration = Duration::from_secs(5);
/// How long a message in a `wrap` waits for the one before it, when that has its turn, to be judged and sent.
pub const WRAP_TURN: Duration = Duration::from_millis(250);
/// Messages that are not answered and wait for their turn in a `wrap`; more are not read.
pub const UNTOLD: usize = 64;
/// How long a server may take to start and say which era it speaks.
pub const START_WAIT: Duration = Duration::from_secs(30);
/// How long a legacy server is taken for legacy before it is asked again.
pub const ERA_MEMORY: Duration = Duration::from_secs(60);
/// How often a broken stream is resumed before it is given up.
pub const RESUME_ATTEMPTS: u32 = 5;

/// After this long without an answer, the answer becomes an event stream.
pub const STREAM_AFTER: Duration = Duration::from_secs(2);
/// A silent event stream says this often that it lives (spec.md A-72).
pub const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Legacy sessions at once.
pub const SESSIONS: usize = 50_000;
/// A legacy session ends when it was not used for this long.
pub const SESSION_IDLE: Duration = Duration::from_secs(30 * 60);
/// How often it is looked which sessions others have ended in the store.
pub const ENDED_AGE: Duration = Duration::from_secs(1);
/// How often it is noted in the store which sessions were used.
pub const SEEN_EVERY: Duration = Duration::from_secs(60);
/// How often rows of sessions that ended long ago are looked for.
pub const SESSION_ROWS_KEPT: Duration = Duration::from_secs(60 * 60);
/// Bytes that one stream keeps for a client that comes back (spec.md B-24).
pub const REPLAY_BYTES: usize = 1024 * 1024;
/// Events that one stream keeps.
pub const REPLAY_EVENTS: usize = 512;
/// Bytes that the streams of one session keep together, beside what is on its way to who reads.
pub const REPLAY_BYTES_OF_SESSION: usize = 8 * REPLAY_BYTES;
/// Finished streams that one session keeps.
pub const REPLAY_STREAMS: usize = 4;
/// How long a finished stream is kept.
pub const REPLAY_KEPT: Duration = Duration::from_secs(120);
/// Requests of one session at once.
pub const SESSION_REQUESTS: usize = 256;
/// Messages of one batch: each costs more than its bytes (attacks.md PH-13).
pub const BATCH: usize = 1024;
/// Requests of one server to one session's client at once.
pub const SERVER_REQUESTS: usize = 64;
/// Tasks that one session's client made of the questions of one server and that are remembered.
pub const CLIENT_TASKS: usize = 256;

/// Resources that one session may listen to, of one server.
pub const SUBSCRIPTIONS: usize = 1024;
/// Bytes of their addresses.
pub const SUBSCRIBED_BYTES: usize = 256 * 1024;

/// Quarantines and revocations known for longer than this are read anew before anything is served.
pub const RESPONSES_AGE: Duration = Duration::from_secs(4);

/// Processes that read documents at once.
pub const READERS: usize = 2;
/// Documents that one of them reads before another takes its place.
pub const READER_DOCUMENTS: u32 = 64;
/// How long one may take to start.
pub const READER_START: Duration = Duration::from_secs(10);
/// How long one may take over a document.
pub const READER_WAIT: Duration = Duration::from_secs(10);
/// How long the documents of one message may wait and be read, all together.
pub const READING_WAIT: Duration = Duration::from_secs(30);
/// Documents of one message that readers read.
pub const MESSAGE_DOCUMENTS: usize = 32;
/// Messages of one server that wait for a reader.
pub const READING_LINE: usize = 64;

/// Processes that begin at once, for each core; looks of the gate's own take half of the places at most.
pub const STARTS_PER_CORE: usize = 4;
/// How long a process that begins, or a look, keeps its place; what takes longer goes on beside the others.
pub const START_TURN: Duration = Duration::from_millis(500);
/// Processes of one server at once.
pub const PROCESSES: usize = 64;
/// Those of them that one caller may have started, where callers are told apart.
pub const PROCESSES_OF_CALLER: usize = PROCESSES / 4;
/// A process for modern requests is stopped when it was not used for this long.
pub const PROCESS_IDLE: Duration = Duration::from_secs(5 * 60);
/// How long sessions go on in a process that is busy, after its server was approved as something else.
pub const OUTDATED_GRACE: Duration = Duration::from_secs(60);
/// How often it is looked whether a command still runs what was approved.
pub const PROGRAM_AGE: Duration = Duration::from_secs(2);
/// Starts of one server's processes that fail in a row before it is left alone for [`CRASH_REST`].
pub const CRASHES: u32 = 5;
/// How long a server that keeps crashing is left alone.
pub const CRASH_REST: Duration = Duration::from_secs(60);
/// Messages of one request that wait to be fetched.
pub const PIPE_MESSAGES: usize = 1024;
/// Bytes of one process's messages that wait to be fetched; notifications above it are dropped.
pub const PIPE_BYTES: usize = 2 * ANSWER_BYTES;
/// The same with its responses; a request whose response does not fit fails.
pub const PIPE_BYTES_WITH_RESPONSES: usize = 2 * PIPE_BYTES;
/// Messages of one process that answer no request and wait for whoever is to hear them, and their bytes.
pub const EARLY: usize = 32;
/// See [`EARLY`].
pub const EARLY_BYTES: usize = 64 * 1024;
/// Bytes of one line of a process's standard error that are logged.
pub const STDERR_LINE: usize = 4 * 1024;

/// Tasks of one caller whose tool is remembered, and callers of whom any is.
pub const TASKS_OF_CALLER: usize = 256;
/// See [`TASKS_OF_CALLER`].
pub const TASK_CALLERS: usize = 4096;

/// Tools of one server of which it is remembered what headers they want.
pub const MIRRORING_TOOLS: usize = 8192;
/// Pages of one list that are followed.
pub const PAGES: usize = 1000;
/// How long one server may hold up an answer that is made of all servers'; then it is left out.
pub const MERGED_WAIT: Duration = Duration::from_secs(15);
/// How long a server is left alone that ended its part of a merged subscription, before it is asked again.
pub const LISTEN_REST: Duration = Duration::from_secs(1);
/// How long at most, twice as long after each time.
pub const LONGEST_LISTEN_REST: Duration = Duration::from_secs(60);
/// Entries on one page of a merged list.
pub const MERGED_PAGE: usize = 1000;
/// How long a cursor or `requestState` stays good.
pub const HANDLE_LIFE: Duration = Duration::from_secs(10 * 60);
/// How long a cache may keep what we pass on, at most, in milliseconds.
pub const CACHE_CAP_MS: u64 = 24 * 60 * 60 * 1000;
