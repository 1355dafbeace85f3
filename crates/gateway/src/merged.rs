//! The merged endpoint `/mcp`: every server of the caller's era as one.
//!
//! Tools and prompts are called `{server}__{name}`; a server's name has no underscore, so the first pair parts them.
//! Resource addresses become `bartizan-{server}+{address}`, still a URI with a valid scheme (RFC 3986 §3.1) and, for
//! templates, still expandable. Tasks become `{server}.{handle}`.

use std::{future::Future, sync::Arc};

use bartizan_mcp::{
    Era, Message, Refusal, Splice, code, era,
    json::{Kind as Json, Value, quote},
    message,
};
use bartizan_model::ServerName;
use futures::future::join_all;
use http::HeaderMap;

use crate::{
    Asker, Gate,
    call::own_info,
    flow::{Replies, Reply},
    handles::Handle,
    legacy::{Link, Session},
    limits::{ANSWER_BYTES, MERGED_PAGE, MERGED_WAIT, PAGES},
    modern,
    server::Server,
};

mod listening;
mod opening;

pub use opening::initialize;

/// What handles of this endpoint are bound to; no server has this name.
const MERGED: &str = "/";

/// The longest tool name that clients must take (spec.md A-59).
const LONGEST_NAME: usize = 128;

/// `{server}__{name}`
pub fn join_name(server: &ServerName, name: &str) -> String {
    format!("{server}__{name}")
}

/// The server and the name it knows.
pub fn split_name(joined: &str) -> Option<(&str, &str)> {
    joined.split_once("__").filter(|(_, name)| !name.is_empty())
}

/// `bartizan-{server}+{uri}`
pub fn join_uri(server: &ServerName, uri: &str) -> String {
    format!("bartizan-{server}+{uri}")
}

/// The server and the address it knows.
pub fn split_uri(joined: &str) -> Option<(&str, &str)> {
    joined.strip_prefix("bartizan-")?.split_once('+')
}

/// `{server}.{handle}`
pub fn join_task(server: &ServerName, handle: &str) -> String {
    format!("{server}.{handle}")
}

/// The server and the handle.
pub fn split_task(joined: &str) -> Option<(&str, &str)> {
    joined.split_once('.')
}

/// Takes the server's name out of a request's parameters.
pub fn parameters_up<'a>(method: &str, params: Value<'a>, server: &ServerName, splice: &mut Splice<'a>) {
    let strip =
        |value: Option<Value<'a>>, split: fn(&str) -> Option<(&str, &str)>, splice: &mut Splice<'a>| {
            if let Some(value) = value
                && let Some(text) = value.as_str()
                && let Some((named, bare)) = split(&text)
                && named == server.as_str()
            {
                splice.replace(value, quote(bare));
            }
        };
    match method {
        "tools/call" | "prompts/get" => strip(params.get("name"), split_name, splice),
        "resources/read" | "resources/subscribe" | "resources/unsubscribe" => {
            strip(params.get("uri"), split_uri, splice)
        }
        "completion/complete" => {
            let reference = params.get("ref");
            strip(reference.and_then(|r| r.get("name")), split_name, splice);
            strip(reference.and_then(|r| r.get("uri")), split_uri, splice);
        }
        "subscriptions/listen" => {
            // Only this server's own resources are its to tell of.
            if let Some(uris) = params.get("notifications").and_then(|n| n.get("resourceSubscriptions")) {
                let own: Vec<_> = uris
                    .elements()
                    .filter_map(|u| u.as_str())
                    .filter_map(|u| {
                        split_uri(&u).filter(|(s, _)| *s == server.as_str()).map(|(_, bare)| quote(bare))
                    })
                    .collect();
                splice.replace(uris, format!("[{}]", own.join(",")));
            }
        }
        _ => {}
    }
}

/// Puts the server's name into the addresses of a result.
pub fn result_down<'a>(message: &'a Message, server: &ServerName, splice: &mut Splice<'a>) {
    for key in ["content", "contents", "messages"] {
        if let Some(value) = message.field(key) {
            wrap_addresses(value, server, splice, 0);
        }
    }
}

