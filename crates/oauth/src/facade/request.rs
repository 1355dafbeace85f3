//! What the two halves of the facade exchange: the half that speaks OAuth to clients, and the half that speaks to the
//! person's browser.

use std::{collections::BTreeSet, net::IpAddr};

use bartizan_model::Timestamp;
use http::{HeaderMap, Method};
use serde::{Deserialize, Serialize};

/// An HTTP request to the facade, its body read within the listener's limits.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The method.
    pub method: &'a Method,
    /// The path, compared as it was sent.
    pub path: &'a str,
    /// What follows the question mark.
    pub query: Option<&'a str>,
    /// The header lines.
    pub headers: &'a HeaderMap,
    /// The body, at most 64 KiB.
    pub body: &'a [u8],
    /// The address of the client, or the one that a trusted proxy names.
    pub peer: IpAddr,
    /// Whether the connection, or the one to a trusted proxy, is TLS.
    pub is_tls: bool,
}

/// An authorization request that was checked: the client is known, the redirect URI is one of its own, PKCE is S256,
/// and the resource is one of ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorizationRequest {
    /// The client that asks.
    pub client: Application,
    /// The exact redirect URI of this request.
    pub redirect_uri: String,
    /// What the client asks for, in order, without repetition.
    pub scopes: Vec<String>,
    /// The resource the token will be for: the URL of one of our endpoints (RFC 8707).
    pub resource: String,
    /// The client's own state, returned as it came.
    pub state: Option<String>,
    /// The S256 challenge (RFC 7636).
    pub code_challenge: String,
    /// The thumbprint of the DPoP key the code is bound to (RFC 9449 §10).
    pub dpop_jkt: Option<String>,
    /// `max_age` in seconds: sign in again if the last sign-in is older.
    pub max_age_s: Option<u64>,
    /// `acr_values`, in order of preference (RFC 9470).
    pub contexts: Vec<String>,
    /// An Entra `claims` challenge to relay to the identity provider.
    pub claims: Option<String>,
}

/// A client as its consent page shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Application {
    /// `client_id`
    pub id: String,
    /// What it calls itself: shown escaped, never believed.
    pub name: String,
    /// The host that vouches for it: of its metadata document. `None` if anybody may claim the name.
    pub verified_host: Option<String>,
    /// Whether the operator of the gate wrote it down.
    pub is_preregistered: bool,
    /// SHA-256 (base64url) of its registered metadata: consent given for other metadata does not count.
    pub metadata: String,
    /// Whether every redirect URI of its is a loopback one: any program on that machine can then pose as it.
    pub only_loopback: bool,
}

/// A person as the identity provider vouches for them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    /// The identity provider; `local` for the owner of this machine.
    pub issuer: String,
    /// Unique within the issuer; with Entra `oid`, where the issuer is the tenant's.
    pub subject: String,
    /// For their own pages only.
    pub name: Option<String>,
    /// `amr` (RFC 8176).
    pub methods: Vec<String>,
    /// `acr`, and what of Entra's `acrs` holds.
    pub contexts: Vec<String>,
    /// When they signed in.
    #[serde(with = "seconds")]
    pub at: Timestamp,
    /// Roles at the issuer.
    pub roles: BTreeSet<String>,
    /// Groups at the issuer: all of them.
    pub groups: BTreeSet<String>,
    /// The gate's own name for the sign-in, where something of it is kept ([`bartizan_store::ProviderTokens`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sign_in: Option<String>,
}

mod seconds {
    //! [`Timestamp`] as seconds since 1970.

    use bartizan_model::Timestamp;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(time: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
        time.as_unix().serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
        u64::deserialize(from).map(Timestamp::from_unix)
    }
}
