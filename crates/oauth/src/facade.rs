//! The authorization server that MCP clients see, in front of an external identity provider (spec.md F).
//!
//! Start from [`Facade`]. [`Facade::answer`] is what clients call: metadata, keys, tokens, registration, revocation,
//! introspection. [`Facade::begin`] checks an authorization request; another half asks the person and has them sign in;
//! [`Facade::complete`] or [`Facade::deny`] then takes the answer back to the client.
//!
//! ```text
//! let facade = Facade::new(config, resources, surroundings)?;
//! facade.catch_up().await?;
//! tokio::spawn(Arc::clone(&facade).keep_up());
//! let gate = ResourceServer::new(&rules, endpoints, Surroundings { facade: Some(&facade), … })?;
//! ```
//!
//! What it promises: a token is for one resource, one client and at most ten minutes, and all that came of one sign-in
//! ends together; a code or refresh token that is used twice ends it; what the identity provider gave us is never in
//! anything a client gets (spec.md F-39); whoever reads the store learns no code, token, secret or key.

mod answer;
mod authenticate;
mod authorize;
mod client;
mod clients;
mod config;
mod described;
mod desk;
mod document;
mod form;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod grants;
mod introspect;
mod keyring;
mod known;
mod limits;
mod metadata;
mod mint;
mod redirect;
mod refusal;
mod register;
mod request;
mod revoke;
#[cfg(test)]
mod tests;
mod token;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bartizan_model::{Clock, Entropy, Secret, SecretRef, Timestamp};
use bartizan_store::{Grants, Registrations, Sealer, SigningKeys};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderValue, Method, Response};
use url::Url;

pub(crate) use authorize::person_of;
pub use authorize::{Incomplete, Unanswerable};
pub use config::{
    AssertionIssuer, ClientConfig, ClientDocuments, ExchangeIssuer, FacadeConfig, GrantType, Registration,
};
pub use document::{FetchStranger, FetchingStranger};
pub use keyring::FacadeError;
pub(crate) use keyring::Keyring;
pub use request::{Application, Asked, AuthorizationRequest, Person};
pub use revoke::GivenGrant;

use self::{
    answer::{Endpoint, Readers},
    clients::Clients,
    grants::{Exchanged, Trusted},
    known::Known,
    limits::{Patience, Rate},
    metadata::Metadata,
    refusal::Refusal,
};
use crate::{
    Algorithm, DenyList, DpopNonces, Fetch, Ledger,
    profile::{Facade as Ours, Profile},
    verify::{Issuer, Keys},
};

/// An MCP endpoint, as clients ask for tokens for it.
#[derive(Clone, Debug)]
pub struct FacadeResource {
    /// The endpoint's name for people: the server's, or "all servers".
    pub name: String,
    /// The URL clients use; it is the resource's identifier, compared byte for byte, and its tokens' audience.
    pub url: Url,
    /// The scopes it knows, each with what it allows in words.
    pub scopes: BTreeMap<String, String>,
    /// What a client gets that asks for nothing in particular.
    pub default_scopes: Vec<String>,
    /// Only a person at the consent page lets a client in, each time anew; no assertion, exchange or client alone does.
    pub by_consent_only: bool,
}

/// The identity provider's directory: who is still somebody there. It is asked at each refresh (spec.md F-37, B-51).
#[async_trait]
pub trait Directory: Send + Sync {
    /// Whether this person is still somebody, and the sign-in they are known by still good.
    ///
    /// # Errors
    /// [`DirectoryUnavailable`]: nobody can say, so there is no token now.
    async fn standing(&self, person: &Person) -> Result<Standing, DirectoryUnavailable>;
}

/// What a directory says of a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// They may go on, or are not this directory's to judge.
    Active,
    /// They may not sign in any more: nothing that was granted in their name holds.
    Gone,
    /// This sign-in is over; they may sign in anew.
    SignInOver,
}

/// Several directories, each of which has to stand by a person.
#[async_trait]
impl Directory for Vec<Arc<dyn Directory>> {
    async fn standing(&self, person: &Person) -> Result<Standing, DirectoryUnavailable> {
        for directory in self {
            match directory.standing(person).await? {
                Standing::Active => {}
                other => return Ok(other),
            }
        }
        Ok(Standing::Active)
    }
}

/// The directory cannot be asked at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the identity provider's directory cannot be asked")]
pub struct DirectoryUnavailable;

