//! `[identity] mode = "resource-server"`: what is refused, and that all of it is said at once.

use super::scene::{CONFIG, resource, resources};
use crate::ResourceServerConfig;

fn parse(text: &str) -> ResourceServerConfig {
    toml::from_str(text).unwrap()
}

#[test]
fn every_problem_is_reported_at_once() {
    let config = parse(
        r#"
        max_token_lifetime_s = 1
        scope_implies = { "a b" = ["c"] }
        [[issuers]]
        kind = "oidc"
        issuer = "http://idp.example?x"
        algorithms = []
        jwks_url = "ftp://idp.example"
        metadata_url = "https://user@idp.example"
        roles_claim = []
        introspection = { url = "http://idp.example/i", client_id = "", client_secret = { env = "X" } }
        [[issuers]]
        kind = "oidc"
        issuer = "nonsense"
        introspection = { url = "https://idp.example/i", client_id = "x", client_secret = { file = "x" } }
        [[issuers]]
        kind = "entra"
        tenant = "common"
        versions = []
        authority = "http://login.example"
        [[issuers]]
        kind = "entra"
        tenant = "9188040d-6c67-4c5b-b112-36a304b66dad"
        [[issuers]]
        kind = "entra"
        tenant = "9188040d-6c67-4c5b-b112-36a304b66dad"
        "#,
    );
    let mut settings = resources();
    settings[0].required_scopes = vec!["*".into(), "offline_access".into(), "a b".into()];
    settings[1].audience = vec!["api://*".into(), String::new()];
    settings[2].url = "http://mcp.example.com/mcp?x".parse().unwrap();
    insta::assert_snapshot!(config.problems(&settings).join("\n"));
}

#[test]
fn a_good_configuration_has_no_problems_and_no_dangers() {
    let config = parse(CONFIG);
    assert_eq!(config.problems(&resources()), Vec::<String>::new());
    assert_eq!(config.dangers(), Vec::<String>::new());
    let again: ResourceServerConfig = toml::from_str(&toml::to_string(&config).unwrap()).unwrap();
    assert_eq!(again.issuers.len(), 2);
    assert_eq!(parse("issuers = []").problems(&resources()).len(), 1);
}

#[test]
fn servers_share_an_audience_only_under_a_dangerous_name() {
    let mut settings =
        vec![resource("a", "https://h.example/mcp/a"), resource("b", "https://h.example/mcp/b")];
    for settings in &mut settings {
        settings.audience = vec!["aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee".into()];
    }
    let strict = parse(CONFIG);
    let problems = strict.problems(&settings);
    assert!(problems.len() == 1 && problems[0].starts_with("a, b have the audience"), "{problems:?}");
    // One that names the other's URL shares it too.
    let mut crossed =
        vec![resource("a", "https://h.example/mcp/a"), resource("b", "https://h.example/mcp/b")];
    crossed[1].audience = vec!["https://h.example/mcp/a".into()];
    assert_eq!(strict.problems(&crossed).len(), 1);
    let open = parse(&format!("dangerous_shared_audience = true\n{CONFIG}"));
    assert_eq!(open.problems(&settings), Vec::<String>::new());
    assert_eq!(open.dangers(), ["[identity] dangerous_shared_audience"]);
}

#[test]
fn unknown_keys_and_inline_secrets_are_errors() {
    let bad = [
        format!("frobnicate = 1\n{CONFIG}"),
        CONFIG.replacen("[[issuers]]", "[[issuers]]\nfrobnicate = 1", 1),
        "[[issuers]]\nkind = \"entra\"\ntenant = \"x\"\nissuer = \"x\"".to_owned(),
        "[[issuers]]\nkind = \"saml\"\nissuer = \"https://x\"".to_owned(),
        CONFIG.replacen("[[issuers]]", "[[issuers]]\nalgorithms = [\"HS256\"]", 1),
        CONFIG.replacen("[[issuers]]", "[[issuers]]\nalgorithms = [\"none\"]", 1),
        CONFIG.replacen("[[issuers]]", "[[issuers]]\nintrospection = { url = \"https://i\", client_id = \"x\", client_secret = \"inline\" }", 1),
    ];
    for text in bad {
        assert!(toml::from_str::<ResourceServerConfig>(&text).is_err(), "{text}");
    }
}

#[test]
fn the_schema_can_be_written() {
    let schema = schemars::schema_for!(ResourceServerConfig);
    assert!(serde_json::to_string(&schema).unwrap().contains("dangerous_shared_audience"));
}
