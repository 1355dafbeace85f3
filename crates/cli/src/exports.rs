//! Sending the audit log away as it grows: `[[audit.export]]`.
//!
//! The exporters and their formats are the audit crate's; here they get their secrets, their connections and their life.

mod credentials;
mod ended;
mod transport;

use std::{
    collections::BTreeMap,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, bail};
use bartizan_audit::{
    Log,
    export::{
        Exporter, Format, Only, Progress, Source, Step, Transport,
        ocsf::{OcsfHttp, OcsfLines},
        otlp::{Encoding, Otlp, OtlpTraces},
        sentinel::Sentinel,
        splunk::Splunk,
        syslog::{self, Syslog},
        webhook::Webhook,
    },
};
use bartizan_egress::{Egress, Peer, TlsOptions};
use bartizan_model::{Clock, Secret};
use bartizan_store::Digest;
use tokio::{sync::watch, task::JoinHandle};
use url::Url;

use crate::config::{
    Config, Given, UpstreamTls,
    audit::{AuditConfig, Export, OtlpEncoding, SentinelExport, SyslogBody},
};
use crate::managed_identity::ManagedIdentity;
use credentials::{ClientCredentials, Credentials};
pub use ended::Ended;
use transport::{FileTransport, HttpTransport, StreamTransport};

/// How long an exporter whose own files fail rests before it begins anew.
const REST: Duration = Duration::from_secs(5);

/// How long the exporters may take to send what is left when the process ends. The rest goes after the next start.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// One exporter, ready to run.
pub struct Setting {
    name: String,
    format: Arc<dyn Format>,
    transport: Arc<dyn Transport>,
    /// Whether the receiver is told arguments and results, where they are recorded.
    tells_content: bool,
    /// Tells this setting from every other, secrets included.
    fingerprint: String,
}

