//! Entries for people and for programs.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use bartizan_audit::{
    Entry, Person, Text,
    event::{Pseudonym, rfc3339},
    export::Record,
    harmless,
};

use super::{Output, people};
use crate::print;

/// Who is behind the pseudonyms.
pub type People = HashMap<Pseudonym, Arc<Person>>;

/// Reads lines of several logs.
pub struct Reader {
    people: People,
    logs: usize,
}

/// An entry and the log it is in.
pub struct Row {
    pub log: String,
    pub record: Record,
}

/// How to show rows.
#[derive(Clone, Copy)]
pub struct Shape {
    pub output: Output,
    pub heading: bool,
    /// Whether the log's name tells anything.
    pub logs: bool,
}

impl Reader {
    pub fn of(logs: &[PathBuf]) -> anyhow::Result<Self> {
        let people = logs.first().and_then(|log| log.parent()).map(people).unwrap_or_default();
        Ok(Self { people, logs: logs.len() })
    }

    /// How many logs there are.
    pub const fn logs(&self) -> usize {
        self.logs
    }

    /// The entry on this line; `None` if it is none of ours.
    pub fn record(&self, log: &Path, line: &str) -> Option<Row> {
        self.row(Record::with_content, log, line)
    }

    /// The same without arguments and results.
    pub fn record_for_export(&self, log: &Path, line: &str) -> Option<Row> {
        self.row(Record::new, log, line)
    }

    fn row(
        &self,
        record: fn(Entry, String, Option<&Person>) -> Record,
        log: &Path,
        line: &str,
    ) -> Option<Row> {
        let entry: Entry = serde_json::from_str(line).ok()?;
        let person = entry.person.and_then(|pseudonym| self.people.get(&pseudonym));
        Some(Row { log: name(log), record: record(entry, line.to_owned(), person.map(Arc::as_ref)) })
    }

    /// The pseudonyms of whoever is called `subject`, with who vouches for each.
    pub fn pseudonyms(&self, subject: &str, issuer: Option<&str>) -> Vec<(Pseudonym, String)> {
        let called = self.people.iter().filter(|(_, person)| {
            let identity = person.identity();
            identity.subject == subject && issuer.is_none_or(|issuer| identity.issuer == issuer)
        });
        let mut called: Vec<_> = called.map(|(p, person)| (*p, person.identity().issuer.clone())).collect();
        called.sort_by(|a, b| a.1.cmp(&b.1));
        called
    }
}

/// What a log is called: its folder.
pub fn name(log: &Path) -> String {
    // `.` has no name of its own.
    let full = log.canonicalize().unwrap_or_else(|_| log.to_owned());
    full.file_name().map(|name| Text::new(&name.to_string_lossy()).to_string()).unwrap_or_default()
}

/// Prints rows.
pub fn rows(rows: &[Row], shape: Shape) -> anyhow::Result<()> {
    match shape.output {
        Output::Json => {
            let lines: String = rows.iter().map(|row| json(&row.record) + "\n").collect();
            print(&lines)?;
        }
        Output::Table if !rows.is_empty() => print(&table(rows, shape))?,
        Output::Table => {}
    }
    Ok(())
}

/// The line as it is in the log, with who the person is, where he was and what was said.
pub fn json(record: &Record) -> String {
    let mut line = harmless(&record.line).into_owned();
    let identity = record.identity.as_ref().and_then(|identity| serde_json::to_string(identity).ok());
    let address = record.address.as_ref().and_then(|address| serde_json::to_string(address).ok());
    let content = (!record.content.is_empty()).then(|| serde_json::to_string(&record.content).ok()).flatten();
    for (name, value) in [("identity", identity), ("network_address", address), ("content", content)] {
        if let (Some(value), Some(open)) = (value, line.strip_suffix('}')) {
            line = format!("{open},\"{name}\":{}}}", harmless(&value));
        }
    }
    line
}

fn table(rows: &[Row], shape: Shape) -> String {
    let mut cells: Vec<Vec<String>> = Vec::with_capacity(rows.len() + 1);
    if shape.heading {
        let heading = ["TIME", "LOG", "SEQ", "KIND", "WHO", "SERVER", "WHAT", "RESULT", "WHY"];
        cells.push(heading.map(str::to_owned).into());
    }
    for row in rows {
        let entry = &row.record.entry;
        let details = &entry.details;
        let result = [details.decision.map(|d| d.to_string()), details.outcome.map(|o| o.to_string())];
        let mut what = vec![details.method.as_ref(), details.tool.as_ref(), details.resource.as_ref()];
        if what.iter().all(Option::is_none) {
            what.extend(details.change.iter().flat_map(|change| [Some(&change.entity), Some(&change.name)]));
        }
        let why = [
            details.reason.as_ref().map(ToString::to_string),
            details.findings.first().map(|finding| finding.rule.to_string()),
            details.message.as_ref().map(ToString::to_string),
        ];
        cells.push(vec![
            rfc3339::text(entry.time),
            row.log.clone(),
            entry.seq.to_string(),
            entry.kind.to_string(),
            row.record.person().unwrap_or_default(),
            details.server.as_ref().map(ToString::to_string).unwrap_or_default(),
            what.into_iter().flatten().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            result.into_iter().flatten().collect::<Vec<_>>().join(" "),
            why.into_iter().flatten().next().unwrap_or_default(),
        ]);
    }
    let keep = |column: usize| shape.logs || column != 1;
    let width = |column: usize| {
        cells
            .iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
            .min(48)
    };
    let widths: Vec<usize> = (0..9).map(width).collect();
    let mut out = String::new();
    let contents = rows.iter().map(|row| Some(&row.record.content));
    let contents = shape.heading.then_some(None).into_iter().chain(contents);
    for (row, content) in cells.iter().zip(contents) {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate().filter(|(column, _)| keep(*column))
        {
            let shown: String = if cell.chars().count() > 48 && column != 8 {
                cell.chars().take(47).chain(['…']).collect()
            } else {
                cell.clone()
            };
            line.push_str(&format!("{shown:<width$}  "));
        }
        out.push_str(line.trim_end());
        out.push('\n');
        let arguments = content.and_then(|content| Some(("arguments", content.arguments.as_ref()?)));
        let result = content.and_then(|content| Some(("result", content.result.as_ref()?)));
        for (name, words) in arguments.into_iter().chain(result) {
            out.push_str(&format!("    {name}: {words}\n"));
        }
    }
    out
}
