//! The client's side of a session: its streams, and the questions put to it.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use bartizan_mcp::Message;
use tokio::sync::Notify;

use super::super::link::Link;
use crate::{
    limits::{REPLAY_STREAMS, SERVER_REQUESTS},
    outbox::{Load, Outbox, Reader, parse_event_id},
    upstream::stdio::lock,
};

/// The client's side of a session: its streams, and the questions put to it.
#[derive(Default)]
pub struct Hub {
    streams: Mutex<Streams>,
    /// What its streams keep.
    load: Arc<Load>,
    next: AtomicU64,
    asked: Mutex<HashMap<u64, Asked>>,
}

#[derive(Default)]
struct Streams {
    last: u32,
    kept: VecDeque<Arc<Outbox>>,
    general: Option<Arc<Outbox>>,
    /// The session is over: whoever found it a moment ago and opens a stream now finds its end.
    is_over: bool,
}

impl Streams {
    /// Lets go of the oldest of the finished streams, while there are too many or all keep too much; the last one stays.
    fn evict(&mut self, load: &Load) {
        let mut closed = self.kept.iter().filter(|stream| stream.is_closed()).count();
        while closed > 1 && (closed > REPLAY_STREAMS || load.is_much()) {
            let Some(at) = self.kept.iter().position(|stream| stream.is_closed()) else { return };
            self.kept.remove(at);
            closed -= 1;
        }
    }
}

/// A server's request that waits for the client's answer.
struct Asked {
    link: Weak<Link>,
    /// In which of the link's lives.
    life: u64,
    id: String,
    method: String,
    token: Option<String>,
    /// On the way to whose answer it came, if it came so.
    within: Option<Weak<Notify>>,
}

impl Asked {
    /// Whether the request has its answer on whose way it came: whoever asked waits no more.
    fn is_late(&self) -> bool {
        self.within.as_ref().is_some_and(|request| request.strong_count() == 0)
    }
}

impl Hub {
    /// A new stream for one answer.
    pub fn open_stream(&self) -> Arc<Outbox> {
        let mut streams = lock(&self.streams);
        streams.last += 1;
        let outbox = Outbox::new(streams.last, &self.load);
        if streams.is_over {
            outbox.close();
        }
        streams.kept.push_back(Arc::clone(&outbox));
        streams.evict(&self.load);
        outbox
    }

    /// Ends one answer's stream, which is kept for a while.
    pub fn close_stream(&self, outbox: &Outbox) {
        outbox.close();
        lock(&self.streams).evict(&self.load);
    }

    /// The stream of what answers no request.
    pub fn general(&self) -> Arc<Outbox> {
        let mut streams = lock(&self.streams);
        if let Some(general) = &streams.general {
            return Arc::clone(general);
        }
        streams.last += 1;
        let general = Outbox::new(streams.last, &self.load);
        if streams.is_over {
            general.close();
        }
        streams.general = Some(Arc::clone(&general));
        general
    }

    /// Resumes the stream that `event_id` names, after the message it names (B-22).
    pub fn resume(&self, event_id: &str) -> Option<Reader> {
        let (number, after) = parse_event_id(event_id)?;
        let streams = lock(&self.streams);
        let stream = streams.kept.iter().chain(&streams.general).find(|o| o.number() == number)?;
        Some(stream.read_after(after))
    }

    pub(super) fn is_read(&self) -> bool {
        let streams = lock(&self.streams);
        streams.kept.iter().chain(&streams.general).any(|o| o.is_read())
    }

    pub(in crate::legacy) fn sweep(&self) {
        let mut streams = lock(&self.streams);
        streams.kept.retain(|o| !o.is_stale());
        streams.kept.shrink_to_fit();
    }

    pub(super) fn close(&self) {
        let mut streams = lock(&self.streams);
        streams.is_over = true;
        streams.kept.iter().chain(&streams.general).for_each(|o| o.close());
    }

    /// Ends the stream of what answers no request.
    pub(super) fn close_general(&self) {
        self.general().close();
    }

