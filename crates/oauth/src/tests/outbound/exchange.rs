//! Tokens that are exchanged for callers' own (RFC 8693; Entra's on-behalf-of; attacks.md TP-01, TP-02, AA-32).

use std::{collections::BTreeSet, time::Duration};

use bartizan_store::provider_tokens::SignIn;

use super::*;
use crate::{
    Denied, DenyList, Principal, StepUp, VerifiedToken,
    binding::Binding,
    cache::CacheKey,
    outbound::{Asking, EntraAppConfig, token::Tokens},
    token::{Authentication, Identity, Ours},
};

const GATE: &str = "https://gate.example/mcp/up";
const STS: &str = "https://sts.example/token";
const EXCHANGE: &str = "kind = \"token-exchange\"\nclient_id = \"gate\"\nclient_secret = { env = \"S\" }\ntoken_url = \"https://sts.example/token\"\n\
     scopes = [\"read\"]\n";
const TENANT: &str = "11111111-2222-3333-4444-555555555555";
const V2: &str = "https://login.microsoftonline.com/11111111-2222-3333-4444-555555555555/v2.0";
const ENTRA: &str =
    "https://login.microsoftonline.com/11111111-2222-3333-4444-555555555555/oauth2/v2.0/token";
const OBO: &str = "kind = \"entra-obo\"\nscopes = [\"api://up/.default\"]\n";
const ACCESS: &str = "urn:ietf:params:oauth:token-type:access_token";

fn app() -> EntraAppConfig {
    let credential = "{ method = \"client_secret_post\", secret = { env = \"S\" } }";
    toml::from_str(&format!("tenant = \"{TENANT}\"\nclient_id = \"gate\"\ncredential = {credential}"))
        .unwrap()
}

/// A scene in which callers' tokens are kept, and what is on the deny list.
async fn scene(config: &str) -> (Scene, Arc<DenyList>) {
    let mut scene = Scene::new(EXCHANGE).await;
    let denied = Arc::<DenyList>::default();
    scene.means.subjects = Arc::new(SubjectTokens::new(Arc::clone(&denied), scene.clock.clone()));
    scene.means.subjects.keep_for([GATE.to_owned()]);
    scene.means.provider = Some(app());
    let config = toml::from_str(config).unwrap();
    scene.made = outbound::credential(&config, &name(), &UP.parse().unwrap(), &scene.means).unwrap();
    (scene, denied)
}

fn verified(issuer: &str, subject: &str, token: &str) -> VerifiedToken {
    VerifiedToken {
        resource: GATE.to_owned(),
        audience: vec![GATE.to_owned()],
        identity: Identity {
            caller: Caller::new(issuer, subject, "editor"),
            principal: Principal::User,
            scopes: BTreeSet::new(),
            roles: BTreeSet::new(),
            groups: BTreeSet::new(),
            groups_elsewhere: false,
            reads_claims_challenges: true,
            ours: None,
        },
        authentication: Authentication::default(),
        binding: Binding::default(),
        token_id: None,
        issued_at: Timestamp::from_unix(NOW - 10),
        expires_at: Timestamp::from_unix(NOW + 600),
        shown: Some(CacheKey::new(token, GATE)),
        bearer: None,
    }
}

/// Somebody who came in by `token`, which says this.
fn came(scene: &Scene, token: &str, verified: VerifiedToken) -> Asking {
    let verified = Arc::new(verified);
    scene.means.subjects.keep(token, &verified);
    Asking::new(Arc::new(verified.caller().clone()), Some(verified))
}

fn of(scene: &Scene, subject: &str, token: &str) -> Asking {
    came(scene, token, verified("https://id.example", subject, token))
}

async fn line(scene: &Scene, asking: &Asking) -> Result<String, Unobtainable> {
    let headers = scene.credential().headers(Some(asking)).await?;
    let line = headers.get(header::AUTHORIZATION).unwrap();
    assert!(line.is_sensitive());
    Ok(line.to_str().unwrap().to_owned())
}

fn given(access: &str, more: serde_json::Value) -> serde_json::Value {
    tokens(access, super::super::scene::merge(json!({ "issued_token_type": ACCESS }), more))
}

fn form(text: &str) -> std::collections::BTreeMap<String, String> {
    url::form_urlencoded::parse(text.as_bytes()).into_owned().collect()
}

