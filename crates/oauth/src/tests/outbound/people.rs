//! Accounts of people: linked by themselves, used for themselves, renewed, given up.

use std::time::Duration;

use bartizan_store::links::Account;

use super::*;
use crate::NamedBy;

fn account(subject: &str) -> Account {
    Account { issuer: "https://id.example".to_owned(), subject: subject.to_owned(), server: name() }
}

fn needs_linking(answer: Result<impl std::fmt::Debug, Unobtainable>) -> Url {
    match answer {
        Err(Unobtainable::NeedsLinking(url)) => url,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_person_sees_what_they_linked_and_takes_it_back() {
    let scene = Scene::personal().await;
    let address = needs_linking(scene.line(&ann()).await);
    let linking = scene.linking();
    let before = linking.accounts(&person("ann")).await.unwrap();
    assert_eq!(before.len(), 1);
    assert_eq!((before[0].host.as_deref(), &before[0].linked), (Some("up.example"), &None));

    let mut browser = Browser::of("ann");
    browser.open(&scene, address.as_str()).await;
    let away = browser.leave(&scene).await;
    assert_eq!(browser.back(&scene, &away, GOOD).await.status(), 200);
    let after = linking.accounts(&person("ann")).await.unwrap();
    assert_eq!(after[0].linked.as_ref().unwrap().upstream, AS);
    assert_eq!(linking.accounts(&person("bob")).await.unwrap()[0].linked, None, "nobody else's");
    // A server that is gone is still on the list: what was linked there can be taken back.
    let later = Linking::new([], scene.means.clone(), scene.notebook.clone());
    let gone = later.accounts(&person("ann")).await.unwrap();
    assert_eq!((gone.len(), gone[0].host.as_deref()), (1, None));

    let unlink =
        async |who: &str| linking.unlink(&person(who), &name(), [192, 0, 2, 1].into()).await.unwrap();
    assert_eq!(unlink("bob").await, Unlinked::Nothing);
    assert_eq!(scene.line(&ann()).await.unwrap(), "Bearer access-1");
    assert_eq!(unlink("ann").await, Unlinked::Forgotten, "its authorization server has no way to revoke");
    needs_linking(scene.line(&ann()).await);
    assert_eq!(later.accounts(&person("ann")).await.unwrap(), []);
}

#[tokio::test]
async fn an_account_is_linked_by_its_person_and_shown_for_nobody_else() {
    let scene = Scene::personal().await;
    let address = needs_linking(scene.line(&ann()).await);
    assert!(address.as_str().starts_with("https://gate.example/connect/up?for="), "{address}");
    assert!(!address.as_str().contains("ann"), "A-97: it says nothing of the person");
    assert_eq!(scene.credential().headers(None).await, Err(Unobtainable::Nobody));

    let mut browser = Browser::of("ann");
    let page = browser.open(&scene, address.as_str()).await;
    let shown = text(&page);
    assert_eq!(page.status(), 200);
    assert!(shown.contains("up.example") && shown.contains("<code>read</code>"), "{shown}");
    assert!(!shown.contains("<b>ann"), "escaped: {shown}");
    assert!(page.headers().get(header::SET_COOKIE).is_none(), "CD-09: nothing before the button");
    assert_eq!(page.headers()[header::X_FRAME_OPTIONS], "DENY");

    scene.net.challenges.lock().unwrap().insert(UP.to_owned(), "Bearer scope=\"read\"".to_owned());
    let away = browser.leave(&scene).await;
    assert!(away.as_str().starts_with("https://as.example/authorize?tenant=1&"), "{away}");
    let parameters =
        ["response_type", "client_id", "redirect_uri", "code_challenge_method", "resource", "scope"];
    assert_eq!(
        parameters.map(|p| parameter(&away, p).unwrap()),
        ["code", "gate", "https://gate.example/connect/callback", "S256", UP, "read"],
        "what the server needs, not all that it supports nor all that is allowed"
    );
    let done = browser.back(&scene, &away, GOOD).await;
    assert_eq!(done.status(), 200, "{}", text(&done));
    let form = scene.forms().pop().unwrap();
    assert!(
        form.contains("grant_type=authorization_code&code=c0de&")
            && form.contains("&resource=https%3A%2F%2Fup"),
        "{form}"
    );

    assert_eq!(scene.line(&ann()).await.unwrap(), "Bearer access-1");
    assert_eq!(scene.line(&caller("https://id.example", "ann")).await.unwrap(), "Bearer access-1");
    // TP-02: nobody else's, whatever they have in common.
    for other in
        [caller("https://id.example", "bob"), caller("https://other.example", "ann"), caller("", "ann")]
    {
        needs_linking(scene.line(&other).await);
    }
    assert!(scene.means.links.unlink(&account("ann")).await.unwrap());
    scene.clock.advance(Duration::from_secs(3));
    needs_linking(scene.line(&ann()).await);
    assert!(scene.folder.path().join("store.db").exists());
}

/// What is granted at a server after it was put in quarantine would have to be revoked again.
#[tokio::test]
async fn nobody_comes_back_to_a_server_that_was_put_in_quarantine_meanwhile() {
    let scene = Scene::personal().await;
    let mut browser = Browser::of("ann");
    let away = browser.leave(&scene).await;
    browser.closed.insert(name());
    let back = browser.back(&scene, &away, GOOD).await;
    assert!(back.status() == 403 && text(&back).contains("in quarantine"), "{}", text(&back));
    assert!(scene.forms().is_empty(), "the code is not redeemed");
    browser.closed.clear();
    assert_eq!(browser.back(&scene, &away, GOOD).await.status(), 400, "and that way back is over");
    browser.link(&scene).await;
}

/// CD-01, CD-08, A-98: whoever links is whoever was asked, in the same browser, once.
#[tokio::test]
async fn nobody_completes_what_somebody_else_began() {
    let scene = Scene::personal().await;
    let address = needs_linking(scene.line(&ann()).await);
    let (mut ann_there, bob_there) = (Browser::of("ann"), Browser::of("bob"));
    assert_eq!(bob_there.open(&scene, address.as_str()).await.status(), 403, "ann's address is not bob's");

    let away = ann_there.leave(&scene).await;
    assert_eq!(bob_there.back(&scene, &away, GOOD).await.status(), 403);
    assert_eq!(ann_there.back(&scene, &away, GOOD).await.status(), 400, "the state is used up");

    let away = ann_there.leave(&scene).await;
    let thief = Browser { cookie: ann_there.cookie.clone(), ..Browser::of("bob") };
    assert_eq!(thief.back(&scene, &away, GOOD).await.status(), 403, "the cookie alone is not the person");
    let away = ann_there.leave(&scene).await;
    let elsewhere = Browser::of("ann");
    assert_eq!(
        elsewhere.back(&scene, &away, GOOD).await.status(),
        403,
        "nor is the person alone the browser"
    );
    let away = ann_there.leave(&scene).await;
    scene.clock.advance(Duration::from_secs(600));
    assert_eq!(ann_there.back(&scene, &away, GOOD).await.status(), 400, "too late");
    for query in ["", "?code=c0de", "?state=x&code=c0de", "?state=&code=c"] {
        let url = format!("https://gate.example/connect/callback{query}");
        assert_eq!(ann_there.open(&scene, &url).await.status(), 400, "{query}");
    }
    assert!(scene.forms().is_empty(), "no code was ever redeemed");
    needs_linking(scene.line(&ann()).await);
    ann_there.link(&scene).await;
    assert_eq!(scene.line(&ann()).await.unwrap(), "Bearer access-1");
}

/// CD-02
#[tokio::test]
async fn only_our_own_page_sends_anybody_away() {
    let scene = Scene::personal().await;
    let browser = Browser::of("ann");
    let (csrf, foreign) = (browser.csrf(&scene).await, Browser::of("bob").csrf(&scene).await);
    let url = "https://gate.example/connect/up";
    let good = format!("csrf={csrf}&do=link");
    let bad: [(String, &[(&'static str, &str)]); 8] = [
        ("do=link".into(), &[]),
        ("csrf=&do=link".into(), &[]),
        (format!("csrf={foreign}&do=link"), &[]),
        (format!("csrf={csrf}&csrf={csrf}&do=link"), &[]),
        (format!("csrf={csrf}"), &[]),
        (good.clone(), &[("sec-fetch-site", "cross-site")]),
        (good.clone(), &[("sec-fetch-site", "same-site")]),
        (good.clone(), &[("content-type", "text/plain")]),
    ];
    for (body, lines) in bad {
        let answer = browser.ask(&scene, Method::POST, url, &body, lines).await;
        assert_eq!(answer.status(), 403, "{body} {lines:?}");
        assert!(answer.headers().get(header::SET_COOKIE).is_none());
    }
    let get = browser.open(&scene, &format!("{url}?{good}")).await;
    assert!(get.status() == 200 && get.headers().get(header::LOCATION).is_none(), "GET does nothing");
    let honest = browser.ask(&scene, Method::POST, url, &good, &[("sec-fetch-site", "same-origin")]).await;
    assert_eq!(honest.status(), 303);
}

/// G-41, C-56: what comes back is from where the person was sent, an error included.
#[tokio::test]
async fn an_answer_of_another_authorization_server_is_not_redeemed() {
    let scene = Scene::personal().await;
    let mut browser = Browser::of("ann");
    for bad in [
        "code=c0de",
        "code=c0de&iss=https%3A%2F%2Fevil.example",
        "code=c0de&iss=https%3A%2F%2Fas.example%2F",
        "code=c0de&iss=",
        "code=c0de&iss=https%3A%2F%2Fas.example&iss=https%3A%2F%2Fas.example",
        "error=access_denied&error_description=canary&iss=https%3A%2F%2Fevil.example",
        "error=access_denied&error_description=canary&iss=https%3A%2F%2Fas.example",
        "code=a&code=b&iss=https%3A%2F%2Fas.example",
    ] {
        let away = browser.leave(&scene).await;
        let answer = browser.back(&scene, &away, bad).await;
        assert_eq!(answer.status(), 400, "{bad}");
        assert!(!text(&answer).contains("canary"));
    }
    assert!(scene.forms().is_empty());
    browser.link(&scene).await;
}

/// AA-33, G-41: neither of two authorization servers names itself in its answers, and an evil one sends the person on to the
/// honest one, with all that it was told itself. What the honest one answers is not shown to the evil one.
#[tokio::test]
async fn aa_33_what_another_authorization_server_answers_goes_to_nobody() {
    let mut scene = Scene::personal().await;
    scene.means.document = Means::document_below(&scene.means.base);
    let config = toml::from_str("kind = \"user-oauth\"\nscopes = [\"read\"]\n").unwrap();
    scene.made = outbound::credential(&config, &name(), &UP.parse().unwrap(), &scene.means).unwrap();
    let server = |origin: &str, more| {
        let base = json!({
            "issuer": origin, "authorization_endpoint": format!("{origin}/authorize"),
            "token_endpoint": format!("{origin}/token"), "registration_endpoint": format!("{origin}/register"),
            "code_challenge_methods_supported": ["S256"], "client_id_metadata_document_supported": true,
        });
        super::super::scene::merge(base, more)
    };
    let silent = json!({});
    let evil = "https://evil.example";
    let evil_metadata = "https://evil.example/.well-known/oauth-authorization-server";
    scene.net.says(METADATA, 200, server(AS, silent.clone()));
    scene.net.says(evil_metadata, 200, server(evil, silent.clone()));
    let document = "https://gate.example/oauth/client.json";
    // It takes on the name that the gate has everywhere.
    scene.net.says("https://evil.example/register", 201, json!({ "client_id": document }));
    scene.net.says("https://evil.example/token", 200, tokens("evil", json!({})));

    let mut ann_there = Browser::of("ann");
    let honest = ann_there.leave(&scene).await;
    let names = |by| json!({ "resource": UP, "authorization_servers": [by] });
    scene.net.says(RESOURCE_METADATA, 200, names(evil));
    let away = ann_there.leave(&scene).await;
    assert_ne!(
        parameter(&honest, "client_id").unwrap(),
        document,
        "there it would be one client with one address"
    );
    let callbacks = [&honest, &away].map(|url| parameter(url, "redirect_uri").unwrap());
    assert_ne!(callbacks[0], callbacks[1], "one address for each");
    let description = scene.net.posted.lock().unwrap()[0].1.clone();
    let description: serde_json::Value = serde_json::from_str(&description).unwrap();
    assert_eq!(description["redirect_uris"], json!([callbacks[0]]), "the honest one knows no other");
    // It answers at an address it knows: its own, or the one that the gate's document lists.
    for back in [callbacks[0].as_str(), "https://gate.example/connect/callback"] {
        let away = ann_there.leave(&scene).await;
        let state = parameter(&away, "state").unwrap();
        let answer = ann_there.open(&scene, &format!("{back}?state={state}&code=c0de")).await;
        assert_eq!(answer.status(), 400, "{back}");
        let again = ann_there.back(&scene, &away, "code=c0de").await;
        assert_eq!(again.status(), 400, "and the way back is used up");
    }
    // A promise that is taken back opens nothing: who made it sends people to the common address.
    let promise = json!({ "authorization_response_iss_parameter_supported": true });
    scene.net.says(evil_metadata, 200, server(evil, promise));
    let away = ann_there.leave(&scene).await;
    assert_eq!(parameter(&away, "redirect_uri").unwrap(), "https://gate.example/connect/callback");
    scene.net.says(evil_metadata, 200, server(evil, silent));
    assert_eq!(ann_there.back(&scene, &away, "code=c0de").await.status(), 400);
    assert_eq!(scene.net.count("https://evil.example/token"), 0);
    assert!(scene.forms().is_empty(), "no code was ever redeemed");

    scene.net.says(RESOURCE_METADATA, 200, names(AS));
    let away = ann_there.leave(&scene).await;
    let done = ann_there.back(&scene, &away, "code=c0de").await;
    assert_eq!(done.status(), 200, "the honest one is answered: {}", text(&done));
    assert!(scene.forms()[0].contains("redirect_uri=https%3A%2F%2Fgate.example%2Fconnect%2Fcallback%2F"));
}

/// RFC 9728 §3.3: only the operator lets a server speak for more than itself.
#[tokio::test]
async fn a_server_is_what_is_above_it_only_where_the_operator_says_so() {
    let config = "kind = \"user-oauth\"\nscopes = [\"read\"]\ndangerous_parent_resource = true\n";
    let scene = Scene::new(config).await;
    let above = json!({ "resource": "https://up.example", "authorization_servers": [AS] });
    scene.net.says(RESOURCE_METADATA, 200, above);
    let away = Browser::of("ann").leave(&scene).await;
    assert_eq!(parameter(&away, "resource").unwrap(), "https://up.example");
}

/// What was linked before each authorization server had an address of its own goes on.
#[tokio::test]
async fn a_registration_with_another_address_renews_what_was_linked_by_it() {
    let scene = Scene::personal().await;
    Browser::of("ann").link(&scene).await;
    let silent = json!({
        "issuer": AS, "authorization_endpoint": "https://as.example/authorize", "token_endpoint": TOKENS,
        "registration_endpoint": "https://as.example/register", "code_challenge_methods_supported": ["S256"],
    });
    scene.net.says(METADATA, 200, silent);
    scene.net.says(TOKENS, 200, tokens("access-2", json!({})));
    scene.clock.advance(Duration::from_secs(3570));
    assert_eq!(scene.line(&ann()).await.unwrap(), "Bearer access-2");
    let mut bob = Browser::of("bob");
    let away = bob.leave(&scene).await;
    assert_eq!(scene.net.count("https://as.example/register"), 2, "who links now does so by another");
    assert_eq!(bob.back(&scene, &away, "code=c0de").await.status(), 200);
}

/// CD-06, CD-11, C-51, C-53, C-54: a stranger's metadata is believed only as far as it may be.
#[tokio::test]
async fn metadata_that_must_not_be_followed_sends_nobody_anywhere() {
    let scene = Scene::personal().await;
    let honest = scene.net.answers.lock().unwrap().clone();
    let server = |more| {
        let base = json!({
            "issuer": AS, "authorization_endpoint": "https://as.example/authorize", "token_endpoint": TOKENS,
            "registration_endpoint": "https://as.example/register", "code_challenge_methods_supported": ["S256"],
        });
        super::super::scene::merge(base, more)
    };
    let bad = [
        (RESOURCE_METADATA, json!({ "resource": "https://evil.example/mcp", "authorization_servers": [AS] })),
        (
            RESOURCE_METADATA,
            json!({ "resource": "https://up.example/mcp/else", "authorization_servers": [AS] }),
        ),
        (RESOURCE_METADATA, json!({ "resource": "https://up.example", "authorization_servers": [AS] })),
        (RESOURCE_METADATA, json!({ "resource": "https://up.example/mcp/", "authorization_servers": [AS] })),
        (RESOURCE_METADATA, json!({ "resource": UP, "authorization_servers": [] })),
        (RESOURCE_METADATA, json!({ "resource": UP, "authorization_servers": ["file:///etc"] })),
        (METADATA, server(json!({ "issuer": "https://as.example/" }))),
        (METADATA, server(json!({ "code_challenge_methods_supported": ["plain"] }))),
        (METADATA, server(json!({ "code_challenge_methods_supported": null }))),
        (METADATA, server(json!({ "authorization_endpoint": "javascript:alert(1)" }))),
        (METADATA, server(json!({ "authorization_endpoint": "http://as.example/authorize" }))),
        (METADATA, server(json!({ "authorization_endpoint": null }))),
        (METADATA, server(json!({ "token_endpoint": "file:///etc/passwd" }))),
        (METADATA, server(json!({ "registration_endpoint": null }))),
    ];
    let browser = Browser::of("ann");
    let form = format!("csrf={}&do=link", browser.csrf(&scene).await);
    for (url, document) in bad {
        scene.net.says(url, 200, &document);
        let answer = browser.ask(&scene, Method::POST, "https://gate.example/connect/up", &form, &[]).await;
        assert_eq!(answer.status(), 502, "{document}");
        assert!(
            answer.headers().get(header::LOCATION).is_none()
                && answer.headers().get(header::SET_COOKIE).is_none()
        );
        assert!(!text(&answer).contains("evil.example") && !text(&answer).contains("as.example"), "G-26");
        scene.net.answers.lock().unwrap().clone_from(&honest);
    }
    scene.net.challenges.lock().unwrap().insert(UP.to_owned(), "Bearer scope=\"everything\"".to_owned());
    let greedy = browser.ask(&scene, Method::POST, "https://gate.example/connect/up", &form, &[]).await;
    assert_eq!(greedy.status(), 502, "the operator does not let people be asked for that");
    scene.net.challenges.lock().unwrap().clear();
    Browser::of("ann").link(&scene).await;
    let asked = scene.net.asked.lock().unwrap();
    let foreign: Vec<_> = asked.iter().filter(|(url, _)| url.starts_with(AS)).collect();
    assert!(
        !foreign.is_empty() && foreign.iter().all(|(_, by)| *by == NamedBy::Issuer),
        "public addresses only"
    );
}

#[tokio::test]
async fn a_grant_is_renewed_once_for_all_who_wait_and_its_refresh_token_rotates() {
    let scene = Scene::personal().await;
    Browser::of("ann").link(&scene).await;
    scene.net.says(TOKENS, 200, tokens("access-2", json!({ "refresh_token": "refresh-2" })));
    scene.clock.advance(Duration::from_secs(3570));
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let credential = scene.credential();
        running.spawn(async move { credential.headers(Some(&ann().into())).await.unwrap() });
    }
    while let Some(done) = running.join_next().await {
        assert_eq!(done.unwrap()[header::AUTHORIZATION], "Bearer access-2");
    }
    let refreshed = |scene: &Scene| {
        scene.forms().into_iter().filter(|f| f.contains("refresh_token&")).collect::<Vec<_>>()
    };
    assert_eq!(
        refreshed(&scene),
        ["grant_type=refresh_token&refresh_token=refresh-1&resource=https%3A%2F%2Fup.example%2Fmcp"]
    );
    // A server that rotates nothing keeps its token; one that fails loses nothing.
    scene.net.says(TOKENS, 503, "");
    scene.clock.advance(Duration::from_secs(3570));
    assert!(matches!(scene.line(&ann()).await, Err(Unobtainable::Failed(_))));
    scene.net.says(TOKENS, 200, tokens("access-3", json!({})));
    assert_eq!(scene.line(&ann()).await.unwrap(), "Bearer access-3");
    scene.clock.advance(Duration::from_secs(3570));
    scene.net.says(TOKENS, 400, json!({ "error": "invalid_grant" }));
    needs_linking(scene.line(&ann()).await);
    let count = refreshed(&scene).len();
    assert!(refreshed(&scene)[1..].iter().all(|form| form.contains("refresh-2")));
    needs_linking(scene.line(&ann()).await);
    assert_eq!(refreshed(&scene).len(), count, "a grant that is over is not asked about again");
    scene.net.says(TOKENS, 200, tokens("access-4", json!({})));
    Browser::of("ann").link(&scene).await;
    assert_eq!(scene.line(&ann()).await.unwrap(), "Bearer access-4");
}

#[tokio::test]
async fn a_refused_token_is_renewed_and_never_shown_to_another_authorization_server() {
    let scene = Scene::personal().await;
    Browser::of("ann").link(&scene).await;
    assert_eq!(scene.refused(&ann(), 401, "Bearer").await, Ok(Retry::No), "a fresh one would be refused too");
    scene.clock.advance(Duration::from_secs(20));
    scene.net.says(TOKENS, 200, tokens("access-2", json!({})));
    assert_eq!(scene.refused(&ann(), 401, "Bearer").await, Ok(Retry::Once));
    assert_eq!(scene.line(&ann()).await.unwrap(), "Bearer access-2");

    // C-58: the server moves to another authorization server.
    scene.clock.advance(Duration::from_secs(20));
    let moved = json!({ "resource": UP, "authorization_servers": ["https://new.example"] });
    scene.net.says(RESOURCE_METADATA, 200, moved);
    let count = scene.forms().len();
    needs_linking(scene.refused(&ann(), 401, "Bearer").await);
    needs_linking(scene.line(&ann()).await);
    assert_eq!(scene.forms().len(), count);
    scene.net.says(
        "https://new.example/.well-known/oauth-authorization-server",
        200,
        json!({
            "issuer": "https://new.example", "authorization_endpoint": "https://new.example/a",
            "token_endpoint": "https://new.example/t", "registration_endpoint": "https://new.example/r",
            "code_challenge_methods_supported": ["S256"],
        }),
    );
    scene.net.says("https://new.example/r", 201, json!({ "client_id": "gate-at-new" }));
    let mut browser = Browser::of("ann");
    let away = browser.leave(&scene).await;
    assert_eq!(parameter(&away, "client_id").unwrap(), "gate-at-new");
    let posted = scene.net.posted.lock().unwrap().clone();
    assert!(posted.iter().all(|(_, body)| !body.contains("gate-at-new")));
}

#[tokio::test]
async fn more_is_asked_for_only_as_the_operator_allows_and_only_once() {
    let scene = Scene::personal().await;
    scene.net.challenges.lock().unwrap().insert(UP.to_owned(), "Bearer scope=\"read\"".to_owned());
    let mut browser = Browser::of("ann");
    browser.link(&scene).await;
    let more = "Bearer error=\"insufficient_scope\", scope=\"write\"";
    assert!(matches!(
        scene.refused(&ann(), 403, "Bearer error=\"insufficient_scope\", scope=\"read everything\"").await,
        Err(Unobtainable::Failed(why)) if why.contains("everything")
    ));
    assert_eq!(scene.refused(&ann(), 403, "Bearer").await, Ok(Retry::No));
    needs_linking(scene.refused(&ann(), 403, more).await);
    assert_eq!(scene.line(&ann()).await.unwrap(), "Bearer access-1", "what was granted stays");
    let away = browser.leave(&scene).await;
    assert_eq!(parameter(&away, "scope").unwrap(), "read write", "C-63: both, not the new one alone");
    assert_eq!(browser.back(&scene, &away, GOOD).await.status(), 200);
    assert_eq!(scene.refused(&ann(), 403, more).await, Ok(Retry::No), "no going round in circles");
}

#[tokio::test]
async fn a_servers_metadata_is_where_it_says_and_one_persons_need_is_not_anothers() {
    let scene = Scene::personal().await;
    Browser::of("ann").link(&scene).await;
    let elsewhere = "https://up.example/metadata";
    scene.net.says(RESOURCE_METADATA, 404, "");
    scene.net.says(elsewhere, 200, json!({ "resource": UP, "authorization_servers": [AS] }));
    let refusal =
        format!("Bearer error=\"insufficient_scope\", scope=\"write\", resource_metadata=\"{elsewhere}\"");
    assert_eq!(scene.refused(&ann(), 403, &refusal).await, Ok(Retry::No), "all was asked for already");
    let away = Browser::of("bob").leave(&scene).await;
    assert_eq!(parameter(&away, "scope").unwrap(), "read write");
    assert_eq!(scene.net.count(elsewhere), 1);
}

#[tokio::test]
async fn what_was_granted_is_on_record_and_the_gate_registers_once() {
    let scene = Scene::personal().await;
    scene.net.says(TOKENS, 200, tokens("access-1", json!({ "scope": "read" })));
    for subject in ["ann", "bob"] {
        Browser::of(subject).link(&scene).await;
    }
    let listed = scene.means.links.of_person("https://id.example", "ann").await.unwrap();
    assert_eq!((listed[0].scopes.clone(), listed[0].upstream.as_str()), (vec!["read".to_owned()], AS));
    assert_eq!(scene.net.count("https://as.example/register"), 1);
    let registration = scene.net.posted.lock().unwrap()[0].1.clone();
    let registration: serde_json::Value = serde_json::from_str(&registration).unwrap();
    assert_eq!(registration["application_type"], "web");
    assert_eq!(registration["redirect_uris"], json!(["https://gate.example/connect/callback"]));
}

#[tokio::test]
async fn our_document_says_who_we_are_where_one_is_taken() {
    let mut scene = Scene::personal().await;
    scene.means.document = Means::document_below(&scene.means.base);
    let config = toml::from_str("kind = \"user-oauth\"\nscopes = [\"read\"]\n").unwrap();
    scene.made = outbound::credential(&config, &name(), &UP.parse().unwrap(), &scene.means).unwrap();
    let headers = HeaderMap::new();
    let ask = |path| {
        let asked = Asked {
            method: &Method::GET,
            path,
            query: None,
            headers: &headers,
            body: b"",
            peer: [127, 0, 0, 1].into(),
            is_tls: true,
        };
        scene.linking().document(&asked)
    };
    assert!(ask("/oauth/client.jsonx").is_none());
    let document: serde_json::Value =
        serde_json::from_slice(ask("/oauth/client.json").unwrap().body()).unwrap();
    assert_eq!(document["client_id"], "https://gate.example/oauth/client.json");
    let mut browser = Browser::of("ann");
    assert_eq!(
        parameter(&browser.leave(&scene).await, "client_id").unwrap(),
        "gate",
        "it is not taken there"
    );
    let takes = json!({
        "issuer": AS, "authorization_endpoint": "https://as.example/a", "token_endpoint": TOKENS,
        "code_challenge_methods_supported": ["S256"], "client_id_metadata_document_supported": true,
        "authorization_response_iss_parameter_supported": true,
    });
    scene.net.says(METADATA, 200, takes);
    let away = browser.leave(&scene).await;
    assert_eq!(parameter(&away, "client_id").unwrap(), "https://gate.example/oauth/client.json");
}
