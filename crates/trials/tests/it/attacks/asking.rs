//! Asking about tokens, and giving them back (RFC 7662, RFC 7009).

use bartizan_trials::{Facade, SECRET, basic};
use serde_json::json;

#[test]
fn aa_40_only_who_may_know_learns_what_a_token_means_and_only_its_client_takes_it_back() {
    let facade = Facade::start();
    let (access, refresh) = facade.tokens("ann");
    let own = basic("server", SECRET);
    let ask =
        |lines: &[(&str, &str)], token: &str| facade.post("/oauth/introspect", lines, &[("token", token)]);
    for lines in [vec![], vec![("Authorization", "Basic eDp5")], vec![("Authorization", "Bearer x")]] {
        let answer = ask(&lines, &access);
        assert_eq!((answer.status, &answer.json()["error"]), (401, &json!("invalid_client")), "{lines:?}");
    }
    let public = facade.post("/oauth/introspect", &[], &[("token", &access), ("client_id", "editor")]);
    assert_eq!(public.status, 401, "a name is no proof");
    assert_eq!(facade.browser().get("/oauth/introspect?token=x").status, 405);
    for token in ["unknown", "a.b.c", &access[..access.len() - 1], ""] {
        let answer = ask(&[("Authorization", &own)], token);
        assert!(
            answer.status == 400 || answer.json() == json!({ "active": false }),
            "{token}: {}",
            answer.text()
        );
    }
    // Another client cannot give back what is not its own, and learns nothing of it.
    for token in [&access, &refresh] {
        let answer = facade.post("/oauth/revoke", &[], &[("client_id", "other"), ("token", token)]);
        assert_eq!((answer.status, answer.text()), (200, String::new()));
    }
    assert_eq!(
        facade.post("/oauth/revoke", &[], &[("client_id", "editor"), ("token", "unknown")]).status,
        200
    );
    assert_eq!(facade.shows("a", &access), 200);
    let known = ask(&[("Authorization", &own)], &access).json();
    assert_eq!(
        (&known["active"], &known["client_id"]),
        (&json!(true), &json!("editor")),
        "a resource server may"
    );

    assert_eq!(
        facade.post("/oauth/revoke", &[], &[("client_id", "editor"), ("token", &access)]).outcome(),
        200
    );
    assert_eq!(facade.shows("a", &access), 401, "at once");
    assert_eq!(ask(&[("Authorization", &own)], &access).json(), json!({ "active": false }));
    let next = facade.refresh(&refresh, &[]);
    assert_eq!(next.outcome(), 200, "one token was given back, not the grant");
    let next = next.json()["refresh_token"].as_str().unwrap().to_owned();
    assert_eq!(
        facade.post("/oauth/revoke", &[], &[("client_id", "editor"), ("token", &next)]).outcome(),
        200
    );
    assert_eq!(facade.refresh(&next, &[]).status, 400, "now it is");
    facade.serves();
}
