//! One server in a client's file: how the client starts it, and how it would with the guard in between.

use std::{
    ops::Range,
    path::{Component, Path, PathBuf},
};

use serde::Serialize;

use super::jsonc::{self, Member};

/// A change of a text: these bytes become that.
pub type Splice = (Range<usize>, String);

/// A server as a client's file has it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What the client calls it.
    pub name: String,
    /// How it is reached.
    pub way: Way,
    /// Names of the variables that the client gives it.
    pub variables: Vec<String>,
    /// The folder it is started in.
    pub cwd: Option<String>,
    /// Names of its members that say neither of these.
    pub others: Vec<String>,
    /// Where its address stands.
    pub url: Option<Range<usize>>,
    /// Where `command` and `args` stand.
    spans: Option<(Range<usize>, Option<Range<usize>>)>,
}

/// How a client reaches a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// It starts this command.
    Command(Vec<String>),
    /// It starts us, and we start a command.
    Guarded(Guarded),
    /// It asks this address.
    Url(String),
    /// Neither is there, or both, or they cannot be read.
    Unclear,
}

/// A command behind `bartizan wrap`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guarded {
    /// The command, which is not empty.
    pub command: Vec<String>,
    /// The sandbox it is started in.
    pub sandbox: Option<Sandboxed>,
}

/// What a sandboxed command may reach, in the words of `[[servers]] sandbox`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sandboxed {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    read: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    write: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<String>,
}

impl Sandboxed {
    /// What these options of `bartizan wrap` say of it; `None` if nothing.
    pub fn of(options: &[String]) -> Option<Self> {
        let (mut found, mut is_there) = (Self::default(), false);
        for (option, value) in options_of(options) {
            is_there |= matches!(option, "--sandbox" | "--read" | "--write" | "--network");
            let value = value.map(str::to_owned);
            match option {
                "--read" => found.read.extend(value),
                "--write" => found.write.extend(value),
                "--network" => found.network = value,
                _ => {}
            }
        }
        is_there.then_some(found)
    }
}

/// Options of `bartizan wrap` that stand alone.
const FLAGS: [&str; 2] = ["--approve", "--sandbox"];
/// Those that may stand in a stranger's file: none of them makes a guard weaker.
const HARMLESS: [&str; 7] = ["--approve", "--env", "--name", "--network", "--read", "--sandbox", "--write"];

/// The options of `bartizan wrap` in these words, each with its value.
fn options_of(words: &[String]) -> Vec<(&str, Option<&str>)> {
    let (mut found, mut words) = (Vec::new(), words.iter());
    while let Some(word) = words.next() {
        found.push(match word.split_once('=') {
            Some((option, value)) => (option, Some(value)),
            None if FLAGS.contains(&word.as_str()) => (word.as_str(), None),
            None => (word.as_str(), words.next().map(String::as_str)),
        });
    }
    found
}

/// Whether a variable of this name changes what our own program is or where it keeps its state.
fn misleads(variable: &str) -> bool {
    let variable = variable.to_ascii_uppercase();
    ["GLIBC_", "LD_", "DYLD_", "BARTIZAN_", "XDG_"].iter().any(|start| variable.starts_with(start))
        || matches!(variable.as_str(), "HOME" | "PATH" | "TMPDIR")
}

/// How our own program is known in a file.
#[derive(Clone, Debug, Default)]
pub struct Ours {
    /// Our own binary, behind all links.
    pub own: Option<PathBuf>,
    /// The folder that the file came with, if it is not the user's own: what lies in there is a stranger's, whatever it is called.
    pub project: Option<PathBuf>,
}

impl Ours {
    /// How a client that gives `variables` reaches what `argv` starts.
    pub fn way(&self, argv: Vec<String>, variables: &[String]) -> Way {
        self.guarded(&argv, variables).map_or(Way::Command(argv), Way::Guarded)
    }

    fn guarded(&self, argv: &[String], variables: &[String]) -> Option<Guarded> {
        let (program, rest) = argv.split_first()?;
        let (first, rest) = rest.split_first()?;
        let behind = rest.iter().position(|word| word == "--")?;
        let command = rest.get(behind + 1..).filter(|command| !command.is_empty())?.to_vec();
        let options = rest.get(..behind).unwrap_or_default();
        let is_weak = || options_of(options).iter().any(|(option, _)| !HARMLESS.contains(option));
        // A stranger's file may start us so that we guard nothing.
        let is_led_astray =
            self.project.is_some() && (variables.iter().any(|name| misleads(name)) || is_weak());
        (first == WRAP && !is_led_astray && self.is(program))
            .then(|| Guarded { command, sandbox: Sandboxed::of(options) })
    }

