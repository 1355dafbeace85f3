//! Sign-in at Microsoft Entra ID (attacks.md §2.2; AA-13, AA-14).

use std::{collections::BTreeSet, sync::Arc};

use bartizan_model::Caller;
use bartizan_store::{ProviderTokens, provider_tokens::SignIn};
use serde_json::{Value, json};

use super::scene::{Browser, Departure, PUBLIC, Scene};
use crate::{
    GroupSource, Resolving,
    tests::scene::{NOW, Signer, merge},
};

const TENANT: &str = "11111111-2222-3333-4444-555555555555";
const V2: &str = "https://login.microsoftonline.com/11111111-2222-3333-4444-555555555555/v2.0";

struct Directory(Option<&'static str>);

impl GroupSource for Directory {
    fn groups_of<'a>(&'a self, caller: &'a Caller) -> Resolving<'a> {
        let found = self.0.filter(|_| caller.subject() == "person" && caller.issuer() == V2);
        Box::pin(async move { found.map(|group| BTreeSet::from([group.to_owned()])) })
    }
}

async fn scene_of(more: &str, groups: Option<Arc<dyn GroupSource>>) -> Scene {
    scene_keeping(more, groups, false).await
}

async fn scene_keeping(more: &str, groups: Option<Arc<dyn GroupSource>>, keeps: bool) -> Scene {
    let config = format!(
        "kind = \"entra\"\ntenant = \"{TENANT}\"\nclient_id = \"gate\"\n{more}\n\
         credential = {{ method = \"client_secret_post\", secret = {{ env = \"SECRET\" }} }}"
    );
    let scene = Scene::build_keeping(PUBLIC, Some(&config), groups, "s3cret & more", keeps).await;
    let scene = scene.map_err(|problems| problems.join("\n")).unwrap();
    let base = "https://login.microsoftonline.com/11111111-2222-3333-4444-555555555555";
    // As Entra's: no `code_challenge_methods_supported`, no word of `iss`, keys without an algorithm.
    scene.net.says(
        &format!("{V2}/.well-known/openid-configuration"),
        200,
        json!({
            "issuer": V2, "authorization_endpoint": format!("{base}/oauth2/v2.0/authorize"),
            "token_endpoint": format!("{base}/oauth2/v2.0/token"), "jwks_uri": format!("{base}/discovery/v2.0/keys"),
        }),
    );
    let key = Signer::rs256().jwk_with(json!({ "kid": "k1", "use": "sig", "x5c": ["MIIC"], "issuer": V2 }));
    scene.net.says(&format!("{base}/discovery/v2.0/keys"), 200, json!({ "keys": [key] }));
    scene
}

/// Signs somebody in whose ID token differs from a member's by `claims`; answers the reason.
async fn sign_in(scene: &Scene, claims: Value) -> &'static str {
    let mut browser = Browser::new(scene);
    let departure = browser.allow("").await;
    vouch(scene, &departure, claims);
    browser
        .get(&format!("/oauth/callback?state={}&code=c&session_state=s", departure.of("state")))
        .await
        .reason
}

fn vouch(scene: &Scene, departure: &Departure, claims: Value) {
    let member = json!({
        "ver": "2.0", "iss": V2, "aud": "gate", "tid": TENANT, "oid": "person", "sub": "pairwise",
        "preferred_username": "ann@corp.example", "name": "Ann", "nonce": departure.of("nonce"),
        "iat": NOW, "nbf": NOW, "exp": NOW + 3600, "roles": ["reader"], "groups": ["g1"],
    });
    let header = json!({ "typ": "JWT", "alg": "RS256", "kid": "k1" });
    let token = Signer::rs256().token(&header, &merge(member, claims));
    scene.net.says(
        "https://login.microsoftonline.com/11111111-2222-3333-4444-555555555555/oauth2/v2.0/token",
        200,
        json!({ "token_type": "Bearer", "id_token": token }),
    );
}

#[tokio::test]
async fn a_person_is_their_object_in_the_tenant() {
    let scene = scene_of("", None).await;
    assert_eq!(sign_in(&scene, json!({ "acrs": ["c1", "p1"] })).await, "consent.granted");
    let granted = scene.desk.granted.lock().unwrap();
    let person = &granted[0].1;
    assert_eq!(
        (person.issuer.as_str(), person.subject.as_str()),
        (V2, "person"),
        "AA-14: never `sub` or a name"
    );
    assert_eq!(person.contexts, ["c1", "p1"]);
    assert_eq!(
        (person.roles.clone(), person.groups.clone()),
        (BTreeSet::from(["reader".into()]), BTreeSet::from(["g1".into()]))
    );
    let (authorization, form) = scene.net.posted.lock().unwrap()[0].clone();
    assert_eq!(authorization, "");
    assert!(form.contains("client_id=gate") && form.contains("client_secret=s3cret+%26+more"), "{form}");
}

