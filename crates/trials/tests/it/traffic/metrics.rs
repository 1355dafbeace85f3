//! `/metrics` on the admin listener.

use bartizan_trials::{Gate, Upstream, eventually, refusal_of};

fn page(gate: &Gate) -> String {
    let answer = gate.admin().request("GET", "/metrics").send();
    assert_eq!(answer.outcome(), 200, "{}", answer.text());
    answer.text()
}

#[test]
fn what_happens_is_counted_where_prometheus_looks() {
    let up = Upstream::modern(|_, _| false);
    let gate = Gate::start(&up.config("up", ""));
    for _ in 0..3 {
        assert_eq!(gate.client().call("/mcp/up", "echo", r#"{"word":"marmalade"}"#).outcome(), 200);
    }
    assert_eq!(gate.stranger().call("/mcp/up", "echo", "{}").status, 401);
    let parts = [
        r#"bartizan_calls_total{server="up",mcp_method_name="tools/call",outcome="ok"} 3"#,
        "# TYPE mcp_server_operation_duration_seconds histogram",
        r#"mcp_server_operation_duration_seconds_count{server="up",mcp_method_name="tools/call"} 3"#,
        r#"bartizan_refusals_total{server="",reason="credentials.missing"} 1"#,
        "bartizan_audit_lost_total 0",
        "bartizan_sessions 0",
    ];
    let page = eventually("everything is counted", || {
        Some(page(&gate)).filter(|page| parts.iter().all(|part| page.contains(part)))
    });
    for private in ["marmalade", "echo", "subject", &gate.token()] {
        assert!(!page.contains(private), "{private}");
    }
    let told = include_str!("../../../../../docs/metrics.md");
    let shown = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    for metric in shown {
        assert!(told.contains(&format!("| `{metric}` |")), "docs/metrics.md does not know {metric}");
    }
    // Every line is one that Prometheus reads.
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        assert!(
            value.parse::<f64>().is_ok() && series.starts_with(|c: char| c.is_ascii_lowercase()),
            "{line}"
        );
    }
}

/// Attack PH-27, and DNS rebinding.
#[test]
fn the_admin_listener_is_for_this_machine_and_for_no_web_page() {
    let up = Upstream::modern(|_, _| false);
    let gate = Gate::start(&up.config("up", ""));
    let admin = gate.admin();
    let raw =
        |lines: &str| admin.raw(format!("GET /metrics HTTP/1.1\r\n{lines}Connection: close\r\n\r\n")).status;
    let host = format!("Host: {}\r\n", admin.authority());
    assert_eq!(raw(&host), 200);
    assert_eq!(raw("Host: evil.example\r\n"), 421);
    assert_eq!(raw(&format!("{host}{host}")), 421);
    assert_eq!(raw(&format!("{host}Origin: https://evil.example\r\n")), 421);
    assert_eq!(raw(&format!("{host}Sec-Fetch-Site: cross-site\r\n")), 421);
    assert_eq!(admin.request("POST", "/metrics").send().status, 405);
    assert_eq!(admin.request("GET", "/mcp/up").send().status, 404, "it serves no client");
    assert_eq!(gate.client().request("GET", "/metrics").send().status, 404, "nor do clients see it");
    let (code, said) = refusal_of(
        "[server]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"0.0.0.0:8788\"\n[[servers]]\nname = \"s\"\ncommand = [\"true\"]\n",
    );
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("admin_listen") && said.contains("without TLS"), "{said}");
}

#[test]
fn the_lag_of_an_exporter_shows() {
    let receiver = Upstream::modern(|_, pen| {
        pen.empty("503 Service Unavailable");
        true
    });
    let up = Upstream::modern(|_, _| false);
    let export = format!("[[audit.export]]\nname = \"soc\"\nkind = \"http\"\nurl = \"{}\"\n", receiver.url());
    let gate = Gate::start(&format!("{export}{}", up.config("up", "")));
    assert_eq!(gate.client().call("/mcp/up", "echo", "{}").outcome(), 200);
    let failing = r#"bartizan_export_failing{exporter="soc"} 1"#;
    let page = eventually("the trouble shows", || Some(page(&gate)).filter(|p| p.contains(failing)));
    let lag =
        page.lines().find_map(|l| l.strip_prefix(r#"bartizan_export_lag_entries{exporter="soc"} "#)).unwrap();
    assert!(lag.parse::<u64>().unwrap() >= 3, "{page}");
}
