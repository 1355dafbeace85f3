//! Which definitions a command is about.

use bartizan_shield::drift::visible;
use bartizan_store::{
    Digest, Pins,
    pins::{Pin, PinError, Record},
};

use super::{Filter, waits};

/// How they were named.
pub enum Choice {
    /// By name or hash.
    Named(Vec<String>),
    /// Everything that waits.
    Waiting,
}

/// A command that cannot be understood.
#[derive(Debug, thiserror::Error)]
pub enum Unclear {
    /// Two definitions have the name.
    #[error("`{0}` is more than one definition: say which by --server, --kind or sha256:…")]
    Ambiguous(String),
    /// It is no form of the definition.
    #[error("no one form of `{name}` begins with `{start}`; `bartizan tools diff --format json` shows them")]
    Form {
        /// Of what.
        name: String,
        /// What was said.
        start: String,
    },
    /// There is no terminal to ask at.
    #[error("there is no terminal to ask at: look at what is shown, then say --yes")]
    NobodyToAsk,
    /// `--to` with more or less than one definition.
    #[error("--to is for one definition")]
    OneForm,
    /// Nothing is called so.
    #[error("nothing is called `{0}`; `bartizan tools list` shows what there is")]
    Unknown(String),
}

/// The pins a filter leaves.
pub async fn filtered(pins: &dyn Pins, filter: &Filter) -> Result<Vec<Pin>, PinError> {
    let mut found = pins.list(filter.server.as_ref()).await?;
    found.retain(|pin| filter.kind.is_none_or(|kind| pin.key.kind == kind));
    Ok(found)
}

/// Everything about what was chosen.
pub async fn records(pins: &dyn Pins, choice: &Choice, filter: &Filter) -> anyhow::Result<Vec<Record>> {
    let all = filtered(pins, filter).await?;
    let chosen: Vec<&Pin> = match choice {
        Choice::Waiting => all.iter().filter(|pin| waits(pin)).collect(),
        Choice::Named(names) => {
            let mut chosen = Vec::with_capacity(names.len());
            for name in names {
                let is_it = |pin: &&Pin| match name.strip_prefix("sha256:") {
                    Some(start) => [pin.waiting, pin.offered, pin.approved]
                        .into_iter()
                        .flatten()
                        .any(|hash| begins(hash, start)),
                    None => pin.key.name == *name,
                };
                let mut found = all.iter().filter(is_it);
                match (found.next(), found.next()) {
                    (Some(pin), None) => chosen.push(pin),
                    (None, _) => return Err(Unclear::Unknown(visible(name).into_owned()).into()),
                    (Some(_), Some(_)) => return Err(Unclear::Ambiguous(visible(name).into_owned()).into()),
                }
            }
            chosen
        }
    };
    let mut records = Vec::with_capacity(chosen.len());
    for pin in chosen {
        records.extend(pins.read(&pin.key).await?);
    }
    Ok(records)
}

/// The one form of a definition whose hash begins with `start`.
pub fn form(record: &Record, start: &str) -> Result<Digest, Unclear> {
    let mut found = record.forms.iter().map(|form| form.hash).filter(|hash| begins(*hash, start));
    match (found.next(), found.next()) {
        (Some(hash), None) => Ok(hash),
        _ => Err(Unclear::Form {
            name: visible(&record.pin.key.name).into_owned(),
            start: visible(start).into_owned(),
        }),
    }
}

fn begins(hash: Digest, start: &str) -> bool {
    start.len() >= 8 && hash.to_string().starts_with(start)
}
