//! Every difference between the eras: which methods exist, what a request must carry, what an answer may hold.

use http::HeaderMap;

use crate::{
    Era, Refusal, Revision, code,
    headers::{self, METHOD, NAME, PROTOCOL_VERSION},
    json::{Kind as Json, Value, quote},
    message::Message,
    refusal::unknown_method,
};

/// `_meta` key of a request's protocol version.
pub const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
/// `_meta` key of what a request's client can do.
pub const META_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
/// `_meta` key of a client's name and version.
pub const META_CLIENT: &str = "io.modelcontextprotocol/clientInfo";
/// `_meta` key of a server's name and version.
pub const META_SERVER: &str = "io.modelcontextprotocol/serverInfo";
/// `_meta` key of the listen request that a notification answers.
pub const META_SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";
/// `_meta` key of a task a message belongs to (2025-11-25).
pub const META_TASK: &str = "io.modelcontextprotocol/related-task";
/// The tasks extension.
pub const TASKS: &str = "io.modelcontextprotocol/tasks";

/// Requests a client may send.
pub fn is_client_request(era: Era, method: &str) -> bool {
    matches!(
        method,
        "tools/list"
            | "tools/call"
            | "prompts/list"
            | "prompts/get"
            | "resources/list"
            | "resources/templates/list"
            | "resources/read"
            | "completion/complete"
            | "tasks/get"
            | "tasks/cancel"
    ) || match era {
        Era::Modern => matches!(method, "server/discover" | "subscriptions/listen" | "tasks/update"),
        Era::Legacy => matches!(
            method,
            "initialize"
                | "ping"
                | "resources/subscribe"
                | "resources/unsubscribe"
                | "logging/setLevel"
                | "tasks/result"
                | "tasks/list"
        ),
    }
}

/// Notifications a client may send.
pub fn is_client_notification(era: Era, method: &str) -> bool {
    method == "notifications/cancelled"
        || (era == Era::Legacy
            && matches!(
                method,
                "notifications/initialized"
                    | "notifications/progress"
                    | "notifications/roots/list_changed"
                    | "notifications/tasks/status"
            ))
}

/// Requests a server may send; there are none in the modern era (A-69).
pub fn is_server_request(era: Era, method: &str) -> bool {
    era == Era::Legacy
        && matches!(
            method,
            "ping"
                | "sampling/createMessage"
                | "elicitation/create"
                | "roots/list"
                | "tasks/get"
                | "tasks/result"
                | "tasks/list"
                | "tasks/cancel"
        )
}

/// Notifications a server may send.
pub fn is_server_notification(era: Era, method: &str) -> bool {
    is_change(method)
        || matches!(method, "notifications/progress" | "notifications/message" | "notifications/cancelled")
        || match era {
            Era::Modern => {
                matches!(method, "notifications/subscriptions/acknowledged" | "notifications/tasks")
            }
            Era::Legacy => {
                matches!(method, "notifications/elicitation/complete" | "notifications/tasks/status")
            }
        }
}

/// Notifications that say something changed; they belong to no request.
pub fn is_change(method: &str) -> bool {
    matches!(
        method,
        "notifications/tools/list_changed"
            | "notifications/prompts/list_changed"
            | "notifications/resources/list_changed"
            | "notifications/resources/updated"
    )
}

/// Requests whose repetition changes nothing, so a lost one may be sent again (C-14).
pub fn is_repeatable(method: &str) -> bool {
    matches!(
        method,
        "server/discover"
            | "ping"
            | "tools/list"
            | "prompts/list"
            | "prompts/get"
            | "resources/list"
            | "resources/templates/list"
            | "resources/read"
            | "completion/complete"
            | "tasks/get"
            | "tasks/list"
            | "logging/setLevel"
            | "resources/subscribe"
            | "resources/unsubscribe"
    )
}

/// Results that carry `ttlMs` and `cacheScope` in the modern era (A-56).
pub fn is_cacheable(method: &str) -> bool {
    matches!(
        method,
        "server/discover"
            | "tools/list"
            | "prompts/list"
            | "resources/list"
            | "resources/templates/list"
            | "resources/read"
    )
}

/// Methods that may answer `input_required` (A-88).
pub fn may_need_input(method: &str) -> bool {
    matches!(method, "tools/call" | "prompts/get" | "resources/read")
}

