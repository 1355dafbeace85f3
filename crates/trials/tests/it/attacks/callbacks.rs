//! Coming back from the identity provider (OpenID Connect Core §3.1.3.7; RFC 9207; CVE-2026-27124).

use bartizan_trials::{Answer, Browser, Facade, Idp, merge, onward, parameter};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::json;

/// Nothing came of it: nobody is signed in, and no client gets anything.
fn is_nothing(answer: &Answer, browser: &Browser) -> bool {
    let is_refused = matches!(answer.status, 400 | 403 | 405 | 502);
    let is_signed_in = browser.cookies.keys().any(|name| name.ends_with("-session"));
    is_refused && onward(answer).is_none() && !is_signed_in
}

#[test]
fn aa_08_only_the_answer_to_ones_own_question_signs_anybody_in() {
    let facade = Facade::start();
    let mut browser = facade.browser();
    let address = facade.allow(&mut browser, &[]);
    let (state, iss) = (parameter(&address, "state").unwrap(), facade.idp.name());
    for query in [
        String::new(),
        format!("code=stolen&iss={iss}"),
        format!("code=stolen&state=&iss={iss}"),
        format!("code=stolen&state=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA&iss={iss}"),
        format!("code=stolen&state={state}&state={state}&iss={iss}"),
        format!("code=stolen&state[]={state}&iss={iss}"),
    ] {
        let answer = browser.get(&format!("/oauth/callback?{query}"));
        assert!(is_nothing(&answer, &browser), "{query}: {} {}", answer.status, answer.text());
    }
    let back = facade.idp.sign_in(&address, "ann");
    let posted = browser.post("/oauth/callback", &[("state", &state), ("code", "stolen"), ("iss", &iss)]);
    assert_eq!(posted.status, 405);
    assert_eq!(facade.idp.redemptions(), 0, "no code was looked at");
    assert_eq!(browser.get(&back).status, 303, "the honest answer still counts");
    let again = browser.get(&back);
    assert!(onward(&again).is_none() && again.status == 400, "once: {}", again.text());

    // A code of the attacker's own sign-in is bound to the attacker's verifier.
    let (mut attacker, mut victim) = (facade.browser(), facade.browser());
    let (theirs, own) = (facade.allow(&mut attacker, &[]), facade.allow(&mut victim, &[]));
    let code = parameter(&format!("https://x{}", facade.idp.sign_in(&theirs, "mallory")), "code").unwrap();
    let injected = facade.idp.back(&own, &[("code", &code)]);
    let answer = victim.get(&injected);
    assert!(is_nothing(&answer, &victim), "{}", answer.text());

    let mut victim = facade.browser();
    let address = facade.allow(&mut victim, &[]);
    let script = "<script>alert(1)</script>";
    let back = facade.idp.back(&address, &[("error", script), ("error_description", script)]);
    let answer = victim.get(&back);
    assert!(!answer.text().contains("<script") && !answer.text().contains("alert(1)"), "{}", answer.text());
    facade.serves();
}