#[tokio::test]
async fn a_token_is_exchanged_once_for_its_person_and_no_longer_than_it_is_good() {
    let (scene, _) = scene(EXCHANGE).await;
    scene.net.says(STS, 200, given("up-ann", json!({})));
    let ann = of(&scene, "ann", "inbound-ann");
    let both = tokio::join!(line(&scene, &ann), line(&scene, &ann));
    assert_eq!(both, (Ok("Bearer up-ann".to_owned()), Ok("Bearer up-ann".to_owned())));
    let forms = scene.forms();
    assert_eq!(forms.len(), 1, "one asks, the other waits");
    let asked = form(&forms[0]);
    assert_eq!(asked["grant_type"], "urn:ietf:params:oauth:grant-type:token-exchange");
    assert_eq!((&*asked["subject_token"], &*asked["subject_token_type"]), ("inbound-ann", ACCESS));
    assert_eq!((&*asked["resource"], &*asked["scope"]), (UP, "read"));
    // Another person, and the same one with another token, are asked for anew.
    scene.net.says(STS, 200, given("up-bob", json!({})));
    assert_eq!(line(&scene, &of(&scene, "bob", "inbound-bob")).await.unwrap(), "Bearer up-bob");
    scene.net.says(STS, 200, given("up-ann-2", json!({})));
    assert_eq!(line(&scene, &of(&scene, "ann", "inbound-ann-2")).await.unwrap(), "Bearer up-ann-2");
    assert_eq!(line(&scene, &ann).await.unwrap(), "Bearer up-ann");
    assert_eq!(scene.forms().len(), 3);
    scene.clock.advance(Duration::from_secs(600));
    assert!(matches!(line(&scene, &ann).await, Err(Unobtainable::Failed(_))), "the inbound token is over");
    scene.means.subjects.sweep();
    assert!(scene.means.subjects.is_empty());
    assert_eq!(scene.forms().len(), 3);
}

#[tokio::test]
async fn a_token_that_was_taken_back_is_exchanged_no_more_and_its_exchange_is_over() {
    let (scene, denied) = scene(EXCHANGE).await;
    scene.net.says(STS, 200, given("up-ann", json!({})));
    let (ann, bob) = (of(&scene, "ann", "inbound-ann"), of(&scene, "bob", "inbound-bob"));
    assert!(line(&scene, &ann).await.is_ok() && line(&scene, &bob).await.is_ok());
    let now = Timestamp::from_unix(NOW);
    let gone = Denied::Subject { issuer: "https://id.example".into(), subject: "ann".into() };
    denied.deny(gone, now, now.plus(Duration::from_secs(600)), now);
    assert!(matches!(line(&scene, &ann).await, Err(Unobtainable::Failed(_))));
    assert!(line(&scene, &bob).await.is_ok(), "the honest neighbour");
    scene.means.subjects.sweep();
    assert_eq!(scene.means.subjects.len(), 1);
    scene.means.subjects.keep_for([]);
    assert!(scene.means.subjects.is_empty(), "nothing is kept that nobody needs");
}

#[tokio::test]
async fn who_came_without_a_token_and_the_gate_itself_have_nothing_to_exchange() {
    let (scene, _) = scene(EXCHANGE).await;
    assert_eq!(scene.credential().headers(None).await, Err(Unobtainable::Nobody));
    let owner = Asking::from(Caller::local_owner());
    assert!(matches!(line(&scene, &owner).await, Err(Unobtainable::NotForCaller(_))));
    // A token speaks for nobody but whom it names.
    let anns = Arc::new(verified("https://id.example", "ann", "inbound-ann"));
    scene.means.subjects.keep("inbound-ann", &anns);
    let bob = Asking::new(Arc::new(caller("https://id.example", "bob")), Some(anns));
    assert!(matches!(line(&scene, &bob).await, Err(Unobtainable::NotForCaller(_))));
    assert!(scene.credential().is_personal() && scene.forms().is_empty());
    let elsewhere = VerifiedToken {
        resource: "https://gate.example/mcp/other".into(),
        ..verified("https://id.example", "ann", "inbound-else")
    };
    let elsewhere = came(&scene, "inbound-else", elsewhere);
    assert!(matches!(line(&scene, &elsewhere).await, Err(Unobtainable::Failed(_))), "it was never kept");
}