#[tokio::test]
async fn strangers_to_the_tenant_stay_outside() {
    let scene = scene_of("", None).await;
    for (claims, reason) in [
        (json!({ "tid": "9188040d-6c67-4c5b-b112-36a304b66dad" }), "token.tenant"),
        (json!({ "tid": null }), "token.claim-missing"),
        (json!({ "oid": null }), "token.claim-missing"),
        (json!({ "ver": "1.0" }), "token.claim-malformed"),
        (json!({ "idp": "live.com" }), "token.guest"),
        (json!({ "idp": "https://sts.windows.net/9188040d-6c67-4c5b-b112-36a304b66dad/" }), "token.guest"),
        (json!({ "acct": 1 }), "token.guest"),
        (json!({ "iss": "https://login.microsoftonline.com/common/v2.0" }), "token.issuer"),
        (json!({ "aud": "other" }), "token.audience"),
    ] {
        assert_eq!(sign_in(&scene, claims.clone()).await, reason, "{claims}");
    }
    assert_eq!(scene.granted(), 0);
    for member in [json!({ "idp": V2 }), json!({ "acct": 0 })] {
        assert_eq!(sign_in(&scene, member).await, "consent.granted");
    }
    let open = scene_of("allow_guests = true", None).await;
    assert_eq!(sign_in(&open, json!({ "idp": "live.com" })).await, "consent.granted");
}

#[tokio::test]
async fn groups_that_are_left_out_are_looked_up_or_the_person_is_refused() {
    let overage =
        || json!({ "groups": null, "_claim_names": { "groups": "src1" }, "_claim_sources": { "src1": {} } });
    for groups in [None, Some(Directory(None))] {
        let scene = scene_of("", groups.map(|groups| Arc::new(groups) as Arc<dyn GroupSource>)).await;
        assert_eq!(sign_in(&scene, overage()).await, "token.groups-unknown");
        assert_eq!(
            sign_in(&scene, json!({ "groups": null, "hasgroups": "true" })).await,
            "token.groups-unknown"
        );
        assert_eq!(scene.granted(), 0);
    }
    let scene = scene_of("", Some(Arc::new(Directory(Some("g201"))))).await;
    assert_eq!(sign_in(&scene, overage()).await, "consent.granted");
    assert_eq!(scene.desk.granted.lock().unwrap()[0].1.groups, BTreeSet::from(["g201".to_owned()]));
}

#[tokio::test]
async fn a_claims_challenge_is_relayed_and_a_resource_never() {
    let scene = scene_of("", None).await;
    let mut browser = Browser::new(&scene);
    let challenge = r#"{"access_token":{"acrs":{"essential":true,"value":"c1"},"nbf":{"value":"1"}}}"#;
    let encoded: String = url::form_urlencoded::byte_serialize(challenge.as_bytes()).collect();
    let departure = browser.allow(&format!("claims={encoded}")).await;
    let relayed: Value = serde_json::from_str(&departure.of("claims")).unwrap();
    let asked: Value = serde_json::from_str(challenge).unwrap();
    assert_eq!(relayed["access_token"], asked["access_token"]);
    assert_eq!(relayed["id_token"], json!({ "acrs": { "essential": true, "value": "c1" } }));
    assert_eq!(departure.find("resource"), None);
    assert_eq!(departure.of("scope"), "openid profile");

    let departure = browser.allow("acr_values=c2").await;
    let claims: Value = serde_json::from_str(&departure.of("claims")).unwrap();
    assert_eq!(claims, json!({ "id_token": { "acrs": { "essential": true, "values": ["c2"] } } }));
    assert_eq!(departure.find("acr_values"), None);
    for nothing in ["acr_values=urn:high", "claims=%5B%5D", "claims=nonsense", ""] {
        assert_eq!(browser.allow(nothing).await.find("claims"), None, "{nothing}");
    }
}

/// For acting in people's names (`entra-obo`); nowhere else does anything of the provider's tokens stay.
#[tokio::test]
async fn a_sign_in_leaves_a_token_for_the_gate_only_where_somebody_acts_by_it() {
    for keeps in [false, true] {
        let scene = scene_keeping("", None, keeps).await;
        let mut browser = Browser::new(&scene);
        let departure = browser.allow("").await;
        let scope = departure.of("scope");
        assert_eq!(scope.contains("offline_access gate/.default"), keeps, "{scope}");
        let token = Signer::rs256().token(
            &json!({ "typ": "JWT", "alg": "RS256", "kid": "k1" }),
            &json!({
                "ver": "2.0", "iss": V2, "aud": "gate", "tid": TENANT, "oid": "person", "sub": "pairwise",
                "nonce": departure.of("nonce"), "iat": NOW, "nbf": NOW, "exp": NOW + 3600,
            }),
        );
        scene.net.says(
            "https://login.microsoftonline.com/11111111-2222-3333-4444-555555555555/oauth2/v2.0/token",
            200,
            json!({
                "token_type": "Bearer", "id_token": token, "access_token": "for-the-gate", "refresh_token": "refresh",
                "expires_in": 3600,
            }),
        );
        let back = format!("/oauth/callback?state={}&code=c", departure.of("state"));
        assert_eq!(browser.get(&back).await.reason, "consent.granted");
        let id = scene.desk.granted.lock().unwrap().last().unwrap().1.sign_in.clone();
        assert_eq!(id.is_some(), keeps, "what came of it says which sign-in it goes back to");
        let of = |subject: &str, id: &str| SignIn {
            issuer: V2.to_owned(),
            subject: subject.to_owned(),
            id: id.to_owned(),
        };
        if let Some(id) = id {
            let left = scene.left.of(&of("person", &id)).await.unwrap().unwrap();
            let text = left.content.reveal().to_owned();
            assert!(
                text.contains("for-the-gate") && text.contains("refresh"),
                "sealed in the store, whole here"
            );
            assert!(scene.left.of(&of("somebody else", &id)).await.unwrap().is_none());
            assert!(scene.left.of(&of("person", "another")).await.unwrap().is_none());
        }
    }
}
