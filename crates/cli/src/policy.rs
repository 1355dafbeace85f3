//! `bartizan policy`: look at policies without serving anything. Made for people and for their repositories' CI.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context, bail};
use bartizan_gateway::permit::{Question, Rules, catalog_of};
use bartizan_model::ServerName;
use bartizan_policy::{
    Bundle, Catalog, Loaded, PolicyConfig, Source, explain, lint,
    prove::{self, Claim, Verdict, solver::LocalSolver},
    publish_schema,
    record::RecordedQuery,
    suggest,
};
use bartizan_store::{PinSet, Pins};
use clap::{Args, Subcommand, ValueEnum};
use serde::Deserialize;

use crate::{
    config::{self, MayAsk},
    endpoints, print,
    state::{NoState, State},
};

mod flow;
pub mod review;

#[derive(Subcommand)]
pub enum PolicyCommand {
    /// Print the servers and their approved tools, as the other commands read them: to keep, or for CI without a gate.
    Catalog(CatalogFile),
    /// Check policies: syntax, types, names, roles that nobody has, and policies that never count. Exit code 1 if there is anything
    /// to see.
    Check(Policies),
    /// Say why a query is answered as it is. Exit code 0 if it is permitted, 1 if denied.
    Explain(ExplainArgs),
    /// Show what has entered whose conversation with the tools, and forget it.
    ///
    /// Once untrusted text and private data have met in a caller's window, nothing of his goes out without a person's word.
    #[command(subcommand)]
    Flow(flow::FlowCommand),
    /// Prove a claim over all requests at once, or show a request that breaks it. Exit code 0 if it is proved, 1 if not.
    ///
    /// CLAIM is one of
    ///   never principal in Role::"contractor", action in Action::"call", resource in Server::"payments"
    ///   equivalent PATH      these policies permit exactly what those at PATH do
    ///   subsumes PATH        whatever those at PATH permit, these do
    /// It needs cvc5 1.3.1 or newer.
    #[command(verbatim_doc_comment)]
    Prove(ProveArgs),
    /// Find rights that nobody used and write the smaller policy. Exit code 1 if there is one.
    ///
    /// With `[policy.review] every` the running gate does it by itself; `list`, `accept` and `waive` are about what it found.
    Review(review::ReviewArgs),
    /// Print the Cedar schema, with one action for every tool of the catalogue.
    Schema(CatalogFile),
    /// Propose flow labels from the tools' definitions, for you to confirm. Exit code 1 if there are any.
    Suggest(SuggestArgs),
}

/// The tools that policies speak of.
#[derive(Args)]
pub struct CatalogFile {
    /// Servers with their trust and pinned tools (JSON, as `bartizan policy catalog` prints it); by default those of the
    /// gate that runs from this configuration. Without a gate, no tool is known.
    #[arg(long, value_name = "FILE")]
    catalog: Option<PathBuf>,
    /// A configuration file, for `[policy]`: roles, grants, labels, the folder of policies.
    #[arg(long, value_name = "FILE", env = "BARTIZAN_CONFIG")]
    config: Option<PathBuf>,
}

/// Which policies.
#[derive(Args)]
pub struct Policies {
    #[command(flatten)]
    about: CatalogFile,
    /// Cedar files, or folders of them, with the folders in those; by default the configuration's folder.
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
}

#[derive(Args)]
pub struct ExplainArgs {
    #[command(flatten)]
    policies: Policies,
    /// The query (JSON), as given here or recorded by the audit log; `-` reads standard input.
    #[arg(long, value_name = "FILE")]
    query: PathBuf,
}

#[derive(Args)]
pub struct ProveArgs {
    /// What to prove.
    claim: String,
    #[command(flatten)]
    policies: Policies,
    /// The solver: a program that reads SMT-LIB on its standard input.
    #[arg(long, value_name = "PROGRAM", env = "BARTIZAN_SOLVER", default_value = "cvc5")]
    solver: PathBuf,
}

