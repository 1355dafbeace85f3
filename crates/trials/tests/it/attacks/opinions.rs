//! Services that are asked for a second opinion, and what becomes of a text when they fail (attacks.md II-01, II-10,
//! §2.1). The fakes keep to the contracts that Azure AI Content Safety publishes, until a trial says otherwise.

use std::time::{Duration, Instant};

use bartizan_trials::{Answer, Gate, Heard, Pen, Upstream};
use serde_json::{Value, json};

const WITHHELD: i64 = -31005;
const PROMPT_SHIELDS: &str = "/contentsafety/text:shieldPrompt?api-version=2024-09-01";

/// An MCP server whose answer to a call is its argument `say`.
fn server() -> Upstream {
    Upstream::modern(|heard, pen| {
        if heard.rpc() != "tools/call" {
            return false;
        }
        let json = heard.json();
        let say = json.pointer("/params/arguments/say").and_then(Value::as_str).unwrap_or_default();
        let times = json.pointer("/params/arguments/times").and_then(Value::as_u64).unwrap_or(1);
        let say = match heard.tool().as_str() {
            // What the service would call an attack, in the answer alone.
            "turns" => format!("{}zebra", say.repeat(usize::try_from(times).unwrap())),
            _ => say.to_owned(),
        };
        let result = json!({ "resultType": "complete", "content": [{ "type": "text", "text": say }] });
        pen.result(&heard.id(), &result.to_string());
        true
    })
}

/// Prompt Shields, to which every zebra is an attack.
fn shields(heard: &Heard, pen: &mut Pen) -> bool {
    let body = heard.json();
    let flag = |of: &Value| json!({ "attackDetected": of.as_str().is_some_and(|t| t.contains("zebra")) });
    let documents: Vec<_> = body["documents"].as_array().unwrap().iter().map(flag).collect();
    pen.json(
        &json!({ "userPromptAnalysis": flag(&body["userPrompt"]), "documentsAnalysis": documents })
            .to_string(),
    );
    true
}

fn gate(server: &Upstream, service: &Upstream, more: &str) -> Gate {
    let config = format!(
        "[shield.second_opinion.azure]\nkind = \"azure-prompt-shields\"\nendpoint = \"{}\"\n\
         key = {{ env = \"SHIELD_KEY\" }}\n{more}\n{}",
        service.origin(),
        server.config("s", "second_opinions = [\"azure\"]")
    );
    Gate::start_with(&config, &[("SHIELD_KEY", "subscription-key-1")])
}

fn call(gate: &Gate, tool: &str, say: &str) -> Answer {
    gate.client().call("/mcp/s", tool, &json!({ "say": say }).to_string())
}

#[test]
fn ii_03_a_second_opinion_is_asked_where_the_operator_wants_it() {
    let (server, service) = (server(), Upstream::modern(shields));
    let gate = gate(&server, &service, "");
    assert_eq!(call(&gate, "echo", "a quiet horse").said(), "a quiet horse");
    let heard = service.heard();
    assert_eq!(heard.len(), 2, "what goes in and what comes back");
    assert!(heard.iter().all(|h| h.method() == "POST" && h.target() == PROMPT_SHIELDS));
    assert!(heard.iter().all(|h| h.line("ocp-apim-subscription-key") == Some("subscription-key-1")));
    assert_eq!(heard[0].json()["documents"], json!([]));
    assert!(heard[0].json()["userPrompt"].as_str().unwrap().contains("a quiet horse"));
    assert!(heard[1].json()["documents"][0].as_str().unwrap().contains("a quiet horse"));
    assert_eq!(heard[1].json()["userPrompt"], "");

    let refused = call(&gate, "echo", "a zebra");
    assert_eq!((refused.status, refused.code()), (200, Some(WITHHELD)), "{}", refused.text());
    assert_eq!(server.heard_of("tools/call").len(), 1, "an attack by the client is not sent");
    let withheld = call(&gate, "turns", "a ");
    assert_eq!(withheld.code(), Some(WITHHELD), "{}", withheld.text());
    assert_eq!(withheld.json()["error"]["data"]["findings"][0]["rule"], "opinion.azure");
    assert!(!gate.log().contains("subscription-key-1"));

    let plain = Gate::start(&server.config("s", ""));
    let asked = service.heard().len();
    assert_eq!(call(&plain, "turns", "a ").said(), "a zebra", "another server's texts are nobody's business");
    assert_eq!(service.heard().len(), asked);
}

