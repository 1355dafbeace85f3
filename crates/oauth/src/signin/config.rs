//! `[identity.provider]` and `[identity.browsers]`.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use bartizan_model::{SecretRef, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::{
    config,
    config::problems::{check_scheme, check_url, is_guid},
    entra::{self, PERSONAL_ACCOUNTS, TokenVersion},
    facade::Person,
    key::Algorithm,
    scope::is_scope,
};

use super::provider::SKEW;

/// Who signs people in.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum ProviderConfig {
    /// One tenant of Microsoft Entra ID.
    Entra(EntraProviderConfig),
    /// An OpenID provider.
    Oidc(OidcProviderConfig),
}

/// `kind = "entra"`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EntraProviderConfig {
    /// The tenant's id, a GUID in lower case.
    pub tenant: String,
    /// The gate's application id in that tenant. Its redirect URI there is `{public_url}/oauth/callback`.
    pub client_id: String,
    /// How the gate proves that it is this application.
    pub credential: CredentialConfig,
    /// Where the tenant is: the global cloud, or a national one.
    #[serde(default = "config::global_authority")]
    #[schemars(with = "String")]
    pub authority: Url,
    /// The host of version 1.0 issuers in that cloud.
    #[serde(default = "config::global_sts")]
    #[schemars(with = "String")]
    pub sts: Url,
    /// Let guests of the tenant in. Otherwise the application must have `idp` or `acct` among its optional claims.
    #[serde(default)]
    pub allow_guests: bool,
    /// The only authorities to trust as the tenant's TLS peer (PEM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
}

/// `kind = "oidc"`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OidcProviderConfig {
    /// The issuer, exactly as its tokens and metadata write it.
    pub issuer: String,
    /// Where its metadata is, if not at `{issuer}/.well-known/openid-configuration`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub metadata_url: Option<Url>,
    /// Its token endpoint, for a provider that has it at another origin than its metadata: the gate's credential is sent
    /// only where the operator says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub token_endpoint: Option<Url>,
    /// The gate's client id there. Its redirect URI there is `{public_url}/oauth/callback`.
    pub client_id: String,
    /// How the gate proves that it is this client.
    pub credential: CredentialConfig,
    /// What is asked for beside `openid`.
    #[serde(default = "profile")]
    pub scopes: Vec<String>,
    /// The algorithms it may sign with.
    #[serde(default = "config::usual_algorithms")]
    pub algorithms: BTreeSet<Algorithm>,
    /// The path to the array of the person's roles in the ID token.
    #[serde(default = "config::roles")]
    pub roles_claim: Vec<String>,
    /// The path to the array of the person's groups in the ID token.
    #[serde(default = "config::groups")]
    pub groups_claim: Vec<String>,
    /// The only authorities to trust as the provider's TLS peer (PEM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// Ask the provider at each refresh of a token whether the sign-in still holds there. Without, somebody who is gone there
    /// keeps what was granted until `grant_s` ends or `bartizan respond revoke`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recheck: Option<RecheckConfig>,
}

/// `[identity.provider.recheck]`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RecheckConfig {
    /// How it is asked.
    pub by: RecheckBy,
    /// For how many seconds after it last stood by a sign-in the provider may be out of reach before tokens are refreshed no
    /// more: 0 to 86,400. With 0, nothing is refreshed while it cannot be asked.
    #[serde(default)]
    #[schemars(range(min = 0, max = 86_400))]
    pub grace_s: u64,
    /// With `by = "refresh-token"`: have the provider ask each person's consent (`prompt=consent`), as OpenID Connect Core §11
    /// wants it for `offline_access`. Off for providers that give refresh tokens without.
    #[serde(default = "yes")]
    pub prompt_consent: bool,
}

/// How a provider is asked whether a sign-in still holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RecheckBy {
    /// By the refresh token of the sign-in (`offline_access`), which is kept sealed: one that is refused ends what came of it.
    RefreshToken,
    /// By the access token of the sign-in at the userinfo endpoint. What came of the sign-in lasts no longer than that token.
    Userinfo,
}

fn yes() -> bool {
    true
}

fn profile() -> Vec<String> {
    vec!["profile".to_owned()]
}

