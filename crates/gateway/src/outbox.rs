//! One event stream of a legacy session: what was sent on it, for whoever reads it now and comes back later
//! (25/tr; spec.md B-19 to B-24).

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use tokio::{sync::Notify, time::Instant};

use crate::{
    limits::{REPLAY_BYTES, REPLAY_BYTES_OF_SESSION, REPLAY_EVENTS, REPLAY_KEPT},
    upstream::stdio::lock,
};

/// A stream's messages, numbered from 1.
#[derive(Debug)]
pub struct Outbox {
    number: u32,
    inner: Mutex<Inner>,
    changed: Notify,
    load: Arc<Load>,
}

/// What all streams of a session keep together.
#[derive(Debug, Default)]
pub struct Load {
    bytes: AtomicUsize,
    /// How many of them were read: they are kept only for a client that comes back.
    read: AtomicUsize,
}

impl Load {
    /// Whether it is more than a session may keep.
    pub fn is_much(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) > REPLAY_BYTES_OF_SESSION
    }

    /// Whether what nobody has read is that much by itself.
    fn is_much_unread(&self) -> bool {
        let (bytes, read) = (self.bytes.load(Ordering::Relaxed), self.read.load(Ordering::Relaxed));
        bytes.saturating_sub(read) > REPLAY_BYTES_OF_SESSION
    }
}

#[derive(Debug, Default)]
struct Inner {
    events: VecDeque<(u64, Bytes)>,
    bytes: usize,
    last: u64,
    /// The last message that was read.
    read: u64,
    /// Bytes of those that were read.
    read_bytes: usize,
    /// Which reader counts; 0 for none.
    reader: u64,
    readers: u64,
    retry: Option<u64>,
    closed: Option<Instant>,
}

/// What a reader gets.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    /// A message and its number.
    Message(u64, Bytes),
    /// The stream is cut here, to be resumed after this many milliseconds.
    Retry(u64),
    /// Nothing more will come.
    End,
}

/// The one reader of an outbox; a newer one takes its place.
#[derive(Debug)]
pub struct Reader {
    outbox: Arc<Outbox>,
    generation: u64,
    next: u64,
}

impl Outbox {
    /// An empty stream, the `number`th of a session whose streams keep `load`.
    pub fn new(number: u32, load: &Arc<Load>) -> Arc<Self> {
        Arc::new(Self { number, inner: Mutex::default(), changed: Notify::new(), load: Arc::clone(load) })
    }

    /// Its number in the session.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Adds a message. Over the bounds the oldest go; where the session keeps too much, first those that were read, or that
    /// nobody reads. What waits for a reader does not go because of what was read on another stream.
    pub fn push(&self, text: String) {
        let mut inner = lock(&self.inner);
        inner.last += 1;
        let (number, text) = (inner.last, Bytes::from(text));
        inner.bytes += text.len();
        self.load.bytes.fetch_add(text.len(), Ordering::Relaxed);
        inner.events.push_back((number, text));
        while let Some((oldest, _)) = inner.events.front() {
            let is_last = inner.events.len() == 1;
            let is_read = *oldest <= inner.read;
            let is_over = !is_last && (inner.bytes > REPLAY_BYTES || inner.events.len() > REPLAY_EVENTS);
            let is_spare = match is_read {
                true => self.load.is_much(),
                false => inner.reader == 0 && !is_last && self.load.is_much_unread(),
            };
            if !(is_over || is_spare) {
                break;
            }
            if let Some((_, gone)) = inner.events.pop_front() {
                inner.bytes -= gone.len();
                self.load.bytes.fetch_sub(gone.len(), Ordering::Relaxed);
                if is_read {
                    inner.read_bytes -= gone.len();
                    self.load.read.fetch_sub(gone.len(), Ordering::Relaxed);
                }
            }
        }
        drop(inner);
        self.changed.notify_waiters();
    }

    /// Waits while somebody reads and is behind, so that a slow reader slows the server and loses nothing.
    pub async fn room(&self) {
        loop {
            let changed = self.changed.notified();
            {
                let inner = lock(&self.inner);
                let unread: usize =
                    inner.events.iter().filter(|(n, _)| *n > inner.read).map(|(_, t)| t.len()).sum();
                let behind = usize::try_from(inner.last.saturating_sub(inner.read)).unwrap_or(usize::MAX);
                if inner.reader == 0
                    || inner.closed.is_some()
                    || (unread < REPLAY_BYTES / 2 && behind < REPLAY_EVENTS / 2)
                {
                    return;
                }
            }
            changed.await;
        }
    }

