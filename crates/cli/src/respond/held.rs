//! The step `secrets`: what the server held is marked to be rotated, and rotated where a command of the operator's can.

use std::{collections::BTreeMap, process::Stdio, time::Duration};

use anyhow::Context;
use bartizan_audit::Kind;
use bartizan_model::{Clock, Secret, SecretRef, ServerName, SystemClock};
use bartizan_oauth::outbound::CredentialConfig;
use bartizan_store::{
    Plans, Sealer, StoredPlans,
    plans::{SecretMark, Standing, Step},
};

use super::compromise::{Done, Run, Scene};
use crate::{
    config::{Config, Given, Upstream},
    secrets,
};

/// How long the operator's command may take for one secret.
const ROTATING: Duration = Duration::from_secs(120);

/// A secret that the server held.
pub struct Held {
    /// `env:NAME`, `file:PATH`, or `config:set_env.NAME`.
    pub place: String,
    /// How it can be read; `None` for what stands in the configuration itself.
    from: Option<SecretRef>,
    /// What it was for, and who else has it.
    pub words: String,
}

/// Every secret that the server was shown, or that its processes got. What only its authorization server was shown, such
/// as a client's secret, is not among them, nor are keys, which nobody is shown.
pub fn secrets(scene: &Scene) -> Vec<Held> {
    let Some(upstream) = scene.upstream() else { return Vec::new() };
    let mut others: BTreeMap<String, Vec<&ServerName>> = BTreeMap::new();
    for other in scene.loaded.config.servers.iter().filter(|s| s.name != scene.server) {
        for (place, ..) in shown(other) {
            others.entry(place).or_default().push(&other.name);
        }
    }
    let mut found = BTreeMap::new();
    for (place, from, what) in shown(upstream) {
        let shared = others.get(&place).map(|names| {
            let names: Vec<_> = names.iter().map(|name| name.as_str()).collect();
            format!("; `{}` uses it too", names.join("`, `"))
        });
        let words = format!("{what}{}", shared.unwrap_or_default());
        found.entry(place.clone()).or_insert(Held { place, from, words });
    }
    found.into_values().collect()
}

fn shown(upstream: &Upstream) -> Vec<(String, Option<SecretRef>, String)> {
    let mut all = Vec::new();
    let mut add = |kept: SecretRef, what: String| {
        let place = match &kept {
            SecretRef::Env { env } => format!("env:{env}"),
            SecretRef::File { file } => format!("file:{}", file.display()),
            SecretRef::Vault { vault } => format!("vault:{vault}"),
            SecretRef::AzureKv { azure_kv } => format!("azure_kv:{azure_kv}"),
            SecretRef::Hashicorp { hashicorp } => format!("hashicorp:{hashicorp}"),
            // Shown to Entra alone; the platform renews it.
            SecretRef::ManagedIdentity { .. } => return,
        };
        all.push((place, Some(kept), what));
    };
    if let CredentialConfig::Secret(secret) = &upstream.credential {
        add(secret.value.clone(), format!("shown to it in `{}`", secret.header));
    }
    for name in &upstream.env {
        add(SecretRef::Env { env: name.clone() }, format!("its processes have {name}"));
    }
    let mut written = Vec::new();
    for (name, value) in &upstream.set_env {
        match value {
            Given::Kept(kept) => add(kept.clone(), format!("its processes have it as {name}")),
            Given::Text(_) => written.push((
                format!("config:set_env.{name}"),
                None,
                "stands in the configuration itself; if it is a secret, move it to a file".to_owned(),
            )),
        }
    }
    all.extend(written);
    all
}

/// A keyed digest of the value as it is now; empty if it cannot be read from here.
fn fingerprint(scene: &Scene, sealer: &Sealer, held: &Held) -> String {
    value(scene, held).map_or_else(String::new, |value| sealer.mark(&parts(&held.place, &value)))
}

/// Whether the value is known to be another than the one `fingerprint` was made of. Where keys changed since, and the one that made it is
/// gone, nothing is known: the same value has another fingerprint then.
fn is_another(scene: &Scene, sealer: &Sealer, held: &Held, fingerprint: &str) -> bool {
    value(scene, held).is_some_and(|value| {
        sealer.knows(fingerprint) && !sealer.is_marked(&parts(&held.place, &value), fingerprint)
    })
}

fn value(scene: &Scene, held: &Held) -> Option<Secret> {
    held.from.as_ref().and_then(|from| secrets::read(from, &scene.base).ok())
}

fn parts<'a>(place: &'a str, value: &'a Secret) -> [&'a [u8]; 3] {
    [b"rotated secret", place.as_bytes(), value.reveal().as_bytes()]
}