/// How the gate authenticates at the token endpoint (OpenID Connect Core §9).
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(tag = "method", rename_all = "snake_case", deny_unknown_fields)]
pub enum CredentialConfig {
    /// A secret in the `Authorization` header.
    ClientSecretBasic {
        /// Where it is kept.
        secret: SecretRef,
    },
    /// A secret in the form.
    ClientSecretPost {
        /// Where it is kept.
        secret: SecretRef,
    },
    /// An assertion of another issuer's, from a file that is kept fresh: workload identity federation.
    FederatedAssertion {
        /// Where it is kept; read at each sign-in.
        assertion: SecretRef,
    },
    /// An assertion of the identity that Azure manages for this machine, which the registration trusts as a federated
    /// credential: no secret is kept anywhere. For Entra.
    ManagedIdentity {
        /// The client id of the identity, where the machine has several.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        identity_client_id: Option<String>,
    },
    /// An assertion that the gate signs (RFC 7523).
    PrivateKeyJwt(AssertionKey),
}

/// The key of an assertion.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AssertionKey {
    /// Where the private key is kept: PKCS #8 in PEM.
    pub key: SecretRef,
    /// Where its certificate is kept (PEM): Entra knows the key by its SHA-256 thumbprint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<SecretRef>,
    /// What the provider calls the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    /// The algorithm; if not said, the key's: EdDSA, ES256, and for RSA PS256 with a certificate and RS256 without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<Algorithm>,
    /// The assertion's `aud`; if not said, the token endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
}

/// `[identity.browsers]`: how long browsers stay signed in.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BrowserConfig {
    /// Seconds without a visit after which a browser is signed out: 60 to 2,592,000.
    #[schemars(range(min = 60, max = 2_592_000))]
    pub idle_timeout_s: u64,
    /// Seconds after the sign-in after which it is signed out in any case: 60 to 2,592,000.
    #[schemars(range(min = 60, max = 2_592_000))]
    pub lifetime_s: u64,
    /// Seconds after the sign-in in which a person may decide about held calls and withheld results: 60 to 86,400. Later they
    /// sign in again on the spot, with the roles that they have then.
    #[schemars(range(min = 60, max = 86_400))]
    pub decision_max_age_s: u64,
    /// Values of `amr`, one of which such a sign-in must show: `["mfa"]`. Nothing for any sign-in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub decision_methods: Vec<String>,
    /// Values of `acr` (Entra: `c1` to `c99`), one of which it must show instead. The identity provider is asked for them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub decision_contexts: Vec<String>,
}

/// What a sign-in lacks for a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lacking {
    /// It shows none of the factors that the operator wants.
    Factor,
    /// It was too long ago.
    Freshness,
}

impl Default for BrowserConfig {
    fn default() -> Self {
        Self {
            idle_timeout_s: 12 * 60 * 60,
            lifetime_s: 7 * 24 * 60 * 60,
            decision_max_age_s: 15 * 60,
            decision_methods: Vec::new(),
            decision_contexts: Vec::new(),
        }
    }
}

impl BrowserConfig {
    pub(super) fn idle(&self) -> Duration {
        Duration::from_secs(self.idle_timeout_s)
    }

    pub(super) fn lifetime(&self) -> Duration {
        Duration::from_secs(self.lifetime_s)
    }

    /// Everything that is wrong; with `has_provider`, people sign in at an identity provider.
    pub fn problems(&self, has_provider: bool) -> Vec<String> {
        let mut found = Vec::new();
        for (name, seconds) in [("idle_timeout_s", self.idle_timeout_s), ("lifetime_s", self.lifetime_s)] {
            if !(60..=2_592_000).contains(&seconds) {
                found.push(format!("[identity.browsers] {name} is from 60 to 2592000"));
            }
        }
        if !(60..=86_400).contains(&self.decision_max_age_s) {
            found.push("[identity.browsers] decision_max_age_s is from 60 to 86400".to_owned());
        }
        for (name, values) in
            [("decision_methods", &self.decision_methods), ("decision_contexts", &self.decision_contexts)]
        {
            if values.iter().any(|value| value.trim().is_empty()) {
                found.push(format!("[identity.browsers] {name} holds an empty value: remove it"));
            }
        }
        if !has_provider && self.wants_factor() {
            found.push(
                "[identity.browsers] `decision_methods` and `decision_contexts` need an identity provider: whoever signs in by \
                 a link shows no factor"
                    .to_owned(),
            );
        }
        found
    }