/// Puts the server's name into the addresses of a notification.
pub fn notification_down<'a>(message: &'a Message, server: &ServerName, splice: &mut Splice<'a>) {
    if message.method() == "notifications/resources/updated" {
        wrap(message.param("uri"), server, splice);
    }
    if message.method() == "notifications/subscriptions/acknowledged"
        && let Some(uris) = message.param("notifications").and_then(|n| n.get("resourceSubscriptions"))
    {
        uris.elements().for_each(|u| wrap(Some(u), server, splice));
    }
}

fn wrap<'a>(uri: Option<Value<'a>>, server: &ServerName, splice: &mut Splice<'a>) {
    if let Some(value) = uri
        && let Some(text) = value.as_str()
    {
        splice.replace(value, quote(&join_uri(server, &text)));
    }
}

/// Addresses stand in resource contents, in `resource_link` blocks and in embedded `resource`s.
fn wrap_addresses<'a>(value: Value<'a>, server: &ServerName, splice: &mut Splice<'a>, depth: u8) {
    if depth > 4 {
        return;
    }
    match value.kind() {
        Json::Array => value.elements().for_each(|e| wrap_addresses(e, server, splice, depth + 1)),
        Json::Object => {
            wrap(value.get("uri"), server, splice);
            for key in ["resource", "content"] {
                if let Some(inner) = value.get(key) {
                    wrap_addresses(inner, server, splice, depth + 1);
                }
            }
        }
        _ => {}
    }
}

/// Which kind of thing a list lists, and how its entries are renamed.
#[derive(Clone, Copy)]
struct Listing {
    member: &'static str,
    key: &'static str,
    is_uri: bool,
}

fn listing(method: &str) -> Option<Listing> {
    Some(match method {
        "tools/list" => Listing { member: "tools", key: "name", is_uri: false },
        "prompts/list" => Listing { member: "prompts", key: "name", is_uri: false },
        "resources/list" => Listing { member: "resources", key: "uri", is_uri: true },
        "resources/templates/list" => {
            Listing { member: "resourceTemplates", key: "uriTemplate", is_uri: true }
        }
        _ => return None,
    })
}

impl Listing {
    /// An entry under its merged name; `None` if no client could call it by that.
    fn rename(self, entry: Value<'_>, server: &ServerName) -> Option<String> {
        let place = entry.get(self.key)?;
        let name = place.as_str()?;
        let joined = if self.is_uri { join_uri(server, &name) } else { join_name(server, &name) };
        if !self.is_uri && joined.len() > LONGEST_NAME {
            tracing::warn!(%server, name = %quote(&name), "left out of the merged list: its name would pass {LONGEST_NAME} characters");
            return None;
        }
        let mut splice = Splice::new(entry.text());
        splice.replace(place, quote(&joined));
        Some(splice.finish())
    }
}

/// The server that a request to the merged endpoint is for.
fn addressee<'n>(method: &str, message: &'n Message) -> Option<std::borrow::Cow<'n, str>> {
    let text = |value: Option<Value<'n>>| value.and_then(Value::as_str);
    let named = |joined: std::borrow::Cow<'n, str>, split: fn(&str) -> Option<(&str, &str)>| {
        split(&joined).map(|(server, _)| std::borrow::Cow::Owned(server.to_owned()))
    };
    match method {
        "tools/call" | "prompts/get" => named(text(message.param("name"))?, split_name),
        "resources/read" | "resources/subscribe" | "resources/unsubscribe" => {
            named(text(message.param("uri"))?, split_uri)
        }
        "completion/complete" => {
            let reference = message.param("ref")?;
            // As the policy reads it.
            if text(reference.get("type")).as_deref() == Some("ref/resource") {
                named(text(reference.get("uri"))?, split_uri)
            } else {
                named(text(reference.get("name"))?, split_name)
            }
        }
        _ if method.starts_with("tasks/") => named(text(message.param("taskId"))?, split_task),
        _ => None,
    }
}