    fn is(&self, program: &str) -> bool {
        let path = Path::new(program);
        // Who starts them sees another program there, or clients put words in.
        let is_elsewhere = ["/proc", "/dev"].iter().any(|place| path.starts_with(place))
            || program.contains(['$', '%'])
            || path.components().any(|part| part == Component::ParentDir);
        if let Some(project) = &self.project
            && (is_elsewhere || path.starts_with(project))
        {
            return false;
        }
        let real = path.canonicalize().ok().filter(|_| path.is_absolute());
        if real.is_some() && real == self.own {
            return true;
        }
        if path.file_name().is_none_or(|name| name != "bartizan") {
            return false;
        }
        let Some(project) = &self.project else { return path.is_absolute() || !program.contains('/') };
        if path.is_absolute() {
            return real.is_some_and(|real| !real.starts_with(project));
        }
        !program.contains('/')
    }
}

/// Members that say nothing of how a server is started.
const PLAIN: [&str; 6] = ["autoApprove", "description", "disabled", "disabledTools", "name", "timeout"];
/// The command that guards.
const WRAP: &str = "wrap";

impl Entry {
    /// Reads the member `of` of the servers in `text`.
    pub fn read(text: &str, of: &Member, ours: &Ours) -> Self {
        let members = jsonc::members(text, of.value.start);
        let is_read = members.is_some();
        let members = members.unwrap_or_default();
        let find = |names: &[&str]| members.iter().find(|member| names.contains(&member.name.as_str()));
        let words = |member: &Member| -> Option<Vec<String>> {
            let items = jsonc::items(text.get(member.value.clone())?)?;
            items.into_iter().map(|item| serde_json::from_str(item).ok()).collect()
        };
        let string = |member: &Member| serde_json::from_str::<String>(text.get(member.value.clone())?).ok();
        let (command, arguments, address) = (find(&["command"]), find(&["args"]), find(URLS));
        let variables = match find(&["env"]) {
            Some(env) if text.get(env.value.clone()) != Some("null") => {
                let of_env = jsonc::members(text, env.value.start);
                of_env.map(|env| env.into_iter().map(|member| member.name).collect::<Vec<_>>())
            }
            _ => Some(Vec::new()),
        };
        let argv = command.and_then(string).and_then(|program| {
            let rest = arguments.map_or(Some(Vec::new()), words)?;
            Some([vec![program], rest].concat())
        });
        let way = match (argv, address.and_then(string), &variables) {
            // A name that looks like an option cannot be handed on.
            (_, _, Some(variables)) if variables.iter().any(|name| name.starts_with('-')) => Way::Unclear,
            (Some(argv), _, Some(variables)) if is_read && address.is_none() => ours.way(argv, variables),
            (_, Some(url), Some(_)) if is_read && command.is_none() => Way::Url(url),
            _ => Way::Unclear,
        };
        let is_other = |name: &str| !READ.contains(&name) && !URLS.contains(&name);
        let others: Vec<_> = members.iter().filter(|m| is_other(&m.name)).map(|m| m.name.clone()).collect();
        // Such as a file of variables: what a stranger says besides may make no guard of it.
        let is_plain = others.iter().all(|name| PLAIN.contains(&name.as_str()));
        let way = match way {
            Way::Guarded(_) if ours.project.is_some() && !is_plain => Way::Unclear,
            way => way,
        };
        let spans =
            command.map(|command| (command.value.clone(), arguments.map(|member| member.value.clone())));
        Self {
            name: of.name.clone(),
            way,
            variables: variables.unwrap_or_default(),
            cwd: find(&["cwd"]).and_then(string),
            others,
            url: address.map(|member| member.value.clone()),
            spans,
        }
    }

    /// What puts `guard` before its command, with `options` for `bartizan wrap`; nothing where there is no command, or it is guarded.
    pub fn guard(&self, guard: &Path, options: &[String]) -> Vec<Splice> {
        let Way::Command(command) = &self.way else { return Vec::new() };
        let named = self.variables.iter().flat_map(|name| ["--env".to_owned(), name.clone()]);
        let ours = std::iter::once(WRAP.to_owned()).chain(options.iter().cloned()).chain(named);
        let arguments: Vec<_> = ours.chain(["--".to_owned()]).chain(command.iter().cloned()).collect();
        self.becomes(&guard.to_string_lossy(), &arguments)
    }

