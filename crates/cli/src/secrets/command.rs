//! `bartizan secrets`

use std::{
    io::{IsTerminal, Read},
    process::ExitCode,
};

use anyhow::{Context, bail};
use bartizan_audit::Kind;
use bartizan_model::{Clock, Secret, SystemClock};
use bartizan_store::{
    Vault,
    vault::{LONGEST, check},
};
use clap::{Args, Subcommand};
use serde::Serialize;
use zeroize::Zeroizing;

use super::{erase::erase, typed};
use crate::{
    ConfigFile, Listing,
    journal::{Deed, Journal, OwnLog},
    say_error,
    state::State,
    tools::who,
};

/// `bartizan secrets …`
#[derive(Subcommand)]
pub enum SecretsCommand {
    /// Put a secret into the vault: its value is read from standard input, never from an argument.
    ///
    /// The configuration names it by `{ vault = "NAME" }` wherever a secret is wanted.
    #[command(after_help = "Examples:
  bartizan secrets set GITHUB_TOKEN                 # asks for it
  pass show github | bartizan secrets set GITHUB_TOKEN")]
    Set(Named),
    /// Give a secret a new value; a running gate uses it within seconds.
    Rotate(Named),
    /// List the vault's secrets, without their values.
    List(Listing),
    /// Remove a secret; a running gate cannot use it within seconds. Exit code 1 if there was none.
    Remove(Named),
    /// Forget a person: destroy their data key and their name in the audit log, and delete their grants, linked accounts,
    /// sign-ins and consents. No copy of the database opens what was theirs. Exit code 1 if nothing was there.
    #[command(after_help = "Example:
  bartizan secrets erase --user https://login.microsoftonline.com/…/v2.0 9f3c…")]
    Erase {
        /// The person: who vouches for them, and their subject there. The owner of a laptop is `local owner`.
        #[arg(long, num_args = 2, value_names = ["ISSUER", "SUBJECT"], required = true)]
        user: Vec<String>,
        #[command(flatten)]
        place: ConfigFile,
    },
}

/// Which secret, and where.
#[derive(Args)]
pub struct Named {
    /// Its name: A-Z, a-z, 0-9, `-`, `_` and `.`.
    name: String,
    #[command(flatten)]
    place: ConfigFile,
}

/// Runs it.
pub async fn secrets(command: SecretsCommand) -> anyhow::Result<ExitCode> {
    crate::start_log("warn");
    match carry_out(command).await {
        // As a shell says it of a program that a signal ended.
        Err(error) => match error.downcast_ref() {
            Some(typed::Stopped(signal)) => Ok(ExitCode::from(128 + signal)),
            None => Err(error),
        },
        done => done,
    }
}

async fn carry_out(command: SecretsCommand) -> anyhow::Result<ExitCode> {
    match command {
        SecretsCommand::Set(Named { name, place }) => {
            // Before a state is made where there was none: whoever stands in the wrong folder is told so by every other command.
            let value = value(&name).await?;
            check(&name, &value)?;
            // The first start of a gate may need it already.
            let (state, vault) = vault(State::for_config(place.config.as_deref())?).await?;
            record(&state, &vault, &name, "set").await?;
            vault.add(&name, &value, SystemClock.now()).await?;
            say_error(&format!("{name} is set; name it by {{ vault = \"{name}\" }}\n"));
            Ok(ExitCode::SUCCESS)
        }
        SecretsCommand::Rotate(Named { name, place }) => {
            let (state, vault) = vault(State::of_gate(place.config.as_deref())?).await?;
            // Before anybody types anything.
            vault.read(&name).await.map(drop).or_else(|error| match error {
                bartizan_store::VaultError::Unsealed(_) => Ok(()),
                other => Err(other),
            })?;
            let value = value(&name).await?;
            check(&name, &value)?;
            record(&state, &vault, &name, "rotated").await?;
            let revision = vault.replace(&name, &value, SystemClock.now()).await?;
            say_error(&format!(
                "{name} has its value number {revision}; running gates use it within seconds\n"
            ));
            Ok(ExitCode::SUCCESS)
        }
        SecretsCommand::List(listing) => {
            let state = State::look(listing.place.config.as_deref())?;
            let vault = Vault::new(state.database().await?, state.sealer().await?);
            let kept = vault.list().await?.into_iter().map(|secret| Kept {
                name: secret.name.to_string(),
                value: secret.revision,
                changed_at: bartizan_audit::event::rfc3339::text(secret.changed_at),
            });
            listing.print(&kept.collect::<Vec<_>>(), |secret| {
                format!("{}  value {}  of {}\n", secret.name, secret.value, secret.changed_at)
            })?;
            Ok(ExitCode::SUCCESS)
        }
        SecretsCommand::Remove(Named { name, place }) => {
            let (state, vault) = vault(State::of_gate(place.config.as_deref())?).await?;
            record(&state, &vault, &name, "removed").await?;
            let removed = vault.remove(&name).await?;
            say_error(&format!("{name} {}\n", if removed { "is removed" } else { "was not there" }));
            Ok(ExitCode::from(u8::from(!removed)))
        }
        SecretsCommand::Erase { user, place } => {
            let state = State::of_gate(place.config.as_deref())?;
            let [issuer, subject] = user.as_slice() else { bail!("--user takes ISSUER and SUBJECT") };
            erase(&state, issuer, subject).await
        }
    }
}

/// A secret of the vault for programs.
#[derive(Serialize)]
struct Kept {
    name: String,
    /// Which value it is, counted from 1: never the value itself.
    value: u64,
    changed_at: String,
}

async fn vault(state: State) -> anyhow::Result<(State, Vault)> {
    let vault = Vault::new(state.database().await?, state.sealer().await?);
    Ok((state, vault))
}

async fn record(state: &State, vault: &Vault, name: &str, what: &'static str) -> anyhow::Result<()> {
    let (from, to) = versions(vault, name, what).await?;
    if (what == "set") == from.is_some() {
        // The vault says no: there is one already, or there is none.
        return Ok(());
    }
    let deed = Deed::new(Kind::SecretChanged, &who(), "secret", name, from.as_deref(), Some(&to));
    OwnLog { state, name: "secrets" }.note(vec![deed.because(what)]).await
}

/// The value a secret has now, and the one it will have when it is `set`, `rotated` or `removed`: numbers, for a digest of a
/// value could be guessed.
///
/// # Errors
/// What the database says.
pub async fn versions(vault: &Vault, name: &str, what: &str) -> anyhow::Result<(Option<String>, String)> {
    let now =
        vault.list().await?.into_iter().find(|secret| secret.name == name).map(|secret| secret.revision);
    let to = match what {
        "removed" => "removed".to_owned(),
        _ => format!("value {}", now.unwrap_or_default().saturating_add(1)),
    };
    Ok((now.map(|revision| format!("value {revision}")), to))
}

/// A value from standard input, without the line end; a terminal is asked, and shows nothing of it.
async fn value(name: &str) -> anyhow::Result<Secret> {
    let stdin = std::io::stdin();
    let text = if stdin.is_terminal() {
        typed::line(&format!("The value of {name}: ")).await?
    } else {
        let mut text = Zeroizing::new(String::new());
        let most = u64::try_from(LONGEST + 2).unwrap_or(u64::MAX);
        stdin.lock().take(most).read_to_string(&mut text).context("the value on standard input")?;
        text
    };
    let value = text.trim_end_matches(['\n', '\r']);
    if value.is_empty() {
        bail!("there is no value on standard input");
    }
    Ok(Secret::new(value.to_owned()))
}
