//! What a client may ask for (RFC 6749 §4.1.1, RFC 7636, RFC 8707, RFC 9207, RFC 9700 §2.1).

use bartizan_trials::{Answer, BACK, Facade, PUBLIC, VERIFIER, encode, onward, parameter};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::Value;

/// What an authorization request comes to: the error that is sent to the client, if anything is.
fn refused(facade: &Facade, query: &str) -> (u16, Option<String>) {
    let answer = facade.browser().get(query);
    let location = onward(&answer);
    if let Some(location) = &location {
        assert!(location.starts_with(&format!("{BACK}?")), "{location}");
        assert_eq!(parameter(location, "code"), None, "{location}");
        assert_eq!(parameter(location, "iss").as_deref(), Some(PUBLIC), "AA-33: {location}");
        assert_eq!(parameter(location, "state").as_deref(), Some("the clients own"), "{location}");
    }
    assert!(!answer.text().contains(r#"name="form""#), "nobody is asked for consent: {}", answer.text());
    (answer.status, location.and_then(|location| parameter(&location, "error")))
}

/// A page that sends nobody anywhere.
fn is_page(answer: &Answer) -> bool {
    answer.status == 400
        && onward(answer).is_none()
        && answer.line("content-type") == Some("text/html; charset=utf-8")
}

fn error(answer: &Answer) -> (u16, String) {
    (answer.status, answer.json()["error"].as_str().unwrap_or_default().to_owned())
}

fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).unwrap_or_default();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

#[test]
fn aa_06_there_is_no_code_and_no_token_without_s256() {
    let facade = Facade::start();
    for changes in [
        [("code_challenge", "")],
        [("code_challenge_method", "plain")],
        [("code_challenge_method", "")],
        [("code_challenge_method", "s256")],
        [("code_challenge", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-c")],
        [("code_challenge", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM=")],
        [("code_challenge", "!9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM")],
    ] {
        let got = refused(&facade, &Facade::query(&changes));
        assert_eq!(got, (303, Some("invalid_request".to_owned())), "{changes:?}");
    }
    let code = facade.code("ann", &[]);
    let (short, long) = ("x".repeat(42), "x".repeat(129));
    let challenge = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
    for verifier in ["", "x", short.as_str(), &long, challenge, &VERIFIER.to_lowercase(), &"x".repeat(43)] {
        let answer = facade.redeem(&code, &[("code_verifier", verifier)]);
        assert_eq!(error(&answer), (400, "invalid_grant".to_owned()), "{verifier}");
    }
    for place in ["/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"] {
        let metadata = facade.browser().get(place).json();
        assert_eq!(metadata["code_challenge_methods_supported"], serde_json::json!(["S256"]));
    }
    assert_eq!(facade.redeem(&code, &[]).outcome(), 200, "the honest client has its verifier");
    facade.serves();
}

#[test]
fn aa_07_an_answer_goes_to_the_registered_address_and_nowhere_else() {
    let facade = Facade::start();
    for uri in [
        "https://c.example/cb/",
        "https://c.example/cb?x=1",
        "https://c.example/CB",
        "https://c.example/cb/../e",
        "https://c.example/cb%2f..",
        "https://c.example.evil/cb",
        "https://c.example@evil/cb",
        "https://evil\\@c.example/cb",
        "http://c.example/cb",
        "https://c.example:443/cb",
        "https://c.example/cb#f",
        "https://\u{441}.example/cb",
        "HTTPS://c.example/cb",
        "https://c.example/cb ",
        "//c.example/cb",
        "javascript:alert(1)",
        "http://localhost/cb",
        "http://localhost.evil:1/cb",
        "http://127.0.0.1.nip.io/cb",
        "http://127.0.0.1:0/cb",
        "http://127.0.0.1:80@evil/cb",
        "http://127.1/cb",
        "http://127.0.0.1:4711/elsewhere",
        "",
    ] {
        let answer = facade.browser().get(&Facade::query(&[("redirect_uri", uri)]));
        assert!(is_page(&answer), "{uri}: {} {}", answer.status, answer.text());
        // An error must not be sent there either.
        let answer =
            facade.browser().get(&Facade::query(&[("redirect_uri", uri), ("response_type", "token")]));
        assert!(is_page(&answer), "{uri}");
    }
    let twice = format!("{}&{}", Facade::query(&[]), encode(&[("redirect_uri", BACK)]));
    assert!(is_page(&facade.browser().get(&twice)), "which of the two counts would be anybody's choice");

    let code = facade.code("ann", &[]);
    for uri in ["https://c.example/cb/", "https://c.example/elsewhere", "http://127.0.0.1/cb"] {
        let answer = facade.redeem(&code, &[("redirect_uri", uri)]);
        assert_eq!(error(&answer), (400, "invalid_grant".to_owned()), "{uri}");
    }
    assert_eq!(facade.redeem(&code, &[]).outcome(), 200);
    let native = [("redirect_uri", "http://127.0.0.1:4711/cb")];
    let location = facade.grant(&mut facade.browser(), "ann", &native);
    assert!(location.starts_with("http://127.0.0.1:4711/cb?code="), "RFC 8252 §7.3: {location}");
}

#[test]
fn aa_17_a_token_is_for_the_one_resource_that_was_asked_for() {
    let facade = Facade::start();
    for resource in [
        "",
        "https://evil.example/mcp/a",
        "https://gate.example",
        "https://gate.example/",
        "https://gate.example/mcp/a/",
        "https://gate.example/mcp/A",
        "https://GATE.example/mcp/a",
        "https://gate.example/mcp/a#x",
        "https://gate.example/mcp/a?x",
        "https://gate.example/mcp/%61",
        "/mcp/a",
        "a",
        "*",
    ] {
        let got = refused(&facade, &Facade::query(&[("resource", resource)]));
        assert_eq!(got, (303, Some("invalid_target".to_owned())), "`{resource}`");
        let form = [("grant_type", "client_credentials"), ("resource", resource)];
        let answer = facade.token_of_server(&form);
        assert_eq!(error(&answer), (400, "invalid_target".to_owned()), "`{resource}`");
    }
    let twice = format!("{}&{}", Facade::query(&[]), encode(&[("resource", &Facade::resource("b"))]));
    assert_eq!(refused(&facade, &twice), (303, Some("invalid_target".to_owned())));

    let code = facade.code("ann", &[]);
    let other = facade.redeem(&code, &[("resource", &Facade::resource("b"))]);
    assert_eq!(error(&other), (400, "invalid_target".to_owned()));
    let good = facade.redeem(&code, &[("resource", &Facade::resource("a"))]).json();
    let token = good["access_token"].as_str().unwrap();
    assert_eq!(claims(token)["aud"], Facade::resource("a"), "the endpoint, never the gate");
    for name in ["b", ""] {
        assert_eq!(facade.shows(name, token), if name.is_empty() { 404 } else { 401 }, "/mcp/{name}");
    }
    assert_eq!(facade.executed(), 0);
    assert_eq!(facade.shows("a", token), 200);
    facade.serves();
}

#[test]
fn aa_22_nothing_is_granted_beyond_what_a_person_allowed() {
    let limited = "[[identity.clients]]\nid = \"reader\"\nname = \"A reader\"\nredirect_uris = [\"https://c.example/cb\"]\nscopes = [\"mcp:read\"]\n";
    let facade = Facade::with("", limited);
    for changes in [
        vec![("scope", "mcp:read mcp:root")],
        vec![("scope", "mcp:read,mcp:write")],
        vec![("scope", "mcp:read\tmcp:write")],
        vec![("scope", "MCP:READ")],
        vec![("scope", "*")],
        vec![("client_id", "reader"), ("scope", "mcp:read mcp:write")],
    ] {
        let got = refused(&facade, &Facade::query(&changes));
        assert_eq!(got, (303, Some("invalid_scope".to_owned())), "{changes:?}");
    }
    let code = facade.code("ann", &[("scope", "mcp:read")]);
    for scope in ["mcp:write", "mcp:read mcp:write", "mcp:read mcp:admin"] {
        let answer = facade.redeem(&code, &[("scope", scope)]);
        assert_eq!(error(&answer), (400, "invalid_scope".to_owned()), "{scope}");
    }
    let good = facade.redeem(&code, &[]).json();
    assert_eq!(good["scope"], "mcp:read");
    assert_eq!(claims(good["access_token"].as_str().unwrap())["scope"], "mcp:read");
    let refresh = good["refresh_token"].as_str().unwrap();
    for scope in ["mcp:write", "mcp:read mcp:write"] {
        let answer = facade.refresh(refresh, &[("scope", scope)]);
        assert_eq!(error(&answer), (400, "invalid_scope".to_owned()), "{scope}");
    }
    let next = facade.refresh(refresh, &[("scope", "mcp:read")]).json();
    assert_eq!(next["scope"], "mcp:read", "less, or the same, may be asked for");
    let wide = facade.redeem(&facade.code("ann", &[]), &[]).json();
    assert_eq!(wide["scope"], "mcp:read mcp:write", "what a person allowed is granted");
}

#[test]
fn aa_24_only_codes_come_by_redirect_and_only_to_addresses_that_are_known() {
    let facade = Facade::start();
    for (changes, expected) in [
        ([("response_type", "token")], "unsupported_response_type"),
        ([("response_type", "id_token")], "unsupported_response_type"),
        ([("response_type", "code token")], "unsupported_response_type"),
        ([("response_type", "")], "invalid_request"),
        ([("response_mode", "fragment")], "invalid_request"),
        ([("response_mode", "form_post")], "invalid_request"),
        ([("response_mode", "web_message")], "invalid_request"),
        ([("request", "eyJhbGciOiJub25lIn0.e30.")], "request_not_supported"),
        ([("request_uri", "https://evil.example/request")], "request_uri_not_supported"),
        ([("prompt", "none")], "interaction_required"),
    ] {
        let got = refused(&facade, &Facade::query(&changes));
        assert_eq!(got, (303, Some(expected.to_owned())), "{changes:?}");
    }
    for changes in [
        vec![("client_id", "nobody"), ("redirect_uri", "https://evil.example/")],
        vec![("client_id", "nobody")],
        vec![("client_id", "")],
        vec![("redirect_uri", "https://evil.example/"), ("response_type", "token")],
        vec![("redirect_uri", "https://evil.example/"), ("resource", "https://evil.example")],
    ] {
        let answer = facade.browser().get(&Facade::query(&changes));
        assert!(is_page(&answer), "{changes:?}: {} {}", answer.status, answer.text());
    }
    for grant in ["password", "implicit", "urn:ietf:params:oauth:grant-type:device_code"] {
        let form = [("grant_type", grant), ("client_id", "editor"), ("username", "u"), ("password", "p")];
        assert_eq!(error(&facade.token(&form)), (400, "unsupported_grant_type".to_owned()), "{grant}");
    }
    let resource = Facade::resource("a");
    let form = [("grant_type", "client_credentials"), ("client_id", "editor"), ("resource", &resource)];
    assert_eq!(error(&facade.token(&form)), (400, "unauthorized_client".to_owned()));
    assert_eq!(facade.browser().get("/oauth/token?grant_type=password").status, 405);

    // A form is answered by a page or by 303: what was typed is never sent on (RFC 9700 §4.12).
    let mut browser = facade.browser();
    for decision in ["deny", "allow"] {
        let answer = facade.decide(&mut browser, &[], decision);
        assert!(matches!(answer.outcome(), 200 | 302 | 303), "{decision}: {}", answer.status);
    }
    facade.serves();
}

#[test]
fn aa_33_every_answer_names_the_one_issuer_of_the_metadata() {
    let facade = Facade::start();
    for place in ["/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"] {
        let metadata = facade.browser().get(place).json();
        assert_eq!(metadata["issuer"], PUBLIC);
        assert_eq!(metadata["authorization_response_iss_parameter_supported"], true);
    }
    let mut browser = facade.browser();
    let denied = facade.decide(&mut browser, &[], "deny");
    let denied = onward(&denied).unwrap();
    assert_eq!(parameter(&denied, "error").as_deref(), Some("access_denied"));
    let granted = facade.grant(&mut browser, "ann", &[]);
    let failed = facade.browser().get(&Facade::query(&[("response_type", "token")]));
    let refused_there = {
        let address = facade.allow(&mut facade.browser(), &[]);
        // In another browser nothing is said to the client at all.
        let back = facade.idp.back(&address, &[("error", "access_denied")]);
        facade.browser().get(&back)
    };
    assert_eq!(onward(&refused_there), None);
    for location in [denied, granted, onward(&failed).unwrap()] {
        assert_eq!(parameter(&location, "iss").as_deref(), Some(PUBLIC), "{location}");
    }
}

/// Whoever asks without end is answered no more for a while, and nobody else is held up by it (spec.md G-46).
#[test]
fn a_flood_of_authorization_requests_holds_up_its_own_address_only() {
    let facade = Facade::start();
    let ask = |address: &str| {
        let mut browser = facade.browser();
        let ask = browser.visit(&Facade::query(&[("client_id", "nobody")])).line("X-Forwarded-For", address);
        browser.send(ask)
    };
    std::thread::scope(|threads| {
        for _ in 0..8 {
            threads.spawn(|| {
                for _ in 0..300 {
                    let answer = ask("198.51.100.7");
                    assert_eq!(answer.status, 400, "{}", answer.text());
                }
            });
        }
    });
    let refused = ask("198.51.100.7");
    assert_eq!(refused.status, 429, "{}", refused.text());
    let seconds = refused.line("retry-after").and_then(|line| line.parse::<u64>().ok());
    assert!(seconds.is_some_and(|seconds| seconds <= 600), "{seconds:?}");
    assert_eq!(refused.line("content-type"), Some("text/html; charset=utf-8"), "a person reads why");
    assert_eq!(ask("198.51.100.8").status, 400, "its neighbour is listened to");
    facade.serves();
}