fn unknown(method: &str, era: Era) -> Refusal {
    let what = match method {
        "tools/call" => "tool; merged tools are called {server}__{tool}",
        "prompts/get" => "prompt; merged prompts are called {server}__{prompt}",
        "resources/read" | "resources/subscribe" | "resources/unsubscribe" => {
            "resource; merged addresses come from resources/list"
        }
        "completion/complete" => "prompt or resource",
        _ => "task",
    };
    let code = if era == Era::Legacy && method == "resources/read" { -32002 } else { code::INVALID_PARAMS };
    Refusal::new(200, code, format!("there is no such {what}"))
}

/// Answers a modern request to the merged endpoint.
///
/// # Errors
/// The refusal.
pub async fn modern(
    gate: &Arc<Gate>,
    asker: &Asker,
    servers: &[Arc<Server>],
    message: &Message,
    headers: Option<&HeaderMap>,
) -> Result<Reply, Refusal> {
    let method = message.method();
    if let Some(listing) = listing(&method) {
        let lists = join_all(
            servers.iter().map(|server| in_time(server, list_modern(gate, asker, server, message, listing))),
        )
        .await;
        let found = together(lists)?;
        return page(gate, asker, message, listing, found, Era::Modern);
    }
    match method.as_ref() {
        "server/discover" => Ok(opening::discover(gate, asker, servers, message).await),
        "subscriptions/listen" => Ok(Reply::Replies(listening::listen(gate, asker, message))),
        _ => {
            let name = addressee(&method, message).ok_or_else(|| unknown(&method, Era::Modern))?;
            let server = servers
                .iter()
                .find(|s| s.name().as_str() == name)
                .ok_or_else(|| unknown(&method, Era::Modern))?;
            let flow = modern::open(gate, asker, server, true, message, headers).await?;
            Ok(Reply::Replies(Replies::One(Box::new(flow))))
        }
    }
}

/// One server's part of an answer of all; none if it takes too long.
async fn in_time<T>(server: &Arc<Server>, part: impl Future<Output = Option<T>>) -> Option<T> {
    match tokio::time::timeout(MERGED_WAIT, part).await {
        Ok(part) => part,
        Err(_) => {
            let seconds = MERGED_WAIT.as_secs();
            tracing::warn!(server = %server.name(), "left out of a merged answer: it took more than {seconds} seconds");
            None
        }
    }
}

/// What the servers listed, one after the other.
///
/// # Errors
/// The refusal of a caller who is over a limit: half a list would look like the whole.
fn together(lists: Vec<Option<Result<Vec<String>, Refusal>>>) -> Result<Vec<String>, Refusal> {
    let lists = lists.into_iter().flatten().collect::<Result<Vec<_>, _>>()?;
    Ok(lists.into_iter().flatten().collect())
}

/// Everything one modern server lists, all its pages, renamed; `None` if it gave no answer.
async fn list_modern(
    gate: &Arc<Gate>,
    asker: &Asker,
    server: &Arc<Server>,
    message: &Message,
    listing: Listing,
) -> Option<Result<Vec<String>, Refusal>> {
    let mut found = Found::default();
    let mut cursor: Option<String> = None;
    for _ in 0..PAGES {
        let ask = at_page(message, cursor.as_deref())?;
        let answer = match modern::open(gate, asker, server, false, &ask, None).await {
            Ok(flow) => flow.last().await?,
            Err(refusal) if refusal.retry_after_s.is_some() => return Some(Err(refusal)),
            Err(refusal) => {
                tracing::warn!(server = %server.name(), reason = %refusal.message, "left out of a merged list");
                return None;
            }
        };
        cursor = take_page(&answer, listing, server.name(), &mut found)?;
        if cursor.is_none() || found.is_full(server.name()) {
            break;
        }
    }
    Some(Ok(found.entries))
}

/// What one server has listed so far.
#[derive(Default)]
struct Found {
    entries: Vec<String>,
    bytes: usize,
}

impl Found {
    /// Whether it lists more than one answer may hold; the rest is left out (attacks.md PH-29).
    fn is_full(&self, server: &ServerName) -> bool {
        let is_full = self.bytes > ANSWER_BYTES;
        if is_full {
            tracing::warn!(%server, "the rest of its list was left out: it is longer than {ANSWER_BYTES} bytes");
        }
        is_full
    }
}

