//! Bytes travel as they were written; only what is ours is spliced.

use std::fs;

use bartizan_trials::{Gate, Upstream, modern_text, prober};

/// What JSON allows and libraries lose: numbers of any size, exponents, escapes, key order, spaces, vendor keys.
const ODD: &str = r#"{ "z" : 12345678901234567890123 ,"a":1.0,"m":-0.0,"e":1E+2,"\u0061b":"\u00e9\/\ud83d\ude00\u0000","é":"é" , "x-vendor":{"":[ ],"n":null} }"#;

#[test]
fn a_request_arrives_as_it_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().join("record");
    let (new, old) = (Upstream::modern(|_, _| false), Upstream::legacy(|_, _| false));
    let probe = prober("probe", &["--record", record.to_str().unwrap()], "");
    let gate = Gate::start(&format!("{}{}{probe}", new.config("new", ""), old.config("old", "")));
    let client = gate.client();
    let params = format!(r#""unknown" : true,"name":"ec\u0068o", "arguments":{ODD}"#);
    let sent = modern_text("\"c-1\"", "tools/call", &params, "{}").replacen('{', "{ \"x-top\": [1.50] ,", 1);
    for path in ["/mcp/new", "/mcp/probe"] {
        let answer = client.modern(path, "tools/call", r#""name":"echo""#).body(&sent).send();
        assert_eq!(answer.outcome(), 200, "{}", answer.text());
        assert!(answer.message().contains("\"id\":\"c-1\""), "{}", answer.message());
    }
    let session = client.session("/mcp/old", "2025-11-25", "{}");
    let legacy =
        format!(r#"{{"id":"c-1" ,"jsonrpc":"2.0","method":"tools/call","params":{{{params}}},"tail":0.10}}"#);
    session.post(&legacy).send();

    // A trace of the gate's own is told to servers of the stateless era, whoever's client told none.
    let untraced = |heard: &str| {
        let (before, rest) = heard.split_once(r#""traceparent":"00-"#).expect("a trace is told");
        let (trace, after) = rest.split_once("\",").unwrap();
        assert_eq!(trace.len(), "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".len());
        format!("{before}{after}")
    };
    let arrived = |heard: &str, sent: &str| {
        let (before, after) = sent.split_once("\"c-1\"").unwrap();
        assert!(heard.starts_with(before) && heard.ends_with(after), "\n{sent}\n{heard}");
        let id = &heard[before.len()..heard.len() - after.len()];
        assert!(id.bytes().all(|b| b.is_ascii_digit()), "only the id is the gate's: {id}");
    };
    let of = |up: &Upstream| up.heard().into_iter().find(|h| h.body.contains("x-vendor")).unwrap().body;
    arrived(&untraced(&of(&new)), &sent);
    arrived(&of(&old), &legacy);
    let lines = fs::read_to_string(&record).unwrap();
    arrived(&untraced(lines.lines().find(|l| l.contains("x-vendor")).unwrap()), &sent);
}

#[test]
fn an_answer_arrives_as_it_was_written() {
    let result = format!(r#"{{"content":[],"resultType":"complete","odd":{ODD}, "last" : 1e-0}}"#);
    let (one, two) = (result.clone(), result.clone());
    let new = Upstream::modern(move |heard, pen| {
        let whole = format!(r#"{{ "jsonrpc":"2.0" ,"result":{one},"id":{} , "x-top":1.50}}"#, heard.id());
        match heard.body.contains("\"odd\"") {
            true if heard.body.contains("\"stream\"") => {
                pen.stream();
                pen.event(None, &whole);
            }
            true => pen.json(&whole),
            false => return false,
        }
        true
    });
    let old = Upstream::legacy(move |heard, pen| {
        if heard.rpc() != "tools/call" {
            return false;
        }
        pen.json(&format!(r#"{{ "jsonrpc":"2.0" ,"result":{two},"id":{} , "x-top":1.50}}"#, heard.id()));
        true
    });
    let gate = Gate::start(&format!("{}{}", new.config("new", ""), old.config("old", "")));
    let client = gate.client();
    let wanted = |id: &str| format!(r#"{{ "jsonrpc":"2.0" ,"result":{result},"id":{id} , "x-top":1.50}}"#);
    for how in ["whole", "stream"] {
        let answer = client.call("/mcp/new", "odd", &format!(r#"{{"{how}":1}}"#));
        assert_eq!(answer.message(), wanted("1"), "{how}");
    }
    let session = client.session("/mcp/old", "2025-11-25", "{}");
    assert_eq!(
        session.call("\"\\u0061\"", "odd", "{}").send().message(),
        wanted("\"\\u0061\""),
        "even the id's escapes"
    );
}

#[test]
fn errors_keep_their_code_words_and_data() {
    let error = r#"{"code":-32099999,"message":"caf\u00e9 \ud83d\ude00","data":{"n":1.50,"z":12345678901234567890123},"x":null}"#;
    let up = Upstream::modern(move |heard, pen| {
        if heard.rpc() != "tools/call" {
            return false;
        }
        pen.json(&format!(r#"{{"jsonrpc":"2.0","error":{error},"id":{}}}"#, heard.id()));
        true
    });
    let gate = Gate::start(&up.config("up", ""));
    assert_eq!(
        gate.client().call("/mcp/up", "x", "{}").message(),
        format!(r#"{{"jsonrpc":"2.0","error":{error},"id":1}}"#)
    );
}
