//! `[identity] mode = "facade"`, as far as it is about clients and tokens.

use std::{collections::BTreeSet, path::PathBuf};

use bartizan_model::SecretRef;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use super::{FacadeResource, redirect};
use crate::{
    Algorithm, IssuerConfig,
    config::{
        Constraint,
        problems::{check_scheme, check_url},
    },
    scope::is_scope,
};

/// Which clients there are, and what they get.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FacadeConfig {
    /// Clients the operator wrote down (spec.md F-25).
    pub clients: Vec<ClientConfig>,
    /// Clients whose id is the address of their metadata (Client ID Metadata Documents).
    pub client_documents: ClientDocuments,
    /// Clients that register themselves (RFC 7591).
    pub registration: Registration,
    /// The life of an access token in seconds: 60 to 600.
    #[schemars(range(min = 60, max = 600))]
    pub access_token_s: u64,
    /// How long a refresh token is good when it is not used, in seconds.
    pub refresh_token_s: u64,
    /// How long a sign-in lasts, however often its tokens are refreshed, in seconds.
    pub grant_s: u64,
    /// For how many seconds a client may ask again with the refresh token it used last, for an answer that was lost: 0 to
    /// 60. Only clients that prove who they are may, by a credential or a DPoP key; from any other a second use is taken
    /// for theft at once (RFC 9700 §4.14).
    #[schemars(range(min = 0, max = 60))]
    pub refresh_retry_s: u64,
    /// Compare the port of loopback redirect URIs too, against RFC 8252 §7.3.
    pub strict_loopback_port: bool,
    /// Origins of web pages, beside those on loopback, that may call the token, revocation and registration endpoints.
    pub cors_origins: Vec<String>,
    /// DPoP-bound tokens (RFC 9449): `required` gives out no others. It is what `[identity] dpop` asks of every token.
    // Written and described there.
    #[serde(skip_serializing)]
    #[schemars(skip)]
    pub dpop: Constraint,
    /// What `[identity] dpop_nonces` asks of every proof.
    #[serde(skip_serializing)]
    #[schemars(skip)]
    pub dpop_nonces: bool,
    /// Identity providers whose identity assertions (ID-JAG) are taken (enterprise-managed authorization).
    pub assertion_issuers: Vec<AssertionIssuer>,
    /// Authorization servers whose access tokens may be exchanged for ours (RFC 8693).
    pub exchange_issuers: Vec<ExchangeIssuer>,
}

impl Default for FacadeConfig {
    fn default() -> Self {
        Self {
            clients: Vec::new(),
            client_documents: ClientDocuments::default(),
            registration: Registration::Off,
            access_token_s: 600,
            refresh_token_s: 14 * 24 * 3600,
            grant_s: 90 * 24 * 3600,
            refresh_retry_s: 10,
            strict_loopback_port: false,
            cors_origins: Vec::new(),
            dpop: Constraint::Optional,
            dpop_nonces: false,
            assertion_issuers: Vec::new(),
            exchange_issuers: Vec::new(),
        }
    }
}

/// `[identity.client_documents]`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClientDocuments {
    /// Whether such clients are known at all.
    pub enabled: bool,
    /// The only hosts whose documents count; nothing means any (spec.md F-23).
    pub hosts: Vec<String>,
}

impl Default for ClientDocuments {
    fn default() -> Self {
        Self { enabled: true, hosts: Vec::new() }
    }
}

/// Who may register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Registration {
    /// Nobody.
    #[default]
    Off,
    /// Whoever has loopback redirect URIs only.
    Loopback,
    /// Everybody.
    On,
}

/// What a client may ask the token endpoint for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GrantType {
    /// A person's grant (RFC 6749 §4.1).
    AuthorizationCode,
    /// A token for itself (RFC 6749 §4.4).
    ClientCredentials,
    /// An identity assertion of a trusted identity provider (RFC 7523 §2.1).
    JwtBearer,
    /// The next token of a person's grant (RFC 6749 §6).
    RefreshToken,
    /// Another token (RFC 8693).
    TokenExchange,
}