    /// Ends the stream after what is in it.
    pub fn close(&self) {
        lock(&self.inner).closed.get_or_insert_with(Instant::now);
        self.changed.notify_waiters();
    }

    /// Waits until the stream has ended.
    pub async fn ended(&self) {
        loop {
            let changed = self.changed.notified();
            if self.is_closed() {
                return;
            }
            changed.await;
        }
    }

    /// Sends the reader away, to come back after `retry` milliseconds (spec.md B-14).
    pub fn interrupt(&self, retry: u64) {
        lock(&self.inner).retry = Some(retry);
        self.changed.notify_waiters();
    }

    /// Whether it ended so long ago that nobody will come back for it.
    pub fn is_stale(&self) -> bool {
        let inner = lock(&self.inner);
        inner.reader == 0 && inner.closed.is_some_and(|at| at.elapsed() > REPLAY_KEPT)
    }

    /// Whether it has ended.
    pub fn is_closed(&self) -> bool {
        lock(&self.inner).closed.is_some()
    }

    /// Whether somebody reads it.
    pub fn is_read(&self) -> bool {
        lock(&self.inner).reader != 0
    }

    /// Reads on after what was read last.
    pub fn read_on(self: &Arc<Self>) -> Reader {
        let after = lock(&self.inner).read;
        self.read_after(after)
    }

    /// Reads on after message `after`, or after the last one there is; whoever read before is sent away.
    pub fn read_after(self: &Arc<Self>, after: u64) -> Reader {
        let mut inner = lock(&self.inner);
        // A client names what it likes.
        let after = after.min(inner.last);
        inner.readers += 1;
        inner.reader = inner.readers;
        self.note_read(&mut inner, after);
        inner.retry = None;
        let generation = inner.reader;
        drop(inner);
        self.changed.notify_waiters();
        Reader { outbox: Arc::clone(self), generation, next: after + 1 }
    }

    /// Everything up to message `last` was read, and nothing after it.
    fn note_read(&self, inner: &mut Inner, last: u64) {
        inner.read = last;
        let bytes: usize =
            inner.events.iter().take_while(|(n, _)| *n <= last).map(|(_, text)| text.len()).sum();
        let before = std::mem::replace(&mut inner.read_bytes, bytes);
        self.load.read.fetch_add(bytes, Ordering::Relaxed);
        self.load.read.fetch_sub(before, Ordering::Relaxed);
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        let inner = lock(&self.inner);
        self.load.bytes.fetch_sub(inner.bytes, Ordering::Relaxed);
        self.load.read.fetch_sub(inner.read_bytes, Ordering::Relaxed);
    }
}

impl Reader {
    /// The next message. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Read {
        loop {
            let changed = self.outbox.changed.notified();
            tokio::pin!(changed);
            // Registered before the look, or a push in between would go unnoticed.
            changed.as_mut().enable();
            {
                let mut inner = lock(&self.outbox.inner);
                if inner.reader != self.generation {
                    return Read::End;
                }
                if let Some((number, text)) = inner.events.iter().find(|(n, _)| *n >= self.next).cloned() {
                    self.next = number + 1;
                    self.outbox.note_read(&mut inner, number);
                    drop(inner);
                    self.outbox.changed.notify_waiters();
                    return Read::Message(number, text);
                }
                if inner.closed.is_some() {
                    return Read::End;
                }
                if let Some(retry) = inner.retry.take() {
                    inner.reader = 0;
                    return Read::Retry(retry);
                }
            }
            changed.await;
        }
    }

    /// The id under which a client that has read nothing yet comes back.
    pub fn start_id(&self) -> String {
        self.event_id(self.next - 1)
    }

    /// The id of message `number` on the wire: unique in the session, and it names the stream (B-21).
    pub fn event_id(&self, number: u64) -> String {
        format!("{}-{number}", self.outbox.number)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut inner = lock(&self.outbox.inner);
        if inner.reader == self.generation {
            inner.reader = 0;
        }
        drop(inner);
        self.outbox.changed.notify_waiters();
    }
}

