//! `bartizan wrap`

use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::Context;
use bartizan_gateway::{
    Asker, Gate, Target, catalog,
    permit::Rules,
    server::{Pinning, ServerSettings, Transport},
    upstream::{scrub::Scrub, stdio::SERVER_STDERR},
    wrap::serve,
};
use bartizan_model::{Caller, Clock, Secret, ServerName, SystemClock};
use bartizan_sandbox::{Confinement, Launch, clean_environment};
use bartizan_shield::drift::Identity;
use bartizan_store::Digest;
use clap::Args;

use crate::{
    alerts::Watching,
    bundles::Bundles,
    config::{MayAsk, Problems, Sandbox, SandboxNetwork},
    exports::{self, Exporters},
    state::State,
    witness::{self, Witnessing},
};

/// Arguments of `bartizan wrap`.
#[derive(Args)]
pub struct WrapArgs {
    /// What to call the server in logs and approvals: 1 to 32 of a-z, 0-9 and -. By default made from the command, so that
    /// another command is another server.
    #[arg(long)]
    name: Option<ServerName>,
    /// A variable of our environment that the server may see, beside PATH, HOME, LANG and TMPDIR. May be repeated.
    #[arg(long, value_name = "NAME")]
    env: Vec<String>,
    /// A method or notification outside the protocol that passes all the same. May be repeated.
    #[arg(long = "allow-method", value_name = "METHOD")]
    allow_methods: Vec<String>,
    /// What the server may ask the client for. May be repeated.
    #[arg(long = "may-ask", value_name = "WHAT")]
    may_ask: Vec<MayAsk>,
    /// Show and call nothing before `bartizan tools approve`; otherwise what the server defines at first sight is
    /// approved, unless a scan finds something bad in it. What changes later waits for you either way.
    #[arg(long)]
    approve: bool,
    /// A configuration file, of which `[audit]` (exporters, a witness) and `[[alerts]]` count here, and nothing else.
    #[arg(long, value_name = "FILE")]
    audit_config: Option<PathBuf>,
    /// A configuration file, of which `[shield]` counts here, its bundle too. A section that cannot be is an error; a bundle
    /// that is refused leaves the last good one in use, or the build's own rules.
    #[arg(long, value_name = "FILE")]
    shield_config: Option<PathBuf>,
    #[command(flatten)]
    sandbox: SandboxArgs,
    /// The server's command and its arguments. No shell reads them.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// What the server may reach. Any of them puts it in a sandbox (Linux): the system's programs and libraries, itself, and what is
/// named.
#[derive(Args)]
pub struct SandboxArgs {
    /// Let the server reach nothing else of this machine, and nobody by network.
    #[arg(long)]
    pub sandbox: bool,
    /// A file or folder that the sandboxed server may read. May be repeated.
    #[arg(long, value_name = "PATH")]
    pub read: Vec<PathBuf>,
    /// A file or folder that the sandboxed server may read and write. May be repeated.
    #[arg(long, value_name = "PATH")]
    pub write: Vec<PathBuf>,
    /// Whom the sandboxed server may talk to.
    #[arg(long, value_enum, value_name = "WHOM")]
    pub network: Option<SandboxNetwork>,
}

impl SandboxArgs {
    /// The sandbox, if there is to be one, with the gate's own folder at `state`.
    fn confinement(self, state: &Path) -> anyhow::Result<Option<Confinement>> {
        let Self { sandbox, read, write, network } = self;
        if !sandbox && read.is_empty() && write.is_empty() && network.is_none() {
            return Ok(None);
        }
        let here = std::env::current_dir()?;
        Sandbox { read, write, network: network.unwrap_or_default() }
            .confinement(&here, state, None)
            .map(Some)
            .map_err(|problem| Problems::new("the command line", vec![format!("{problem:#}")]).into())
    }
}

/// Guards one stdio server until standard input ends.
pub async fn wrap(arguments: WrapArgs) -> anyhow::Result<ExitCode> {
    // Clients show what a server says on standard error, which is often why it does not start.
    crate::start_log(&format!("warn,{SERVER_STDERR}=info"));
    // Several wraps may run; each would rather run less protected than not at all.
    let _ = bartizan_sandbox::make_non_dumpable();
    let state = State::for_user()?;
    let gate = state.gate("wrap").await?;
    let name = match arguments.name {
        Some(name) => name,
        None => name_of(&arguments.command)?,
    };
    let watched = match &arguments.audit_config {
        Some(path) => Some(Watched::begin(path, &state, &gate, &name)?),
        None => None,
    };
    let looking_for_bundles = match &arguments.shield_config {
        Some(path) => {
            let mut config = crate::config::load_shield(path)?;
            // Nobody else is asked about what is wrapped.
            config.shield.second_opinion.clear();
            let base = crate::run::base_of(Some(path));
            let bundles = Arc::new(Bundles::new(Arc::clone(&gate), &state, &base).await?);
            bundles.adopt(bundles.prepare(&config).await?).await;
            Some(tokio::spawn(bundles.watch()))
        }
        None => None,
    };
    let (program, rest) = arguments.command.split_first().context("no command after `--`")?;
    let environment = clean_environment(std::env::vars_os(), &arguments.env, &BTreeMap::new());
    let shown =
        |n: &String| environment.get(std::ffi::OsStr::new(n))?.to_str().map(|v| Secret::new(v.into()));
    let secrets = Scrub::new(arguments.env.iter().filter_map(shown));
    let launch = Launch {
        program: program.clone(),
        arguments: rest.to_vec(),
        folder: None,
        environment,
        confinement: arguments.sandbox.confinement(state.folder())?,
        helper: crate::own_binary()?.into(),
    };
    gate.configure(vec![ServerSettings {
        credential: None,
        name: name.clone(),
        transport: Transport::Command { launch, secrets },
        era: None,
        shared: false,
        allow_methods: arguments.allow_methods,
        identity: Identity::Command {
            argv: arguments.command.iter().map(|a| a.to_string_lossy().into_owned()).collect(),
            package: None,
            runs: Vec::new(),
        },
        inspects: true,
        validates: true,
        watches_program: true,
        second_opinions: Vec::new(),
        app_hosts: None,
        pins_resources: false,
        trust: bartizan_shield::Trust::Untrusted,
        pinning: if arguments.approve { Pinning::ByHand } else { Pinning::FirstUse },
        is_wrapped: true,
        fingerprint: String::new(),
    }]);
    let asker = Asker::new(Caller::local_owner());
    let target = Target::Server(name.clone());
    let servers = std::iter::once((name.clone(), bartizan_policy::Trust::Untrusted)).collect();
    let questions = arguments.may_ask.into_iter().map(Into::into).collect();
    let may_ask = std::iter::once((name.clone(), questions)).collect();
    let rules = Rules { servers, may_ask, ..Rules::default() };
    gate.policy().serve_wrapped();
    gate.policy().govern(rules).map_err(|problems| anyhow::anyhow!("the shipped policies: {problems}"))?;
    catalog::identify_all(&gate).await?;
    let looking = tokio::spawn(catalog::watch(Arc::clone(&gate)));
    // Clients that cannot wait for the end of what they started end it by a signal (25/life).
    let stop = async {
        if let Err(error) = crate::run::wait_for_stop().await {
            tracing::warn!(%error, "signals cannot be waited for");
            std::future::pending::<()>().await;
        }
    };
    let served = serve(Arc::clone(&gate), asker, target, tokio::io::stdin(), tokio::io::stdout(), stop).await;
    looking.abort();
    if let Some(looking) = looking_for_bundles {
        looking.abort();
    }
    // The server's process stops by the ladder, whose last rung needs us alive.
    gate.close_and_wait().await;
    if let Some(watched) = watched {
        watched.exporters.stop().await;
    }
    served?;
    Ok(ExitCode::SUCCESS)
}

/// Who watches the log of this process.
struct Watched {
    exporters: Exporters,
    _alerts: Watching,
    _witnessing: Witnessing,
}

impl Watched {
    /// For a wrap of the server `name`.
    fn begin(path: &Path, state: &State, gate: &Arc<Gate>, name: &ServerName) -> anyhow::Result<Self> {
        let config = crate::config::load_audit(path)?;
        for warning in config.audit.content_warnings(name) {
            tracing::warn!("{warning}");
        }
        let base = crate::run::base_of(Some(path));
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        gate.record_content(crate::config::content::rules(&config.audit.content));
        let log = gate.recorder().log();
        let exporters = Exporters::new(log.clone(), state.log_folder(log), Arc::clone(&clock));
        exporters.apply(exports::settings(&config, &base, log, &clock)?);
        let alerts = Watching::begin(Arc::clone(gate), state.alerts_folder(), Arc::clone(&clock));
        alerts.apply(&config.alerts)?;
        let witnessing = Witnessing::new(log.clone(), state.audit_folder(), clock);
        witnessing.apply(witness::setting(&config, &base, &state.audit_folder())?);
        Ok(Self { exporters, _alerts: alerts, _witnessing: witnessing })
    }
}

/// A name for a command: something a person recognises, and a digest that tells it from every other command.
fn name_of(command: &[OsString]) -> anyhow::Result<ServerName> {
    let parts: Vec<_> = command.iter().map(|a| a.to_string_lossy()).collect();
    let digest = Digest::of(parts.join("\0").as_bytes()).to_string();
    // What follows a package runner says more than the runner.
    let is_runner = |part: &str| {
        let program = part.rsplit('/').next().unwrap_or(part);
        [
            "npx", "uvx", "uv", "node", "bunx", "bun", "deno", "python", "python3", "pipx", "run", "tool",
            "exec",
        ]
        .contains(&program)
    };
    let telling = parts.iter().find(|p| !p.starts_with('-') && !is_runner(p)).or(parts.first());
    let last = telling.map(|p| p.rsplit('/').next().unwrap_or(p).to_ascii_lowercase()).unwrap_or_default();
    let slug: String =
        last.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(20).collect();
    let slug = slug.trim_matches('-');
    let digest: String = digest.chars().take(8).collect();
    Ok(if slug.is_empty() { format!("wrap-{digest}") } else { format!("{slug}-{digest}") }.parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_named_after_what_it_runs() {
        let name = |command: &[&str]| {
            name_of(&command.iter().map(OsString::from).collect::<Vec<_>>()).unwrap().to_string()
        };
        let files = name(&["npx", "-y", "@modelcontextprotocol/server-filesystem", "/srv"]);
        assert!(files.starts_with("server-filesystem-"), "{files}");
        assert!(name(&["/usr/bin/python3", "-m", "mcp_server_time"]).starts_with("mcp-server-time-"));
        assert!(name(&["…"]).starts_with("wrap-"));
        assert_ne!(files, name(&["npx", "-y", "@modelcontextprotocol/server-filesystem", "/etc"]));
        assert_eq!(files, name(&["npx", "-y", "@modelcontextprotocol/server-filesystem", "/srv"]));
    }
}
