//! A held call as it is shown to whoever decides about it: every byte of its arguments but credentials, what the tool does, and why it was
//! held. Nothing here is believed; it is what the caller wrote, kept sealed until the decision.

use bartizan_mcp::{Message, json::Kind as Json};
use bartizan_policy::FlowLabels;
use bartizan_store::approvals::Approval;
use serde::{Deserialize, Serialize};

use super::{approvals::Pending, holds::Cover};
use crate::call::answers_to_server;

/// Characters of the arguments that are shown; whoever approves more has not read it.
const ARGUMENTS: usize = 64 * 1024;

/// What is shown of a call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Shown {
    /// The arguments, as they are forwarded, and what is forwarded beside them.
    pub arguments: String,
    /// Bytes of the arguments that are not shown.
    pub more_bytes: usize,
    /// What the call does to the flow of information, in words.
    pub labels: Vec<String>,
    /// The policies that ask for a decision.
    pub policies: Vec<String>,
    /// What the shield found and holds it for, a line each. Credentials are in `arguments` by the names of their rules,
    /// whoever asks for a decision.
    pub found: Vec<String>,
    /// What had entered the caller's window, in words; empty if it does not matter.
    pub because: String,
}

/// Where something stands in a message that is forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In `inputResponses`.
    Answer,
    /// In `params._meta`.
    Meta,
    /// In `params`.
    Parameter,
    /// Beside `params`.
    Root,
}

impl Place {
    /// A word of its own.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Answer => "answer",
            Self::Meta => "meta",
            Self::Parameter => "parameter",
            Self::Root => "root",
        }
    }
}

/// Members of `_meta` that a client writes anew for each attempt, and that the gate replaces or leaves out.
const OURS_IN_META: [&str; 4] = ["progressToken", "traceparent", "tracestate", "baggage"];

/// Everything of a message that its server gets as its client wrote it, by place and key: all but the id, what of `_meta` is
/// the gate's, and the answers to its own questions.
pub(super) fn forwarded(message: &Message) -> Vec<(Place, String, &str)> {
    let mut found = Vec::new();
    for member in message.fields().filter(|member| !member.is("inputResponses")) {
        let (key, value) = (member.key().into_owned(), member.value);
        if key == "_meta" && value.kind() == Json::Object {
            let theirs = value.members().filter(|m| !OURS_IN_META.iter().any(|ours| m.is(ours)));
            found.extend(theirs.map(|m| (Place::Meta, m.key().into_owned(), m.value.text())));
        } else {
            found.push((Place::Parameter, key, value.text()));
        }
    }
    let answers = answers_to_server(message).into_iter().flatten();
    found.extend(answers.map(|(key, answer)| (Place::Answer, key, answer)));
    let known = ["jsonrpc", "id", "method", "params"];
    let beside = message.root().members().filter(|m| !known.iter().any(|name| m.is(name)));
    found.extend(beside.map(|m| (Place::Root, m.key().into_owned(), m.value.text())));
    found
}

impl Shown {
    pub(super) fn of_call(call: &Pending<'_>) -> Self {
        let cover;
        let all = match call.hold {
            Some(hold) => hold.cover(),
            None => {
                cover = Cover::of(call.shield, call.message, []);
                &cover
            }
        };
        let all = all.shown(call.message);
        let (arguments, hidden) = match all {
            Some(message) => (Self::arguments_of(message), 0),
            None => (String::new(), Self::arguments_of(call.message).len()),
        };
        let shown: String = arguments.chars().take(ARGUMENTS).collect();
        Self {
            more_bytes: hidden + arguments.len() - shown.len(),
            arguments: shown,
            labels: in_words(call.labels).map(str::to_owned).collect(),
            policies: call.policies.to_vec(),
            found: call.hold.map(|hold| hold.found().to_vec()).unwrap_or_default(),
            because: call.because.to_owned(),
        }
    }

    /// The arguments of a call, and whatever else of it is forwarded and bound.
    fn arguments_of(message: &Message) -> String {
        let mut arguments = message.param("arguments").map_or("{}", |a| a.text()).to_owned();
        for (place, key, text) in forwarded(message) {
            match place {
                Place::Parameter if key == "name" || key == "arguments" => {}
                Place::Parameter => arguments += &format!("\n{key}: {text}"),
                Place::Meta => arguments += &format!("\n_meta {key}: {text}"),
                Place::Answer => arguments += &format!("\nanswer to {key}: {text}"),
                Place::Root => arguments += &format!("\nbeside the parameters, {key}: {text}"),
            }
        }
        arguments
    }

    /// As it is kept.
    pub(super) fn written(&self) -> String {
        // Texts, numbers and lists cannot fail to be written.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// What a request shows; `None` if it is not as it was written.
    pub fn of(approval: &Approval) -> Option<Self> {
        serde_json::from_str(&approval.words).ok()
    }

    /// The call in one sentence, with at most `most` characters of its arguments.
    pub fn sentence(&self, approval: &Approval, most: usize) -> String {
        let shown: String = self.arguments.chars().take(most).collect();
        let rest = self.arguments.len() - shown.len() + self.more_bytes;
        let more = if rest > 0 { format!(" … and {rest} bytes more") } else { String::new() };
        let binding = &approval.binding;
        format!("call `{}` of `{}` with {shown}{more}", binding.tool, binding.server)
    }
}

fn in_words(labels: FlowLabels) -> impl Iterator<Item = &'static str> {
    [
        (labels.sends_out, "what it is told can leave the house"),
        (labels.destructive, "it can change or destroy something"),
        (labels.reads_private, "its answer may hold private data"),
        (labels.sees_untrusted, "its answer may hold text of strangers"),
    ]
    .into_iter()
    .filter_map(|(applies, words)| applies.then_some(words))
}
