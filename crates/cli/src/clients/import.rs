//! Servers of clients as servers of the gate.

use std::process::ExitCode;

use bartizan_shield::drift::visible;
use serde::Serialize;

use super::{
    Found, GATE,
    entry::{Entry, Sandboxed, Way},
};
use crate::{print, say_error};

/// A server of a configuration of the gate.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Imported {
    pub(super) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    env: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cwd: Option<String>,
    /// On a line of its own.
    #[serde(skip)]
    pub(super) sandbox: Option<Sandboxed>,
}

#[derive(Serialize)]
struct Import<'s> {
    servers: [&'s Imported; 1],
}

/// Prints the servers that were found as `[[servers]]`, and says what is left out.
///
/// # Errors
/// Standard output's.
pub fn import(found: &Found) -> anyhow::Result<ExitCode> {
    let mut servers: Vec<Imported> = Vec::new();
    for file in &found.files {
        for entry in file.entries().filter(|entry| !is_gate(entry)) {
            let say = |left: &str| {
                let (path, name) = (file.path.display(), visible(&entry.name));
                say_error(&format!("{path}: `{name}`: {left}\n"));
            };
            let Some(server) = Imported::of(entry) else {
                say("left out: how it is reached cannot be told");
                continue;
            };
            if !entry.others.is_empty() {
                say(&format!("left out: {}", visible(&entry.others.join(", "))));
            }
            add(&mut servers, &entry.name, server);
        }
    }
    if servers.is_empty() {
        return Ok(found.none());
    }
    let mut text = String::new();
    for server in &servers {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&toml::to_string(&Import { servers: [server] })?);
        if let Some(sandbox) = &server.sandbox {
            text.push_str(&format!("sandbox = {}\n", toml::Value::try_from(sandbox)?));
        }
    }
    print(&text)?;
    say_error(
        "variables in `env` come from the environment of the gate: set them there, or write `set_env` (docs/keys.md)\n",
    );
    Ok(found.exit(0))
}

fn is_gate(entry: &Entry) -> bool {
    entry.name == GATE && matches!(entry.way, Way::Url(_))
}

impl Imported {
    /// `entry`, without a name yet; `None` if it is not clear how it is reached.
    pub(super) fn of(entry: &Entry) -> Option<Self> {
        let (command, sandbox) = match &entry.way {
            Way::Command(command) => (command, None),
            Way::Guarded(there) => (&there.command, there.sandbox.clone()),
            Way::Url(url) => return Some(Self { url: Some(url.clone()), ..Self::default() }),
            Way::Unclear => return None,
        };
        let (env, cwd) = (entry.variables.clone(), entry.cwd.clone());
        Some(Self { command: Some(command.clone()), env, cwd, sandbox, ..Self::default() })
    }
}

/// Adds `server` under a name like `name`, if it is not there under another.
pub(super) fn add(servers: &mut Vec<Imported>, name: &str, mut server: Imported) {
    for known in &*servers {
        server.name.clone_from(&known.name);
        if *known == server {
            return;
        }
    }
    server.name = free_name(name, servers);
    servers.push(server);
}

/// A name as the gate has them: 1 to 32 of `a-z`, `0-9` and `-`, and not taken.
pub(super) fn free_name(name: &str, taken: &[Imported]) -> String {
    let plain: String =
        name.to_ascii_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let plain = plain.trim_matches('-');
    let plain = plain.get(..plain.len().min(28)).filter(|name| !name.is_empty()).unwrap_or("server");
    let is_free = |name: &String| taken.iter().all(|known| known.name != *name);
    let numbered = (2..).map(|number| format!("{plain}-{number}"));
    std::iter::once(plain.to_owned()).chain(numbered).find(is_free).unwrap_or_default()
}
