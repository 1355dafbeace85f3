//! What servers hand out and clients hand back: sealed, bound, expiring (MRTR §Server requirements 4 and 5; SEP-2663;
//! CVE-2026-52870; MCP caching).

use bartizan_trials::{Answer, Gate, Heard, Pen, Upstream};

use crate::text;

const INVALID: Option<i64> = Some(-32602);
pub const MAY_ASK: &str = "may_ask = [\"elicitation\"]";

pub const CAN_ELICIT: &str = r#"{"elicitation":{},"extensions":{"io.modelcontextprotocol/tasks":{}}}"#;

/// A server that asks once before it books, hands out tasks, and lists on two pages.
pub fn stateful(heard: &Heard, pen: &mut Pen) -> bool {
    let json = heard.json();
    let result = match (heard.rpc().as_str(), heard.tool().as_str()) {
        ("tools/call", "book") if text(&json, "/params/requestState") == "upstream-state" => {
            r#"{"resultType":"complete","content":[{"type":"text","text":"booked"}]}"#
        }
        ("tools/call", "book" | "other") => {
            r#"{"resultType":"input_required","requestState":"upstream-state","inputRequests":{"q":{"method":"elicitation/create","params":{"mode":"form","message":"sure?","requestedSchema":{"type":"object","properties":{}}}}}}"#
        }
        ("tools/call", "long") => {
            r#"{"resultType":"task","taskId":"upstream-task-1","status":"working","createdAt":"2026-01-01T00:00:00Z","lastUpdatedAt":"2026-01-01T00:00:00Z","ttlMs":60000}"#
        }
        ("tasks/get", _) => {
            r#"{"resultType":"complete","taskId":"upstream-task-1","status":"working","createdAt":"2026-01-01T00:00:00Z","lastUpdatedAt":"2026-01-01T00:00:00Z","ttlMs":60000}"#
        }
        ("tasks/cancel" | "tasks/update", _) => r#"{"resultType":"complete"}"#,
        ("tools/list" | "prompts/list", _) if text(&json, "/params/cursor") == "upstream-page-2" => {
            r#"{"resultType":"complete","tools":[],"prompts":[],"ttlMs":0,"cacheScope":"public"}"#
        }
        ("tools/list" | "prompts/list", _) => {
            r#"{"resultType":"complete","tools":[{"name":"book","inputSchema":{"type":"object"}}],"prompts":[],"nextCursor":"upstream-page-2","ttlMs":0,"cacheScope":"public"}"#
        }
        _ => return false,
    };
    pen.result(&heard.id(), result);
    true
}

struct Place {
    gate: Gate,
    up: Upstream,
    other: Upstream,
}

impl Place {
    fn start() -> Self {
        let (up, other) = (Upstream::modern(stateful), Upstream::modern(stateful));
        let gate = Gate::start(&format!("{}{}", up.config("up", MAY_ASK), other.config("other", MAY_ASK)));
        Self { gate, up, other }
    }

    fn ask(&self, path: &str, method: &str, params: &str) -> Answer {
        self.gate.client().modern_declaring(path, method, params, CAN_ELICIT).send()
    }

    /// Everything `sealed` could be bent into.
    fn bent(sealed: &str) -> Vec<String> {
        let mut bent: Vec<_> = (0..sealed.len())
            .map(|at| {
                let mut bytes = sealed.as_bytes().to_vec();
                bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
                String::from_utf8(bytes).unwrap()
            })
            .collect();
        bent.extend(
            [&sealed[..sealed.len() - 1], &sealed[1..], &sealed[..8], "", "../../x", "' OR 1=1--", "{}"]
                .map(str::to_owned),
        );
        bent.extend([format!("{sealed}A"), format!("{sealed}{sealed}"), "x".repeat(1 << 20)]);
        bent
    }
}

