//! `bartizan run`

mod banner;
mod files;

use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context;
use arc_swap::{ArcSwap, ArcSwapOption};
use bartizan_gateway::{
    Gate, catalog, legacy,
    listener::{Door, Listening, Names, Proxies, Waits, serve},
};
use bartizan_model::{Caller, Clock, SystemClock};
use bartizan_oauth::{
    DenyList, IssuerConfig, SubjectTokens,
    outbound::{Assertions, CredentialConfig},
};
use notify::Watcher;
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
};

use crate::{
    admin::{self, Admin, api::Api},
    alerts::Watching,
    approvals,
    bundles::Bundles,
    config::{self, Config},
    doorman::Doorman,
    endpoints::{self, Desk},
    exports::{self, Exporters},
    governing,
    identity::Mode,
    keys, login,
    metrics::metrics_of,
    reviews::Reviewing,
    secrets,
    state::State,
    witness::{self, Witnessing},
};
use banner::banner;
use files::Files;

/// How often idle sessions and processes are looked for.
const TIDY: Duration = Duration::from_secs(30);

/// How often it is looked who was cut off; within five seconds it is so everywhere.
const RESPONSES: Duration = Duration::from_secs(2);

/// Serves until a signal says stop.
pub async fn run(path: Option<&Path>) -> anyhow::Result<ExitCode> {
    crate::start_log("info");
    let loaded = config::load(path)?;
    if let Err(error) = bartizan_sandbox::raise_open_files() {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
    if let Err(error) = bartizan_sandbox::make_non_dumpable() {
        tracing::warn!(%error, "other processes of this user can read this one's memory");
    }
    let state = Arc::new(State::for_config(path)?.recording(loaded.config.audit.options()));
    let base = base_of(path);
    secrets::prepare(&loaded.config, &base, &state).await?.adopt();
    let gate = state.gate("gate").await?;
    state.keep_sessions(&gate).await?;
    let bundles = Arc::new(Bundles::new(Arc::clone(&gate), &state, &base).await?);
    bundles.adopt(bundles.prepare(&loaded.config).await?).await;
    let metrics = metrics_of(&gate);
    let exporters = exporters(&gate, &state);
    exporters.apply(exports::settings(&loaded.config, &base, gate.recorder().log(), &clock())?);
    let ended = Arc::new(exports::Ended::new(gate.recorder().log().clone(), state.audit_folder(), clock()));
    ended.apply(&loaded.config, &base);
    let witnessing = Arc::new(Witnessing::new(gate.recorder().log().clone(), state.audit_folder(), clock()));
    witnessing.apply(witness::setting(&loaded.config, &base, &state.audit_folder())?);
    let alerts = Arc::new(Watching::begin(Arc::clone(&gate), state.alerts_folder(), clock()));
    alerts.apply(&loaded.config.alerts)?;
    gate.record_content(config::content::rules(&loaded.config.audit.content));
    gate.quotas().set(loaded.config.limits.clone(), endpoints::shared_limits(&loaded.config, &base)?);
    let config = &loaded.config;
    let socket = TcpListener::bind(config.server.listen).await.with_context(|| {
        format!(
            "cannot listen on {}; is another gate running? Set another `[server] listen`",
            config.server.listen
        )
    })?;
    let address = socket.local_addr()?;
    let links = Arc::new(state.links().await?);
    let public_url = config.public_url(address)?;
    let denied = Arc::<DenyList>::default();
    let desk = Desk {
        links,
        sealer: state.sealer().await?,
        public_url,
        subjects: Arc::new(SubjectTokens::new(Arc::clone(&denied), clock())),
        assertions: Assertions::new(Arc::new(state.provider_tokens().await?), clock()),
    };
    gate.configure(endpoints::servers(config, &base, &desk)?);
    governing::begin(&gate, config, &base)?;
    catalog::identify_all(&gate).await?;
    let tls = match &config.server.tls {
        Some(files) => Some(Arc::new(ArcSwap::from(endpoints::listener_tls(files, &base)?))),
        None => None,
    };
    let requests = Arc::new(approvals::Requests(Arc::clone(&gate)));
    let doorman = Arc::new(Doorman::new(&state, &gate, requests, &desk, denied).await?);
    let admission = doorman.admission(config, &base, &state, address, &desk).await?;
    gate.policy().serve_pages((!admission.pages.is_empty()).then(|| desk.public_url.clone()));
    doorman.adopt(&admission);
    let api = Arc::new(ArcSwapOption::new(Api::of(config, &base, &state, &doorman, &admission)?));
    let admin = admin::Listening::bind(&config.server, tls.as_ref(), &state).await?;
    let admin_address = admin.as_ref().map(admin::Listening::address);
    let door = Arc::new(Door {
        authenticator: ArcSwap::from_pointee(admission.authenticator),
        names: ArcSwap::from_pointee(names(config, address)),
        pages: ArcSwap::from_pointee(admission.pages),
        proxies: watch::Sender::new(proxies(config)),
        waits: ArcSwap::from_pointee(waits(config)),
    });
    let only_proxies = !address.ip().is_loopback() && tls.is_none();
    gate.recorder().configured(&Caller::local_owner(), config.servers.len());
    warn(config);

    let reviewing = Arc::new(state.reviewing(&gate).await?);
    reviewing.apply(config.policy.review);
    let keeping_up = tokio::spawn(Arc::clone(&reviewing).keep_up());
    let (stop, stopped) = watch::channel(false);
    let tidying = tokio::spawn(tidy(Arc::clone(&gate)));
    let keeping_sessions = tokio::spawn(legacy::keep(Arc::clone(&gate)));
    let looking = tokio::spawn(catalog::watch(Arc::clone(&gate)));
    let revoking = tokio::spawn(end_revoked(Arc::clone(&gate), Arc::clone(doorman.denied())));
    let taking_back = tokio::spawn(take_back(Arc::clone(&gate), Arc::clone(&doorman)));
    let renewing = tokio::spawn(Arc::clone(&bundles).watch());
    let watched = Admin {
        gate: Arc::clone(&gate),
        metrics,
        exporters: Arc::clone(&exporters),
        witnessing: Arc::clone(&witnessing),
        api: Arc::clone(&api),
        bundles: Arc::clone(&bundles),
    };
    let administering = admin.map(|listening| tokio::spawn(listening.serve(watched)));
    let reloading = Reload {
        path: path.map(Path::to_owned),
        base,
        state,
        doorman,
        gate: Arc::clone(&gate),
        door: Arc::clone(&door),
        exporters: Arc::clone(&exporters),
        witnessing,
        ended,
        api,
        desk,
        alerts,
        reviewing,
        bundles,
        address,
        tls: tls.clone(),
        known_by: Mutex::new(known_by(config)),
    };
    // Watched before anybody is told that the gate is there: no change after that is missed.
    let (to, changes) = mpsc::channel(16);
    let watcher = reloading.watch(to.clone());
    let fetching = tokio::spawn(secrets::watch(to));
    let keeping_keys = tokio::spawn(keep_keys(Arc::clone(&reloading.state), config.keys.clone()));
    let hangup = signal(SignalKind::hangup())?;
    let link = match config.identity.mode {
        // A log is no place for it.
        Mode::Local if !config.identity.dangerous_open && std::io::stderr().is_terminal() => {
            Some(login::link(&reloading.state, &config.public_url(address)?).await?)
        }
        _ => None,
    };
    crate::say_error(&banner(&loaded, (address, admin_address), &reloading.state, link.as_ref())?);
    let watching = tokio::spawn(reloading.run(watcher, changes, hangup));
    let listening = Listening { socket, tls, only_proxies };
    let serving = tokio::spawn(serve(listening, gate, door, stopped));
    wait_for_stop().await?;
    tracing::info!("stopping: requests under way may finish");
    stop.send_replace(true);
    serving.await?;
    tidying.abort();
    keeping_sessions.abort();
    looking.abort();
    revoking.abort();
    taking_back.abort();
    fetching.abort();
    keeping_keys.abort();
    keeping_up.abort();
    watching.abort();
    renewing.abort();
    if let Some(administering) = administering {
        administering.abort();
    }
    exporters.stop().await;
    Ok(ExitCode::SUCCESS)
}

/// The folder that relative paths of a configuration start from.
pub fn base_of(path: Option<&Path>) -> PathBuf {
    path.and_then(Path::parent).filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock)
}

