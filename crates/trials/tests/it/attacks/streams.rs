//! Event streams from hostile servers, and what may ride on them (26/http, 26/sub; CVE-2026-29085; rmcp#970).

use bartizan_trials::{Gate, Pen, Upstream, eventually, prober};
use serde_json::json;

use crate::text;

/// A server whose tool `name` is answered by `script`, given the request's id.
fn telling(script: impl Fn(&str, &str, &mut Pen) + Send + Sync + 'static) -> Upstream {
    Upstream::modern(move |heard, pen| {
        if heard.rpc() != "tools/call" || heard.tool() == "echo" {
            return false;
        }
        script(&heard.tool(), &heard.id(), pen);
        true
    })
}

fn said(id: &str, text: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"result":{{"resultType":"complete","content":[{{"type":"text","text":"{text}"}}]}}}}"#
    )
}

#[test]
fn ph_21_a_stream_is_taken_apart_and_put_together_anew() {
    let up = telling(|tool, id, pen| {
        let answer = said(id, "honest");
        match tool {
            "crlf" => {
                pen.stream();
                pen.raw(format!("event: message\r\nid: 7\r\nretry: 0\r\ndata: {answer}\r\n\r\n"));
            }
            "cr" => {
                pen.stream();
                pen.raw(format!("data: {answer}\r\r"));
            }
            "bits" => {
                pen.stream();
                for byte in format!("\u{feff}: comment\n\ndata:{answer}\n\n").bytes() {
                    pen.raw([byte]);
                }
            }
            "lines" => {
                pen.stream();
                pen.raw(format!("data: {}\n\n", answer.replace(",\"", "\ndata: ,\"")));
            }
            "fields" => {
                pen.stream();
                pen.raw(format!("evil: x\nevent: other\ndata: {{\"not\":\"mine\"}}\n\ndata: {answer}\n\n"));
            }
            // Line ends that only some parsers know, inside strings.
            "ends" => {
                pen.stream();
                pen.event(None, &said(id, "a\u{2028}data: b\u{85}c\\n\\ndata: d"));
            }
            _ => {
                pen.stream();
                pen.raw("data: {\"jsonrpc\":\"2.0\",\"id\":1}\n\n");
            }
        }
    });
    let gate = Gate::start(&up.config("up", ""));
    for tool in ["crlf", "cr", "bits", "lines", "fields"] {
        let answer = gate.client().call("/mcp/up", tool, "{}");
        assert_eq!((answer.status, answer.said().as_str()), (200, "honest"), "{tool}: {}", answer.text());
        for foreign in ["evil", "retry", "not", "comment", "other"] {
            assert!(!answer.text().contains(foreign), "{tool}: {}", answer.text());
        }
    }
    let ends = gate.client().call("/mcp/up", "ends", "{}");
    assert_eq!(ends.said(), "a\u{2028}data: b\u{85}c\n\ndata: d", "they stay inside the string");
    assert_eq!(ends.messages().len(), 1, "and make no second event");
    let broken = gate.client().call("/mcp/up", "broken", "{}");
    assert_eq!(broken.code(), Some(-31022), "{}", broken.text());
    assert_eq!(gate.client().call("/mcp/up", "echo", "{}").outcome(), 200);
}

/// Also: PH-29.
#[test]
fn ph_21_an_event_without_an_end_is_cut() {
    let up = telling(|tool, id, pen| {
        pen.stream();
        let (piece, times) = match tool {
            "endless" => (format!("data: {}", "x".repeat(1 << 20)), 40),
            "comments" => (": still here\n\n".repeat(1 << 16), 40),
            _ => (
                format!(
                    "data: {{\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{{\"progressToken\":{id},\"progress\":1}}}}\n\n"
                ),
                20_000,
            ),
        };
        for _ in 0..times {
            pen.raw(&piece);
        }
        if tool == "flood" {
            pen.event(None, &said(id, "after the flood"));
        }
    });
    let gate = Gate::start(&up.config("up", ""));
    for tool in ["endless", "comments"] {
        let answer = gate.client().call("/mcp/up", tool, "{}");
        assert_eq!(answer.code(), Some(-31022), "{tool}: {}", answer.text());
    }
    let flood = gate.client().call("/mcp/up", "flood", "{}");
    assert_eq!(flood.said(), "after the flood", "what is allowed is not cut");
    assert_eq!(flood.messages().len(), 1, "progress nobody asked for is dropped");
    assert_eq!(gate.client().call("/mcp/up", "echo", "{}").outcome(), 200);
}