/// The parameter that `Mcp-Name` mirrors (A-30, A-115).
pub fn name_param(method: &str) -> Option<&'static str> {
    match method {
        "tools/call" | "prompts/get" => Some("name"),
        "resources/read" => Some("uri"),
        "tasks/get" | "tasks/update" | "tasks/cancel" => Some("taskId"),
        _ => None,
    }
}

/// Which era a message asks for (A-100): what it carries decides, then what its header claims (B-36).
pub fn of_message(message: &Message, headers: Option<&HeaderMap>) -> Era {
    let claims = || {
        let line = headers?.get(PROTOCOL_VERSION)?.to_str().ok()?;
        // A name that only a newer revision can have is a modern client's; older unknown ones are judged as legacy.
        Some(line.trim())
            .filter(|v| *v >= Revision::V2026_07_28.name() && v.starts_with(|c: char| c.is_ascii_digit()))
    };
    let carries = message.meta(META_VERSION).is_some() || message.meta(META_CAPABILITIES).is_some();
    if carries || message.method() == "server/discover" || claims().is_some() {
        Era::Modern
    } else {
        Era::Legacy
    }
}

/// Checks what every modern request must carry, in the order of spec.md A-40 from "header present" to `Mcp-Name`.
///
/// `headers` is absent on stdio, which mirrors nothing. `allowed` says which other methods a server may be asked.
///
/// # Errors
/// The refusal of the first rule that is broken.
pub fn check_modern(
    message: &Message,
    headers: Option<&HeaderMap>,
    allowed: impl Fn(&str) -> bool,
) -> Result<(), Refusal> {
    let header_fault = |fault: headers::Fault| Refusal::new(400, code::HEADER_MISMATCH, fault.to_string());
    let read =
        |name: &http::HeaderName| headers.map_or(Ok(None), |h| headers::read(h, name).map_err(header_fault));
    let mismatch = |text: &str| Refusal::new(400, code::HEADER_MISMATCH, text);

    let header_version = read(&PROTOCOL_VERSION)?;
    if headers.is_some() && header_version.is_none() {
        return Err(mismatch("the header MCP-Protocol-Version is missing"));
    }
    let version = message
        .meta(META_VERSION)
        .and_then(Value::as_str)
        .ok_or_else(|| missing_meta(META_VERSION, "a string"))?;
    message
        .meta(META_CAPABILITIES)
        .filter(|c| c.kind() == Json::Object)
        .ok_or_else(|| missing_meta(META_CAPABILITIES, "an object"))?;
    if header_version.is_some_and(|v| v != version) {
        return Err(mismatch("the header MCP-Protocol-Version differs from the version in `_meta`"));
    }
    if Revision::named(&version).map(Revision::era) != Some(Era::Modern) {
        return Err(unsupported_version(&version));
    }
    let method = message.method();
    if headers.is_some() {
        match read(&METHOD)? {
            Some(sent) if sent == method => {}
            Some(_) => return Err(mismatch("the header Mcp-Method differs from `method`")),
            None => return Err(mismatch("the header Mcp-Method is missing")),
        }
    }
    if !is_client_request(Era::Modern, &method) && !allowed(&method) {
        return Err(unknown_method(Era::Modern, &method));
    }
    if let Some(param) = name_param(&method) {
        let named = message.param(param).and_then(Value::as_str);
        if headers.is_some() {
            match (read(&NAME)?, &named) {
                (Some(sent), Some(named)) if sent == *named => {}
                (None, _) => return Err(mismatch("the header Mcp-Name is missing")),
                _ => return Err(mismatch(&format!("the header Mcp-Name differs from `params.{param}`"))),
            }
        }
    }
    check_params(message)
}

/// Checks the parameters that decide where a known request goes; both eras share them.
///
/// # Errors
/// -32602 naming the parameter.
pub fn check_params(message: &Message) -> Result<(), Refusal> {
    let method = message.method();
    let text_param = match method.as_ref() {
        "resources/subscribe" | "resources/unsubscribe" => Some("uri"),
        "tasks/result" => Some("taskId"),
        "logging/setLevel" => Some("level"),
        other => name_param(other),
    };
    let invalid = |text: String| Refusal::new(400, code::INVALID_PARAMS, text);
    if let Some(param) = text_param
        && message.param(param).and_then(Value::as_str).is_none_or(|v| v.is_empty())
    {
        return Err(invalid(format!("`{method}` needs the string `params.{param}`")));
    }
    if matches!(method.as_ref(), "tools/call" | "prompts/get")
        && message.param("arguments").is_some_and(|a| a.kind() != Json::Object)
    {
        return Err(invalid("`params.arguments` must be an object".into()));
    }
    if message.param("cursor").is_some_and(|c| c.kind() != Json::String) {
        return Err(invalid("`params.cursor` must be a string".into()));
    }
    if message.meta("progressToken").is_some_and(|t| !(t.kind() == Json::String || t.is_integer())) {
        return Err(invalid("`_meta.progressToken` must be a string or an integer".into()));
    }
    Ok(())
}