fn exporters(gate: &Gate, state: &State) -> Arc<Exporters> {
    let log = gate.recorder().log().clone();
    let folder = state.log_folder(&log);
    Arc::new(Exporters::new(log, folder, clock()))
}

/// Says what works and is still not as it should be.
fn warn(config: &Config) {
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
}

fn proxies(config: &Config) -> Proxies {
    Proxies {
        networks: config.server.trusted_proxies.clone(),
        show_certificates: config.server.client_certs_from_proxies,
    }
}

fn waits(config: &Config) -> Waits {
    Waits {
        write: Duration::from_secs(config.server.write_timeout_s),
        idle: Duration::from_secs(config.server.idle_timeout_s),
    }
}

fn names(config: &Config, address: std::net::SocketAddr) -> Names {
    let server = &config.server;
    Names::new(address, server.public_url.as_ref(), &server.allowed_hosts, &server.allowed_origins)
}

async fn tidy(gate: Arc<Gate>) {
    let mut ticks = tokio::time::interval(TIDY);
    loop {
        ticks.tick().await;
        gate.tidy().await;
    }
}

/// Ends what goes on under tokens as they are taken back.
async fn end_revoked(gate: Arc<Gate>, denied: Arc<DenyList>) {
    // One receiver for all: what is denied while sessions end is seen the next time round.
    let mut changes = denied.changes();
    while changes.changed().await.is_ok() {
        gate.end_revoked();
    }
}

