//! Who gets what a process writes: the request it belongs to, or whoever takes what answers none.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use bartizan_mcp::{Era, Kind, Message, era, json::quote};
use bartizan_model::ServerName;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use super::{
    super::under_way::{UnderWay, Within},
    Sink, lock,
};
use crate::{
    limits::{EARLY, EARLY_BYTES, PIPE_BYTES, PIPE_BYTES_WITH_RESPONSES},
    starts::Turn,
};

/// What the reading side and the asking side share.
pub(super) struct Shared {
    pub(super) server: ServerName,
    pub(super) era: Era,
    pub(super) routes: Mutex<Routes>,
    pub(super) sink: Mutex<Outlet>,
    /// Several clients use it: what it says unasked is nobody's in particular.
    pub(super) is_shared: AtomicBool,
    pub(super) ended: watch::Sender<Option<String>>,
    /// The next id of ours: what is below was asked.
    pub(super) next: AtomicU64,
    /// Bytes of its messages that nobody has fetched yet.
    pub(super) load: Arc<AtomicUsize>,
    /// Its end was counted against its server.
    pub(super) is_counted: AtomicBool,
    /// Until it has said something: others begin then.
    pub(super) turn: Mutex<Option<Turn>>,
}

/// Where messages go that answer no request.
pub(super) enum Outlet {
    /// To a sink that is yet to come: a legacy server may ping and log before it hears that the handshake is over (25/life).
    Early(Vec<Message>),
    /// To this one.
    Sink(Sink),
}

impl Default for Outlet {
    fn default() -> Self {
        Self::Early(Vec::new())
    }
}

/// What waits to be fetched.
pub(super) enum Queued {
    /// A message, and the place it takes.
    Message(Message, Load),
    /// There was no room for the response.
    NoRoom,
}

/// The bytes of a message that waits.
pub(super) struct Load(Arc<AtomicUsize>, usize);

impl Load {
    /// What a message takes beside its text.
    const BESIDE: usize = 512;

    /// The place for `message`, if no more than `most` bytes wait then.
    fn take(all: &Arc<AtomicUsize>, message: &Message, most: usize) -> Option<Self> {
        let bytes = message.text().len() + Self::BESIDE;
        let added = all.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |load| {
            load.checked_add(bytes).filter(|load| *load <= most)
        });
        added.is_ok().then(|| Self(Arc::clone(all), bytes))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

#[derive(Default)]
pub(super) struct Routes {
    /// What it may be speaking of.
    pub(super) under_way: UnderWay,
    /// Requests on their way, by our id.
    pub(super) waiting: BTreeMap<u64, mpsc::Sender<Queued>>,
    /// Requests of ours to the process whose subscription outlives nothing but themselves.
    pub(super) closed: bool,
}

impl Shared {
    pub(super) fn within(&self) -> Within {
        lock(&self.routes).under_way.within(Instant::now())
    }

    pub(super) fn close(&self) {
        let mut routes = lock(&self.routes);
        routes.closed = true;
        routes.waiting.clear();
        drop(routes);
        self.has_begun();
    }

    /// It does not begin any more.
    pub(super) fn has_begun(&self) {
        lock(&self.turn).take();
    }

    /// Hands a message to the request it belongs to, else to the sink. Answers whether it may send such a message at all: a late
    /// answer it may, one to what it was never asked it may not.
    pub(super) fn deliver(&self, message: Message) -> bool {
        let rest = {
            let mut routes = lock(&self.routes);
            match self.route_of(&message, &routes) {
                Some(id) if message.kind() == Kind::Response => {
                    routes.under_way.end(id, Instant::now());
                    if let Some(to) = routes.waiting.remove(&id) {
                        let queued = match Load::take(&self.load, &message, PIPE_BYTES_WITH_RESPONSES) {
                            Some(load) => Queued::Message(message, load),
                            None => Queued::NoRoom,
                        };
                        // Notifications leave one place free, so a response always has it.
                        let _ = to.try_send(queued);
                    }
                    return id < self.next.load(Ordering::Relaxed);
                }
                Some(id) => {
                    if let Some(to) = routes.waiting.get(&id) {
                        let load = Load::take(&self.load, &message, PIPE_BYTES).filter(|_| to.capacity() > 1);
                        match load {
                            Some(load) => drop(to.try_send(Queued::Message(message, load))),
                            None => {
                                tracing::warn!(server = %self.server, "a flood of notifications was cut");
                            }
                        }
                    }
                    return true;
                }
                None => message,
            }
        };
        if rest.kind() == Kind::Response {
            tracing::debug!(server = %self.server, "a response to no request was dropped");
            // Errors of what could not be read have no id (JSON-RPC 2.0 §5.1).
            return rest.id_value().is_none_or(|id| id.is_null());
        }
        // Servers of the stateless era send no requests (spec.md A-69, C-37).
        let may_be = self.era == Era::Legacy || rest.kind() != Kind::Request;
        let mut outlet = lock(&self.sink);
        match &mut *outlet {
            Outlet::Sink(sink) => {
                let sink = Arc::clone(sink);
                drop(outlet);
                sink(rest);
            }
            Outlet::Early(early) if self.keeps(early, &rest) => early.push(rest),
            Outlet::Early(_) => {
                tracing::debug!(server = %self.server, method = %quote(&rest.method()), "nobody to tell");
            }
        }
        may_be
    }

