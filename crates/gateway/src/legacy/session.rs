//! A client's legacy session: its id, its streams, its links to servers.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bartizan_mcp::{
    Era, Id, Kind, Message, Refusal, Revision, code, era,
    json::{Kind as Json, Value},
    message, unknown_method,
};
use bartizan_policy::limits::Held;
use bartizan_shield::Inspector;
use tokio::time::Instant;

use super::{
    link::{Link, NoLink, revision_of},
    sessions::Number,
};
use crate::{
    Asker, Gate, Target, badge,
    flow::{Replies, Reply},
    inspect::{self, Known, Passed},
    limits::{DRAIN, REPLAY_STREAMS, SERVER_REQUESTS, SESSION_IDLE},
    merged, opinions,
    outbox::{Load, Outbox, Reader, parse_event_id},
    quota::Taken,
    record::Ending,
    upstream::stdio::lock,
};

/// One session.
pub struct Session {
    number: Number,
    target: Target,
    asker: Asker,
    revision: Revision,
    hub: Arc<Hub>,
    links: Vec<Arc<Link>>,
    used: Mutex<Instant>,
    /// Whether its row is written; until then its id is nobody's.
    is_kept: AtomicBool,
    /// Its place among its caller's sessions.
    _slot: Taken,
}

impl Session {
    /// What was negotiated.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Whose it is.
    pub fn asker(&self) -> &Asker {
        &self.asker
    }

    /// Its streams.
    pub fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// Its conversations with servers.
    pub fn links(&self) -> &[Arc<Link>] {
        &self.links
    }

    /// Begins to listen to what its servers say unasked.
    pub fn listen(&self) {
        self.links.iter().for_each(Link::listen);
    }

    /// Its number, which its sealed id holds.
    pub(super) fn number(&self) -> Number {
        self.number
    }

    /// Which endpoint it is of.
    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// It is used now.
    pub(super) fn touch(&self) {
        *lock(&self.used) = Instant::now();
    }

    /// Whether somebody used it, or reads one of its streams, since `then`.
    pub(super) fn is_used_since(&self, then: Instant) -> bool {
        *lock(&self.used) >= then || self.hub.is_read()
    }

    /// Whether nobody used it for so long that it is over.
    pub(super) fn is_idle(&self) -> bool {
        lock(&self.used).elapsed() > SESSION_IDLE && !self.hub.is_read()
    }

    /// Whether its row is written.
    pub(super) fn is_kept(&self) -> bool {
        self.is_kept.load(Ordering::Acquire)
    }

    /// Its row is written.
    pub(super) fn keep(&self) {
        self.is_kept.store(true, Ordering::Release);
    }

    /// Closes its streams and its conversations.
    pub(super) fn end(&self) {
        self.hub.close();
        self.links.iter().for_each(|l| l.end());
    }

    /// The same, once the requests under way have their answers, within [`DRAIN`]. It must take no new ones any more.
    pub(super) fn finish(self: &Arc<Self>) {
        let is_busy = |session: &Self| session.links.iter().any(|link| link.is_busy());
        if !is_busy(self) {
            return self.end();
        }
        // What answers no request has no other end.
        self.hub.close_general();
        let me = Arc::clone(self);
        tokio::spawn(async move {
            let until = Instant::now() + DRAIN;
            while is_busy(&me) && Instant::now() < until {
                tokio::time::sleep(LOOK).await;
            }
            me.end();
        });
    }
}

/// How often it is looked whether the last request of a session that ends has its answer.
const LOOK: Duration = Duration::from_millis(50);

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
}

impl Hub {
    /// A new stream for one answer.
    pub fn open_stream(&self) -> Arc<Outbox> {
        let mut streams = lock(&self.streams);
        streams.last += 1;
        let outbox = Outbox::new(streams.last, &self.load);
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

    fn is_read(&self) -> bool {
        let streams = lock(&self.streams);
        streams.kept.iter().chain(&streams.general).any(|o| o.is_read())
    }

    pub(super) fn sweep(&self) {
        let mut streams = lock(&self.streams);
        streams.kept.retain(|o| !o.is_stale());
        streams.kept.shrink_to_fit();
    }

    fn close(&self) {
        let streams = lock(&self.streams);
        streams.kept.iter().chain(&streams.general).for_each(|o| o.close());
    }

    /// Ends the stream of what answers no request.
    fn close_general(&self) {
        self.general().close();
    }

    /// Notes a server's request; answers it as the client gets it, under an id of this session's own (B-40).
    pub fn ask(&self, link: &Arc<Link>, request: &Message) -> Option<String> {
        let mut asked = lock(&self.asked);
        if asked.len() >= SERVER_REQUESTS {
            return None;
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
                life: link.life(),
                id,
                method: request.method().into_owned(),
                token: token.map(|t| t.text().to_owned()),
            },
        );
        Some(splice.finish())
    }

