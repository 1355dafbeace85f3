//! `bartizan clients`: the servers in the configurations of MCP clients, and the guard in front of them.
//!
//! A file is changed where it must be and nowhere else: comments, order and whatever we do not know stay. What is replaced is
//! kept beside it once, and the new file takes the old one's place in one step, with its permissions.

mod entry;
mod gate;
mod import;
mod jsonc;
mod listing;
mod places;

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    io::{self, ErrorKind},
    ops::Range,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use bartizan_shield::drift::visible;
use clap::{Args, Subcommand};
use url::Url;

use crate::{Format, config::Problems, print, say_error, wrap::SandboxArgs};
use entry::{Entry, Ours, Sandboxed, Splice, Way, spliced};
use listing::{Row, list};
use places::{ByUrl, CLIENTS, Client, Folders, USUAL_KEY};

/// `bartizan clients`
#[derive(Subcommand)]
pub enum ClientsCommand {
    /// List the servers that the clients of this user and this folder know, and whether they are guarded.
    #[command(after_help = "Exit codes: 0 servers were found, 1 none, 2 a file or an option cannot be used.")]
    List(ListArgs),
    /// Put `bartizan wrap` in front of the servers that clients start themselves, or add the gate.
    ///
    /// Nothing else in the files changes; each is kept beside itself once, as it was before the first change, in `….before-bartizan`,
    /// which only you can read. Restart the client after.
    #[command(after_help = "Examples:
  bartizan clients add --dry-run                            # what would change
  bartizan clients add --client cursor                      # guard all that Cursor starts
  bartizan clients add --server files --sandbox --read /srv/docs
  bartizan clients add --client vscode --gate http://localhost:8787/mcp

Exit codes: 0 it is done, or was before; 1 there is nothing to guard, or a guarded server would need
another sandbox; 2 a file or an option cannot be used.")]
    Add(AddArgs),
    /// Take the guard out again, and the gate.
    #[command(
        after_help = "Exit codes: 0 it is done, 1 there was nothing to do, 2 a file or an option cannot be used."
    )]
    Remove(WhichArgs),
    /// Print `[[servers]]` for bartizan.toml, to put all these servers behind one gate.
    ///
    /// Values of variables, which are often secrets, are not printed: the gate reads them from its own environment. What the gate
    /// has no place for is named on standard error.
    #[command(after_help = "Exit codes: 0 servers were found, 1 none, 2 a file or an option cannot be used.")]
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
    #[command(flatten)]
    sandbox: SandboxArgs,
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
    ours: Ours,
    /// Where something stands under that name that is no object.
    taken: Option<Range<usize>>,
    groups: Vec<Group>,
}

/// Servers that stand together: the user's, or those of one project.
struct Group {
    /// Byte at which their object begins.
    at: usize,
    /// They are not those of one project in a file of many. At most the first group of a file.
    is_top: bool,
    entries: Vec<(jsonc::Member, Entry)>,
}

/// The files that were found.
struct Found {
    files: Vec<File>,
    /// Some could not be read, which was said.
    is_partial: bool,
}

/// What each server is, group by group: its name, how it is reached, and the names of its variables.
type Servers = Vec<Vec<(String, Way, Vec<String>)>>;

/// A change of a file.
#[derive(Debug, Default)]
struct Plan {
    splices: Vec<Splice>,
    /// What must be there after.
    servers: Servers,
}

/// Runs it. Exit code 1 where there is nothing, 2 where a file cannot be used.
///
/// # Errors
/// Options that cannot be, and files that cannot be written.
pub fn clients(command: &ClientsCommand) -> anyhow::Result<ExitCode> {
    match command {
        ClientsCommand::List(arguments) => list(&arguments.found()?, arguments.format),
        ClientsCommand::Import(arguments) => import::import(&arguments.found()?),
        ClientsCommand::Add(arguments) => match &arguments.gate {
            Some(url) => add_gate(&arguments.which, url),
            None => add_guard(arguments),
        },
        ClientsCommand::Remove(which) => {
            let mut found = which.found()?;
            let changed = change(which, &mut found, |file| Ok(file.released(&which.server)))?;
            if changed == 0 && !found.is_partial {
                say_error("nothing is to be changed\n");
            }
            Ok(found.exit(u8::from(changed == 0)))
        }
    }
}

