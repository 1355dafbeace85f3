//! Tokens of Microsoft Entra ID (attacks.md §2.2; AA-04, AA-12 to AA-14, AA-32).

use std::{collections::BTreeSet, sync::Arc};

use bartizan_model::Caller;
use serde_json::{Value, json};

use super::scene::{NOW, RESOURCE, Scene, Signer, merge, resource};
use crate::{AuthenticationRequired, Error, GroupSource, Principal, Resolving, StepUp, VerifiedToken};

const TENANT: &str = "11111111-2222-3333-4444-555555555555";
const API: &str = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee";
const V2: &str = "https://login.microsoftonline.com/11111111-2222-3333-4444-555555555555/v2.0";
const V1: &str = "https://sts.windows.net/11111111-2222-3333-4444-555555555555/";
const BOTH: &str = "versions = [\"v1\", \"v2\"]";

fn scene_of(more: &str, required: AuthenticationRequired, groups: Option<Arc<dyn GroupSource>>) -> Scene {
    let top = if more.contains("allow_applications") { more } else { "" };
    let issuer = if top.is_empty() { more } else { "" };
    let config = format!("{top}\n[[issuers]]\nkind = \"entra\"\ntenant = \"{TENANT}\"\n{issuer}\n");
    let mut settings = resource("a", RESOURCE);
    settings.audience = vec![API.to_owned(), "api://gate".to_owned()];
    settings.authentication = required;
    let scene = Scene::with(&config, vec![settings], groups);
    // Entra's keys name no algorithm.
    let keys = json!({ "keys": [Signer::rs256().jwk_with(json!({ "kid": "k1", "use": "sig", "x5c": ["MIIC"], "issuer": V2 }))] });
    let places = [
        ("https://login.microsoftonline.com/11111111-2222-3333-4444-555555555555/v2.0", V2),
        ("https://login.microsoftonline.com/11111111-2222-3333-4444-555555555555", V1),
    ];
    for (place, issuer) in places {
        let jwks = format!("{place}/keys");
        scene.net.says(
            &format!("{place}/.well-known/openid-configuration"),
            200,
            json!({ "issuer": issuer, "jwks_uri": jwks }),
        );
        scene.net.says(&jwks, 200, &keys);
    }
    scene
}

fn scene(more: &str) -> Scene {
    scene_of(more, AuthenticationRequired::default(), None)
}

fn user(version: u8) -> Value {
    let common = json!({ "tid": TENANT, "oid": "person", "iat": NOW, "nbf": NOW, "exp": NOW + 4000, "scp": "mcp:read", "uti": "u1" });
    match version {
        1 => merge(
            common,
            json!({ "ver": "1.0", "iss": V1, "aud": "api://gate", "appid": "agent", "sub": "pairwise-1", "acr": "1", "upn": "a@b" }),
        ),
        _ => merge(
            common,
            json!({ "ver": "2.0", "iss": V2, "aud": API, "azp": "agent", "sub": "pairwise-2", "preferred_username": "a@b" }),
        ),
    }
}

async fn show(scene: &Scene, claims: &Value) -> Result<Arc<VerifiedToken>, Error> {
    let header = json!({ "typ": "JWT", "alg": "RS256", "kid": "k1", "x5t": "k1" });
    scene.show(&Signer::rs256().token(&header, claims)).await
}

#[tokio::test]
async fn one_person_is_one_caller_in_both_versions() {
    let scene = scene(BOTH);
    let (one, two) = (show(&scene, &user(1)).await.unwrap(), show(&scene, &user(2)).await.unwrap());
    assert_eq!(one.caller(), two.caller());
    assert_eq!(
        (two.caller().issuer(), two.caller().subject(), two.caller().client()),
        (V2, "person", "agent")
    );
    assert_eq!(two.principal(), Principal::User);
    assert_eq!(two.token_id(), Some("u1"));
    assert_eq!(one.authentication_contexts(), ["1"]);
    let namesake = show(&scene, &merge(user(2), json!({ "oid": "another" }))).await.unwrap();
    assert_ne!(namesake.caller().key(), two.caller().key(), "AA-14: one name, two people");
}

