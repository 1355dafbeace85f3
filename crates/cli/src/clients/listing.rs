//! The list of what clients start and reach.

use std::{path::Path, process::ExitCode};

use bartizan_shield::drift::visible;
use serde::Serialize;
use url::Url;

use super::{Entry, File, Found, Way};
use crate::{Format, print, say_error};

/// A line of the list.
#[derive(Serialize)]
pub(super) struct Row<'f> {
    client: &'f str,
    file: &'f Path,
    server: &'f str,
    state: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<&'f [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<&'f str>,
    variables: &'f [String],
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// The client starts it without a guard.
    Open,
    /// A guard is in front of it.
    Guarded,
    /// A guard is in front of it, and starts it in a sandbox.
    Sandboxed,
    /// It is elsewhere: a gate can be put before it, a guard not.
    Remote,
    /// It cannot be told how it is reached.
    Unclear,
}

/// Prints what was found.
///
/// # Errors
/// Standard output's.
pub(super) fn list(found: &Found, format: Format) -> anyhow::Result<ExitCode> {
    let files = found.files.iter();
    let rows: Vec<Row<'_>> =
        files.flat_map(|file| file.entries().map(move |entry| Row::of(file, entry))).collect();
    match format {
        Format::Json => print(&format!("{}\n", serde_json::to_string_pretty(&rows)?))?,
        Format::Text => print(&rows.iter().map(Row::line).collect::<String>())?,
    }
    if rows.is_empty() {
        return Ok(found.none());
    }
    let open = rows.iter().filter(|row| matches!(row.state, State::Open)).count();
    if open > 0 && matches!(format, Format::Text) {
        say_error(&format!("{open} of {} are started without a guard: `bartizan clients add`\n", rows.len()));
    }
    Ok(found.exit(0))
}

impl<'f> Row<'f> {
    /// What stands of `entry` in its file.
    pub fn of(file: &'f File, entry: &'f Entry) -> Self {
        let (state, command, url) = match &entry.way {
            Way::Command(command) => (State::Open, Some(command.as_slice()), None),
            Way::Guarded(there) => {
                let state = if there.sandbox.is_some() { State::Sandboxed } else { State::Guarded };
                (state, Some(there.command.as_slice()), None)
            }
            Way::Url(url) => (State::Remote, None, Some(url.as_str())),
            Way::Unclear => (State::Unclear, None, None),
        };
        let (client, path, server) = (file.client.as_str(), file.path.as_path(), entry.name.as_str());
        Self { client, file: path, server, state, command, url, variables: &entry.variables }
    }

    /// The same for people.
    pub fn line(&self) -> String {
        let state = match self.state {
            State::Open => "open",
            State::Guarded => "guarded",
            State::Sandboxed => "sandboxed",
            State::Remote => "remote",
            State::Unclear => "unclear",
        };
        // Only the program: arguments and addresses may hold secrets, and are in JSON for whoever asks.
        let how = self.command.and_then(<[String]>::first).map_or_else(|| host(self.url), Clone::clone);
        let client = if self.client.is_empty() { "-" } else { self.client };
        let shown = format!("{state:9} {client:15} {:23} {how}  ({})", self.server, self.file.display());
        // Names in a project's file are a stranger's.
        format!("{}\n", visible(shown.trim_end()))
    }
}

/// The host of an address.
fn host(url: Option<&str>) -> String {
    url.and_then(|url| Url::parse(url).ok()?.host_str().map(str::to_owned)).unwrap_or_default()
}
