//! `bartizan doctor`: the hardening checklist, with evidence.

mod bundle;
mod keys;
mod opinions;
mod outside;
mod place;
mod review;

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::{
    ConfigFile,
    config::{self, Config, Loaded, Upstream},
    identity::Mode,
    print,
    run::dangers,
    startable::{self, Found},
    state::State,
};

/// `bartizan doctor`
#[derive(Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// Ask nobody: leave out what needs issuers and servers to answer.
    #[arg(long)]
    offline: bool,
    /// For people or for programs.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A line each.
    #[default]
    Text,
    /// JSON.
    Json,
}

/// What a check came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Pass,
    /// It could not be looked at.
    Unknown,
    /// It works, and could be safer.
    Warn,
    /// It is not safe, or does not work.
    Fail,
}

/// One line of the checklist.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// A stable name: `listener.tls`.
    pub id: String,
    /// What it came to.
    pub verdict: Verdict,
    /// What was seen.
    pub evidence: String,
    /// What to do, unless it passed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Check {
    fn new(id: impl Into<String>, verdict: Verdict, evidence: impl Into<String>) -> Self {
        Self { id: id.into(), verdict, evidence: evidence.into(), remedy: None }
    }

    /// All is well.
    pub fn pass(id: impl Into<String>, evidence: impl Into<String>) -> Self {
        Self::new(id, Verdict::Pass, evidence)
    }

    /// It could be safer.
    pub fn warn(id: impl Into<String>, evidence: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { remedy: Some(remedy.into()), ..Self::new(id, Verdict::Warn, evidence) }
    }

    /// It is not safe.
    pub fn fail(id: impl Into<String>, evidence: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { remedy: Some(remedy.into()), ..Self::new(id, Verdict::Fail, evidence) }
    }

    /// It could not be looked at.
    pub fn unknown(id: impl Into<String>, evidence: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { remedy: Some(remedy.into()), ..Self::new(id, Verdict::Unknown, evidence) }
    }
}

/// Runs every check. Exit code 0 if nothing fails, 1 if something does.
pub async fn doctor(arguments: DoctorArgs) -> anyhow::Result<ExitCode> {
    crate::start_log("error");
    let path = arguments.config.config.as_deref();
    let loaded = config::load(path)?;
    let base = crate::run::base_of(path);
    let config = &loaded.config;
    let mut checks = starting(&loaded).await;
    checks.extend(listener(config));
    checks.extend(identity(config));
    checks.push(release(config));
    checks.extend(relaxations(config));
    checks.extend(secrets(config));
    checks.extend(sandboxes(config));
    let state = State::look(path)?;
    checks.extend(place::checks(&state).await);
    checks.extend(keys::checks(config, &base, &state, arguments.offline).await);
    checks.push(review::check(&state, config).await);
    checks.extend(bundle::checks(config, &base, &state).await);
    checks.extend(opinions::checks(config, &base).await);
    checks.push(crate::reader::check().await);
    if !arguments.offline {
        checks.extend(outside::checks(config, &base).await);
    }
    let failed = checks.iter().any(|c| c.verdict == Verdict::Fail);
    match arguments.format {
        Format::Json => print(&format!("{}\n", serde_json::to_string_pretty(&checks)?))?,
        Format::Text => print(&shown(&checks))?,
    }
    Ok(ExitCode::from(u8::from(failed)))
}

/// Whether a gate would start, as far as the configuration and the files it names tell.
async fn starting(loaded: &Loaded) -> Vec<Check> {
    let Found { problems, warnings } = startable::look(loaded).await;
    let mut checks = vec![if problems.is_empty() {
        Check::pass("config", format!("{} is good", loaded.shown()))
    } else {
        Check::fail("config", problems.join("; "), "a gate does not start before that is mended")
    }];
    if !warnings.is_empty() {
        let remedy = "put there what is missing, or say this where the gate runs, and as its user";
        checks.push(Check::warn("config.here", warnings.join("; "), remedy));
    }
    checks
}