impl GrantType {
    pub(crate) const ALL: [Self; 5] = [
        Self::AuthorizationCode,
        Self::ClientCredentials,
        Self::JwtBearer,
        Self::RefreshToken,
        Self::TokenExchange,
    ];

    /// The name on the wire.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::AuthorizationCode => "authorization_code",
            Self::ClientCredentials => "client_credentials",
            Self::JwtBearer => "urn:ietf:params:oauth:grant-type:jwt-bearer",
            Self::RefreshToken => "refresh_token",
            Self::TokenExchange => "urn:ietf:params:oauth:grant-type:token-exchange",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|grant| grant.name() == name)
    }

    /// Whether only clients that prove who they are may ask for it.
    pub(crate) fn needs_proof(self) -> bool {
        !matches!(self, Self::AuthorizationCode | Self::RefreshToken)
    }
}

/// `[[identity.clients]]`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientConfig {
    /// `client_id`; not an https URL, which would be a metadata document's.
    pub id: String,
    /// Its name on the consent page.
    pub name: String,
    /// Its redirect URIs: https, or http on loopback.
    #[serde(default)]
    pub redirect_uris: Vec<String>,
    /// Its secret, for `client_secret_basic` and `client_secret_post`: at least 16 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretRef>,
    /// Its public keys, for `private_key_jwt`: a JWK set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks: Option<serde_json::Value>,
    /// Where its public keys are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub jwks_url: Option<Url>,
    /// What it may ask the token endpoint for.
    #[serde(default = "persons_grants")]
    pub grants: BTreeSet<GrantType>,
    /// The most it can be granted; nothing means every scope there is.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// Give it DPoP-bound tokens only.
    #[serde(default)]
    pub dpop: bool,
    /// It is a resource server: it may ask what tokens of other clients mean (RFC 7662).
    #[serde(default)]
    pub introspects: bool,
}

fn persons_grants() -> BTreeSet<GrantType> {
    BTreeSet::from([GrantType::AuthorizationCode, GrantType::RefreshToken])
}

/// `[[identity.assertion_issuers]]`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AssertionIssuer {
    /// The identity provider's issuer, exactly as its assertions write it.
    pub issuer: String,
    /// Where its keys are, if its metadata is not to be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub jwks_url: Option<Url>,
    /// The algorithms it may sign with.
    #[serde(default = "usual_algorithms")]
    pub algorithms: BTreeSet<Algorithm>,
    /// The only authorities to trust as its TLS peer (PEM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
}

fn usual_algorithms() -> BTreeSet<Algorithm> {
    BTreeSet::from([Algorithm::EdDsa, Algorithm::Es256, Algorithm::Ps256, Algorithm::Rs256])
}

/// `[[identity.exchange_issuers]]`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExchangeIssuer {
    /// The authorization server.
    pub issuer: IssuerConfig,
    /// What `aud` its tokens have when they are for being exchanged here, exactly.
    pub audience: String,
}

