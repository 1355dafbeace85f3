//! `bartizan`: a security gateway for the Model Context Protocol.

mod admin;
mod alerts;
mod approvals;
mod audit;
mod bundles;
mod clients;
mod config;
mod doctor;
mod doorman;
mod endpoints;
mod exports;
mod governing;
mod identity;
mod journal;
mod keys;
mod login;
mod managed_identity;
mod metrics;
mod opinions;
mod policy;
mod reader;
mod respond;
mod reviews;
mod run;
mod sample;
mod secrets;
mod shield;
mod startable;
mod state;
mod token_endpoint;
mod tools;
mod witness;
mod wrap;

use std::{ffi::OsString, io::Write, path::PathBuf, process::ExitCode};

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use serde::Serialize;

/// Words in front of every command's own.
const ABOUT: &str = "A security gateway for the Model Context Protocol.

Start here: `bartizan run` in an empty folder serves a sample server behind the gate and prints how to reach it.
Then write bartizan.toml (see `bartizan config schema`) and run `bartizan run --config bartizan.toml`.";

/// Columns of the help.
const WIDTH: usize = 100;

/// Words behind every command's own.
const AFTER: &str = "Exit codes: 0 as hoped; 1 something is found, waits or is not there, as each command's help says; 2 the command line or the \
configuration is wrong, or no gate has run here; 3 it could not be done. What is wrong stands on standard error.
BARTIZAN_CONFIG is --config for all commands, BARTIZAN_LOG which lines are logged (info, debug, …).";

#[derive(Parser)]
#[command(name = "bartizan", version, about = ABOUT, after_help = AFTER, propagate_version = true, max_term_width = WIDTH)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve: HTTP in front of any number of MCP servers.
    ///
    /// Without --config it listens on 127.0.0.1:8787 and serves the built-in sample server. State is kept in
    /// `.bartizan/`, beside the configuration file or in this folder. The configuration is read again when it changes
    /// and on SIGHUP; requests under way are not disturbed. SIGTERM lets them finish.
    Run(ConfigFile),
    /// Guard one stdio server: standard input and output in, standard input and output out.
    ///
    /// Put it in front of the command in your client's configuration. State is kept in $XDG_STATE_HOME/bartizan
    /// (~/.local/state/bartizan).
    #[command(after_help = "Examples:
  bartizan wrap -- npx -y @modelcontextprotocol/server-filesystem /srv/docs
  bartizan tools list --wrapped             # what such servers offer, and what of it waits for you

In the file of a client (Claude Desktop, Cursor, VS Code), what was `command` and `args` goes behind `--`,
and what stands in `env` is named, or the server does not see it:
  \"github\": {
    \"command\": \"bartizan\",
    \"args\": [\"wrap\", \"--env\", \"GITHUB_TOKEN\", \"--\", \"npx\", \"-y\", \"a-server\", \"--an-option\"],
    \"env\": { \"GITHUB_TOKEN\": \"…\" }
  }")]
    Wrap(wrap::WrapArgs),
    /// Put the guard or the gate into the configurations of installed MCP clients, and take it out.
    #[command(subcommand)]
    Clients(clients::ClientsCommand),
    /// Print the local token, which clients send as `Authorization: Bearer …`.
    Token(ConfigFile),
    /// Print a link that signs you in, once, when a client asks for access.
    Login(ConfigFile),
    /// What servers offer, and what you approved of it.
    ///
    /// Every tool, prompt, resource, template and instruction, and the server's own identity, is shown to clients only in
    /// the form somebody approved. When a server changes one, it is held until you look: `bartizan tools diff`.
    #[command(subcommand)]
    Tools(tools::ToolsCommand),
    /// Look at policies: check, explain, review, and what they can speak of.
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Look at the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// What the shield finds: in a text, or in a data set.
    #[command(subcommand)]
    Shield(shield::ShieldCommand),
    /// Read, search, verify and export the audit log.
    #[command(subcommand)]
    Audit(Box<audit::AuditCommand>),
    /// Check the hardening list, with evidence. Exit code 1 if anything fails.
    Doctor(doctor::DoctorArgs),
    /// The keys that seal the store: who keeps the root key, and making all of them anew.
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// The vault: secrets by name, and forgetting a person for good.
    #[command(subcommand)]
    Secrets(secrets::SecretsCommand),
    /// Cut off a server, a tool, a person or a client at once, and take it back.
    #[command(subcommand)]
    Respond(respond::RespondCommand),
    /// Grant, take back and list roles at the admin listener. Each ends.
    #[command(subcommand)]
    Admin(admin::command::AdminCommand),
    /// Print a script that completes commands and options in your shell.
    #[command(after_help = "Examples:
  bartizan completions bash > ~/.local/share/bash-completion/completions/bartizan
  bartizan completions zsh > ~/.zfunc/_bartizan             # with ~/.zfunc in fpath
  bartizan completions fish > ~/.config/fish/completions/bartizan.fish")]
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// The built-in sample server, on standard input and output.
    #[command(name = sample::ARGUMENT, hide = true)]
    Sample,
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Check a configuration file; every problem is reported at once. Exit code 0 if it is good, 2 if not.
    Check(ConfigFile),
    /// Print the configuration with every default filled in, as TOML. Secrets stay references.
    Show(ConfigFile),
    /// Print the JSON Schema of the configuration file.
    Schema,
}

