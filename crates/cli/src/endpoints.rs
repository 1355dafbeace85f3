//! From the configuration to what the gateway runs on.

use std::{collections::BTreeMap, ffi::OsString, path::Path, sync::Arc};

use anyhow::{Context, anyhow, bail};
use bartizan_egress::{Egress, Peer, TlsOptions};
use bartizan_gateway::permit::Rules;
use bartizan_gateway::quota::{Place, Shared};
use bartizan_gateway::server::{Pinning, ServerSettings, Transport};
use bartizan_gateway::upstream::scrub::Scrub;
use bartizan_mcp::Era;
use bartizan_model::{Entropy, Secret, SecretRef, ServerName, SystemClock};
use bartizan_oauth::{
    EgressFetch, Fetch, Ledger, SubjectTokens,
    outbound::{self, Assertions, Credential, EntraAppConfig, Linking, Made, Means},
    signin::ProviderConfig,
};
use bartizan_sandbox::{Launch, clean_environment};
use bartizan_shield::drift::Identity;
use bartizan_store::{Digest, Links, OsEntropy, Sealer};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::{RootCertStore, server::WebPkiClientVerifier};
use url::Url;

use crate::{
    config::{Config, EraPin, TlsFiles, Upstream, UpstreamTls},
    identity::Mode,
    secrets::{self, LocalSecrets},
    state::STATE_FOLDER,
};

/// The door that a configuration asks for.
pub fn egress(config: &Config) -> Egress {
    Egress::new(bartizan_egress::Config {
        dangerous_allow: config.egress.dangerous_allow.clone(),
        proxy: config.egress.proxy.clone(),
        ..bartizan_egress::Config::default()
    })
}

/// The door to addresses that strangers give: what the operator allowed for addresses of his own is not for them.
pub fn egress_for_strangers(config: &Config) -> Egress {
    Egress::new(bartizan_egress::Config {
        proxy: config.egress.proxy.clone(),
        ..bartizan_egress::Config::default()
    })
}

/// What credentials of people are kept in, and where people are sent.
#[derive(Clone)]
pub struct Desk {
    /// Linked accounts.
    pub links: Arc<dyn Links>,
    /// What their addresses are marked with.
    pub sealer: Arc<Sealer>,
    /// Where browsers reach the gate.
    pub public_url: Url,
    /// Tokens of callers that are exchanged for others.
    pub subjects: Arc<SubjectTokens>,
    /// What sign-ins at an Entra tenant left.
    pub assertions: Assertions,
}

/// Where `[limits] shared` counts, if it is set.
pub fn shared_limits(config: &Config, base: &Path) -> anyhow::Result<Option<Shared>> {
    let limits = &config.limits;
    let Some(place) = &limits.shared else { return Ok(None) };
    let tls = TlsOptions { ca: limits.shared_ca.as_ref().map(|p| base.join(p)), ..TlsOptions::default() };
    let place = Place::parse(place, tls).map_err(|problem| anyhow!("[limits] shared: {problem}"))?;
    let password = match &limits.shared_password_file {
        Some(file) => {
            let password = secrets::read(&SecretRef::File { file: file.clone() }, base);
            Some(password.context("[limits] shared_password_file")?)
        }
        None => None,
    };
    // Of this process and configuration alone: what two gates have under way must not be taken for one another's.
    let mut gate = [0; 16];
    OsEntropy.fill(&mut gate);
    Ok(Some(Shared::new(place, password, egress(config), Digest::of(&gate).to_string())))
}

/// Every server, ready to be reached. Relative paths start at `base`.
pub fn servers(config: &Config, base: &Path, desk: &Desk) -> anyhow::Result<Vec<ServerSettings>> {
    let egress = egress(config);
    config
        .servers
        .iter()
        .map(|s| settings(s, config, &egress, base, desk).with_context(|| format!("server `{}`", s.name)))
        .collect()
}

