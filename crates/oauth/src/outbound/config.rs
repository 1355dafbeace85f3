//! `[[servers]] credential`

use std::path::{Path, PathBuf};

use bartizan_model::SecretRef;
use http::HeaderName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use super::EntraAppConfig;
use crate::{discovery::is_loopback, scope::is_scope};

/// What the gate shows a server behind a URL.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum CredentialConfig {
    /// Nothing.
    #[default]
    None,
    /// One secret, for everybody.
    Secret(SecretConfig),
    /// The gate's own access tokens (RFC 6749 §4.4), for everybody.
    ClientCredentials(ClientCredentialsConfig),
    /// Access tokens that an authorization server gives in exchange for the caller's own (RFC 8693), for that caller alone.
    TokenExchange(TokenExchangeConfig),
    /// Access tokens in the name of whoever calls, by Microsoft Entra's on-behalf-of flow.
    EntraObo(EntraOboConfig),
    /// Each person's own account at the server, which they link at `/connect/{server}` (MCP authorization).
    UserOauth(UserOauthConfig),
}

/// `kind = "client-credentials"`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientCredentialsConfig {
    /// The gate's client id at the authorization server.
    pub client_id: String,
    /// Where its secret is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret: Option<SecretRef>,
    /// Where its private key is kept (PKCS #8 in PEM; P-256, Ed25519 or RSA), instead of a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_key: Option<SecretRef>,
    /// The authorization server, exactly as its metadata writes it. It alone is ever shown the secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// Its token endpoint, for one without metadata.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub token_url: Option<Url>,
    /// What is asked for.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// What the tokens are for (RFC 8707), if it is not the server's own URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// The only authorities to trust as the authorization server's TLS peer (PEM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
}

/// `kind = "token-exchange"`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenExchangeConfig {
    /// The gate's client id at the authorization server.
    pub client_id: String,
    /// Where its secret is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret: Option<SecretRef>,
    /// Where its private key is kept (PKCS #8 in PEM; P-256, Ed25519 or RSA), instead of a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_key: Option<SecretRef>,
    /// The authorization server, exactly as its metadata writes it. It alone is ever shown the caller's token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// Its token endpoint, for one without metadata.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub token_url: Option<Url>,
    /// Whose tokens are exchanged there, by `iss`; empty for whoever's tokens are taken at the gate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subject_issuers: Vec<String>,
    /// What is asked for.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// What the tokens are for, by URL (RFC 8707); if neither this nor `audience` is set, the server's own URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// What the tokens are for, by the name that the authorization server has for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// The only authorities to trust as the authorization server's TLS peer (PEM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
}

/// `kind = "entra-obo"`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EntraOboConfig {
    /// What is asked for at the server's registration, such as `api://server/.default`.
    pub scopes: Vec<String>,
    /// The gate's registration in the tenant; by default the one of `[identity.provider]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<EntraAppConfig>,
}

/// `kind = "user-oauth"`
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UserOauthConfig {
    /// The most that people are asked to allow: what the tools you approve need. What else a server wants is refused.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// The authorization server, exactly as its metadata writes it; without one, the first that the server names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// The gate's client id there, if you registered it by hand; it needs `issuer`. Otherwise the gate is known by its
    /// client metadata document, or registers itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// Where the client's secret is kept, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret: Option<SecretRef>,
    /// Take it when the server says that it is another: a path above its URL, at its origin. What people allow the gate there is
    /// good at everything below that path, and is shown to this server.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dangerous_parent_resource: bool,
    /// The only authorities to trust as the authorization server's TLS peer (PEM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
}

/// `kind = "secret"`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SecretConfig {
    /// Where the secret is kept; a file that changes is read again.
    pub value: SecretRef,
    /// The header that carries it.
    #[serde(default = "authorization")]
    pub header: String,
    /// What stands before the secret, with a space between: by default `Bearer` in `Authorization`, nothing elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<String>,
}

fn authorization() -> String {
    "Authorization".to_owned()
}

/// Headers that carry a message and not who sent it.
const OTHERS: [&str; 15] = [
    "accept",
    "connection",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "last-event-id",
    "origin",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];

impl SecretConfig {
    /// The header's name.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn header_name(&self) -> Result<HeaderName, String> {
        let name = HeaderName::try_from(&self.header)
            .map_err(|_| format!("`{}` is no header name", self.header.escape_debug()))?;
        let is_ours = OTHERS.contains(&name.as_str()) || name.as_str().starts_with("mcp-");
        if is_ours {
            return Err(format!("`{name}` belongs to the message; name a header that carries a credential"));
        }
        Ok(name)
    }

    /// What stands before the secret, its space included.
    pub(super) fn prefix(&self, header: &HeaderName) -> String {
        let usual = if *header == http::header::AUTHORIZATION { "Bearer" } else { "" };
        match self.scheme.as_deref().unwrap_or(usual) {
            "" => String::new(),
            scheme => format!("{scheme} "),
        }
    }

    fn problems(&self) -> Vec<String> {
        let mut found: Vec<_> =
            self.header_name().err().into_iter().map(|p| format!("`header`: {p}")).collect();
        let is_token =
            |s: &str| s.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b));
        if self.scheme.as_deref().is_some_and(|s| !is_token(s)) {
            found.push("`scheme` is one word, or empty".into());
        }
        found
    }
}