    /// Notes a server's request, which came `within` one of the client's if that is known; answers it as the client gets it,
    /// under an id of this session's own (B-40). One server's questions leave room for another's, and those that nobody answered
    /// while it mattered for others.
    ///
    /// `life` is in which of the link's lives it was asked; what another one asked is not put.
    pub fn ask(
        &self,
        link: &Arc<Link>,
        life: u64,
        request: &Message,
        within: Option<Weak<Notify>>,
    ) -> Option<String> {
        let mut asked = lock(&self.asked);
        // With the lock held, so that it is either seen here or forgotten with the others of its life.
        if link.life() != life {
            return None;
        }
        let is_full = |asked: &HashMap<u64, Asked>| {
            asked.values().filter(|a| a.link.as_ptr() == Arc::as_ptr(link)).count() >= SERVER_REQUESTS
        };
        if is_full(&asked) {
            asked.retain(|_, question| !question.is_late());
            if is_full(&asked) {
                return None;
            }
        }
        let ours = self.next.fetch_add(1, Ordering::Relaxed);
        let id = request.id_value()?.text().to_owned();
        let token = request.meta("progressToken");
        let mut splice = request.splice();
        splice.set(request.root(), "id", ours.to_string());
        link.meta_down(request, Some(&ours.to_string()), &mut splice);
        asked.insert(
            ours,
            Asked {
                link: Arc::downgrade(link),
                life,
                id,
                method: request.method().into_owned(),
                token: token.map(|t| t.text().to_owned()),
                within,
            },
        );
        Some(splice.finish())
    }

    /// Forgets the request that `link`'s server called `id` (a JSON text) in its `life`; answers our id for it.
    pub fn forget(&self, link: &Arc<Link>, life: u64, id: &str) -> Option<u64> {
        let mut asked = lock(&self.asked);
        let is_it = |a: &Asked| a.id == id && a.life == life && a.link.as_ptr() == Arc::as_ptr(link);
        let ours = asked.iter().find(|(_, a)| is_it(a)).map(|(n, _)| *n)?;
        asked.remove(&ours);
        Some(ours)
    }

    /// Forgets everything that `link`'s server asked, for its client is not to answer it any more. Answers our id for each question, by
    /// which it is to be withdrawn, and the server's, a JSON text.
    #[must_use]
    pub fn forget_all(&self, link: &Arc<Link>) -> Vec<(u64, String)> {
        let its = lock(&self.asked)
            .extract_if(|_, asked| asked.link.as_ptr() == Arc::as_ptr(link))
            .collect::<Vec<_>>();
        its.into_iter().map(|(ours, asked)| (ours, asked.id)).collect()
    }

    /// The server that asked what the client answers, in which of its lives, what it asked, and the answer as that server gets
    /// it.
    pub(super) fn answer(&self, response: &Message) -> Option<(Arc<Link>, u64, String, String)> {
        let ours = response.id_value()?.as_u64()?;
        let asked = lock(&self.asked).remove(&ours)?;
        let link = asked.link.upgrade()?;
        let mut splice = response.splice();
        splice.set(response.root(), "id", asked.id);
        link.meta_up(response, &mut splice);
        Some((link, asked.life, asked.method, splice.finish()))
    }

    /// The server whose request the client reports progress on, in which of its lives it asked, and the report as that server gets
    /// it.
    pub(super) fn progress(&self, report: &Message) -> Option<(Arc<Link>, u64, String)> {
        let token = report.param("progressToken")?;
        let asked = lock(&self.asked);
        let about = asked.get(&token.as_u64()?)?;
        let link = about.link.upgrade()?;
        let mut splice = report.splice();
        splice.replace(token, about.token.clone()?);
        link.meta_up(report, &mut splice);
        Some((link, about.life, splice.finish()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::REPLAY_BYTES;

    #[test]
    fn a_session_that_is_over_opens_no_streams() {
        let hub = Hub::default();
        hub.close();
        assert!(hub.general().is_closed() && hub.open_stream().is_closed());
    }

    #[test]
    fn a_session_keeps_the_last_of_its_finished_streams() {
        let hub = Hub::default();
        let all: Vec<_> = (0..100).map(|_| hub.open_stream()).collect();
        assert_eq!(lock(&hub.streams).kept.len(), 100, "those under way stay");
        for stream in &all {
            stream.push("x".into());
            hub.close_stream(stream);
        }
        let kept: Vec<_> = lock(&hub.streams).kept.iter().map(|stream| stream.number()).collect();
        assert_eq!(kept, [97, 98, 99, 100], "as they end, not when another begins");
        drop(all);
        for _ in 0..3 {
            let big = hub.open_stream();
            big.push("x".repeat(REPLAY_BYTES * 5));
            hub.close_stream(&big);
        }
        assert_eq!(lock(&hub.streams).kept.len(), 1, "together they keep no more than a session may");
        assert!(hub.resume("103-0").is_some());
    }
}