fn shown(checks: &[Check]) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    let width = checks.iter().map(|c| c.id.len()).max().unwrap_or(0);
    for check in checks {
        let word = match check.verdict {
            Verdict::Pass => "pass",
            Verdict::Unknown => "?",
            Verdict::Warn => "warn",
            Verdict::Fail => "FAIL",
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{word:5} {:width$}  {}", check.id, check.evidence);
        if let Some(remedy) = &check.remedy {
            let _ = writeln!(text, "{:5} {:width$}  → {remedy}", "", "");
        }
    }
    let count = |verdict| checks.iter().filter(|c| c.verdict == verdict).count();
    let _ = writeln!(
        text,
        "\n{} passed, {} warnings, {} failed, {} unknown",
        count(Verdict::Pass),
        count(Verdict::Warn),
        count(Verdict::Fail),
        count(Verdict::Unknown)
    );
    text
}

fn listener(config: &Config) -> Vec<Check> {
    let server = &config.server;
    let id = "listener.transport";
    let transport = match (server.listen.ip().is_loopback(), &server.tls) {
        (_, Some(_)) => Check::pass(id, format!("{} serves TLS", server.listen)),
        (true, None) => Check::pass(id, format!("{} is reachable from this machine only", server.listen)),
        // The configuration is not taken without them.
        (false, None) => {
            Check::pass(id, format!("only the proxies in {:?} may connect", server.trusted_proxies))
        }
    };
    let mut checks = vec![transport];
    if let Some(net) = server.trusted_proxies.iter().find(|net| net.prefix_len() == 0) {
        checks.push(Check::fail(
            "listener.proxies",
            format!("`{net}` in `trusted_proxies` is everybody, who may then say anything of themselves"),
            "name the addresses of your proxies",
        ));
    }
    checks
}

fn identity(config: &Config) -> Vec<Check> {
    let identity = &config.identity;
    let id = "identity.mode";
    if identity.dangerous_open {
        return vec![Check::fail(
            id,
            "everybody who can connect is the owner",
            "remove `dangerous_open` from [identity]",
        )];
    }
    match identity.mode {
        Mode::Local => vec![Check::pass(id, "one user, the owner of this machine")],
        Mode::Facade | Mode::ResourceServer => {
            let issuers = identity.resource_server.issuers.len();
            let seen = match identity.mode {
                Mode::Facade => format!("people sign in at an identity provider; {issuers} more issuer(s)"),
                _ => format!("access tokens of {issuers} issuer(s)"),
            };
            let mut checks = vec![Check::pass(id, seen)];
            let policy = &config.policy;
            if policy.grants.is_empty() && policy.dir.is_none() {
                checks.push(Check::warn(
                    "policy.grants",
                    "no role may do anything: everybody is refused",
                    "give a role a template under [[policy.grants]], or write policies in [policy] dir",
                ));
            }
            if policy.roles.0.is_empty() && !policy.grants.is_empty() {
                checks.push(Check::warn(
                    "policy.roles",
                    "nobody has a role",
                    "say who has it under [policy.roles.NAME]: groups, app_roles or subjects",
                ));
            }
            let asks = identity.graph.as_ref().is_some_and(|graph| graph.people);
            if identity.mode == Mode::Facade && !asks {
                checks.push(Check::warn(
                    "identity.people",
                    "nobody is asked whether people who signed in are still there: somebody who has left keeps what was granted \
                     until `grant_s` ends",
                    "with Entra, set [identity.graph]; else shorten `grant_s`, and use `bartizan respond revoke`",
                ));
            }
            checks
        }
    }
}

/// Whether somebody may release what the shield withheld, where a role is named for it.
fn release(config: &Config) -> Check {
    let id = "policy.release_role";
    let problems = config.policy.warnings();
    if problems.is_empty() {
        let seen = match &config.policy.release_role {
            Some(role) => format!("holders of `{role}` may release withheld results of others"),
            None => "no role releases withheld results of others".to_owned(),
        };
        return Check::pass(id, seen);
    }
    Check::warn(
        id,
        problems.join("; "),
        "until then nobody releases what the shield withheld on the page `/quarantine`",
    )
}

fn relaxations(config: &Config) -> Vec<Check> {
    let found = dangers(config);
    if found.is_empty() {
        return vec![Check::pass("relaxations", "no setting that begins with `dangerous_` is on")];
    }
    let check = |danger: String| Check::warn("relaxations", danger, "remove it where you can");
    found.into_iter().map(check).collect()
}

