//! `[identity] mode = "resource-server"`.

pub(crate) mod problems;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use bartizan_model::SecretRef;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::{
    entra::{self, TokenVersion},
    key::Algorithm,
};

/// Whose access tokens are taken, and what they must be.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResourceServerConfig {
    /// The authorization servers whose tokens are taken.
    #[serde(default)]
    pub issuers: Vec<IssuerConfig>,
    /// Let workloads in that act for themselves, beside people.
    #[serde(default)]
    pub allow_applications: bool,
    /// DPoP-bound tokens (RFC 9449): `optional` checks the proof of a token that is bound, `required` takes no others.
    #[serde(default)]
    pub dpop: Constraint,
    /// Demand that every DPoP proof holds a nonce that the gate gave out in the last five minutes (RFC 9449 §8, §9).
    #[serde(default)]
    pub dpop_nonces: bool,
    /// Certificate-bound tokens (RFC 8705), in the same way.
    #[serde(default)]
    pub mtls: Constraint,
    /// The longest life of a token, from `iat` to `exp`, in seconds: 60 to 2,592,000.
    #[serde(default = "a_day")]
    #[schemars(range(min = 60, max = 2_592_000))]
    pub max_token_lifetime_s: u64,
    /// Scopes that hold others: `"mcp:admin" = ["mcp:read", "mcp:write"]`.
    #[serde(default)]
    pub scope_implies: BTreeMap<String, Vec<String>>,
    /// Let several servers have one audience: a token for one of them is then good at all.
    #[serde(default)]
    pub dangerous_shared_audience: bool,
}

impl Default for ResourceServerConfig {
    fn default() -> Self {
        Self {
            issuers: Vec::new(),
            allow_applications: false,
            dpop: Constraint::default(),
            dpop_nonces: false,
            mtls: Constraint::default(),
            max_token_lifetime_s: a_day(),
            scope_implies: BTreeMap::new(),
            dangerous_shared_audience: false,
        }
    }
}

fn a_day() -> u64 {
    24 * 60 * 60
}

/// Whether tokens must be bound to their sender.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Constraint {
    /// A bound token is checked; others are taken as they are.
    #[default]
    Optional,
    /// Only bound tokens are taken.
    Required,
}

/// `[[identity.issuers]]`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum IssuerConfig {
    /// One tenant of Microsoft Entra ID.
    Entra(EntraConfig),
    /// An authorization server with RFC 8414 or OpenID metadata.
    Oidc(OidcConfig),
}

/// `kind = "entra"`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EntraConfig {
    /// The tenant's id, a GUID in lower case.
    pub tenant: String,
    /// The versions of the tokens; the API's registration chooses them (`requestedAccessTokenVersion`).
    #[serde(default = "version_2")]
    pub versions: BTreeSet<TokenVersion>,
    /// Where the tenant is: the global cloud, or a national one.
    #[serde(default = "global_authority")]
    #[schemars(with = "String")]
    pub authority: Url,
    /// The host of version 1.0 issuers in that cloud.
    #[serde(default = "global_sts")]
    #[schemars(with = "String")]
    pub sts: Url,
    /// Let guests of the tenant in.
    #[serde(default)]
    pub allow_guests: bool,
    /// The only authorities to trust as the tenant's TLS peer (PEM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
}

fn version_2() -> BTreeSet<TokenVersion> {
    BTreeSet::from([TokenVersion::V2])
}

pub(crate) fn global_authority() -> Url {
    constant("https://login.microsoftonline.com")
}

pub(crate) fn global_sts() -> Url {
    constant("https://sts.windows.net")
}

fn constant(url: &str) -> Url {
    #[expect(clippy::expect_used, reason = "a constant, and the tests parse it")]
    Url::parse(url).expect("the constant is a URL")
}

/// `kind = "oidc"`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OidcConfig {
    /// The issuer, exactly as its tokens and metadata write it.
    pub issuer: String,
    /// Where its metadata is, if not at a well-known place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub metadata_url: Option<Url>,
    /// Where its keys are, for an issuer without metadata.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub jwks_url: Option<Url>,
    /// The algorithms it may sign with.
    #[serde(default = "usual_algorithms")]
    pub algorithms: BTreeSet<Algorithm>,
    /// The claim that holds what was granted.
    #[serde(default)]
    pub scope_claim: ScopeClaim,
    /// The path to the array of the subject's roles: `["roles"]`, or Keycloak's `["realm_access", "roles"]`.
    #[serde(default = "roles")]
    pub roles_claim: Vec<String>,
    /// The path to the array of the subject's groups.
    #[serde(default = "groups")]
    pub groups_claim: Vec<String>,
    /// Refuse tokens without `nbf`. (One that is there always counts.)
    #[serde(default)]
    pub require_nbf: bool,
    /// Ask this issuer what its opaque tokens mean (RFC 7662).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub introspection: Option<IntrospectionConfig>,
    /// The only authorities to trust as the issuer's TLS peer (PEM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// Take tokens whose header does not say `typ: at+jwt`, for issuers that cannot say it. Other tokens of theirs are
    /// then told apart by their claims alone.
    #[serde(default)]
    pub dangerous_untyped_tokens: bool,
}

/// The claim that holds what was granted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ScopeClaim {
    /// RFC 9068's.
    #[default]
    Scope,
    /// Okta's: an array, or a text.
    Scp,
}

impl ScopeClaim {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Scope => "scope",
            Self::Scp => "scp",
        }
    }
}

pub(crate) fn usual_algorithms() -> BTreeSet<Algorithm> {
    BTreeSet::from([Algorithm::EdDsa, Algorithm::Es256, Algorithm::Ps256, Algorithm::Rs256])
}

pub(crate) fn roles() -> Vec<String> {
    vec!["roles".to_owned()]
}

pub(crate) fn groups() -> Vec<String> {
    vec!["groups".to_owned()]
}

/// How to ask what opaque tokens mean.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IntrospectionConfig {
    /// The endpoint.
    #[schemars(with = "String")]
    pub url: Url,
    /// The gate's client id at the issuer.
    pub client_id: String,
    /// Where its secret is kept.
    pub client_secret: SecretRef,
}

impl IssuerConfig {
    /// The strings its tokens may have as `iss`.
    pub fn issuers(&self) -> Vec<String> {
        match self {
            Self::Oidc(oidc) => vec![oidc.issuer.clone()],
            Self::Entra(entra) => entra.versions.iter().map(|version| entra.issuer(*version)).collect(),
        }
    }

    /// What clients read as the authorization server's issuer.
    pub fn authorization_server(&self) -> String {
        match self {
            Self::Oidc(oidc) => oidc.issuer.clone(),
            Self::Entra(entra) => entra.issuer(TokenVersion::V2),
        }
    }
}

impl EntraConfig {
    pub(crate) fn issuer(&self, version: TokenVersion) -> String {
        entra::issuer(&self.authority, &self.sts, &self.tenant, version)
    }
}