#[test]
fn ii_01_a_service_that_fails_lets_nothing_pass() {
    type Script = fn(&Heard, &mut Pen) -> bool;
    let failures: [(&str, Script); 9] = [
        ("429", |_, pen| {
            pen.whole(
                "429 Too Many Requests",
                "application/json",
                "Retry-After: 1\r\n",
                r#"{"error":{"code":"TooManyRequests","message":"slow down"}}"#,
            );
            true
        }),
        ("500", |_, pen| {
            pen.whole(
                "500 Internal Server Error",
                "application/json",
                "",
                r#"{"error":{"code":"InternalError"}}"#,
            );
            true
        }),
        ("401", |_, pen| {
            pen.whole("401 Unauthorized", "application/json", "", r#"{"error":{"code":"401"}}"#);
            true
        }),
        ("no JSON", |_, pen| {
            pen.json("{\"documentsAnalysis\":[");
            true
        }),
        ("no analysis", |_, pen| {
            pen.json(r#"{"userPromptAnalysis":{}}"#);
            true
        }),
        ("too few", |_, pen| {
            pen.json(r#"{"userPromptAnalysis":null,"documentsAnalysis":[]}"#);
            true
        }),
        ("a redirect", |_, pen| {
            pen.whole("307 Temporary Redirect", "application/json", "Location: /elsewhere\r\n", "{}");
            true
        }),
        ("silence", |_, pen| {
            pen.wait_closed();
            true
        }),
        ("a slow drip", |_, pen| {
            pen.raw("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{");
            pen.wait_closed();
            true
        }),
    ];
    for (name, script) in failures {
        let (server, service) = (server(), Upstream::modern(script));
        let gate = gate(&server, &service, "timeout_ms = 300\nbudget_ms = 1000");
        let began = Instant::now();
        let refused = call(&gate, "echo", "a quiet horse");
        assert_eq!(refused.code(), Some(WITHHELD), "{name}: {}", refused.text());
        assert!(server.heard_of("tools/call").is_empty(), "{name}");
        assert!(began.elapsed() < Duration::from_secs(4), "{name}: {:?}", began.elapsed());
    }
}

/// The call is judged well, the answer not at all: it has been made, and is not shown.
#[test]
fn ii_01_an_answer_nobody_could_judge_is_withheld_and_the_service_left_alone() {
    let prompts_only = |heard: &Heard, pen: &mut Pen| {
        if heard.json()["documents"] == json!([]) {
            return shields(heard, pen);
        }
        pen.empty("503 Service Unavailable");
        true
    };
    let (server, service) = (server(), Upstream::modern(prompts_only));
    let gate = gate(&server, &service, "");
    let withheld = call(&gate, "echo", "a quiet horse");
    assert_eq!(withheld.code(), Some(WITHHELD), "{}", withheld.text());
    assert_eq!(server.heard_of("tools/call").len(), 1);

    let down = Upstream::modern(|_, pen| {
        pen.empty("503 Service Unavailable");
        true
    });
    let gate = self::gate(&server, &down, "");
    for n in 0..8 {
        assert_eq!(call(&gate, "echo", &format!("horse {n}")).code(), Some(WITHHELD));
    }
    assert_eq!(down.heard().len(), 10, "five failures, each asked once more; then it is left alone");

    let open = self::gate(&server, &down, "dangerous_fail_open = true");
    assert_eq!(
        call(&open, "echo", "a quiet horse").said(),
        "a quiet horse",
        "the operator may say otherwise"
    );
    assert!(open.log().contains("dangerous_fail_open"));
}

/// What a server of the old era says unasked, on the session's own stream.
#[test]
fn ii_01_what_is_said_unasked_waits_for_its_opinion_too() {
    let server = Upstream::legacy(|heard, pen| {
        if heard.method() != "GET" {
            return false;
        }
        pen.stream();
        for said in ["a zebra", "a quiet horse"] {
            let log = json!({ "level": "error", "data": said });
            pen.event(
                None,
                &json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": log }).to_string(),
            );
        }
        pen.wait_closed();
        true
    });
    let service = Upstream::modern(shields);
    let gate = gate(&server, &service, "");
    let session = gate.client().session("/mcp/s", "2025-11-25", "{}");
    let mut stream = session.stream();
    assert_eq!(stream.message()["params"]["data"], "a quiet horse", "and no zebra before it");
    stream.close();
}

#[test]
fn ii_10_no_padding_hides_from_a_service_what_it_would_see() {
    let (server, service) = (server(), Upstream::modern(shields));
    let gate = gate(&server, &service, "");
    for times in [4_995, 5_000, 12_000, 25_000] {
        let arguments = json!({ "say": "a ", "times": times }).to_string();
        let withheld = gate.client().call("/mcp/s", "turns", &arguments);
        assert_eq!(withheld.code(), Some(WITHHELD), "{times}: {}", withheld.text());
    }
    for heard in service.heard() {
        let documents = heard.json()["documents"].clone();
        let documents: Vec<&str> =
            documents.as_array().unwrap().iter().map(|d| d.as_str().unwrap()).collect();
        let units: usize = documents.iter().map(|d| d.encode_utf16().count()).sum();
        assert!(documents.len() <= 5 && units <= 10_000, "{} {units}", documents.len());
    }
    let too_long = json!({ "say": "a ", "times": 1_000_000 }).to_string();
    let asked = service.heard().len();
    assert_eq!(gate.client().call("/mcp/s", "turns", &too_long).code(), Some(WITHHELD));
    assert!(service.heard().len() <= asked + 1, "what is too long for it is withheld and not sent in part");
    assert_eq!(call(&gate, "echo", "a quiet horse").said(), "a quiet horse");
}

#[test]
fn ii_03_content_and_a_judge_are_asked_by_their_own_contracts() {
    let analyze = Upstream::modern(|heard, pen| {
        let body = heard.json();
        let text = body["text"].as_str().unwrap_or_default();
        let severity = if text.contains("zebra") { 6 } else { 0 };
        let of = |name: &str, severity: u8| json!({ "category": name, "severity": severity });
        let all = [of("Hate", 0), of("SelfHarm", 0), of("Sexual", 0), of("Violence", severity)];
        let lists = if text.contains("okapi") { json!([{ "blocklistName": "ours" }]) } else { json!([]) };
        pen.json(&json!({ "blocklistsMatch": lists, "categoriesAnalysis": all }).to_string());
        true
    });
    let judge = Upstream::modern(|heard, pen| {
        let attack = heard.json()["messages"][1]["content"].as_str().unwrap_or_default().contains("gnu");
        let content = json!({ "attack": attack }).to_string();
        pen.json(
            &json!({ "choices": [{ "message": { "role": "assistant", "content": content } }] }).to_string(),
        );
        true
    });
    let server = server();
    let gate = Gate::start_with(
        &format!(
            "[shield.second_opinion.content]\nkind = \"azure-text-analyze\"\nendpoint = \"{}\"\n\
             key = {{ env = \"A\" }}\nblocklists = [\"ours\"]\n[shield.second_opinion.judge]\nkind = \"openai-judge\"\n\
             endpoint = \"{}/v1/chat/completions\"\nmodel = \"m-1\"\nkey = {{ env = \"B\" }}\n{}",
            analyze.origin(),
            judge.origin(),
            server.config("s", "second_opinions = [\"content\", \"judge\"]")
        ),
        &[("A", "key-a"), ("B", "key-b")],
    );
    assert_eq!(call(&gate, "echo", "a quiet horse").said(), "a quiet horse");
    for bad in ["a zebra", "an okapi", "a gnu"] {
        assert_eq!(call(&gate, "echo", bad).code(), Some(WITHHELD), "{bad}");
    }
    let asked = &analyze.heard()[0];
    assert_eq!(asked.target(), "/contentsafety/text:analyze?api-version=2024-09-01");
    assert_eq!(asked.line("ocp-apim-subscription-key"), Some("key-a"));
    assert_eq!(asked.json()["blocklistNames"], json!(["ours"]));
    assert_eq!(asked.json()["outputType"], "FourSeverityLevels");
    let asked = &judge.heard()[0];
    assert_eq!(asked.target(), "/v1/chat/completions");
    assert_eq!(asked.line("authorization"), Some("Bearer key-b"));
    assert_eq!(asked.json()["model"], "m-1");
}

/// Azure's machines have an identity: no key lies anywhere. App Service's contract, whose endpoint the environment names.
#[test]
fn ii_03_a_second_opinion_is_asked_as_the_machine_where_there_is_no_key() {
    let platform = Upstream::modern(|heard, pen| {
        let query = "/msi/token?api-version=2019-08-01&resource=https%3A%2F%2Fcognitiveservices.azure.com&client_id=ours";
        if heard.line("x-identity-header") != Some("platform-secret") || heard.target() != query {
            pen.empty("403 Forbidden");
        } else {
            pen.json(r#"{"access_token":"machine-token","expires_on":"4102444800","resource":"r","token_type":"Bearer"}"#);
        }
        true
    });
    let (server, service) = (server(), Upstream::modern(shields));
    let config = format!(
        "[shield.second_opinion.azure]\nkind = \"azure-prompt-shields\"\nendpoint = \"{}\"\nmanaged_identity = true\n\
         identity_client_id = \"ours\"\ntimeout_ms = 20000\nbudget_ms = 60000\n{}",
        service.origin(),
        server.config("s", "second_opinions = [\"azure\"]")
    );
    let place = format!("{}/msi/token", platform.origin());
    let environment = [("IDENTITY_ENDPOINT", &*place), ("IDENTITY_HEADER", "platform-secret")];
    let gate = Gate::start_with(&config, &environment);
    assert_eq!(call(&gate, "echo", "a quiet horse").said(), "a quiet horse");
    assert_eq!(call(&gate, "echo", "another horse").said(), "another horse");
    assert_eq!(platform.heard().len(), 1, "one token does for its life");
    for heard in service.heard() {
        assert_eq!(heard.line("authorization"), Some("Bearer machine-token"));
        assert!(heard.line("ocp-apim-subscription-key").is_none());
    }
    assert_eq!(call(&gate, "echo", "a zebra").code(), Some(WITHHELD));
    for secret in ["machine-token", "platform-secret"] {
        assert!(!gate.log().contains(secret) && server.heard().iter().all(|h| !h.lines().contains(secret)));
    }
    // Without the platform there is no opinion, and what has none is withheld.
    let stranger = Gate::start_with(&config, &[("IDENTITY_ENDPOINT", &*place), ("IDENTITY_HEADER", "wrong")]);
    assert_eq!(call(&stranger, "echo", "a quiet horse").code(), Some(WITHHELD));
    let (code, said) = bartizan_trials::refusal_of(&config.replace("managed_identity = true", ""));
    assert!(code == Some(2) && said.contains("managed_identity"), "{said}");
}