impl ClientCredentialsConfig {
    fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        let proofs = [&self.client_secret, &self.private_key];
        check_client(&self.client_id, proofs, &mut found);
        check_place(self.issuer.as_deref(), self.token_url.as_ref(), &mut found);
        check_scopes(&self.scopes, &mut found);
        found
    }
}

impl TokenExchangeConfig {
    fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        let proofs = [&self.client_secret, &self.private_key];
        check_client(&self.client_id, proofs, &mut found);
        check_place(self.issuer.as_deref(), self.token_url.as_ref(), &mut found);
        if self.audience.as_deref() == Some("") || self.resource.as_deref() == Some("") {
            found.push("`audience` and `resource` are not empty, or not there".into());
        }
        check_scopes(&self.scopes, &mut found);
        found
    }
}

impl EntraOboConfig {
    fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        if self.scopes.is_empty() {
            found
                .push("`scopes` is empty; `api://…/.default` is everything that was consented to".to_owned());
        }
        check_scopes(&self.scopes, &mut found);
        found.extend(self.app.iter().flat_map(EntraAppConfig::problems).map(|p| format!("app: {p}")));
        found
    }
}

fn check_client(client_id: &str, proofs: [&Option<SecretRef>; 2], found: &mut Vec<String>) {
    if client_id.is_empty() {
        found.push("`client_id` is empty".to_owned());
    }
    if proofs.iter().filter(|proof| proof.is_some()).count() != 1 {
        found.push("set `client_secret` or `private_key`, one of them".into());
    }
}

fn check_place(issuer: Option<&str>, token_url: Option<&Url>, found: &mut Vec<String>) {
    if issuer.is_none() && token_url.is_none() {
        found.push(
            "set `issuer` or `token_url`: a server must not choose to whom the gate shows its secret".into(),
        );
    }
    check_issuer(issuer, found);
    if token_url.is_some_and(|url| !is_protected(url)) {
        found.push("`token_url` must be https (http only on loopback), without user or fragment".into());
    }
}

impl UserOauthConfig {
    fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        if self.client_id.is_some() && self.issuer.is_none() {
            found.push(
                "`client_id` needs `issuer`: a registration is good at one authorization server only".into(),
            );
        }
        if self.client_secret.is_some() && self.client_id.is_none() {
            found.push("`client_secret` needs `client_id`".into());
        }
        check_issuer(self.issuer.as_deref(), &mut found);
        check_scopes(&self.scopes, &mut found);
        found
    }
}

fn check_issuer(issuer: Option<&str>, found: &mut Vec<String>) {
    let is_good = |text: &str| Url::parse(text).is_ok_and(|url| is_protected(&url) && url.query().is_none());
    if issuer.is_some_and(|text| !is_good(text)) {
        found.push(
            "`issuer` must be an https URL (http only on loopback), without user, query or fragment".into(),
        );
    }
}

fn is_protected(url: &Url) -> bool {
    let is_scheme = url.scheme() == "https" || (url.scheme() == "http" && is_loopback(url));
    is_scheme && url.username().is_empty() && url.password().is_none() && url.fragment().is_none()
}

fn check_scopes(scopes: &[String], found: &mut Vec<String>) {
    for bad in scopes.iter().filter(|scope| !is_scope(scope) || matches!(scope.as_str(), "*" | "all")) {
        found.push(format!("`scopes`: `{}` is no scope to ask for", bad.escape_debug()));
    }
}

impl CredentialConfig {
    /// Everything that is wrong.
    pub fn problems(&self) -> Vec<String> {
        match self {
            Self::None => Vec::new(),
            Self::Secret(secret) => secret.problems(),
            Self::ClientCredentials(config) => config.problems(),
            Self::TokenExchange(config) => config.problems(),
            Self::EntraObo(config) => config.problems(),
            Self::UserOauth(config) => config.problems(),
        }
    }

    /// Whether it takes the access token that a caller came with.
    pub fn takes_subjects(&self) -> bool {
        matches!(self, Self::TokenExchange(_) | Self::EntraObo(_))
    }

    /// Whether it is used in the name of people whom the gate's own identity provider signs in.
    pub fn takes_sign_ins(&self) -> bool {
        matches!(self, Self::EntraObo(EntraOboConfig { app: None, .. }))
    }

    /// The only authorities to trust as its authorization server's TLS peer (PEM).
    pub fn ca(&self) -> Option<&Path> {
        match self {
            Self::None | Self::Secret(_) => None,
            Self::ClientCredentials(config) => config.ca.as_deref(),
            Self::TokenExchange(config) => config.ca.as_deref(),
            Self::EntraObo(config) => config.app.as_ref().and_then(|app| app.ca.as_deref()),
            Self::UserOauth(config) => config.ca.as_deref(),
        }
    }

    /// The secrets it names, by which two servers may share one.
    pub fn secrets(&self) -> Vec<&SecretRef> {
        match self {
            Self::None => Vec::new(),
            Self::Secret(secret) => vec![&secret.value],
            Self::ClientCredentials(c) => c.client_secret.iter().chain(&c.private_key).collect(),
            Self::TokenExchange(c) => c.client_secret.iter().chain(&c.private_key).collect(),
            // One registration may stand in front of several servers of its tenant, which see none of its secrets.
            Self::EntraObo(_) => Vec::new(),
            Self::UserOauth(config) => config.client_secret.iter().collect(),
        }
    }
}
