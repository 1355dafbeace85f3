//! Fetching secrets from vaults, and noticing new values.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    future::Future,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use bartizan_model::{Secret, SystemClock};
use bartizan_store::{
    Vault, VaultError,
    root::{
        Ask, Told, WITHIN, Wire,
        azure::{API, AzureTokens},
    },
};
use serde_json::Value;
use tokio::sync::mpsc;

use super::{Remote, fetched};
use crate::{
    config::{Config, Given},
    endpoints,
    keys::{EgressWire, azure_tokens, tls, trimmed},
    managed_identity::ManagedIdentity,
    state::State,
};

/// How often our own vault is looked at; it costs nothing.
const OWN: Duration = Duration::from_secs(2);

/// How often it is looked whether an identity's token nears its end; a new one is had minutes before.
const IDENTITIES: Duration = Duration::from_secs(60);

/// For whom Azure's identities vouch to Entra: the audience of federated credentials.
const FEDERATION: &str = "api://AzureADTokenExchange";

/// What the configuration in force needs, and how it is fetched.
static CURRENT: Mutex<Option<Arc<Fetcher>>> = Mutex::new(None);

tokio::task_local! {
    /// What was fetched for a configuration that is not in force yet. Only whoever makes that ready sees it.
    static TRIED: Arc<HashMap<Remote, Secret>>;
}

/// The value that `remote` has for whoever makes a configuration ready, if it was fetched for that.
pub(super) fn tried(remote: &Remote) -> Option<Secret> {
    TRIED.try_with(|values| values.get(remote).cloned()).ok().flatten()
}

/// The secrets of a configuration that is not in force yet.
#[must_use = "they count once they are adopted"]
pub struct Prepared {
    fetcher: Arc<Fetcher>,
    values: Arc<HashMap<Remote, Secret>>,
}

impl Prepared {
    /// Runs `steps`, which read these secrets before they are in force. Nobody else does meanwhile.
    pub async fn shown_to<F: Future>(&self, steps: F) -> F::Output {
        TRIED.scope(Arc::clone(&self.values), steps).await
    }

    /// Puts these secrets in force, and forgets those that nothing needs any more.
    pub fn adopt(&self) {
        let mut known = fetched();
        for (remote, secret) in self.values.iter() {
            known.insert(remote.clone(), Ok(secret.clone()));
        }
        known.retain(|remote, _| self.fetcher.wanted.contains(remote));
        *CURRENT.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&self.fetcher));
    }
}

/// The vaults of one configuration.
struct Fetcher {
    wanted: BTreeSet<Remote>,
    own: Option<Vault>,
    azure: Option<(String, Arc<dyn AzureTokens>, EgressWire)>,
    hashicorp: Option<(Hashicorp, EgressWire)>,
    identities: BTreeMap<Option<String>, ManagedIdentity>,
    ttl: Duration,
}

struct Hashicorp {
    address: String,
    token: Given,
    namespace: Option<String>,
    base: std::path::PathBuf,
}

/// Why a secret was not fetched.
enum Missed {
    /// Nobody answered: what was fetched before is as good as it was.
    Away(String),
    /// It is not there, or not for us.
    Gone(String),
}

/// Fetches every secret that `config` names and a vault keeps. Relative paths start at `base`. What is in force stays as it is
/// until [`Prepared::adopt`].
///
/// # Errors
/// What could not be fetched.
pub async fn prepare(config: &Config, base: &Path, state: &State) -> anyhow::Result<Prepared> {
    let fetcher = Fetcher::new(config, base, state).await?;
    let mut problems = Vec::new();
    let mut values: HashMap<Remote, Secret> = HashMap::new();
    for remote in &fetcher.wanted {
        // One vault's token may be kept by another.
        let so_far = Arc::new(values.clone());
        match TRIED.scope(so_far, fetcher.fetch(remote)).await {
            Ok(secret) => drop(values.insert(remote.clone(), secret)),
            Err(Missed::Away(problem)) if matches!(fetched().get(remote), Some(Ok(_))) => {
                tracing::warn!(problem, "going on with the value that was fetched before");
            }
            Err(Missed::Away(problem) | Missed::Gone(problem)) => problems.push(problem),
        }
    }
    if !problems.is_empty() {
        bail!("{}", problems.join("; "));
    }
    Ok(Prepared { fetcher: Arc::new(fetcher), values: Arc::new(values) })
}

