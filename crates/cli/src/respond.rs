//! `bartizan respond`: what is cut off at once, everywhere, until it is taken back.

mod compromise;
mod exposure;
mod grants;
mod held;
mod pins;
mod show;

use std::process::ExitCode;

use anyhow::{Context, bail};
use bartizan_gateway::responses::event_of;
use bartizan_model::{Caller, Clock, ServerName, SystemClock};
use bartizan_store::{
    OsEntropy, Pins, Plans, Responses, StoredPlans, StoredResponses,
    pins::Kind,
    responses::{Response, Target},
};
use clap::{ArgGroup, Args, Subcommand};
use serde::Serialize;

pub use held::unrotated;

use crate::{ConfigFile, Listing, config::Config, say_error, state::State};

/// `bartizan respond …`
#[derive(Subcommand)]
pub enum RespondCommand {
    /// Put a server, or one of its tools, in quarantine: nothing of it is called, listed or passed on, and the server's
    /// processes are stopped.
    ///
    /// In force on every gate of the database within five seconds, until `release`.
    #[command(after_help = "Examples:
  bartizan respond quarantine files
  bartizan respond quarantine files/read_file --why 'reads what it should not'")]
    Quarantine {
        /// SERVER or SERVER/TOOL.
        #[arg(value_parser = target)]
        what: Target,
        #[command(flatten)]
        doing: Doing,
    },
    /// Revoke a person's or a client's access: every request is refused and every session ended, until `release`.
    #[command(after_help = "Examples:
  bartizan respond revoke --person 9f3c… --issuer https://login.microsoftonline.com/…/v2.0
  bartizan respond revoke --client vscode")]
    #[command(group = ArgGroup::new("whom").args(["person", "client"]).required(true))]
    Revoke {
        #[command(flatten)]
        who: Who,
        #[command(flatten)]
        doing: Doing,
    },
    /// Carry out the plan for a server that cannot be trusted any more.
    ///
    /// In this order, each step recorded as it is done: quarantine; what people granted the gate there is revoked (RFC 7009)
    /// and forgotten; every secret it held is marked to be rotated, and rotated where `[respond] rotate` can; definitions
    /// that were approved since are rolled back; whom and what it saw is listed from the audit log. A run that was cut short
    /// is gone on with by the same command, and repeats nothing that was done. Exit code 1 while anything is left to do.
    #[command(after_help = "Examples:
  bartizan respond compromise files --since 2026-11-20T08:00:00Z --dry-run
  bartizan respond compromise files --since 2026-11-20T08:00:00Z --why 'its publisher says so'
  bartizan respond compromise files --status
  bartizan respond compromise files --rotated env:FILES_TOKEN")]
    Compromise(Box<compromise::CompromiseArgs>),
    /// Take a quarantine or a revocation back. Exit code 1 if there was none.
    ///
    /// A server stays in quarantine while secrets that it held are marked by `compromise` and not rotated.
    Release {
        /// SERVER or SERVER/TOOL; or name a person or client.
        #[arg(
            value_parser = target,
            conflicts_with_all = ["person", "client"],
            required_unless_present_any = ["person", "client"]
        )]
        what: Option<Target>,
        #[command(flatten)]
        who: Who,
        #[command(flatten)]
        doing: Doing,
        /// Release a server though secrets that it held are still the same.
        #[arg(long)]
        dangerous_keep_secrets: bool,
    },
    /// List what is in force. Exit code 1 if anything is.
    List(Listing),
}

/// A person or a client.
#[derive(Args)]
pub struct Who {
    /// The person's subject, as its issuer names it; needs --issuer.
    #[arg(long, value_name = "SUBJECT", requires = "issuer", conflicts_with = "client")]
    person: Option<String>,
    /// The client's id.
    #[arg(long, value_name = "ID")]
    client: Option<String>,
    /// Who vouches for the person or client. A client without is revoked whoever does. The holder of the local token is
    /// the person `owner` of the issuer `local`.
    #[arg(long, value_name = "ISSUER")]
    issuer: Option<String>,
}

/// Where, and why.
#[derive(Args)]
pub struct Doing {
    #[command(flatten)]
    place: ConfigFile,
    /// Why, for the record.
    #[arg(long, value_name = "WORDS", default_value = "")]
    why: String,
}

