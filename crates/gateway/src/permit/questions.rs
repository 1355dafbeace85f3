//! What servers ask of clients, and what clients tell servers unasked (attacks.md II-02, II-12, II-14).
//!
//! A server may ask for nothing unless a policy permits it: `[[servers]] may_ask`, or Cedar of the operator's own. What a
//! client answers or announces goes out to the server like any argument, and is judged by what has entered its window.

use std::{collections::BTreeSet, net::IpAddr};

use bartizan_mcp::{
    Era, Message, Refusal, code,
    json::{Kind as Json, Value},
};
use bartizan_model::{ServerName, Timestamp};
use bartizan_policy::{
    Action, Decision, Principal, Query, Reason, ServerAction, ServerQuery, Source, Surroundings,
    flow::FlowContext,
};
use url::Url;

use super::{Policy, Ready, because, context_of, permitted, policy_era, unready, unusable};
use crate::{Asker, merged, server::Server};

/// Tokens that `may_ask` lets a server ask the client's model for.
const SAMPLED_TOKENS: u32 = 100_000;

/// A kind of question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Question {
    /// `elicitation/create`
    Elicitation,
    /// `roots/list`
    Roots,
    /// `sampling/createMessage`
    Sampling,
}

impl Question {
    /// The kind that a method is.
    pub fn of(method: &str) -> Option<Self> {
        Some(match method {
            "elicitation/create" => Self::Elicitation,
            "roots/list" => Self::Roots,
            "sampling/createMessage" => Self::Sampling,
            _ => return None,
        })
    }

    /// Whether a client with these `capabilities` takes this question (26/elicitation, 26/sampling; spec.md A-90).
    pub fn is_declared(self, capabilities: Value<'_>, params: Option<Value<'_>>) -> bool {
        let has = |path: &[&str]| {
            let found = path.iter().try_fold(capabilities, |at, key| at.get(key));
            found.is_some_and(|value| !value.is_null() && value.as_bool() != Some(false))
        };
        match self {
            Self::Elicitation if mode_of(params) == Some(Mode::Url) => has(&["elicitation", "url"]),
            // An empty `elicitation` means forms.
            Self::Elicitation => {
                has(&["elicitation", "form"]) || (has(&["elicitation"]) && !has(&["elicitation", "url"]))
            }
            Self::Roots => has(&["roots"]),
            Self::Sampling if brings_tools(params) => has(&["sampling", "tools"]),
            Self::Sampling => has(&["sampling"]),
        }
    }
}

/// How an elicitation asks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// By fields to fill in.
    Form,
    /// By an address to open.
    Url,
}

/// The policies that `may_ask` stands for.
pub(super) fn as_policies<'s>(
    servers: impl Iterator<Item = (&'s ServerName, &'s BTreeSet<Question>)>,
) -> Option<Source> {
    let mut text = String::new();
    for (server, questions) in servers {
        for question in questions {
            let (word, action, condition) = match question {
                Question::Elicitation => ("elicitation", "elicit", String::new()),
                Question::Roots => ("roots", "roots", String::new()),
                // Not what other servers have said, and not without end.
                Question::Sampling => (
                    "sampling",
                    "sample",
                    format!(
                        " when {{ context.max_tokens <= {SAMPLED_TOKENS} && context.include_context != \"allServers\" }}"
                    ),
                ),
            };
            text.push_str(&format!(
                "@id(\"may_ask.{server}.{word}\")\npermit (principal == Server::\"{server}\", action == Action::\"{action}\", resource){condition};\n"
            ));
        }
    }
    (!text.is_empty()).then(|| Source { name: "may_ask".to_owned(), text })
}

/// A request for notices, before its addresses are looked at.
#[derive(Clone, Copy)]
pub(super) struct Listening<'a> {
    pub principal: &'a Principal,
    pub era: Era,
    pub is_merged: bool,
    pub message: &'a Message,
}