/// Whether what `fetcher` fetches is what counts.
fn is_in_force(fetcher: &Arc<Fetcher>) -> bool {
    let current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
    current.as_ref().is_some_and(|current| Arc::ptr_eq(current, fetcher))
}

/// Fetches again what the configuration in force needs, for as long as the future lives. `changed` is told when a value is
/// another than before.
pub async fn watch(changed: mpsc::Sender<()>) {
    let mut ticks = tokio::time::interval(OWN);
    let (mut last, mut last_identities) = (Instant::now(), Instant::now());
    loop {
        ticks.tick().await;
        let current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(fetcher) = current else { continue };
        let is_due = last.elapsed() >= fetcher.ttl;
        if is_due {
            last = Instant::now();
        }
        let are_identities_due = last_identities.elapsed() >= IDENTITIES;
        if are_identities_due {
            last_identities = Instant::now();
        }
        let is_time = |remote: &&Remote| match remote {
            Remote::Vault(_) => true,
            Remote::Identity(_) => are_identities_due,
            Remote::Azure(_) | Remote::Hashicorp(_) => is_due,
        };
        let mut is_new = false;
        for remote in fetcher.wanted.iter().filter(is_time) {
            let now = match fetcher.fetch(remote).await {
                Ok(secret) => Ok(secret),
                Err(Missed::Gone(problem)) => Err(problem),
                Err(Missed::Away(problem)) => {
                    tracing::warn!(problem, "going on with the value that was fetched before");
                    continue;
                }
            };
            let mut known = fetched();
            // Another configuration came into force meanwhile, and may mean another vault's.
            if !is_in_force(&fetcher) {
                break;
            }
            let is_same = match (known.get(remote), &now) {
                (Some(Ok(then)), Ok(now)) => then.matches(now.reveal().as_bytes()),
                (Some(Err(_)), Err(_)) => true,
                _ => false,
            };
            if !is_same {
                match &now {
                    Ok(_) => tracing::info!(secret = %remote, "a secret has a new value"),
                    Err(problem) => tracing::error!(problem, "a secret counts no more"),
                }
                known.insert(remote.clone(), now);
                // Whoever shows an identity's assertion reads it each time.
                is_new |= !matches!(remote, Remote::Identity(_));
            }
        }
        if is_new {
            // A full channel already says it.
            let _ = changed.try_send(());
        }
    }
}

impl Fetcher {
    async fn new(config: &Config, base: &Path, state: &State) -> anyhow::Result<Self> {
        let wanted = wanted(config)?;
        let needs = |of: fn(&Remote) -> bool| wanted.iter().any(of);
        let own = if needs(|r| matches!(r, Remote::Vault(_))) {
            Some(Vault::new(state.database().await?, state.sealer().await?))
        } else {
            None
        };
        let wire = |ca: Option<&Path>| EgressWire::new(endpoints::egress(config), tls(base, ca));
        let azure = match &config.vaults.azure {
            Some(azure) if needs(|r| matches!(r, Remote::Azure(_))) => {
                Some((trimmed(&azure.url), azure_tokens(config, base)?, wire(azure.ca.as_deref())))
            }
            _ => None,
        };
        let hashicorp = config.vaults.hashicorp.as_ref().map(|vault| {
            let settings = Hashicorp {
                address: trimmed(&vault.url),
                token: vault.token.clone(),
                namespace: vault.namespace.clone(),
                base: base.to_owned(),
            };
            (settings, wire(vault.ca.as_deref()))
        });
        let mut identities = BTreeMap::new();
        for remote in &wanted {
            let Remote::Identity(client) = remote else { continue };
            let egress = endpoints::egress(config);
            let identity =
                ManagedIdentity::new(&egress, FEDERATION, client.as_deref(), Arc::new(SystemClock));
            identities.insert(client.clone(), identity.with_context(|| remote.to_string())?);
        }
        let ttl = Duration::from_secs(config.vaults.ttl_s);
        Ok(Self { wanted, own, azure, hashicorp, identities, ttl })
    }