#[tokio::test]
async fn aa_12_a_version_that_is_not_configured_is_a_stranger() {
    let scene = scene("");
    assert!(show(&scene, &user(2)).await.is_ok());
    assert_eq!(show(&scene, &user(1)).await.unwrap_err(), Error::IssuerUnknown);
    for issuer in [
        "https://login.microsoftonline.com/common/v2.0",
        "https://login.microsoftonline.com/{tenantid}/v2.0",
        V1,
    ] {
        assert_eq!(
            show(&scene, &merge(user(2), json!({ "iss": issuer }))).await.unwrap_err(),
            Error::IssuerUnknown
        );
    }
    // The version must be the issuer's.
    assert_eq!(show(&scene, &merge(user(2), json!({ "ver": "1.0" }))).await.unwrap_err(), Error::TenantWrong);
    assert_eq!(
        show(&scene, &merge(user(2), json!({ "ver": "3.0" }))).await.unwrap_err(),
        Error::ClaimMalformed("ver")
    );
}

#[tokio::test]
async fn aa_13_only_members_of_the_one_tenant_come_in() {
    let strict = scene("");
    for tenant in ["99999999-2222-3333-4444-555555555555", "9188040d-6c67-4c5b-b112-36a304b66dad"] {
        assert_eq!(
            show(&strict, &merge(user(2), json!({ "tid": tenant }))).await.unwrap_err(),
            Error::TenantWrong
        );
        let issuer = format!("https://login.microsoftonline.com/{tenant}/v2.0");
        let foreign = merge(user(2), json!({ "tid": tenant, "iss": issuer }));
        assert_eq!(show(&strict, &foreign).await.unwrap_err(), Error::IssuerUnknown);
    }
    assert_eq!(
        show(&strict, &merge(user(2), json!({ "tid": null }))).await.unwrap_err(),
        Error::ClaimMissing("tid")
    );
    assert_eq!(
        show(&strict, &merge(user(2), json!({ "oid": null }))).await.unwrap_err(),
        Error::ClaimMissing("oid")
    );
    let guests = [
        json!({ "idp": "https://sts.windows.net/99999999-2222-3333-4444-555555555555/" }),
        json!({ "idp": "live.com" }),
        json!({ "acct": 1 }),
        json!({ "acct": "0" }),
    ];
    let open = scene("allow_guests = true");
    for guest in guests {
        let claims = merge(user(2), guest);
        let error = show(&strict, &claims).await.unwrap_err();
        assert_eq!((error.verdict().status, error), (403, Error::GuestRefused));
        assert!(show(&open, &claims).await.is_ok());
    }
    for member in [json!({ "idp": V1 }), json!({ "idp": V2 }), json!({ "acct": 0 })] {
        assert!(show(&strict, &merge(user(2), member)).await.is_ok());
    }
}

#[tokio::test]
async fn aa_04_an_id_token_is_refused_even_with_roles() {
    let scene = scene("allow_applications = true");
    let id_token = merge(user(2), json!({ "scp": null, "roles": ["reader"], "azp": null }));
    assert_eq!(show(&scene, &id_token).await.unwrap_err(), Error::ClaimMissing("azp"));
    let with_client = merge(id_token.clone(), json!({ "azp": "agent" }));
    assert_eq!(
        show(&scene, &with_client).await.unwrap_err(),
        Error::TokenTypeWrong,
        "`sub` is no application's"
    );
    for claim in ["nonce", "at_hash", "c_hash"] {
        assert_eq!(
            show(&scene, &merge(user(2), json!({ claim: "x" }))).await.unwrap_err(),
            Error::TokenTypeWrong
        );
    }
    let neither = merge(user(2), json!({ "scp": null }));
    assert_eq!(show(&scene, &neither).await.unwrap_err(), Error::TokenTypeWrong);
}