    /// Forgets the request that `link`'s server calls `id` (a JSON text); answers our id for it.
    pub fn forget(&self, link: &Arc<Link>, id: &str) -> Option<u64> {
        let mut asked = lock(&self.asked);
        let ours = asked
            .iter()
            .find(|(_, a)| a.id == id && a.link.as_ptr() == Arc::as_ptr(link))
            .map(|(n, _)| *n)?;
        asked.remove(&ours);
        Some(ours)
    }

    /// Forgets everything that `link`'s server asked, for it is not there any more to be answered.
    pub fn forget_all(&self, link: &Arc<Link>) {
        lock(&self.asked).retain(|_, asked| asked.link.as_ptr() != Arc::as_ptr(link));
    }

    /// The server that asked what the client answers, in which of its lives, what it asked, and the answer as that server gets
    /// it.
    fn answer(&self, response: &Message) -> Option<(Arc<Link>, u64, String, String)> {
        let ours = response.id_value()?.as_u64()?;
        let asked = lock(&self.asked).remove(&ours)?;
        let link = asked.link.upgrade()?;
        let mut splice = response.splice();
        splice.set(response.root(), "id", asked.id);
        link.meta_up(response, &mut splice);
        Some((link, asked.life, asked.method, splice.finish()))
    }

    /// The server whose request the client reports progress on, and the report as that server gets it.
    fn progress(&self, report: &Message) -> Option<(Arc<Link>, String)> {
        let token = report.param("progressToken")?;
        let asked = lock(&self.asked);
        let about = asked.get(&token.as_u64()?)?;
        let link = about.link.upgrade()?;
        let mut splice = report.splice();
        splice.replace(token, about.token.clone()?);
        link.meta_up(report, &mut splice);
        Some((link, splice.finish()))
    }
}

/// Answers `initialize`: opens the servers, then the session. The session id comes with the response.
///
/// # Errors
/// The refusal.
pub async fn initialize(
    gate: &Arc<Gate>,
    asker: &Asker,
    target: &Target,
    request: &Message,
) -> Result<(Arc<Session>, String, String), Refusal> {
    let id = request.id_value().map(|v| v.text().to_owned()).unwrap_or_default();
    let hello = hello_of(request)?;
    let servers = gate.servers(target)?;
    // It is under way until its servers have answered.
    let _entered = gate.quotas.enter(asker, None, false, request).await?;
    let slot = gate.quotas.hold(Held::Session, asker).await?;
    let hub = Arc::new(Hub::default());
    let (links, revision, text) = match (target, servers.as_slice()) {
        (Target::Server(_), [server]) => {
            badge::check(asker, server, Era::Legacy).await?;
            let opened = Link::open(gate, server, asker.clone(), false, Arc::clone(&hub), hello).await;
            let (link, answer) = match opened {
                Ok(opened) => opened,
                Err(NoLink::Refused(answer)) => {
                    let changed = greeting(gate, server, &answer)?;
                    let refused = NoLink::Refused(changed.unwrap_or(answer));
                    return Err(refusal_of(refused, server.name().as_str()));
                }
                Err(no_link) => return Err(refusal_of(no_link, server.name().as_str())),
            };
            let changed = greeting(gate, server, &answer)?;
            let answer = changed.unwrap_or(answer);
            let failed = |f: crate::upstream::Failure| f.refusal(server.name().as_str());
            let revision = revision_of(&answer).map_err(failed)?;
            let mut splice = answer.splice();
            splice.put(answer.root(), answer.id_value(), "id", id.as_str());
            if let Some(instructions) = answer.field("instructions")
                && let Some(text) = instructions.as_str()
                && !gate.catalog.shows_instructions(server, &asker.key, &text).await
            {
                splice.replace(instructions, "\"\"");
            }
            (vec![link], revision, splice.finish())
        }
        _ => merged::initialize(gate, asker, &servers, &hub, &hello, &id).await?,
    };
    let mut number = [0; 16];
    gate.entropy.fill(&mut number);
    let (used, is_kept) = (Mutex::new(Instant::now()), AtomicBool::new(false));
    let (target, asker) = (target.clone(), asker.clone());
    let session = Session { number, target, asker, revision, hub, links, used, is_kept, _slot: slot };
    let (session, sealed) = gate.sessions.add(session).await?;
    Ok((session, sealed, text))
}

