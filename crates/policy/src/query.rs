//! What is asked.

use std::net::IpAddr;

use bartizan_model::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{claims::Principal, flow::FlowContext};

/// May this caller do this to that?
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// Who, from the verified token.
    pub principal: &'a Principal,
    /// The application through which he acts, as verified.
    pub client: &'a str,
    /// The operator's name of the server.
    pub server: &'a str,
    /// What to do.
    pub action: Action<'a>,
    /// Where and when.
    pub surroundings: Surroundings,
    /// The approvals that a person gave for exactly this request, by the role asked for (`self` for the caller's own).
    /// Whoever fills this has checked who approved and what (attacks.md EP-08).
    pub approved: &'a [String],
}

/// What a caller does. Names and arguments are those of the message that is forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action<'a> {
    /// `tools/call`, with the JSON text of `arguments`.
    Call {
        /// The tool's name at its server.
        tool: &'a str,
        /// The JSON text of `arguments`, if there is one.
        arguments: Option<&'a str>,
    },
    /// `completion/complete` for a prompt.
    CompletePrompt {
        /// The prompt's name.
        prompt: &'a str,
    },
    /// `completion/complete` for a resource template.
    CompleteResource {
        /// The URI or its template's fixed beginning.
        uri: &'a str,
    },
    /// `prompts/get`, with the JSON text of `arguments`.
    Get {
        /// The prompt's name at its server.
        prompt: &'a str,
        /// The JSON text of `arguments`, if there is one.
        arguments: Option<&'a str>,
    },
    /// Any list of the server, and its greeting.
    List,
    /// A notification to the server.
    Notify,
    /// `resources/read`
    Read {
        /// The resource's URI.
        uri: &'a str,
    },
    /// `resources/subscribe` for one resource.
    SubscribeResource {
        /// The resource's URI.
        uri: &'a str,
    },
    /// Change notices of the server as a whole.
    SubscribeServer,
    /// Any method on the caller's own tasks.
    Task,
}

/// Where and when.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings {
    /// The client's address; none over stdio.
    pub address: Option<IpAddr>,
    /// The time.
    pub now: Timestamp,
    /// Which kind of protocol the client speaks.
    pub era: Era,
    /// What has entered this caller's window.
    pub flow: FlowContext,
}

/// The protocol's two kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Era {
    /// With sessions: 2025-11-25 and older.
    Legacy,
    /// Without: 2026-07-28.
    #[default]
    Modern,
}

impl Era {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::Modern => "modern",
        }
    }
}

/// May this server have that?
#[derive(Clone, Copy, Debug)]
pub struct ServerQuery<'a> {
    /// The operator's name of the server.
    pub server: &'a str,
    /// The application it would reach, as verified; empty where none is involved.
    pub client: &'a str,
    /// What it wants.
    pub action: ServerAction<'a>,
    /// The time.
    pub now: Timestamp,
    /// Which kind of protocol the client speaks.
    pub era: Era,
}

/// What a server wants, of a client or of the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerAction<'a> {
    /// A connection to a host.
    Connect {
        /// The host as it would be dialled.
        host: &'a str,
        /// The port.
        port: u16,
    },
    /// `elicitation/create`
    Elicit {
        /// `form` or `url`.
        mode: &'a str,
        /// The URL to open, in URL mode.
        url: Option<&'a str>,
    },
    /// A resource that it gives out or links to.
    Offer {
        /// Its URI.
        uri: &'a str,
    },
    /// `roots/list`
    Roots,
    /// `sampling/createMessage` (attacks.md II-12)
    Sample {
        /// Tokens it asks for.
        max_tokens: i64,
        /// Names in `modelPreferences.hints`.
        model_hints: &'a [String],
        /// `includeContext`: `none`, `thisServer` or `allServers`.
        include_context: &'a str,
        /// It brings tools along.
        with_tools: bool,
    },
    /// A secret of the vault.
    Secret {
        /// The secret's name.
        name: &'a str,
    },
}