fn add_gate(which: &WhichArgs, url: &Url) -> anyhow::Result<ExitCode> {
    gate::check(url)?;
    let mut found = which.found()?;
    let changed = change(which, &mut found, |file| file.with_gate(url))?;
    let is_there = found.files.iter().any(|file| file.gate().is_some());
    if changed == 0 && !found.is_partial {
        say_error(if is_there { "the gate is there already\n" } else { "nothing is to be changed\n" });
    }
    Ok(found.exit(u8::from(changed == 0 && !is_there)))
}

fn add_guard(arguments: &AddArgs) -> anyhow::Result<ExitCode> {
    let which = &arguments.which;
    let options = arguments.options()?;
    let wanted = Sandboxed::of(&options);
    let guard = guard_path()?;
    let mut found = which.found()?;
    let (mut guarded, mut refused) = (0, 0);
    for file in &found.files {
        for entry in file.chosen(&which.server) {
            let name = visible(&entry.name);
            match &entry.way {
                Way::Guarded(there) => {
                    guarded += 1;
                    if wanted.is_some() && there.sandbox != wanted {
                        refused += 1;
                        say_error(&format!(
                            "`{name}` is guarded already: take the guard out first with `bartizan clients remove --server {name}`\n"
                        ));
                    }
                }
                Way::Command(command) if wanted.is_some() && installs(command) => say_error(&format!(
                    "warning: `{name}` is installed by what starts it, which usually cannot be in a sandbox: start its own program (docs/sandbox.md)\n"
                )),
                Way::Unclear => say_error(&format!(
                    "{}: how `{name}` is started cannot be told; it stays as it is\n",
                    file.path.display()
                )),
                Way::Command(_) | Way::Url(_) => {}
            }
        }
    }
    let changed = change(which, &mut found, |file| Ok(file.guarded(&which.server, &guard, &options)))?;
    if changed == 0 && refused == 0 && !found.is_partial {
        say_error(match guarded {
            0 => "there is no server that a client starts\n",
            _ => "all that clients start is guarded already\n",
        });
    }
    Ok(found.exit(u8::from(refused > 0 || changed + guarded == 0)))
}

/// Whether a command usually installs a server where no sandbox lets it start.
fn installs(command: &[String]) -> bool {
    let name = command.first().and_then(|program| Path::new(program).file_name());
    ["npx", "uvx", "bunx", "pipx"].iter().any(|known| name.is_some_and(|name| name == *known))
}

/// Where clients find us. A name in PATH stays when we are replaced by a newer one.
fn guard_path() -> anyhow::Result<PathBuf> {
    let own = PathBuf::from(crate::own_binary()?);
    let Ok(real) = own.canonicalize() else { return Ok(own) };
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let names = [Some(OsStr::new(GATE)), own.file_name()];
    let found = std::env::split_paths(&folders)
        .filter(|folder| folder.is_absolute())
        .flat_map(|folder| names.into_iter().flatten().map(move |name| folder.join(name)))
        .find(|path| path.canonicalize().is_ok_and(|path| path == real));
    Ok(found.unwrap_or(own))
}