/// Which configuration.
#[derive(Args)]
pub struct ConfigFile {
    /// The configuration file (TOML); without one, the embedded default.
    #[arg(long, value_name = "FILE", env = "BARTIZAN_CONFIG")]
    pub config: Option<PathBuf>,
}

/// For people or for programs.
#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Words.
    #[default]
    Text,
    /// JSON.
    Json,
}

/// Whose list, and for whom.
#[derive(Args)]
pub struct Listing {
    #[command(flatten)]
    place: ConfigFile,
    /// For people or for programs.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Listing {
    /// Prints `rows`, for people in the words of `line`.
    ///
    /// # Errors
    /// Standard output's.
    pub fn print<T: Serialize>(&self, rows: &[T], line: impl Fn(&T) -> String) -> anyhow::Result<()> {
        let text = match self.format {
            Format::Text => rows.iter().map(line).collect(),
            Format::Json => format!("{}\n", serde_json::to_string_pretty(rows)?),
        };
        Ok(print(&text)?)
    }
}

fn main() -> ExitCode {
    // Before anything else: the launcher of stdio servers and the reader of documents are this binary too, and must stay
    // small.
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next() {
        Some(a) if a == bartizan_sandbox::HELPER_ARGUMENT => return bartizan_sandbox::helper_main(arguments),
        Some(a) if a == reader::ARGUMENT => return reader::serve(),
        _ => {}
    }
    match dispatch(Cli::parse()) {
        Ok(code) => code,
        // Whoever reads us has read enough. It is not "all is well", which some commands say by 0.
        Err(error) if is_broken_pipe(&error) => ExitCode::from(CUT_SHORT),
        Err(error) => {
            let is_configuration = error.downcast_ref::<config::Problems>().is_some()
                || error.downcast_ref::<opinions::Unusable>().is_some()
                || error.is::<state::NoState>()
                || error.is::<Usage>()
                || error.downcast_ref::<bartizan_policy::Problems>().is_some()
                || matches!(error.downcast_ref(), Some(bartizan_policy::prove::ProveError::Claim { .. }));
            say_error(&format!("error: {}\n", words_of(&error)));
            ExitCode::from(if is_configuration { 2 } else { 3 })
        }
    }
}

/// What the command line lacks, or asks of a configuration that is not for it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// How long threads are waited for when a wrap ends.
const AT_THE_END: std::time::Duration = std::time::Duration::from_millis(500);