    async fn fetch(&self, remote: &Remote) -> Result<Secret, Missed> {
        match remote {
            Remote::Vault(name) => {
                let vault = self.own.as_ref().ok_or_else(|| Missed::Gone("there is no vault".into()))?;
                vault.read(name).await.map_err(|error| match error {
                    VaultError::Database(error) => Missed::Away(error.to_string()),
                    other => Missed::Gone(other.to_string()),
                })
            }
            Remote::Azure(name) => self.azure(remote, name).await,
            Remote::Hashicorp(address) => self.hashicorp(remote, address).await,
            Remote::Identity(client) => {
                let identity = self.identities.get(client);
                let identity = identity.ok_or_else(|| Missed::Gone(format!("{remote} is not known")))?;
                identity.token().await.map_err(Missed::Away)
            }
        }
    }

    /// Get Secret of the REST API.
    async fn azure(&self, remote: &Remote, name: &str) -> Result<Secret, Missed> {
        let missing = || Missed::Gone(format!("{remote} needs [vaults.azure]"));
        let (vault, tokens, wire) = self.azure.as_ref().ok_or_else(missing)?;
        let what = remote.to_string();
        for again in [false, true] {
            let token =
                tokens.token(again).await.map_err(|error| Missed::Away(format!("{what}: {error}")))?;
            let told = wire
                .ask(Ask {
                    url: format!("{vault}/secrets/{name}?api-version={API}"),
                    headers: vec![("authorization", Secret::new(format!("Bearer {}", token.reveal())))],
                    body: None,
                    within: WITHIN,
                    what: &what,
                })
                .await
                .map_err(|error| Missed::Away(format!("{what}: {error}")))?;
            if told.status != 401 || again {
                return found(&what, &told, "/value");
            }
        }
        Err(missing())
    }

    /// Read Secret Version of the key/value engine, version 2.
    async fn hashicorp(&self, remote: &Remote, address: &str) -> Result<Secret, Missed> {
        let missing = || Missed::Gone(format!("{remote} needs [vaults.hashicorp]"));
        let (vault, wire) = self.hashicorp.as_ref().ok_or_else(missing)?;
        let no_address = || Missed::Gone(format!("`{address}` is not MOUNT/PATH#FIELD"));
        let (path, field) = address.split_once('#').ok_or_else(no_address)?;
        let (mount, path) = path.split_once('/').ok_or_else(no_address)?;
        let what = remote.to_string();
        let token = vault.token.read(&vault.base);
        let token = token.map_err(|error| Missed::Away(format!("[vaults.hashicorp] token: {error:#}")))?;
        let mut headers = vec![("x-vault-token", token)];
        if let Some(namespace) = &vault.namespace {
            headers.push(("x-vault-namespace", Secret::new(namespace.clone())));
        }
        let url = format!("{}/v1/{mount}/data/{path}", vault.address);
        let told = wire.ask(Ask { url, headers, body: None, within: WITHIN, what: &what }).await;
        let told = told.map_err(|error| Missed::Away(format!("{what}: {error}")))?;
        found(&what, &told, &format!("/data/data/{field}"))
    }
}

/// The text at `pointer` of a good answer.
fn found(what: &str, told: &Told, pointer: &str) -> Result<Secret, Missed> {
    match told.status {
        200..=299 => {
            let answer: Option<Value> = serde_json::from_slice(&told.body).ok();
            let text = answer.as_ref().and_then(|answer| answer.pointer(pointer)).and_then(Value::as_str);
            let text = text.ok_or_else(|| Missed::Gone(format!("{what}: the answer has no such text")))?;
            Ok(Secret::new(text.to_owned()))
        }
        // Too many requests, sealed or standby (Vault), trouble of its own; a body may quote what we sent.
        429 | 472 | 473 | 500..=599 => Err(Missed::Away(format!("{what}: HTTP {}", told.status))),
        404 => Err(Missed::Gone(format!("{what} does not exist"))),
        status => Err(Missed::Gone(format!("{what} is not for us: HTTP {status}"))),
    }
}