fn assert_invalid(answer: &Answer, what: &str) {
    assert_eq!(
        (answer.status, answer.code()),
        (400, INVALID),
        "{}: {}",
        &what[..what.len().min(80)],
        answer.text()
    );
}

#[test]
fn sh_01_a_request_state_comes_back_as_it_was_or_not_at_all() {
    let place = Place::start();
    let book = |tool: &str, arguments: &str, state: &str| {
        place.ask("/mcp/up", "tools/call", &format!(r#""name":"{tool}","arguments":{arguments},"requestState":"{state}","inputResponses":{{"q":{{"action":"accept","content":{{}}}}}}"#))
    };
    let asked = place.ask("/mcp/up", "tools/call", r#""name":"book","arguments":{"seat":1}"#);
    assert_eq!(asked.outcome(), 200, "{}", asked.text());
    let json = asked.json();
    let state = text(&json, "/result/requestState");
    assert!(
        !state.is_empty() && !asked.text().contains("upstream-state"),
        "the server's own state stays hidden"
    );
    let heard = place.up.heard_of("tools/call").len();

    for bent in Place::bent(state) {
        assert_invalid(&book("book", r#"{"seat":1}"#, &bent), &bent);
    }
    assert_invalid(&book("other", r#"{"seat":1}"#, state), "another tool");
    assert_invalid(&book("book", r#"{"seat":2}"#, state), "other arguments");
    assert_invalid(&book("book", r#"{"seat":1}"#, "upstream-state"), "the state in the clear");
    let elsewhere = place.ask(
        "/mcp/other",
        "tools/call",
        &format!(r#""name":"book","arguments":{{"seat":1}},"requestState":"{state}""#),
    );
    assert_invalid(&elsewhere, "another server");
    assert_invalid(&place.ask("/mcp/up", "tools/list", &format!(r#""cursor":"{state}""#)), "as a cursor");
    assert_eq!(place.up.heard_of("tools/call").len(), heard, "nothing of it reached the server");

    let booked = book("book", r#"{ "seat" : 1 }"#, state);
    assert_eq!(booked.said(), "booked", "{}", booked.text());
}

#[test]
fn sh_07_a_task_id_is_worth_nothing_to_those_it_was_not_given() {
    let place = Place::start();
    let made = place.ask("/mcp/up", "tools/call", r#""name":"long","arguments":{}"#);
    let json = made.json();
    let task = text(&json, "/result/taskId").to_owned();
    assert!(!task.is_empty() && !made.text().contains("upstream-task-1"), "{}", made.text());
    let get = |path: &str, method: &str, id: &str| place.ask(path, method, &format!(r#""taskId":"{id}""#));
    let unknown = get("/mcp/up", "tasks/get", "no-such-task");
    assert_invalid(&unknown, "unknown");
    for method in ["tasks/get", "tasks/update", "tasks/cancel"] {
        for bent in Place::bent(&task)
            .iter()
            .step_by(7)
            .chain([&"upstream-task-1".to_owned()])
            .filter(|t| !t.is_empty() && t.len() < 1000)
        {
            let answer = get("/mcp/up", method, bent);
            assert_eq!((answer.status, answer.text()), (unknown.status, unknown.text()), "{method} {bent}");
        }
        let elsewhere = get("/mcp/other", method, &task);
        assert_eq!(
            (elsewhere.status, elsewhere.text()),
            (unknown.status, unknown.text()),
            "{method} elsewhere"
        );
    }
    let heard = place.up.heard().into_iter().chain(place.other.heard());
    assert!(heard.into_iter().all(|h| !h.rpc().starts_with("tasks/")), "no server was asked");

    assert_eq!(get("/mcp/up", "tasks/get", &task).outcome(), 200);
    let asked = &place.up.heard_of("tasks/get")[0];
    assert_eq!(text(&asked.json(), "/params/taskId"), "upstream-task-1");
    assert_eq!(asked.line("mcp-name"), Some("upstream-task-1"));
    let undeclared =
        place.gate.client().modern("/mcp/up", "tasks/get", &format!(r#""taskId":"{task}""#)).send();
    assert_eq!((undeclared.status, undeclared.code()), (400, Some(-32021)), "the extension must be declared");
}

#[test]
fn sh_13_a_cursor_is_good_where_it_was_given() {
    let place = Place::start();
    let listed = place.ask("/mcp/up", "tools/list", "");
    let json = listed.json();
    let cursor = text(&json, "/result/nextCursor");
    assert!(!cursor.is_empty() && !listed.text().contains("upstream-page-2"), "{}", listed.text());
    let next =
        |path: &str, method: &str, cursor: &str| place.ask(path, method, &format!(r#""cursor":"{cursor}""#));
    let before = place.up.heard_of("tools/list").len();
    for bent in Place::bent(cursor) {
        assert_invalid(&next("/mcp/up", "tools/list", &bent), &bent);
    }
    assert_invalid(&next("/mcp/up", "tools/list", "upstream-page-2"), "the cursor in the clear");
    assert_invalid(&next("/mcp/up", "prompts/list", cursor), "another list");
    assert_invalid(&next("/mcp/other", "tools/list", cursor), "another server");
    assert_eq!(place.up.heard_of("tools/list").len(), before, "nothing of it reached the server");
    assert_invalid(&next("/mcp", "tools/list", cursor), "the merged endpoint");

    assert_eq!(next("/mcp/up", "tools/list", cursor).outcome(), 200);
    assert!(place.up.heard_of("tools/list").last().unwrap().body.contains("upstream-page-2"));
}

#[test]
fn sh_03_no_answer_is_kept_for_somebody_else() {
    let up = Upstream::modern(|heard, pen| {
        let cache = match (heard.rpc().as_str(), text(&heard.json(), "/params/uri")) {
            ("resources/read", "r:long") => r#","ttlMs":1e15,"cacheScope":"public""#,
            ("resources/read", "r:negative") => r#","ttlMs":-1,"cacheScope":"private""#,
            ("resources/read", "r:odd") => r#","ttlMs":"soon","cacheScope":"everybody""#,
            ("resources/read", "r:none") => "",
            ("resources/read", "r:asks") => {
                pen.result(&heard.id(), r#"{"resultType":"input_required","requestState":"s","ttlMs":1000,"cacheScope":"public"}"#);
                return true;
            }
            _ => return false,
        };
        pen.result(&heard.id(), &format!(r#"{{"resultType":"complete","contents":[]{cache}}}"#));
        true
    });
    let gate = Gate::start(&up.config("up", ""));
    let read =
        |uri: &str| gate.client().modern("/mcp/up", "resources/read", &format!(r#""uri":"{uri}""#)).send();
    let day = 24 * 60 * 60 * 1000;
    for (uri, ttl, scope) in [
        ("r:long", day, "public"),
        ("r:negative", 0, "private"),
        ("r:odd", 0, "private"),
        ("r:none", 0, "private"),
    ] {
        let answer = read(uri);
        let result = answer.result().unwrap();
        assert_eq!(
            (result["ttlMs"].as_i64(), result["cacheScope"].as_str()),
            (Some(day.min(ttl)), Some(scope)),
            "{uri}"
        );
        assert!(answer.line("cache-control").unwrap().contains("no-store"), "no HTTP cache keeps it");
    }
    assert_eq!(read("r:asks").outcome(), 200);
    let (one, two) = (read("r:long"), read("r:long"));
    assert_eq!((one.status, two.status), (200, 200));
    assert_eq!(
        up.heard_of("resources/read").len(),
        7,
        "the gate itself keeps nothing: each read is the server's"
    );
    let merged = gate.client().modern("/mcp", "tools/list", "").send().result().unwrap();
    assert_eq!((merged["ttlMs"].as_i64(), merged["cacheScope"].as_str()), (Some(0), Some("private")));
}