fn missing_meta(key: &str, kind: &str) -> Refusal {
    Refusal::new(
        400,
        code::INVALID_PARAMS,
        format!("every request needs {kind} at `params._meta[\"{key}\"]`"),
    )
}

/// -32022 with what is spoken here (A-28).
pub fn unsupported_version(requested: &str) -> Refusal {
    let supported: Vec<_> =
        Revision::ALL.iter().filter(|r| r.era() == Era::Modern).map(|r| quote(r.name())).collect();
    Refusal::new(400, code::UNSUPPORTED_VERSION, "this protocol version is not spoken here")
        .with_data(format!(r#"{{"supported":[{}],"requested":{}}}"#, supported.join(","), quote(requested)))
}

/// The refusal of a client whose era its server does not speak (D; HTTP 400 that no `auto` client takes for modern).
pub fn mismatch(server: &str, client: Era) -> Refusal {
    let server_era = if client == Era::Modern { Era::Legacy } else { Era::Modern };
    let text = format!(
        "the server `{server}` speaks MCP {} and this client speaks {}; use a client that speaks {} too",
        server_era.revisions(),
        client.revisions(),
        server_era.revisions(),
    );
    let name = |era| if era == Era::Modern { "modern" } else { "legacy" };
    Refusal::new(400, code::ERA_MISMATCH, text).with_data(format!(
        r#"{{"source":"bartizan","reason":"era_mismatch","client":"{}","server":"{}"}}"#,
        name(client),
        name(server_era)
    ))
}

/// Whether an answer to `server/discover` shows a modern server (C-43, C-45): a discovery result, or one of the
/// three codes that only modern servers send.
pub fn shows_modern(answer: &Message) -> bool {
    match answer.error_code() {
        Some(code) => [code::HEADER_MISMATCH, code::MISSING_CAPABILITY, code::UNSUPPORTED_VERSION]
            .iter()
            .any(|modern| i64::from(*modern) == code),
        None => {
            answer.result().and_then(|r| r.get("supportedVersions")).is_some_and(|v| v.kind() == Json::Array)
        }
    }
}

/// Whether a W3C `traceparent` is well formed: version 00, ids not all zero (Trace Context §3.2).
pub fn is_traceparent(text: &str) -> bool {
    let hex = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let parts: Vec<_> = text.split('-').collect();
    let [version, trace, span, flags] = parts.as_slice() else { return false };
    *version == "00"
        && hex(trace, 32)
        && hex(span, 16)
        && hex(flags, 2)
        && trace.bytes().any(|b| b != b'0')
        && span.bytes().any(|b| b != b'0')
}

/// Appends a form of `value` in which equal values are equal bytes: keys sorted, strings unescaped and measured,
/// numbers as written. It is for digests, not for parsers.
pub fn canonical(value: Value<'_>, out: &mut Vec<u8>) {
    let text = |text: &str, out: &mut Vec<u8>| {
        out.extend_from_slice(&(text.len() as u64).to_be_bytes());
        out.extend_from_slice(text.as_bytes());
    };
    match value.kind() {
        Json::Object => {
            let mut members: Vec<_> = value.members().map(|m| (m.key().into_owned(), m.value)).collect();
            members.sort_by(|a, b| a.0.cmp(&b.0));
            out.push(b'{');
            for (key, value) in members {
                text(&key, out);
                canonical(value, out);
            }
            out.push(b'}');
        }
        Json::Array => {
            out.push(b'[');
            value.elements().for_each(|e| canonical(e, out));
            out.push(b']');
        }
        Json::String => {
            out.push(b'"');
            text(&value.as_str().unwrap_or_default(), out);
        }
        _ => {
            out.push(b'=');
            text(value.text(), out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modern(method: &str, params: &str) -> Message {
        let meta = format!(r#""_meta":{{"{META_VERSION}":"2026-07-28","{META_CAPABILITIES}":{{}}}}"#);
        let params = if params.is_empty() { meta } else { format!("{params},{meta}") };
        Message::parse(
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{{params}}}}}"#).into_bytes(),
        )
        .unwrap()
    }

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        lines.iter().map(|(n, v)| (http::HeaderName::from_static(n), v.parse().unwrap())).collect()
    }

    fn code_of(message: &Message, headers: &HeaderMap) -> Option<(u16, i32)> {
        check_modern(message, Some(headers), |_| false).err().map(|r| (r.status, r.code))
    }

    /// Two faults at once: the earlier rule of A-40 answers.
    #[test]
    fn the_first_broken_rule_answers() {
        let call = modern("tools/call", r#""name":"x""#);
        let good = [("mcp-protocol-version", "2026-07-28"), ("mcp-method", "tools/call"), ("mcp-name", "x")];
        assert_eq!(code_of(&call, &headers(&good)), None);
        assert_eq!(code_of(&call, &headers(&good[1..])), Some((400, code::HEADER_MISMATCH)));
        assert_eq!(code_of(&call, &headers(&good[..1])), Some((400, code::HEADER_MISMATCH)));
        assert_eq!(code_of(&call, &headers(&good[..2])), Some((400, code::HEADER_MISMATCH)));
        let wrong = [good[0], ("mcp-method", "TOOLS/CALL"), good[2]];
        assert_eq!(code_of(&call, &headers(&wrong)), Some((400, code::HEADER_MISMATCH)));
        let unknown = modern("initialize", "");
        assert_eq!(
            code_of(&unknown, &headers(&[good[0], ("mcp-method", "initialize")])),
            Some((404, code::METHOD_NOT_FOUND))
        );
        let bare = Message::parse(br#"{"jsonrpc":"2.0","id":1,"method":"nope"}"#.to_vec()).unwrap();
        assert_eq!(code_of(&bare, &headers(&good[..1])), Some((400, code::INVALID_PARAMS)));
        let other = Message::parse(
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"m","params":{{"_meta":{{"{META_VERSION}":"1900-01-01","{META_CAPABILITIES}":{{}}}}}}}}"#)
                .into_bytes(),
        )
        .unwrap();
        assert_eq!(code_of(&other, &headers(&good[..1])), Some((400, code::HEADER_MISMATCH)));
        assert_eq!(
            code_of(&other, &headers(&[("mcp-protocol-version", "1900-01-01")])),
            Some((400, code::UNSUPPORTED_VERSION))
        );
        assert!(check_modern(&call, None, |_| false).is_ok(), "stdio mirrors nothing");
        let nameless = modern("tools/call", r#""name":7"#);
        assert!(check_modern(&nameless, None, |_| false).is_err_and(|r| r.code == code::INVALID_PARAMS));
    }

    #[test]
    fn picks_the_era_by_what_is_carried() {
        let initialize =
            Message::parse(br#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}"#.to_vec())
                .unwrap();
        assert_eq!(of_message(&initialize, None), Era::Legacy);
        assert_eq!(of_message(&modern("initialize", ""), None), Era::Modern);
        let list = Message::parse(br#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#.to_vec()).unwrap();
        assert_eq!(of_message(&list, Some(&headers(&[("mcp-protocol-version", "2026-07-28")]))), Era::Modern);
        assert_eq!(of_message(&list, Some(&headers(&[("mcp-protocol-version", "2025-11-25")]))), Era::Legacy);
        assert_eq!(of_message(&list, Some(&headers(&[("mcp-protocol-version", "banana")]))), Era::Legacy);
    }

    #[test]
    fn equal_values_are_equal_bytes() {
        let bytes = |text: &str| {
            let mut out = Vec::new();
            canonical(Value::of_checked(text), &mut out);
            out
        };
        assert_eq!(bytes(r#"{"b":[1, 2],"a":"\u0041"}"#), bytes(r#"{ "a":"A","b":[1,2] }"#));
        assert_ne!(bytes(r#"{"a":"bc"}"#), bytes(r#"{"ab":"c"}"#));
        assert_ne!(bytes(r#"["1"]"#), bytes("[1]"));
    }

    #[test]
    fn knows_a_traceparent() {
        assert!(is_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"));
        for bad in
            ["", "00-4bf9-00f0-01", "00-00000000000000000000000000000000-00f067aa0ba902b7-01", "x\r\ny"]
        {
            assert!(!is_traceparent(bad));
        }
    }
}