fn settings(
    server: &Upstream,
    config: &Config,
    egress: &Egress,
    base: &Path,
    desk: &Desk,
) -> anyhow::Result<ServerSettings> {
    let mut fingerprint = format!("{server:?} {:?} {}", config.egress, desk.public_url);
    let transport = match (&server.command, &server.url) {
        (Some(command), _) => {
            let (launch, secrets) = launch(command, server, base)?;
            fingerprint.push_str(&format!("{:?}", launch.environment));
            Transport::Command { launch, secrets }
        }
        (None, Some(url)) => {
            let peer = peer(server, url, base);
            for file in [&peer.tls.client_cert, &peer.tls.key, &peer.tls.ca].into_iter().flatten() {
                // A renewed certificate is another server configuration.
                fingerprint
                    .push_str(&format!("{:?}", std::fs::metadata(file).and_then(|m| m.modified()).ok()));
            }
            Transport::Url(egress.endpoint(&peer)?)
        }
        (None, None) => bail!("it has neither `command` nor `url`"),
    };
    let identity = match (&server.command, &server.url) {
        (Some(argv), _) => Identity::Command { argv: argv.clone(), package: None, runs: Vec::new() },
        (None, url) => Identity::Url {
            origin: url.as_ref().map(|u| u.origin().ascii_serialization()).unwrap_or_default(),
            authority: authority(server, base)?,
            key: pinned_key(&server.tls),
        },
    };
    let era = match server.era {
        EraPin::Auto => None,
        EraPin::Modern => Some(Era::Modern),
        EraPin::Legacy => Some(Era::Legacy),
    };
    Ok(ServerSettings {
        credential: credential(server, config, egress, base, desk)?,
        name: server.name.clone(),
        transport,
        era,
        shared: server.shared,
        allow_methods: server.allow_methods.clone(),
        identity,
        app_hosts: server.app_hosts.clone(),
        pins_resources: server.pin_resources,
        second_opinions: server.second_opinions.clone(),
        inspects: !server.dangerous_unshielded,
        validates: !server.dangerous_unvalidated,
        watches_program: !server.dangerous_any_program,
        trust: server.trust,
        pinning: match (server.dangerous_unpinned, server.trust_on_first_use) {
            (true, _) => Pinning::DangerousNone,
            (false, true) => Pinning::FirstUse,
            (false, false) => Pinning::ByHand,
        },
        is_wrapped: false,
        fingerprint,
    })
}

fn peer(server: &Upstream, url: &Url, base: &Path) -> Peer {
    Peer { url: url.clone(), tls: tls(server, base), dangerous_plaintext: server.dangerous_plaintext }
}

/// Whether `server` can be started or connected to by its settings and the files they name. Nothing is started and nobody is
/// asked.
///
/// # Errors
/// Why not.
pub fn reachable(server: &Upstream, config: &Config, base: &Path) -> anyhow::Result<()> {
    match (&server.command, &server.url) {
        (Some(command), _) => Ok(launch(command, server, base)?.0.check()?),
        (None, Some(url)) => {
            let _ = egress(config).endpoint(&peer(server, url, base))?;
            authority(server, base).map(drop)
        }
        (None, None) => bail!("it has neither `command` nor `url`"),
    }
}

/// How far each server is trusted, in the policy's words.
pub fn trusts(config: &Config) -> BTreeMap<ServerName, bartizan_policy::Trust> {
    let trust = |t: bartizan_shield::Trust| match t {
        bartizan_shield::Trust::Trusted => bartizan_policy::Trust::Trusted,
        bartizan_shield::Trust::Internal => bartizan_policy::Trust::Internal,
        bartizan_shield::Trust::Untrusted => bartizan_policy::Trust::Untrusted,
    };
    config.servers.iter().map(|s| (s.name.clone(), trust(s.trust))).collect()
}

/// The policies, and what they are about.
pub fn rules(config: &Config, base: &Path) -> anyhow::Result<Rules> {
    let policies = match &config.policy.dir {
        Some(dir) => crate::policy::read_folder(&base.join(dir)).context("[policy] dir")?,
        None => Vec::new(),
    };
    let servers = trusts(config);
    let may_ask = config.servers.iter().map(|s| {
        let questions = s.may_ask.iter().map(|word| (*word).into()).collect();
        (s.name.clone(), questions)
    });
    Ok(Rules {
        config: config.policy.clone(),
        policies,
        servers,
        may_ask: may_ask.collect(),
        has_issuers: config.has_issuers(),
    })
}