/// Judges what a server says when it is greeted; answers what goes on in its place, if it was changed.
///
/// # Errors
/// The refusal, if it must not be seen.
pub fn greeting(
    gate: &Gate,
    server: &Arc<crate::server::Server>,
    answer: &Message,
) -> Result<Option<Message>, Refusal> {
    let (shield, entropy) = (gate.shield.load(), gate.entropy.as_ref());
    let (inspector, ending) = (&mut Inspector::default(), &mut Ending::default());
    // The instructions are a definition, judged with the pins. An error has none.
    let inspected = match (answer.result(), inspect::has_proper_instructions(answer)) {
        (Some(_), Err(failure)) => Err(failure),
        (result, _) => {
            let known = Known { judged: result.map(|_| "instructions"), ..Known::default() };
            inspect::answer(&shield, inspector, server, answer, known, entropy, ending)
        }
    };
    match inspected {
        Ok(Passed::AsItIs | Passed::Dropped) => Ok(None),
        Ok(Passed::Changed(changed)) => Ok(Some(*changed)),
        Err(failure) => Err(Refusal { status: 200, ..failure.refusal(server.name().as_str()) }),
    }
}

/// Why an `initialize` failed, for the client.
pub fn refusal_of(no_link: NoLink, server: &str) -> Refusal {
    match no_link {
        NoLink::Modern => era::mismatch(server, Era::Legacy),
        NoLink::Failed(failure) => failure.refusal(server),
        NoLink::Refused(answer) => {
            let error = answer.error();
            let text = error.and_then(|e| e.get("message")).and_then(Value::as_str).unwrap_or_default();
            let code =
                answer.error_code().and_then(|c| i32::try_from(c).ok()).unwrap_or(code::INTERNAL_ERROR);
            if code == code::URL_ELICITATION_REQUIRED {
                // No revision is agreed on yet, so nobody can be asked to open anything (spec.md B-41).
                let text = format!("the server `{server}` wants an address opened before it says who it is");
                return Refusal::new(400, code::UPSTREAM_PROTOCOL, text);
            }
            let refusal = Refusal::new(400, code, text);
            match error.and_then(|e| e.get("data")) {
                Some(data) => refusal.with_data(data.text()),
                None => refusal,
            }
        }
    }
}

/// The handshake's parameters as servers get them: a version we do not speak becomes the newest legacy one (B-02).
fn hello_of(request: &Message) -> Result<String, Refusal> {
    let invalid = |text: &str| Refusal::new(400, code::INVALID_PARAMS, text);
    let params = request.params().ok_or_else(|| invalid("`initialize` needs `params`"))?;
    let version = params.get("protocolVersion");
    let named = version
        .and_then(Value::as_str)
        .ok_or_else(|| invalid("`initialize` needs the string `params.protocolVersion`"))?;
    if params.get("capabilities").is_none_or(|c| c.kind() != Json::Object) {
        return Err(invalid("`initialize` needs the object `params.capabilities`"));
    }
    let is_ours = Revision::named(&named).is_some_and(|r| r.era() == Era::Legacy);
    let mut splice = bartizan_mcp::Splice::new(params.text());
    if let Some(version) = version.filter(|_| !is_ours) {
        splice.replace(version, format!("\"{}\"", Revision::V2025_11_25.name()));
    }
    Ok(splice.finish())
}