#[test]
fn aa_08_an_id_token_that_is_not_exactly_right_signs_nobody_in() {
    let facade = Facade::start();
    let stranger = Idp::start(8);
    let now = |address: &str| facade.idp.claims(address)["iat"].as_u64().unwrap();
    let mut browser = facade.browser();
    let address = facade.allow(&mut browser, &[]);
    let iat = now(&address);
    let bad = [
        (json!({}), json!({ "nonce": "another" })),
        (json!({}), json!({ "nonce": null })),
        (json!({}), json!({ "aud": "another" })),
        (json!({}), json!({ "aud": ["gate", "another"] })),
        (json!({}), json!({ "aud": ["gate", "another"], "azp": "another" })),
        (json!({}), json!({ "azp": "another" })),
        (json!({}), json!({ "iss": stranger.name() })),
        (json!({}), json!({ "iss": format!("{}/", facade.idp.name()) })),
        (json!({}), json!({ "exp": iat - 600 })),
        (json!({}), json!({ "exp": null })),
        (json!({}), json!({ "exp": "9999999999" })),
        (json!({}), json!({ "sub": null })),
        (json!({}), json!({ "sub": "" })),
        (json!({ "alg": "none" }), json!({})),
        (json!({ "alg": "HS256" }), json!({})),
        (json!({ "kid": "another" }), json!({})),
    ];
    for (header, claims) in bad {
        let mut browser = facade.browser();
        let address = facade.allow(&mut browser, &[]);
        let answer = browser.get(&facade.idp.sign_in_with(&address, header.clone(), claims.clone()));
        assert!(is_nothing(&answer, &browser), "{header} {claims}: {} {}", answer.status, answer.text());
    }
    // Unsigned, or signed by somebody else.
    let claims = facade.idp.claims(&address);
    let part = |text: String| URL_SAFE_NO_PAD.encode(text);
    let unsigned = format!("{}.{}.", part(json!({ "alg": "none" }).to_string()), part(claims.to_string()));
    let answer = browser.get(&facade.idp.answer(&address, &unsigned));
    assert!(is_nothing(&answer, &browser), "{}", answer.text());
    let forger = bartizan_trials::Issuer::start(9);
    let mut browser = facade.browser();
    let address = facade.allow(&mut browser, &[]);
    let claims = merge(facade.idp.claims(&address), json!({ "sub": "admin" }));
    let forged = forger.sign(r#"{"alg":"EdDSA","kid":"key","typ":"JWT"}"#, &claims.to_string());
    let answer = browser.get(&facade.idp.answer(&address, &forged));
    assert!(is_nothing(&answer, &browser), "{}", answer.text());
    facade.serves();
}

#[test]
fn aa_33_an_answer_of_another_provider_is_not_redeemed() {
    let facade = Facade::start();
    let own = facade.idp.name();
    for iss in [
        "https://evil.example".to_owned(),
        format!("{own}/"),
        own.to_uppercase(),
        own.replace("http:", "https:"),
        String::new(),
    ] {
        for more in [("code", "stolen"), ("error", "access_denied")] {
            let mut browser = facade.browser();
            let address = facade.allow(&mut browser, &[]);
            let state = parameter(&address, "state").unwrap();
            let query = bartizan_trials::encode(&[
                ("state", &state),
                ("iss", &iss),
                more,
                ("error_description", "canary-text"),
            ]);
            let answer = browser.get(&format!("/oauth/callback?{query}"));
            assert!(is_nothing(&answer, &browser), "`{iss}` {more:?}: {}", answer.text());
            assert!(!answer.text().contains("canary-text"));
        }
    }
    // None, though its metadata promises one.
    let mut browser = facade.browser();
    let address = facade.allow(&mut browser, &[]);
    let state = parameter(&address, "state").unwrap();
    let answer = browser.get(&format!("/oauth/callback?state={state}&code=stolen"));
    assert!(is_nothing(&answer, &browser), "{}", answer.text());
    assert_eq!(facade.idp.redemptions(), 0, "its token endpoint heard of nothing");
    facade.serves();
}

#[test]
fn cd_01_a_sign_in_ends_in_the_browser_in_which_it_was_allowed() {
    let facade = Facade::with("registration = \"on\"", "");
    let (mut attacker, mut victim) = (facade.browser(), facade.browser());
    let address = facade.allow(&mut attacker, &[]);
    // The victim is sent the provider's address, signs in there, and comes back.
    let back = facade.idp.sign_in(&address, "victim");
    let answer = victim.get(&back);
    assert_eq!(answer.status, 403, "{}", answer.text());
    assert!(is_nothing(&answer, &victim) && victim.cookies.is_empty(), "{}", answer.text());
    assert_eq!(facade.idp.redemptions(), 0, "the code was not even looked at");
    assert_eq!(attacker.get(&back).status, 400, "nor is it good in the attacker's browser now");

    // A victim with a sign-in of their own under way, and one whose cookie was made up.
    let (theirs, _own) = (facade.allow(&mut attacker, &[]), facade.allow(&mut victim, &[]));
    let answer = victim.get(&facade.idp.sign_in(&theirs, "victim"));
    assert!(is_nothing(&answer, &victim), "{}", answer.text());
    let theirs = facade.allow(&mut attacker, &[]);
    let name = attacker.cookies.keys().find(|name| name.contains("state-")).unwrap().clone();
    victim.cookies.insert(name, "A".repeat(43));
    let answer = victim.get(&facade.idp.sign_in(&theirs, "victim"));
    assert!(is_nothing(&answer, &victim), "{}", answer.text());
    facade.serves();
}

#[test]
fn cd_09_there_is_no_state_before_a_person_allowed_anything() {
    let facade = Facade::start();
    let mut browser = facade.browser();
    let page = browser.get(&Facade::query(&[]));
    assert_eq!(page.outcome(), 200);
    let set: Vec<_> =
        page.lines("set-cookie").iter().map(|line| line.split('=').next().unwrap().to_owned()).collect();
    assert_eq!(set, ["__Host-bartizan-form"], "a cookie that means nothing but this browser");
    // Whoever skips the page has no state that counts.
    for state in
        ["x", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", &browser.cookies["__Host-bartizan-form"].clone()]
    {
        let query =
            bartizan_trials::encode(&[("state", state), ("code", "stolen"), ("iss", &facade.idp.name())]);
        let answer = browser.get(&format!("/oauth/callback?{query}"));
        assert!(answer.status == 400 && is_nothing(&answer, &browser), "{state}: {}", answer.text());
    }
    assert_eq!(facade.idp.redemptions(), 0);
    let address = facade.allow(&mut browser, &[]);
    assert!(browser.cookies.keys().any(|name| name.starts_with("__Host-bartizan-state-")));
    assert_eq!(browser.get(&facade.idp.sign_in(&address, "ann")).status, 303);
    assert!(!browser.cookies.keys().any(|name| name.contains("state-")), "it is over");
}
