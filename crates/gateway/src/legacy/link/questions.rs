//! What a server asks: answered here, put to the client, or refused (C-29).

use std::sync::{Arc, Weak};

use bartizan_audit::EventId;
use bartizan_mcp::{Era, Kind, Message, Refusal, Revision, code, era, json::Value, message};
use bartizan_shield::Inspector;
use tokio::sync::Notify;

use super::{Errand, Link, Way, Whence, tell_by};
use crate::{
    Gate,
    call::origins::may_ask_for_task,
    inspect::{self, Known, Passed},
    naming,
    permit::{self, Question},
    record::{Ending, Unasked},
    upstream::stdio::Process,
};

/// What became of a server's message.
pub enum Taken {
    /// It is an ordinary message of the request.
    Theirs,
    /// It is settled here.
    Done,
    /// This goes to the client in its place.
    Send(String),
}

impl Errand {
    /// Takes a message that the shield does not let pass. `call` is the call in the audit log that it came with.
    pub fn drop_from_server(&self, message: &Message, call: Option<EventId>) {
        let whence = self.whence();
        if message.kind() == Kind::Request
            && let Some((way, _)) = self.link.way_back(&whence)
        {
            self.link.refuse(message, call, Unasked::Shield, way);
        }
    }

    /// Takes what only the session can answer and came on this request's way: a server's requests, and its taking them back. `call`
    /// is the call in the audit log.
    pub fn take_from_server(&self, message: &Message, call: Option<EventId>) -> Taken {
        let whence = self.whence();
        let within = call.map(|_| Arc::downgrade(&self.cancelled));
        self.link.take_from_server(message, &whence, call, within)
    }
}

/// The refusal of what its client is not asked.
pub(super) fn unasked(why: &str) -> Refusal {
    permit::unasked(200, why)
}

impl Link {
    /// Takes what only the session can answer.
    pub(super) fn take_from_server(
        self: &Arc<Self>,
        message: &Message,
        whence: &Whence,
        call: Option<EventId>,
        within: Option<Weak<Notify>>,
    ) -> Taken {
        let method = message.method();
        match message.kind() {
            Kind::Request => self.ask_client(message, &method, whence, call, within),
            Kind::Notification if method == "notifications/cancelled" => {
                let forgotten = match whence {
                    Whence::Life(life, _) => message
                        .param("requestId")
                        .and_then(|id| self.hub.forget(self, *life, id.text()).map(|ours| (id, ours))),
                    // Nobody was asked anything.
                    Whence::Shared(_) => None,
                };
                match forgotten {
                    Some((named, ours)) => {
                        let mut splice = message.splice();
                        splice.replace(named, ours.to_string());
                        self.meta_down(message, None, &mut splice);
                        Taken::Send(splice.finish())
                    }
                    None => Taken::Done,
                }
            }
            _ => Taken::Theirs,
        }
    }

    /// Whether the client takes such a question and the policy lets it be put; a refusal is recorded.
    fn is_permitted(&self, message: &Message, method: &str) -> bool {
        let Some(gate) = self.gate.upgrade() else { return false };
        // A task goes on asking when nothing waits for it any more, and the quarantine of its tool is for that too.
        let of_task = may_ask_for_task(&gate, &self.asker, self.home(), message);
        let judged = of_task.and_then(|()| match Question::of(method) {
            Some(question) => self.judge(&gate, question, message.params()),
            // A client's list of tasks is of all servers'.
            None if era::is_server_request(Era::Legacy, method) && !self.has_client_task(message) => {
                Err(unasked("the client made no such task of a question of this server"))
            }
            // What the operator added by `allow_methods` he permitted.
            None => Ok(()),
        });
        let Err(refusal) = judged else { return true };
        tracing::warn!(server = %self.server.name(), method, reason = %refusal.message, "a question was not put");
        gate.recorder.stopped(&self.asker.caller, self.server.name(), method, &refusal);
        false
    }

    /// Whether the client takes a question and the policy lets it be put.
    ///
    /// # Errors
    /// The refusal.
    pub(super) fn judge(
        &self,
        gate: &Gate,
        question: Question,
        params: Option<Value<'_>>,
    ) -> Result<(), Refusal> {
        let declared = Value::of(&self.hello).get("capabilities");
        if !declared.is_some_and(|declared| question.is_declared(declared, params)) {
            return Err(unasked("the client did not declare that it can be asked this"));
        }
        let mode = params.and_then(|params| params.get("mode")).and_then(Value::as_str);
        if mode.as_deref() == Some("url") && !self.is_newest() {
            return Err(unasked("clients of this revision open no addresses"));
        }
        let client = self.asker.caller.client();
        gate.policy.may_ask(&self.server, client, Era::Legacy, question, params)
    }

    /// Whether client and server speak the one legacy revision that knows of addresses to open (spec.md B-41). On the merged
    /// endpoint the client's may be another than the server's.
    fn is_newest(&self) -> bool {
        let newest = Revision::V2025_11_25;
        let asked = Value::of(&self.hello).get("protocolVersion").and_then(Value::as_str);
        self.revision == Some(newest) && (!self.is_merged || asked.as_deref() == Some(newest.name()))
    }