/// The same request for another page.
fn at_page(message: &Message, cursor: Option<&str>) -> Option<Message> {
    let mut splice = message.splice();
    match message.params() {
        Some(params) => match cursor {
            Some(cursor) => splice.set(params, "cursor", cursor.to_owned()),
            None => splice.retain(params, |key| key != "cursor"),
        },
        None => {
            if let Some(cursor) = cursor {
                splice.insert(message.root(), "params", &format!("{{\"cursor\":{cursor}}}"));
            }
        }
    }
    Message::from_spliced(splice.finish()).ok()
}

/// Adds a page's entries; answers the next cursor (a JSON text). `None` if the server failed.
#[expect(clippy::option_option, reason = "no answer and no further page differ")]
fn take_page(
    answer: &Message,
    listing: Listing,
    server: &ServerName,
    found: &mut Found,
) -> Option<Option<String>> {
    let Some(result) = answer.result() else {
        // A server without this feature has nothing to list.
        let is_absent = answer.error_code() == Some(i64::from(code::METHOD_NOT_FOUND));
        return is_absent.then_some(None);
    };
    let entries = result.get(listing.member);
    for entry in entries.into_iter().flat_map(Value::elements).filter_map(|e| listing.rename(e, server)) {
        found.bytes += entry.len();
        found.entries.push(entry);
    }
    Some(result.get("nextCursor").map(|c| c.text().to_owned()))
}

/// One page of a merged list. The cursor is the place in the list, which has the same order each time.
fn page(
    gate: &Gate,
    asker: &Asker,
    message: &Message,
    listing: Listing,
    found: Vec<String>,
    era: Era,
) -> Result<Reply, Refusal> {
    let method = message.method();
    let kind = Handle::Cursor { method: &method };
    let from = match message.param("cursor").and_then(Value::as_str) {
        Some(cursor) => gate
            .handles
            .open(kind, &asker.key, MERGED, &cursor)
            .and_then(|at| at.parse::<usize>().ok())
            .ok_or_else(|| {
                Refusal::new(
                    if era == Era::Modern { 400 } else { 200 },
                    code::INVALID_PARAMS,
                    "the cursor is unknown or expired",
                )
            })?,
        None => 0,
    };
    let entries: Vec<_> = found.iter().skip(from).take(MERGED_PAGE).map(String::as_str).collect();
    let mut result = format!("\"{}\":[{}]", listing.member, entries.join(","));
    if from + entries.len() < found.len() {
        let next = gate.handles.seal(kind, &asker.key, MERGED, &(from + entries.len()).to_string());
        result.push_str(&format!(",\"nextCursor\":{}", quote(&next)));
    }
    if era == Era::Modern {
        result.push_str(&modern_fields());
    }
    let id = message.id_value().map(Value::text).unwrap_or("null");
    Ok(Reply::Message { status: 200, text: message::result(id, &format!("{{{result}}}")) })
}

/// What every cacheable result of our own holds beside its content: nobody may keep it, for servers come and go.
fn modern_fields() -> String {
    format!(
        r#","resultType":"complete","ttlMs":0,"cacheScope":"private","_meta":{{"{}":{}}}"#,
        era::META_SERVER,
        own_info()
    )
}

