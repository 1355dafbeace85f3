//! `[identity]`: who may come in.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use bartizan_oauth::{
    AuthenticationRequired, FacadeConfig, GraphConfig, IssuerConfig, ResourceServerConfig, ResourceSettings,
    signin::{BrowserConfig, ProviderConfig},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::{config::Config, doorman};

/// `[identity]`
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct IdentityConfig {
    /// Who says who is who.
    pub mode: Mode,
    /// No token: everybody who can connect is the owner. Loopback only.
    pub dangerous_open: bool,
    /// What access tokens must be, to be good at the merged endpoint `/mcp`.
    pub merged: EndpointConfig,
    /// `mode = "facade"`: who signs people in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<ProviderConfig>,
    /// Ask Microsoft Graph about people of an Entra tenant: groups that tokens leave out, and who is still there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub graph: Option<GraphConfig>,
    /// Scopes that clients may ask for at every endpoint, each with what it allows in words that stand after "It may".
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub scopes: BTreeMap<String, String>,
    /// How long browsers stay signed in.
    pub browsers: BrowserConfig,
    /// What access tokens must be, in every mode.
    #[serde(flatten)]
    pub resource_server: ResourceServerConfig,
    /// `mode = "facade"`: which clients there are, and what they get.
    #[serde(flatten)]
    pub facade: FacadeConfig,
}

/// `[identity] mode`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// There is one user, the owner of this machine: known by the token of `bartizan token`, or signed in by a link of
    /// `bartizan login` when a client asks for access. On loopback only.
    #[default]
    Local,
    /// Bartizan is the authorization server that clients see; an identity provider signs people in.
    Facade,
    /// Access tokens of the authorization servers in `[[identity.issuers]]`, each issued for the endpoint it is used at.
    ResourceServer,
}

/// What access tokens must be, to be good at one endpoint.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct EndpointConfig {
    /// What a token's `aud` may be; nothing means the endpoint's URL. For Entra: the API's client id, a GUID.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub audience: Vec<String>,
    /// The scopes that every call needs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub required_scopes: Vec<String>,
    /// Authentication contexts (`acr`; Entra: `c1` to `c99`), one of which the person's sign-in must show.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub required_contexts: Vec<String>,
    /// The oldest that a sign-in may be, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_auth_age_s: Option<u64>,
}

impl EndpointConfig {
    fn is_default(&self) -> bool {
        self.audience.is_empty()
            && self.required_scopes.is_empty()
            && self.required_contexts.is_empty()
            && self.max_auth_age_s.is_none()
    }

    fn settings(&self, name: String, url: Url) -> ResourceSettings {
        ResourceSettings {
            name,
            url,
            audience: self.audience.clone(),
            required_scopes: self.required_scopes.clone(),
            authentication: AuthenticationRequired {
                contexts: self.required_contexts.clone(),
                max_age_s: self.max_auth_age_s,
            },
        }
    }
}

impl Config {
    /// The URL under which clients know a gate that listens at `address`, without a slash at its end.
    pub fn base_url(&self, address: SocketAddr) -> String {
        match &self.server.public_url {
            Some(url) => url.as_str().trim_end_matches('/').to_owned(),
            None => {
                let scheme = if self.server.tls.is_some() { "https" } else { "http" };
                format!("{scheme}://{address}")
            }
        }
    }

    /// The same as a URL.
    ///
    /// # Errors
    /// Never, once the configuration was checked.
    pub fn public_url(&self, address: SocketAddr) -> Result<Url, url::ParseError> {
        self.base_url(address).parse()
    }

    /// Every endpoint as a protected resource.
    pub fn resources(&self, address: SocketAddr) -> Result<Vec<ResourceSettings>, url::ParseError> {
        let base = self.base_url(address);
        let merged = self.identity.merged.settings("all servers".into(), format!("{base}/mcp").parse()?);
        let mut found = vec![merged];
        for server in &self.servers {
            let url = format!("{base}/mcp/{}", server.name).parse()?;
            found.push(server.endpoint.settings(server.name.to_string(), url));
        }
        Ok(found)
    }

    /// Whether several issuers vouch for people: one may give another's identifiers of groups and roles away.
    pub fn has_issuers(&self) -> bool {
        let identity = &self.identity;
        let mut issuers: BTreeSet<String> =
            identity.resource_server.issuers.iter().map(IssuerConfig::authorization_server).collect();
        if identity.mode == Mode::Facade {
            let facade = &identity.facade;
            issuers.extend(identity.provider.iter().map(ProviderConfig::issuer));
            issuers.extend(facade.assertion_issuers.iter().map(|one| one.issuer.clone()));
            issuers.extend(facade.exchange_issuers.iter().map(|one| one.issuer.authorization_server()));
        }
        issuers.len() > 1
    }

