//! What clients read: challenges and metadata (spec.md E-01 to E-10; RFC 6750, RFC 9449, RFC 9470, RFC 9728).

use std::collections::BTreeSet;

use serde_json::Value;

use super::scene::{CONFIG, RESOURCE, Scene, resource};
use crate::{Error, StepUp};

fn challenge(scene: &Scene, error: &Error) -> Vec<String> {
    let resource = scene.server.resource("/mcp/a").unwrap();
    scene.server.challenge(resource, error)
}

#[test]
fn a_first_challenge_says_where_to_go_and_accuses_nobody() {
    // spec.md E-05, B-48; attacks.md AA-01.
    insta::assert_snapshot!(
        challenge(&Scene::new(), &Error::CredentialsMissing).join("\n"),
        @r#"Bearer resource_metadata="https://mcp.example.com/.well-known/oauth-protected-resource/mcp/a", scope="mcp:read""#
    );
}

#[test]
fn later_challenges_say_what_is_wrong() {
    let scene = Scene::new();
    let needed = vec!["mcp:read".to_owned(), "files:write".to_owned()];
    let relayed = Error::AuthenticationInsufficient(StepUp::relay(r#"{"access_token":{}}"#.into()));
    let rfc9470 = StepUp::Rfc9470 { contexts: vec!["phr".into(), "mfa".into()], max_age_s: Some(60) };
    let errors = [
        Error::Expired,
        Error::ScopeInsufficient { needed },
        relayed,
        Error::AuthenticationInsufficient(rfc9470),
        Error::ProofReplayed,
        Error::CredentialsMalformed,
    ];
    let lines: Vec<_> = errors.iter().map(|error| challenge(&scene, error).join("\n")).collect();
    insta::assert_snapshot!(lines.join("\n\n"));
}

#[test]
fn what_no_token_can_repair_has_no_challenge() {
    let scene = Scene::new();
    for error in [
        Error::GuestRefused,
        Error::ApplicationRefused,
        Error::GroupsUnknown,
        Error::IssuerUnavailable("x".into()),
    ] {
        assert!(challenge(&scene, &error).is_empty(), "{error}");
    }
}

#[test]
fn nothing_that_is_put_into_a_challenge_can_end_it_early() {
    let scene = Scene::new();
    let needed = vec!["a\"b\\c\r\nX: y".to_owned()];
    let lines = challenge(&scene, &Error::ScopeInsufficient { needed });
    assert!(lines[0].contains(r#"scope="abcX: y""#), "{lines:?}");
}

#[test]
fn where_proofs_are_demanded_the_challenge_says_so() {
    let scene = Scene::configured(&format!("dpop = \"required\"\n{CONFIG}"));
    let lines = challenge(&scene, &Error::CredentialsMissing);
    assert!(lines[0].starts_with("Bearer ") && lines[1].starts_with("DPoP ") && lines[1].contains("ES256"));
}

#[test]
fn every_reason_is_said_once_and_descriptions_are_plain() {
    let all = all_errors();
    let reasons: BTreeSet<_> = all.iter().map(|error| error.verdict().reason).collect();
    assert_eq!(reasons.len(), all.len(), "each refusal has a reason of its own");
    for error in all {
        let verdict = error.verdict();
        assert!(verdict.description.bytes().all(|b| matches!(b, b' '..=b'~') && b != b'"' && b != b'\\'));
        assert!(matches!(verdict.status, 400 | 401 | 403 | 503));
        assert!(
            verdict.reason.bytes().all(|b| b.is_ascii_lowercase() || b == b'.' || b == b'-'),
            "{}",
            verdict.reason
        );
    }
}

fn all_errors() -> Vec<Error> {
    vec![
        Error::AlgorithmRefused,
        Error::ApplicationRefused,
        Error::AudienceWrong { resource: "r".into() },
        Error::AuthenticationInsufficient(StepUp::relay("{}".into())),
        Error::BindingMissing("dpop"),
        Error::BindingUnknown,
        Error::CertificateWrong,
        Error::ClaimMissing("exp"),
        Error::ClaimMalformed("exp"),
        Error::CredentialsMalformed,
        Error::CredentialsMissing,
        Error::Denied,
        Error::Expired,
        Error::GroupsUnknown,
        Error::GuestRefused,
        Error::HeaderRefused("crit"),
        Error::Inactive,
        Error::IntrospectionUnavailable,
        Error::IssuerUnavailable("i".into()),
        Error::IssuerUnknown,
        Error::KeyUnknown,
        Error::LifetimeTooLong,
        Error::NotYetValid,
        Error::ProofInvalid("x"),
        Error::ProofMissing,
        Error::ProofReplayed,
        Error::ProofsFull,
        Error::ProofsUnavailable,
        Error::ScopeInsufficient { needed: vec![] },
        Error::SignatureWrong,
        Error::TenantWrong,
        Error::TokenMalformed,
        Error::TokenTooLong,
        Error::TokenTypeWrong,
    ]
}

#[test]
fn metadata_names_the_resource_byte_for_byte() {
    let scene = Scene::new();
    let at = |path: &str| {
        scene.server.metadata(path).map(|bytes| serde_json::from_slice::<Value>(&bytes).unwrap())
    };
    let document = at("/.well-known/oauth-protected-resource/mcp/a").unwrap();
    // Sorted here: whether `Value` keeps its order depends on what else is built.
    let sorted: std::collections::BTreeMap<_, _> = document.as_object().unwrap().iter().collect();
    insta::assert_snapshot!(serde_json::to_string_pretty(&sorted).unwrap());
    assert_eq!(document["resource"], RESOURCE);
    for (path, resource) in
        [("/mcp/ab", "https://mcp.example.com/mcp/ab"), ("/mcp", "https://mcp.example.com/mcp")]
    {
        assert_eq!(
            at(&format!("/.well-known/oauth-protected-resource{path}")).unwrap()["resource"],
            resource
        );
    }
    let nowhere = "
        /.well-known/oauth-protected-resource /.well-known/oauth-protected-resource/ /.well-known/oauth-protected-resource-evil
        /.well-known/oauth-protected-resource/mcp/c /.well-known/oauth-protected-resource/mcp/a/ /.well-known/oauth-protected-resource/../mcp
        /mcp/a/.well-known/oauth-protected-resource /.well-known/oauth-protected-resourcemcp/a /.well-known/oauth-protected-resource/mcp/%61
    ";
    for path in nowhere.split_whitespace() {
        assert!(at(path).is_none(), "{path}");
    }
}

#[test]
fn a_gate_of_one_resource_says_so_at_the_root_too() {
    let scene = Scene::with(CONFIG, vec![resource("a", RESOURCE)], None);
    let root = scene.server.metadata("/.well-known/oauth-protected-resource").unwrap();
    assert_eq!(Some(root), scene.server.metadata("/.well-known/oauth-protected-resource/mcp/a"));
}
