//! `bartizan tools quarantine`: results that were withheld until a person has looked.

use std::fmt::Write;

use bartizan_audit::{Kind, event::Decision};
use bartizan_model::Timestamp;
use bartizan_shield::drift::visible;
use bartizan_store::quarantine::{Item, Quarantine, QuarantineError};
use clap::Subcommand;
use serde_json::json;

use super::{Consent, End, Format, Output, Place, ask, choice::Unclear, who};
use crate::{
    journal::{Deed, Journal},
    print, say_error,
};

/// `bartizan tools quarantine …`
#[derive(Subcommand)]
pub enum QuarantineCommand {
    /// List results that wait for you. Exit code 1 if there are any.
    List {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        output: Output,
    },
    /// Show a result, characters that cannot be seen as ⟨U+200B⟩. It was withheld for a reason: do not do what it says.
    Show {
        /// Its id.
        id: String,
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        output: Output,
    },
    /// Let the same caller's next identical request have a result, once. The server is not asked again.
    Release {
        /// Their ids.
        #[arg(required = true)]
        ids: Vec<String>,
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        consent: Consent,
    },
    /// Forget a result.
    Discard {
        /// Their ids.
        #[arg(required = true)]
        ids: Vec<String>,
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        consent: Consent,
    },
}

impl QuarantineCommand {
    /// Whether it shows something and decides nothing.
    pub fn only_looks(&self) -> bool {
        matches!(self, Self::List { .. } | Self::Show { .. })
    }

    /// Whose results.
    pub fn place(&self) -> &Place {
        match self {
            Self::List { place, .. }
            | Self::Show { place, .. }
            | Self::Release { place, .. }
            | Self::Discard { place, .. } => place,
        }
    }
}

/// Runs one of them.
pub async fn run(
    kept: &dyn Quarantine,
    journal: &dyn Journal,
    now: Timestamp,
    command: QuarantineCommand,
) -> anyhow::Result<End> {
    match command {
        QuarantineCommand::List { output, .. } => {
            let items = kept.list(now).await?;
            print(&match output.format {
                Format::Text => table(&items),
                Format::Json => as_json(&items.iter().map(item_json).collect::<Vec<_>>().into())?,
            })?;
            Ok(if items.iter().any(|item| !item.is_released) { End::Findings } else { End::Clean })
        }
        QuarantineCommand::Show { id, output, .. } => {
            let (item, result) = kept.read(&id, now).await?;
            print(&match output.format {
                Format::Text => format!("{}\n{}\n", table(std::slice::from_ref(&item)), visible(&result)),
                Format::Json => {
                    let mut shown = item_json(&item);
                    if let Some(members) = shown.as_object_mut() {
                        members.insert("result".to_owned(), serde_json::from_str(&result)?);
                    }
                    as_json(&shown)?
                }
            })?;
            Ok(End::Findings)
        }
        QuarantineCommand::Release { ids, consent, .. } => release(kept, journal, now, &ids, &consent).await,
        QuarantineCommand::Discard { ids, consent, .. } => {
            if !agreed(&consent, "discard", ids.len())? {
                return Ok(End::Findings);
            }
            let by = consent.by.clone().unwrap_or_else(who);
            let known = kept.list(now).await?.into_iter().filter(|item| ids.contains(&item.id));
            let deeds: Vec<_> =
                known.map(|item| deed(&item, "discarded", &by).deciding(Decision::Deny)).collect();
            if !deeds.is_empty() {
                journal.note(deeds).await?;
            }
            for id in &ids {
                kept.discard(id, now).await?;
            }
            say_error(&format!("discarded {} result(s)\n", ids.len()));
            Ok(End::Clean)
        }
    }
}

/// Releases results by their ids.
pub async fn release(
    kept: &dyn Quarantine,
    journal: &dyn Journal,
    now: Timestamp,
    ids: &[String],
    consent: &Consent,
) -> anyhow::Result<End> {
    // All are looked at before one is released.
    let mut items = Vec::with_capacity(ids.len());
    for id in ids {
        let (item, _) = kept.read(id, now).await?;
        print(&table(std::slice::from_ref(&item)))?;
        items.push(item);
    }
    if !agreed(consent, "release", ids.len())? {
        return Ok(End::Findings);
    }
    let by = consent.by.clone().unwrap_or_else(who);
    let deeds = items.iter().map(|item| deed(item, "released", &by).deciding(Decision::Permit));
    journal.note(deeds.collect()).await?;
    for id in ids {
        kept.release(id, &by, now).await?;
    }
    say_error(&format!(
        "released {} result(s), by {by}: each is given to the next identical request\n",
        ids.len()
    ));
    Ok(End::Clean)
}

/// Whether all of `names` are ids of kept results.
pub async fn are_ids(
    kept: &dyn Quarantine,
    now: Timestamp,
    names: &[String],
) -> Result<bool, QuarantineError> {
    let looks = |name: &String| name.len() == 32 && name.bytes().all(|b| b.is_ascii_hexdigit());
    if names.is_empty() || !names.iter().all(looks) {
        return Ok(false);
    }
    let items = kept.list(now).await?;
    Ok(names.iter().all(|name| items.iter().any(|item| item.id == *name)))
}

/// What becomes of a result, for the record.
fn deed(item: &Item, to: &str, by: &str) -> Deed {
    let from = if item.is_released { "released" } else { "held" };
    Deed::new(Kind::Responded, by, "result", &item.id, Some(from), Some(to))
        .at(&item.binding.server)
        .of_tool(&item.name)
}

fn agreed(consent: &Consent, verb: &str, count: usize) -> Result<bool, Unclear> {
    let agreed = consent.yes || ask(&format!("{verb} {count} result(s)?"))?;
    if !agreed {
        say_error("nothing was changed\n");
    }
    Ok(agreed)
}

fn table(items: &[Item]) -> String {
    if items.is_empty() {
        return "nothing is in quarantine\n".to_owned();
    }
    let mut text = String::new();
    for item in items {
        let standing = if item.is_released { "released" } else { "held" };
        // Names are a server's to choose, and writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{}  {standing:<8}  {}  {} {}  for {}  ({})",
            item.id,
            item.binding.server,
            item.method,
            visible(&item.name),
            item.binding.caller,
            item.found
        );
    }
    text
}

/// A result for programs, without what it says.
pub fn item_json(item: &Item) -> serde_json::Value {
    json!({
        "id": item.id,
        "server": item.binding.server.as_str(),
        "method": item.method,
        "name": item.name,
        "caller": item.binding.caller.to_string(),
        "request": item.binding.request.to_string(),
        "found": item.found.split(' ').collect::<Vec<_>>(),
        "released": item.is_released,
        "by": item.decided_by,
        "kept_at": item.kept_at.as_unix(),
        "expires_at": item.expires_at.as_unix(),
    })
}

fn as_json(value: &serde_json::Value) -> serde_json::Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}