/// Keeps the keys as their file and their provider have them.
async fn keep_keys(state: Arc<State>, settings: config::keys::KeysConfig) {
    // Opened long ago: the gate stands on them.
    if let Ok(keys) = state.keys().await {
        let seconds = Duration::from_secs;
        keys::watch(keys, seconds(settings.recheck_s), seconds(settings.away_s)).await;
    }
}

/// Takes back for good what was granted to whom a response cuts off: a release lets them in again, not what they held.
async fn take_back(gate: Arc<Gate>, doorman: Arc<Doorman>) {
    let mut ticks = tokio::time::interval(RESPONSES);
    loop {
        ticks.tick().await;
        doorman.take_back(&gate.responses().revocations()).await;
    }
}

/// Until a signal says stop.
pub async fn wait_for_stop() -> anyhow::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Reads the configuration again when it changes.
struct Reload {
    path: Option<PathBuf>,
    base: PathBuf,
    state: Arc<State>,
    doorman: Arc<Doorman>,
    gate: Arc<Gate>,
    door: Arc<Door>,
    exporters: Arc<Exporters>,
    witnessing: Arc<Witnessing>,
    ended: Arc<exports::Ended>,
    api: Arc<ArcSwapOption<Api>>,
    desk: Desk,
    alerts: Arc<Watching>,
    reviewing: Arc<Reviewing>,
    bundles: Arc<Bundles>,
    address: std::net::SocketAddr,
    tls: Option<Arc<ArcSwap<rustls::ServerConfig>>>,
    /// How callers are known, and whether at all.
    known_by: Mutex<(Mode, bool)>,
}

/// How callers are known by `config`, and whether at all.
fn known_by(config: &Config) -> (Mode, bool) {
    (config.identity.mode, config.identity.dangerous_open)
}

impl Reload {
    /// Until the watcher is dropped, which ends with this.
    async fn run(
        self,
        _watcher: Option<notify::RecommendedWatcher>,
        mut changes: mpsc::Receiver<()>,
        mut hangup: Signal,
    ) {
        loop {
            tokio::select! {
                _ = hangup.recv() => {}
                Some(()) = changes.recv() => {
                    // Editors write in several steps; the last one counts.
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    while changes.try_recv().is_ok() {}
                }
            }
            self.reload().await;
            if let Err(error) = catalog::identify_all(&self.gate).await {
                tracing::error!(%error, "who the servers are could not be pinned");
            }
        }
    }

