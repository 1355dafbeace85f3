//! One way to say no: HTTP status and JSON-RPC error together.

use crate::{code, message};

/// A refusal, as the client will read it. Its text names what is wrong and what to do; it never echoes secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status, where there is one.
    pub status: u16,
    /// The JSON-RPC error code.
    pub code: i32,
    /// For people.
    pub message: String,
    /// For programs: `error.data` as a JSON text.
    pub data: Option<String>,
    /// `WWW-Authenticate` lines: what would let the client in. None is the listener's own, where the status needs one.
    pub challenges: Box<[String]>,
    /// The nonce for the next DPoP proof (RFC 9449 §9).
    pub dpop_nonce: Option<Box<str>>,
    /// After how many seconds it is worth trying again, if that is known.
    pub retry_after_s: Option<u64>,
    /// Pages of the gate's own, as URLs, that a person has to visit before it is worth trying again. A client that can show a
    /// URL is asked to (26/elicitation, 25/elicitation).
    pub visits: Box<[String]>,
}

impl Refusal {
    /// A refusal without `data`.
    pub fn new(status: u16, code: i32, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            data: None,
            challenges: Box::default(),
            dpop_nonce: None,
            retry_after_s: None,
            visits: Box::default(),
        }
    }

    /// With `error.data`, a JSON text.
    #[must_use]
    pub fn with_data(mut self, data: impl Into<String>) -> Self {
        self.data = Some(data.into());
        self
    }

    /// With these `WWW-Authenticate` lines.
    #[must_use]
    pub fn with_challenges(mut self, lines: Vec<String>) -> Self {
        self.challenges = lines.into();
        self
    }

    /// As the JSON-RPC error for the request `id` (a JSON text).
    pub fn to_text(&self, id: Option<&str>) -> String {
        message::error(id, self.code, &self.message, self.data.as_deref())
    }
}

impl From<message::Fault> for Refusal {
    fn from(fault: message::Fault) -> Self {
        Self::new(400, fault.code(), fault.to_string())
    }
}

/// A method nobody here serves: 404 to modern clients, 200 to legacy ones, who read 404 as "session gone"
/// (spec.md A-41, B-28).
pub fn unknown_method(era: crate::Era, method: &str) -> Refusal {
    let status = if era == crate::Era::Modern { 404 } else { 200 };
    let shown: String = method.chars().take(100).flat_map(char::escape_debug).collect();
    Refusal::new(status, code::METHOD_NOT_FOUND, format!("the method `{shown}` is not part of this revision"))
}
