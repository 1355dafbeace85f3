//! Rounds of a modern request: what a server asks of its client in the place of an answer, and the way of what it is answered
//! back to it (26/mrtr; spec.md A-88 to A-95, D-24).
//!
//! A question that the policy refuses fails alone. Its client never sees it; when the client comes back with the answers to
//! the others, a refused elicitation is declined in its place. Sampling and roots have no answer that says no, so the server
//! gets none; if it asks for such a thing again, the request fails. What was refused travels in the `requestState` that the
//! client hands back, sealed, beside the server's own.

use bartizan_mcp::{
    Message, Refusal, Splice, code, era,
    json::{Member, Value, quote},
};
use serde::{Deserialize, Serialize};

use super::{Call, is_ours};
use crate::{
    handles::Handle,
    naming,
    permit::{self, Question},
    upstream::Failure,
};

/// Rounds of one request in which something may be refused; a server that goes on asking gets no further.
const MOST: u8 = 8;

/// What the gate did not let through in a request's rounds so far, and the server's own state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Round {
    /// The server's `requestState`, if it sent one.
    state: Option<String>,
    /// Keys of the last round's questions that are answered by declining.
    declined: Vec<String>,
    /// Keys of the last round's questions that have no answer that says no.
    unanswered: Vec<String>,
    /// Whether any round had one of the latter.
    has_unanswered: bool,
    /// Rounds in which something was refused.
    rounds: u8,
}

/// A question that its client never sees.
pub struct Refused {
    /// Its method.
    pub method: String,
    /// Why.
    pub refusal: Refusal,
}

impl Refused {
    /// People are not asked, for this reason.
    pub(super) fn unasked(why: &str) -> Self {
        Self { method: naming::ELICITATION.to_owned(), refusal: permit::unasked(403, why) }
    }
}