impl AddArgs {
    /// What the guards are told. A client starts them in any folder, so paths are whole.
    fn options(&self) -> anyhow::Result<Vec<String>> {
        let (mut options, mut problems) = (Vec::new(), Vec::new());
        let SandboxArgs { sandbox, read, write, network } = &self.sandbox;
        options.extend(sandbox.then(|| "--sandbox".to_owned()));
        for (option, paths) in [("--read", read), ("--write", write)] {
            for path in paths {
                if let Err(error) = fs::metadata(path) {
                    problems.push(format!("{option} {}: {error}", path.display()));
                }
                let whole = std::path::absolute(path)?;
                let text = whole.to_str().with_context(|| format!("{} is no text", path.display()))?;
                options.extend([option.to_owned(), text.to_owned()]);
            }
        }
        if let Some(network) = network {
            let word = clap::ValueEnum::to_possible_value(network).context("no such network")?;
            options.extend(["--network".to_owned(), word.get_name().to_owned()]);
        }
        if !options.is_empty()
            && let Err(error) = bartizan_sandbox::can_confine()
        {
            problems.push(format!("servers cannot be in a sandbox here: {error}"));
        }
        if problems.is_empty() { Ok(options) } else { Err(Problems::new("the sandbox", problems).into()) }
    }
}

impl WhichArgs {
    /// The files, and in them a server of each name that is asked for.
    fn found(&self) -> anyhow::Result<Found> {
        let found = files(&self.file, &self.client)?;
        let is_there = |name: &String| found.files.iter().flat_map(File::entries).any(|e| e.name == *name);
        let missing: Vec<_> = self.server.iter().filter(|name| !is_there(name)).collect();
        if missing.is_empty() {
            return Ok(found);
        }
        let problems = missing.into_iter().map(|name| format!("there is no server `{name}`")).collect();
        Err(Problems::new("--server", problems).into())
    }
}

impl ListArgs {
    fn found(&self) -> anyhow::Result<Found> {
        files(&self.file, &self.client)
    }
}

impl Found {
    fn exit(&self, code: u8) -> ExitCode {
        ExitCode::from(if self.is_partial { 2 } else { code })
    }

    /// Says that there is nothing.
    fn none(&self) -> ExitCode {
        say_error(
            "no server was found in the files of the clients that are known here; name others by --file\n",
        );
        self.exit(1)
    }
}

/// The files that are there, of those that are named or known. One of those that are known may be broken.
fn files(named: &[PathBuf], clients: &[String]) -> anyhow::Result<Found> {
    let known: BTreeSet<_> = CLIENTS.iter().map(|client| client.name).collect();
    if let Some(unknown) = clients.iter().find(|client| !known.contains(client.as_str())) {
        let known: Vec<_> = known.into_iter().collect();
        let problem =
            format!("there is no client `{unknown}`; known are {}; others by --file", known.join(", "));
        return Err(Problems::new("--client", vec![problem]).into());
    }
    let folders = Folders::of_process()?;
    let mut found = Found { files: Vec::new(), is_partial: false };
    for path in named {
        found.files.push(File::named(path, &folders)?);
    }
    if !named.is_empty() {
        return Ok(found);
    }
    for client in CLIENTS.iter().filter(|c| clients.is_empty() || clients.iter().any(|name| name == c.name)) {
        let Some(path) = client.file(&folders) else { continue };
        if found.files.iter().any(|file| file.path == path) {
            continue;
        }
        let ours = Ours::of(&path, &folders);
        let file = match fs::read_to_string(&path) {
            Ok(text) => File::read(client.name, path, text, client.key, client.by_url, ours),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => continue,
            Err(error) => Err(unreadable(&path, &error)),
        };
        match file {
            Ok(file) => found.files.push(file),
            Err(problems) => {
                found.is_partial = true;
                say_error(&format!("error: {problems}\n"));
            }
        }
    }
    Ok(found)
}

fn unreadable(path: &Path, error: &io::Error) -> Problems {
    Problems::new(path.display().to_string(), vec![format!("it cannot be read: {error}")])
}

impl Ours {
    /// As the file at `path` knows us.
    fn of(path: &Path, folders: &Folders) -> Self {
        let own = crate::own_binary().ok().and_then(|own| PathBuf::from(own).canonicalize().ok());
        Self { own, project: Client::project_of(path, folders) }
    }
}

