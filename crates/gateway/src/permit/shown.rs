//! A held call as it is shown to whoever decides about it: every byte of its arguments, what the tool does, and why it was
//! held. Nothing here is believed; it is what the caller wrote, kept sealed until the decision.

use bartizan_policy::FlowLabels;
use bartizan_store::approvals::Approval;
use serde::{Deserialize, Serialize};

use super::approvals::Pending;
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
    /// What had entered the caller's window, in words; empty if it does not matter.
    pub because: String,
}

impl Shown {
    pub(super) fn of_call(call: &Pending<'_>) -> Self {
        let mut arguments = call.message.param("arguments").map_or("{}", |a| a.text()).to_owned();
        // Whatever else is forwarded and bound is shown too.
        let beside = ["name", "arguments", "_meta", "inputResponses"];
        for member in call.message.fields().filter(|member| !beside.iter().any(|name| member.is(name))) {
            arguments += &format!("\n{}: {}", member.key(), member.value.text());
        }
        for (key, answer) in answers_to_server(call.message).into_iter().flatten() {
            arguments += &format!("\nanswer to {key}: {answer}");
        }
        let shown: String = arguments.chars().take(ARGUMENTS).collect();
        Self {
            more_bytes: arguments.len() - shown.len(),
            arguments: shown,
            labels: in_words(call.labels).map(str::to_owned).collect(),
            policies: call.policies.to_vec(),
            because: call.because.to_owned(),
        }
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
