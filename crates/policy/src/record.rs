//! A query that can be written down and asked again.

use std::net::IpAddr;

use bartizan_model::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    Action, Bundle, Claims, Decision, Era, Query, Surroundings, flow::FlowContext, schema::call_action,
};

/// A caller's query as it stands in a file or the audit log.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedQuery {
    /// Who.
    pub claims: Claims,
    /// Through which application.
    #[serde(default)]
    pub client: String,
    /// At which server.
    pub server: String,
    /// What.
    pub action: RecordedAction,
    /// From where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// When, in seconds since the Unix epoch.
    #[serde(default)]
    pub time: u64,
    /// In which kind of protocol.
    #[serde(default)]
    pub era: Era,
    /// What had entered the window.
    #[serde(default)]
    pub flow: FlowContext,
    /// What had been approved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approved: Vec<String>,
}

/// See [`Action`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum RecordedAction {
    /// A tool call.
    Call {
        /// The tool.
        tool: String,
        /// The JSON text of the arguments, where it was recorded.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        arguments: Option<String>,
    },
    /// Completion for a prompt.
    CompletePrompt(String),
    /// Completion for a resource template.
    CompleteResource(String),
    /// A prompt.
    Get(RecordedPrompt),
    /// A list.
    List,
    /// A notification.
    Notify,
    /// A resource.
    Read(String),
    /// Notices of one resource.
    SubscribeResource(String),
    /// Notices of the server.
    SubscribeServer,
    /// Tasks.
    Task,
}

/// A prompt that somebody got.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum RecordedPrompt {
    /// Its name alone.
    Named(String),
    /// With what it was given.
    Given {
        /// Its name.
        prompt: String,
        /// The JSON text of the arguments, where it was recorded.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        arguments: Option<String>,
    },
}

impl RecordedAction {
    /// The action as a decision takes it.
    pub fn as_action(&self) -> Action<'_> {
        match self {
            Self::Call { tool, arguments } => Action::Call { tool, arguments: arguments.as_deref() },
            Self::CompletePrompt(prompt) => Action::CompletePrompt { prompt },
            Self::CompleteResource(uri) => Action::CompleteResource { uri },
            Self::Get(RecordedPrompt::Named(prompt)) => Action::Get { prompt, arguments: None },
            Self::Get(RecordedPrompt::Given { prompt, arguments }) => {
                Action::Get { prompt, arguments: arguments.as_deref() }
            }
            Self::List => Action::List,
            Self::Notify => Action::Notify,
            Self::Read(uri) => Action::Read { uri },
            Self::SubscribeResource(uri) => Action::SubscribeResource { uri },
            Self::SubscribeServer => Action::SubscribeServer,
            Self::Task => Action::Task,
        }
    }

    /// The action's name in policies.
    pub fn name(&self, server: &str) -> String {
        match self {
            Self::Call { tool, .. } => call_action(server, tool),
            Self::CompletePrompt(_) | Self::CompleteResource(_) => "complete".into(),
            Self::Get(_) => "get".into(),
            Self::List => "list".into(),
            Self::Notify => "notify".into(),
            Self::Read(_) => "read".into(),
            Self::SubscribeResource(_) | Self::SubscribeServer => "subscribe".into(),
            Self::Task => "task".into(),
        }
    }
}

impl RecordedQuery {
    /// Where and when.
    pub fn surroundings(&self) -> Surroundings {
        Surroundings {
            address: self.address,
            now: Timestamp::from_unix(self.time),
            era: self.era,
            flow: self.flow,
        }
    }

    /// Asks it of `bundle`.
    pub fn ask(&self, bundle: &Bundle) -> Decision {
        self.with(bundle, |bundle, query| bundle.authorize(query))
    }

    pub(crate) fn with<T>(&self, bundle: &Bundle, use_it: impl FnOnce(&Bundle, &Query<'_>) -> T) -> T {
        let principal = bundle.identify(self.claims.clone());
        let query = Query {
            principal: &principal,
            client: &self.client,
            server: &self.server,
            action: self.action.as_action(),
            surroundings: self.surroundings(),
            approved: &self.approved,
        };
        use_it(bundle, &query)
    }
}
