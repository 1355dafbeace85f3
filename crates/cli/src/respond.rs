//! `bartizan respond`: what is cut off at once, everywhere, until it is taken back.

use std::process::ExitCode;

use anyhow::{Context, bail};
use bartizan_gateway::responses::event_of;
use bartizan_model::{Caller, Clock, ServerName, SystemClock};
use bartizan_store::{
    OsEntropy, Responses, StoredResponses,
    responses::{Response, Target},
};
use clap::{Args, Subcommand};

use crate::{ConfigFile, print, say_error, state::State};

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
        what: String,
        #[command(flatten)]
        doing: Doing,
    },
    /// Revoke a person's or a client's access: every request is refused and every session ended, until `release`.
    #[command(after_help = "Examples:
  bartizan respond revoke --person 9f3c… --issuer https://login.microsoftonline.com/…/v2.0
  bartizan respond revoke --client vscode")]
    Revoke {
        #[command(flatten)]
        who: Who,
        #[command(flatten)]
        doing: Doing,
    },
    /// Take a quarantine or a revocation back. Exit code 1 if there was none.
    Release {
        /// SERVER or SERVER/TOOL; or name a person or client.
        #[arg(conflicts_with_all = ["person", "client"], required_unless_present_any = ["person", "client"])]
        what: Option<String>,
        #[command(flatten)]
        who: Who,
        #[command(flatten)]
        doing: Doing,
    },
    /// List what is in force. Exit code 1 if anything is.
    List {
        #[command(flatten)]
        place: ConfigFile,
    },
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
        RespondCommand::Quarantine { what, doing } => enforce(target(&what)?, doing).await,
        RespondCommand::Revoke { who, doing } => enforce(who.target()?, doing).await,
        RespondCommand::Release { what, who, doing } => {
            let target = match what {
                Some(what) => target(&what)?,
                None => who.target()?,
            };
            release(target, doing).await
        }
        RespondCommand::List { place } => {
            let all = responses(&place).await?.1.all().await?;
            for response in &all {
                let time = bartizan_audit::event::rfc3339::text(response.at);
                print(&format!(
                    "{time}  {}  by {}: {}\n",
                    response.target,
                    response.by,
                    shown(&response.why)
                ))?;
            }
            Ok(ExitCode::from(u8::from(!all.is_empty())))
        }
    }
}

async fn enforce(target: Target, doing: Doing) -> anyhow::Result<ExitCode> {
    let (state, stored) = responses(&doing.place).await?;
    let by = Caller::local_owner();
    let response = Response { target, why: doing.why, by: "owner".to_owned(), at: SystemClock.now() };
    // Recorded first: what is done and not recorded cannot be explained afterwards.
    record(&state, &response, true, &by).await?;
    if stored.enforce(&response).await? {
        say_error(&format!("{}: in force within five seconds\n", response.target));
    } else {
        say_error(&format!("{}: was in force already\n", response.target));
    }
    Ok(ExitCode::SUCCESS)
}

async fn release(target: Target, doing: Doing) -> anyhow::Result<ExitCode> {
    let (state, stored) = responses(&doing.place).await?;
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

async fn responses(place: &ConfigFile) -> anyhow::Result<(State, StoredResponses)> {
    let state = State::for_config(place.config.as_deref())?;
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

fn target(what: &str) -> anyhow::Result<Target> {
    let server =
        |name: &str| name.parse::<ServerName>().with_context(|| format!("`{name}` is no server's name"));
    match what.split_once('/') {
        None => Ok(Target::Server(server(what)?)),
        Some((_, "")) => bail!("`{what}` names no tool; write SERVER or SERVER/TOOL"),
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
