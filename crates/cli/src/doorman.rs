//! Who tells who is who: from `[identity]` to what the listener goes by.

mod offered;
mod reception;

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, anyhow};
use async_trait::async_trait;
use bartizan_egress::{Egress, TlsOptions};
use bartizan_gateway::{
    Gate,
    authenticator::{Authenticator, Tokens},
    pages::Pages,
    quota::CountedReplays,
    record::IdentityLedger,
};
use bartizan_model::{Clock, Secret, SecretRef, SystemClock, Timestamp};
use bartizan_oauth::{
    DenyList, DpopNonces, EgressFetch, Facade, FacadeSurroundings, Fetch, Graph, GroupSource, Ledger,
    MemoryReplays, Replays, ResourceServer, ResourceSettings, SharedReplays, SubjectTokens, Surroundings,
    facade::{Directory, DirectoryUnavailable, Person, Standing},
    outbound::{Assertions, EntraMeans},
    signin::{
        Decisions, Described, LOCAL, ProviderConfig, Recheck, SignIn, SignInSettings, SignInSurroundings,
    },
};
use bartizan_store::{
    Browsers, Database, DatabaseError, Dialect, OsEntropy, Sealer, StoredBrowsers, StoredConsents,
    StoredGrants, StoredPending, StoredRegistrations, StoredResponses, StoredSigningKeys,
    grants::{Grants, Revocation as Revoked, RevokedKind},
    links::LinkError,
    responses::{LONGEST_TOKEN, Response as Revocation, Target},
};
use tokio::task::AbortHandle;
use url::Url;

use crate::{
    config::Config,
    endpoints::{self, Desk},
    identity::Mode,
    secrets,
    state::State,
};

use offered::{administered, browsers, scopes};
pub use offered::{facade_config, offered};
use reception::Reception;

/// DPoP proofs that are remembered at once: at two minutes each, over sixteen hundred a second, and over a hundred for one key.
const PROOFS: usize = 200_000;
/// The longest that something can come of a sign-in: a browser stays signed in for 30 days at most, and what is granted there
/// lasts 366.
const LONGEST_SIGN_IN: Duration = Duration::from_secs(400 * 24 * 60 * 60);
/// How often expired browsers and sign-ins are forgotten.
const SWEEP: Duration = Duration::from_secs(300);
/// How often it is looked what other processes revoked, and how far their clocks may be apart.
const RECALL: Duration = Duration::from_secs(2);
const APART: Duration = Duration::from_secs(120);

/// Knows who may come in, and what of that outlives a change of the configuration.
pub struct Doorman {
    replays: Arc<dyn Replays>,
    denied: Arc<DenyList>,
    subjects: Arc<SubjectTokens>,
    assertions: Assertions,
    database: Database,
    sealer: Arc<Sealer>,
    gate: Arc<Gate>,
    grants: StoredGrants,
    browsers: StoredBrowsers,
    decisions: Arc<dyn Decisions>,
    current: Mutex<Current>,
}

/// What is in force.
#[derive(Default)]
struct Current {
    facade: Option<Arc<Facade>>,
    /// What the facade does beside answering.
    upkeep: Vec<AbortHandle>,
    /// Revocations that were carried out.
    taken_back: Vec<Revocation>,
}

/// How callers are known, and who answers beside the MCP endpoints.
pub struct Admission {
    /// Who may come in.
    pub authenticator: Authenticator,
    /// Pages and OAuth endpoints.
    pub pages: Vec<Arc<dyn Pages>>,
    facade: Option<(Arc<Facade>, Arc<SignIn>)>,
    /// The endpoints at which the tokens of callers are exchanged for others.
    exchanges: Vec<String>,
}

impl Admission {
    /// Our own authorization server, where we are one.
    pub fn facade(&self) -> Option<&Facade> {
        self.facade.as_ref().map(|(facade, _)| facade.as_ref())
    }
}