impl FacadeConfig {
    /// Everything that is wrong, together with the resources that tokens will be for.
    pub fn problems(&self, public_url: &Url, resources: &[FacadeResource]) -> Vec<String> {
        let mut found = Vec::new();
        check_url(public_url, "[server] public_url", &mut found);
        if public_url.path() != "/" {
            found.push(
                "[server] public_url has a path; an authorization server needs a host of its own".into(),
            );
        }
        let mut bounds = |name: &str, value: u64, low: u64, high: u64| {
            if !(low..=high).contains(&value) {
                found.push(format!("[identity] {name} is from {low} to {high}"));
            }
        };
        bounds("access_token_s", self.access_token_s, 60, 600);
        bounds("refresh_token_s", self.refresh_token_s, self.access_token_s, 90 * 24 * 3600);
        bounds("grant_s", self.grant_s, self.refresh_token_s, 366 * 24 * 3600);
        bounds("refresh_retry_s", self.refresh_retry_s, 0, 60);
        for origin in &self.cors_origins {
            let is_origin = Url::parse(origin).is_ok_and(|url| url.origin().ascii_serialization() == *origin);
            if !is_origin {
                found.push(format!(
                    "[identity] cors_origins: `{}` is no origin, like `https://app.example.com`",
                    origin.escape_debug()
                ));
            }
        }
        for resource in resources {
            // The admin listener is the same machine at another port.
            let is_beside = (resource.url.scheme(), resource.url.host())
                == (public_url.scheme(), public_url.host())
                && resource.url.port_or_known_default() != public_url.port_or_known_default();
            if !is_beside && !resource.url.as_str().starts_with(public_url.as_str()) {
                found.push(format!("`{}`: its URL is not under [server] public_url", resource.name));
            }
            let known = |scope: &&String| resource.scopes.contains_key(*scope);
            if let Some(bad) = resource.scopes.keys().find(|scope| !is_scope(scope)) {
                found.push(format!("`{}`: `{}` is no scope", resource.name, bad.escape_debug()));
            }
            if let Some(bad) = resource.default_scopes.iter().find(|scope| !known(scope)) {
                let name = &resource.name;
                found.push(format!(
                    "`{name}`: the default scope `{}` is not among its scopes",
                    bad.escape_debug()
                ));
            }
        }
        let mut ids = BTreeSet::new();
        for client in &self.clients {
            client.problems(&mut found);
            if !ids.insert(&client.id) {
                found.push(format!("two [[identity.clients]] are `{}`", client.id.escape_debug()));
            }
        }
        let mut issuers = BTreeSet::new();
        for issuer in &self.assertion_issuers {
            let name = format!("[[identity.assertion_issuers]] `{}`", issuer.issuer.escape_debug());
            match Url::parse(&issuer.issuer) {
                Ok(url) => check_url(&url, &format!("{name}: `issuer`"), &mut found),
                Err(_) => found.push(format!("{name}: `issuer` is no URL")),
            }
            if let Some(url) = &issuer.jwks_url {
                check_scheme(url, &format!("{name}: `jwks_url`"), &mut found);
            }
            if issuer.algorithms.is_empty() {
                found.push(format!("{name}: `algorithms` is empty"));
            }
            if !issuers.insert(&issuer.issuer) {
                found.push(format!("{name} is there twice"));
            }
        }
        for exchange in &self.exchange_issuers {
            exchange.issuer.problems(&mut found);
            if exchange.audience.is_empty() {
                found.push("[[identity.exchange_issuers]]: `audience` is empty".into());
            }
        }
        found
    }
}

impl ClientConfig {
    fn problems(&self, found: &mut Vec<String>) {
        let name = format!("[[identity.clients]] `{}`", self.id.escape_debug());
        let is_plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\' | b':');
        if self.id.is_empty() || self.id.len() > 128 || !self.id.bytes().all(is_plain) {
            found.push(format!(
                "{name}: `id` is 1 to 128 visible ASCII characters without `\"`, `\\` and `:`"
            ));
        }
        if self.name.trim().is_empty() || self.name.chars().any(char::is_control) {
            found.push(format!("{name}: `name` is what people read; it cannot be empty"));
        }
        for uri in &self.redirect_uris {
            if let Err(why) = redirect::check(uri) {
                found.push(format!("{name}: the redirect URI `{}` {why}", uri.escape_debug()));
            }
        }
        let has_code = self.grants.contains(&GrantType::AuthorizationCode);
        if has_code == self.redirect_uris.is_empty() {
            found.push(format!("{name}: `redirect_uris` goes with the grant `authorization_code`"));
        }
        let credentials = [self.secret.is_some(), self.jwks.is_some(), self.jwks_url.is_some()];
        let count = credentials.into_iter().filter(|is_there| *is_there).count();
        if count > 1 {
            found.push(format!("{name}: set one of `secret`, `jwks` and `jwks_url`"));
        }
        let needs_proof = self.introspects || self.grants.iter().any(|grant| grant.needs_proof());
        if count == 0 && needs_proof {
            found.push(format!("{name}: what it may do needs a credential: `secret`, `jwks` or `jwks_url`"));
        }
        if let Some(url) = &self.jwks_url {
            check_scheme(url, &format!("{name}: `jwks_url`"), found);
        }
        if let Some(bad) = self.scopes.iter().find(|scope| !is_scope(scope)) {
            found.push(format!("{name}: `{}` is no scope", bad.escape_debug()));
        }
    }
}
