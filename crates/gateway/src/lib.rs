//! The data plane: the path of a request, and nothing else.
//!
//! Start at [`exchange`], one function read downwards: admit, identify, bind, send, respond. [`modern`] and [`legacy`]
//! are the two eras behind it, [`merged`] makes one server of many, [`upstream`] talks to servers, [`call`] says what
//! of a message is ours. [`wrap`] is the same path over standard input and output.

pub mod apps;
mod asker;
pub mod authenticator;
pub mod badge;
pub mod body;
pub mod call;
pub mod catalog;
pub mod contract;
pub mod documents;
pub mod exchange;
pub mod flow;
pub mod handles;
pub mod inspect;
pub mod inventory;
pub mod legacy;
pub mod limits;
pub mod listener;
pub mod listening;
pub mod merged;
pub mod modern;
mod naming;
pub mod news;
pub mod opinions;
pub mod outbox;
pub mod pages;
pub mod permit;
pub mod program;
pub mod quarantine;
pub mod quota;
pub mod record;
pub mod respond;
pub mod responses;
pub mod server;
pub mod stages;
mod starts;
pub mod upstream;
pub mod wrap;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use arc_swap::ArcSwap;
pub use asker::{Access, Asker};
use bartizan_audit::Log;
use bartizan_mcp::{Refusal, code};
use bartizan_model::{Clock, Entropy, ServerName};
use bartizan_shield::Shield;
use bartizan_store::{Approvals, Flows, Keeper, Sealer, sessions::End};

use catalog::Catalog;
use documents::Readers;
use handles::Handles;
use legacy::{Manner, Sessions};
use news::News;
use permit::Policy;
use quarantine::Ward;
use quota::Quotas;
use record::{ContentRules, Recorder};
use responses::Responses;
use server::{Server, ServerSettings};
use starts::Starts;
use tokio::sync::watch;

/// Everything that requests share.
pub struct Gate {
    fleet: ArcSwap<Fleet>,
    starts: Arc<Starts>,
    sessions: Sessions,
    handles: Handles,
    catalog: Arc<Catalog>,
    policy: Arc<Policy>,
    quotas: Quotas,
    recorder: Arc<Recorder>,
    content: ArcSwap<ContentRules>,
    responses: Arc<Responses>,
    news: Arc<News>,
    shield: Arc<ArcSwap<Shield>>,
    tasks: Arc<call::tasks::Tasks>,
    clock: Arc<dyn Clock>,
    ward: OnceLock<Arc<Ward>>,
    readers: OnceLock<Arc<Readers>>,
    entropy: Arc<dyn Entropy>,
    next: AtomicU64,
    stop: watch::Sender<bool>,
    /// Told whenever what goes on without an end of its own may be over; the number is how often all of it was.
    changes: watch::Sender<u64>,
}

/// The servers of one configuration.
#[derive(Debug, Default)]
pub struct Fleet(BTreeMap<ServerName, Arc<Server>>);

/// Which endpoint a request came to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// `/mcp/{server}`
    Server(ServerName),
    /// `/mcp`
    Merged,
}

impl Target {
    /// What its sessions are bound to.
    pub fn key(&self) -> &[u8] {
        match self {
            // No server's name begins with a slash.
            Self::Merged => b"/",
            Self::Server(name) => name.as_str().as_bytes(),
        }
    }
}

impl Fleet {
    /// The fleet of `settings`, in which every server of `self` that did not change goes on.
    pub fn next(
        &self,
        settings: Vec<ServerSettings>,
        recorder: &Arc<Recorder>,
        keeper: &Arc<Keeper>,
        starts: &Arc<Starts>,
    ) -> Self {
        let servers = settings.into_iter().map(|s| {
            let same = self.0.get(&s.name).filter(|old| old.settings().fingerprint == s.fingerprint);
            let fresh = |s| {
                let server = Server::new(s, Arc::clone(recorder)).with_pins(Arc::clone(keeper));
                Arc::new(server.starting_in(Arc::clone(starts)))
            };
            (s.name.clone(), same.cloned().unwrap_or_else(|| fresh(s)))
        });
        Self(servers.collect())
    }
}

