//! The streams of an HTTP/2 connection: whether its client takes what it asked for, and whether anything is under way.
//!
//! A client says of each stream how much it takes (RFC 9113 §5.2), so an answer can wait for ever while the socket has room.
//! It waits at hyper, which asks a body for one piece before there is room for it, or at h2, which keeps the rest of a piece
//! that had room in part. Each piece tells its stream when it was written, wherever that was; a stream of which the client
//! takes nothing is reset, and no other stream of the connection is touched, for behind a proxy they may be others'
//! (attacks.md PH-20).

use std::{
    collections::HashMap,
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use futures::task::AtomicWaker;
use hyper::{
    body::{Body, Frame, SizeHint},
    rt::Executor,
};
use tokio::{task::AbortHandle, time::sleep};

use super::Waits;
use crate::{respond::Answer, upstream::stdio::lock};

/// Bytes of an answer that are handed over at once: a frame that every client takes (RFC 9113 §4.2). A longer answer ends
/// once all of it was taken. One that is not ends with its only piece, which spares a frame; of it something may be left at h2,
/// where no stream that has ended can be reset. Once that was so, short answers of this connection end like long ones.
const PIECE: usize = 16 * 1024;

/// Streams among which those that are over are looked for before another is added. At most half of them
/// ([`crate::limits::HTTP2_STREAMS`]) are not.
const MANY: usize = 256;

/// How often a socket had no room.
pub type Pauses = Arc<AtomicUsize>;

tokio::task_local! {
    /// The stream that this task serves.
    static SERVED: Served;
}

/// The streams of one connection. As hyper's executor it learns of each of them.
#[derive(Clone)]
pub struct Streams(Arc<Shared>);

struct Shared {
    waits: Waits,
    pauses: Pauses,
    table: Mutex<Table>,
    /// Its client has left a short answer alone.
    is_wary: Arc<AtomicBool>,
}

#[derive(Default)]
struct Table {
    /// How many there were.
    opened: u64,
    /// How many of them were over at the last look.
    over: u64,
    streams: HashMap<u64, Stream>,
}

/// A stream that is served, or of whose answer something is left.
struct Stream {
    way: Arc<Way>,
    is_served: bool,
    task: Option<AbortHandle>,
    /// What it looked like the last time, if something waited.
    seen: Option<Seen>,
}

/// As long as this is the same, the client takes nothing that it could take. While its link is full, nobody can say.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Seen {
    taken: usize,
    pauses: usize,
}

impl Streams {
    /// A connection without a stream, whose socket counts its `pauses`.
    pub fn new(waits: Waits, pauses: Pauses) -> Self {
        Self(Arc::new(Shared { waits, pauses, table: Mutex::default(), is_wary: Arc::default() }))
    }

    /// Resets every stream of which the client takes nothing for [`Waits::write`], and at most twice that. Returns when
    /// nobody serves one any more, no other is to blame, and none is served well: nothing but the end of the connection takes
    /// back what waits there.
    pub async fn untaken(&self) {
        loop {
            sleep(self.0.waits.write).await;
            if self.look() {
                return;
            }
        }
    }

    /// One look at every stream. Returns whether there is nothing left but to end the connection.
    fn look(&self) -> bool {
        let pauses = self.0.pauses.load(Ordering::Relaxed);
        let (mut stuck, mut is_left_stuck) = (Vec::new(), false);
        let mut table = lock(&self.0.table);
        table.forget();
        // Some came to their end, some move, and some have nothing to say.
        let mut is_any_well = table.count_over();
        for stream in table.streams.values_mut() {
            let seen = stream.way.waits().then(|| Seen { taken: stream.way.taken(), pauses });
            if seen.is_some() && seen == stream.seen {
                stuck.extend(stream.task.take());
                is_left_stuck |= !stream.is_served;
            } else {
                is_any_well = true;
            }
            stream.seen = seen;
        }
        drop(table);
        if is_left_stuck {
            self.0.is_wary.store(true, Ordering::Relaxed);
        }
        // Those that are reset may have had all the room of the connection (RFC 9113 §6.9). The others may be other people's, and
        // what is left is no more than a connection may begin: its streams' last pieces.
        let is_over = is_left_stuck && stuck.is_empty() && !is_any_well;
        for task in stuck {
            tracing::debug!("a stream is reset: its client takes nothing of the answer");
            task.abort();
        }
        is_over
    }

    /// Returns when nothing was under way for [`Waits::idle`], and at most twice that.
    pub async fn idle(&self) {
        let mut before = self.quiet();
        loop {
            sleep(self.0.waits.idle).await;
            let now = self.quiet();
            if now.is_some() && now == before {
                return;
            }
            before = now;
        }
    }

    /// How many streams there were, if there is none.
    fn quiet(&self) -> Option<u64> {
        let mut table = lock(&self.0.table);
        table.forget();
        table.streams.is_empty().then_some(table.opened)
    }