/// Whether processes of servers can do what the gate's user can.
fn sandboxes(config: &Config) -> Option<Check> {
    let is_own =
        |command: &[String]| command.first().is_some_and(|program| program == crate::sample::OWN_BINARY);
    let started =
        config.servers.iter().filter(|server| server.command.as_deref().is_some_and(|c| !is_own(c)));
    let (inside, outside): (Vec<_>, Vec<_>) = started.partition(|server| server.sandbox.is_some());
    let names = |servers: &[&Upstream]| {
        servers.iter().map(|s| format!("`{}`", s.name)).collect::<Vec<_>>().join(", ")
    };
    match (inside.as_slice(), outside.as_slice()) {
        ([], []) => None,
        (inside, []) => Some(Check::pass("servers.sandbox", format!("{} in a sandbox", names(inside)))),
        (_, outside) => Some(Check::warn(
            "servers.sandbox",
            format!("{} can read, write and reach whatever your user can", names(outside)),
            "name what each needs, and nothing more: sandbox = { read = [\"/srv/docs\"], write = [], network = \"none\" }",
        )),
    }
}

/// Whether two servers share a secret: one of them then knows the other's.
fn secrets(config: &Config) -> Vec<Check> {
    let mut users: Vec<(String, Vec<&str>)> = Vec::new();
    for server in &config.servers {
        for secret in server.set_env.values().filter_map(|s| Some(s.kept()?.place())) {
            match users.iter_mut().find(|(place, _)| *place == secret) {
                Some((_, names)) if !names.contains(&server.name.as_str()) => {
                    names.push(server.name.as_str())
                }
                Some(_) => {}
                None => users.push((secret, vec![server.name.as_str()])),
            }
        }
    }
    let shared = users.iter().filter(|(_, names)| names.len() > 1).map(|(place, names)| {
        Check::warn(
            "secrets.shared",
            format!("{place} is given to {}", names.join(" and ")),
            "give each server a secret of its own, so that one can be withdrawn alone",
        )
    });
    let shared: Vec<_> = shared.collect();
    if shared.is_empty() {
        vec![Check::pass("secrets.shared", "no secret is given to two servers")]
    } else {
        shared
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        toml::from_str(text).unwrap()
    }

    fn worst(checks: &[Check]) -> Verdict {
        checks.iter().map(|c| c.verdict).max().unwrap()
    }

    #[test]
    fn says_what_could_be_safer_and_what_to_do() {
        let good = config("[[servers]]\nname = \"a\"\ncommand = [\"true\"]\n");
        for checks in [listener(&good), identity(&good), relaxations(&good), secrets(&good)] {
            assert_eq!(worst(&checks), Verdict::Pass, "{checks:?}");
        }
        let open = config("[identity]\ndangerous_open = true\n");
        assert_eq!(worst(&identity(&open)), Verdict::Fail);
        assert_eq!(worst(&relaxations(&open)), Verdict::Warn);
        let untyped = config(
            "[identity]\nmode = \"facade\"\n[[identity.exchange_issuers]]\naudience = \"a\"\n\
             issuer = { kind = \"oidc\", issuer = \"https://id.example\", dangerous_untyped_tokens = true }\n",
        );
        assert_eq!(worst(&relaxations(&untyped)), Verdict::Warn);
        let world = config("[server]\ntrusted_proxies = [\"0.0.0.0/0\"]\n");
        assert_eq!(worst(&listener(&world)), Verdict::Fail);
        let role = config("[policy]\nrelease_role = \"raeders\"\n[policy.roles.readers]\ngroups = [\"g\"]\n");
        let found = release(&role);
        assert!(found.verdict == Verdict::Warn && found.evidence.contains("`raeders`"), "{found:?}");
        assert_eq!(release(&good).verdict, Verdict::Pass);
        let nobody = config("[identity]\nmode = \"resource-server\"\n");
        assert_eq!(worst(&identity(&nobody)), Verdict::Warn);
        let shared = config(
            "[[servers]]\nname = \"a\"\ncommand = [\"true\"]\nset_env = { A = { env = \"KEY\" } }\n\
             [[servers]]\nname = \"b\"\ncommand = [\"true\"]\nset_env = { B = { env = \"KEY\" } }\n",
        );
        let found = secrets(&shared);
        assert_eq!(worst(&found), Verdict::Warn);
        assert!(found[0].evidence.contains("KEY") && found[0].remedy.is_some(), "{found:?}");
    }
}
