//! Where the gate listens and with whom it speaks in the clear (MCP-SEC Communication security; NeighborJack).

use std::io::{Read, Write};

use bartizan_trials::{Gate, Issuer, Upstream, eventually, refusal_of};

const SERVER: &str = "[[servers]]\nname = \"a\"\ncommand = [\"true\"]\n";

#[test]
fn ph_27_a_gate_that_others_could_reach_unprotected_does_not_start() {
    for listen in ["0.0.0.0:0", "[::]:0", "10.0.0.1:8787"] {
        let (code, said) =
            refusal_of(&format!("[server]\nlisten = \"{listen}\"\nallowed_hosts = [\"gate\"]\n{SERVER}"));
        assert_eq!(code, Some(2), "{said}");
        for word in ["listen", "tls", "trusted_proxies", "127.0.0.1"] {
            assert!(said.contains(word), "it says what to set: {said}");
        }
    }
    let (code, said) = refusal_of(&format!(
        "[server]\nlisten = \"0.0.0.0:0\"\nallowed_hosts = [\"gate\"]\ntrusted_proxies = [\"10.0.0.0/8\"]\n[identity]\ndangerous_open = true\n{SERVER}"
    ));
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("dangerous_open"), "{said}");
    let (code, said) = refusal_of(&format!(
        "[server]\nlisten = \"0.0.0.0:0\"\ntrusted_proxies = [\"10.0.0.0/8\"]\n{SERVER}"
    ));
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("allowed_hosts"), "it must know its names: {said}");

    let up = Upstream::modern(|_, _| false);
    let gate = Gate::start(&format!(
        "[server]\nlisten = \"127.0.0.1:0\"\n[identity]\ndangerous_open = true\n{}",
        up.config("up", "")
    ));
    assert_eq!(
        gate.stranger().call("/mcp/up", "echo", "{}").status,
        200,
        "on loopback the operator may say so"
    );
    assert!(gate.log().contains("WARNING") && gate.log().contains("dangerous_open"), "{}", gate.log());
    for path in ["/metrics", "/admin", "/debug/pprof/", "/openapi.json", "/console", "/"] {
        assert_eq!(gate.stranger().request("GET", path).send().status, 404, "{path}");
    }
}

#[test]
fn ph_27_behind_a_declared_proxy_only_the_proxy_may_connect() {
    let issuer = Issuer::start(1);
    let up = Upstream::modern(|heard, pen| {
        let is_slow = heard.rpc() == "tools/call" && heard.tool() == "slow";
        if is_slow {
            pen.stream();
            pen.wait_closed();
        }
        is_slow
    });
    let config_on = |listen: &str, network: &str| {
        format!(
            "[server]\nlisten = \"{listen}\"\npublic_url = \"https://gate.example\"\ntrusted_proxies = [\"{network}\"]\n\
             [identity]\nmode = \"resource-server\"\n{}[policy.roles.people]\ngroups = [\"people\"]\n\
             [[policy.grants]]\ntemplate = \"operator\"\nrole = \"people\"\n{}",
            issuer.config(),
            up.config("up", "")
        )
    };
    let config = |network: &str| config_on("0.0.0.0:0", network);
    let token = issuer.token("ann", "https://gate.example/mcp/up", serde_json::json!({}));
    let near = |gate: &Gate| {
        let address = format!("127.0.0.1:{}", gate.address().port()).parse().unwrap();
        bartizan_trials::Client::new(address, Some(token.clone()))
    };
    let list = |gate: &Gate| near(gate).modern("/mcp/up", "tools/list", "").with("Host", "gate.example");
    let call = |gate: &Gate| list(gate).send().status;
    assert_eq!(call(&Gate::start(&config("192.0.2.0/24"))), 0, "hung up on");
    assert!(up.heard().is_empty());
    let gate = Gate::start(&config("127.0.0.0/8"));
    assert_eq!(call(&gate), 200);
    let (asked, mut kept) = (list(&gate).bytes(), near(&gate).connect());
    kept.write_all(&asked).unwrap();
    let mut answer = vec![0; "HTTP/1.1 200".len()];
    kept.read_exact(&mut answer).unwrap();
    let slow = near(&gate).modern("/mcp/up", "tools/call", r#""name":"slow","arguments":{}"#);
    let mut under_way = slow.with("Host", "gate.example").open();
    assert_eq!(under_way.line("content-type"), Some("text/event-stream"));
    gate.reconfigure(&config("192.0.2.0/24"));
    assert_eq!(call(&gate), 0, "a proxy that is declared no more is hung up on");
    // Its connections from before are over, too, and what was under way on them. The gate may have reset them.
    let _ = kept.write_all(&asked);
    let _ = kept.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    while under_way.event().is_some() {}
    eventually("both are in the log", || {
        (gate.log().matches("it is a declared proxy no more").count() == 2).then_some(())
    });
    if std::path::Path::new("/proc/net/if_inet6").exists() {
        let both = Gate::start(&config_on("[::]:0", "127.0.0.0/8"));
        assert_eq!(call(&both), 200, "it is the same proxy on a socket for both families");
    }
}

#[test]
fn ph_18_plain_text_does_not_leave_the_machine() {
    let server = |url: &str, more: &str| format!("[[servers]]\nname = \"far\"\nurl = \"{url}\"\n{more}\n");
    for url in ["http://10.0.0.1/mcp", "http://example.com/mcp", "http://localhost.example.com/mcp"] {
        let (code, said) = refusal_of(&server(url, ""));
        assert_ne!(code, Some(0), "{url}");
        assert!(said.contains("https://") && said.contains("dangerous_plaintext"), "{url}: {said}");
    }
    let gate = Gate::start(&server("http://10.0.0.1/mcp", "dangerous_plaintext = true"));
    assert!(gate.log().contains("WARNING") && gate.log().contains("dangerous_plaintext"), "{}", gate.log());
    Gate::start(&server("https://example.com/mcp", ""));
}
