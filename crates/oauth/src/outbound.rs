//! How the gate authenticates to the servers behind it (spec.md C.5, G-03): each by a credential of its own, and never
//! by what its client came with.
//!
//! Start from [`credential`], which makes a [`Credential`] of a configuration: the gateway asks it for header lines
//! before each request and tells it when they were refused. [`SecretCredential`] is one secret for everybody,
//! [`ClientCredentials`] are access tokens of the gate's own, [`UserOauth`] is each person's own account, which they link
//! on the pages of [`Linking`], [`TokenExchange`] and [`EntraObo`] are tokens that an authorization server gives in exchange
//! for the caller's own ([`SubjectTokens`]).

mod asking;
mod assertions;
mod challenge;
mod client;
mod client_credentials;
mod config;
mod entra_app;
mod exchange;
mod linking;
mod metadata;
mod obo;
mod register;
mod revoke;
mod secret;
pub(crate) mod token;
mod token_exchange;
mod user;

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use bartizan_model::{Clock, Entropy, Secret, SecretRef, ServerName};
use bartizan_store::{Digest, Links, Sealer, links::Account};
use http::{HeaderMap, HeaderValue};
use serde_json::{Map, Value, json};
use url::Url;

use self::metadata::AuthorizationServer;
use crate::{Fetch, StepUp, SubjectTokens, signin::ReadSecret};

pub use asking::Asking;
pub use assertions::Assertions;
pub(crate) use assertions::Renews;
pub use client_credentials::ClientCredentials;
pub use config::{
    ClientCredentialsConfig, CredentialConfig, EntraOboConfig, SecretConfig, TokenExchangeConfig,
    UserOauthConfig,
};
pub(crate) use entra_app::{EntraApp, own_scope};
pub use entra_app::{EntraAppConfig, EntraMeans};
pub use linking::{Linkable, Linking, Unlinked};
pub use obo::EntraObo;
pub use revoke::Revoked;
pub use secret::SecretCredential;
pub use token_exchange::TokenExchange;
pub use user::UserOauth;

/// What the gate shows one server.
///
/// `asking` is whom a request is made for; `None` is the gate itself, when it looks at what a server defines.
#[async_trait]
pub trait Credential: fmt::Debug + Send + Sync {
    /// The header lines of one request, marked as sensitive.
    ///
    /// # Errors
    /// [`Unobtainable`]; the request is not sent then, least of all with somebody else's credential (attacks.md TP-02).
    async fn headers(&self, asking: Option<&Asking>) -> Result<HeaderMap, Unobtainable>;

    /// What to do after the server refused what [`Credential::headers`] gave.
    ///
    /// # Errors
    /// [`Unobtainable`], where only somebody else can help.
    async fn challenged(&self, asking: Option<&Asking>, refused: Refused<'_>) -> Result<Retry, Unobtainable>;

    /// Whether each caller has one of their own, so that the gate itself has none.
    fn is_personal(&self) -> bool {
        false
    }

    /// Whether it is had in exchange for what the caller came with, so that they may have to come with something else.
    fn is_exchanged(&self) -> bool {
        false
    }
}

/// A refusal of what was shown: HTTP 401 or 403.
#[derive(Clone, Copy)]
pub struct Refused<'a> {
    /// The status.
    pub status: u16,
    /// The header lines of the answer.
    pub answer: &'a HeaderMap,
    /// The lines of [`Credential::headers`] that were refused.
    pub shown: &'a HeaderMap,
}

/// Whether the same request may succeed now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Ask for the header lines again and send it once more.
    Once,
    /// It would be refused again.
    No,
}

/// Why there is no credential.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unobtainable {
    /// The person has to link an account of theirs, or to allow more than before.
    #[error("an account has to be linked at {0}")]
    NeedsLinking(Url),
    /// The person has to sign in again, as this says: where they signed in wants to see them (Entra's claims challenge).
    #[error("the person has to sign in again")]
    StepUp(StepUp),
    /// It is not for this caller, whoever asks.
    #[error("{0}")]
    NotForCaller(&'static str),
    /// It is personal, and the gate asks for itself.
    #[error("it takes a personal account, and nobody in particular is asking")]
    Nobody,
    /// It cannot be had now. For the operator too; it says nothing of answers or secrets.
    #[error("the gateway's credential cannot be had: {0}")]
    Failed(String),
}

/// A credential that was made.
#[derive(Clone, Debug)]
pub enum Made {
    /// There is nothing to show.
    Nothing,
    /// What the gateway asks, and nobody else.
    Common(Arc<dyn Credential>),
    /// Each person's own; its pages are [`Linking`]'s.
    Personal(UserOauth),
}

impl Made {
    /// What the gateway asks.
    pub fn credential(&self) -> Option<Arc<dyn Credential>> {
        match self {
            Self::Nothing => None,
            Self::Common(credential) => Some(Arc::clone(credential)),
            Self::Personal(credential) => Some(Arc::new(credential.clone())),
        }
    }
}