/// Runs it.
pub async fn respond(command: RespondCommand) -> anyhow::Result<ExitCode> {
    match command {
        RespondCommand::Quarantine { what, doing } => enforce(what, doing).await,
        RespondCommand::Revoke { who, doing } => enforce(who.target()?, doing).await,
        RespondCommand::Compromise(arguments) => compromise::compromise(*arguments).await,
        RespondCommand::Release { what, who, doing, dangerous_keep_secrets } => {
            let target = match what {
                Some(what) => what,
                None => who.target()?,
            };
            release(target, doing, dangerous_keep_secrets).await
        }
        RespondCommand::List(listing) => {
            let database = State::look(listing.place.config.as_deref())?.database().await?;
            let all: Vec<_> =
                StoredResponses::new(database).all().await?.into_iter().map(Listed::of).collect();
            listing.print(&all, |one| {
                // Names are those of people, clients and tools, whoever gave them.
                let line = format!("{}  {}  by {}", one.since, one.target, one.by);
                format!("{}: {}\n", bartizan_audit::harmless(&line), shown(&one.why))
            })?;
            Ok(ExitCode::from(u8::from(!all.is_empty())))
        }
    }
}

/// A response for programs.
#[derive(Serialize)]
struct Listed {
    /// In words, as everywhere.
    target: String,
    /// `server`, `tool`, `person` or `client`.
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    person: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    issuer: Option<String>,
    since: String,
    by: String,
    why: String,
}

impl Listed {
    fn of(response: Response) -> Self {
        let target = response.target.to_string();
        let [mut server, mut tool, mut person, mut client, mut issuer] = [const { None }; 5];
        let kind = match response.target {
            Target::Server(name) => {
                server = Some(name.to_string());
                "server"
            }
            Target::Tool { server: name, tool: of_it } => {
                (server, tool) = (Some(name.to_string()), Some(of_it));
                "tool"
            }
            Target::Person { issuer: by, subject } => {
                (person, issuer) = (Some(subject), Some(by));
                "person"
            }
            Target::Client { issuer: by, client: id } => {
                (client, issuer) = (Some(id), Some(by).filter(|by| !by.is_empty()));
                "client"
            }
        };
        let since = bartizan_audit::event::rfc3339::text(response.at);
        Self { target, kind, server, tool, person, client, issuer, since, by: response.by, why: response.why }
    }
}

async fn enforce(target: Target, doing: Doing) -> anyhow::Result<ExitCode> {
    let (state, stored) = responses(&doing.place).await?;
    let unknown = unknown(&target, &doing.place, &state).await;
    let by = Caller::local_owner();
    let response = Response { target, why: doing.why, by: "owner".to_owned(), at: SystemClock.now() };
    // Recorded first: what is done and not recorded cannot be explained afterwards.
    record(&state, &response, true, &by).await?;
    if stored.enforce(&response).await? {
        say_error(&format!("{}: in force within five seconds\n", response.target));
    } else {
        say_error(&format!("{}: was in force already\n", response.target));
    }
    if let Some(unknown) = unknown {
        say_error(&unknown);
    }
    Ok(ExitCode::SUCCESS)
}

/// A note about a server or tool that nobody here has heard of. It is cut off all the same, for another gate of the database may
/// have it; but in a hurry a name is soon misspelt, and then what was meant goes on.
async fn unknown(target: &Target, place: &ConfigFile, state: &State) -> Option<String> {
    let (server, tool) = match target {
        Target::Server(server) => (server, None),
        Target::Tool { server, tool } => (server, Some(tool)),
        Target::Person { .. } | Target::Client { .. } => return None,
    };
    // Nothing is known where the configuration or the pins cannot be read, and nothing is said.
    let config = crate::config::load(place.config.as_deref()).ok()?.config;
    let unknown = unknown_server(server, &config);
    let (None, Some(tool)) = (&unknown, tool) else { return unknown };
    let database = state.database().await.ok()?;
    let pins = state.pins(database).await.ok()?.list(Some(server)).await.ok()?;
    let is_known = pins.iter().any(|pin| pin.key.kind == Kind::Tool && pin.key.name == *tool);
    (!is_known).then(|| {
        format!(
            "note: no tool {} of the server `{server}` was seen here: `bartizan tools list --server {server}` has those that were\n",
            shown(tool)
        )
    })
}

/// The same about a server alone.
fn unknown_server(server: &ServerName, config: &Config) -> Option<String> {
    if config.servers.iter().any(|known| known.name == *server) {
        return None;
    }
    let names: Vec<_> = config.servers.iter().map(|known| known.name.as_str()).collect();
    Some(format!("note: this configuration has no server `{server}`, only {}\n", names.join(", ")))
}