/// Answers a legacy session's request to the merged endpoint.
///
/// # Errors
/// The refusal.
pub async fn legacy(
    gate: &Arc<Gate>,
    asker: &Asker,
    session: &Arc<Session>,
    message: &Message,
) -> Result<Reply, Refusal> {
    let method = message.method();
    let id = message.id_value().map(Value::text).unwrap_or("null");
    if let Some(listing) = listing(&method) {
        let lists = join_all(
            session
                .links()
                .iter()
                .map(|link| in_time(link.server(), list_legacy(gate, asker, link, message, listing))),
        )
        .await;
        let found = together(lists)?;
        return page(gate, asker, message, listing, found, Era::Legacy);
    }
    match method.as_ref() {
        "logging/setLevel" => {
            let told = join_all(
                session
                    .links()
                    .iter()
                    .map(|link| in_time(link.server(), answer_of(gate, asker, link, message))),
            )
            .await;
            told.into_iter().flatten().collect::<Result<Vec<_>, _>>()?;
            Ok(Reply::Message { status: 200, text: message::result(id, "{}") })
        }
        "tasks/list" => {
            let lists = join_all(
                session
                    .links()
                    .iter()
                    .map(|link| in_time(link.server(), answer_of(gate, asker, link, message))),
            )
            .await;
            let mut tasks = Vec::new();
            let lists = lists.into_iter().flatten().collect::<Result<Vec<_>, _>>()?;
            for answer in &lists {
                let listed =
                    answer.result().and_then(|r| r.get("tasks")).into_iter().flat_map(Value::elements);
                tasks.extend(listed.map(|t| t.text().to_owned()));
            }
            Ok(Reply::Message {
                status: 200,
                text: message::result(id, &format!("{{\"tasks\":[{}]}}", tasks.join(","))),
            })
        }
        _ => {
            let name = addressee(&method, message).ok_or_else(|| unknown(&method, Era::Legacy))?;
            let link = session.links().iter().find(|l| l.server().name().as_str() == name);
            let link = link.ok_or_else(|| unknown(&method, Era::Legacy))?;
            Ok(Reply::Replies(Replies::One(Box::new(link.call(gate, asker, message, None).await?))))
        }
    }
}

/// A link's answer to a request that several are asked; each under an id of its own.
async fn answer_of(
    gate: &Arc<Gate>,
    asker: &Asker,
    link: &Arc<Link>,
    message: &Message,
) -> Option<Result<Message, Refusal>> {
    let ask = Message::from_spliced(message.with_id(&format!("\"bartizan-{}\"", gate.mint()))).ok()?;
    match link.call(gate, asker, &ask, None).await {
        Ok(flow) => flow.last().await.map(Ok),
        Err(refusal) => refusal.retry_after_s.is_some().then_some(Err(refusal)),
    }
}

async fn list_legacy(
    gate: &Arc<Gate>,
    asker: &Asker,
    link: &Arc<Link>,
    message: &Message,
    listing: Listing,
) -> Option<Result<Vec<String>, Refusal>> {
    let mut found = Found::default();
    let mut cursor: Option<String> = None;
    for _ in 0..PAGES {
        let ask = at_page(message, cursor.as_deref())?;
        let answer = match answer_of(gate, asker, link, &ask).await {
            Some(Ok(answer)) => answer,
            Some(Err(refusal)) => return Some(Err(refusal)),
            None => {
                tracing::warn!(server = %link.server().name(), "left out of a merged list");
                return None;
            }
        };
        cursor = take_page(&answer, listing, link.server().name(), &mut found)?;
        if cursor.is_none() || found.is_full(link.server().name()) {
            break;
        }
    }
    Some(Ok(found.entries))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_come_apart_again() {
        let server: ServerName = "my-files".parse().unwrap();
        assert_eq!(split_name(&join_name(&server, "read__file")), Some(("my-files", "read__file")));
        let joined = join_uri(&server, "file:///a+b/{path}");
        assert_eq!(joined, "bartizan-my-files+file:///a+b/{path}");
        assert_eq!(split_uri(&joined), Some(("my-files", "file:///a+b/{path}")));
        assert!(url::Url::parse(&join_uri(&server, "file:///x")).is_ok());
        assert_eq!(split_name("plain"), None);
    }

    #[test]
    fn wraps_addresses_wherever_results_hold_them() {
        let text = r#"{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"resource_link","uri":"a:1"},{"type":"resource","resource":{"uri":"a:2","text":"uri"}}],"messages":[{"role":"user","content":{"type":"resource","resource":{"uri":"a:3"}}}]}}"#;
        let message = Message::parse(text.as_bytes().to_vec()).unwrap();
        let mut splice = message.splice();
        result_down(&message, &"s".parse().unwrap(), &mut splice);
        let out = splice.finish();
        for n in 1..=3 {
            assert!(out.contains(&format!("bartizan-s+a:{n}")), "{out}");
        }
    }
}
