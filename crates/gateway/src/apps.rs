//! Pages that a server would have the client run: MCP Apps, `ui://` resources (SEP-1865; attacks.md II-15).
//!
//! Such a page is a program. Its text can be judged, and what it does cannot, so none passes unless the operator lets the
//! server show apps (`[[servers]] app_hosts`), and then only with a content security policy that reaches no further than the
//! hosts named there, and without asking for devices. What an app calls goes through the gate like any other call.

use bartizan_mcp::{
    Message, Refusal, code,
    json::{self, Value},
};
use bartizan_shield::{Finding, Kind};

use crate::{documents, server::Server};

/// The profile that makes HTML an app.
const PROFILE: &str = "profile=mcp-app";
/// The lists of a policy, each of which holds origins (SEP-1865, `_meta.ui.csp`).
const LISTS: [&str; 4] = ["connectDomains", "resourceDomains", "frameDomains", "baseUriDomains"];

/// Whether a client may ask `server` for what it names in `message`.
///
/// # Errors
/// 403, if that is an app and the server may show none.
pub fn may_ask(server: &Server, message: &Message) -> Result<(), Refusal> {
    let uri = message.field("uri").and_then(Value::as_str).unwrap_or_default();
    if server.settings().app_hosts.is_some() || !is_app_address(&uri) {
        return Ok(());
    }
    Err(Refusal::new(
        403,
        code::FORBIDDEN,
        "this server may show no apps; `[[servers]] app_hosts` lets it, and says what they may reach",
    )
    .with_data(r#"{"source":"bartizan","reason":"policy.app"}"#))
}

/// The apps in an answer of `server` that must not be shown.
pub fn found(server: &Server, message: &Message, kind: Kind) -> Vec<Finding> {
    let resources = documents::resources(message).into_iter();
    let wrong = resources.filter_map(|(at, resource)| {
        let (rule, title) = wrong(resource, server.settings().app_hosts.as_deref())?;
        Some(Finding::unjudged(rule, title, kind, at))
    });
    wrong.collect()
}

/// Why `resource` must not be shown, if it is an app.
fn wrong(resource: Value<'_>, hosts: Option<&[String]>) -> Option<(&'static str, &'static str)> {
    let text = |name: &str| resource.get(name).and_then(Value::as_str).unwrap_or_default();
    let media_type: String = text("mimeType").to_ascii_lowercase().replace([' ', '"', '\t'], "");
    if !is_app_address(&text("uri")) && !media_type.contains(PROFILE) {
        return None;
    }
    let Some(hosts) = hosts else {
        return Some(("app.not-allowed", "it is an app, and this server may show none (`app_hosts`)"));
    };
    let about = resource.get("_meta").and_then(|meta| meta.get("ui"));
    let asks = about.and_then(|about| about.get("permissions"));
    let is_nothing = |asks: Value<'_>| {
        asks.is_null() || (asks.kind() == json::Kind::Object && asks.members().next().is_none())
    };
    if asks.is_some_and(|asks| !is_nothing(asks)) {
        return Some(("app.devices", "it is an app that asks for the devices of whoever sees it"));
    }
    let further = Some(("app.reaches-further", "it is an app that would reach hosts beyond `app_hosts`"));
    // Without a policy of its own it reaches nothing (SEP-1865: hosts then forbid all connections).
    let policy = about.and_then(|about| about.get("csp")).filter(|policy| !policy.is_null())?;
    let is_named = |origin: Value<'_>| {
        let origin = origin.as_str().unwrap_or_default();
        origin.strip_prefix("https://").is_some_and(|host| hosts.iter().any(|named| named == host))
    };
    // A list we do not know might reach anywhere.
    let known = policy.members().all(|member| LISTS.iter().any(|list| member.is(list)));
    let is_narrow = |list: Value<'_>| list.kind() == json::Kind::Array && list.elements().all(is_named);
    let narrow =
        policy.kind() == json::Kind::Object && policy.members().all(|member| is_narrow(member.value));
    if known && narrow { None } else { further }
}

/// Whether an address is one of an app; schemes know no case (RFC 3986 §3.1).
fn is_app_address(uri: &str) -> bool {
    uri.trim_start().get(..3).is_some_and(|scheme| scheme.eq_ignore_ascii_case("ui:"))
}
