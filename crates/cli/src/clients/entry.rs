//! One server in a client's file: how the client starts it, and how it would with the guard in between.

use std::{ops::Range, path::Path};

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
    /// Where `command` and `args` stand.
    spans: Option<(Range<usize>, Option<Range<usize>>)>,
}

/// How a client reaches a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// It starts this command.
    Command(Vec<String>),
    /// It starts us, and we start this command; so many arguments of ours are before it.
    Guarded(Vec<String>),
    /// It asks this address.
    Url(String),
    /// Neither is there, or they cannot be read.
    Unclear,
}

/// The command that guards.
const WRAP: &str = "wrap";

impl Entry {
    /// Reads the member `of` of the servers in `text`.
    pub fn read(text: &str, of: &Member) -> Self {
        let members = jsonc::members(text, of.value.start).unwrap_or_default();
        let find = |names: &[&str]| members.iter().find(|member| names.contains(&member.name.as_str()));
        let words = |member: &Member| -> Option<Vec<String>> {
            let items = jsonc::items(text.get(member.value.clone())?)?;
            items.into_iter().map(|item| serde_json::from_str(item).ok()).collect()
        };
        let string = |member: &Member| serde_json::from_str::<String>(text.get(member.value.clone())?).ok();
        let (command, arguments) = (find(&["command"]), find(&["args"]));
        let variables = find(&["env"]).and_then(|env| jsonc::members(text, env.value.start));
        let variables = variables.unwrap_or_default().into_iter().map(|member| member.name).collect();
        let argv = command.and_then(string).and_then(|program| {
            let rest = arguments.map_or(Some(Vec::new()), words)?;
            Some([vec![program], rest].concat())
        });
        let way = match (argv, find(&["url", "httpUrl", "serverUrl"]).and_then(string)) {
            (Some(argv), _) => guarded(&argv).map_or(Way::Command(argv), Way::Guarded),
            (None, Some(url)) => Way::Url(url),
            (None, None) => Way::Unclear,
        };
        let spans =
            command.map(|command| (command.value.clone(), arguments.map(|member| member.value.clone())));
        Self { name: of.name.clone(), way, variables, spans }
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
            Way::Guarded(command) => match command.split_first() {
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

/// What a command guards, if it is ours.
fn guarded(argv: &[String]) -> Option<Vec<String>> {
    let (program, rest) = argv.split_first()?;
    let is_ours = Path::new(program).file_stem().is_some_and(|name| name == "bartizan");
    let behind = rest.iter().position(|word| word == "--")?;
    (is_ours && rest.first().is_some_and(|word| word == WRAP))
        .then(|| rest.get(behind + 1..).unwrap_or_default().to_vec())
}

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
        servers.iter().map(|member| Entry::read(text, member)).collect()
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
        assert_eq!(ways, [Way::Guarded(files), Way::Guarded(command(&["serve"])), far, Way::Unclear]);
        let again: Vec<_> =
            entries(&guarded).iter().flat_map(|e| e.guard(Path::new("/opt/bartizan"), &[])).collect();
        assert_eq!(again, [], "no guard of a guard");

        let released = spliced(&guarded, entries(&guarded).iter().flat_map(Entry::release).collect());
        let before: Vec<_> = entries(TEXT).into_iter().map(|entry| entry.way).collect();
        assert_eq!(entries(&released).into_iter().map(|entry| entry.way).collect::<Vec<_>>(), before);
        assert_eq!(entries(&released).iter().flat_map(Entry::release).collect::<Vec<_>>(), []);
    }

    #[test]
    fn another_program_of_that_name_is_no_guard() {
        let ours = |argv: &[&str]| guarded(&argv.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        assert_eq!(ours(&["bartizan", "wrap", "--", "a", "--", "b"]).unwrap(), ["a", "--", "b"]);
        for other in [
            &["bartizan", "run", "--", "a"][..],
            &["bart", "wrap", "--", "a"],
            &["bartizan", "wrap", "a"],
            &["bartizan"],
            &[],
        ] {
            assert_eq!(ours(other), None, "{other:?}");
        }
    }
}