    /// Whether the shield lets a server's question pass.
    fn may_ask(&self, message: &Message) -> bool {
        let Some(gate) = self.gate.upgrade() else { return false };
        let judged = inspect::answer(
            &gate.shield.load(),
            &mut Inspector::default(),
            &self.server,
            message,
            Known::default(),
            gate.entropy.as_ref(),
            &mut Ending::default(),
        );
        matches!(judged, Ok(Passed::AsItIs))
    }

    /// Takes a server's request: pings are answered here, unknown methods refused, the rest put to the client (C-29).
    fn ask_client(
        self: &Arc<Self>,
        message: &Message,
        method: &str,
        whence: &Whence,
        call: Option<EventId>,
        within: Option<Weak<Notify>>,
    ) -> Taken {
        let Some((way, life)) = self.way_back(whence) else {
            tracing::debug!(server = %self.server.name(), method, "the server that asks is gone");
            // One that was left for the next one ends what is under way there, and would wait for an answer.
            if let Whence::Life(_, process) = whence
                && let Some(process) = process.upgrade()
                && process.ended().is_none()
            {
                let id = message.id_value().map(|v| v.text().to_owned()).unwrap_or_default();
                self.refuse_from_before(&id, &process);
            }
            return Taken::Done;
        };
        let refused = match method {
            "ping" => None,
            _ if matches!(way, Way::Shared(_)) => Some(Unasked::Shared),
            _ if !era::is_server_request(Era::Legacy, method) && !self.server.allows(method) => {
                Some(Unasked::UnknownMethod)
            }
            _ if !self.is_permitted(message, method) => Some(Unasked::Policy),
            _ if !self.may_ask(message) => Some(Unasked::Shield),
            _ => {
                let named = naming::request(self.server.name(), message);
                match self.hub.ask(self, life, named.as_ref().unwrap_or(message), within) {
                    Some(text) => {
                        self.server.voice().asked_by_name(&self.asker, call, method);
                        return Taken::Send(text);
                    }
                    None => Some(Unasked::Limit),
                }
            }
        };
        if refused == Some(Unasked::UnknownMethod) && self.server.voice().faulted(Some(&self.asker)) {
            self.part();
        }
        match refused {
            None => {
                let id = message.id_value().map(|v| v.text().to_owned()).unwrap_or_default();
                self.reply(message::result(&id, "{}"), way);
            }
            Some(why) => self.refuse(message, call, why, way),
        }
        Taken::Done
    }

    /// The way to who asks, and in which of our lives; none if that is gone. The next process or session counts its questions anew:
    /// the answer to one from before would answer another there.
    pub(super) fn way_back(&self, whence: &Whence) -> Option<(Way, u64)> {
        match whence {
            Whence::Shared(process) => Some((Way::Shared(Arc::clone(process)), self.life())),
            Whence::Life(life, _) => {
                let (way, now) = self.lived_way();
                (now == *life && self.life() == *life).then_some((way, now))
            }
        }
    }

    /// Answers a question that is put to nobody: whoever asked waits for it. `way` leads to them.
    pub(super) fn refuse(self: &Arc<Self>, message: &Message, call: Option<EventId>, why: Unasked, way: Way) {
        self.server.voice().asked(&self.asker, call, &message.method(), Some(why));
        let (code, text) = match why {
            Unasked::Shared => (code::METHOD_NOT_FOUND, "this process is shared; no one client can be asked"),
            Unasked::UnknownMethod | Unasked::Stateless => {
                (code::METHOD_NOT_FOUND, "the gateway does not know this method")
            }
            Unasked::Policy => (code::FORBIDDEN, "the gateway does not put this question; its log says why"),
            Unasked::Shield => (code::WITHHELD, "the gateway does not put this question; its log says why"),
            Unasked::Limit => (code::LIMIT, "too many requests wait for the client"),
        };
        let id = message.id_value().map(|v| v.text().to_owned()).unwrap_or_default();
        self.reply(message::error(Some(&id), code, text, None), way);
    }

    /// Answers the question that a process of before calls `id`.
    pub(super) fn refuse_from_before(self: &Arc<Self>, id: &str, process: &Arc<Process>) {
        let text = "this process was replaced; its client is not asked any more";
        self.reply(message::error(Some(id), code::FORBIDDEN, text, None), Way::Process(Arc::clone(process)));
    }

    /// Answers the server, as far as it reads what it is answered.
    fn reply(self: &Arc<Self>, reply: String, way: Way) {
        let Some(room) = self.room(reply.len()) else {
            tracing::warn!(server = %self.server.name(), "it asks and does not read what it is answered");
            return;
        };
        let me = Arc::clone(self);
        tokio::spawn(async move {
            let _room = room;
            let told = match way {
                Way::Process(process) | Way::Shared(process) => process.send(reply).await,
                Way::Wire(_) => tell_by(&way, reply).await,
            };
            if let Err(failure) = told {
                tracing::debug!(server = %me.server.name(), %failure, "a reply was not delivered");
            }
        });
    }
}