    /// Notes a stream, which is served as long as the answer lives.
    fn open(&self) -> Served {
        let way = Arc::new(Way { is_wary: Arc::clone(&self.0.is_wary), ..Way::default() });
        let mut table = lock(&self.0.table);
        if table.streams.len() >= MANY {
            table.forget();
        }
        table.opened += 1;
        let number = table.opened;
        let stream = Stream { way: Arc::clone(&way), is_served: true, task: None, seen: None };
        table.streams.insert(number, stream);
        drop(table);
        Served { streams: self.clone(), number, way }
    }

    /// Notes what serves a stream. It may have ended before.
    fn serve(&self, number: u64, task: AbortHandle) {
        if let Some(stream) = lock(&self.0.table).streams.get_mut(&number)
            && stream.is_served
        {
            stream.task = Some(task);
        }
    }
}

impl Table {
    /// Without those that are over.
    fn forget(&mut self) {
        self.streams.retain(|_, stream| stream.is_served || stream.way.waits());
    }

    /// Whether any came to its end since this was last asked.
    fn count_over(&mut self) -> bool {
        let over = self.opened - self.streams.len() as u64;
        std::mem::replace(&mut self.over, over) != over
    }
}

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, serving: F) {
        let served = self.open();
        let number = served.number;
        let task = tokio::spawn(SERVED.scope(served, serving));
        self.serve(number, task.abort_handle());
    }
}

/// What the task of a stream holds.
struct Served {
    streams: Streams,
    number: u64,
    way: Arc<Way>,
}

impl Drop for Served {
    fn drop(&mut self) {
        let mut table = lock(&self.streams.0.table);
        if !self.way.waits() {
            table.streams.remove(&self.number);
        } else if let Some(stream) = table.streams.get_mut(&self.number) {
            (stream.is_served, stream.task) = (false, None);
        }
    }
}

/// How far the answer of a stream has come, in bytes. Both counts go around.
#[derive(Default)]
struct Way {
    given: AtomicUsize,
    /// Written, or given up.
    taken: AtomicUsize,
    /// Who waits until everything is taken.
    ending: AtomicWaker,
    /// Whether the end waits for that however short the answer is.
    is_wary: Arc<AtomicBool>,
}

impl Way {
    fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    fn take(&self, bytes: usize) {
        self.taken.fetch_add(bytes, Ordering::Relaxed);
        // Whoever has the last bytes that were given has them by a lock, and knows how many there are.
        if !self.waits() {
            self.ending.wake();
        }
    }

    /// Whether something was handed over that is not written yet.
    fn waits(&self) -> bool {
        self.given.load(Ordering::Relaxed) != self.taken()
    }
}

/// An answer on its way to a stream's client.
pub struct Carried {
    answer: Answer,
    /// What the answer gave and was not handed over.
    rest: Bytes,
    /// Whether it is more than one piece.
    is_long: bool,
    /// Whether the answer gave everything.
    is_over: bool,
    way: Arc<Way>,
}

impl Carried {
    /// `answer`, by the task that serves its stream.
    pub fn new(answer: Answer) -> Self {
        let way = SERVED.try_with(|served| Arc::clone(&served.way));
        debug_assert!(way.is_ok(), "the executor of the connection is its `Streams`");
        Self::by(way.unwrap_or_default(), answer)
    }

    fn by(way: Arc<Way>, answer: Answer) -> Self {
        Self { answer, rest: Bytes::new(), is_long: false, is_over: false, way }
    }

    fn give(&mut self, mut bytes: Bytes) -> Piece {
        self.rest = bytes.split_off(bytes.len().min(PIECE));
        self.is_long |= !self.rest.is_empty();
        self.way.given.fetch_add(bytes.len(), Ordering::Relaxed);
        Piece { bytes, way: Arc::clone(&self.way) }
    }
}

impl Body for Carried {
    type Data = Piece;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, Infallible>>> {
        let carried = self.get_mut();
        if !carried.rest.is_empty() {
            let rest = std::mem::take(&mut carried.rest);
            return Poll::Ready(Some(Ok(Frame::data(carried.give(rest)))));
        }
        if !carried.is_over {
            if let Some(Ok(frame)) = ready!(Pin::new(&mut carried.answer).poll_frame(cx)) {
                return Poll::Ready(Some(Ok(frame.map_data(|bytes| carried.give(bytes)))));
            }
            carried.is_over = true;
        }
        // The stream that has ended can be reset no more.
        carried.way.ending.register(cx.waker());
        if carried.way.waits() { Poll::Pending } else { Poll::Ready(None) }
    }

    fn is_end_stream(&self) -> bool {
        let may_be_left = self.way.is_wary.load(Ordering::Relaxed) && self.way.waits();
        !self.is_long && !may_be_left && self.rest.is_empty() && self.answer.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (mut hint, rest) = (self.answer.size_hint(), self.rest.len() as u64);
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint.set_lower(hint.lower().saturating_add(rest));
        hint
    }
}

