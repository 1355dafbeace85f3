//! A client's legacy session: its id, its streams, its links to servers.

mod hub;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
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
use tokio::{sync::oneshot, time::Instant};

pub use hub::Hub;

use super::{
    link::{Link, NoLink, revision_of},
    sessions::Number,
};
use crate::{
    Asker, Gate, Target, badge,
    call::announce,
    flow::{Replies, Reply},
    inspect::{self, Known, Passed},
    limits::{DRAIN, SESSION_IDLE},
    merged, opinions,
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
            announce(answer.field("capabilities"), &mut splice);
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

/// When a request may be sent: once this is closed.
pub type Turn = oneshot::Receiver<()>;

/// Answers one message of a session; `asker` is who sends this one, by the token it came with. A request is judged at once, and sent
/// to a server when it is its `turn`, if there is one.
///
/// # Errors
/// The refusal.
pub async fn exchange(
    gate: &Arc<Gate>,
    asker: &Asker,
    session: &Arc<Session>,
    message: &Message,
    turn: Option<Turn>,
) -> Result<Reply, Refusal> {
    match message.kind() {
        Kind::Request => request(gate, asker, session, message, turn).await,
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
                if let Err(failure) = link.tell_in(life, text).await {
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
    turn: Option<Turn>,
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
            Ok(Reply::Replies(Replies::One(Box::new(link.call(gate, asker, message, turn).await?))))
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
                session.links.iter().for_each(|link| link.cancel(&id, message));
            }
        }
        "notifications/progress" => {
            if let Some((link, life, text)) = session.hub.progress(message) {
                let _ = link.tell_in(life, text).await;
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