    /// Issuers whose people are known in two ways: by `oid` where `kind = "entra"` reads their tokens, and by `sub` elsewhere. One
    /// person would be two callers, of whom one approves what the other asks, and one is revoked without the other.
    fn issuers_read_twice(&self) -> Vec<String> {
        let identity = &self.identity;
        let of =
            |issuer: &IssuerConfig| (issuer.authorization_server(), matches!(issuer, IssuerConfig::Entra(_)));
        let mut read: BTreeSet<(String, bool)> = identity.resource_server.issuers.iter().map(of).collect();
        if identity.mode == Mode::Facade {
            let provider = identity.provider.iter();
            read.extend(provider.map(|one| (one.issuer(), matches!(one, ProviderConfig::Entra(_)))));
            read.extend(identity.facade.assertion_issuers.iter().map(|one| (one.issuer.clone(), false)));
            read.extend(identity.facade.exchange_issuers.iter().map(|one| of(&one.issuer)));
        }
        let twice = read.iter().filter(|(name, is_entra)| *is_entra && read.contains(&(name.clone(), false)));
        let twice = twice.map(|(name, _)| {
            format!(
                "[identity]: people of `{name}` are known by `oid` where it is `kind = \"entra\"`, and by `sub` elsewhere, so that one \
                 person is two callers: write `kind = \"entra\"` wherever it is named"
            )
        });
        twice.collect()
    }

    /// Roles that go by groups of whichever issuer, where there are several.
    fn confusable_roles(&self) -> Vec<String> {
        if !self.has_issuers() {
            return Vec::new();
        }
        let roles = self.policy.roles.0.iter().filter(|(_, members)| members.names_no_issuer());
        roles
            .map(|(name, _)| {
                format!(
                    "[policy.roles.{name}] goes by groups or roles, and there are several issuers: say whose by `issuers`, for two may \
                     give one identifier to two groups"
                )
            })
            .collect()
    }

    /// What is wrong with `[identity]`, and with what servers say of tokens.
    pub fn identity_problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        let identity = &self.identity;
        let listen = self.server.listen;
        // That a facade without a provider needs one is said below.
        found.extend(identity.browsers.problems(identity.mode == Mode::Facade));
        if identity.mode == Mode::Local {
            found.extend(self.local_problems());
            return found;
        }
        let mode = identity.mode.name();
        if identity.dangerous_open {
            found.push(format!(
                "[identity] dangerous_open and mode = \"{mode}\" exclude each other: remove one"
            ));
        }
        if self.server.public_url.is_none() && (listen.ip().is_unspecified() || listen.port() == 0) {
            found.push(format!(
                "[server] public_url is needed with [identity] mode = \"{mode}\": tokens are issued for the URL clients use"
            ));
        }
        if identity.mode == Mode::Facade {
            match &identity.provider {
                Some(provider) => found.extend(provider.problems()),
                None => found.push(
                    "[identity] mode = \"facade\" needs [identity.provider]: `kind = \"entra\"` with `tenant`, or `kind = \"oidc\"` with \
                     `issuer`, and `client_id`"
                        .into(),
                ),
            }
        }
        found.extend(self.confusable_roles());
        found.extend(self.issuers_read_twice());
        if let Some(graph) = &identity.graph {
            found.extend(graph.problems().into_iter().map(|p| format!("[identity.graph]: {p}")));
            if graph.app.is_none() && crate::endpoints::provider(self).is_none() {
                found.push(
                    "[identity.graph] needs `app`, the gate's registration in the tenant, unless [identity.provider] is of kind \
                     \"entra\""
                        .into(),
                );
            }
        }
        if identity.mode == Mode::ResourceServer && identity.provider.is_some() {
            found.push("[identity.provider] is for mode = \"facade\": set it, or remove the provider".into());
        }
        let resources = match self.resources(listen) {
            Ok(resources) => resources,
            Err(error) => {
                found.push(format!("[server] public_url: {error}"));
                return found;
            }
        };
        // Without issuers of its own, a facade is the only one.
        if identity.mode == Mode::ResourceServer || !identity.resource_server.issuers.is_empty() {
            found.extend(identity.resource_server.problems(&resources));
        }
        if let (Mode::Facade, Ok(url)) = (identity.mode, self.public_url(listen)) {
            let offered: Vec<_> = resources.iter().map(|r| doorman::offered(self, r)).collect();
            found.extend(doorman::facade_config(self).problems(&url, &offered));
        }
        found
    }

    /// What `mode = "local"` has no use for, or may not be.
    fn local_problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        let identity = &self.identity;
        let listen = self.server.listen;
        if !listen.ip().is_loopback() && !identity.dangerous_open {
            found.push(format!(
                "[server] listen = \"{listen}\" is for others too, and [identity] mode = \"local\" knows the owner of this machine alone: \
                 set mode = \"facade\" or \"resource-server\", or listen on 127.0.0.1"
            ));
        }
        if !identity.resource_server.issuers.is_empty() {
            found.push(
                "[[identity.issuers]] are for mode = \"resource-server\" or \"facade\": set one, or remove them".into(),
            );
        }
        if identity.provider.is_some() {
            found.push("[identity.provider] is for mode = \"facade\": set it, or remove the provider".into());
        }
        let endpoints = self.servers.iter().map(|s| (s.name.as_str(), &s.endpoint));
        for (name, endpoint) in endpoints.chain([("/mcp", &identity.merged)]) {
            if !endpoint.is_default() {
                found.push(format!(
                    "endpoint `{name}`: `audience`, `required_scopes`, `required_contexts` and `max_auth_age_s` are for \
                     [identity] mode = \"resource-server\" or \"facade\""
                ));
            }
        }
        found
    }
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Facade => "facade",
            Self::ResourceServer => "resource-server",
        }
    }
}