impl File {
    /// A file that is named: what it calls its servers is known by its name, or seen in it.
    fn named(path: &Path, folders: &Folders) -> Result<Self, Problems> {
        let unreadable = |error: io::Error| unreadable(path, &error);
        let text = fs::read_to_string(path).map_err(unreadable)?;
        let whole = std::path::absolute(path).map_err(unreadable)?;
        let ours = Ours::of(&whole, folders);
        if let Some(client) = Client::of_file(&whole) {
            return Self::read(client.name, path.to_owned(), text, client.key, client.by_url, ours);
        }
        let top =
            jsonc::whole(&text).and_then(|whole| jsonc::members(&text, whole.start)).unwrap_or_default();
        let has = |key: &str| top.iter().any(|member| member.name == key);
        let key = if !has(USUAL_KEY) && has("servers") { "servers" } else { USUAL_KEY };
        Self::read("", path.to_owned(), text, key, ByUrl::Typed, ours)
    }

    fn read(
        client: &str,
        path: PathBuf,
        text: String,
        key: &'static str,
        by_url: ByUrl,
        ours: Ours,
    ) -> Result<Self, Problems> {
        let found = groups(&text, key, &ours);
        let Some((groups, taken)) = found else {
            let problem = "it is not the JSON of a client; nothing was changed".to_owned();
            return Err(Problems::new(path.display().to_string(), vec![problem]));
        };
        Ok(Self { client: client.to_owned(), path, text, key, by_url, ours, taken, groups })
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.groups.iter().flat_map(|group| &group.entries).map(|(_, entry)| entry)
    }

    /// Those of these names, or all.
    fn chosen(&self, names: &[String]) -> impl Iterator<Item = &Entry> {
        self.entries().filter(move |entry| is_chosen(names, entry))
    }

    /// What the servers are if each is reached by `way`; those without are gone.
    fn servers(&self, way: impl Fn(&Entry) -> Option<Way>) -> Servers {
        let server = |(_, entry): &(jsonc::Member, Entry)| {
            way(entry).map(|way| (entry.name.clone(), way, entry.variables.clone()))
        };
        self.groups.iter().map(|group| group.entries.iter().filter_map(server).collect()).collect()
    }

    /// What puts the guard at `guard` before those that are chosen.
    fn guarded(&self, names: &[String], guard: &Path, options: &[String]) -> Plan {
        let sandbox = Sandboxed::of(options);
        let way = |entry: &Entry| match &entry.way {
            Way::Command(command) if is_chosen(names, entry) => {
                Some(Way::Guarded(entry::Guarded { command: command.clone(), sandbox: sandbox.clone() }))
            }
            as_it_is => Some(as_it_is.clone()),
        };
        let splices = self.chosen(names).flat_map(|entry| entry.guard(guard, options)).collect();
        Plan { splices, servers: self.servers(way) }
    }

    /// What takes guards and the gate out.
    fn released(&self, names: &[String]) -> Plan {
        let way = |entry: &Entry| match &entry.way {
            as_it_is if !is_chosen(names, entry) => Some(as_it_is.clone()),
            Way::Guarded(there) => Some(self.ours.way(there.command.clone(), &entry.variables)),
            Way::Url(_) if entry.name == GATE => None,
            as_it_is => Some(as_it_is.clone()),
        };
        let released = self.chosen(names).flat_map(Entry::release);
        Plan { splices: released.chain(self.without_gate(names)).collect(), servers: self.servers(way) }
    }

