//! `/mcp`: every server of the caller's era as one.

use bartizan_trials::{Gate, Upstream, prober};

use crate::{Scene, text};

#[test]
fn a_dead_server_is_named_and_the_others_are_served() {
    let (good, dead, old) =
        (Upstream::modern(|_, _| false), Upstream::modern(|_, _| false), Upstream::legacy(|_, _| false));
    let config = format!(
        "{}{}{}[[servers]]\nname = \"gone\"\ncommand = [\"/no/such/program\"]\n",
        good.config("good", ""),
        dead.config("dead", ""),
        old.config("old", "")
    );
    drop(dead);
    let gate = Gate::start(&config);
    let client = gate.client();
    let found = client.modern("/mcp", "server/discover", "").send();
    assert_eq!(found.outcome(), 200, "{}", found.text());
    let json = found.json();
    let words = text(&json, "/result/instructions");
    for name in ["dead", "old", "gone"] {
        assert!(words.contains(name), "`{name}` is reported: {words}");
    }
    let listed = client.modern("/mcp", "tools/list", "").send();
    assert!(listed.text().contains("good__echo"), "{}", listed.text());
    assert_eq!(client.call("/mcp", "good__echo", r#"{"a":1}"#).said(), r#"{"a":1}"#);
    let call = client.call("/mcp", "dead__echo", "{}");
    assert_eq!((call.status, call.code()), (200, Some(-31020)), "{}", call.text());
    assert!(call.error().contains("`dead`"), "{}", call.text());

    let session = client.session("/mcp", "2025-11-25", "{}");
    let listed = session.request("1", "tools/list", "").send();
    assert!(
        listed.text().contains("old__echo") && !listed.text().contains("good__echo"),
        "{}",
        listed.text()
    );
    assert_eq!(session.call("2", "old__echo", r#"{"b":2}"#).send().said(), r#"{"b":2}"#);
}

#[test]
fn lists_follow_every_page_in_a_stable_order_and_addresses_lead_back() {
    let page = |heard: &bartizan_trials::Heard| {
        let json = heard.json();
        let at: usize = text(&json, "/params/cursor").parse().unwrap_or(0);
        let next = if at < 4 { format!(r#","nextCursor":"{}""#, at + 1) } else { String::new() };
        format!(
            r#"{{"resultType":"complete","ttlMs":0,"cacheScope":"public","resources":[{{"uri":"file:///r{at}","name":"r{at}","x-vendor":1.50}}]{next}}}"#
        )
    };
    let paged = move |heard: &bartizan_trials::Heard, pen: &mut bartizan_trials::Pen| {
        match heard.rpc().as_str() {
            "resources/list" => pen.result(&heard.id(), &page(heard)),
            "resources/read" => {
                let json = heard.json();
                let uri = text(&json, "/params/uri");
                pen.result(&heard.id(), &format!(r#"{{"resultType":"complete","ttlMs":0,"cacheScope":"public","contents":[{{"uri":"{uri}","text":"t"}}]}}"#));
            }
            _ => return false,
        }
        true
    };
    let (b, a) = (Upstream::modern(paged), Upstream::modern(paged));
    let gate = Gate::start(&format!("{}{}", b.config("bee", ""), a.config("ant", "")));
    let list = || {
        let listed = gate.client().modern("/mcp", "resources/list", "").send();
        assert!(listed.text().contains("\"x-vendor\":1.50"), "entries stay as they were: {}", listed.text());
        let resources = listed.result().unwrap()["resources"].clone();
        resources
            .as_array()
            .unwrap()
            .iter()
            .map(|r| r["uri"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let uris = list();
    assert_eq!(uris.len(), 10, "{uris:?}");
    assert!(uris[0].contains("ant") && uris[5].contains("bee"), "{uris:?}");
    assert_eq!(list(), uris);
    for (uri, up) in [(&uris[2], &a), (&uris[7], &b)] {
        let read = gate.client().modern("/mcp", "resources/read", &format!(r#""uri":"{uri}""#)).send();
        assert_eq!(text(&read.json(), "/result/contents/0/uri"), uri, "{}", read.text());
        assert_eq!(text(&up.heard_of("resources/read")[0].json(), "/params/uri"), "file:///r2");
    }
}

#[test]
fn one_endpoint_for_each_server_and_none_for_others() {
    let scene = Scene::start();
    let gate = Gate::start(&prober("only", &[], ""));
    assert_eq!(gate.client().call("/mcp/only", "echo", "{}").outcome(), 200);
    for path in ["/mcp/other", "/mcp/on", "/mcp/only2", "/", "/mcpx"] {
        assert_eq!(gate.client().modern(path, "tools/list", "").send().status, 404, "{path}");
    }
    // Clients that read the body know which request it is about.
    let hello = gate.client().initialize("/mcp/other", "2025-11-25", "{}").send();
    let asked = gate.client().modern("/mcp/other", "tools/list", "").send();
    for (answer, id) in [(hello, 0), (asked, 1)] {
        assert_eq!((answer.status, answer.json()["id"].as_u64()), (404, Some(id)), "{}", answer.text());
        assert_eq!(answer.error(), "there is no such endpoint");
    }
    assert_eq!(gate.client().post("/mcp/other", "[{").send().status, 404);
    scene.serves();
}
