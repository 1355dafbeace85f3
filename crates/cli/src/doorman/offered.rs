//! What the gate's own authorization server offers, as `[identity]` and `[admin]` say.

use std::collections::BTreeMap;

use bartizan_oauth::{
    FacadeConfig, FacadeResource, ResourceSettings, facade::Registration, signin::BrowserConfig,
};

use crate::{config::Config, identity::Mode};

/// Seconds that the owner of a laptop stays signed in.
const LOCAL_SESSION_S: u64 = 600;
/// What a client gets that asks for nothing in particular, where the operator names no scopes.
const USE: (&str, &str) = ("mcp:use", "use what this server offers, as far as the policy lets you");

/// What whoever asks for a token for the admin API gets.
const ADMINISTER: (&str, &str) = ("admin:use", "administer this gate, as far as your roles let you");

/// The facade's configuration. A laptop's clients register themselves; nobody else can reach it.
pub fn facade_config(config: &Config) -> FacadeConfig {
    let identity = &config.identity;
    let mut facade = FacadeConfig {
        dpop: identity.resource_server.dpop,
        dpop_nonces: identity.resource_server.dpop_nonces,
        ..identity.facade.clone()
    };
    if identity.mode == Mode::Local {
        facade.registration = Registration::Loopback;
    }
    facade
}

/// An endpoint as clients ask for tokens for it.
pub fn offered(config: &Config, resource: &ResourceSettings) -> FacadeResource {
    let scopes = scopes(config, resource);
    let default_scopes = match resource.required_scopes.as_slice() {
        [] if config.identity.scopes.is_empty() => vec![USE.0.to_owned()],
        required => required.to_vec(),
    };
    let (name, url) = (resource.name.clone(), resource.url.clone());
    FacadeResource { name, url, scopes, default_scopes, by_consent_only: false }
}

/// The admin API as administrators ask for tokens for it.
pub(super) fn administered(config: &Config) -> Option<FacadeResource> {
    let resource = config.admin.resource()?;
    let (scope, words) = ADMINISTER;
    Some(FacadeResource {
        name: resource.name,
        url: resource.url,
        scopes: [(scope.to_owned(), words.to_owned())].into(),
        default_scopes: vec![scope.to_owned()],
        by_consent_only: true,
    })
}

/// The scopes of an endpoint, with what each allows in words.
pub(super) fn scopes(config: &Config, resource: &ResourceSettings) -> BTreeMap<String, String> {
    let mut scopes = config.identity.scopes.clone();
    for scope in &resource.required_scopes {
        scopes.entry(scope.clone()).or_insert_with(|| format!("do what needs `{scope}`"));
    }
    if scopes.is_empty() {
        scopes.insert(USE.0.to_owned(), USE.1.to_owned());
    }
    scopes
}

/// How long browsers stay signed in. On a laptop no longer than a link works: every port of the machine is sent its cookies,
/// whoever listens there, and no identity provider asks again.
pub(super) fn browsers(config: &Config) -> BrowserConfig {
    let browsers = config.identity.browsers.clone();
    match config.identity.mode {
        Mode::Local => BrowserConfig {
            idle_timeout_s: browsers.idle_timeout_s.min(LOCAL_SESSION_S),
            lifetime_s: browsers.lifetime_s.min(LOCAL_SESSION_S),
            ..browsers
        },
        Mode::Facade | Mode::ResourceServer => browsers,
    }
}
