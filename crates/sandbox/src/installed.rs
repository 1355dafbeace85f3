//! What a command really runs: the files and the package behind it, by content.
//!
//! *Attack.* The command that was approved stays as it is, and what it starts is exchanged: the binary, the target of a link,
//! the script, the package under a runner's cache (attacks.md SC-01, SC-13; MCPoison, CVE-2025-54136). *Answer.* Program,
//! interpreter and script are known by SHA-256, a package by the version and integrity its installer wrote down and by the
//! content of its own files. Nothing is fetched and nothing is run to find that out.
//!
//! What is not seen: files a program loads later by itself, packages that a runner has not installed yet or installs where
//! only it can tell (`uvx` without `uv tool install`), images of containers, and an exchange in the moment between this look
//! and the start.

mod compiled;
mod content;
mod npm;
mod python;

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    path::{Path, PathBuf},
};

use crate::{Launch, confine::PrivateHome};

use content::hash_file;

/// What a command runs, as far as it can be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Installed {
    /// The program, what interprets it and the script it runs, each once, links followed.
    pub files: Vec<RunFile>,
    /// The package that the program or the script belongs to.
    pub package: Option<InstalledPackage>,
}

/// A file that is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunFile {
    /// Where it is, links followed.
    pub path: PathBuf,
    /// SHA-256 of its content.
    pub sha256: [u8; 32],
}

/// A package as it is installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstalledPackage {
    /// Its package URL without a version: `pkg:npm/%40scope/name`, `pkg:pypi/name`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// What its installer wrote down of its content: npm's `integrity`, or `sha256-…` of a Python `RECORD`.
    pub integrity: Option<String>,
    /// SHA-256 over its own files' names and contents, unless there are too many.
    pub content: Option<[u8; 32]>,
    /// SHA-256 over the names, versions and integrities of everything installed beside it, where a lockfile tells.
    pub dependencies: Option<[u8; 32]>,
}

/// How long a first line that names an interpreter may be, in bytes.
const FIRST_LINE: usize = 512;

impl Launch {
    /// Looks at what it would run now. Reads files, the program whole, so not for a thread that serves requests; what was
    /// read before and has not changed since, by its inode's times, is not read again.
    pub fn installed(&self) -> Installed {
        let Found { paths, package, .. } = Found::look(self);
        let mut files: Vec<RunFile> = Vec::new();
        for path in paths.iter().filter_map(|path| path.canonicalize().ok()) {
            if !files.iter().any(|file| file.path == path) {
                files.extend(hash_file(&path).map(|sha256| RunFile { path, sha256 }));
            }
        }
        Installed { files, package }
    }

    /// Where the program is, what interprets it and the script it runs, as they are named and with links followed.
    pub(crate) fn run_paths(&self) -> Vec<PathBuf> {
        let mut named = Found::look(self).paths;
        named.extend(self.find_program());
        let real = named.iter().filter_map(|path| path.canonicalize().ok());
        let absolute = named.iter().filter_map(|path| std::path::absolute(path).ok());
        let mut all: Vec<_> = absolute.chain(real).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// A folder that a variable of the child names. One that is confined has another `HOME`, in which is nothing yet.
    fn variable(&self, name: &str) -> Option<&Path> {
        if self.confinement.is_some() && PrivateHome::VARIABLES.contains(&name) {
            return None;
        }
        self.environment.get(OsStr::new(name)).map(Path::new).filter(|path| path.is_absolute())
    }

    /// Whether our own binary is run: it is who asks.
    fn is_own(&self) -> bool {
        Path::new(&self.program) == self.helper
    }
}

struct Found<'l> {
    launch: &'l Launch,
    /// The files, as they are named.
    paths: Vec<PathBuf>,
    package: Option<InstalledPackage>,
}

/// What runs what.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Runner {
    Node,
    Npx,
    Python,
    PythonTool,
    Shell,
}

impl Runner {
    /// The runner a program is by its name, and the arguments it takes as one.
    fn of<'a>(name: &str, arguments: &'a [std::ffi::OsString]) -> Option<(Self, &'a [std::ffi::OsString])> {
        let starts = |words: &[&str]| {
            let fits = arguments.iter().zip(words).all(|(argument, word)| argument == word);
            if arguments.len() >= words.len() && fits { arguments.get(words.len()..) } else { None }
        };
        match name {
            "npx" | "bunx" => Some((Self::Npx, arguments)),
            "npm" => starts(&["exec"]).map(|rest| (Self::Npx, rest)),
            "node" | "nodejs" | "bun" | "deno" => Some((Self::Node, starts(&["run"]).unwrap_or(arguments))),
            "uvx" => Some((Self::PythonTool, arguments)),
            "uv" => starts(&["tool", "run"]).map(|rest| (Self::PythonTool, rest)),
            "pipx" => starts(&["run"]).map(|rest| (Self::PythonTool, rest)),
            "sh" | "bash" | "dash" | "zsh" => Some((Self::Shell, arguments)),
            _ => {
                let version = name.strip_prefix("python").or_else(|| name.strip_prefix("pypy"))?;
                version.bytes().all(|b| b.is_ascii_digit() || b == b'.').then_some((Self::Python, arguments))
            }
        }
    }
}