    /// Watches the folders of the files that count, for editors replace files.
    fn watch(&self, to: mpsc::Sender<()>) -> Option<notify::RecommendedWatcher> {
        let config = self.path.clone()?;
        let mut files = vec![config];
        if let Ok(loaded) = config::load(self.path.as_deref())
            && let Some(tls) = loaded.config.server.tls
        {
            files.extend([self.base.join(tls.cert), self.base.join(tls.key)]);
            files.extend(tls.client_ca.map(|ca| self.base.join(ca)));
        }
        let mut files = Files::new(files);
        let folders = files.folders();
        let tell = move |event: notify::Result<notify::Event>| {
            // Of what was lost on the way nobody knows what it was about.
            let event = event.unwrap_or_default();
            if !event.kind.is_access() && files.are_touched(&event.paths) {
                // A full channel already says it.
                let _ = to.try_send(());
            }
        };
        let mut watcher = notify::recommended_watcher(tell).ok()?;
        for folder in &folders {
            if let Err(error) = watcher.watch(folder, notify::RecursiveMode::NonRecursive) {
                tracing::warn!(%error, folder = %folder.display(), "changes are not noticed here; send SIGHUP after a change");
            }
        }
        Some(watcher)
    }

    async fn reload(&self) {
        match self.try_reload().await {
            Ok(()) => tracing::info!("the configuration was read again"),
            Err(error) => tracing::error!("the configuration stays as it was: {error:#}"),
        }
    }

    /// All of it or nothing.
    async fn try_reload(&self) -> anyhow::Result<()> {
        let loaded = config::load(self.path.as_deref())?;
        let secrets = secrets::prepare(&loaded.config, &self.base, &self.state).await?;
        // In a box: it is large, and goes through another future.
        secrets.shown_to(Box::pin(self.put_in_force(&loaded.config, &secrets))).await
    }

    /// What is in force stays until nothing can fail any more, secrets too.
    async fn put_in_force(&self, config: &Config, secrets: &secrets::Prepared) -> anyhow::Result<()> {
        let desk = Desk { public_url: config.public_url(self.address)?, ..self.desk.clone() };
        let servers = endpoints::servers(config, &self.base, &desk)?;
        let shield = self.bundles.prepare(config).await?;
        let tls = match (&config.server.tls, &self.tls) {
            (Some(files), Some(now)) => Some((endpoints::listener_tls(files, &self.base)?, now)),
            (None, None) => None,
            _ => anyhow::bail!("turning TLS on or off needs a restart"),
        };
        // What is safe at one address may not be at the one we still listen at.
        let wanted = config.server.listen;
        if wanted.ip() != self.address.ip() || (wanted.port() != 0 && wanted.port() != self.address.port()) {
            anyhow::bail!("changing `[server] listen` needs a restart");
        }
        let shared_limits = endpoints::shared_limits(config, &self.base)?;
        let exports = exports::settings(config, &self.base, self.gate.recorder().log(), &clock())?;
        let witness = witness::setting(config, &self.base, &self.state.audit_folder())?;
        let admission = self.doorman.admission(config, &self.base, &self.state, self.address, &desk).await?;
        let api = Api::of(config, &self.base, &self.state, &self.doorman, &admission)?;
        let alerts = self.alerts.prepare(&config.alerts)?;
        // Whoever may come in by the new configuration comes under its policies: those first, or nothing. Nothing after them can fail.
        governing::renew(&self.gate, config, &self.base).await?;
        secrets.adopt();
        self.alerts.adopt(alerts);
        self.reviewing.apply(config.policy.review);
        self.doorman.adopt(&admission);
        self.gate.policy().serve_pages((!admission.pages.is_empty()).then(|| desk.public_url.clone()));
        self.door.authenticator.store(Arc::new(admission.authenticator));
        let known_by = known_by(config);
        let before =
            std::mem::replace(&mut *self.known_by.lock().unwrap_or_else(PoisonError::into_inner), known_by);
        if before != known_by {
            // What they came with before says nothing now.
            self.gate.show_out();
        }
        self.door.pages.store(Arc::new(admission.pages));
        self.door.proxies.send_replace(proxies(config));
        self.door.waits.store(Arc::new(waits(config)));
        self.door.names.store(Arc::new(names(config, self.address)));
        if let Some((fresh, now)) = tls {
            now.store(fresh);
        }
        self.bundles.adopt(shield).await;
        let count = servers.len();
        self.gate.record_content(config::content::rules(&config.audit.content));
        self.gate.quotas().set(config.limits.clone(), shared_limits);
        self.gate.configure(servers);
        self.exporters.apply(exports);
        self.ended.apply(config, &self.base);
        self.witnessing.apply(witness);
        self.api.store(api);
        self.gate.recorder().configured(&Caller::local_owner(), count);
        warn(config);
        Ok(())
    }
}