impl Policy {
    /// Whether `server` may put a question to the application `client`.
    ///
    /// # Errors
    /// The refusal, for the server and the audit log.
    pub fn may_ask(
        &self,
        server: &Server,
        client: &str,
        era: Era,
        question: Question,
        params: Option<Value<'_>>,
    ) -> Result<(), Refusal> {
        let ready = self.ready().ok_or_else(unready)?;
        let text = |name| params.and_then(|p| p.get(name)).and_then(Value::as_str);
        let (hints, url, include);
        let action = match question {
            Question::Elicitation => match mode_of(params) {
                Some(Mode::Form) => ServerAction::Elicit { mode: "form", url: None },
                Some(Mode::Url) => {
                    url = text("url");
                    if !url.as_deref().is_some_and(is_safe) {
                        return Err(refused(
                            "the address it would have opened is no https URL of a named host",
                        ));
                    }
                    ServerAction::Elicit { mode: "url", url: url.as_deref() }
                }
                None => return Err(refused("clients could read it as a form or as an address to open")),
            },
            Question::Roots => ServerAction::Roots,
            Question::Sampling => {
                let named = params.and_then(|p| p.get("modelPreferences")).and_then(|p| p.get("hints"));
                let named =
                    named.into_iter().flat_map(Value::elements).filter_map(|h| h.get("name")?.as_str());
                hints = named.map(|hint| hint.into_owned()).collect::<Vec<_>>();
                include = text("includeContext").unwrap_or("none".into());
                // What is no number is more than any bound.
                let tokens = params.and_then(|p| p.get("maxTokens")).and_then(Value::as_i64);
                ServerAction::Sample {
                    max_tokens: tokens.unwrap_or(i64::MAX),
                    model_hints: &hints,
                    include_context: &include,
                    with_tools: brings_tools(params),
                }
            }
        };
        let query = ServerQuery {
            server: server.name().as_str(),
            client,
            action,
            now: self.clock.now(),
            era: policy_era(era),
        };
        match ready.bundle.authorize_server(&query) {
            Decision::Permit(_) => Ok(()),
            Decision::Deny(denial) if denial.reason == Reason::NoPermit => Err(refused(&format!(
                "neither `may_ask` of the server `{}` nor a policy permits it",
                server.name()
            ))),
            Decision::Deny(denial) => Err(refused(&denial.reason.to_string())),
        }
    }

    /// Whether a client may tell `server` something it was not asked by a request of its own: a notification, or the answer to
    /// a question.
    ///
    /// # Errors
    /// The refusal; nothing may go out.
    pub async fn may_tell(
        &self,
        asker: &Asker,
        server: &Server,
        era: Era,
        message: &Message,
    ) -> Result<(), Refusal> {
        let ready = self.ready().ok_or_else(unready)?;
        let is_answer = message.method().is_empty();
        let carries = is_answer || message.fields().any(|member| !member.is("_meta"));
        let (flow, because) = if ready.reads_flow || (carries && self.may_leak(server, &ready)) {
            self.window(asker, &ready).await?
        } else {
            (FlowContext::default(), String::new())
        };
        if carries && self.may_leak(server, &ready) && flow.untrusted && flow.private {
            return Err(leaking(era, &because));
        }
        if is_answer {
            // That the question was put is the permission to answer it.
            return Ok(());
        }
        let principal = self.principal(asker, &ready.bundle);
        let decision = ready.bundle.authorize(&Query {
            principal: &principal,
            client: asker.caller.client(),
            server: server.name().as_str(),
            action: Action::Notify,
            surroundings: Surroundings {
                address: asker.address,
                now: self.clock.now(),
                era: policy_era(era),
                flow,
            },
            approved: &[],
        });
        permitted(decision, asker, server, era, &because).map(|_| ())
    }

