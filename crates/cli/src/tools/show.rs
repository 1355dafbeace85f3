//! Definitions and differences, for people and for programs.
//!
//! Whatever a server wrote goes through [`visible`] before it reaches a terminal (attacks.md PO-11).

use std::fmt::Write;

use anyhow::Context;
use bartizan_model::Timestamp;
use bartizan_shield::drift::{Change, Definition, Drift, Known, compare, is_hidden, visible};
use bartizan_store::{
    Pins,
    pins::{Event, Finding, Form, Key, Pin, Record, State},
};
use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Withdrawn definitions that are looked through for one that was renamed.
const RENAMES: usize = 100;

/// A pin for programs.
#[derive(Serialize)]
pub struct Listed<'a> {
    server: &'a str,
    kind: &'static str,
    name: &'a str,
    state: &'static str,
    /// Whether it is withheld from clients.
    held: bool,
    approved: Option<String>,
    waiting: Option<String>,
    offered: Option<String>,
    first_seen: String,
    last_seen: String,
    decided_by: Option<&'a str>,
    decided_at: Option<String>,
}

impl<'a> Listed<'a> {
    /// `pin` as it is listed.
    pub fn of(pin: &'a Pin) -> Self {
        Self {
            server: pin.key.server.as_str(),
            kind: pin.key.kind.as_str(),
            name: &pin.key.name,
            state: pin.state.as_str(),
            held: !pin.is_open(),
            approved: pin.approved.map(|hash| hash.to_string()),
            waiting: pin.waiting.map(|hash| hash.to_string()),
            offered: pin.offered.map(|hash| hash.to_string()),
            first_seen: moment(pin.first_seen),
            last_seen: moment(pin.last_seen),
            decided_by: pin.decided_by.as_deref(),
            decided_at: pin.decided_at.map(moment),
        }
    }
}