impl Doorman {
    /// A doorman who has seen nobody yet, and shows people what waits for their `decisions`.
    pub async fn new(
        state: &State,
        gate: &Arc<Gate>,
        decisions: Arc<dyn Decisions>,
        desk: &Desk,
        denied: Arc<DenyList>,
    ) -> anyhow::Result<Self> {
        let (database, sealer) = (state.database().await?, state.sealer().await?);
        let grants = StoredGrants::new(database.clone(), sealer.clone());
        let since = Timestamp::from_unix(0);
        recall(&grants, &denied, since).await.context("what was revoked cannot be read")?;
        Ok(Self {
            replays: replays(&database, &grants, gate),
            grants,
            denied,
            subjects: Arc::clone(&desk.subjects),
            assertions: desk.assertions.clone(),
            browsers: StoredBrowsers::new(database.clone(), sealer.clone()),
            database,
            sealer,
            gate: Arc::clone(gate),
            decisions,
            current: Mutex::default(),
        })
    }

    /// The gate's database.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// What marks and seals what is in it.
    pub fn sealer(&self) -> &Arc<Sealer> {
        &self.sealer
    }

    /// What is denied before its time.
    pub fn denied(&self) -> &Arc<DenyList> {
        &self.denied
    }

    /// Verifies tokens for `resources` alone: of `[[identity.issuers]]`, and of `facade`, our own authorization server.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn resource_server(
        &self,
        config: &Config,
        base: &Path,
        resources: Vec<ResourceSettings>,
        facade: Option<&Facade>,
    ) -> Result<ResourceServer, Vec<String>> {
        let egress = endpoints::egress(config);
        let surroundings = Surroundings {
            clock: Arc::new(SystemClock),
            fetch: &|ca: Option<&Path>| way_to_issuer(&egress, base, ca),
            secret: &|secret: &SecretRef| read(secret, base),
            replays: self.replays.clone(),
            groups: None,
            denied: Arc::clone(&self.denied),
            // Nothing is done in an administrator's name elsewhere.
            subjects: None,
            nonces: config
                .identity
                .resource_server
                .dpop_nonces
                .then(|| DpopNonces::new(Arc::clone(&self.sealer), Arc::new(SystemClock))),
            facade,
        };
        ResourceServer::new(&config.identity.resource_server, resources, surroundings)
    }

    /// Who may come in by `config`, for a gate that listens at `address`.
    pub async fn admission(
        &self,
        config: &Config,
        base: &Path,
        state: &State,
        address: SocketAddr,
        desk: &Desk,
    ) -> anyhow::Result<Admission> {
        let identity = &config.identity;
        if identity.dangerous_open {
            return Ok(Admission {
                authenticator: Authenticator::Open,
                pages: Vec::new(),
                facade: None,
                exchanges: Vec::new(),
            });
        }
        let egress = endpoints::egress(config);
        let fetch = |ca: Option<&Path>| way_to_issuer(&egress, base, ca);
        let secret = |secret: &SecretRef| read(secret, base);
        let resources = config.resources(address)?;
        let ledger = self.ledger(config, &resources);
        let graph = graph(config, base, &egress)?;
        let groups = graph.clone().filter(|_| identity.graph.as_ref().is_some_and(|graph| graph.groups));
        let groups = groups.map(|graph| graph as Arc<dyn GroupSource>);
        let facade = match identity.mode {
            Mode::ResourceServer => None,
            Mode::Facade | Mode::Local => {
                let surroundings = FacadeSurroundings {
                    public_url: config.public_url(address)?,
                    clock: Arc::new(SystemClock),
                    entropy: Arc::new(OsEntropy),
                    fetch: &fetch,
                    strangers: Arc::new(endpoints::egress_for_strangers(config)),
                    secret: &secret,
                    grants: Arc::new(StoredGrants::new(self.database.clone(), self.sealer.clone())),
                    registrations: Arc::new(StoredRegistrations::new(
                        self.database.clone(),
                        self.sealer.clone(),
                    )),
                    signing_keys: Arc::new(StoredSigningKeys::new(
                        self.database.clone(),
                        self.sealer.clone(),
                    )),
                    sealer: Arc::clone(&self.sealer),
                    denied: Arc::clone(&self.denied),
                    directory: self.directory(config, base, &egress, graph),
                    people_of: people_of(config),
                    ledger: Arc::clone(&ledger),
                };
                let mut all: Vec<_> = resources.iter().map(|resource| offered(config, resource)).collect();
                all.extend(administered(config));
                let facade = Facade::new(facade_config(config), all, surroundings).map_err(problems)?;
                facade.catch_up().await.context("the facade's signing keys")?;
                Some(facade)
            }
        };
        let server = ResourceServer::new(
            &identity.resource_server,
            resources.clone(),
            Surroundings {
                clock: Arc::new(SystemClock),
                fetch: &fetch,
                secret: &secret,
                replays: self.replays.clone(),
                groups: groups.clone(),
                denied: Arc::clone(&self.denied),
                subjects: Some(Arc::clone(&desk.subjects)),
                nonces: identity
                    .resource_server
                    .dpop_nonces
                    .then(|| DpopNonces::new(Arc::clone(&self.sealer), Arc::new(SystemClock))),
                facade: facade.as_deref(),
            },
        )
        .map_err(problems)?;
        let exchanges = exchanging(config, &resources);
        let prefix = config.server.public_url.as_ref().map_or("", Url::path);
        let tokens = Tokens::new(Arc::new(server), prefix);
        let authenticator = match identity.mode {
            Mode::Local => Authenticator::Owner { token: state.token()?, tokens },
            Mode::Facade | Mode::ResourceServer => Authenticator::Tokens(tokens),
        };
        let Some(facade) = facade else {
            return Ok(Admission { authenticator, pages: Vec::new(), facade: None, exchanges });
        };
        let linking = Arc::new(endpoints::linking(config, base, desk, Arc::clone(&ledger))?);
        let sign_in = self.sign_in(config, base, address, &facade, groups, ledger)?;
        let sign_in = Arc::new(sign_in.with_accounts(Arc::clone(&linking)));
        let reception = Reception {
            facade: Arc::clone(&facade),
            sign_in: Arc::clone(&sign_in),
            linking,
            responses: StoredResponses::new(self.database.clone()),
        };
        Ok(Admission {
            authenticator,
            pages: vec![Arc::new(reception)],
            facade: Some((facade, sign_in)),
            exchanges,
        })
    }

    fn sign_in(
        &self,
        config: &Config,
        base: &Path,
        address: SocketAddr,
        facade: &Arc<Facade>,
        groups: Option<Arc<dyn GroupSource>>,
        ledger: Arc<dyn Ledger>,
    ) -> anyhow::Result<SignIn> {
        let (database, sealer) = (&self.database, &self.sealer);
        let (egress, resources) = (endpoints::egress(config), config.resources(address)?);
        let all: Vec<String> = config.servers.iter().map(|server| server.name.to_string()).collect();
        let described = resources.iter().map(|resource| Described {
            url: resource.url.to_string(),
            servers: match config.servers.iter().find(|server| server.name.as_str() == resource.name) {
                Some(server) => vec![server.name.to_string()],
                None => all.clone(),
            },
            scopes: scopes(config, resource),
            asks_each_time: false,
        });
        let administered = administered(config).map(|admin| Described {
            url: admin.url.to_string(),
            servers: Vec::new(),
            scopes: admin.scopes,
            asks_each_time: admin.by_consent_only,
        });
        let settings = SignInSettings {
            public_url: config.public_url(address)?,
            provider: provider(config).cloned(),
            browsers: browsers(config),
            resources: described.chain(administered).collect(),
        };
        let surroundings = SignInSurroundings {
            desk: Arc::clone(facade) as _,
            clock: Arc::new(SystemClock),
            entropy: Arc::new(OsEntropy),
            sealer: Arc::clone(sealer),
            consents: Arc::new(StoredConsents::new(database.clone(), sealer.clone())),
            browsers: Arc::new(StoredBrowsers::new(database.clone(), sealer.clone())),
            pending: Arc::new(StoredPending::new(database.clone(), sealer.clone())),
            fetch: &|ca: Option<&Path>| way_to_issuer(&egress, base, ca),
            secret: secrets::reader(base),
            groups,
            ledger,
            decisions: Some(Arc::clone(&self.decisions)),
            assertions: Some(self.assertions.clone()).filter(|_| keeps_sign_ins(config)),
        };
        SignIn::new(settings, surroundings).map_err(problems)
    }

    /// Who knows whether people are still there, if anybody is to be asked.
    fn directory(
        &self,
        config: &Config,
        base: &Path,
        egress: &Egress,
        graph: Option<Arc<Graph>>,
    ) -> Option<Arc<dyn Directory>> {
        let mut all: Vec<Arc<dyn Directory>> = Vec::new();
        if config.identity.graph.as_ref().is_some_and(|graph| graph.people) {
            all.extend(graph.map(|graph| graph as Arc<dyn Directory>));
        }
        if let (Mode::Facade, Some(ProviderConfig::Oidc(provider))) =
            (config.identity.mode, &config.identity.provider)
        {
            let means = EntraMeans {
                fetch: way_to_issuer(egress, base, provider.ca.as_deref()),
                secret: secrets::reader(base),
                clock: Arc::new(SystemClock),
                entropy: Arc::new(OsEntropy),
            };
            let recheck = Recheck::new(provider, self.assertions.clone(), means);
            all.extend(recheck.map(|recheck| Arc::new(recheck) as Arc<dyn Directory>));
        }
        let browsers = self.browsers.clone();
        (!all.is_empty()).then(|| Arc::new(Leaving { all, browsers }) as Arc<dyn Directory>)
    }

    /// Keeps the record of who comes in, with the servers of `config` by name.
    fn ledger(&self, config: &Config, resources: &[ResourceSettings]) -> Arc<dyn Ledger> {
        let server = |resource: &ResourceSettings| {
            let server = config.servers.iter().find(|server| server.name.as_str() == resource.name)?;
            Some((resource.url.to_string(), server.name.clone()))
        };
        let servers = resources.iter().filter_map(server).collect();
        Arc::new(IdentityLedger::new(self.gate.recorder(), servers))
    }

    /// Ends what an earlier configuration did beside answering, and begins what this one does.
    pub fn adopt(&self, admission: &Admission) {
        self.subjects.keep_for(admission.exchanges.iter().cloned());
        self.gate.responses().issue_as(admission.facade().map(Facade::issuer));
        let mut current = self.current();
        current.upkeep.iter().for_each(AbortHandle::abort);
        current.facade = admission.facade.as_ref().map(|(facade, _)| Arc::clone(facade));
        current.upkeep = match &admission.facade {
            // A facade does so itself.
            None => {
                vec![tokio::spawn(keep_denying(self.grants.clone(), Arc::clone(&self.denied))).abort_handle()]
            }
            Some((facade, sign_in)) => vec![
                tokio::spawn(Arc::clone(facade).keep_up()).abort_handle(),
                tokio::spawn(sweep(Arc::clone(sign_in), self.assertions.clone())).abort_handle(),
            ],
        };
    }

    /// Takes back what was granted to whom `revocations` cut off: tokens, grants, sign-ins. What cannot be done now is tried
    /// again the next time.
    pub async fn take_back(&self, revocations: &[Revocation]) {
        self.current().taken_back.retain(|done| revocations.contains(done));
        for revocation in revocations {
            if self.current().taken_back.contains(revocation) {
                continue;
            }
            match self.revoke(revocation).await {
                Ok(()) => self.current().taken_back.push(revocation.clone()),
                Err(error) => {
                    tracing::error!(%error, "grants of somebody who was cut off were not taken back; trying again")
                }
            }
        }
    }

    async fn revoke(&self, revocation: &Revocation) -> Result<(), DatabaseError> {
        let facade = self.current().facade.clone();
        match &revocation.target {
            Target::Person { issuer, subject } => {
                self.deny(RevokedKind::Subject, issuer, subject, revocation.at).await?;
                if let Some(facade) = facade {
                    facade.revoke_person(issuer, subject).await?;
                }
                self.browsers.close_all(issuer, subject).await?;
                self.assertions.forget(issuer, subject).await.map_err(forgetting)?;
            }
            Target::Client { issuer, client } => {
                self.deny(RevokedKind::Client, issuer, client, revocation.at).await?;
                if let Some(facade) = facade {
                    facade.revoke_client(client).await?;
                }
            }
            Target::Server(_) | Target::Tool { .. } => {}
        }
        self.subjects.sweep();
        Ok(())
    }

    /// Denies what somebody was given until `at`: here at once, and on the disk until nothing of it can be alive any more, for a
    /// release lets them in again, not what they held, and a restart forgets what is in memory.
    async fn deny(
        &self,
        kind: RevokedKind,
        issuer: &str,
        name: &str,
        at: Timestamp,
    ) -> Result<(), DatabaseError> {
        let now = SystemClock.now();
        let (issuer, name) = (issuer.to_owned(), name.to_owned());
        let revoked = Revoked { kind, issuer, name, at, until: now.plus(LONGEST_TOKEN) };
        // Here first: what cannot be written down is denied all the same.
        self.denied.note(&revoked, now);
        self.grants.revoke(&revoked).await
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Directories; whoever one of them does not stand by is signed out here, too, or their browser would go on making grants.
struct Leaving {
    all: Vec<Arc<dyn Directory>>,
    browsers: StoredBrowsers,
}

#[async_trait]
impl Directory for Leaving {
    async fn standing(&self, person: &Person) -> Result<Standing, DirectoryUnavailable> {
        let standing = self.all.standing(person).await?;
        if standing != Standing::Active
            && let Err(error) = self.browsers.close_all(&person.issuer, &person.subject).await
        {
            tracing::error!(%error, "somebody who is gone was not signed out");
            return Err(DirectoryUnavailable);
        }
        Ok(standing)
    }
}

/// Who signs people in; nobody on a laptop, whose owner the gate knows.
fn provider(config: &Config) -> Option<&ProviderConfig> {
    match config.identity.mode {
        Mode::Facade => config.identity.provider.as_ref(),
        Mode::Local | Mode::ResourceServer => None,
    }
}

/// Who vouches for the people who sign in at the gate.
fn people_of(config: &Config) -> String {
    provider(config).map_or_else(|| LOCAL.to_owned(), ProviderConfig::issuer)
}

/// Whether what sign-ins at the provider leave is used by anybody.
fn keeps_sign_ins(config: &Config) -> bool {
    match &config.identity.provider {
        Some(ProviderConfig::Oidc(provider)) => provider.recheck.is_some(),
        Some(ProviderConfig::Entra(_)) | None => {
            config.servers.iter().any(|server| server.credential.takes_sign_ins())
        }
    }
}

/// Microsoft Graph, if it is to be asked.
fn graph(config: &Config, base: &Path, egress: &Egress) -> anyhow::Result<Option<Arc<Graph>>> {
    let Some(settings) = &config.identity.graph else { return Ok(None) };
    let provider = endpoints::provider(config);
    let ca = settings.app.as_ref().or(provider.as_ref()).and_then(|app| app.ca.as_deref());
    let means = EntraMeans {
        fetch: way_to_issuer(egress, base, ca),
        secret: secrets::reader(base),
        clock: Arc::new(SystemClock),
        entropy: Arc::new(OsEntropy),
    };
    let graph = Graph::new(settings, provider.as_ref(), means);
    Ok(Some(Arc::new(graph.map_err(|problem| anyhow!("[identity.graph]: {problem}"))?)))
}

/// The endpoints whose servers take tokens that are exchanged for those of callers.
fn exchanging(config: &Config, resources: &[ResourceSettings]) -> Vec<String> {
    let takes: Vec<_> = config.servers.iter().filter(|server| server.credential.takes_subjects()).collect();
    let is_one = |resource: &&ResourceSettings| {
        let is_servers = config.servers.iter().any(|server| server.name.as_str() == resource.name);
        // What is no single server's is everybody's.
        !takes.is_empty() && (!is_servers || takes.iter().any(|server| server.name.as_str() == resource.name))
    };
    resources.iter().filter(is_one).map(|resource| resource.url.to_string()).collect()
}

fn forgetting(error: LinkError) -> DatabaseError {
    match error {
        LinkError::Database(error) => error,
        LinkError::Unsealed(table) => DatabaseError::Value(table),
    }
}

fn problems(problems: Vec<String>) -> anyhow::Error {
    anyhow!("[identity]: {}", problems.join("; "))
}

fn read(secret: &SecretRef, base: &Path) -> Result<Secret, String> {
    secrets::read(secret, base).map_err(|error| format!("cannot be had: {error:#}"))
}

fn way_to_issuer(egress: &Egress, base: &Path, ca: Option<&Path>) -> Arc<dyn Fetch> {
    let tls = TlsOptions { ca: ca.map(|ca| base.join(ca)), ..TlsOptions::default() };
    Arc::new(EgressFetch::new(egress.clone(), tls))
}

/// Denies what was revoked at `since` or later, by whichever process.
async fn recall(grants: &StoredGrants, denied: &DenyList, since: Timestamp) -> Result<(), DatabaseError> {
    let now = SystemClock.now();
    for revoked in grants.revocations(since, now).await? {
        denied.note(&revoked, now);
    }
    Ok(())
}

/// Keeps up with what other processes on the same store revoke, and forgets what matters no more.
async fn keep_denying(grants: StoredGrants, denied: Arc<DenyList>) {
    let (mut since, mut swept) = (SystemClock.now(), SystemClock.now());
    loop {
        tokio::time::sleep(RECALL).await;
        let now = SystemClock.now();
        // The clocks of processes may be apart.
        let from = Timestamp::from_unix(since.as_unix().saturating_sub(APART.as_secs()));
        match recall(&grants, &denied, from).await {
            Ok(()) => since = now,
            Err(error) => tracing::error!(%error, "what others have revoked cannot be read; trying again"),
        }
        if now.since(swept) >= SWEEP {
            swept = now;
            if let Err(error) = grants.forget(now).await {
                tracing::warn!(%error, "revocations that matter no more were not forgotten");
            }
        }
    }
}

/// Which DPoP proofs were used: a database in a file is one gate's, which remembers that itself, and at most counts together with
/// others.
fn replays(database: &Database, grants: &StoredGrants, gate: &Arc<Gate>) -> Arc<dyn Replays> {
    let here = MemoryReplays::new(PROOFS);
    match database.dialect() {
        Dialect::Sqlite => Arc::new(CountedReplays::new(here, Arc::clone(gate))),
        Dialect::Postgres => Arc::new(SharedReplays::new(here, Arc::new(grants.clone()))),
    }
}

async fn sweep(sign_in: Arc<SignIn>, assertions: Assertions) {
    let mut ticks = tokio::time::interval(SWEEP);
    loop {
        ticks.tick().await;
        if let Err(error) = sign_in.sweep().await {
            tracing::warn!(%error, "expired sign-ins were not forgotten");
        }
        if let Err(error) = assertions.sweep(LONGEST_SIGN_IN).await {
            tracing::warn!(%error, "what long ago sign-ins left was not forgotten");
        }
    }
}
