//! `bartizan admin`: who may act at the admin listener, and until when.

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use bartizan_audit::{
    Details, Event, Kind, Text,
    event::{Change, rfc3339},
};
use bartizan_model::{Caller, Clock, SystemClock};
use bartizan_store::{Admins, OsEntropy, admins::Held};
use clap::{Args, Subcommand};
use serde::Serialize;

use crate::{
    ConfigFile, Listing,
    config::{self, admin::Role},
    say_error,
    state::{NoState, State},
};

/// `bartizan admin …`
#[derive(Subcommand)]
pub enum AdminCommand {
    /// Grant a role at the admin listener for some hours.
    #[command(after_help = "Example:
  bartizan admin grant --role responder --person 9f3c… \\
      --issuer https://login.microsoftonline.com/…/v2.0 --for 4h")]
    Grant {
        #[command(flatten)]
        whose: Whose,
        /// For how long: 30m, 4h.
        #[arg(long = "for", value_name = "TIME", value_parser = length)]
        length: Duration,
    },
    /// Take a role back before it ends. Exit code 1 if there was none.
    Revoke {
        #[command(flatten)]
        whose: Whose,
    },
    /// List who holds what now, by grant or by configuration.
    List(Listing),
}

/// Which role, and whose.
#[derive(Args)]
pub struct Whose {
    /// The role.
    #[arg(long, value_enum)]
    role: Role,
    /// The person's subject, as the issuer names it.
    #[arg(long, value_name = "SUBJECT")]
    person: String,
    /// Who vouches for the person.
    #[arg(long, value_name = "ISSUER")]
    issuer: String,
    #[command(flatten)]
    place: ConfigFile,
}

fn length(text: &str) -> Result<Duration, String> {
    let wrong = || "write 30m or 4h".to_owned();
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "m" => number.checked_mul(60),
        "h" => number.checked_mul(3600),
        _ => None,
    };
    seconds.filter(|s| *s > 0).map(Duration::from_secs).ok_or_else(wrong)
}

/// Runs it.
pub async fn admin(command: AdminCommand) -> anyhow::Result<ExitCode> {
    crate::start_log("warn");
    match command {
        AdminCommand::Grant { whose, length } => grant(whose, length).await,
        AdminCommand::Revoke { whose } => revoke(whose).await,
        AdminCommand::List(listing) => list(listing).await,
    }
}

async fn grant(whose: Whose, length: Duration) -> anyhow::Result<ExitCode> {
    let path = whose.place.config.as_deref();
    let config = config::load(path)?.config;
    let most = config.admin.max_grant_h;
    if length > Duration::from_secs(most.saturating_mul(3600)) {
        bail!("[admin] max_grant_h = {most}: a role is granted for no longer");
    }
    // Where no gate has run, none would know of the role.
    let state = State::of_gate(path)?;
    let now = SystemClock.now();
    let held = Held {
        role: whose.role.as_str().to_owned(),
        issuer: whose.issuer,
        subject: whose.person,
        by: "owner".to_owned(),
        at: now,
        until: now.plus(length),
    };
    let until = rfc3339::text(held.until);
    // Recorded first: what is granted and not recorded cannot be explained afterwards.
    record(&state, &held, &format!("granted until {until}")).await?;
    state.admins(state.database().await?).await?.grant(&held).await?;
    say_error(&format!("{} until {until}\n", held.role));
    if config.admin.url.is_none() {
        say_error("note: [admin] url is not set, so there is no API at which it counts\n");
    }
    Ok(ExitCode::SUCCESS)
}

async fn revoke(whose: Whose) -> anyhow::Result<ExitCode> {
    let state = State::of_gate(whose.place.config.as_deref())?;
    let now = SystemClock.now();
    let held = Held {
        role: whose.role.as_str().to_owned(),
        issuer: whose.issuer,
        subject: whose.person,
        by: "owner".to_owned(),
        at: now,
        until: now,
    };
    record(&state, &held, "taken back").await?;
    let admins = state.admins(state.database().await?).await?;
    let was_held = admins.take(&held.role, &held.issuer, &held.subject, now).await?;
    say_error(if was_held { "taken back\n" } else { "it was not held\n" });
    Ok(ExitCode::from(u8::from(!was_held)))
}

/// A role for programs.
#[derive(Serialize)]
struct Listed {
    role: String,
    /// The subject, or `group` and the group's id.
    who: String,
    issuer: String,
    until: String,
    by: String,
}

async fn list(listing: Listing) -> anyhow::Result<ExitCode> {
    let path = listing.place.config.as_deref();
    let config = config::load(path)?.config;
    let now = SystemClock.now();
    let mut all = Vec::new();
    for role in config.admin.roles.iter().filter(|role| role.end().is_some_and(|end| now < end)) {
        let who = match (&role.person, &role.group) {
            (Some(person), _) => person.clone(),
            (None, group) => format!("group {}", group.as_deref().unwrap_or_default()),
        };
        all.push(Listed {
            role: role.role.as_str().to_owned(),
            who,
            issuer: role.issuer.to_string(),
            until: role.until.to_string(),
            by: "the configuration".to_owned(),
        });
    }
    let state = State::look(path)?;
    let granted = async { anyhow::Ok(state.admins(state.database().await?).await?.all(now).await?) };
    let granted = match granted.await {
        Err(nobody) if nobody.is::<NoState>() => {
            say_error(&format!("note: nobody was granted a role: {nobody}\n"));
            Vec::new()
        }
        granted => granted?,
    };
    all.extend(granted.into_iter().map(|held| Listed {
        role: held.role,
        who: held.subject,
        issuer: held.issuer,
        until: rfc3339::text(held.until),
        by: held.by,
    }));
    listing.print(&all, |Listed { role, who, issuer, until, by }| {
        let text = format!("{role:<9}  {who} of {issuer}, until {until}, by {by}");
        format!("{}\n", bartizan_audit::harmless(&text))
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The person goes by the pseudonym.
async fn record(state: &State, held: &Held, what: &str) -> anyhow::Result<()> {
    let folder = state.audit(Arc::new(OsEntropy))?;
    let (log, _) = folder.start_any("admin", Arc::new(SystemClock), bartizan_audit::Options::default())?;
    let person = log.persons().of(&Caller::new(&held.issuer, &held.subject, ""))?;
    let event = Event::new(Kind::AdminActed).by(&Caller::local_owner()).with(Details {
        change: Some(Change {
            entity: Text::new(&format!("role {}", held.role)),
            name: Text::new(&person.pseudonym().to_string()),
            from: None,
            to: Some(Text::new(what)),
        }),
        ..Details::default()
    });
    log.note(event).await.map(drop).context("it is not done, for it cannot be recorded")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_minutes_or_hours() {
        assert_eq!(length("30m"), Ok(Duration::from_secs(1800)));
        assert_eq!(length("4h"), Ok(Duration::from_secs(14_400)));
        for bad in ["", "h", "0h", "4", "4d", "-1h", "4 h", "99999999999999999999h", "ü"] {
            assert!(length(bad).is_err(), "{bad}");
        }
    }
}