/// What a gate keeps that outlives it.
pub struct Kept {
    /// The pins.
    pub keeper: Arc<Keeper>,
    /// What has entered whose conversation.
    pub flows: Arc<dyn Flows>,
    /// Calls that wait for a person.
    pub approvals: Arc<dyn Approvals>,
    /// Who and what is cut off.
    pub responses: Arc<dyn bartizan_store::Responses>,
}

impl Gate {
    /// A gate without servers yet, over what is `kept`, which records into `log`.
    pub fn new(
        sealer: Arc<Sealer>,
        kept: Kept,
        log: Log,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Arc<Self> {
        let Kept { keeper, flows, approvals, responses } = kept;
        let recorder = Arc::new(Recorder::new(log, Arc::clone(&clock)));
        let policy = Arc::new(Policy::new(Arc::clone(&keeper), flows, approvals, Arc::clone(&clock)));
        let responses = Arc::new(Responses::new(responses, Arc::clone(&clock), Arc::clone(&recorder)));
        let shield = Arc::new(ArcSwap::from_pointee(Shield::shipped(bartizan_shield::Config::default())));
        let news = Arc::new(News::new(Arc::clone(&keeper), Arc::clone(&policy), Arc::clone(&responses)));
        let catalog = Catalog::new(keeper, Arc::clone(&shield), Arc::clone(&recorder), entropy.as_ref());
        catalog.inform(Arc::clone(&news));
        Arc::new(Self {
            fleet: ArcSwap::default(),
            starts: Arc::default(),
            sessions: Sessions::new(Arc::clone(&sealer)),
            handles: Handles::new(sealer, Arc::clone(&clock), entropy.as_ref()),
            catalog: Arc::new(catalog),
            policy,
            quotas: Quotas::default(),
            recorder,
            content: ArcSwap::default(),
            responses,
            news,
            shield,
            tasks: Arc::default(),
            clock,
            ward: OnceLock::new(),
            readers: OnceLock::new(),
            entropy,
            next: AtomicU64::new(1),
            stop: watch::Sender::new(false),
            changes: watch::Sender::new(0),
        })
    }

    /// Takes a new configuration. Requests under way end as they began; sessions and subscriptions of servers that changed or
    /// went are over.
    pub fn configure(&self, settings: Vec<ServerSettings>) {
        // Before anybody can call there what was approved of the one before.
        settings.iter().for_each(|settings| self.catalog.doubt_others(settings));
        let keeper = self.catalog.keeper();
        let next = self.fleet.load().next(settings, &self.recorder, keeper, &self.starts);
        self.fleet.store(Arc::new(next));
        self.sweep_sessions();
        self.changes.send_modify(|_| {});
    }

    /// Ends every session and subscription: who may come in is found out otherwise from now on.
    pub fn show_out(&self) {
        self.changes.send_modify(|times| *times += 1);
        self.sessions.sweep(|_| Some((End::Revoked, Manner::AtOnce)));
    }

    /// What is told whenever something that goes on without an end of its own may be over; the number is another when all of it is.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Whether `server` is one of those there are now, as it is.
    pub fn has(&self, server: &Arc<Server>) -> bool {
        self.fleet.load().0.get(server.name()).is_some_and(|now| Arc::ptr_eq(now, server))
    }

    /// Whether it takes no more requests.
    pub fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    fn sweep_sessions(&self) {
        let is_cut_off = |session: &legacy::Session| {
            !session.links().is_empty()
                && session.links().iter().all(|link| self.responses.is_quarantined(link.server().name()))
        };
        self.sessions.sweep(|session| {
            if self.responses.is_revoked(&session.asker().caller) {
                return Some((End::Revoked, Manner::AtOnce));
            }
            if is_cut_off(session) {
                return Some((End::Server, Manner::AtOnce));
            }
            let is_over = session.links().iter().any(|link| !self.has(link.server()));
            is_over.then_some((End::Server, Manner::WhenDone))
        });
    }

    /// Ends what the responses in force cut off: sessions, subscriptions, and processes of servers in quarantine.
    pub async fn cut_off(&self) {
        self.sweep_sessions();
        self.changes.send_modify(|_| {});
        let quarantined = |server: &&Arc<Server>| self.responses.is_quarantined(server.name());
        for server in self.fleet.load_full().0.values().filter(quarantined) {
            server.stop_all().await;
        }
    }

    /// What must be done now and then: ends idle sessions, stops idle processes.
    pub async fn tidy(&self) {
        self.sweep_sessions();
        self.policy.tidy().await;
        for server in self.fleet.load().0.values() {
            server.stop_idle();
        }
    }

    /// Judges by `shield` from now on.
    pub fn arm(&self, shield: Shield) {
        self.shield.store(Arc::new(shield));
        self.catalog.forget();
    }

    /// Records of what is said in calls what `rules` want, from the next call on.
    pub fn record_content(&self, rules: ContentRules) {
        self.content.store(Arc::new(rules));
    }

    /// Keeps in `ward` what the shield wants quarantined; without one, that is withheld for good. The first one stays.
    pub fn open_ward(&self, ward: Ward) {
        let _ = self.ward.set(Arc::new(ward));
    }

    /// Where suspect answers wait, if they are kept.
    pub fn ward(&self) -> Option<&Arc<Ward>> {
        self.ward.get()
    }

    /// Has documents read by `readers`; without any, documents that take one are found to be unread. The first ones stay.
    pub fn read_by(&self, readers: Readers) {
        let _ = self.readers.set(Arc::new(readers));
    }

    /// Who reads documents.
    pub fn readers(&self) -> Arc<Readers> {
        self.readers.get().cloned().unwrap_or_default()
    }

    /// Gives each legacy session a row in `stored`, which [`legacy::keep`] brings up to date; without, sessions are this
    /// process's alone. The first one stays.
    pub fn keep_sessions(&self, stored: Arc<dyn bartizan_store::Sessions>) {
        self.sessions.keep_in(stored, Arc::clone(&self.clock));
    }

    /// Who may do what.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// How much anybody may ask for.
    pub fn quotas(&self) -> &Quotas {
        &self.quotas
    }

    /// What the audit log is told.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Who and what is cut off.
    pub fn responses(&self) -> &Arc<Responses> {
        &self.responses
    }

    /// Who is told what is decided.
    pub fn news(&self) -> &Arc<News> {
        &self.news
    }

    /// Which definitions may be shown and called.
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// The time.
    pub fn clock(&self) -> &dyn Clock {
        self.clock.as_ref()
    }

    /// Ends the sessions that were opened by a token which has been taken back since.
    pub fn end_revoked(&self) {
        let revoked = (End::Revoked, Manner::AtOnce);
        self.sessions.sweep(|session| session.asker().is_revoked().then_some(revoked));
    }

    /// Where unguessable bytes come from.
    pub fn entropy(&self) -> &dyn Entropy {
        self.entropy.as_ref()
    }

    /// Every server there is now.
    pub fn all_servers(&self) -> Vec<Arc<Server>> {
        self.fleet.load().0.values().cloned().collect()
    }

    /// The live sessions.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// Ends what would never end by itself: sessions and subscriptions. Requests go on, and sessions take no more of them.
    pub fn drain(&self) {
        self.stop.send_replace(true);
        self.changes.send_modify(|_| {});
        self.sessions.end_all(Manner::WhenDone);
    }

    /// Ends every session and lets go of every server, whose processes stop. Answers what counts those processes.
    pub fn close(&self) -> Vec<Arc<AtomicUsize>> {
        self.sessions.end_all(Manner::AtOnce);
        let fleet = self.fleet.swap(Arc::default());
        self.changes.send_modify(|_| {});
        fleet.0.values().map(|s| s.processes()).collect()
    }

    /// Closes, and waits until the processes are gone; the ladder gives them some seconds (spec.md C-39).
    pub async fn close_and_wait(&self) {
        let counts = self.close();
        self.sessions.settle_all().await;
        for _ in 0..100 {
            if counts.iter().all(|c| c.load(Ordering::Relaxed) == 0) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }

    /// The servers of an endpoint.
    ///
    /// # Errors
    /// 404 if there is no such endpoint.
    pub fn servers(&self, target: &Target) -> Result<Vec<Arc<Server>>, Refusal> {
        let fleet = self.fleet.load();
        match target {
            Target::Merged => Ok(fleet.0.values().cloned().collect()),
            Target::Server(name) => match fleet.0.get(name) {
                Some(server) => Ok(vec![Arc::clone(server)]),
                None => Err(Refusal::new(404, code::NOT_FOUND, "there is no such endpoint")),
            },
        }
    }

    fn mint(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}
