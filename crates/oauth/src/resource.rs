//! The resources this gate is: one for each MCP endpoint (RFC 8707 §2, RFC 9728).

use bytes::Bytes;
use serde::Serialize;
use url::Url;

use crate::{AuthenticationRequired, dpop};

/// Where RFC 9728 §3.1 puts metadata.
pub(crate) const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

/// What the operator says about one endpoint.
#[derive(Clone, Debug)]
pub struct ResourceSettings {
    /// The endpoint's name for people: the server's, or "all servers".
    pub name: String,
    /// The URL clients use: public, without query and fragment. It is the resource's identifier.
    pub url: Url,
    /// What a token's `aud` may be; nothing means the URL.
    pub audience: Vec<String>,
    /// The scopes without which nothing here works, and which a first challenge asks for (spec.md E-05, E-10).
    pub required_scopes: Vec<String>,
    /// How a person must have signed in.
    pub authentication: AuthenticationRequired,
}

/// One protected resource.
pub struct Resource {
    pub(crate) url: Url,
    pub(crate) audience: Vec<String>,
    pub(crate) required_scopes: Vec<String>,
    pub(crate) authentication: AuthenticationRequired,
    pub(crate) metadata_url: String,
    document: Bytes,
}

/// What all resources of a gate have in common.
pub(crate) struct Common<'a> {
    pub authorization_servers: &'a [String],
    pub needs_dpop: bool,
    pub needs_certificate: bool,
}

/// Protected resource metadata (RFC 9728 §2).
#[derive(Serialize)]
struct Metadata<'a> {
    resource: &'a str,
    authorization_servers: &'a [String],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    scopes_supported: &'a [String],
    bearer_methods_supported: [&'static str; 1],
    resource_name: &'a str,
    dpop_signing_alg_values_supported: [&'static str; 7],
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dpop_bound_access_tokens_required: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    tls_client_certificate_bound_access_tokens: bool,
}

impl Resource {
    pub(crate) fn new(settings: ResourceSettings, common: &Common<'_>) -> Self {
        let ResourceSettings { name, url, mut audience, required_scopes, authentication } = settings;
        let identifier = url.as_str().to_owned();
        if audience.is_empty() {
            audience.push(identifier.clone());
        }
        let mut metadata_url = url.clone();
        metadata_url.set_path(&format!("{WELL_KNOWN}{}", url.path().trim_end_matches('/')));
        let metadata = Metadata {
            resource: &identifier,
            authorization_servers: common.authorization_servers,
            scopes_supported: &required_scopes,
            bearer_methods_supported: ["header"],
            resource_name: &name,
            dpop_signing_alg_values_supported: dpop::ALGORITHMS.map(|algorithm| algorithm.name()),
            dpop_bound_access_tokens_required: common.needs_dpop,
            tls_client_certificate_bound_access_tokens: common.needs_certificate,
        };
        // Strings, lists of strings and booleans always have a JSON form.
        let document = Bytes::from(serde_json::to_vec(&metadata).unwrap_or_default());
        let metadata_url = metadata_url.into();
        Self { url, audience, required_scopes, authentication, metadata_url, document }
    }

    /// The resource's identifier, byte for byte as in its metadata (RFC 9728 §3.3; attacks.md AA-34).
    pub fn identifier(&self) -> &str {
        self.url.as_str()
    }

    /// The scopes that every call here needs.
    pub fn required_scopes(&self) -> &[String] {
        &self.required_scopes
    }

    /// Where its metadata is served.
    pub fn metadata_url(&self) -> &str {
        &self.metadata_url
    }

    /// Its metadata: JSON, readable by everybody and by pages of every origin.
    pub fn metadata(&self) -> Bytes {
        self.document.clone()
    }
}