/// The keys that the operator pins a server to, as one value: the pin itself, or SHA-256 over several in order.
fn pinned_key(tls: &UpstreamTls) -> Option<[u8; 32]> {
    match tls.pins().as_slice() {
        [] => None,
        [one] => Some(*one),
        several => {
            let mut sorted = several.to_vec();
            sorted.sort_unstable();
            Some(Digest::of(&sorted.concat()).0)
        }
    }
}

/// What the operator trusts for a server instead of the system's authorities, digested.
fn authority(server: &Upstream, base: &Path) -> anyhow::Result<Option<[u8; 32]>> {
    let Some(file) = &server.tls.ca else { return Ok(None) };
    let path = base.join(file);
    let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Some(Digest::of(&bytes).0))
}

fn launch(command: &[String], server: &Upstream, base: &Path) -> anyhow::Result<(Launch, Scrub)> {
    let mut set = BTreeMap::new();
    let mut secrets = Vec::new();
    for (name, value) in &server.set_env {
        let secret = value.read(base).with_context(|| format!("set_env.{name}"))?;
        set.insert(name.clone(), secret.reveal().to_owned());
        if value.kept().is_some() {
            secrets.push(secret);
        }
    }
    let (program, arguments) = command.split_first().context("`command` is empty")?;
    let program =
        if program == crate::sample::OWN_BINARY { crate::own_binary()? } else { OsString::from(program) };
    let environment = clean_environment(std::env::vars_os(), &server.env, &set);
    secrets.extend(
        server
            .env
            .iter()
            .filter_map(|name| environment.get(std::ffi::OsStr::new(name))?.to_str())
            .map(|value| Secret::new(value.to_owned())),
    );
    let confinement = server
        .sandbox
        .as_ref()
        .map(|sandbox| sandbox.confinement(base, &base.join(STATE_FOLDER), server.cwd.as_deref()));
    let launch = Launch {
        program,
        arguments: arguments.iter().map(OsString::from).collect(),
        folder: server.cwd.as_ref().map(|f| base.join(f)),
        environment,
        confinement: confinement.transpose()?,
        helper: crate::own_binary()?.into(),
    };
    Ok((launch, Scrub::new(secrets)))
}

/// What the gate shows the server.
fn credential(
    server: &Upstream,
    config: &Config,
    egress: &Egress,
    base: &Path,
    desk: &Desk,
) -> anyhow::Result<Option<Arc<dyn Credential>>> {
    let Some(url) = &server.url else { return Ok(None) };
    let means = means(server, config, egress, base, desk);
    let made = outbound::credential(&server.credential, &server.name, url, &means);
    Ok(made.map_err(|problem| anyhow::anyhow!("credential: {problem}"))?.credential())
}

/// Each person's own account at `server`, if that is its credential.
///
/// # Errors
/// What is wrong with the credential.
pub fn personal(
    config: &Config,
    server: &Upstream,
    base: &Path,
    desk: &Desk,
) -> anyhow::Result<Option<outbound::UserOauth>> {
    let Some(url) = &server.url else { return Ok(None) };
    let means = means(server, config, &egress(config), base, desk);
    match outbound::credential(&server.credential, &server.name, url, &means) {
        Ok(Made::Personal(account)) => Ok(Some(account)),
        Ok(_) => Ok(None),
        Err(problem) => bail!("server `{}`: {problem}", server.name),
    }
}

fn means(server: &Upstream, config: &Config, egress: &Egress, base: &Path, desk: &Desk) -> Means {
    let provider = provider(config);
    let own = provider.as_ref().filter(|_| server.credential.takes_sign_ins());
    let ca = server.credential.ca().or(own.and_then(|app| app.ca.as_deref()));
    let issuers = TlsOptions { ca: ca.map(|ca| base.join(ca)), ..TlsOptions::default() };
    let way = |tls| Arc::new(EgressFetch::new(egress.clone(), tls));
    Means { provider, ..means_by(way(tls(server, base)), way(issuers), base, desk) }
}