/// Every secret that the configuration names and a vault keeps, wherever it stands.
fn wanted(config: &Config) -> anyhow::Result<BTreeSet<Remote>> {
    let mut found = BTreeSet::new();
    collect(&serde_json::to_value(config).context("the configuration")?, "", &mut found);
    Ok(found)
}

fn collect(value: &Value, under: &str, found: &mut BTreeSet<Remote>) {
    match value {
        Value::Array(all) => all.iter().for_each(|one| collect(one, under, found)),
        Value::Object(fields) => {
            // Maps whose keys are the operator's words may have ours among them.
            let is_reference = fields.len() == 1 && !matches!(under, "set_env" | "scopes");
            if under == "credential" && fields.get("method").is_some_and(|m| m == "managed_identity") {
                let client = fields.get("identity_client_id").and_then(Value::as_str);
                found.insert(Remote::Identity(client.map(str::to_owned)));
            }
            for (key, value) in fields {
                match (key.as_str(), value) {
                    ("vault", Value::String(name)) if is_reference => {
                        found.insert(Remote::Vault(name.clone()));
                    }
                    ("azure_kv", Value::String(name)) if is_reference => {
                        found.insert(Remote::Azure(name.clone()));
                    }
                    ("hashicorp", Value::String(address)) if is_reference => {
                        found.insert(Remote::Hashicorp(address.clone()));
                    }
                    _ => collect(value, key, found),
                }
            }
        }
        _ => {}
    }
}

