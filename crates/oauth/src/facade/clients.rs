//! Finding a client by its id: written down by the operator, described at its address, or registered.

use std::{collections::BTreeSet, collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use bartizan_model::Clock;
use bartizan_store::{Digest, Registrations};

use super::{
    ClientConfig, FacadeConfig, FacadeSurroundings, Registration, Unanswerable,
    client::{Client, ClientKeys, Metadata, Method, Origin},
    document::{self, Documents, NoDocument},
    refusal::Refusal,
    register,
};
use crate::key::KeySet;

/// The clients there are.
pub(crate) struct Clients {
    configured: HashMap<String, Arc<Client>>,
    documents: Option<Documents>,
    registered: Option<Arc<dyn Registrations>>,
    clock: Arc<dyn Clock>,
}

/// Why there is no client of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoClient {
    Later(u64),
    Unavailable,
    Unknown,
    /// Its metadata document cannot be used.
    Unusable,
}

impl NoClient {
    /// What the person reads.
    pub fn page(self) -> Unanswerable {
        let (status, words, reason) = match self {
            Self::Later(_) => {
                (429, "Too many applications are asking. Try again in a minute.", "rate.exceeded")
            }
            Self::Unavailable => {
                (503, "The gateway cannot answer at the moment. Try again.", "facade.unavailable")
            }
            Self::Unknown => (
                400,
                "The application is not known here. If it was, nobody finished signing in within an hour, or it was not used for long, and its \
                 registration has lapsed, or this gate was set up anew: have the application forget its sign-in, and connect again.",
                "client.unknown",
            ),
            Self::Unusable => (
                400,
                "What the application publishes about itself could not be had, or cannot be used. The gate's log says which.",
                "client.document",
            ),
        };
        Unanswerable::Page { status, words, reason }
    }
}

impl From<NoClient> for Refusal {
    fn from(lost: NoClient) -> Self {
        match lost {
            NoClient::Later(seconds) => Self::TooOften(seconds),
            // A document that cannot be had now must not look like a client that is gone; and whether it could not be had
            // or not be used is not for strangers to learn (spec.md G-26).
            NoClient::Unavailable | NoClient::Unusable => Self::Unavailable,
            NoClient::Unknown => Self::Client { by_header: false },
        }
    }
}

impl Clients {
    /// The clients of a configuration; what is wrong with their credentials is added to `problems`.
    pub fn new(config: &FacadeConfig, lent: &FacadeSurroundings<'_>, problems: &mut Vec<String>) -> Self {
        let mut configured = HashMap::new();
        for client in &config.clients {
            match Client::configured(client, lent) {
                Ok(read) => {
                    configured.insert(client.id.clone(), Arc::new(read));
                }
                Err(why) => {
                    problems.push(format!("[[identity.clients]] `{}`: {why}", client.id.escape_debug()))
                }
            }
        }
        let hosts = config.client_documents.hosts.clone();
        let documents = || {
            Documents::new(
                Arc::clone(&lent.strangers),
                Arc::clone(&lent.clock),
                hosts,
                Arc::clone(&lent.ledger),
            )
        };
        let registered = || Arc::clone(&lent.registrations);
        Self {
            configured,
            documents: config.client_documents.enabled.then(documents),
            registered: (config.registration != Registration::Off).then(registered),
            clock: Arc::clone(&lent.clock),
        }
    }

    /// The client of this id, asked for by whoever is at `peer`; `None` if it is a person who has signed in.
    pub async fn find(&self, id: &str, peer: Option<IpAddr>) -> Result<Arc<Client>, NoClient> {
        if let Some(client) = self.configured.get(id) {
            return Ok(Arc::clone(client));
        }
        if document::is_address(id) {
            let documents = self.documents.as_ref().ok_or(NoClient::Unknown)?;
            return documents.find(id, peer).await.map_err(|lost| match lost {
                NoDocument::Id => NoClient::Unknown,
                NoDocument::Later(seconds) => NoClient::Later(seconds),
                NoDocument::Unusable => NoClient::Unusable,
            });
        }
        let registered = self.registered.as_ref().ok_or(NoClient::Unknown)?;
        if !register::is_id(id) {
            return Err(NoClient::Unknown);
        }
        let now = self.clock.now();
        let found = registered.find(id, now).await.map_err(|error| {
            tracing::error!(%error, "registered clients are out of reach");
            NoClient::Unavailable
        })?;
        let found = found.ok_or(NoClient::Unknown)?;
        let metadata: Metadata = serde_json::from_str(&found.content).map_err(|_| NoClient::Unknown)?;
        let keys = match &metadata.jwks {
            Some(text) => KeySet::parse(text.as_bytes()).ok().map(ClientKeys::Given),
            None => None,
        };
        let origin = Origin::Registered { until: found.expires_at };
        Ok(Arc::new(Client { metadata, origin, keys, introspects: false }))
    }

    /// Notes that somebody let `client` in: it has shown a code or a refresh token of its own. A registration that is used so
    /// does not expire; that it is named in a request, which anybody can, is no use.
    pub async fn used(&self, client: &Client) {
        let (Origin::Registered { until }, Some(registered)) = (&client.origin, &self.registered) else {
            return;
        };
        let now = self.clock.now();
        // Once a day is enough.
        if until.since(now) < register::LIFETIME - Duration::from_secs(24 * 3600)
            && let Err(error) = registered.extend(client.id(), now.plus(register::LIFETIME)).await
        {
            tracing::warn!(%error, "a registration could not be extended");
        }
    }
}

impl Client {
    fn configured(config: &ClientConfig, lent: &FacadeSurroundings<'_>) -> Result<Self, String> {
        let method = match &config.secret {
            Some(reference) => {
                let secret = (lent.secret)(reference).map_err(|why| format!("`secret` {why}"))?;
                if secret.reveal().len() < 16 {
                    return Err("`secret` is shorter than 16 characters".to_owned());
                }
                Method::Secret(Digest::of(secret.reveal().as_bytes()).to_string())
            }
            None if config.jwks.is_some() || config.jwks_url.is_some() => Method::PrivateKey,
            None => Method::Public,
        };
        let metadata = Metadata {
            id: config.id.clone(),
            name: config.name.clone(),
            redirect_uris: config.redirect_uris.clone(),
            grants: config.grants.clone(),
            scopes: (!config.scopes.is_empty())
                .then(|| config.scopes.iter().cloned().collect::<BTreeSet<_>>()),
            method,
            jwks: config.jwks.as_ref().map(ToString::to_string),
            jwks_url: config.jwks_url.clone(),
            dpop: config.dpop,
        };
        let keys = ClientKeys::of(&metadata, (lent.fetch)(None), Arc::clone(&lent.clock));
        if metadata.method == Method::PrivateKey && keys.is_none() {
            return Err("`jwks` holds no key that can be used".to_owned());
        }
        Ok(Self { metadata, origin: Origin::Configured, keys, introspects: config.introspects })
    }
}