    /// Whether a caller may listen for every resource that a modern subscription names (attacks.md SH-10). Their addresses go
    /// out to the server, like any argument.
    pub(super) async fn check_listening(
        &self,
        ready: &Ready,
        asker: &Asker,
        server: &Server,
        listening: &Listening<'_>,
    ) -> Result<(), Refusal> {
        let Listening { principal, era, is_merged, message } = *listening;
        let wanted = message.param("notifications").and_then(|n| n.get("resourceSubscriptions"));
        let no_list =
            || Refusal::new(400, code::INVALID_PARAMS, "`resourceSubscriptions` is a list of addresses");
        if wanted.is_some_and(|wanted| wanted.kind() != Json::Array) {
            return Err(no_list());
        }
        let mut is_any = false;
        for uri in wanted.into_iter().flat_map(Value::elements) {
            let uri = uri.as_str().ok_or_else(no_list)?;
            let uri = match merged::split_uri(&uri).filter(|_| is_merged) {
                // Another server's, with whose own request it is judged.
                Some((other, _)) if other != server.name().as_str() => continue,
                Some((_, bare)) => bare,
                None => &uri,
            };
            let decision = ready.bundle.authorize(&Query {
                principal,
                client: asker.caller.client(),
                server: server.name().as_str(),
                action: Action::SubscribeResource { uri },
                surroundings: Surroundings {
                    address: asker.address,
                    now: self.clock.now(),
                    era: policy_era(era),
                    flow: FlowContext::default(),
                },
                approved: &[],
            });
            permitted(decision, asker, server, era, "")?;
            is_any = true;
        }
        if is_any && self.may_leak(server, ready) {
            let (flow, because) = self.window(asker, ready).await?;
            if flow.untrusted && flow.private {
                return Err(leaking(era, &because));
            }
        }
        Ok(())
    }

    /// Whether what goes to `server` leaves the house, where the shipped rule holds.
    fn may_leak(&self, server: &Server, ready: &Ready) -> bool {
        let trust = ready.trust.get(server.name()).copied().unwrap_or_default();
        ready.has_rule && trust.default_labels().sends_out
    }

    /// What has entered the caller's window, and by which calls. A call is on record before its answer is shown, so nothing
    /// that a client can know is missing.
    async fn window(&self, asker: &Asker, ready: &Ready) -> Result<(FlowContext, String), Refusal> {
        let now = self.clock.now();
        let since = Timestamp::from_unix(now.as_unix().saturating_sub(ready.window.as_secs()));
        let past = self.flows.window(&asker.caller, since).await.map_err(unusable)?;
        Ok((context_of(&past), because(&past)))
    }
}