#[derive(Args)]
pub struct SuggestArgs {
    #[command(flatten)]
    about: CatalogFile,
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Clone, Copy, Default, ValueEnum)]
enum Format {
    #[default]
    Text,
    Json,
}

/// Clean.
const CLEAN: u8 = 0;
/// Findings, or denied.
const FOUND: u8 = 1;

/// Runs one command.
pub fn run(command: PolicyCommand) -> anyhow::Result<ExitCode> {
    Ok(ExitCode::from(match command {
        PolicyCommand::Catalog(about) => {
            let catalog = about.catalog(&about.settings()?)?;
            print(&format!("{}\n", serde_json::to_string_pretty(&catalog)?))?;
            CLEAN
        }
        PolicyCommand::Check(policies) => check(&policies)?,
        PolicyCommand::Explain(arguments) => explain(&arguments)?,
        PolicyCommand::Flow(command) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(flow::run(command))?
        }
        PolicyCommand::Prove(arguments) => prove(&arguments)?,
        PolicyCommand::Review(arguments) => review::run(arguments)?,
        PolicyCommand::Schema(about) => {
            print(&publish_schema(&about.catalog(&about.settings()?)?)?)?;
            CLEAN
        }
        PolicyCommand::Suggest(arguments) => suggest(&arguments)?,
    }))
}

fn check(policies: &Policies) -> anyhow::Result<u8> {
    let loaded = match policies.load()? {
        Ok(loaded) => loaded,
        Err(problems) => {
            print(&problems.0.iter().map(|p| format!("error: {p}\n")).collect::<String>())?;
            return Ok(FOUND);
        }
    };
    let lints = lint::lint(&loaded.bundle).into_iter().map(|finding| finding.to_string());
    let part = policies.about.part()?;
    let settings = part.policy.warnings().into_iter().chain(part.unpinned());
    let of_any_issuer =
        lint::of_any_issuer(&loaded.bundle).into_iter().filter(|_| policies.about.has_issuers());
    let of_any_issuer = of_any_issuer.map(|finding| finding.to_string());
    let found: Vec<String> = settings.chain(loaded.warnings).chain(lints).chain(of_any_issuer).collect();
    print(&found.iter().map(|f| format!("warning: {f}\n")).collect::<String>())?;
    let count = loaded.bundle.policy_ids().count();
    crate::say_error(&format!(
        "{count} policies, {} warning(s), version {}\n",
        found.len(),
        loaded.bundle.version()
    ));
    Ok(if found.is_empty() { CLEAN } else { FOUND })
}

fn explain(arguments: &ExplainArgs) -> anyhow::Result<u8> {
    let bundle = arguments.policies.bundle()?;
    let query: RecordedQuery = json(&arguments.query)?;
    let explanation = explain::explain(&bundle, &query);
    print(&explanation.to_string())?;
    Ok(if explanation.decision.is_permit() { CLEAN } else { FOUND })
}

/// What a solver is started with, as cvc5 reads it.
const SOLVER_ARGUMENTS: [&str; 3] = ["--lang", "smt", "--tlimit-per=60000"];
/// The first cvc5 that knows everything we ask of it.
const SOLVER_VERSION: [u32; 3] = [1, 3, 1];

