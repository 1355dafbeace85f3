//! What a message asks for, in the policy's words.

use bartizan_mcp::{Message, json::Value};
use bartizan_policy::Action;

use crate::merged;

/// Requests outside tools that carry nothing of the caller's to their server but a handle. The addresses of a subscription are
/// judged one by one.
pub(super) const CARRY_NOTHING: [&str; 6] = [
    "resources/unsubscribe",
    "subscriptions/listen",
    "tasks/cancel",
    "tasks/get",
    "tasks/list",
    "tasks/result",
];

/// What a message asks for, in the policy's words.
pub(super) enum Asked {
    Call { tool: String, arguments: Option<String> },
    CompletePrompt(String),
    CompleteResource(String),
    Get { prompt: String, arguments: Option<String> },
    List,
    Read(String),
    Subscribe(String),
    SubscribeServer,
    Task,
}

impl Asked {
    pub(super) fn of(method: &str, is_merged: bool, message: &Message) -> Self {
        let text = |value: Option<Value<'_>>| {
            value.and_then(Value::as_str).map(|t| t.into_owned()).unwrap_or_default()
        };
        let name = |value| {
            let name = text(value);
            if is_merged {
                merged::split_name(&name).map_or(String::new(), |(_, bare)| bare.to_owned())
            } else {
                name
            }
        };
        let uri = |value| {
            let uri = text(value);
            if is_merged {
                merged::split_uri(&uri).map_or(String::new(), |(_, bare)| bare.to_owned())
            } else {
                uri
            }
        };
        match method {
            "tools/call" => Self::Call {
                tool: name(message.param("name")),
                arguments: message.param("arguments").map(|a| a.text().to_owned()),
            },
            "prompts/get" => Self::Get {
                prompt: name(message.param("name")),
                arguments: message.param("arguments").map(|a| a.text().to_owned()),
            },
            "resources/read" => Self::Read(uri(message.param("uri"))),
            "resources/subscribe" | "resources/unsubscribe" => Self::Subscribe(uri(message.param("uri"))),
            "subscriptions/listen" => Self::SubscribeServer,
            "completion/complete" => match message.param("ref") {
                // What kind it is decides, not which other members stand beside.
                Some(reference) if text(reference.get("type")) == "ref/resource" => {
                    Self::CompleteResource(uri(reference.get("uri")))
                }
                reference => Self::CompletePrompt(name(reference.and_then(|r| r.get("name")))),
            },
            _ if method.starts_with("tasks/") => Self::Task,
            _ => Self::List,
        }
    }

    pub(super) fn action(&self) -> Action<'_> {
        match self {
            Self::Call { tool, arguments } => Action::Call { tool, arguments: arguments.as_deref() },
            Self::CompletePrompt(prompt) => Action::CompletePrompt { prompt },
            Self::CompleteResource(uri) => Action::CompleteResource { uri },
            Self::Get { prompt, arguments } => Action::Get { prompt, arguments: arguments.as_deref() },
            Self::List => Action::List,
            Self::Read(uri) => Action::Read { uri },
            Self::Subscribe(uri) => Action::SubscribeResource { uri },
            Self::SubscribeServer => Action::SubscribeServer,
            Self::Task => Action::Task,
        }
    }
}