/// Marks every secret, and has rotated what can be.
pub async fn mark_all(scene: &Scene, run: &Run) -> anyhow::Result<Done> {
    let sealer = scene.state.sealer().await?;
    let (mut rotated, mut by_hand, mut failed) = (0_u32, 0_u32, 0_u32);
    let before = run.plans().items(&run.plan().id).await?;
    for held in secrets(scene) {
        let is_done = |i: &&bartizan_store::plans::Item| {
            i.step == Step::Secrets && i.name == held.place && i.standing == Standing::Done
        };
        if before.iter().any(|item| is_done(&item)) {
            rotated += 1;
            continue;
        }
        run.plans()
            .mark(&SecretMark {
                server: scene.server.clone(),
                place: held.place.clone(),
                plan: run.plan().id.clone(),
                fingerprint: fingerprint(scene, &sealer, &held),
                marked_at: SystemClock.now(),
                rotated_at: None,
            })
            .await?;
        run.record(Kind::SecretChanged, "secret", &held.place, "to be rotated").await?;
        let (standing, words) = rotate(scene, run, &sealer, &held).await?;
        match standing {
            Standing::Done => rotated += 1,
            Standing::ByHand => by_hand += 1,
            Standing::Failed | Standing::Waiting => failed += 1,
        }
        run.settle(Step::Secrets, &held.place, standing, &format!("{}; {words}", held.words)).await?;
    }
    let own_tokens =
        matches!(scene.upstream().map(|u| &u.credential), Some(CredentialConfig::ClientCredentials(_)));
    if own_tokens {
        let words = "access tokens that the gate got for itself: gates forget them when they restart, and they end by themselves";
        run.settle(Step::Secrets, "client-credentials", Standing::Done, words).await?;
    }
    let standing = match (failed, by_hand) {
        (0, 0) => Standing::Done,
        (0, _) => Standing::ByHand,
        _ => Standing::Failed,
    };
    let words = match (rotated, by_hand, failed) {
        (0, 0, 0) => "it held none".to_owned(),
        _ => format!("{rotated} rotated, {by_hand} marked for you to rotate, {failed} failed"),
    };
    Ok(Done { standing, words })
}

/// Rotates one by `[respond] rotate`, if there is such a command.
async fn rotate(
    scene: &Scene,
    run: &Run,
    sealer: &Sealer,
    held: &Held,
) -> anyhow::Result<(Standing, String)> {
    let command = &scene.loaded.config.respond.rotate;
    let (Some(from), Some((program, arguments))) = (&held.from, command.split_first()) else {
        return Ok((Standing::ByHand, by_hand(&held.place)));
    };
    let mut child = tokio::process::Command::new(program);
    child
        .args(arguments)
        .arg(scene.server.as_str())
        .arg(&held.place)
        .current_dir(match scene.base.as_os_str().is_empty() {
            true => std::path::Path::new("."),
            false => &scene.base,
        })
        .stdin(Stdio::null())
        // What it says may hold the secret.
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let ended = match tokio::time::timeout(ROTATING, child.status()).await {
        Ok(ended) => ended.with_context(|| format!("[respond] rotate: `{program}`")),
        Err(_) => Err(anyhow::anyhow!("[respond] rotate took longer than {} s", ROTATING.as_secs())),
    };
    let status = match ended {
        Ok(status) => status,
        Err(error) => return Ok((Standing::Failed, format!("{error:#}"))),
    };
    if !status.success() {
        return Ok((Standing::Failed, format!("[respond] rotate ended with {status}")));
    }
    // The environment of this process is as old as this process.
    if matches!(from, SecretRef::Env { .. }) {
        let place = &held.place;
        let words =
            format!("[respond] rotate succeeded; restart what has it, then say so by --rotated {place}");
        return Ok((Standing::ByHand, words));
    }
    let marks = run.plans().marks(&scene.server).await?;
    let mark = marks.iter().find(|mark| mark.place == held.place);
    let fingerprint = mark.map_or("", |mark| mark.fingerprint.as_str());
    // One that could not be read when it was marked is another once it can be.
    let is_new = fingerprint.is_empty() && value(scene, held).is_some();
    if !is_new && !is_another(scene, sealer, held, fingerprint) {
        let words = match fingerprint.is_empty() || sealer.knows(fingerprint) {
            true => "[respond] rotate succeeded, and the value is what it was".to_owned(),
            false => format!("[respond] rotate succeeded; {}", incomparable(&held.place)),
        };
        return Ok((Standing::Failed, words));
    }
    run.plans().rotated(&scene.server, &held.place, SystemClock.now()).await?;
    run.record(Kind::SecretChanged, "secret", &held.place, "rotated").await?;
    Ok((Standing::Done, "rotated".to_owned()))
}

/// What to do about a secret whose value then and now cannot be compared.
pub fn incomparable(place: &str) -> String {
    format!("its value cannot be compared with what it was: say that it is another by --rotated {place}")
}

fn by_hand(place: &str) -> String {
    match place.split_once(':') {
        Some(("file", _)) => "put a new value there".to_owned(),
        _ => format!("put a new value there, then say so by --rotated {place}"),
    }
}

/// Looks which marked secrets hold another value by now.
pub async fn look_again(scene: &Scene, plans: &StoredPlans) -> anyhow::Result<()> {
    let held = secrets(scene);
    let sealer = scene.state.sealer().await?;
    for mark in plans.marks(&scene.server).await?.into_iter().filter(|m| m.rotated_at.is_none()) {
        let Some(held) = held.iter().find(|held| held.place == mark.place) else { continue };
        // An environment variable is this shell's, which need not be the gate's.
        if mark.place.starts_with("file:") && is_another(scene, &sealer, held, &mark.fingerprint) {
            plans.rotated(&scene.server, &mark.place, SystemClock.now()).await?;
        }
    }
    Ok(())
}

/// The secrets of `server` that are marked and not rotated.
///
/// # Errors
/// The database's.
pub async fn unrotated(
    state: &crate::state::State,
    database: &bartizan_store::Database,
    config: Config,
    base: std::path::PathBuf,
    server: &ServerName,
) -> anyhow::Result<Vec<String>> {
    let plans = StoredPlans::new(database.clone());
    if plans.marks(server).await?.iter().all(|mark| mark.rotated_at.is_some()) {
        return Ok(Vec::new());
    }
    let scene = Scene {
        state: state.clone(),
        database: database.clone(),
        server: server.clone(),
        since: None,
        loaded: crate::config::Loaded { config, path: None },
        base,
        forgets_unrevoked: false,
    };
    look_again(&scene, &plans).await?;
    let left = plans.marks(server).await?.into_iter().filter(|mark| mark.rotated_at.is_none());
    Ok(left.map(|mark| mark.place).collect())
}