fn prove(arguments: &ProveArgs) -> anyhow::Result<u8> {
    let bundle = arguments.policies.bundle()?;
    let (word, rest) =
        arguments.claim.trim().split_once(char::is_whitespace).unwrap_or((arguments.claim.as_str(), ""));
    let other = match word {
        "equivalent" | "subsumes" => Some(arguments.policies.beside(Path::new(rest.trim()))?),
        _ => None,
    };
    let claim = match (word, &other) {
        ("never", _) => Claim::Never(rest),
        ("equivalent", Some(other)) => Claim::Equivalent(other),
        ("subsumes", Some(other)) => Claim::Subsumes(other),
        _ => bail!(
            "a claim starts with `never`, `equivalent` or `subsumes`; see `bartizan policy prove --help`"
        ),
    };
    check_solver(&arguments.solver)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let verdict = runtime.block_on(async {
        let mut command = tokio::process::Command::new(&arguments.solver);
        command.args(SOLVER_ARGUMENTS).kill_on_drop(true);
        let solver = LocalSolver::from_command(&mut command)?;
        anyhow::Ok(prove::prove(&bundle, &claim, solver).await?)
    })?;
    match verdict {
        Verdict::Proved { kinds } => {
            print(&format!("proved, over {kinds} kinds of requests\n"))?;
            // What is known of no tool is not among them.
            let unpinned = arguments.policies.about.part()?.unpinned().collect::<Vec<_>>();
            print(&unpinned.iter().map(|what| format!("but {what}\n")).collect::<String>())?;
            Ok(if unpinned.is_empty() { CLEAN } else { FOUND })
        }
        Verdict::Refuted(example) => {
            print(&format!("refuted by this request:\n{example}"))?;
            Ok(FOUND)
        }
        Verdict::Unknown(kinds) => {
            print(&format!("neither proved nor refuted: the solver gave up on\n  {}\n", kinds.join("\n  ")))?;
            Ok(FOUND)
        }
    }
}

/// Asks the solver who it is, so that an old one is named instead of misunderstood.
fn check_solver(program: &Path) -> anyhow::Result<()> {
    let shown = program.display();
    let mut child = Command::new(program)
        .args(SOLVER_ARGUMENTS)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| {
            format!("there is no solver `{shown}`: install cvc5 1.3.1 or newer, or name one with --solver")
        })?;
    if let Some(mut input) = child.stdin.take() {
        // One that does not read will not answer either, which the next lines tell.
        let _ = input.write_all(b"(get-info :version)\n(exit)\n");
    }
    let output = child.wait_with_output().with_context(|| format!("the solver `{shown}` cannot be asked"))?;
    let answer = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = answer.split('"').nth(1).unwrap_or_default();
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    let found = [(); 3].map(|()| numbers.next().unwrap_or(0));
    if found < SOLVER_VERSION {
        let got = if version.is_empty() {
            "does not say its version".to_owned()
        } else {
            format!("is version {version}")
        };
        bail!("the solver `{shown}` {got}; cvc5 1.3.1 or newer is needed");
    }
    Ok(())
}

fn suggest(arguments: &SuggestArgs) -> anyhow::Result<u8> {
    let found = suggest::suggest(&arguments.about.catalog(&arguments.about.settings()?)?);
    match arguments.format {
        Format::Text => {
            for one in &found {
                let toml = toml::to_string(&one.proposed)?.trim_end().replace('\n', ", ");
                print(&format!(
                    "[policy.tools.{}.{}]\n# {}\nflow = {{ {toml} }}\n\n",
                    one.server,
                    key(&one.tool),
                    one.because.join("; ")
                ))?;
            }
        }
        Format::Json => print(&format!("{}\n", serde_json::to_string_pretty(&found)?))?,
    }
    Ok(if found.is_empty() { CLEAN } else { FOUND })
}

/// A TOML key: bare where it can be.
fn key(name: &str) -> String {
    let is_bare = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if is_bare && !name.is_empty() { name.to_owned() } else { toml::Value::from(name).to_string() }
}

/// What of a configuration file policies are about; the rest of the file is `config check`'s business.
#[derive(Default, Deserialize)]
struct Part {
    #[serde(default)]
    policy: PolicyConfig,
    #[serde(default)]
    servers: Vec<PartOfServer>,
}

#[derive(Deserialize)]
struct PartOfServer {
    name: String,
    #[serde(default)]
    may_ask: BTreeSet<MayAsk>,
    #[serde(default)]
    dangerous_unpinned: bool,
}