    /// The file with `plan` done to it.
    fn changed(&self, plan: Plan) -> Result<Self, Problems> {
        let harm = || {
            Problems::new(
                self.path.display().to_string(),
                vec!["it cannot be changed without harm; nothing was changed".to_owned()],
            )
        };
        let text = spliced(&self.text, plan.splices);
        let (path, ours) = (self.path.clone(), self.ours.clone());
        let new = Self::read(&self.client, path, text, self.key, self.by_url, ours).map_err(|_| harm())?;
        if new.servers(|entry| Some(entry.way.clone())) == plan.servers { Ok(new) } else { Err(harm()) }
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
        // There may be secrets in it, so that nobody else reads it, and half of one must never pass for the whole.
        let mut copy = tempfile::NamedTempFile::new_in(folder)?;
        io::Write::write_all(&mut copy, self.text.as_bytes())?;
        copy.as_file().sync_all()?;
        match copy.persist_noclobber(&kept) {
            Ok(_) => {}
            Err(error) if error.error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error.error.into()),
        }
        let mut new = tempfile::NamedTempFile::new_in(folder)?;
        io::Write::write_all(&mut new, text.as_bytes())?;
        new.as_file().set_permissions(fs::metadata(&path)?.permissions())?;
        new.as_file().sync_all()?;
        new.persist(&path)?;
        Ok(())
    }
}

fn is_chosen(names: &[String], entry: &Entry) -> bool {
    names.is_empty() || names.contains(&entry.name)
}

/// The servers under `key` in a client's file, and where something else stands under it; `None` if it cannot be read.
fn groups(text: &str, key: &str, ours: &Ours) -> Option<(Vec<Group>, Option<Range<usize>>)> {
    let is_object = |at: usize| text.as_bytes().get(at) == Some(&b'{');
    let group = |at: usize, is_top: bool| -> Option<Group> {
        let members = jsonc::members(text, at)?.into_iter();
        let entries = members.map(|member| {
            let entry = Entry::read(text, &member, ours);
            (member, entry)
        });
        Some(Group { at, is_top, entries: entries.collect() })
    };
    let whole = jsonc::whole(text)?;
    let top = jsonc::members(text, whole.start)?;
    let (mut groups, mut taken) = (Vec::new(), None);
    match top.iter().find(|member| member.name == key) {
        Some(servers) if is_object(servers.value.start) => groups.push(group(servers.value.start, true)?),
        other => taken = other.map(|member| member.value.clone()),
    }
    // Claude Code keeps those of projects in one file.
    let projects = top.iter().find(|member| member.name == "projects");
    if let Some(projects) = projects.filter(|projects| is_object(projects.value.start)) {
        for project in jsonc::members(text, projects.value.start)? {
            if !is_object(project.value.start) {
                continue;
            }
            let members = jsonc::members(text, project.value.start)?;
            let servers = members.iter().find(|member| member.name == key);
            if let Some(servers) = servers.filter(|servers| is_object(servers.value.start)) {
                groups.push(group(servers.value.start, false)?);
            }
        }
    }
    Some((groups, taken))
}

/// Changes the files as `plan` says, and says how many. A file that cannot be changed so stays as it is.
fn change(
    which: &WhichArgs,
    found: &mut Found,
    plan: impl Fn(&File) -> Result<Plan, Problems>,
) -> anyhow::Result<usize> {
    let mut changed = 0;
    for file in &found.files {
        let new = match plan(file) {
            Ok(plan) if plan.splices.is_empty() => continue,
            Ok(plan) => file.changed(plan),
            Err(problems) => Err(problems),
        };
        let new = match new {
            Ok(new) => new,
            Err(problems) if !which.file.is_empty() => return Err(problems.into()),
            Err(problems) => {
                found.is_partial = true;
                say_error(&format!("error: {problems}\n"));
                continue;
            }
        };
        if !which.dry_run {
            file.write(&new.text).with_context(|| format!("cannot write {}", file.path.display()))?;
        }
        changed += 1;
        let word = if which.dry_run { "would change" } else { "changed" };
        say_error(&format!("{word} {}\n", file.path.display()));
        print(&new.entries().map(|entry| Row::of(&new, entry).line()).collect::<String>())?;
    }
    Ok(changed)
}

#[cfg(test)]
mod tests;