/// The stream and message that an event id names.
pub fn parse_event_id(id: &str) -> Option<(u32, u64)> {
    let (stream, message) = id.split_once('-')?;
    Some((stream.parse().ok()?, message.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn replays_only_what_came_after() {
        let outbox = Outbox::new(3, &Arc::default());
        outbox.push("a".into());
        outbox.push("b".into());
        let mut first = outbox.read_after(0);
        assert_eq!(first.next().await, Read::Message(1, "a".into()));
        let mut second = outbox.read_after(1);
        assert_eq!(first.next().await, Read::End, "a newer reader takes its place");
        assert_eq!(second.next().await, Read::Message(2, "b".into()));
        outbox.interrupt(10);
        assert_eq!(second.next().await, Read::Retry(10));
        outbox.push("c".into());
        outbox.close();
        let mut third = outbox.read_after(2);
        assert_eq!(third.next().await, Read::Message(3, "c".into()));
        assert_eq!(third.next().await, Read::End);
        assert_eq!(parse_event_id(&third.event_id(3)), Some((3, 3)));
    }

    #[tokio::test]
    async fn is_bounded() {
        let outbox = Outbox::new(1, &Arc::default());
        for _ in 0..REPLAY_EVENTS * 2 {
            outbox.push("x".repeat(16));
        }
        outbox.push("y".repeat(REPLAY_BYTES + 1));
        let inner = lock(&outbox.inner);
        assert_eq!((inner.events.len(), inner.bytes), (1, REPLAY_BYTES + 1));
    }

    #[tokio::test]
    async fn a_client_that_names_a_message_to_come_reads_what_comes() {
        for after in [1, 2, u64::MAX] {
            let outbox = Outbox::new(1, &Arc::default());
            outbox.push("a".into());
            let mut reader = outbox.read_after(after);
            outbox.room().await;
            outbox.push("b".into());
            assert_eq!(reader.next().await, Read::Message(2, "b".into()), "{after}");
        }
    }

    #[tokio::test]
    async fn the_streams_of_a_session_keep_no_more_together_than_it_may() {
        let load: Arc<Load> = Arc::default();
        let streams: Vec<_> = (1..=64).map(|number| Outbox::new(number, &load)).collect();
        for stream in &streams {
            let mut reader = stream.read_after(0);
            for _ in 0..4 {
                stream.push("x".repeat(REPLAY_BYTES / 4));
                assert!(matches!(reader.next().await, Read::Message(..)));
            }
            // Nobody reads any more, and it goes on.
            drop(reader);
            stream.push("y".into());
        }
        assert!(load.bytes.load(Ordering::Relaxed) <= REPLAY_BYTES_OF_SESSION + REPLAY_BYTES);
        let mut late = streams[63].read_after(0);
        assert!(matches!(late.next().await, Read::Message(..)), "the last that was said is kept");
        drop((streams, late));
        let left = (load.bytes.load(Ordering::Relaxed), load.read.load(Ordering::Relaxed));
        assert_eq!(left, (0, 0));
    }

    #[tokio::test]
    async fn what_waits_for_a_reader_does_not_go_for_what_was_read_elsewhere() {
        let load: Arc<Load> = Arc::default();
        let (answer, general) = (Outbox::new(1, &load), Outbox::new(2, &load));
        answer.push("x".repeat(REPLAY_BYTES_OF_SESSION * 2));
        answer.close();
        let mut reader = answer.read_after(0);
        assert!(matches!(reader.next().await, Read::Message(1, _)));
        drop(reader);
        for question in ["a", "b", "c"] {
            general.push(question.into());
        }
        let mut late = general.read_after(0);
        for (number, question) in [(1, "a"), (2, "b"), (3, "c")] {
            assert_eq!(late.next().await, Read::Message(number, question.into()));
        }
        // Whoever comes back for it has not read it.
        let back = answer.read_after(0);
        assert!(load.is_much_unread());
        drop((answer, general, late, back));
        let left = (load.bytes.load(Ordering::Relaxed), load.read.load(Ordering::Relaxed));
        assert_eq!(left, (0, 0));
    }

    #[tokio::test]
    async fn a_slow_reader_holds_the_writer_back() {
        let outbox = Outbox::new(1, &Arc::default());
        let mut reader = outbox.read_after(0);
        outbox.push("x".repeat(REPLAY_BYTES));
        let writer = Arc::clone(&outbox);
        let waiting = tokio::spawn(async move { writer.room().await });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        reader.next().await;
        waiting.await.unwrap();
    }
}