impl Part {
    /// Where policies on calls say nothing, for nothing is known of the tools.
    fn unpinned(&self) -> impl Iterator<Item = String> {
        let unpinned = self.servers.iter().filter(|server| server.dangerous_unpinned);
        unpinned.map(|server| {
            format!(
                "`{}` has `dangerous_unpinned`: whoever may list there may call there, whatever policies say of calls",
                server.name
            )
        })
    }

    /// What each server may ask its clients for. A name that is none has no server.
    fn may_ask(&self) -> BTreeMap<ServerName, BTreeSet<Question>> {
        let asking = self.servers.iter().filter_map(|server| {
            Some((server.name.parse().ok()?, server.may_ask.iter().map(|word| (*word).into()).collect()))
        });
        asking.collect()
    }
}

impl CatalogFile {
    fn part(&self) -> anyhow::Result<Part> {
        let Some(path) = &self.config else { return Ok(Part::default()) };
        toml::from_str(&text(path)?).with_context(|| path.display().to_string())
    }

    /// `[policy]` of the configuration.
    fn settings(&self) -> anyhow::Result<PolicyConfig> {
        Ok(self.part()?.policy)
    }

    /// Whether several issuers vouch for people, as far as the configuration can be read.
    fn has_issuers(&self) -> bool {
        let loaded = self.config.as_deref().and_then(|path| config::load(Some(path)).ok());
        loaded.is_some_and(|loaded| loaded.config.has_issuers())
    }

    fn catalog(&self, settings: &PolicyConfig) -> anyhow::Result<Catalog> {
        let mut catalog: Catalog = match &self.catalog {
            Some(file) => json(file)?,
            None => pinned(self.config.as_deref())?,
        };
        settings.label(&mut catalog);
        Ok(catalog)
    }
}

/// What the gate that runs from `config` has pinned; nothing where none has run.
fn pinned(config: Option<&Path>) -> anyhow::Result<Catalog> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let Some(set) = runtime.block_on(approved(config))? else { return Ok(Catalog::default()) };
    let loaded = config::load(config)?;
    let servers = endpoints::trusts(&loaded.config);
    Ok(catalog_of(&Rules { config: loaded.config.policy, servers, ..Rules::default() }, &set))
}

/// What is approved at the gate that runs from `config`; `None` where none has run.
async fn approved(config: Option<&Path>) -> anyhow::Result<Option<PinSet>> {
    let state = State::look(config)?;
    let read = async {
        let database = state.database().await?;
        let set = match state.pins(database.clone()).await {
            Ok(pins) => pins.snapshot().await.map_err(Into::into),
            Err(error) => Err(error),
        };
        database.close().await;
        set
    };
    match read.await {
        Err(error) if error.is::<NoState>() => Ok(None),
        set => set.map(Some),
    }
}

/// What keeps a gate from taking up the policies of `loaded`, whatever it has approved: its store is left alone, which another
/// version may be using.
pub fn problems(loaded: &config::Loaded, base: &Path) -> Vec<String> {
    let rules = match endpoints::rules(&loaded.config, base) {
        Ok(rules) => rules,
        Err(error) => return vec![format!("{error:#}")],
    };
    let catalog = catalog_of(&rules, &PinSet::default());
    match Bundle::load(&rules.sources(), &catalog, &rules.config.roles) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.0.into_iter().map(|problem| format!("[policy]: {problem}")).collect(),
    }
}

impl Policies {
    fn load(&self) -> anyhow::Result<Result<Loaded, bartizan_policy::Problems>> {
        self.load_paths(self.paths.clone())
    }

    fn bundle(&self) -> anyhow::Result<Bundle> {
        Ok(self.load()?.map_err(anyhow::Error::new)?.bundle)
    }

    /// The policies at `path` with everything else as it is here.
    fn beside(&self, path: &Path) -> anyhow::Result<Bundle> {
        Ok(self.load_paths(vec![path.to_owned()])?.map_err(anyhow::Error::new)?.bundle)
    }