#[tokio::test]
async fn an_answer_that_is_no_token_of_the_servers_is_none() {
    let (scene, _) = scene(EXCHANGE).await;
    let bad = [
        (200, given("inbound-0", json!({}))),
        (200, given("x inbound-1 y", json!({}))),
        (200, given("up", json!({ "issued_token_type": null }))),
        (200, given("up", json!({ "issued_token_type": "urn:ietf:params:oauth:token-type:id_token" }))),
        (200, given("up", json!({ "issued_token_type": "urn:ietf:params:oauth:token-type:refresh_token" }))),
        (200, given("up", json!({ "token_type": "N_A" }))),
        (200, given("up\r\nX-Evil: 1", json!({}))),
        (400, json!({ "error": "invalid_grant" })),
        (400, json!({ "error": "invalid_target" })),
        (500, json!({})),
    ];
    for (at, (status, body)) in bad.into_iter().enumerate() {
        scene.net.says(STS, status, &body);
        let asking = of(&scene, "ann", &format!("inbound-{at}"));
        assert!(matches!(line(&scene, &asking).await, Err(Unobtainable::Failed(_))), "{body}");
        let before = scene.forms().len();
        assert!(line(&scene, &asking).await.is_err());
        assert_eq!(scene.forms().len(), before, "a failure rests");
    }
    scene.net.says(STS, 200, given("up", json!({})));
    assert!(line(&scene, &of(&scene, "ann", "inbound-good")).await.is_ok(), "the honest neighbour");
}

#[tokio::test]
async fn only_tokens_of_the_named_issuers_are_shown() {
    let (scene, _) = scene(&format!("{EXCHANGE}subject_issuers = [\"https://id.example\"]\n")).await;
    scene.net.says(STS, 200, given("up", json!({})));
    let other = came(&scene, "inbound-other", verified("https://other.example", "ann", "inbound-other"));
    assert!(matches!(line(&scene, &other).await, Err(Unobtainable::NotForCaller(_))));
    assert!(scene.forms().is_empty());
    assert!(line(&scene, &of(&scene, "ann", "inbound-ann")).await.is_ok());
}

#[tokio::test]
async fn on_behalf_of_is_asked_as_entra_wants_it_and_relays_its_challenge() {
    let (scene, _) = scene(OBO).await;
    let ann = came(&scene, "entra-token", verified(V2, "ann", "entra-token"));
    scene.net.says(ENTRA, 200, tokens("up-ann", json!({})));
    assert_eq!(line(&scene, &ann).await.unwrap(), "Bearer up-ann");
    let asked = form(&scene.forms()[0]);
    for (name, value) in [
        ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
        ("requested_token_use", "on_behalf_of"),
        ("assertion", "entra-token"),
        ("scope", "api://up/.default"),
        ("client_id", "gate"),
        ("client_secret", "vaulted"),
    ] {
        assert_eq!(asked[name], value, "{name}");
    }
    assert!(!asked.contains_key("resource") && !asked.contains_key("claims"));
    // The server wants to see more; so does Entra, and the client hears of it.
    let wanted = r#"{"access_token":{"acrs":{"essential":true,"value":"c1"}}}"#;
    let challenge = "Bearer error=\"insufficient_claims\", claims=\"eyJhY2Nlc3NfdG9rZW4iOnsiYWNycyI6eyJlc3NlbnRpYWwiOnRydWUsInZhbHVlIjoiYzEifX19\"";
    let shown = scene.credential().headers(Some(&ann)).await.unwrap();
    let mut answer = HeaderMap::new();
    answer.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    let refused = Refused { status: 401, answer: &answer, shown: &shown };
    assert_eq!(scene.credential().challenged(Some(&ann), refused).await, Ok(Retry::Once));
    scene.net.says(ENTRA, 400, json!({ "error": "interaction_required", "claims": wanted }));
    let stepped = line(&scene, &ann).await;
    assert_eq!(stepped, Err(Unobtainable::StepUp(StepUp::Claims(wanted.to_owned()))));
    assert_eq!(form(scene.forms().last().unwrap())["claims"], wanted);
    // Whoever comes back with a token that shows it is served.
    scene.net.says(ENTRA, 200, tokens("up-ann-2", json!({})));
    let again = came(&scene, "entra-token-2", verified(V2, "ann", "entra-token-2"));
    assert_eq!(line(&scene, &again).await.unwrap(), "Bearer up-ann-2");
    scene.net.says(ENTRA, 400, json!({ "error": "invalid_grant", "suberror": "consent_required" }));
    let third = came(&scene, "entra-token-3", verified(V2, "ann", "entra-token-3"));
    assert!(matches!(line(&scene, &third).await, Err(Unobtainable::NotForCaller(_))));
}