    /// Whether decisions want more of a sign-in than that it is fresh.
    pub(super) fn wants_factor(&self) -> bool {
        !self.decision_methods.is_empty() || !self.decision_contexts.is_empty()
    }

    /// What `person` lacks to decide about anything at `now`.
    pub(super) fn lacking(&self, person: &Person, now: Timestamp) -> Option<Lacking> {
        // As far apart as the provider's clock and ours may be.
        if now.since(person.at).as_secs() > self.decision_max_age_s.saturating_add(SKEW) {
            return Some(Lacking::Freshness);
        }
        let has_factor = person.methods.iter().any(|method| self.decision_methods.contains(method))
            || person.contexts.iter().any(|context| self.decision_contexts.contains(context));
        (self.wants_factor() && !has_factor).then_some(Lacking::Factor)
    }
}

impl ProviderConfig {
    /// The issuer under which its people are known.
    pub fn issuer(&self) -> String {
        match self {
            Self::Entra(config) => {
                entra::issuer(&config.authority, &config.sts, &config.tenant, TokenVersion::V2)
            }
            Self::Oidc(config) => config.issuer.clone(),
        }
    }

    /// Everything that is wrong.
    pub fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        match self {
            Self::Entra(entra) => entra.problems(&mut found),
            Self::Oidc(oidc) => oidc.problems(&mut found),
        }
        found
    }
}

impl EntraProviderConfig {
    fn problems(&self, found: &mut Vec<String>) {
        let name = "[identity.provider]";
        if !is_guid(&self.tenant) {
            found.push(format!(
                "{name}: `tenant` is the tenant's id, a GUID in lower case; `common`, `organizations` and domain names let in \
                 whoever they stand for"
            ));
        } else if self.tenant == PERSONAL_ACCOUNTS {
            found.push(format!("{name}: this is the tenant of all personal Microsoft accounts"));
        }
        check_url(&self.authority, &format!("{name}: `authority`"), found);
        check_url(&self.sts, &format!("{name}: `sts`"), found);
        check_client(&self.client_id, name, found);
    }
}

impl OidcProviderConfig {
    /// Where its metadata is. `None` for what is among the problems.
    pub(super) fn metadata(&self) -> Option<Url> {
        let well_known = format!("{}/.well-known/openid-configuration", self.issuer.trim_end_matches('/'));
        self.metadata_url.clone().or_else(|| Url::parse(&well_known).ok())
    }

    fn problems(&self, found: &mut Vec<String>) {
        let name = "[identity.provider]";
        match Url::parse(&self.issuer) {
            Ok(url) => check_url(&url, &format!("{name}: `issuer`"), found),
            Err(_) => found.push(format!("{name}: `issuer` is no URL")),
        }
        for (field, url) in [("metadata_url", &self.metadata_url), ("token_endpoint", &self.token_endpoint)] {
            if let Some(url) = url {
                check_scheme(url, &format!("{name}: `{field}`"), found);
            }
        }
        check_client(&self.client_id, name, found);
        if let Some(bad) = self.scopes.iter().find(|scope| !is_scope(scope)) {
            found.push(format!("{name}: `{}` is no scope", bad.escape_debug()));
        }
        if self.scopes.iter().any(|scope| scope == "offline_access") {
            found.push(format!(
                "{name}: `offline_access` asks for a refresh token, which nobody here would use; `recheck = {{ by = \"refresh-token\" \
                 }}` asks for one and uses it"
            ));
        }
        if self.algorithms.is_empty() {
            found.push(format!("{name}: `algorithms` is empty"));
        }
        if matches!(self.credential, CredentialConfig::ManagedIdentity { .. }) {
            found.push(format!("{name}: `credential.method = \"managed_identity\"` is for kind = \"entra\""));
        }
        if self.recheck.as_ref().is_some_and(|recheck| recheck.grace_s > 86_400) {
            found.push(format!("{name}: `recheck.grace_s` is from 0 to 86400"));
        }
        for (field, path) in [("roles_claim", &self.roles_claim), ("groups_claim", &self.groups_claim)] {
            if path.is_empty() || path.iter().any(String::is_empty) {
                found.push(format!("{name}: `{field}` is a path of one name or more"));
            }
        }
    }
}

fn check_client(client_id: &str, name: &str, found: &mut Vec<String>) {
    if client_id.is_empty() || client_id.chars().any(char::is_control) {
        found.push(format!("{name}: `client_id` is empty, or holds control characters"));
    }
}