/// What the outside world lends the facade.
pub struct FacadeSurroundings<'a> {
    /// The URL under which clients reach us, without a path. Without its last slash it is our issuer.
    pub public_url: Url,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// A way to a configured issuer that is trusted by these authorities (a PEM file), or by the platform's.
    pub fetch: &'a dyn Fn(Option<&Path>) -> Arc<dyn Fetch>,
    /// A way to addresses that clients give: their metadata documents and keys.
    pub strangers: Arc<dyn FetchStranger>,
    /// Reads a secret; the error says why it cannot be read.
    pub secret: &'a dyn Fn(&SecretRef) -> Result<Secret, String>,
    /// Where grants are kept.
    pub grants: Arc<dyn Grants>,
    /// Where clients are kept that registered themselves.
    pub registrations: Arc<dyn Registrations>,
    /// Where signing keys are kept.
    pub signing_keys: Arc<dyn SigningKeys>,
    /// Makes refresh tokens that only we can follow up.
    pub sealer: Arc<Sealer>,
    /// What is denied before its time: the resource server's own.
    pub denied: Arc<DenyList>,
    /// Who knows whether a person is still one. Without it, somebody who is gone is spoken for until their sign-in ends
    /// (`grant_s`) or [`Facade::revoke_person`].
    pub directory: Option<Arc<dyn Directory>>,
    /// Who vouches for the people who sign in here: the identity provider's issuer, or [`signin::LOCAL`](crate::signin::LOCAL).
    /// What people of anybody else granted is refreshed no more: nobody says that they may still come in.
    pub people_of: String,
    /// Who keeps the record. No token is given out that is not in it.
    pub ledger: Arc<dyn Ledger>,
}

/// The authorization server. One is made for each configuration.
pub struct Facade {
    /// Our issuer, byte for byte as it is in metadata, tokens and answers.
    issuer: String,
    token_url: Url,
    config: FacadeConfig,
    resources: Vec<FacadeResource>,
    clients: Clients,
    trusted: Vec<Trusted>,
    exchanged: Vec<Exchanged>,
    keyring: Arc<Keyring>,
    /// How our own tokens are read.
    own: Issuer,
    registering: Rate,
    /// With who is refused at the endpoints that anybody may call.
    patience: Patience,
    grants: Arc<dyn Grants>,
    registrations: Arc<dyn Registrations>,
    signing_keys: Arc<dyn SigningKeys>,
    sealer: Arc<Sealer>,
    denied: Arc<DenyList>,
    directory: Option<Arc<dyn Directory>>,
    people_of: String,
    ledger: Arc<dyn Ledger>,
    nonces: Option<DpopNonces>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    /// Up to when the revocations of others were read.
    caught_up: Mutex<Timestamp>,
}

/// How often the clients of one address may be refused in a minute for what [`Known::tires`]: a hosted client has one address for all of
/// its people.
const REFUSED_EACH_PER_MINUTE: u32 = 120;
/// The same for all programs of this machine together.
const REFUSED_OURSELVES_PER_MINUTE: u32 = 600;

const POST: &[Method] = &[Method::POST];
const GET: &[Method] = &[Method::GET, Method::HEAD];

impl Facade {
    /// An authorization server for these resources. It has no keys until [`Self::catch_up`].
    ///
    /// # Errors
    /// [`FacadeConfig::problems`], and secrets that cannot be read: everything at once.
    pub fn new(
        config: FacadeConfig,
        resources: Vec<FacadeResource>,
        lent: FacadeSurroundings<'_>,
    ) -> Result<Arc<Self>, Vec<String>> {
        let mut problems = config.problems(&lent.public_url, &resources);
        let issuer = lent.public_url.as_str().trim_end_matches('/').to_owned();
        let clients = Clients::new(&config, &lent, &mut problems);
        let trusted = config.assertion_issuers.iter().filter_map(|one| Trusted::new(one, &lent)).collect();
        let exchanged: Vec<_> =
            config.exchange_issuers.iter().flat_map(|one| Exchanged::of(one, &lent)).collect();
        let token_url = lent.public_url.join("/oauth/token");
        let token_url = match token_url {
            Ok(url) if problems.is_empty() => url,
            Ok(_) => return Err(problems),
            Err(_) => {
                problems.push("[server] public_url has no host".into());
                return Err(problems);
            }
        };
        let keyring = Arc::<Keyring>::default();
        let nonces = DpopNonces::new(Arc::clone(&lent.sealer), Arc::clone(&lent.clock));
        let nonces = Some(nonces).filter(|_| config.dpop_nonces);
        Ok(Arc::new(Self {
            own: own_issuer(&issuer, &keyring, config.access_token_s, &lent.grants, &lent.clock),
            issuer,
            token_url,
            config,
            resources,
            clients,
            trusted,
            exchanged,
            nonces,
            keyring,
            registering: Rate::new(register::EACH_PER_MINUTE, register::ALL_PER_MINUTE)
                .of_ourselves(register::ALL_PER_MINUTE),
            patience: Patience::new(REFUSED_EACH_PER_MINUTE, REFUSED_OURSELVES_PER_MINUTE),
            grants: lent.grants,
            registrations: lent.registrations,
            signing_keys: lent.signing_keys,
            sealer: lent.sealer,
            denied: lent.denied,
            directory: lent.directory,
            people_of: lent.people_of,
            ledger: lent.ledger,
            clock: lent.clock,
            entropy: lent.entropy,
            caught_up: Mutex::new(Timestamp::from_unix(0)),
        }))
    }