/// Answers one message of a session; `asker` is who sends this one, by the token it came with.
///
/// # Errors
/// The refusal.
pub async fn exchange(
    gate: &Arc<Gate>,
    asker: &Asker,
    session: &Arc<Session>,
    message: &Message,
) -> Result<Reply, Refusal> {
    match message.kind() {
        Kind::Request => request(gate, asker, session, message).await,
        Kind::Notification => {
            // What is taken back makes less work, never more.
            if message.method() != "notifications/cancelled" {
                let _entered = gate.quotas.enter(asker, None, false, message).await?;
            }
            notification(gate, asker, session, message).await
        }
        Kind::Response => {
            if let Some((link, life, asked, text)) = session.hub.answer(message) {
                let server = link.server();
                let judged = match opinions::word(gate, server, message).await {
                    Ok(()) => gate.policy.may_tell(asker, server, Era::Legacy, message).await,
                    refused => refused,
                };
                let action = message.field("action").and_then(Value::as_str);
                let answer = crate::record::Answer {
                    method: Some(&asked),
                    action: action.as_deref(),
                    code: message.error_code(),
                };
                server.voice().answered(asker, None, &answer, judged.is_ok());
                let text = match judged {
                    Ok(()) => {
                        link.note_client_task(&asked, message);
                        text
                    }
                    Err(refusal) => {
                        gate.recorder.stopped(&asker.caller, server.name(), "answer", &refusal);
                        refused_answer(&text, &refusal)
                    }
                };
                if link.life() != life {
                    tracing::debug!(server = %link.server().name(), "the server that asked is gone");
                } else if let Err(failure) = link.tell(text).await {
                    tracing::debug!(server = %link.server().name(), %failure, "a client's answer was not delivered");
                }
            }
            // An answer nobody waits for comes from a race as often as from malice; it goes nowhere (B-11).
            Ok(Reply::Accepted)
        }
    }
}

/// What a server gets in the place of an answer it must not see.
fn refused_answer(answer: &str, refusal: &Refusal) -> String {
    let id = Value::of(answer).get("id").map_or("null", Value::text);
    message::error(Some(id), refusal.code, "the gateway withholds the answer", None)
}

async fn request(
    gate: &Arc<Gate>,
    asker: &Asker,
    session: &Arc<Session>,
    message: &Message,
) -> Result<Reply, Refusal> {
    let method = message.method();
    let id = message.id_value().map(|v| v.text().to_owned()).unwrap_or_default();
    let allowed = || session.links.iter().any(|l| l.server().allows(&method));
    match method.as_ref() {
        "ping" => return Ok(Reply::Message { status: 200, text: message::result(&id, "{}") }),
        "initialize" => {
            return Err(Refusal::new(400, code::INVALID_REQUEST, "this session is initialized already"));
        }
        _ if !era::is_client_request(Era::Legacy, &method) && !allowed() => {
            return Err(unknown_method(Era::Legacy, &method));
        }
        _ => era::check_params(message)?,
    }
    match (&session.target, session.links.as_slice()) {
        (Target::Server(_), [link]) => {
            Ok(Reply::Replies(Replies::One(Box::new(link.call(gate, asker, message).await?))))
        }
        _ => merged::legacy(gate, asker, session, message).await,
    }
}

async fn notification(
    gate: &Arc<Gate>,
    asker: &Asker,
    session: &Arc<Session>,
    message: &Message,
) -> Result<Reply, Refusal> {
    let method = message.method();
    if !era::is_client_notification(Era::Legacy, &method)
        && !session.links.iter().any(|l| l.server().allows(&method))
    {
        return Err(Refusal::new(
            400,
            code::INVALID_REQUEST,
            "this notification is not part of this revision",
        ));
    }
    match method.as_ref() {
        "notifications/cancelled" => {
            if let Some(id) = message.param("requestId").map(Id::of) {
                for link in &session.links {
                    if link.cancel(&id, message).await {
                        break;
                    }
                }
            }
        }
        "notifications/progress" => {
            if let Some((link, text)) = session.hub.progress(message) {
                let _ = link.tell(text).await;
            }
        }
        _ => {
            for link in &session.links {
                let server = link.server();
                // What becomes of an answer is for whoever asked.
                if method == "notifications/tasks/status" && !link.has_client_task(message) {
                    continue;
                }
                let is_known = era::is_client_notification(Era::Legacy, &method) || server.allows(&method);
                if !is_known || opinions::word(gate, server, message).await.is_err() {
                    continue;
                }
                if let Err(refusal) = gate.policy.may_tell(asker, server, Era::Legacy, message).await {
                    gate.recorder.stopped(&asker.caller, server.name(), &method, &refusal);
                    continue;
                }
                if let Err(failure) = link.tell(message.text().to_owned()).await {
                    tracing::debug!(server = %link.server().name(), %failure, "a notification was not delivered");
                }
            }
        }
    }
    Ok(Reply::Accepted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::REPLAY_BYTES;

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
