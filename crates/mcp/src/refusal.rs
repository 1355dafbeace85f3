//! One way to say no: HTTP status and JSON-RPC error together.

use crate::{Era, code, json::quote, message};

/// Why a call was not made, in `_meta` of the result that says so: an object as [`Refusal::data`] is.
pub const META_REFUSAL: &str = "dev.bartizan/refusal";

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
    pub data: Option<Box<str>>,
    /// `WWW-Authenticate` lines: what would let the client in. None is the listener's own, where the status needs one.
    pub challenges: Box<[String]>,
    /// The nonce for the next DPoP proof (RFC 9449 §9).
    pub dpop_nonce: Option<Box<str>>,
    /// After how many seconds it is worth trying again, if that is known.
    pub retry_after_s: Option<u64>,
    /// Pages of the gate's own, as URLs, that a person has to visit before it is worth trying again. A client that can show a
    /// URL is asked to (26/elicitation, 25/elicitation).
    pub visits: Box<[String]>,
    /// What few refusals have.
    pub aside: Option<Box<Aside>>,
}

/// What few refusals have; see [`Refusal::for_model`] and [`Refusal::with_policies`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Aside {
    /// The result that its client's model reads in the place of the error, a JSON text.
    result: Option<String>,
    policies: Option<Vec<String>>,
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
            aside: None,
        }
    }

    /// With `error.data`, a JSON text.
    #[must_use]
    pub fn with_data(mut self, data: impl Into<String>) -> Self {
        self.data = Some(data.into().into());
        self
    }

    /// With these `WWW-Authenticate` lines.
    #[must_use]
    pub fn with_challenges(mut self, lines: Vec<String>) -> Self {
        self.challenges = lines.into();
        self
    }

    /// With the policies that decided.
    #[must_use]
    pub fn with_policies(mut self, policies: &[String]) -> Self {
        self.aside.get_or_insert_default().policies = Some(policies.to_vec());
        self
    }

    /// The policies that decided, if it was they who said no; none of them may have said anything. For the operator alone.
    pub fn policies(&self) -> Option<&[String]> {
        self.aside.as_ref()?.policies.as_deref()
    }

    /// The same of a tool call that was never made, as the tool's own error: clients hand those to the model, which can correct
    /// itself (spec.md A-48). `error.data` becomes [`META_REFUSAL`].
    #[must_use]
    pub fn for_model(mut self, era: Era) -> Self {
        let kind = if era == Era::Modern { r#""resultType":"complete","# } else { "" };
        let meta = self.data.as_ref().map(|data| format!(r#","_meta":{{{}:{data}}}"#, quote(META_REFUSAL)));
        let result = format!(
            r#"{{{kind}"content":[{{"type":"text","text":{}}}],"isError":true{}}}"#,
            quote(&self.message),
            meta.unwrap_or_default()
        );
        self.aside.get_or_insert_default().result = Some(result);
        Self { status: 200, ..self }
    }

    /// The same with the HTTP status under which clients of 2026-07-28 read why their request of this `method` was refused.
    ///
    /// They read the JSON-RPC error under 200, and the protocol's own under 400; of any other status they may read nothing but the
    /// number. What HTTP itself is asked for stays: a challenge, a time to wait, and 404 for a method that is not there (spec.md
    /// A-41, A-48, E-19). So does what a client finds the era out by: an error under 200 would say that this is the other one.
    #[must_use]
    pub fn as_answer(self, method: &str) -> Self {
        let is_of_http = matches!(self.status, 400 | 401 | 404)
            || !self.challenges.is_empty()
            || self.retry_after_s.is_some()
            || method == "server/discover";
        if is_of_http { self } else { Self { status: 200, ..self } }
    }

    /// As the answer to the request `id` (a JSON text): the JSON-RPC error, or what stands in its place.
    pub fn to_text(&self, id: Option<&str>) -> String {
        match (self.aside.as_ref().and_then(|aside| aside.result.as_deref()), id) {
            (Some(result), Some(id)) => message::result(id, result),
            _ => message::error(id, self.code, &self.message, self.data.as_deref()),
        }
    }
}

impl From<message::Fault> for Refusal {
    fn from(fault: message::Fault) -> Self {
        Self::new(400, fault.code(), fault.to_string())
    }
}

/// A method nobody here serves: 404 to modern clients, 200 to legacy ones, who read 404 as "session gone"
/// (spec.md A-41, B-28).
pub fn unknown_method(era: Era, method: &str) -> Refusal {
    let status = if era == Era::Modern { 404 } else { 200 };
    let shown: String = method.chars().take(100).flat_map(char::escape_debug).collect();
    Refusal::new(status, code::METHOD_NOT_FOUND, format!("the method `{shown}` is not part of this revision"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_model_can_correct_is_the_tools_error_and_anything_else_the_callers() {
        let refusal = Refusal::new(400, code::INVALID_PARAMS, "no \"a\"").with_data(r#"{"at":"/a"}"#);
        assert_eq!(
            refusal.to_text(Some("7")),
            r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32602,"message":"no \"a\"","data":{"at":"/a"}}}"#
        );
        let meta = r#""_meta":{"dev.bartizan/refusal":{"at":"/a"}}"#;
        let shown = r#""content":[{"type":"text","text":"no \"a\""}],"isError":true"#;
        for (era, kind) in [(Era::Modern, r#""resultType":"complete","#), (Era::Legacy, "")] {
            let told = refusal.clone().for_model(era);
            assert_eq!((told.status, told.code), (200, code::INVALID_PARAMS), "the log names the code");
            assert_eq!(
                told.to_text(Some("7")),
                format!(r#"{{"jsonrpc":"2.0","id":7,"result":{{{kind}{shown},{meta}}}}}"#)
            );
            assert_eq!(told.to_text(None), refusal.to_text(None), "nothing without an id has a result");
        }
    }

    #[test]
    fn a_status_that_hides_the_reason_is_kept_only_where_http_needs_it() {
        let of = |status| Refusal::new(status, code::FORBIDDEN, "no");
        for status in [200, 400, 401, 404] {
            assert_eq!(of(status).as_answer("tools/call").status, status);
        }
        for status in [403, 500, 502, 503, 504] {
            assert_eq!(of(status).as_answer("tools/call").status, 200, "{status}");
            assert_eq!(of(status).as_answer("server/discover").status, status);
        }
        let challenge = vec!["Bearer error=\"insufficient_scope\"".to_owned()];
        assert_eq!(of(403).with_challenges(challenge).as_answer("tools/call").status, 403);
        assert_eq!(Refusal { retry_after_s: Some(3), ..of(429) }.as_answer("tools/call").status, 429);
    }
}
