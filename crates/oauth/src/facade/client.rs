//! What is known of a client, whichever way it became known.

use std::{collections::BTreeSet, sync::Arc};

use bartizan_model::{Clock, Timestamp};
use bartizan_store::Digest;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use url::Url;

use super::{Application, GrantType, redirect};
use crate::{
    Error, Fetch,
    discovery::KeyPlace,
    jwks::IssuerKeys,
    key::{Key, KeySet},
};

/// A client.
pub(crate) struct Client {
    pub metadata: Metadata,
    pub origin: Origin,
    pub keys: Option<ClientKeys>,
    /// Whether it may ask what tokens of others mean.
    pub introspects: bool,
}

/// How a client became known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The operator wrote it down.
    Configured,
    /// By a metadata document on this host.
    Document(String),
    /// It registered itself.
    Registered {
        /// When that is forgotten, unless it is used.
        until: Timestamp,
    },
}

/// Metadata that was checked (RFC 7591 §2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Metadata {
    pub id: String,
    pub name: String,
    pub redirect_uris: Vec<String>,
    pub grants: BTreeSet<GrantType>,
    /// The most it can be granted; `None` means every scope there is.
    pub scopes: Option<BTreeSet<String>>,
    pub method: Method,
    /// Its JWK set, as text.
    pub jwks: Option<String>,
    pub jwks_url: Option<Url>,
    /// Give it DPoP-bound tokens only (RFC 9449 §5.2).
    pub dpop: bool,
}

/// How a client proves who it is at the token endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Method {
    /// Not at all: `none`.
    Public,
    /// By a signature: `private_key_jwt`.
    PrivateKey,
    /// By a secret with this SHA-256: `client_secret_basic` or `client_secret_post`.
    Secret(String),
}

/// A client's public keys.
pub(crate) enum ClientKeys {
    /// Known.
    Given(KeySet),
    /// Where the client says they are.
    Fetched(IssuerKeys),
}

impl ClientKeys {
    /// The keys that `metadata` names, fetched by way of `fetch`; `None` if it names none, or none that can be used.
    pub fn of(metadata: &Metadata, fetch: Arc<dyn Fetch>, clock: Arc<dyn Clock>) -> Option<Self> {
        if let Some(text) = &metadata.jwks {
            return KeySet::parse(text.as_bytes()).ok().map(Self::Given);
        }
        let place = KeyPlace::Keys(metadata.jwks_url.clone()?);
        Some(Self::Fetched(IssuerKeys::new(metadata.id.clone(), place, fetch, clock)))
    }

    pub async fn find(&self, kid: Option<&str>) -> Result<Arc<Key>, Error> {
        match self {
            Self::Given(keys) => keys.find(kid).ok_or(Error::KeyUnknown),
            Self::Fetched(keys) => keys.find(kid).await,
        }
    }
}

impl Client {
    pub fn id(&self) -> &str {
        &self.metadata.id
    }

    /// The redirect URI that `asked` is, if it is one of the client's.
    pub fn may_be_sent_to(&self, asked: &str, strict: bool) -> bool {
        self.metadata.redirect_uris.iter().any(|registered| redirect::matches(registered, asked, strict))
    }

    pub fn may(&self, grant: GrantType) -> bool {
        // Whatever it says of itself: only the operator lets a client act for itself (spec.md F-42).
        let is_allowed = !grant.needs_proof() || self.origin == Origin::Configured;
        is_allowed && self.metadata.grants.contains(&grant)
    }

    pub fn is_public(&self) -> bool {
        self.metadata.method == Method::Public
    }

    pub fn may_have(&self, scope: &str) -> bool {
        self.metadata.scopes.as_ref().is_none_or(|scopes| scopes.contains(scope))
    }

    /// The client as its consent page shows it.
    pub fn application(&self) -> Application {
        Application {
            id: self.metadata.id.clone(),
            name: self.metadata.name.clone(),
            verified_host: match &self.origin {
                Origin::Document(host) => Some(host.clone()),
                Origin::Configured | Origin::Registered { .. } => None,
            },
            is_preregistered: self.origin == Origin::Configured,
            metadata: self.metadata.digest(),
            only_loopback: self.metadata.redirect_uris.iter().all(|uri| redirect::is_loopback(uri)),
        }
    }
}

impl Metadata {
    /// What changes when anything changes that a person looked at before they consented (attacks.md AA-27, CD-13).
    pub fn digest(&self) -> String {
        let mut seen = self.clone();
        // A secret is between the client and us: a new one changes nothing for the person.
        if let Method::Secret(digest) = &mut seen.method {
            digest.clear();
        }
        // Strings and lists of strings always have a JSON form.
        let text = serde_json::to_vec(&seen).unwrap_or_default();
        URL_SAFE_NO_PAD.encode(Digest::of(&text).0)
    }
}