/// Every relaxation that is switched on.
pub fn dangers(config: &Config) -> Vec<String> {
    let mut found = Vec::new();
    if config.identity.dangerous_open {
        found.push("[identity] dangerous_open: whoever can reach this port is the owner".to_owned());
    }
    if config.audit.dangerous_audit_best_effort {
        found.push(
            "[audit] dangerous_audit_best_effort: what cannot be recorded happens all the same".to_owned(),
        );
    }
    if !config.egress.dangerous_allow.is_empty() {
        found.push("[egress] dangerous_allow: some addresses are connected to without a check".to_owned());
    }
    if config.identity.mode != Mode::Local {
        found.extend(config.identity.resource_server.dangers());
    }
    if config.identity.mode == Mode::Facade {
        let exchanged = config.identity.facade.exchange_issuers.iter();
        found.extend(exchanged.filter_map(|exchanged| match &exchanged.issuer {
            IssuerConfig::Oidc(oidc) if oidc.dangerous_untyped_tokens => {
                Some(format!("[[identity.exchange_issuers]] `{}`: dangerous_untyped_tokens", oidc.issuer))
            }
            IssuerConfig::Oidc(_) | IssuerConfig::Entra(_) => None,
        }));
    }
    if config.policy.flow.dangerous_no_rule {
        found.push(
            "[policy.flow] dangerous_no_rule: untrusted text and private data may go out together".to_owned(),
        );
    }
    if config.limits.dangerous_fail_open {
        found.push("[limits] dangerous_fail_open: while `shared` is away, each gate counts alone".to_owned());
    }
    if !config.shield.dangerous_ignore_rules.is_empty() {
        found.push("[shield] dangerous_ignore_rules: some rules of the shield are not applied".to_owned());
    }
    for (name, _) in config.shield.second_opinion.iter().filter(|(_, o)| o.dangerous_fail_open) {
        found.push(format!(
            "[shield.second_opinion.{name}] dangerous_fail_open: what it gives no opinion on passes"
        ));
    }
    for server in config.servers.iter().filter(|s| s.dangerous_unpinned) {
        found.push(format!("server `{}` dangerous_unpinned: it may change its tools unseen", server.name));
    }
    for server in config.servers.iter().filter(|s| s.dangerous_unvalidated) {
        found.push(format!(
            "server `{}` dangerous_unvalidated: arguments and results are not compared with their schemas",
            server.name
        ));
    }
    let takes_parent = |credential: &CredentialConfig| match credential {
        CredentialConfig::UserOauth(personal) => personal.dangerous_parent_resource,
        _ => false,
    };
    for server in config.servers.iter().filter(|s| takes_parent(&s.credential)) {
        found.push(format!(
            "server `{}` dangerous_parent_resource: what people allow there may be good at its neighbours, and is shown to it",
            server.name
        ));
    }
    for server in config.servers.iter().filter(|s| s.dangerous_unshielded) {
        found.push(format!(
            "server `{}` dangerous_unshielded: the shield judges neither arguments nor results",
            server.name
        ));
    }
    for server in config.servers.iter().filter(|s| s.dangerous_any_program) {
        found.push(format!(
            "server `{}` dangerous_any_program: its program or package may be exchanged unseen",
            server.name
        ));
    }
    for server in config.servers.iter().filter(|s| s.dangerous_plaintext) {
        found.push(format!(
            "server `{}` dangerous_plaintext: its traffic can be read and changed on the way",
            server.name
        ));
    }
    found
}