    /// Our issuer, exactly as tokens and metadata write it.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The resources there are, for the page that shows what is asked for.
    pub fn resources(&self) -> &[FacadeResource] {
        &self.resources
    }

    /// Us, as one of the issuers a resource server trusts.
    pub(crate) fn own_issuer(&self) -> Issuer {
        own_issuer(&self.issuer, &self.keyring, self.config.access_token_s, &self.grants, &self.clock)
    }

    /// Answers a request to an endpoint that clients call; `None` for every other path. Paths are compared as they were
    /// sent.
    pub async fn answer(&self, asked: &Asked<'_>) -> Option<Response<Bytes>> {
        let endpoint = self.endpoint(asked.path)?;
        let mut response = if asked.method == Method::OPTIONS {
            endpoint.preflight()
        } else if !endpoint.methods.contains(asked.method) {
            endpoint.wrong_method()
        } else {
            let mut known = Known::default();
            self.answer_method(asked, &mut known).await.unwrap_or_else(|refusal| {
                let reason = refusal.reason();
                tracing::info!(path = asked.path, peer = %asked.peer, reason, "the authorization server refuses");
                self.ledger.mention(known.refused(asked, refusal));
                refusal.response()
            })
        };
        if asked.method == Method::HEAD {
            *response.body_mut() = Bytes::new();
        }
        if let (Some(nonces), "/oauth/token") = (&self.nonces, asked.path)
            && let Ok(nonce) = HeaderValue::try_from(nonces.fresh())
        {
            // With every answer, so that the next proof holds it at once (RFC 9449 §8.2).
            response.headers_mut().insert("dpop-nonce", nonce);
        }
        endpoint.share(&mut response, asked.headers, &self.config.cors_origins);
        Some(response)
    }

    /// Answers a request of a method that its endpoint knows.
    async fn answer_method(&self, asked: &Asked<'_>, known: &mut Known) -> Result<Response<Bytes>, Refusal> {
        let is_patient = matches!(asked.path, "/oauth/token" | "/oauth/revoke" | "/oauth/introspect");
        if is_patient {
            self.patience.check(asked.peer, self.clock.now()).map_err(Refusal::TooOften)?;
        }
        let answered = match asked.path {
            "/oauth/jwks" => Ok(answer::document(&self.keyring.published(self.clock.now()))),
            "/oauth/token" => self.token(asked, known).await,
            "/oauth/register" => self.register(asked).await,
            "/oauth/revoke" => self.revoke(asked, known).await,
            "/oauth/introspect" => self.introspect(asked, known).await,
            _ => Ok(answer::document(&Metadata::of(self))),
        };
        if is_patient && answered.as_ref().is_err_and(|refusal| known.tires(*refusal)) {
            self.patience.tire(asked.peer, self.clock.now());
        }
        answered
    }

    fn endpoint(&self, path: &str) -> Option<Endpoint> {
        let public = Endpoint { methods: GET, allow: "GET, HEAD, OPTIONS", readers: Readers::All };
        let shared = Endpoint { methods: POST, allow: "POST, OPTIONS", readers: Readers::Configured };
        match path {
            "/.well-known/oauth-authorization-server"
            | "/.well-known/openid-configuration"
            | "/oauth/jwks" => Some(public),
            "/oauth/register" if self.config.registration == Registration::Off => None,
            "/oauth/register" | "/oauth/revoke" | "/oauth/token" => Some(shared),
            "/oauth/introspect" => Some(Endpoint { readers: Readers::None, ..shared }),
            _ => None,
        }
    }

    /// A text nobody can guess.
    fn secret(&self) -> Secret {
        let mut bytes = [0; 32];
        self.entropy.fill(&mut bytes);
        Secret::new(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// An id nobody can guess: 32 hexadecimal digits.
    fn id(&self) -> String {
        let mut bytes = [0; 16];
        self.entropy.fill(&mut bytes);
        format!("{:032x}", u128::from_be_bytes(bytes))
    }
}

fn own_issuer(
    issuer: &str,
    keyring: &Arc<Keyring>,
    access_token_s: u64,
    grants: &Arc<dyn Grants>,
    clock: &Arc<dyn Clock>,
) -> Issuer {
    let (grants, clock) = (Arc::clone(grants), Arc::clone(clock));
    Issuer {
        name: issuer.to_owned(),
        keys: Keys::Ours(Arc::clone(keyring)),
        algorithms: vec![Algorithm::Es256],
        profile: Profile::Ours(Ours { issuer: issuer.to_owned(), grants, clock }),
        needs_not_before: false,
        max_lifetime: Duration::from_secs(access_token_s),
    }
}