/// Bytes that say when they were written.
pub struct Piece {
    bytes: Bytes,
    way: Arc<Way>,
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        self.way.take(count);
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.way.take(self.bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    /// A connection, and an answer of `length` bytes on its only stream, which some task serves.
    async fn answering(length: usize) -> (Streams, Served, Carried, tokio::task::JoinHandle<()>) {
        let streams = Streams::new(Waits::default(), Pauses::default());
        let served = streams.open();
        let task = tokio::spawn(std::future::pending());
        streams.serve(served.number, task.abort_handle());
        let answer = Answer::Whole(Some(Bytes::from(vec![b'x'; length])));
        let carried = Carried::by(Arc::clone(&served.way), answer);
        (streams, served, carried, task)
    }

    async fn next(carried: &mut Carried) -> Option<Piece> {
        carried.frame().await.and_then(|frame| frame.unwrap().into_data().ok())
    }

    #[tokio::test]
    async fn an_answer_is_handed_over_in_pieces_and_nothing_is_lost() {
        let (_streams, served, mut carried, _task) = answering(2 * PIECE + 1).await;
        assert_eq!(carried.size_hint().exact(), Some(2 * PIECE as u64 + 1));
        let mut pieces = Vec::new();
        for length in [PIECE, PIECE, 1] {
            let mut piece = next(&mut carried).await.unwrap();
            assert!(served.way.waits() && !carried.is_end_stream());
            piece.advance(1);
            assert_eq!(piece.remaining(), length - 1);
            pieces.push(piece);
        }
        let end = tokio::spawn(async move { next(&mut carried).await.is_none() });
        tokio::task::yield_now().await;
        assert!(!end.is_finished(), "there is more to take");
        drop(pieces);
        assert!(end.await.unwrap() && !served.way.waits());

        let (_streams, _served, mut carried, _task) = answering(PIECE).await;
        let piece = next(&mut carried).await.unwrap();
        assert!(piece.remaining() == PIECE && carried.is_end_stream(), "one piece is the end");
    }

    #[tokio::test]
    async fn only_who_takes_nothing_that_waits_is_cut() {
        let (streams, served, mut carried, task) = answering(2 * PIECE).await;
        for _ in 0..3 {
            assert!(!streams.look(), "there is nothing to take");
        }
        let mut piece = next(&mut carried).await.unwrap();
        for _ in 0..3 {
            assert!(!streams.look());
            piece.advance(1);
        }
        for _ in 0..3 {
            assert!(!streams.look());
            streams.0.pauses.fetch_add(1, Ordering::Relaxed);
        }
        tokio::task::yield_now().await;
        assert!(!task.is_finished(), "it moves, or cannot");
        assert!(!streams.look() && !streams.look(), "the stream is reset, and the connection goes on");
        assert!(task.await.unwrap_err().is_cancelled());
        assert_eq!(streams.quiet(), None);
        drop((piece, served));
        assert_eq!(streams.quiet(), Some(1));
    }

    #[tokio::test]
    async fn the_end_of_an_answer_that_nobody_serves_is_waited_for_and_not_for_ever() {
        let (streams, served, mut carried, _task) = answering(1).await;
        let piece = next(&mut carried).await.unwrap();
        drop((served, carried));
        assert_eq!(streams.quiet(), None, "something is under way");
        assert!(!streams.look());
        assert!(streams.look());
        drop(piece);
        assert!(!streams.look());
        assert_eq!(streams.quiet(), Some(1));
    }

    #[tokio::test]
    async fn who_leaves_an_answer_alone_takes_the_connection_from_nobody_who_is_served() {
        let (streams, served, mut carried, _task) = answering(1).await;
        let left = next(&mut carried).await.unwrap();
        assert!(carried.is_end_stream());
        drop((served, carried));
        let silent = streams.open();
        for _ in 0..3 {
            assert!(!streams.look(), "one has nothing to say");
        }
        // From now on even the shortest can be reset.
        let answer = Answer::Whole(Some(Bytes::from_static(b"x")));
        let (served, task) = (streams.open(), tokio::spawn(std::future::pending::<()>()));
        streams.serve(served.number, task.abort_handle());
        let mut carried = Carried::by(Arc::clone(&served.way), answer);
        let piece = next(&mut carried).await.unwrap();
        assert!(!carried.is_end_stream(), "its end waits until it is taken");
        assert!(!streams.look() && !streams.look());
        assert!(task.await.unwrap_err().is_cancelled());
        drop((piece, carried, served, silent));
        assert!(!streams.look(), "some came to their end");
        assert!(streams.look(), "nobody is left but who takes nothing");
        drop(left);
        assert_eq!(streams.quiet(), Some(3));
    }
}