/// Every exporter of a configuration. Relative paths start at `base`; `log` is what is exported.
///
/// # Errors
/// Everything that is wrong, at once.
pub fn settings(
    config: &Config,
    base: &Path,
    log: &Log,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<Vec<Setting>> {
    settings_of(config, base, log.origin().as_str(), clock)
}

/// The same for a log of this name.
fn settings_of(
    config: &Config,
    base: &Path,
    origin: &str,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<Vec<Setting>> {
    let egress = crate::endpoints::egress(config);
    let source = Source { host: host(&config.audit), log: origin.to_owned() };
    let (mut ready, mut problems) = (Vec::new(), String::new());
    for export in &config.audit.export {
        let scene = Scene { base, egress: &egress, source: &source, clock };
        match scene.setting(export) {
            Ok(mut setting) => {
                let _ = write!(setting.fingerprint, "{:?}{source:?}", config.egress);
                ready.push(setting);
            }
            Err(error) => {
                let _ = write!(problems, "\n  - [[audit.export]] `{}`: {error:#}", export.name());
            }
        }
    }
    if !problems.is_empty() {
        bail!("the audit log cannot be exported:{problems}");
    }
    Ok(ready)
}

fn host(config: &AuditConfig) -> String {
    let own = || fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = config.host.clone().or_else(own).unwrap_or_default();
    if name.trim().is_empty() { "localhost".to_owned() } else { name.trim().to_owned() }
}

/// A way to what receives by HTTP at `url`. Relative paths start at `base`.
///
/// # Errors
/// What is wrong with its certificates.
pub fn way(config: &Config, base: &Path, url: &Url, tls: &UpstreamTls) -> anyhow::Result<Arc<dyn Transport>> {
    let at = |path: &Option<PathBuf>| path.as_ref().map(|path| base.join(path));
    let tls = TlsOptions {
        client_cert: at(&tls.client_cert),
        key: at(&tls.key),
        ca: at(&tls.ca),
        ..TlsOptions::default()
    };
    let egress = crate::endpoints::egress(config);
    // Made once to find out now whether its certificates can be used.
    egress.endpoint(&peer(url, &tls))?;
    Ok(Arc::new(HttpTransport::new(egress, tls, None)))
}

/// What all exporters of a configuration are made with.
struct Scene<'a> {
    base: &'a Path,
    egress: &'a Egress,
    source: &'a Source,
    clock: &'a Arc<dyn Clock>,
}

impl Scene<'_> {
    fn setting(&self, export: &Export) -> anyhow::Result<Setting> {
        let mut fingerprint = format!("{export:?}");
        for (field, reference) in export.secrets() {
            let secret = self.secret(field, reference)?;
            let _ = write!(fingerprint, "{}", Digest::of(secret.reveal().as_bytes()));
        }
        let tls = export.tls().map(|tls| self.tls(tls)).unwrap_or_default();
        for file in [&tls.client_cert, &tls.key, &tls.ca].into_iter().flatten() {
            // A renewed certificate is another setting.
            let _ = write!(fingerprint, "{:?}", fs::metadata(file).and_then(|m| m.modified()).ok());
        }
        let kinds = export.only().iter().map(|kind| kind.parse()).collect::<Result<_, _>>()?;
        let (format, transport) = self.parts(export, tls)?;
        Ok(Setting {
            name: export.name().to_owned(),
            format: Arc::new(Only { kinds, format }),
            transport,
            tells_content: export.content(),
            fingerprint,
        })
    }

    fn parts(
        &self,
        export: &Export,
        tls: TlsOptions,
    ) -> anyhow::Result<(Arc<dyn Format>, Arc<dyn Transport>)> {
        let source = self.source.clone();
        Ok(match export {
            Export::File(file) => {
                let path = self.base.join(&file.path);
                let folder = path.parent().filter(|folder| folder.is_dir());
                folder.with_context(|| format!("the folder of {} does not exist", path.display()))?;
                let transport = FileTransport::new(path, file.max_bytes, file.keep);
                (Arc::new(OcsfLines { source }), Arc::new(transport))
            }
            Export::Http(http) => {
                let token = self.optional("token", http.token.as_ref())?;
                let format = OcsfHttp { url: http.url.to_string(), token, source };
                (Arc::new(format), self.http(&http.url, tls, None)?)
            }
            Export::Webhook(hook) => {
                let secret = self.secret("secret", &hook.secret)?;
                if secret.reveal().len() < 24 {
                    bail!("`secret` is shorter than 24 characters, which can be guessed");
                }
                let format = Webhook { url: hook.url.to_string(), secret, source };
                (Arc::new(format), self.http(&hook.url, tls, None)?)
            }
            Export::Syslog(receiver) => {
                let body = match receiver.body {
                    SyslogBody::Json => syslog::Body::Json,
                    SyslogBody::Cef => syslog::Body::Cef,
                    SyslogBody::Ocsf => syslog::Body::Ocsf,
                };
                let format =
                    Syslog { source, body, enterprise: receiver.enterprise, process: std::process::id() };
                let peer = Peer { url: receiver.url.clone(), tls, dangerous_plaintext: false };
                (Arc::new(format), Arc::new(StreamTransport(self.egress.stream(&peer)?)))
            }
            Export::SplunkHec(splunk) => {
                let token = self.secret("token", &splunk.token)?;
                let format =
                    Splunk { url: splunk.url.to_string(), token, index: splunk.index.clone(), source };
                (Arc::new(format), self.http(&splunk.url, tls, None)?)
            }
            Export::Sentinel(sentinel) => {
                let credentials = self.sentinel(sentinel, &tls)?;
                let format = Sentinel {
                    endpoint: sentinel.endpoint.to_string(),
                    rule: sentinel.rule.clone(),
                    stream: sentinel.stream.clone(),
                    scope: sentinel.scope.clone(),
                    source,
                };
                (Arc::new(format), self.http(&sentinel.endpoint, tls, Some(credentials))?)
            }
            Export::Otlp(otlp) | Export::OtlpTraces(otlp) => {
                let encoding = match otlp.encoding {
                    OtlpEncoding::Protobuf => Encoding::Protobuf,
                    OtlpEncoding::Json => Encoding::Json,
                };
                let token = self.optional("token", otlp.token.as_ref())?;
                let logs = Otlp { url: otlp.url.to_string(), token, encoding, source };
                let format: Arc<dyn Format> = match export {
                    Export::OtlpTraces(_) => Arc::new(OtlpTraces(logs)),
                    _ => Arc::new(logs),
                };
                (format, self.http(&otlp.url, tls, None)?)
            }
        })
    }

    /// Who may publish to a rule: the machine itself, or an application.
    fn sentinel(&self, sentinel: &SentinelExport, tls: &TlsOptions) -> anyhow::Result<Credentials> {
        if sentinel.managed_identity {
            let resource = sentinel.scope.trim_end_matches(".default").trim_end_matches('/');
            let client_id = sentinel.identity_client_id.as_deref().or(sentinel.client_id.as_deref());
            let clock = Arc::clone(self.clock);
            return Ok(Credentials::Machine(ManagedIdentity::new(self.egress, resource, client_id, clock)?));
        }
        let needed = "needs `tenant`, `client_id` and `client_secret`, or `managed_identity = true`";
        let (Some(tenant), Some(client_id), Some(secret)) =
            (&sentinel.tenant, &sentinel.client_id, &sentinel.client_secret)
        else {
            anyhow::bail!(needed);
        };
        Ok(Credentials::Application(ClientCredentials::new(
            self.egress.endpoint(&peer(&token_url(&sentinel.authority, tenant)?, tls))?,
            client_id.clone(),
            self.secret("client_secret", secret)?,
            Arc::clone(self.clock),
        )))
    }

    fn http(
        &self,
        url: &Url,
        tls: TlsOptions,
        credentials: Option<Credentials>,
    ) -> anyhow::Result<Arc<dyn Transport>> {
        // Made once to find out now whether its certificates can be used.
        self.egress.endpoint(&peer(url, &tls))?;
        Ok(Arc::new(HttpTransport::new(self.egress.clone(), tls, credentials)))
    }

    fn tls(&self, tls: &UpstreamTls) -> TlsOptions {
        let at = |path: &Option<PathBuf>| path.as_ref().map(|path| self.base.join(path));
        TlsOptions { client_cert: at(&tls.client_cert), key: at(&tls.key), ca: at(&tls.ca), pins: tls.pins() }
    }

    fn secret(&self, field: &str, reference: &Given) -> anyhow::Result<Secret> {
        let secret = reference.read(self.base).with_context(|| format!("`{field}`"))?;
        let text = secret.reveal();
        let is_sendable = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
        if !is_sendable {
            bail!("`{field}` is empty or holds what no header can carry");
        }
        Ok(secret)
    }

    fn optional(&self, field: &str, reference: Option<&Given>) -> anyhow::Result<Option<Secret>> {
        reference.map(|reference| self.secret(field, reference)).transpose()
    }
}