    fn load_paths(
        &self,
        mut paths: Vec<PathBuf>,
    ) -> anyhow::Result<Result<Loaded, bartizan_policy::Problems>> {
        let part = self.about.part()?;
        let catalog = self.about.catalog(&part.policy)?;
        if let (true, Some(folder)) = (paths.is_empty(), &part.policy.dir) {
            let beside = self.about.config.as_deref().and_then(Path::parent).unwrap_or(Path::new(""));
            paths.push(beside.join(folder));
        }
        let mut policies = Vec::new();
        for path in &paths {
            policies.extend(read_folder(path)?);
        }
        let may_ask = part.may_ask();
        // What the gate judges by, `may_ask` among it.
        let rules = Rules { config: part.policy, policies, may_ask, ..Rules::default() };
        Ok(Bundle::load(&rules.sources(), &catalog, &rules.config.roles))
    }
}

/// How deep folders of policies may lie in each other: deeper than anybody sorts them, and an end to links that lead back.
const DEEPEST: usize = 8;

/// Every Cedar file of a folder and of the folders in it, in the order of their names.
///
/// # Errors
/// What cannot be read, by its name: a policy that is passed over may be one that forbids.
pub fn read_folder(folder: &Path) -> anyhow::Result<Vec<Source>> {
    let files = cedar_files(folder)?;
    files
        .into_iter()
        .map(|file| Ok(Source { text: text(&file)?, name: file.display().to_string() }))
        .collect()
}

/// The file itself, or the `*.cedar` of a folder and of the folders in it, in the order of their names. Folders whose names begin
/// with a dot are not looked into: repositories are there, and what Kubernetes mounts links to its `..data`.
fn cedar_files(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    let mut folders = vec![(path.to_owned(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        if depth > DEEPEST {
            bail!(
                "{}: more than {DEEPEST} folders in each other, or a link that leads back",
                folder.display()
            );
        }
        for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let entry = entry?;
            let file = entry.path();
            if !file.is_dir() {
                found.push(file);
            } else if !entry.file_name().as_encoded_bytes().starts_with(b".") {
                folders.push((file, depth + 1));
            }
        }
    }
    found.retain(|file| file.extension().is_some_and(|e| e == "cedar"));
    found.sort();
    Ok(found)
}

fn json<T: serde::de::DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    serde_json::from_str(&text(path)?).with_context(|| path.display().to_string())
}

fn text(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    open(path)?.read_to_string(&mut text).with_context(|| path.display().to_string())?;
    Ok(text)
}

fn open(path: &Path) -> anyhow::Result<Box<dyn Read>> {
    if path == Path::new("-") {
        return Ok(Box::new(std::io::stdin()));
    }
    Ok(Box::new(std::fs::File::open(path).with_context(|| path.display().to_string())?))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn policies_are_read_from_folders_in_folders_and_from_none_that_is_hidden() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("teams/b")).unwrap();
        // As a kubelet mounts a configuration.
        fs::create_dir(at("..one")).unwrap();
        symlink("..one", at("..data")).unwrap();
        symlink("..data/a.cedar", at("a.cedar")).unwrap();
        for name in ["..one/a.cedar", "teams/c.cedar", "teams/b/b.cedar", "teams/notes.md"] {
            fs::write(at(name), "").unwrap();
        }
        let names = |found: Vec<PathBuf>| -> Vec<String> {
            let name = |file: &PathBuf| file.strip_prefix(folder.path()).unwrap().display().to_string();
            found.iter().map(name).collect()
        };
        let found = names(cedar_files(folder.path()).unwrap());
        assert_eq!(found, ["a.cedar", "teams/b/b.cedar", "teams/c.cedar"]);
        symlink("..", at("teams/back")).unwrap();
        let refused = cedar_files(folder.path()).unwrap_err().to_string();
        assert!(refused.contains("teams/back/teams/back") && refused.contains("leads back"), "{refused}");
    }
}