impl Call {
    /// The request with the server's own state, and its refused questions answered, if the gate refused any in the round
    /// before.
    ///
    /// # Errors
    /// -32602 for answers that are no object.
    pub(super) fn resumed(&mut self, request: &Message) -> Result<Option<Message>, Refusal> {
        let sealed = request.param("requestState").and_then(Value::as_str);
        let (Some(sealed), Some(params)) = (sealed, request.params()) else { return Ok(None) };
        let kind = Handle::Round { request: &self.request };
        let place = self.server.name().as_str();
        let Some(plain) = self.handles.open(kind, &self.asker.key, place, &sealed) else { return Ok(None) };
        let unreadable =
            || Refusal::new(400, code::INVALID_PARAMS, "the `requestState` is of another version");
        let round: Round = serde_json::from_str(&plain).map_err(|_| unreadable())?;
        let given = request.param("inputResponses");
        if given.is_some_and(|given| given.kind() != bartizan_mcp::json::Kind::Object) {
            return Err(Refusal::new(400, code::INVALID_PARAMS, "`inputResponses` must be an object"));
        }
        // What was not asked of the client is not its to answer.
        let is_asked =
            |key: &str| !round.declined.iter().chain(&round.unanswered).any(|refused| refused == key);
        let answers = given.into_iter().flat_map(Value::members).filter(|answer| is_asked(&answer.key()));
        let mut answers: Vec<_> =
            answers.map(|answer| format!("\"{}\":{}", answer.raw_key(), answer.value.text())).collect();
        answers.extend(round.declined.iter().map(|key| format!(r#"{}:{{"action":"decline"}}"#, quote(key))));
        let others = params.members().filter(|m| !m.is("requestState") && !m.is("inputResponses"));
        let mut members: Vec<_> = others.map(|m| format!("\"{}\":{}", m.raw_key(), m.value.text())).collect();
        if !answers.is_empty() {
            members.push(format!(r#""inputResponses":{{{}}}"#, answers.join(",")));
        }
        members.extend(round.state.as_deref().map(|state| format!(r#""requestState":{}"#, quote(state))));
        let mut splice = request.splice();
        splice.replace(params, format!("{{{}}}", members.join(",")));
        let resumed = Message::from_spliced(splice.finish()).map_err(Refusal::from)?;
        self.round = Some(round);
        Ok(Some(resumed))
    }

    /// Lets those of a server's questions through that its client may be asked, and answers which may not.
    ///
    /// # Errors
    /// [`Failure::Protocol`] for questions the protocol does not allow, [`Failure::Question`] if none is left, or a server does
    /// not leave off.
    pub(super) fn input_required<'a>(
        &self,
        message: &'a Message,
        splice: &mut Splice<'a>,
    ) -> Result<Vec<Refused>, Failure> {
        let protocol = |text: &str| Failure::Protocol(text.to_owned());
        if !era::may_need_input(&self.method) {
            return Err(protocol("it asks for input where this method has none"));
        }
        let (asked, state) = (message.field("inputRequests"), message.field("requestState"));
        if asked.is_none() && state.is_none() {
            return Err(protocol("it asks for input and names none"));
        }
        let earlier = self.round.clone().unwrap_or_default();
        let mut round = Round { declined: Vec::new(), unanswered: Vec::new(), ..earlier };
        let (mut refused, mut is_any_left) = (Vec::new(), false);
        for question in asked.into_iter().flat_map(Value::members) {
            let key = question.key();
            if is_ours(&key) {
                return Err(protocol("it asks in the gateway's name"));
            }
            let params = question.value.get("params");
            let method = question.value.get("method").and_then(Value::as_str).unwrap_or_default();
            let kind = Question::of(&method)
                .ok_or_else(|| protocol("it asks for input by a method that cannot ask"))?;
            if !kind.is_declared(self.declared(), params) {
                return Err(protocol("it asks for input of a kind that the client did not declare"));
            }
            let client = self.asker.caller.client();
            match self.policy.may_ask(&self.server, client, self.era, kind, params) {
                Ok(()) => is_any_left = true,
                Err(refusal) => {
                    let keys = match kind {
                        Question::Elicitation => &mut round.declined,
                        Question::Roots | Question::Sampling => &mut round.unanswered,
                    };
                    keys.push(key.into_owned());
                    refused.push(Refused { method: method.into_owned(), refusal });
                }
            }
        }
        if let Some(asked) = asked {
            let is_refused = |key: &str| round.declined.iter().chain(&round.unanswered).any(|k| k == key);
            self.put(asked, is_refused, splice);
        }
        // What was refused in an earlier round is not forgotten by a round in which nothing is.
        if refused.is_empty() && self.round.is_none() {
            if let Some(state) = state {
                let sealed = self.seal(Handle::State { request: &self.request }, state);
                splice.replace(state, sealed.ok_or_else(|| protocol("its `requestState` is no string"))?);
            }
            return Ok(refused);
        }
        let asks_again = round.has_unanswered && !round.unanswered.is_empty();
        if !refused.is_empty() && (!is_any_left || asks_again || round.rounds >= MOST) {
            let Some(Refused { method, refusal }) = refused.into_iter().next() else { return Ok(Vec::new()) };
            return Err(Failure::Question { method, refusal: Box::new(refusal) });
        }
        round.has_unanswered |= !round.unanswered.is_empty();
        round.rounds += u8::from(!refused.is_empty());
        let text =
            state.map(|state| state.as_str().ok_or_else(|| protocol("its `requestState` is no string")));
        round.state = text.transpose()?.map(|text| text.into_owned());
        // Texts, lists and numbers cannot fail to be written.
        let plain = serde_json::to_string(&round).unwrap_or_default();
        let kind = Handle::Round { request: &self.request };
        let sealed = self.handles.seal(kind, &self.asker.key, self.server.name().as_str(), &plain);
        if let Some(result) = message.result() {
            splice.put(result, state, "requestState", quote(&sealed));
        }
        Ok(refused)
    }

    /// Lets a task's questions through if its client may be asked all of them, in an answer of `tasks/get` or in a notification of
    /// its status (ext-tasks). A task that waits for an answer nobody may give goes no further, so none of them is shown then.
    ///
    /// # Errors
    /// [`Failure::Protocol`] for questions the protocol does not allow, [`Failure::Question`] for one that is refused.
    pub(super) fn task_questions<'a>(
        &self,
        message: &'a Message,
        splice: &mut Splice<'a>,
    ) -> Result<(), Failure> {
        let Some(asked) = message.field("inputRequests") else { return Ok(()) };
        for question in asked.members() {
            if is_ours(&question.key()) {
                return Err(Failure::Protocol("it asks in the gateway's name".into()));
            }
            let method = question.value.get("method").and_then(Value::as_str).unwrap_or_default();
            let kind = Question::of(&method).ok_or_else(|| {
                Failure::Protocol("its task asks for input by a method that cannot ask".into())
            })?;
            let (client, params) = (self.asker.caller.client(), question.value.get("params"));
            if let Err(refusal) = self.policy.may_ask(&self.server, client, self.era, kind, params) {
                return Err(Failure::Question { method: method.into_owned(), refusal: Box::new(refusal) });
            }
        }
        self.put(asked, |_| false, splice);
        Ok(())
    }

    /// The questions that are left, each that people are asked with its server's name.
    fn put<'a>(&self, asked: Value<'a>, is_refused: impl Fn(&str) -> bool, splice: &mut Splice<'a>) {
        let is_named = |question: Value<'_>| {
            question.get("method").and_then(Value::as_str).is_some_and(|method| naming::asks_people(&method))
        };
        let is_changed = |question: Member<'a>| is_refused(&question.key()) || is_named(question.value);
        if !asked.members().any(is_changed) {
            return;
        }
        let left = asked.members().filter(|question| !is_refused(&question.key()));
        let left = left.map(|question| {
            format!("\"{}\":{}", question.raw_key(), naming::question(self.server.name(), question.value))
        });
        splice.replace(asked, format!("{{{}}}", left.collect::<Vec<_>>().join(",")));
    }
}
