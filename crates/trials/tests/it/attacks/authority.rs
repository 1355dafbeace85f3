//! Which host and which path: one reading, for router and authorizer alike (CVE-2026-48710, CVE-2026-42559).

use bartizan_trials::Client;

use crate::Scene;

/// A call whose `Host` lines are `hosts` and whose target is `target`.
fn call(client: &Client, target: &str, hosts: &[&str]) -> u16 {
    let ask = client.modern(target, "tools/call", r#""name":"echo","arguments":{}"#).without("Host");
    hosts.iter().fold(ask, |ask, host| ask.line("Host", host)).send().status
}

#[test]
fn aa_02_a_crafted_host_changes_neither_route_nor_answer() {
    let scene = Scene::start();
    let own = scene.gate.client().authority();
    let crafted = [
        format!("{own}?x="),
        format!("{own}#"),
        format!("{own}/healthz"),
        format!("{own}@evil.example"),
        format!("evil.example@{own}"),
        format!("{own}:80"),
        format!("{own}, evil.example"),
        format!("{own}\\healthz"),
        String::new(),
    ];
    for client in [scene.gate.client(), scene.gate.stranger()] {
        for host in &crafted {
            let status = call(&client, "/mcp/new", &[host]);
            assert!(matches!(status, 400 | 421), "`{host}`: {status}");
        }
        for hosts in [vec![], vec![own.as_str(), own.as_str()], vec![own.as_str(), "evil.example"]] {
            let status = call(&client, "/mcp/new", &hosts);
            assert!(matches!(status, 400 | 421), "{hosts:?}: {status}");
        }
        let status = call(&client, "http://evil.example/mcp/new", &[&own]);
        assert!(matches!(status, 400 | 421), "absolute form that disagrees: {status}");
        let status = call(&client, &format!("http://{own}/mcp/new"), &["evil.example"]);
        assert!(matches!(status, 400 | 421), "absolute form that disagrees: {status}");
    }
    assert_eq!(scene.executed(), 0);

    assert_eq!(call(&scene.gate.client(), &format!("http://{own}/mcp/new"), &[&own]), 200);
    scene.serves();
}

#[test]
fn aa_09_no_other_spelling_of_a_path_is_that_path() {
    let scene = Scene::start();
    let (client, stranger) = (scene.gate.client(), scene.gate.stranger());
    let own = client.authority();
    let spellings = [
        "/mcp/new/",
        "//mcp/new",
        "/./mcp/new",
        "/mcp/./new",
        "/mcp//new",
        "/mcp/new;a=b",
        "/mcp;a=b/new",
        "/%6dcp/new",
        "/mcp%2fnew",
        "/mcp/new%2f",
        "/mcp/new%00",
        "/MCP/new",
        "/mcp/NEW",
        "/mcp/old/../new",
        "/healthz/../mcp/new",
        "/mcp/new/.well-known/oauth-protected-resource",
        "/.well-known/oauth-protected-resource/../mcp/new",
        "/.well-known/oauth-protected-resource-evil",
        "/mcp/new/healthz",
    ];
    for path in spellings {
        let anonymous = call(&stranger, path, &[&own]);
        assert!(matches!(anonymous, 400 | 401 | 404 | 405), "{path}: {anonymous}");
        assert!(
            matches!(call(&client, path, &[&own]), 400 | 404),
            "{path} is no endpoint for its owner either"
        );
    }
    let absolute = call(&stranger, &format!("http://{own}/mcp/new"), &[&own]);
    assert_eq!(absolute, 401);
    assert_eq!(scene.executed(), 0);
    scene.serves();
}

/// Also: AA-02.
#[test]
fn ph_01_a_page_that_rebinds_its_name_to_us_is_refused() {
    let scene = Scene::start();
    let client = scene.gate.client();
    let own = client.authority();
    let port = own.rsplit(':').next().unwrap();
    let hosts = [
        "evil.example".to_owned(),
        format!("evil.example:{port}"),
        format!("127.0.0.1.evil.example:{port}"),
        format!("localhost.evil:{port}"),
        format!("0.0.0.0:{port}"),
        format!("[::1].evil:{port}"),
        format!("127.0.0.2:{port}"),
        format!("2130706433:{port}"),
        format!("localhost.:{port}"),
        "127.0.0.1:1".to_owned(),
        "127.0.0.1".to_owned(),
    ];
    for host in &hosts {
        for (method, params) in [("server/discover", ""), ("tools/list", "")] {
            let answer = client.modern("/mcp/new", method, params).with("Host", host).send();
            assert!(matches!(answer.status, 400 | 403 | 421), "{host}: {}", answer.status);
            assert!(answer.result().is_none());
        }
        let hello = client.initialize("/mcp/old", "2025-11-25", "{}").with("Host", host).send();
        assert!(matches!(hello.status, 400 | 403 | 421), "{host}: {}", hello.status);
        assert!(hello.line("mcp-session-id").is_none());
    }
    assert_eq!(scene.new.heard().len() + scene.old.heard().len(), 0);

    for host in [format!("localhost:{port}"), format!("LocalHost:{port}"), format!("[::1]:{port}")] {
        assert_eq!(
            client.modern("/mcp/new", "tools/list", "").with("Host", &host).send().status,
            200,
            "{host}"
        );
    }
    scene.serves();
}

#[test]
fn ph_01_more_names_are_the_operators_to_give() {
    let scene = Scene::with("[server]\nlisten = \"127.0.0.1:0\"\nallowed_hosts = [\"gate.internal\"]\n");
    let list =
        |host: &str| scene.gate.client().modern("/mcp/new", "tools/list", "").with("Host", host).send();
    assert_eq!(list("gate.internal").outcome(), 200);
    assert_eq!(list("gate.internal.evil").status, 421);
    assert_eq!(list("gate.internal:1").status, 421);
}