/// The refusal of what would let private data out by a stranger's word.
pub(super) fn leaking(era: Era, because: &str) -> Refusal {
    let status = if era == Era::Modern { 403 } else { 200 };
    let text =
        format!("untrusted text and private data have met, so nothing goes out to this server: {because}");
    Refusal::new(status, code::FORBIDDEN, text)
        .with_data(r#"{"source":"bartizan","reason":"policy.flow"}"#)
        .with_policies(&[])
}

fn refused(because: &str) -> Refusal {
    unasked(403, &format!("the gateway does not put this question: {because}"))
}

/// The refusal of what a client is not asked.
pub fn unasked(status: u16, why: &str) -> Refusal {
    Refusal::new(status, code::FORBIDDEN, why)
        .with_data(r#"{"source":"bartizan","reason":"policy.question"}"#)
}

/// The mode of an elicitation; without a word of it, a form (26/elicitation). `None` if some client could read another: of a
/// mode that is none, or of what only an address has.
fn mode_of(params: Option<Value<'_>>) -> Option<Mode> {
    let member = |name| params.and_then(|p| p.get(name));
    match member("mode") {
        Some(mode) if mode.as_str().as_deref() == Some("url") => Some(Mode::Url),
        Some(mode) if mode.as_str().as_deref() != Some("form") => None,
        // Where the mode is not looked at, these make it an address.
        _ if member("url").or(member("elicitationId")).is_some() => None,
        _ => Some(Mode::Form),
    }
}

fn brings_tools(params: Option<Value<'_>>) -> bool {
    params.is_some_and(|p| p.get("tools").is_some() || p.get("toolChoice").is_some())
}

/// Whether a person can be sent to this address: https, a name, nobody's password (attacks.md II-02).
fn is_safe(text: &str) -> bool {
    let Ok(url) = Url::parse(text) else { return false };
    let host = url.host_str().unwrap_or_default();
    let is_name = url.domain().is_some_and(|name| name.contains('.') && name.parse::<IpAddr>().is_err());
    // Other programs read these characters as their own.
    let is_plain = !text.chars().any(|c| c.is_control() || c.is_whitespace() || "\\`|;$<>\"'".contains(c));
    url.scheme() == "https"
        && is_name
        && is_plain
        && url.username().is_empty()
        && url.password().is_none()
        && !host.split('.').any(|label| label.starts_with("xn--"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_are_sent_to_named_https_hosts_only() {
        assert!(is_safe("https://login.example.com/start?id=1&x=2"));
        for bad in [
            "javascript:alert(1)",
            "data:text/html,x",
            "file:///etc/passwd",
            "http://example.com/",
            "https://user@example.com/",
            "https://10.0.0.1/",
            "https://[::1]/",
            "https://0x7f.1/",
            "https://localhost/",
            "https://xn--exmple-cua.com/",
            "https://еxample.com/",
            "https://example.com/$(id)",
            "https://example.com/a;b",
            "https://example.com/ x",
            "",
        ] {
            assert!(!is_safe(bad), "{bad}");
        }
    }

    #[test]
    fn may_ask_stands_for_policies() {
        let (files, web): (ServerName, ServerName) = ("files".parse().unwrap(), "web".parse().unwrap());
        let all = BTreeSet::from([Question::Elicitation, Question::Roots, Question::Sampling]);
        let none = BTreeSet::new();
        assert!(as_policies([(&web, &none)].into_iter()).is_none());
        let source = as_policies([(&files, &all), (&web, &none)].into_iter()).unwrap();
        assert_eq!(
            source.text.matches("permit (principal == Server::\"files\"").count(),
            3,
            "{}",
            source.text
        );
        assert!(!source.text.contains("web") && source.text.contains("max_tokens <= 100000"));
    }

    #[test]
    fn what_could_be_read_in_two_modes_has_none() {
        let mode = |params: &str| mode_of(Some(Value::of(params)));
        assert!(mode_of(None) == Some(Mode::Form) && mode("{}") == Some(Mode::Form));
        assert!(mode(r#"{"mode":"form","requestedSchema":{}}"#) == Some(Mode::Form));
        assert!(mode(r#"{"mode":"\u0075rl","url":"https://a.example/"}"#) == Some(Mode::Url));
        for bad in [
            r#"{"url":"https://a.example/"}"#,
            r#"{"elicitationId":"e"}"#,
            r#"{"mode":"form","url":null}"#,
            r#"{"mode":null}"#,
            r#"{"mode":"URL"}"#,
            r#"{"mode":["url"]}"#,
        ] {
            assert!(mode(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn what_a_client_takes_is_what_it_declared() {
        let takes = |question: Question, capabilities: &str, params: &str| {
            question.is_declared(Value::of(capabilities), Some(Value::of(params)))
        };
        assert!(takes(Question::Elicitation, r#"{"elicitation":{}}"#, "{}"));
        assert!(!takes(Question::Elicitation, r#"{"elicitation":{}}"#, r#"{"mode":"url"}"#));
        assert!(!takes(Question::Elicitation, r#"{"elicitation":{"url":{}}}"#, "{}"));
        assert!(takes(Question::Sampling, r#"{"sampling":{}}"#, "{}"));
        assert!(!takes(Question::Sampling, r#"{"sampling":{}}"#, r#"{"tools":[]}"#));
        assert!(!takes(Question::Roots, r#"{"roots":null}"#, "{}"));
    }
}