/// The gate's registration in the tenant that signs people in, if one does.
pub fn provider(config: &Config) -> Option<EntraAppConfig> {
    match &config.identity.provider {
        Some(ProviderConfig::Entra(entra)) if config.identity.mode == Mode::Facade => Some(entra.into()),
        _ => None,
    }
}

/// The means of a credential that reaches its server by `ask` and authorization servers by `issuers`.
fn means_by(ask: Arc<dyn Fetch>, issuers: Arc<dyn Fetch>, base: &Path, desk: &Desk) -> Means {
    Means {
        ask,
        issuers,
        secrets: Arc::new(LocalSecrets { base: base.to_owned() }),
        read: secrets::reader(base),
        subjects: Arc::clone(&desk.subjects),
        assertions: desk.assertions.clone(),
        provider: None,
        links: Arc::clone(&desk.links),
        sealer: Arc::clone(&desk.sealer),
        clock: Arc::new(SystemClock),
        entropy: Arc::new(OsEntropy),
        base: desk.public_url.clone(),
        document: Means::document_below(&desk.public_url),
    }
}

/// The pages on which people link their accounts at servers.
pub fn linking(
    config: &Config,
    base: &Path,
    desk: &Desk,
    ledger: Arc<dyn Ledger>,
) -> anyhow::Result<Linking> {
    let egress = egress(config);
    let mut accounts = Vec::new();
    for server in &config.servers {
        let Some(url) = &server.url else { continue };
        let means = means(server, config, &egress, base, desk);
        let made = outbound::credential(&server.credential, &server.name, url, &means);
        if let Made::Personal(account) =
            made.map_err(|problem| anyhow::anyhow!("server `{}`: {problem}", server.name))?
        {
            accounts.push(account);
        }
    }
    let way = || Arc::new(EgressFetch::new(egress.clone(), TlsOptions::default()));
    let means = means_by(way(), way(), base, desk);
    Ok(Linking::new(accounts, means, ledger))
}

/// Whom to trust as the server, and who we are to it.
fn tls(server: &Upstream, base: &Path) -> TlsOptions {
    let at = |p: &Option<std::path::PathBuf>| p.as_ref().map(|p| base.join(p));
    TlsOptions {
        client_cert: at(&server.tls.client_cert),
        key: at(&server.tls.key),
        ca: at(&server.tls.ca),
        pins: server.tls.pins(),
    }
}

/// The listener's TLS. HTTP/2 is offered beside HTTP/1.1; TLS 1.2 is the oldest.
pub fn listener_tls(files: &TlsFiles, base: &Path) -> anyhow::Result<Arc<rustls::ServerConfig>> {
    let (cert, key) = (base.join(&files.cert), base.join(&files.key));
    let chain: Vec<_> = CertificateDer::pem_file_iter(&cert)
        .and_then(Iterator::collect)
        .with_context(|| format!("[server] tls.cert: {}", cert.display()))?;
    let key =
        PrivateKeyDer::from_pem_file(&key).with_context(|| format!("[server] tls.key: {}", key.display()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let clients = match &files.client_ca {
        None => WebPkiClientVerifier::no_client_auth(),
        Some(file) => {
            let path = base.join(file);
            let mut roots = RootCertStore::empty();
            let found: Vec<_> = CertificateDer::pem_file_iter(&path)
                .and_then(Iterator::collect)
                .with_context(|| format!("[server] tls.client_ca: {}", path.display()))?;
            roots.add_parsable_certificates(found);
            // Whoever shows no certificate may still have a token that is bound to none.
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .allow_unauthenticated()
                .build()
                .with_context(|| format!("[server] tls.client_ca: {}", path.display()))?
        }
    };
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)
        .context("[server] tls: the certificate and the key do not fit together")?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
