//! `bartizan clients`: the servers in the configurations of MCP clients, and the guard in front of them.
//!
//! A file is changed where it must be and nowhere else: comments, order and whatever we do not know stay. What is replaced is
//! kept beside it once, and the new file takes the old one's place in one step, with its permissions.

mod entry;
mod jsonc;
mod places;

use std::{
    collections::BTreeSet,
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use bartizan_shield::drift::visible;
use clap::{Args, Subcommand};
use serde::Serialize;
use url::Url;

use crate::{Format, config::Problems, print, say_error};
use entry::{Entry, Splice, Way, spliced};
use places::{ByUrl, CLIENTS, USUAL_KEY};

/// `bartizan clients`
#[derive(Subcommand)]
pub enum ClientsCommand {
    /// List the servers that the clients of this user and this folder know, and whether they are guarded.
    List(ListArgs),
    /// Put `bartizan wrap` in front of the servers that clients start themselves, or add the gate.
    ///
    /// Nothing else in the files changes; each is kept beside itself once as `….before-bartizan`. Restart the client after.
    #[command(after_help = "Examples:
  bartizan clients add --dry-run                            # what would change
  bartizan clients add --client cursor                      # guard all that Cursor starts
  bartizan clients add --server files --sandbox --read /srv/docs
  bartizan clients add --client vscode --gate http://localhost:8787/mcp")]
    Add(AddArgs),
    /// Take the guard out again, and the gate.
    Remove(WhichArgs),
    /// Print `[[servers]]` for bartizan.toml, to put all these servers behind one gate.
    ///
    /// Values of variables, which are often secrets, are not printed: the gate reads them from its own environment.
    Import(ListArgs),
}

/// Which files and servers.
#[derive(Args)]
pub struct WhichArgs {
    /// A file instead of those that are known. May be repeated.
    #[arg(long, value_name = "PATH")]
    file: Vec<PathBuf>,
    /// A client, such as `claude-desktop`, `claude-code`, `cursor`, `vscode`, `windsurf`, `gemini`, `lm-studio`. May be repeated.
    #[arg(long, value_name = "NAME", conflicts_with = "file")]
    client: Vec<String>,
    /// A server, by the client's name for it. May be repeated.
    #[arg(long, value_name = "NAME")]
    server: Vec<String>,
    /// Say what would change, and change nothing.
    #[arg(long)]
    dry_run: bool,
}

/// `bartizan clients list`
#[derive(Args)]
pub struct ListArgs {
    /// A file instead of those that are known. May be repeated.
    #[arg(long, value_name = "PATH")]
    file: Vec<PathBuf>,
    /// A client. May be repeated.
    #[arg(long, value_name = "NAME", conflicts_with = "file")]
    client: Vec<String>,
    /// For people or for programs.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// `bartizan clients add`
#[derive(Args)]
pub struct AddArgs {
    #[command(flatten)]
    which: WhichArgs,
    /// Add the gate at this address as the server `bartizan`, instead of guarding those that are there.
    #[arg(long, value_name = "URL", conflicts_with_all = ["server", "sandbox", "read", "write", "network"])]
    gate: Option<Url>,
    /// As `bartizan wrap --sandbox`.
    #[arg(long)]
    sandbox: bool,
    /// As `bartizan wrap --read`. May be repeated.
    #[arg(long, value_name = "PATH")]
    read: Vec<PathBuf>,
    /// As `bartizan wrap --write`. May be repeated.
    #[arg(long, value_name = "PATH")]
    write: Vec<PathBuf>,
    /// As `bartizan wrap --network`.
    #[arg(long, value_enum, value_name = "WHOM")]
    network: Option<crate::config::SandboxNetwork>,
}

/// What the gate is called in a client's file.
const GATE: &str = "bartizan";

/// A client's file, read.
struct File {
    client: String,
    path: PathBuf,
    text: String,
    /// What it calls its servers.
    key: &'static str,
    by_url: ByUrl,
    groups: Vec<Group>,
}

/// Servers that stand together: the user's, or those of one project.
struct Group {
    /// Byte at which their object begins.
    at: usize,
    entries: Vec<(jsonc::Member, Entry)>,
}

/// A line of the list.
#[derive(Serialize)]
struct Row<'f> {
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
    /// It is elsewhere: a gate can be put before it, a guard not.
    Remote,
    /// It cannot be told how it is reached.
    Unclear,
}

/// Runs it. Exit code 1 where nothing was found.
///
/// # Errors
/// Files that cannot be read or written.
pub fn clients(command: &ClientsCommand) -> anyhow::Result<ExitCode> {
    match command {
        ClientsCommand::List(arguments) => {
            list(&files(&arguments.file, &arguments.client)?, arguments.format)
        }
        ClientsCommand::Import(arguments) => import(&files(&arguments.file, &arguments.client)?),
        ClientsCommand::Add(arguments) => {
            let which = &arguments.which;
            let guard = PathBuf::from(crate::own_binary()?);
            let options = arguments.options()?;
            change(which, |file| match &arguments.gate {
                Some(url) => Ok(file.with_gate(url)),
                None => {
                    Ok(file.chosen(&which.server).flat_map(|entry| entry.guard(&guard, &options)).collect())
                }
            })
        }
        ClientsCommand::Remove(which) => change(which, |file| {
            let released = file.chosen(&which.server).flat_map(Entry::release);
            Ok(released.chain(file.without_gate(&which.server)).collect())
        }),
    }
}

impl AddArgs {
    /// What the guards are told. A client starts them in any folder, so paths are whole.
    fn options(&self) -> anyhow::Result<Vec<String>> {
        let mut options = Vec::new();
        options.extend(self.sandbox.then(|| "--sandbox".to_owned()));
        for (option, paths) in [("--read", &self.read), ("--write", &self.write)] {
            for path in paths {
                let whole = std::path::absolute(path)?;
                let text = whole.to_str().with_context(|| format!("{} is no text", path.display()))?;
                options.extend([option.to_owned(), text.to_owned()]);
            }
        }
        if let Some(network) = self.network {
            let word = clap::ValueEnum::to_possible_value(&network).context("no such network")?;
            options.extend(["--network".to_owned(), word.get_name().to_owned()]);
        }
        Ok(options)
    }
}

/// The files that are there, of those that are named or known.
fn files(named: &[PathBuf], clients: &[String]) -> anyhow::Result<Vec<File>> {
    let known: BTreeSet<_> = CLIENTS.iter().map(|client| client.name).collect();
    if let Some(unknown) = clients.iter().find(|client| !known.contains(client.as_str())) {
        let known: Vec<_> = known.into_iter().collect();
        let problem =
            format!("there is no client `{unknown}`; known are {}; others by --file", known.join(", "));
        return Err(Problems::new("--client", vec![problem]).into());
    }
    if !named.is_empty() {
        return named.iter().map(|path| File::named(path)).collect();
    }
    let (home, here) = (std::env::home_dir().filter(|home| home.is_absolute()), std::env::current_dir()?);
    let mut found: Vec<File> = Vec::new();
    for client in CLIENTS.iter().filter(|c| clients.is_empty() || clients.iter().any(|name| name == c.name)) {
        let Some(path) = client.file(home.as_deref(), &here) else { continue };
        if found.iter().any(|file| file.path == path) {
            continue;
        }
        match fs::read_to_string(&path) {
            Ok(text) => found.push(File::read(client.name, path, text, client.key, client.by_url)?),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }
    Ok(found)
}

impl File {
    /// A file that is named: what it calls its servers is seen in it.
    fn named(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let known = CLIENTS.iter().find(|client| path.ends_with(client.file_name()));
        let name = known.map_or("", |client| client.name);
        let top =
            jsonc::whole(&text).and_then(|whole| jsonc::members(&text, whole.start)).unwrap_or_default();
        let has = |key: &str| top.iter().any(|member| member.name == key);
        let key = if !has(USUAL_KEY) && has("servers") { "servers" } else { USUAL_KEY };
        let by_url = known.map_or(ByUrl::Typed, |client| client.by_url);
        Self::read(name, path.to_owned(), text, key, by_url)
    }

    fn read(
        client: &str,
        path: PathBuf,
        text: String,
        key: &'static str,
        by_url: ByUrl,
    ) -> anyhow::Result<Self> {
        let broken = || {
            Problems::new(
                path.display().to_string(),
                vec!["it is not the JSON of a client; nothing was changed".to_owned()],
            )
        };
        let whole = jsonc::whole(&text).ok_or_else(broken)?;
        let top = jsonc::members(&text, whole.start).ok_or_else(broken)?;
        let of = |members: &[jsonc::Member]| -> Option<usize> {
            let servers = members.iter().find(|member| member.name == key)?;
            text.as_bytes()
                .get(servers.value.start)
                .filter(|byte| **byte == b'{')
                .map(|_| servers.value.start)
        };
        let mut starts: Vec<usize> = of(&top).into_iter().collect();
        // Claude Code keeps those of projects in one file.
        let projects = top.iter().find(|member| member.name == "projects");
        for project in
            projects.and_then(|member| jsonc::members(&text, member.value.start)).unwrap_or_default()
        {
            starts.extend(jsonc::members(&text, project.value.start).as_deref().and_then(of));
        }
        let group = |at: usize| -> Option<Group> {
            let members = jsonc::members(&text, at)?.into_iter();
            Some(Group { at, entries: members.map(|m| (m.clone(), Entry::read(&text, &m))).collect() })
        };
        let groups = starts.into_iter().map(group).collect::<Option<Vec<_>>>().ok_or_else(broken)?;
        Ok(Self { client: client.to_owned(), path, text, key, by_url, groups })
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.groups.iter().flat_map(|group| &group.entries).map(|(_, entry)| entry)
    }

    /// Those of these names, or all.
    fn chosen(&self, names: &[String]) -> impl Iterator<Item = &Entry> {
        self.entries().filter(move |entry| names.is_empty() || names.contains(&entry.name))
    }

    /// What adds the gate to the user's servers.
    fn with_gate(&self, url: &Url) -> Vec<Splice> {
        let text = match self.by_url {
            ByUrl::Typed => serde_json::json!({ "type": "http", "url": url }),
            ByUrl::Plain => serde_json::json!({ "url": url }),
            ByUrl::HttpUrl => serde_json::json!({ "httpUrl": url }),
            ByUrl::ServerUrl => serde_json::json!({ "serverUrl": url }),
            ByUrl::Never => {
                say_error(&format!(
                    "{}: {} reaches no server by URL; guard those that it starts\n",
                    self.path.display(),
                    self.client
                ));
                return Vec::new();
            }
        };
        let Some(group) = self.groups.first() else {
            let Some(whole) = jsonc::whole(&self.text) else { return Vec::new() };
            let is_alone = jsonc::members(&self.text, whole.start).is_some_and(|members| members.is_empty());
            let comma = if is_alone { "" } else { "," };
            let at = whole.start + 1;
            return vec![(at..at, format!("\n  \"{}\": {{ \"{GATE}\": {text} }}{comma}", self.key))];
        };
        if let Some((member, entry)) = group.entries.iter().find(|(_, entry)| entry.name == GATE) {
            return match &entry.way {
                Way::Url(old) if old != url.as_str() => vec![(member.value.clone(), text.to_string())],
                _ => Vec::new(),
            };
        }
        let comma = if group.entries.is_empty() { "" } else { "," };
        let at = group.at + 1;
        vec![(at..at, format!("\n    \"{GATE}\": {text}{comma}"))]
    }

    /// What takes the gate out.
    fn without_gate(&self, names: &[String]) -> Vec<Splice> {
        if !names.is_empty() && !names.iter().any(|name| name == GATE) {
            return Vec::new();
        }
        let of_group = |group: &Group| {
            let (member, entry) = group.entries.iter().find(|(_, entry)| entry.name == GATE)?;
            let behind = self.text.get(member.value.end..)?;
            // With the comma that it needs no more: the one behind it, or the one before.
            let comma = behind
                .find(|c: char| !c.is_whitespace())
                .filter(|at| behind.get(*at..).is_some_and(|rest| rest.starts_with(',')));
            let range = match comma {
                Some(comma) => group.at + 1..member.value.end + comma + 1,
                None => group.at + 1..member.value.end,
            };
            let before = self.text.get(range.start..member.start)?;
            let start = match comma {
                Some(_) => range.start + before.trim_end_matches(|c: char| c.is_whitespace()).len(),
                None => range.start + before.trim_end_matches(|c: char| c.is_whitespace() || c == ',').len(),
            };
            matches!(entry.way, Way::Url(_)).then_some((start..range.end, String::new()))
        };
        self.groups.iter().filter_map(of_group).collect()
    }

    /// Puts `text` in its place.
    fn write(&self, text: &str) -> anyhow::Result<()> {
        // A link stays one: many keep such files elsewhere.
        let path = self.path.canonicalize()?;
        let folder = path.parent().context("a file is in a folder")?;
        anyhow::ensure!(
            fs::read_to_string(&path)? == self.text,
            "it changed meanwhile; close its client, and do this again"
        );
        let kept = PathBuf::from(format!("{}.before-bartizan", path.display()));
        match fs::OpenOptions::new().write(true).create_new(true).open(&kept) {
            Ok(_) => fs::copy(&path, &kept).map(drop)?,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error.into()),
        }
        let mut new = tempfile::NamedTempFile::new_in(folder)?;
        io::Write::write_all(&mut new, text.as_bytes())?;
        new.as_file().set_permissions(fs::metadata(&path)?.permissions())?;
        new.as_file().sync_all()?;
        new.persist(&path)?;
        Ok(())
    }
}

fn list(files: &[File], format: Format) -> anyhow::Result<ExitCode> {
    let rows: Vec<Row<'_>> =
        files.iter().flat_map(|file| file.entries().map(move |entry| Row::of(file, entry))).collect();
    match format {
        Format::Json => print(&format!("{}\n", serde_json::to_string_pretty(&rows)?))?,
        Format::Text => print(&rows.iter().map(Row::line).collect::<String>())?,
    }
    if rows.is_empty() {
        say_error(
            "no server was found in the files of the clients that are known here; name others by --file\n",
        );
        return Ok(ExitCode::from(1));
    }
    let open = rows.iter().filter(|row| matches!(row.state, State::Open)).count();
    if open > 0 && matches!(format, Format::Text) {
        say_error(&format!("{open} of {} are started without a guard: `bartizan clients add`\n", rows.len()));
    }
    Ok(ExitCode::SUCCESS)
}

impl<'f> Row<'f> {
    fn of(file: &'f File, entry: &'f Entry) -> Self {
        let (state, command, url) = match &entry.way {
            Way::Command(command) => (State::Open, Some(command.as_slice()), None),
            Way::Guarded(command) => (State::Guarded, Some(command.as_slice()), None),
            Way::Url(url) => (State::Remote, None, Some(url.as_str())),
            Way::Unclear => (State::Unclear, None, None),
        };
        let (client, path, server) = (file.client.as_str(), file.path.as_path(), entry.name.as_str());
        Self { client, file: path, server, state, command, url, variables: &entry.variables }
    }

    fn line(&self) -> String {
        let state = match self.state {
            State::Open => "open",
            State::Guarded => "guarded",
            State::Remote => "remote",
            State::Unclear => "unclear",
        };
        // Only the program: arguments and addresses may hold secrets, and are in JSON for whoever asks.
        let how = self.command.and_then(<[String]>::first).map_or_else(|| host(self.url), Clone::clone);
        let client = if self.client.is_empty() { "-" } else { self.client };
        let shown = format!("{state:8}{client:16}{:24}{how}  ({})\n", self.server, self.file.display());
        // Names in a project's file are a stranger's.
        format!(
            "{}
",
            visible(shown.trim_end())
        )
    }
}

/// The host of an address.
fn host(url: Option<&str>) -> String {
    url.and_then(|url| Url::parse(url).ok()?.host_str().map(str::to_owned)).unwrap_or_default()
}

/// Changes the files as `splices` says.
fn change(
    which: &WhichArgs,
    splices: impl Fn(&File) -> anyhow::Result<Vec<Splice>>,
) -> anyhow::Result<ExitCode> {
    let mut changed = 0;
    for file in files(&which.file, &which.client)? {
        let splices = splices(&file)?;
        if splices.is_empty() {
            continue;
        }
        let text = spliced(&file.text, splices);
        let new = File::read(&file.client, file.path.clone(), text, file.key, file.by_url);
        let new = new.with_context(|| format!("{} cannot be changed without harm", file.path.display()))?;
        if !which.dry_run {
            file.write(&new.text).with_context(|| format!("cannot write {}", file.path.display()))?;
        }
        changed += 1;
        let word = if which.dry_run { "would change" } else { "changed" };
        say_error(&format!("{word} {}\n", file.path.display()));
        print(&new.entries().map(|entry| Row::of(&new, entry).line()).collect::<String>())?;
    }
    if changed == 0 {
        say_error("nothing is to be changed\n");
        return Ok(ExitCode::from(1));
    }
    Ok(ExitCode::SUCCESS)
}

/// A server of a configuration of the gate.
#[derive(Serialize)]
struct Imported {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    env: Vec<String>,
}

#[derive(Serialize)]
struct Import {
    servers: Vec<Imported>,
}

fn import(files: &[File]) -> anyhow::Result<ExitCode> {
    let mut servers: Vec<Imported> = Vec::new();
    for entry in files.iter().flat_map(File::entries) {
        let (command, url) = match &entry.way {
            Way::Command(command) | Way::Guarded(command) => (Some(command.clone()), None),
            Way::Url(_) if entry.name == GATE => continue,
            Way::Url(url) => (None, Some(url.clone())),
            Way::Unclear => continue,
        };
        if servers.iter().any(|known| known.command == command && known.url == url) {
            continue;
        }
        let name = free_name(&entry.name, &servers);
        let env = if command.is_some() { entry.variables.clone() } else { Vec::new() };
        servers.push(Imported { name, command, url, env });
    }
    if servers.is_empty() {
        say_error(
            "no server was found in the files of the clients that are known here; name others by --file\n",
        );
        return Ok(ExitCode::from(1));
    }
    print(&toml::to_string(&Import { servers })?)?;
    say_error(
        "variables in `env` come from the environment of the gate: set them there, or write `set_env` (docs/keys.md)\n",
    );
    Ok(ExitCode::SUCCESS)
}

/// A name as the gate has them: 1 to 32 of `a-z`, `0-9` and `-`, and not taken.
fn free_name(name: &str, taken: &[Imported]) -> String {
    let plain: String =
        name.to_ascii_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let plain = plain.trim_matches('-');
    let plain = plain.get(..plain.len().min(28)).filter(|name| !name.is_empty()).unwrap_or("server");
    let is_free = |name: &String| taken.iter().all(|known| known.name != *name);
    let numbered = (2..).map(|number| format!("{plain}-{number}"));
    std::iter::once(plain.to_owned()).chain(numbered).find(is_free).unwrap_or_default()
}

#[cfg(test)]
mod tests;