    /// Whether it may send this so early, and there is room for it.
    fn keeps(&self, early: &[Message], message: &Message) -> bool {
        let may_be =
            self.era == Era::Legacy && matches!(&*message.method(), "ping" | "notifications/message");
        let bytes = early.iter().chain([message]).map(|m| m.text().len()).sum::<usize>();
        may_be && early.len() < EARLY && bytes <= EARLY_BYTES
    }

    /// Has `sink` take what answers no request, what came before it first.
    pub(super) fn tell(&self, sink: Sink) {
        // What comes meanwhile waits, and stays behind it.
        let mut outlet = lock(&self.sink);
        if let Outlet::Early(early) = &mut *outlet {
            std::mem::take(early).into_iter().for_each(|message| sink(message));
        }
        *outlet = Outlet::Sink(sink);
    }

    fn route_of(&self, message: &Message, routes: &Routes) -> Option<u64> {
        let number = |value: bartizan_mcp::json::Value<'_>| value.as_u64();
        if message.kind() == Kind::Response {
            return message.id_value().and_then(number);
        }
        let method = message.method();
        if method == "notifications/progress" {
            return message.param("progressToken").and_then(number).or(Some(0));
        }
        if let Some(listen) = message.meta(era::META_SUBSCRIPTION) {
            return number(listen).or(Some(0));
        }
        if era::is_change(&method) || method == "notifications/cancelled" {
            return None;
        }
        if self.is_shared.load(Ordering::Relaxed) {
            return None;
        }
        // On stdio nothing says which request a log line or a question belongs to; it is the newest one's, as the
        // streams of HTTP would have it (spec.md B-15). Without one it goes to the sink.
        (self.era == Era::Legacy || method == "notifications/message")
            .then(|| routes.waiting.keys().next_back().copied())
            .flatten()
    }
}

#[cfg(test)]
mod tests {
    use bartizan_mcp::message;

    use super::*;
    use crate::limits::{ANSWER_BYTES, PIPE_MESSAGES};

    /// A process that is asked `ids`, and what comes of each.
    fn asked(ids: std::ops::Range<u64>) -> (Shared, Vec<mpsc::Receiver<Queued>>) {
        let mut routes = Routes::default();
        let open = |id: u64| {
            let (to, from) = mpsc::channel(PIPE_MESSAGES);
            routes.waiting.insert(id, to);
            from
        };
        let next = AtomicU64::new(ids.end);
        let answers = ids.map(open).collect();
        let shared = Shared {
            server: "up".parse().unwrap(),
            era: Era::Legacy,
            routes: Mutex::new(routes),
            sink: Mutex::default(),
            is_shared: AtomicBool::new(false),
            ended: watch::Sender::new(None),
            next,
            load: Arc::default(),
            is_counted: AtomicBool::new(false),
            turn: Mutex::default(),
        };
        (shared, answers)
    }

    fn message(text: String) -> Message {
        Message::parse(text.into_bytes()).unwrap()
    }

    #[test]
    fn what_nobody_fetches_is_bounded() {
        let (shared, mut answers) = asked(1..5);
        let load = || shared.load.load(Ordering::Relaxed);
        let mib = "x".repeat(1024 * 1024);
        let progress = |id: u64, text: &str| {
            let params = format!(r#"{{"progressToken":{id},"progress":1,"message":"{text}"}}"#);
            shared.deliver(message(message::notification("notifications/progress", Some(&params))));
        };
        let answer = |id: u64, text: &str| {
            shared.deliver(message(message::result(&id.to_string(), &format!(r#"{{"a":"{text}"}}"#))));
        };
        // However many requests are under way, and however few messages that takes.
        (0..40).for_each(|n| progress(1 + n % 2, &mib));
        assert!(load() > PIPE_BYTES - 2 * mib.len() && load() <= PIPE_BYTES, "{}", load());
        let most = "x".repeat(ANSWER_BYTES - 100);
        (2..5).for_each(|id| answer(id, &most));
        assert!(load() <= PIPE_BYTES_WITH_RESPONSES, "{}", load());
        // An answer that fits still comes, after what was before it; one that does not fails its request alone.
        let mut last = |at: usize| {
            let mut last = None;
            while let Ok(queued) = answers[at].try_recv() {
                last = Some(matches!(queued, Queued::Message(m, _) if m.kind() == Kind::Response));
            }
            last
        };
        assert_eq!((last(2), last(3)), (Some(true), Some(false)));
        assert_eq!(last(1), Some(true));
        answer(1, "small");
        assert_eq!(last(0), Some(true));
        assert_eq!(load(), 0, "what is fetched makes room");
        progress(9, &mib);
        assert_eq!(load(), 0, "what nobody waits for takes none");
    }

    #[test]
    fn what_comes_before_anybody_listens_is_told_in_its_order_and_is_bounded() {
        let (shared, _answers) = asked(1..1);
        let log = |n: usize| {
            let params = format!(r#"{{"level":"info","data":{n}}}"#);
            shared.deliver(message(message::notification("notifications/message", Some(&params))));
        };
        shared.deliver(message(message::request("1", "elicitation/create", Some("{}"))));
        (0..EARLY + 3).for_each(log);
        let heard = Arc::<Mutex<Vec<String>>>::default();
        let into = Arc::clone(&heard);
        let data = |message: &Message| message.param("data").map(|n| n.text().to_owned()).unwrap_or_default();
        shared.tell(Arc::new(move |message| lock(&into).push(data(&message))));
        log(EARLY + 3);
        let heard = lock(&heard).clone();
        let numbers: Vec<_> = (0..EARLY).chain([EARLY + 3]).map(|n| n.to_string()).collect();
        assert_eq!(heard, numbers);
    }
}