#[tokio::test]
async fn aa_32_an_application_has_roles_and_is_no_person() {
    let app = merge(
        user(2),
        json!({ "scp": null, "roles": ["mcp:read"], "oid": "robot", "sub": "robot", "idtyp": "app" }),
    );
    assert_eq!(show(&scene(""), &app).await.unwrap_err(), Error::ApplicationRefused);
    let open = scene("allow_applications = true");
    for claims in [app.clone(), merge(app.clone(), json!({ "idtyp": null }))] {
        let token = show(&open, &claims).await.unwrap();
        assert_eq!(token.principal(), Principal::Application);
        assert!(token.scopes().contains("mcp:read"));
    }
    for contradiction in [
        json!({ "scp": "mcp:read" }),
        json!({ "roles": null }),
        json!({ "roles": [] }),
        json!({ "idtyp": "user" }),
        json!({ "idtyp": "device" }),
    ] {
        assert_eq!(
            show(&open, &merge(app.clone(), contradiction.clone())).await.unwrap_err(),
            Error::TokenTypeWrong,
            "{contradiction}"
        );
    }
    // A person's roles are no scopes.
    let person = merge(user(2), json!({ "scp": "other", "roles": ["mcp:read"] }));
    assert!(matches!(show(&open, &person).await, Err(Error::ScopeInsufficient { .. })));
}

struct Directory(Option<&'static str>);

impl GroupSource for Directory {
    fn groups_of<'a>(&'a self, caller: &'a Caller) -> Resolving<'a> {
        assert_eq!(caller.subject(), "person");
        Box::pin(async move { self.0.map(|group| BTreeSet::from([group.to_owned()])) })
    }
}

#[tokio::test]
async fn too_many_groups_are_looked_up_or_refused_and_never_none() {
    let overages = [
        json!({ "_claim_names": { "groups": "src1" }, "_claim_sources": { "src1": {} } }),
        json!({ "hasgroups": true }),
    ];
    for overage in overages {
        let claims = merge(user(2), overage);
        let error = show(&scene(""), &claims).await.unwrap_err();
        assert_eq!((error.verdict().status, error), (403, Error::GroupsUnknown));
        let knows =
            |answer| scene_of("", AuthenticationRequired::default(), Some(Arc::new(Directory(answer))));
        assert_eq!(show(&knows(None), &claims).await.unwrap_err(), Error::GroupsUnknown);
        assert!(show(&knows(Some("ops")), &claims).await.unwrap().groups().contains("ops"));
    }
    // Groups that are written as roles are looked up by nobody, however many groups are known.
    let as_roles = merge(user(2), json!({ "_claim_names": { "roles": "src1", "groups": "src1" } }));
    let knows = scene_of("", AuthenticationRequired::default(), Some(Arc::new(Directory(Some("ops")))));
    assert_eq!(show(&knows, &as_roles).await.unwrap_err(), Error::GroupsUnknown);
    let few = show(&scene(""), &merge(user(2), json!({ "groups": ["g1"] }))).await.unwrap();
    assert!(few.groups().contains("g1"));
}

#[tokio::test]
async fn a_missing_context_becomes_a_claims_challenge() {
    let required = AuthenticationRequired { contexts: vec!["c1".into()], max_age_s: None };
    let scene = scene_of("", required, None);
    let error = show(&scene, &user(2)).await.unwrap_err();
    let claims = r#"{"access_token":{"acrs":{"essential":true,"value":"c1"}}}"#;
    assert_eq!(error, Error::AuthenticationInsufficient(StepUp::Claims(claims.into())));
    assert_eq!(error.verdict().error, Some("insufficient_claims"));
    for satisfied in [json!({ "acrs": ["c1", "c5"] }), json!({ "acrs": "c1" })] {
        assert!(show(&scene, &merge(user(2), satisfied)).await.is_ok());
    }
}

#[tokio::test]
async fn a_token_without_nbf_is_not_entras() {
    assert_eq!(
        show(&scene(""), &merge(user(2), json!({ "nbf": null }))).await.unwrap_err(),
        Error::ClaimMissing("nbf")
    );
}