/// What is wrong with the references of a configuration.
pub fn address_problems(config: &Config) -> Vec<String> {
    let is_part = |text: &str| {
        !text.is_empty()
            && text != ".."
            && text != "."
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    let mut problems = Vec::new();
    for remote in wanted(config).unwrap_or_default() {
        match &remote {
            Remote::Vault(name) if !is_part(name) => {
                problems.push(format!(
                    "{{ vault = \"{name}\" }}: a name is made of A-Z, a-z, 0-9, `-`, `_` and `.`"
                ));
            }
            Remote::Azure(name) => {
                if config.vaults.azure.is_none() {
                    problems.push(format!("{{ azure_kv = \"{name}\" }} needs [vaults.azure]"));
                }
                if !name.split('/').all(is_part) || name.split('/').count() > 2 {
                    problems.push(format!("{{ azure_kv = \"{name}\" }}: write NAME, or NAME/VERSION"));
                }
            }
            Remote::Hashicorp(address) => {
                if config.vaults.hashicorp.is_none() {
                    problems.push(format!("{{ hashicorp = \"{address}\" }} needs [vaults.hashicorp]"));
                }
                let is_good = address.split_once('#').is_some_and(|(path, field)| {
                    is_part(field) && path.split('/').count() > 1 && path.split('/').all(is_part)
                });
                if !is_good {
                    problems.push(format!("{{ hashicorp = \"{address}\" }}: write MOUNT/PATH#FIELD"));
                }
            }
            Remote::Vault(_) | Remote::Identity(_) => {}
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_found_wherever_they_stand() {
        let config: Config = toml::from_str(
            "[[servers]]\nname = \"a\"\nurl = \"http://127.0.0.1:1/\"\n\
             credential = { kind = \"secret\", value = { vault = \"A\" } }\n\
             [[servers]]\nname = \"b\"\ncommand = [\"x\"]\n\
             set_env = { vault = \"just a text\", KEY = { azure_kv = \"key/1\" }, B = { hashicorp = \"kv/app/b#key\" } }\n\
             [vaults.hashicorp]\nurl = \"https://v\"\ntoken = { env = \"T\" }\n",
        )
        .unwrap();
        let found: Vec<_> = wanted(&config).unwrap().into_iter().collect();
        assert_eq!(
            found,
            [
                Remote::Vault("A".into()),
                Remote::Azure("key/1".into()),
                Remote::Hashicorp("kv/app/b#key".into())
            ]
        );
        let problems = address_problems(&config);
        assert!(problems.len() == 1 && problems[0].contains("[vaults.azure]"), "{problems:?}");
        for bad in ["../x#y", "kv#y", "kv/x", "kv/x?y=1#z", "kv//x#y"] {
            let config = format!(
                "[[servers]]\nname = \"b\"\ncommand = [\"x\"]\nset_env = {{ B = {{ hashicorp = \"{bad}\" }} }}\n\
                 [vaults.hashicorp]\nurl = \"https://v\"\ntoken = {{ env = \"T\" }}\n"
            );
            assert_eq!(address_problems(&toml::from_str(&config).unwrap()).len(), 1, "{bad}");
        }
    }

    #[test]
    fn an_identity_is_wanted_where_a_credential_is_it_and_nowhere_else() {
        let config: Config = toml::from_str(
            "[identity]\nmode = \"facade\"\n[identity.provider]\nkind = \"entra\"\ntenant = \"t\"\nclient_id = \"c\"\n\
             credential = { method = \"managed_identity\" }\n\
             [identity.graph]\napp = { tenant = \"t\", client_id = \"d\", credential = { method = \"managed_identity\", \
             identity_client_id = \"ours\" } }\n\
             [[servers]]\nname = \"b\"\ncommand = [\"x\"]\nset_env = { method = \"managed_identity\" }\n",
        )
        .unwrap();
        let found: Vec<_> = wanted(&config).unwrap().into_iter().collect();
        assert_eq!(found, [Remote::Identity(None), Remote::Identity(Some("ours".into()))]);
    }

    /// Another configuration's value is read by whoever makes that ready, and by everybody once it is in force.
    #[tokio::test]
    async fn what_is_fetched_for_another_configuration_counts_when_that_is_in_force() {
        let of = |names: &[(&str, &str)]| {
            let values: HashMap<_, _> = names
                .iter()
                .map(|(name, value)| (Remote::Vault((*name).into()), Secret::new((*value).to_owned())))
                .collect();
            let fetcher = Fetcher {
                wanted: values.keys().cloned().collect(),
                own: None,
                azure: None,
                hashicorp: None,
                identities: BTreeMap::new(),
                ttl: Duration::from_secs(60),
            };
            Prepared { fetcher: Arc::new(fetcher), values: Arc::new(values) }
        };
        let read = |name: &str| {
            let from = bartizan_model::SecretRef::Vault { vault: name.to_owned() };
            crate::secrets::read(&from, Path::new("")).ok().map(|secret| secret.reveal().to_owned())
        };
        of(&[("both", "old"), ("gone", "old")]).adopt();
        let next = of(&[("both", "new"), ("added", "new")]);
        let seen = next.shown_to(async { (read("both"), read("added"), read("gone")) }).await;
        assert_eq!(seen, (Some("new".into()), Some("new".into()), Some("old".into())));
        assert_eq!(
            (read("both"), read("added"), read("gone")),
            (Some("old".into()), None, Some("old".into()))
        );
        next.adopt();
        assert_eq!(
            (read("both"), read("added"), read("gone")),
            (Some("new".into()), Some("new".into()), None)
        );
    }

    #[test]
    fn an_answer_is_a_value_or_says_whether_to_wait() {
        let told =
            |status, body: &str| Told { status, body: zeroize::Zeroizing::new(body.as_bytes().to_vec()) };
        let value = found("x", &told(200, r#"{"data":{"data":{"key":"v"}}}"#), "/data/data/key");
        assert!(value.is_ok_and(|v| v.reveal() == "v"));
        assert!(matches!(found("x", &told(200, "{}"), "/value"), Err(Missed::Gone(_))));
        assert!(matches!(found("x", &told(503, ""), "/value"), Err(Missed::Away(_))));
        assert!(matches!(found("x", &told(403, ""), "/value"), Err(Missed::Gone(_))));
        assert!(matches!(found("x", &told(404, ""), "/value"), Err(Missed::Gone(_))));
    }
}