async fn release(target: Target, doing: Doing, keeps_secrets: bool) -> anyhow::Result<ExitCode> {
    let (state, stored) = responses(&doing.place).await?;
    if let (Target::Server(server), false) = (&target, keeps_secrets) {
        let left = held_by(&state, &doing.place, server).await?;
        if !left.is_empty() {
            say_error(&format!(
                "server {server}: not released, for it held secrets that are still the same: {}. Rotate them (`bartizan respond \
                 compromise {server} --status`), or release it with --dangerous-keep-secrets\n",
                left.join(", ")
            ));
            return Ok(ExitCode::from(1));
        }
    }
    if !stored.all().await?.iter().any(|response| response.target == target) {
        say_error(&format!("{target}: nothing is in force\n"));
        return Ok(ExitCode::from(1));
    }
    let by = Caller::local_owner();
    let response = Response { target, why: doing.why, by: "owner".to_owned(), at: SystemClock.now() };
    record(&state, &response, false, &by).await?;
    stored.lift(&response.target).await?;
    say_error(&format!("{}: released within five seconds\n", response.target));
    Ok(ExitCode::SUCCESS)
}

/// What the server held and has not been rotated, if a plan marked it.
async fn held_by(state: &State, place: &ConfigFile, server: &ServerName) -> anyhow::Result<Vec<String>> {
    let database = state.database().await?;
    let marks = StoredPlans::new(database.clone()).marks(server).await?;
    if marks.iter().all(|mark| mark.rotated_at.is_some()) {
        return Ok(Vec::new());
    }
    let path = place.config.as_deref();
    let config = crate::config::load(path)?.config;
    let base = crate::run::base_of(path);
    unrotated(state, &database, config, base, server).await
}

async fn responses(place: &ConfigFile) -> anyhow::Result<(State, StoredResponses)> {
    // What is enforced where no gate has run is in force nowhere.
    let state = State::of_gate(place.config.as_deref())?;
    let stored = StoredResponses::new(state.database().await?);
    Ok((state, stored))
}

/// In a log of this process's own; the gates say in theirs when it takes effect.
async fn record(state: &State, response: &Response, begins: bool, by: &Caller) -> anyhow::Result<()> {
    let folder = state.audit(std::sync::Arc::new(OsEntropy))?;
    let clock = std::sync::Arc::new(SystemClock);
    let (log, _) = folder.start_any("respond", clock, bartizan_audit::Options::default())?;
    let event = event_of(log.persons(), response, begins).by(by);
    log.note(event).await.map(drop).context("it is not done, for it cannot be recorded")
}

fn target(what: &str) -> Result<Target, String> {
    let server = |name: &str| name.parse::<ServerName>().map_err(|error| error.to_string());
    match what.split_once('/') {
        None => Ok(Target::Server(server(what)?)),
        Some((_, "")) => Err("it names no tool; write SERVER or SERVER/TOOL".to_owned()),
        Some((name, tool)) => Ok(Target::Tool { server: server(name)?, tool: tool.to_owned() }),
    }
}

impl Who {
    fn target(self) -> anyhow::Result<Target> {
        match (self.person, self.client, self.issuer) {
            (Some(subject), None, Some(issuer)) => Ok(Target::Person { issuer, subject }),
            (None, Some(client), issuer) => Ok(Target::Client { issuer: issuer.unwrap_or_default(), client }),
            _ => bail!("name whom: --person SUBJECT --issuer ISSUER, or --client ID"),
        }
    }
}

fn shown(why: &str) -> String {
    bartizan_audit::harmless(if why.is_empty() { "no reason given" } else { why }).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_or_a_tool_is_named_in_one_word() {
        assert_eq!(target("files").unwrap(), Target::Server("files".parse().unwrap()));
        let tool = Target::Tool { server: "files".parse().unwrap(), tool: "a/b".to_owned() };
        assert_eq!(target("files/a/b").unwrap(), tool, "a tool's name may hold a slash");
        for bad in ["", "/x", "files/", "Files", "../x"] {
            assert!(target(bad).is_err(), "{bad}");
        }
        let nobody = Who { person: None, client: None, issuer: Some("x".to_owned()) };
        assert!(nobody.target().is_err());
    }
}