/// The credential that `config` describes, for the server `name` at `url`.
///
/// # Errors
/// What is wrong with it.
pub fn credential(
    config: &CredentialConfig,
    name: &ServerName,
    url: &Url,
    means: &Means,
) -> Result<Made, String> {
    Ok(match config {
        CredentialConfig::None => Made::Nothing,
        CredentialConfig::Secret(config) => {
            let (secrets, clock) = (Arc::clone(&means.secrets), Arc::clone(&means.clock));
            Made::Common(Arc::new(SecretCredential::new(config, secrets, clock)?))
        }
        CredentialConfig::ClientCredentials(config) => {
            Made::Common(Arc::new(ClientCredentials::new(url, config, means)))
        }
        CredentialConfig::TokenExchange(config) => {
            Made::Common(Arc::new(TokenExchange::new(name, url, config, means)))
        }
        CredentialConfig::EntraObo(config) => Made::Common(Arc::new(EntraObo::new(name, config, means)?)),
        CredentialConfig::UserOauth(config) => Made::Personal(UserOauth::new(name, url, config, means)),
    })
}

/// What the outside world lends a credential.
#[derive(Clone)]
pub struct Means {
    /// A way to the server, which is trusted as the operator says.
    pub ask: Arc<dyn Fetch>,
    /// A way to authorization servers.
    pub issuers: Arc<dyn Fetch>,
    /// Where secrets are read.
    pub secrets: Arc<dyn Secrets>,
    /// The same, at once.
    pub read: ReadSecret,
    /// The tokens that callers came with, where a server takes tokens in exchange for them.
    pub subjects: Arc<SubjectTokens>,
    /// What people's sign-ins at the tenant left.
    pub assertions: Assertions,
    /// The gate's registration in the tenant that signs people in, if a tenant does.
    pub provider: Option<EntraAppConfig>,
    /// Where linked accounts are kept.
    pub links: Arc<dyn Links>,
    /// What addresses and forms are marked with.
    pub sealer: Arc<Sealer>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where unguessable bytes come from.
    pub entropy: Arc<dyn Entropy>,
    /// Where browsers reach the gate, without a query: `https://mcp.example.com/`.
    pub base: Url,
    /// Where the gate's client metadata document is; only where anybody can read it by https.
    pub document: Option<Url>,
}

impl Means {
    /// Where client metadata documents are, below a base that authorization servers can reach (spec.md C-60).
    pub fn document_below(base: &Url) -> Option<Url> {
        (base.scheme() == "https").then(|| below(base, "/oauth/client.json"))
    }

    /// Where authorization servers send people back to that name themselves in their answers (RFC 9207).
    fn common_callback(&self) -> Url {
        below(&self.base, "/connect/callback")
    }

    /// Where `issuer` alone sends people back to: what comes there is known to be its answer without its saying so, for nowhere
    /// else is this address ours (RFC 9700 §4.4.2.2; attacks.md AA-33).
    fn own_callback(&self, issuer: &str) -> Url {
        let digest = Digest::of(issuer.as_bytes()).0;
        let name: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        below(&self.base, &format!("/connect/callback/{name}"))
    }

    /// Where `server` sends people back to.
    fn callback(&self, server: &AuthorizationServer) -> Url {
        if server.says_iss { self.common_callback() } else { self.own_callback(&server.issuer) }
    }

    /// Where `account` is linked. The mark tells its own person from others, and nobody who it is.
    fn connect_url(&self, account: &Account) -> Url {
        let mut url = below(&self.base, &format!("/connect/{}", account.server));
        url.query_pairs_mut().append_pair("for", &self.sealer.mark(&connect_parts(account)));
        url
    }

    fn is_for(&self, account: &Account, mark: &str) -> bool {
        self.sealer.is_marked(&connect_parts(account), mark)
    }

    /// What the gate says of itself to authorization servers that send people back to `callback` (RFC 7591 §2).
    fn self_description(&self, callback: &Url) -> Map<String, Value> {
        let kind = if self.base.scheme() == "https" { "web" } else { "native" };
        let members = [
            ("client_name", json!("Bartizan")),
            ("redirect_uris", json!([callback])),
            ("grant_types", json!(["authorization_code", "refresh_token"])),
            ("response_types", json!(["code"])),
            ("application_type", json!(kind)),
        ];
        members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

fn below(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_query(None);
    url.set_path(&format!("{}{path}", base.path().trim_end_matches('/')));
    url
}

fn connect_parts(account: &Account) -> [&[u8]; 4] {
    let (issuer, subject) = (account.issuer.as_bytes(), account.subject.as_bytes());
    [b"connect", account.server.as_str().as_bytes(), issuer, subject]
}

/// Reads secrets where they are kept.
#[async_trait]
pub trait Secrets: Send + Sync {
    /// The secret as it is now.
    ///
    /// # Errors
    /// Why it cannot be read, for the operator.
    async fn read(&self, from: &SecretRef) -> Result<Secret, String>;
}

/// A header value that no log shows.
///
/// # Errors
/// [`Unobtainable::Failed`] for what fits no header, which includes every line end (attacks.md TP-06).
fn sensitive(text: &Secret) -> Result<HeaderValue, Unobtainable> {
    let mut value = HeaderValue::from_str(text.reveal())
        .map_err(|_| Unobtainable::Failed("it holds characters that no header line can".into()))?;
    value.set_sensitive(true);
    Ok(value)
}