#[tokio::test]
async fn aa_32_nobody_is_acted_for_but_people_of_the_tenant() {
    let (scene, _) = scene(OBO).await;
    scene.net.says(ENTRA, 200, tokens("up", json!({})));
    let mut workload = verified(V2, "workload", "app-token");
    workload.identity.principal = Principal::Application;
    let workload = came(&scene, "app-token", workload);
    let stranger = came(&scene, "other-token", verified("https://other.example", "ann", "other-token"));
    for asking in [&workload, &stranger] {
        assert!(matches!(line(&scene, asking).await, Err(Unobtainable::NotForCaller(_))));
    }
    assert!(scene.forms().is_empty(), "their tokens are shown to nobody");
    assert!(line(&scene, &came(&scene, "t", verified(V2, "ann", "t"))).await.is_ok());
}

#[tokio::test]
async fn behind_our_own_tokens_stands_what_a_sign_in_left() {
    let (scene, _) = scene(OBO).await;
    let mut ours = verified(V2, "ann", "our-token");
    let of_sign_in = |id: &str| {
        Some(Ours { issuer: "https://gate.example".into(), grant: None, sign_in: Some(id.to_owned()) })
    };
    ours.identity.ours = of_sign_in("first");
    let ann = came(&scene, "our-token", ours.clone());
    let again = Err(Unobtainable::StepUp(StepUp::sign_in_again()));
    assert_eq!(line(&scene, &ann).await, again, "nothing was left yet");
    let left = |access: &str, refresh: Option<&str>, seconds: u64| Tokens {
        access: Secret::new(access.to_owned()),
        refresh: refresh.map(|refresh| Secret::new(refresh.to_owned())),
        until: scene.clock.now().plus(Duration::from_secs(seconds)),
        scopes: None,
        issued: None,
    };
    let assertions = &scene.means.assertions;
    let first = SignIn { issuer: V2.to_owned(), subject: "ann".to_owned(), id: "first".to_owned() };
    assertions.keep(&first, &left("entra-1", Some("refresh-1"), 100)).await.unwrap();
    scene.clock.advance(Duration::from_secs(6));
    scene.net.says(ENTRA, 200, tokens("up-ann", json!({ "expires_in": 200 })));
    assert_eq!(line(&scene, &ann).await.unwrap(), "Bearer up-ann");
    assert_eq!(form(&scene.forms()[0])["assertion"], "entra-1", "never the gate's own token");
    // It is renewed by its refresh token when it is over.
    scene.clock.advance(Duration::from_secs(200));
    scene.net.says(ENTRA, 200, tokens("entra-2", json!({ "refresh_token": "refresh-2" })));
    let renewed = line(&scene, &ann).await;
    let forms: Vec<_> = scene.forms().iter().map(|text| form(text)).collect();
    assert_eq!((&*forms[1]["grant_type"], &*forms[1]["refresh_token"]), ("refresh_token", "refresh-1"));
    assert_eq!(forms[1]["scope"], "gate/.default offline_access");
    assert_eq!(forms[2]["assertion"], "entra-2");
    // The table of the network gives the second question the same answer: the assertion itself, which is never shown on.
    assert!(matches!(renewed, Err(Unobtainable::Failed(_))));
    // Another person's is nothing.
    let mut bobs = verified(V2, "bob", "our-other-token");
    bobs.identity.ours = ours.identity.ours.clone();
    assert_eq!(line(&scene, &came(&scene, "our-other-token", bobs)).await, again);
    // What the same person showed at another sign-in, for another client, lifts nothing.
    let mut elsewhere = verified(V2, "ann", "our-third-token");
    elsewhere.identity.ours = of_sign_in("second");
    assert_eq!(line(&scene, &came(&scene, "our-third-token", elsewhere)).await, again);
    let mut older = verified(V2, "ann", "our-fourth-token");
    older.identity.ours = Some(Ours { issuer: "https://gate.example".into(), grant: None, sign_in: None });
    assert_eq!(line(&scene, &came(&scene, "our-fourth-token", older)).await, again);
    // A sign-in that is over is done again, and what was forgotten is gone.
    assertions.keep(&first, &left("entra-3", Some("refresh-3"), 0)).await.unwrap();
    scene.net.says(ENTRA, 400, json!({ "error": "invalid_grant" }));
    scene.clock.advance(Duration::from_secs(6));
    assert_eq!(line(&scene, &ann).await, again);
    assertions.keep(&first, &left("entra-4", None, 300)).await.unwrap();
    assertions.forget(V2, "ann").await.unwrap();
    scene.clock.advance(Duration::from_secs(6));
    assert_eq!(line(&scene, &ann).await, again);
    let kept = std::fs::read(scene.folder.path().join("store.db")).unwrap();
    assert!(!kept.windows(7).any(|window| window == b"entra-1"), "sealed at rest");
}