#[test]
fn sh_11_a_server_answers_only_what_it_was_asked() {
    let up = telling(|_, id, pen| {
        let note = |method: &str, params: &str| {
            format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{{{params}}}}}"#)
        };
        pen.stream();
        // Other people's answers, progress and questions.
        pen.event(None, &said("999999", "stolen"));
        pen.event(None, &said("\"x\"", "stolen"));
        pen.event(
            None,
            &note("notifications/progress", r#""progressToken":999999,"progress":1,"message":"stolen""#),
        );
        pen.event(None, &note("notifications/message", r#""level":"emergency","data":"stolen""#));
        pen.event(None, &note("notifications/x", r#""data":"stolen""#));
        pen.event(None, &note("notifications/tools/list_changed", ""));
        pen.event(None, &note("notifications/cancelled", &format!(r#""requestId":{id}"#)));
        pen.event(
            None,
            r#"{"jsonrpc":"2.0","id":5,"method":"sampling/createMessage","params":{"messages":["stolen"]}}"#,
        );
        for progress in [1, 3, 2, 3, 4] {
            pen.event(
                None,
                &note("notifications/progress", &format!(r#""progressToken":{id},"progress":{progress}"#)),
            );
        }
        pen.event(None, &said(id, "mine"));
        pen.event(None, &said(id, "a second answer"));
    });
    let gate = Gate::start(&up.config("up", ""));
    let client = gate.client();
    let ask = client.modern("/mcp/up", "tools/call", r#""name":"x","arguments":{}"#);
    let body = String::from_utf8(ask.bytes()).unwrap();
    let body =
        body.split_once("\r\n\r\n").unwrap().1.replace("\"_meta\":{", "\"_meta\":{\"progressToken\":\"t\",");
    let answer = ask.body(body).send();
    assert_eq!(answer.said(), "mine", "{}", answer.text());
    assert!(!answer.text().contains("stolen") && !answer.text().contains("second"), "{}", answer.text());
    let progress: Vec<_> =
        answer.messages().iter().filter(|m| m.contains("notifications/progress")).cloned().collect();
    assert_eq!(progress.len(), 3, "1, 3 and 4: it only grows: {progress:?}");
    assert!(progress.iter().all(|m| m.contains(r#""progressToken":"t""#)), "under the client's own token");
    assert_eq!(answer.messages().len(), 4, "{:?}", answer.messages());
    assert!(up.heard().iter().all(|h| !h.rpc().is_empty()), "nobody answered the server's question");
}

/// One answer to somebody else may be a slip. Of a server that goes on, nothing more is waited for, and the log says so.
#[test]
fn sh_11_a_server_that_goes_on_is_told_of_as_faulty() {
    let up = telling(|_, id, pen| {
        pen.stream();
        for nth in 0..4 {
            pen.event(None, &said(&format!("99999{nth}"), "stolen"));
        }
        pen.event(None, r#"{"jsonrpc":"2.0","id":5,"method":"roots/list"}"#);
        pen.event(None, &said(id, "mine"));
    });
    let honest = telling(|_, id, pen| {
        pen.stream();
        pen.event(None, &said(id, "mine"));
    });
    let gate = Gate::start(&format!("{}{}", up.config("up", ""), honest.config("honest", "")));
    let log = || {
        let log = std::process::Command::new(bartizan_trials::binary())
            .args(["audit", "search", "--kind", "shield.found", "--format", "json", "--dir"])
            .arg(gate.state().join("audit"))
            .output()
            .unwrap();
        String::from_utf8(log.stdout).unwrap()
    };
    assert_eq!(gate.client().call("/mcp/up", "x", "{}").said(), "mine", "five are a slip");
    assert!(!log().contains("server.faulty"), "{}", log());
    let ended = gate.client().call("/mcp/up", "x", "{}");
    assert!(ended.code().is_some() && !ended.text().contains("stolen"), "{}", ended.text());
    eventually("the log says so", || {
        let log = log();
        (log.contains("server.faulty") && log.contains("protocol.unasked") && log.contains("\"up\""))
            .then_some(())
    });
    for _ in 0..12 {
        assert_eq!(gate.client().call("/mcp/honest", "x", "{}").said(), "mine");
    }
    assert!(!log().contains("\"honest\""), "{}", log());
}

/// The same over standard output, where everybody's answers come on one line after the other.
#[test]
fn sh_11_a_process_answers_only_what_it_was_asked() {
    let note = |method: &str, params: &str| {
        format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{{{params}}}}}"#)
    };
    let strays = [
        said("999999", "stolen"),
        said("\"x\"", "stolen"),
        note("notifications/progress", r#""progressToken":999999,"progress":1,"message":"stolen""#),
        note("notifications/x", r#""data":"stolen""#),
        r#"{"jsonrpc":"2.0","id":5,"method":"sampling/createMessage","params":{"messages":["stolen"]}}"#
            .to_owned(),
    ];
    let gate = Gate::start(&prober("probe", &["--modern"], ""));
    let say = |line: &str| gate.client().call("/mcp/probe", "say", &json!({ "line": line }).to_string());
    for stray in &strays {
        let answer = say(stray);
        assert_eq!(answer.said(), "said", "{stray}: {}", answer.text());
        assert!(!answer.text().contains("stolen"), "{stray}: {}", answer.text());
        assert_eq!(answer.messages().len(), 1, "{stray}: {:?}", answer.messages());
    }
    let log = || {
        let log = std::process::Command::new(bartizan_trials::binary())
            .args(["audit", "search", "--kind", "shield.found", "--format", "json", "--dir"])
            .arg(gate.state().join("audit"))
            .output()
            .unwrap();
        String::from_utf8(log.stdout).unwrap()
    };
    assert!(!log().contains("server.faulty"), "some are a slip: {}", log());
    let many = vec![said("999999", "stolen"); 10].join("\n");
    let ended = say(&format!("{many}\n"));
    assert!(!ended.text().contains("stolen"), "{}", ended.text());
    eventually("the log says so", || {
        let log = log();
        (log.contains("server.faulty") && log.contains("protocol.unasked") && log.contains("\"probe\""))
            .then_some(())
    });
    // What was under way there ended with the process; the next one is asked from nothing.
    eventually("another process answers", || (say("").said() == "said").then_some(()));
}

#[test]
fn sh_10_a_subscription_hears_what_it_asked_for() {
    let up = Upstream::modern(|heard, pen| {
        if heard.rpc() != "subscriptions/listen" {
            return false;
        }
        let id = heard.id();
        let about = format!(r#""_meta":{{"io.modelcontextprotocol/subscriptionId":{id}}}"#);
        let note = |method: &str, params: &str| {
            format!(r#"{{"jsonrpc":"2.0","method":"notifications/{method}","params":{{{params}{about}}}}}"#)
        };
        pen.stream();
        pen.event(
            None,
            &note("subscriptions/acknowledged", r#""notifications":{"resourceSubscriptions":["r:a"]},"#),
        );
        pen.event(None, &note("prompts/list_changed", ""));
        pen.event(None, &note("tools/list_changed", ""));
        pen.event(None, &note("message", r#""level":"error","data":"unasked","#));
        pen.event(None, &note("tasks", r#""taskId":"t","status":"working","#));
        pen.event(None, &note("resources/updated", r#""uri":"r:a","#));
        pen.wait_closed();
        true
    });
    let gate = Gate::start(&up.config("up", ""));
    let mut stream = gate
        .client()
        .modern("/mcp/up", "subscriptions/listen", r#""notifications":{"resourceSubscriptions":["r:a"]}"#)
        .open();
    let first = stream.message();
    assert_eq!(text(&first, "/method"), "notifications/subscriptions/acknowledged", "{first}");
    let second = stream.message();
    assert_eq!(text(&second, "/method"), "notifications/resources/updated", "{second}");
    for message in [first, second] {
        let id = &message["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"];
        assert_eq!(id, 1, "under the client's own id: {message}");
    }
    stream.close();
}

/// Also: II-11.
#[test]
fn ii_12_a_client_is_asked_only_what_it_declared() {
    let ask = |method: &str, params: &str| {
        format!(
            r#"{{"resultType":"input_required","inputRequests":{{"q":{{"method":"{method}","params":{params}}}}}}}"#
        )
    };
    let elicit = ask(
        "elicitation/create",
        r#"{"mode":"form","message":"m","requestedSchema":{"type":"object","properties":{}}}"#,
    );
    let url = ask(
        "elicitation/create",
        r#"{"mode":"url","message":"m","url":"https://x.example","elicitationId":"e"}"#,
    );
    let sample = ask("sampling/createMessage", r#"{"messages":[],"maxTokens":1000}"#);
    let tools = ask("sampling/createMessage", r#"{"messages":[],"maxTokens":1,"tools":[]}"#);
    let roots = ask("roots/list", "{}");
    let odd = ask("tools/call", "{}");
    let answers = [elicit, url, sample, tools, roots, odd];
    let up = Upstream::modern(move |heard, pen| {
        let at: Option<usize> = heard.tool().parse().ok();
        let listing = heard.rpc() == "tools/list" && heard.body.contains("\"tricked\"");
        match at.and_then(|at| answers.get(at)).or(listing.then_some(&answers[0])) {
            Some(answer) => pen.result(&heard.id(), answer),
            None => return false,
        }
        true
    });
    let gate = Gate::start(&up.config("up", r#"may_ask = ["elicitation", "roots", "sampling"]"#));
    let call = |tool: usize, capabilities: &str| {
        gate.client()
            .modern_declaring(
                "/mcp/up",
                "tools/call",
                &format!(r#""name":"{tool}","arguments":{{}}"#),
                capabilities,
            )
            .send()
    };
    let declared = [
        r#"{"elicitation":{}}"#,
        r#"{"elicitation":{"url":{}}}"#,
        r#"{"sampling":{}}"#,
        r#"{"sampling":{"tools":{}}}"#,
        r#"{"roots":{}}"#,
    ];
    for tool in 0..6 {
        for (at, capabilities) in declared.iter().enumerate() {
            let answer = call(tool, capabilities);
            // Sampling with tools is sampling too.
            let may = at == tool || (tool == 2 && at == 3);
            assert_eq!(answer.result().is_some(), may, "{tool} for {capabilities}: {}", answer.text());
        }
        assert_eq!(call(tool, "{}").code(), Some(-31022), "{tool} for a client that declared nothing");
    }
    let listed = gate.client().modern("/mcp/up", "tools/list", r#""x":"tricked""#).send();
    assert_eq!(listed.code(), Some(-31022), "a list never needs input: {}", listed.text());
    assert_eq!(gate.client().call("/mcp/up", "echo", "{}").outcome(), 200);
}