/// What a shell says of a program that wrote to a pipe which nobody reads any more.
const CUT_SHORT: u8 = 128 + 13;

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Run(file) => runtime()?.block_on(run::run(file.config.as_deref())),
        Command::Wrap(arguments) => {
            let runtime = runtime()?;
            let code = runtime.block_on(wrap::wrap(arguments));
            // What still runs when a process ends may crash it, and its client would see that. After a signal its standard input is
            // still read, on a thread that nothing wakes.
            runtime.shutdown_timeout(AT_THE_END);
            code
        }
        Command::Clients(command) => clients::clients(&command),
        Command::Login(file) => runtime()?.block_on(login::login(file)),
        Command::Token(file) => {
            let path = file.config.as_deref();
            if let Err(nobody) = state::State::of_gate(path) {
                say_error(&format!("warning: {nobody:#}\n"));
            }
            let state = state::State::for_config(path)?;
            print(&format!("{}\n", state.token()?.reveal()))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Tools(command) => runtime()?.block_on(tools::tools(command)),
        Command::Policy(command) => policy::run(command),
        Command::Config(ConfigCommand::Check(file)) => {
            let loaded = config::load(file.config.as_deref())?;
            let runtime = runtime()?;
            let startable::Found { mut problems, warnings } = runtime.block_on(startable::look(&loaded));
            problems.extend(runtime.block_on(startable::unusable_models(&loaded)));
            if !problems.is_empty() {
                return Err(config::Problems::new(loaded.shown(), problems).into());
            }
            for warning in loaded.config.warnings().into_iter().chain(warnings) {
                say_error(&format!("warning: {warning}\n"));
            }
            say_error(&format!("{}: good, {} server(s)\n", loaded.shown(), loaded.config.servers.len()));
            Ok(ExitCode::SUCCESS)
        }
        Command::Config(ConfigCommand::Show(file)) => {
            print(&toml::to_string_pretty(&config::load(file.config.as_deref())?.config)?)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Config(ConfigCommand::Schema) => {
            print(&format!("{}\n", serde_json::to_string_pretty(&schemars::schema_for!(config::Config))?))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Shield(command) => shield::shield(command),
        Command::Audit(command) => audit::audit(*command),
        Command::Doctor(arguments) => runtime()?.block_on(doctor::doctor(arguments)),
        Command::Keys(command) => runtime()?.block_on(keys::keys(command)),
        Command::Secrets(command) => runtime()?.block_on(secrets::secrets(command)),
        Command::Respond(command) => runtime()?.block_on(respond::respond(command)),
        Command::Admin(command) => runtime()?.block_on(admin::command::admin(command)),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "bartizan", &mut script);
            std::io::stdout().write_all(&script)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Sample => {
            sample::serve(std::io::stdin().lock(), std::io::stdout().lock())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

/// Data, on standard output.
pub fn print(text: &str) -> std::io::Result<()> {
    std::io::stdout().write_all(text.as_bytes())
}

/// Words, on standard error.
pub fn say_error(text: &str) {
    // There is nobody else to tell.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// What is wrong, and because of what: each once, for many an error says its cause itself.
pub fn words_of(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |said, cause| {
        let sign = if said.is_empty() { "" } else { ": " };
        if said.contains(&cause) { said } else { said + sign + &cause }
    })
}

/// Logs go to standard error; `BARTIZAN_LOG` chooses which (`info` by default), as `tracing`'s filter directives.
pub fn start_log(default: &str) {
    #[expect(clippy::disallowed_methods, reason = "the command line reads the environment")]
    let wanted = std::env::var("BARTIZAN_LOG").unwrap_or_else(|_| default.to_owned());
    let filter = tracing_subscriber::EnvFilter::try_new(&wanted)
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false);
    // Already set only if called twice.
    let _ = log.try_init();
}

/// Our own binary, which is also the launcher and the sample server.
pub fn own_binary() -> anyhow::Result<OsString> {
    Ok(std::env::current_exe()?.into_os_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever pastes the first line of two has another command: one without its `--dry-run`, say.
    #[test]
    fn no_line_of_an_example_is_broken() {
        let mut all = vec![Cli::command()];
        while let Some(command) = all.pop() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let examples = help.split_once("Examples:").map(|(_, examples)| examples).unwrap_or_default();
            // What is said about them is no command.
            for line in examples.lines().filter(|line| line.starts_with("  ")) {
                assert!(line.chars().count() <= WIDTH, "{}: {line}", command.get_name());
            }
            all.extend(command.get_subcommands().cloned());
        }
    }

    #[test]
    fn a_cause_is_said_once() {
        let error =
            anyhow::anyhow!("no space left").context("cannot write: no space left").context("not done");
        assert_eq!(words_of(&error), "not done: cannot write: no space left");
    }
}