/// Pins for people, in columns.
pub fn table(pins: &[Pin]) -> String {
    let rows = pins.iter().map(|pin| {
        let state = match pin.state {
            State::Approved if pin.waiting.is_some() => "changed, held",
            State::Approved => "approved",
            State::Pending => "pending, held",
            State::Rejected => "rejected, held",
            State::Withdrawn => "withdrawn",
        };
        let by = pin.decided_by.as_deref().map(|by| visible(by).into_owned()).unwrap_or_default();
        [
            pin.key.server.to_string(),
            pin.key.kind.as_str().to_owned(),
            visible(&pin.key.name).into_owned(),
            state.to_owned(),
            by,
        ]
    });
    let header = ["SERVER", "KIND", "NAME", "STATE", "DECIDED BY"].map(str::to_owned);
    let rows: Vec<_> = std::iter::once(header).chain(rows).collect();
    let mut text = String::new();
    for row in &rows {
        for (column, cell) in row.iter().enumerate() {
            let width = rows.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max();
            let _ = write!(text, "{cell:width$}  ", width = width.unwrap_or_default());
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

/// What is to be decided about one definition.
#[derive(Serialize)]
pub struct Difference {
    server: String,
    kind: &'static str,
    name: String,
    state: &'static str,
    drift: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    renamed_from: Option<String>,
    approved: Option<String>,
    offered: Option<String>,
    /// Hashes of every form that is kept, the newest first.
    forms: Vec<String>,
    findings: Vec<Found>,
    changes: Vec<Changed>,
    /// The whole form, where there is none to compare it with.
    #[serde(skip_serializing_if = "Option::is_none")]
    definition: Option<String>,
    #[serde(skip)]
    words: String,
    #[serde(skip)]
    shown: Vec<Change>,
}

#[derive(Serialize)]
struct Found {
    rule: String,
    severity: String,
    words: String,
}

#[derive(Serialize)]
struct Changed {
    path: String,
    old: Option<String>,
    new: Option<String>,
}

impl Difference {
    /// What `record` says, against the other pins of its server.
    pub async fn of(pins: &dyn Pins, record: &Record) -> anyhow::Result<Self> {
        let pin = &record.pin;
        let kind = pin.key.kind.as_str();
        let read = |form: &Form| {
            Definition::read(kind, &form.text)
                .with_context(|| format!("a form of `{}` cannot be read", visible(&pin.key.name)))
        };
        let offered_form = record.form(pin.waiting.or(pin.offered));
        let approved = record.form(pin.approved).map(read).transpose()?;
        let offered =
            if pin.state == State::Withdrawn { None } else { offered_form.map(read).transpose()? };
        let gone = if approved.is_none() && offered.is_some() { gone(pins, pin).await? } else { Vec::new() };
        let past = past(record);
        // Who looked before this form was there says nothing of whether it is for everybody.
        let since = offered_form.map(|form| form.first_seen);
        let elsewhere: Vec<_> = record
            .sightings
            .iter()
            .filter(|sighting| since.is_some_and(|since| sighting.last_seen > since))
            .map(|sighting| sighting.hash.0)
            .collect();
        let known = Known { approved: approved.as_ref(), past: &past, elsewhere: &elsewhere, gone: &gone };
        let drift = compare(&known, offered.as_ref());
        let (words, renamed_from) = match &drift {
            Drift::Changed(_) => ("changed".to_owned(), None),
            Drift::Flapping { turns, .. } => {
                // What is not told of is counted all the same.
                let turns = pin.turns.max(u32::try_from(*turns).unwrap_or(u32::MAX));
                (format!("goes back and forth: {turns} times so far"), None)
            }
            Drift::New => ("new".to_owned(), None),
            Drift::Removed => ("offered no more".to_owned(), None),
            Drift::Renamed { from } => {
                (format!("new, and the same as `{}`, which is offered no more", visible(from)), Some(from))
            }
            Drift::Returned(_) => ("was withdrawn, and is offered again".to_owned(), None),
            Drift::Split { forms, .. } => (format!("offered to different callers in {forms} forms"), None),
            Drift::Unchanged => ("as approved".to_owned(), None),
        };
        let is_whole = approved.is_none();
        Ok(Self {
            server: pin.key.server.to_string(),
            kind,
            name: pin.key.name.clone(),
            state: pin.state.as_str(),
            drift: drift.code(),
            renamed_from: renamed_from.cloned(),
            approved: pin.approved.map(|hash| hash.to_string()),
            offered: offered_form.map(|form| form.hash.to_string()),
            forms: record.forms.iter().map(|form| form.hash.to_string()).collect(),
            // What was imported and is yet to be offered was looked at, too.
            findings: offered_form
                .or_else(|| record.form(pin.approved))
                .map(|form| form.findings.iter().map(Found::of).collect())
                .unwrap_or_default(),
            changes: drift.changes().iter().map(Changed::of).collect(),
            definition: offered_form.filter(|_| is_whole).map(|form| form.text.clone()),
            words,
            shown: match &offered {
                Some(offered) if is_whole => offered.spelled_out(),
                _ => drift.changes().to_vec(),
            },
        })
    }
}

/// Differences for people.
pub fn differences(differences: &[Difference]) -> String {
    let mut text = String::new();
    for difference in differences {
        let hash: String = difference.offered.iter().flat_map(|hash| hash.chars()).take(12).collect();
        let _ = writeln!(
            text,
            "{} {} `{}`: {} (sha256:{hash})",
            difference.server,
            difference.kind,
            visible(&difference.name),
            difference.words,
        );
        for found in &difference.findings {
            let _ = writeln!(
                text,
                "  ! {} ({}): {}",
                visible(&found.rule),
                visible(&found.severity),
                visible(&found.words)
            );
        }
        for change in &difference.shown {
            let shown = if difference.definition.is_some() {
                // There is nothing to compare it with: marks would only be in the way.
                let value = change.new.as_deref().unwrap_or_default();
                format!("{}\n    {}", visible(&change.path), visible(value))
            } else {
                change.to_string()
            };
            let _ = writeln!(text, "  {}", shown.replace('\n', "\n  "));
        }
        text.push('\n');
    }
    text
}

/// Data for programs, in which no character is hidden: programs' output ends up on terminals too.
pub fn json(data: &impl Serialize) -> anyhow::Result<String> {
    let plain = serde_json::to_string_pretty(data)?;
    let mut text = String::with_capacity(plain.len() + 1);
    for c in plain.chars() {
        // Only strings hold any of these, and there an escape means the same.
        if c > '~' && is_hidden(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(text, "\\u{unit:04x}")?;
            }
        } else {
            text.push(c);
        }
    }
    text.push('\n');
    Ok(text)
}

impl Found {
    fn of(finding: &Finding) -> Self {
        Self { rule: finding.rule.clone(), severity: finding.severity.clone(), words: finding.words.clone() }
    }
}

impl Changed {
    fn of(change: &Change) -> Self {
        Self { path: change.path.clone(), old: change.old.clone(), new: change.new.clone() }
    }
}

/// What a definition would be if `form` were offered: how an import looks beside what is approved.
pub fn proposed(known: Option<Record>, key: &Key, form: &Form, now: Timestamp) -> Record {
    let approved = known.as_ref().and_then(|known| known.form(known.pin.approved).cloned());
    let pin = Pin {
        key: key.clone(),
        state: State::Pending,
        approved: approved.as_ref().map(|form| form.hash),
        waiting: Some(form.hash),
        refused: None,
        offered: None,
        turns: 0,
        first_seen: now,
        last_seen: now,
        decided_by: None,
        decided_at: None,
        version: 0,
    };
    let mut forms = vec![form.clone()];
    forms.extend(approved.filter(|approved| approved.hash != form.hash));
    Record { pin, forms, history: Vec::new(), sightings: Vec::new() }
}

/// The forms a definition went through before the one that is offered.
fn past(record: &Record) -> Vec<Option<[u8; 32]>> {
    let mut past: Vec<_> = record
        .history
        .iter()
        .filter_map(|step| match step.event {
            Event::FirstSeen | Event::Changed | Event::Flapping | Event::Returned | Event::Reverted => {
                step.hash.map(|hash| Some(hash.0))
            }
            Event::Withdrawn => Some(None),
            Event::Approved
            | Event::Imported
            | Event::Rejected
            | Event::Released
            | Event::RolledBack
            | Event::Tampered => None,
        })
        .collect();
    let now = record.pin.waiting.or(record.pin.offered).map(|hash| hash.0);
    if past.last().is_some_and(|last| last.is_some() && *last == now) {
        past.pop();
    }
    past
}

/// Approved definitions of the same kind that the server offers no more.
async fn gone(pins: &dyn Pins, pin: &Pin) -> anyhow::Result<Vec<Definition>> {
    let withdrawn = pins
        .list(Some(&pin.key.server))
        .await?
        .into_iter()
        .filter(|other| other.key.kind == pin.key.kind && other.state == State::Withdrawn);
    let mut gone = Vec::new();
    for other in withdrawn.take(RENAMES) {
        let Some(record) = pins.read(&other.key).await? else { continue };
        if let Some(form) = record.form(other.approved) {
            gone.extend(Definition::read(pin.key.kind.as_str(), &form.text));
        }
    }
    Ok(gone)
}

/// A time as RFC 3339 writes it, UTC.
fn moment(time: Timestamp) -> String {
    i64::try_from(time.as_unix())
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_default()
}