impl<'l> Found<'l> {
    fn look(launch: &'l Launch) -> Self {
        let mut found = Self { launch, paths: Vec::new(), package: None };
        if let Some(program) = launch.find_program().filter(|_| !launch.is_own()) {
            found.follow(&program);
        }
        found
    }

    fn follow(&mut self, program: &Path) {
        let launch = self.launch;
        self.run(program);
        let name = Path::new(&launch.program).file_name().unwrap_or_default().to_string_lossy().into_owned();
        match Runner::of(&name, &launch.arguments) {
            Some((Runner::Npx, arguments)) => {
                self.package = npm::of_npx(launch, program, arguments);
            }
            Some((Runner::PythonTool, arguments)) => {
                self.package = python::of_tool(launch, arguments);
            }
            Some((Runner::Python, arguments)) => {
                if let Some(module) = python::module(arguments) {
                    self.package = python::of_module(launch, program, &module);
                } else {
                    self.script(arguments, &["-W", "-X", "--check-hash-based-pycs"], &[]);
                }
            }
            Some((Runner::Node, arguments)) => {
                self.script(arguments, &["-C", "--conditions", "--env-file"], NODE_LOADS);
            }
            Some((Runner::Shell, arguments)) => {
                self.script(arguments, &["-o", "-O"], &["--rcfile", "--init-file"])
            }
            None => self.package = package_of(program),
        }
    }

    /// Notes that a file is run, and what its first line says runs it.
    fn run(&mut self, path: &Path) {
        self.note(path);
        if let Some(interpreter) = self.interpreter(path) {
            self.note(&interpreter);
        }
    }

    fn note(&mut self, path: &Path) {
        self.paths.push(path.to_owned());
    }

    /// What the first line of a script names, `env` looked through.
    fn interpreter(&self, path: &Path) -> Option<PathBuf> {
        use std::io::Read;
        let mut head = Vec::new();
        std::fs::File::open(path).ok()?.take(FIRST_LINE as u64).read_to_end(&mut head).ok()?;
        let line = head.strip_prefix(b"#!")?.split(|b| *b == b'\n').next()?;
        let line = std::str::from_utf8(line).ok()?;
        let mut words = line.split_ascii_whitespace();
        let program = words.next()?;
        if !program.ends_with("/env") {
            return Some(self.launch.at(program));
        }
        let named = words.find(|word| !word.starts_with('-') && !word.contains('='))?;
        Launch { program: named.into(), ..self.launch.clone() }.find_program()
    }

    /// The script that an interpreter is told to run: the first argument that is no option. `with_value` are options whose
    /// next argument belongs to them; `loads` are those that name another file to run.
    fn script(&mut self, arguments: &[std::ffi::OsString], with_value: &[&str], loads: &[&str]) {
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let text = argument.to_string_lossy();
            let (option, joined) = text.split_once('=').map_or((text.as_ref(), None), |(o, v)| (o, Some(v)));
            if loads.contains(&option) {
                let value = joined.map(Into::into).or_else(|| rest.next().cloned());
                if let Some(value) = value {
                    self.note(&self.launch.at(&value));
                }
            } else if with_value.contains(&option) && joined.is_none() {
                rest.next();
            } else if matches!(option, "-c" | "-e" | "--eval" | "-p" | "--print") {
                // The code stands in the command.
                return;
            } else if !option.starts_with('-') {
                let script = self.launch.at(argument);
                self.note(&script);
                self.package = package_of(&script);
                return;
            }
        }
    }
}

/// Options of Node's that name a module to load first.
const NODE_LOADS: &[&str] =
    &["-r", "--require", "--import", "--loader", "--experimental-loader", "--preload"];

/// The package that a file belongs to.
fn package_of(file: &Path) -> Option<InstalledPackage> {
    python::of_script(file).or_else(|| npm::of_file(&file.canonicalize().ok()?))
}

/// A name as it stands in a package URL.
fn escaped(name: &str) -> String {
    name.replace('%', "%25").replace('@', "%40")
}

/// Members of a JSON object in a file that is not too large.
fn json(path: &Path) -> Option<serde_json::Value> {
    serde_json::from_slice(&content::read_small(path)?).ok()
}

/// SHA-256 over pairs.
fn digest_of(pairs: &BTreeMap<String, String>) -> [u8; 32] {
    let mut framed = Vec::new();
    for part in pairs.iter().flat_map(|(name, value)| [name, value]) {
        framed.extend_from_slice(&(part.len() as u64).to_be_bytes());
        framed.extend_from_slice(part.as_bytes());
    }
    content::sha256(&framed)
}