    /// What takes the guard away again.
    pub fn release(&self) -> Vec<Splice> {
        match &self.way {
            Way::Guarded(guarded) => match guarded.command.split_first() {
                Some((program, arguments)) => self.becomes(program, arguments),
                None => Vec::new(),
            },
            _ => Vec::new(),
        }
    }

    fn becomes(&self, program: &str, arguments: &[String]) -> Vec<Splice> {
        let Some((command, args)) = self.spans.clone() else { return Vec::new() };
        let program = serde_json::Value::from(program).to_string();
        let words: Vec<_> =
            arguments.iter().map(|word| serde_json::Value::from(word.as_str()).to_string()).collect();
        let arguments = format!("[{}]", words.join(", "));
        match args {
            Some(args) => vec![(command, program), (args, arguments)],
            None => vec![(command, format!("{program}, \"args\": {arguments}"))],
        }
    }
}

/// Members that say at which address a server is.
const URLS: &[&str] = &["url", "httpUrl", "serverUrl"];

/// Other members that are read.
const READ: &[&str] = &["command", "args", "env", "cwd", "type"];

/// `text` with all of `splices`, which do not overlap.
pub fn spliced(text: &str, mut splices: Vec<Splice>) -> String {
    splices.sort_by_key(|(range, _)| range.start);
    let mut out = String::with_capacity(text.len() + 1024);
    let mut at = 0;
    for (range, new) in splices {
        out.push_str(text.get(at..range.start).unwrap_or_default());
        out.push_str(&new);
        at = range.end;
    }
    out.push_str(text.get(at..).unwrap_or_default());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"{
  // what I use
  "mcpServers": {
    "files": { "command": "npx", "args": ["-y", "files", "/srv/a b", /* no more */], "env": { "TOKEN": "s3cret", "MODE": "r" } },
    "plain": { "command": "serve" },
    "far": { "type": "http", "url": "https://far.example/mcp" }, "odd": { "command": 7 },
  },
}"#;

    fn entries(text: &str) -> Vec<Entry> {
        let servers = jsonc::members(text, jsonc::whole(text).unwrap().start).unwrap();
        let servers = jsonc::members(text, servers[0].value.start).unwrap();
        servers.iter().map(|member| Entry::read(text, member, &Ours::default())).collect()
    }

    #[test]
    fn a_guard_goes_before_the_command_and_comes_out_again() {
        let ways: Vec<_> = entries(TEXT).into_iter().map(|entry| entry.way).collect();
        let command = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let files = command(&["npx", "-y", "files", "/srv/a b"]);
        let far = Way::Url("https://far.example/mcp".into());
        assert_eq!(
            ways,
            [Way::Command(files.clone()), Way::Command(command(&["serve"])), far.clone(), Way::Unclear]
        );

        let options = ["--sandbox".to_owned()];
        let splices =
            entries(TEXT).iter().flat_map(|e| e.guard(Path::new("/opt/bartizan"), &options)).collect();
        let guarded = spliced(TEXT, splices);
        assert!(
            guarded.contains("// what I use")
                && guarded.contains(r#""env": { "TOKEN": "s3cret", "MODE": "r" }"#)
        );
        assert!(
            guarded.contains(r#""args": ["wrap", "--sandbox", "--env", "TOKEN", "--env", "MODE", "--", "npx", "-y", "files", "/srv/a b"]"#),
            "{guarded}"
        );
        let ways: Vec<_> = entries(&guarded).into_iter().map(|entry| entry.way).collect();
        let behind = |command| Way::Guarded(Guarded { command, sandbox: Some(Sandboxed::default()) });
        assert_eq!(ways, [behind(files), behind(command(&["serve"])), far, Way::Unclear]);
        let again: Vec<_> =
            entries(&guarded).iter().flat_map(|e| e.guard(Path::new("/opt/bartizan"), &[])).collect();
        assert_eq!(again, [], "no guard of a guard");

        let released = spliced(&guarded, entries(&guarded).iter().flat_map(Entry::release).collect());
        let before: Vec<_> = entries(TEXT).into_iter().map(|entry| entry.way).collect();
        assert_eq!(entries(&released).into_iter().map(|entry| entry.way).collect::<Vec<_>>(), before);
        assert_eq!(entries(&released).iter().flat_map(Entry::release).collect::<Vec<_>>(), []);
    }

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn another_program_of_that_name_is_no_guard() {
        let ours = |argv: &[&str]| Ours::default().guarded(&words(argv), &[]).map(|found| found.command);
        assert_eq!(ours(&["bartizan", "wrap", "--", "a", "--", "b"]).unwrap(), ["a", "--", "b"]);
        for other in [
            &["bartizan", "run", "--", "a"][..],
            &["bart", "wrap", "--", "a"],
            &["bartizan", "wrap", "a"],
            &["bartizan", "wrap", "--"],
            &["./bartizan", "wrap", "--", "a"],
            &["bartizan"],
            &[],
        ] {
            assert_eq!(ours(other), None, "{other:?}");
        }
    }

    #[test]
    fn what_came_with_a_project_is_no_guard_but_our_own_binary_is() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let (project, own) = (root.join("project"), root.join("bartizan-x86_64-linux"));
        std::fs::create_dir(&project).unwrap();
        std::fs::write(&own, "").unwrap();
        let link = root.join("link");
        std::os::unix::fs::symlink(&own, &link).unwrap();
        std::fs::write(project.join("bartizan"), "").unwrap();
        std::fs::create_dir(root.join("bin")).unwrap();
        let disguised = root.join("bin/bartizan");
        std::os::unix::fs::symlink(project.join("bartizan"), &disguised).unwrap();
        let ours = Ours { own: Some(own.clone()), project: Some(project.clone()) };
        let is = |program: &Path| ours.is(program.to_str().unwrap());
        std::fs::create_dir(root.join("opt")).unwrap();
        let installed = root.join("opt/bartizan");
        std::fs::write(&installed, "").unwrap();
        for guard in [&own, &link, Path::new("bartizan"), &installed] {
            assert!(is(guard), "{}", guard.display());
        }
        for other in [
            Path::new("./node_modules/.bin/bartizan"),
            Path::new("node_modules/bartizan"),
            &project.join("bartizan"),
            &root.join("bin/../project/bartizan"),
            &disguised,
            Path::new("/opt/bartizan-x86_64-linux"),
            Path::new("/nowhere/bartizan"),
            Path::new("/${workspaceFolder}/bartizan"),
            Path::new("/proc/self/exe"),
            &root.join("opt/bartizan.sh"),
        ] {
            assert!(!is(other), "{}", other.display());
        }
        // Nor is one that is started so that it guards nothing.
        let guard = |options: &[&str], variables: &[&str]| {
            let argv = [&["bartizan", "wrap"], options, &["--", "server"]].concat();
            matches!(ours.way(words(&argv), &words(variables)), Way::Guarded(_))
        };
        assert!(guard(&["--env", "A", "--read=/a", "--sandbox"], &["A"]));
        for misleading in ["PATH", "HOME", "LD_PRELOAD", "XDG_STATE_HOME", "BARTIZAN_LOG"] {
            assert!(!guard(&[], &[misleading]), "{misleading}");
        }
        for weak in [&["--may-ask", "sampling"][..], &["--shield-config=x"], &["--audit-config", "--sandbox"]]
        {
            assert!(!guard(weak, &[]), "{weak:?}");
        }
    }

    #[test]
    fn a_sandbox_is_read_from_options() {
        let of = |options: &[&str]| Sandboxed::of(&words(options));
        assert_eq!(of(&["--env", "A", "--approve"]), None);
        assert_eq!(of(&["--env", "--sandbox", "--name", "--read"]), None);
        assert_eq!(of(&["--sandbox"]), Some(Sandboxed::default()));
        let read = |read: &[&str]| Sandboxed { read: words(read), ..Sandboxed::default() };
        assert_eq!(of(&["--read", "/a", "--env", "B", "--read=/c=d"]), Some(read(&["/a", "/c=d"])));
        assert_eq!(of(&["--network=open"]).unwrap().network.unwrap(), "open");
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_unclear() {
        for entry in [
            r#"{"command": "a", "args": null}"#,
            r#"{"command": "a", "args": [1]}"#,
            r#"{"command": "a", "command": "b"}"#,
            r#"{"command": "a", "url": "https://a.example"}"#,
            r#"{"command": "a", "env": {"A": "1", "A": "2"}}"#,
            r#"{"command": "a", "env": 7}"#,
            r#"{"command": "a", "env": {"--sandbox": "1"}}"#,
            "null",
        ] {
            let text = format!("{{\"mcpServers\": {{\"a\": {entry}}}}}");
            assert_eq!(entries(&text)[0].way, Way::Unclear, "{entry}");
        }
    }
}
