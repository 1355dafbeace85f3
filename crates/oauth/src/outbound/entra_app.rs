//! The gate as an application of an Entra tenant: what it asks the tenant's token endpoint (attacks.md §2.2).

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use bartizan_model::{Clock, Entropy, Secret};
use bartizan_store::provider_tokens::SignIn;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::{Url, form_urlencoded};

use super::{
    assertions::Renews,
    token::{self, Denied, Tokens},
};
use crate::{
    Fetch,
    config::{
        self,
        problems::{check_url, is_guid},
    },
    entra::{self, PERSONAL_ACCOUNTS, TokenVersion},
    signin::{self, EntraProviderConfig, ReadSecret, provider::credential::Credential},
};

/// The gate's registration in a tenant.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EntraAppConfig {
    /// The tenant's id, a GUID in lower case.
    pub tenant: String,
    /// The gate's application id there.
    pub client_id: String,
    /// How the gate proves that it is this application.
    pub credential: signin::CredentialConfig,
    /// Where the tenant is: the global cloud, or a national one.
    #[serde(default = "config::global_authority")]
    #[schemars(with = "String")]
    pub authority: Url,
    /// The only authorities to trust as the tenant's TLS peer (PEM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
}

impl EntraAppConfig {
    /// Everything that is wrong.
    pub fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        if !is_guid(&self.tenant) || self.tenant == PERSONAL_ACCOUNTS {
            found.push("`tenant` is the id of your tenant, a GUID in lower case".into());
        }
        if self.client_id.is_empty() || self.client_id.chars().any(char::is_control) {
            found.push("`client_id` is empty, or holds control characters".into());
        }
        check_url(&self.authority, "`authority`", &mut found);
        found
    }
}

impl From<&EntraProviderConfig> for EntraAppConfig {
    fn from(provider: &EntraProviderConfig) -> Self {
        Self {
            tenant: provider.tenant.clone(),
            client_id: provider.client_id.clone(),
            credential: provider.credential.clone(),
            authority: provider.authority.clone(),
            ca: provider.ca.clone(),
        }
    }
}

/// What an application needs to ask.
#[derive(Clone)]
pub struct EntraMeans {
    /// A way to the tenant.
    pub fetch: Arc<dyn Fetch>,
    /// Reads secrets.
    pub secret: ReadSecret,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
}

/// The gate at its tenant's token endpoint.
pub(crate) struct EntraApp {
    /// The tenant's version 2.0 issuer, under which its people are known.
    pub issuer: String,
    pub client_id: String,
    token_endpoint: Url,
    credential: Credential,
    means: EntraMeans,
}

impl EntraApp {
    /// The application that `config` describes.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(config: &EntraAppConfig, means: EntraMeans) -> Result<Self, String> {
        let base = config.authority.as_str().trim_end_matches('/');
        let token_endpoint = Url::parse(&format!("{base}/{}/oauth2/v2.0/token", config.tenant))
            .map_err(|_| "`authority` is no URL".to_owned())?;
        let EntraMeans { secret, entropy, clock, .. } = &means;
        let (secret, entropy, clock) = (Arc::clone(secret), Arc::clone(entropy), Arc::clone(clock));
        Ok(Self {
            // The version 1.0 issuer's host does not matter here.
            issuer: entra::issuer(&config.authority, &config.authority, &config.tenant, TokenVersion::V2),
            client_id: config.client_id.clone(),
            token_endpoint,
            credential: Credential::new(&config.credential, &config.client_id, secret, entropy, clock),
            means,
        })
    }

    /// What the token endpoint gives for a form with these members.
    pub async fn ask(&self, members: &[(&str, &str)]) -> Result<Tokens, Denied> {
        let proof = self
            .credential
            .prove(&self.token_endpoint)
            .map_err(|why| Denied::Failed(format!("the gate's credential as an Entra application {why}")))?;
        let form = encode(members, &proof.members);
        let now = self.means.clock.now();
        let answer = self.means.fetch.post(&self.token_endpoint, proof.authorization.as_ref(), form).await;
        let answer = answer.map_err(|error| Denied::Failed(error.to_string()))?;
        token::read(answer.status, &answer.body, now)
    }

    /// A token of the application's own for `scope` (`…/.default`).
    pub async fn own(&self, scope: &str) -> Result<Tokens, Denied> {
        self.ask(&[("grant_type", "client_credentials"), ("scope", scope)]).await
    }
}

#[async_trait]
impl Renews for EntraApp {
    async fn renew(&self, refresh: &Secret, _: &SignIn) -> Result<Tokens, Denied> {
        let scope = format!("{} offline_access", own_scope(&self.client_id));
        let members =
            [("grant_type", "refresh_token"), ("refresh_token", refresh.reveal()), ("scope", &scope)];
        self.ask(&members).await
    }
}

/// As `application/x-www-form-urlencoded`.
fn encode(members: &[(&str, &str)], proof: &[(&'static str, Secret)]) -> Secret {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.extend_pairs(members);
    for (name, value) in proof {
        form.append_pair(name, value.reveal());
    }
    Secret::new(form.finish())
}

/// The scope of tokens whose audience is the application itself.
pub(crate) fn own_scope(client_id: &str) -> String {
    format!("{client_id}/.default")
}