fn peer(url: &Url, tls: &TlsOptions) -> Peer {
    Peer { url: url.clone(), tls: tls.clone(), dangerous_plaintext: false }
}

/// The token endpoint of a directory of Microsoft's identity platform (v2.0).
fn token_url(authority: &Url, tenant: &str) -> anyhow::Result<Url> {
    let mut url = authority.clone();
    let mut path = url.path_segments_mut().map_err(|()| anyhow::anyhow!("`authority` takes no path"))?;
    path.clear().extend([tenant, "oauth2", "v2.0", "token"]);
    drop(path);
    Ok(url)
}

/// The exporters that run now.
pub struct Exporters {
    log: Log,
    folder: PathBuf,
    clock: Arc<dyn Clock>,
    running: Mutex<BTreeMap<String, Running>>,
}

struct Running {
    fingerprint: String,
    progress: Arc<Mutex<Arc<Progress>>>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Exporters {
    /// No exporters yet, of `log`, whose files are in `folder`.
    pub fn new(log: Log, folder: PathBuf, clock: Arc<dyn Clock>) -> Self {
        Self { log, folder, clock, running: Mutex::default() }
    }

    /// Runs these from now on. What did not change goes on undisturbed; what is gone lets go of the log.
    pub fn apply(&self, settings: Vec<Setting>) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut *running);
        for setting in settings {
            let name = setting.name.clone();
            let old = before.remove(&name);
            let next = match old {
                Some(old) if old.fingerprint == setting.fingerprint => old,
                old => self.start(setting, old),
            };
            running.insert(name, next);
        }
        for (name, gone) in before {
            gone.stop.send_replace(true);
            let log = self.log.clone();
            tokio::spawn(async move {
                let _ = gone.task.await;
                log.hold(&name, u64::MAX);
            });
        }
    }

    /// How each is doing, by name.
    pub fn progress(&self) -> BTreeMap<String, Arc<Progress>> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let now =
            |running: &Running| Arc::clone(&running.progress.lock().unwrap_or_else(PoisonError::into_inner));
        running.iter().map(|(name, running)| (name.clone(), now(running))).collect()
    }

    /// Ends them all, after a moment in which those without trouble may send what is left.
    pub async fn stop(&self) {
        let began = tokio::time::Instant::now();
        let is_busy =
            |progress: &Arc<Progress>| progress.trouble().is_none() && progress.next() < self.log.durable();
        while began.elapsed() < LAST_WORDS && self.progress().values().any(is_busy) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let running = std::mem::take(&mut *self.running.lock().unwrap_or_else(PoisonError::into_inner));
        for running in running.into_values() {
            running.stop.send_replace(true);
            let _ = running.task.await;
        }
    }

    /// Starts one, after `old`, which has the same files, has ended.
    fn start(&self, setting: Setting, old: Option<Running>) -> Running {
        let (stop, mut stopped) = watch::channel(false);
        let progress = Arc::new(Mutex::new(Arc::<Progress>::default()));
        let fingerprint = setting.fingerprint.clone();
        // Held before anything else can be dropped.
        self.log.hold(&setting.name, 0);
        let (log, folder, clock) = (self.log.clone(), self.folder.clone(), Arc::clone(&self.clock));
        let shown = Arc::clone(&progress);
        let task = tokio::spawn(async move {
            if let Some(old) = old {
                old.stop.send_replace(true);
                let _ = old.task.await;
            }
            while !*stopped.borrow() {
                let made = Exporter::new(
                    &setting.name,
                    &folder,
                    Arc::clone(&setting.format),
                    Arc::clone(&setting.transport),
                    Arc::clone(&clock),
                );
                let mut stop = stopped.clone();
                let run = match made.map(|exporter| exporter.with_content(setting.tells_content)) {
                    Ok(exporter) => {
                        *shown.lock().unwrap_or_else(PoisonError::into_inner) = exporter.progress();
                        let stopping = async move { drop(stop.wait_for(|stop| *stop).await) };
                        exporter.run(log.clone(), Telling::of(&setting.name).each(), stopping).await
                    }
                    Err(error) => Err(error),
                };
                let Err(error) = run else { return };
                tracing::error!(%error, "an exporter begins anew");
                let _ = tokio::time::timeout(REST, stopped.wait_for(|stop| *stop)).await;
            }
        });
        Running { fingerprint, progress, stop, task }
    }
}

/// Says in our own log when a receiver begins to fail, fails for another reason, or works again; not at every attempt.
struct Telling {
    name: String,
    trouble: Option<String>,
}

impl Telling {
    fn of(name: &str) -> Self {
        Self { name: name.to_owned(), trouble: None }
    }

    fn each(mut self) -> impl FnMut(&Step) + Send {
        move |step| match step {
            Step::Wait(_, why) if self.trouble.as_ref() != Some(why) => {
                tracing::warn!(exporter = %self.name, "the audit log is not delivered: {why}");
                self.trouble = Some(why.clone());
            }
            Step::Done(1..) if self.trouble.take().is_some() => {
                tracing::info!(exporter = %self.name, "the audit log is delivered again");
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
