//! `bartizan tools`: what servers offer, and what somebody approved of it.

mod approvals;
mod choice;
mod lock;
mod quarantine;
mod scan;
mod show;
mod unrun;

use std::{
    io::{BufRead, IsTerminal},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context;
use bartizan_audit::{Kind as Recorded, event::Decision};
use bartizan_model::{Clock, ServerName, SystemClock, Timestamp};
use bartizan_store::{
    Digest, Pins,
    pins::{Kind, Pin, PinError, Record, Ruling, State as Standing},
    quarantine::QuarantineError,
};
use clap::{Args, Subcommand};

use crate::{
    ConfigFile, Format,
    journal::{Deed, Journal, OwnLog, uid},
    print, say_error,
    state::{NoState, State},
    words_of,
};

use approvals::ApprovalsCommand;
pub use approvals::as_json as approval_json;
use choice::{Choice, Unclear};
pub use quarantine::item_json as result_json;
use scan::Scan;

/// `bartizan tools …`
#[derive(Subcommand)]
pub enum ToolsCommand {
    /// List what servers offer and where each stands. Exit code 1 if anything waits for you.
    List {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        filter: Filter,
        /// Only what stands so.
        #[arg(long, value_parser = standing)]
        state: Option<Standing>,
        #[command(flatten)]
        output: Output,
    },
    /// Show what changed, by path and word, or the whole of what is new. Exit code 1 if anything waits for you.
    ///
    /// `[-gone-]` was there before, `{+new+}` was not. Characters that cannot be seen are shown as ⟨U+200B⟩.
    Diff {
        /// Which ones; without any, all that wait.
        names: Vec<String>,
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        filter: Filter,
        #[command(flatten)]
        output: Output,
    },
    /// Approve what is offered now, after showing it.
    ///
    /// Only the very form that is shown is approved: if the server changes it meanwhile, nothing is.
    #[command(after_help = "Examples:
  bartizan tools approve --server files read_file list_directory
  bartizan tools approve --server files --all")]
    Approve(Deciding),
    /// Reject what is offered now. It stays held, whatever the server offers, until it is approved, rolled back or
    /// released.
    Reject(Deciding),
    /// Make an earlier form the approved one again: the one approved before, or the one named by --to.
    Rollback {
        #[command(flatten)]
        deciding: Deciding,
        /// The beginning of the form's SHA-256, eight digits or more.
        #[arg(long, value_name = "SHA256")]
        to: Option<String>,
    },
    /// End a hold without a new approval, where the server offers the approved form again; or release results from
    /// quarantine, by their ids.
    Release(Deciding),
    /// Results that were withheld until somebody has looked.
    #[command(subcommand)]
    Quarantine(quarantine::QuarantineCommand),
    /// Decide about single calls that a policy lets pass with a person's approval only.
    #[command(subcommand)]
    Approvals(ApprovalsCommand),
    /// Write what is approved as bartizan.lock, to be reviewed and kept in git.
    Export {
        #[command(flatten)]
        place: Place,
        /// Only this server's.
        #[arg(long, value_name = "NAME")]
        server: Option<ServerName>,
        /// The file; without one, standard output.
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Approve what a bartizan.lock holds, after showing what is new in it and what the shield finds there. Nothing is taken
    /// back.
    ///
    /// It works before the first run, too: a gate in a fresh checkout can begin with what was reviewed.
    Import {
        /// The file, `-` for standard input.
        file: PathBuf,
        #[command(flatten)]
        place: Place,
        /// Only this server's.
        #[arg(long, value_name = "NAME")]
        server: Option<ServerName>,
        /// Only show it. Exit code 1 if anything is new, as all of it is before the first run.
        #[arg(long)]
        check: bool,
        #[command(flatten)]
        consent: Consent,
        #[command(flatten)]
        output: Output,
    },
}

impl ToolsCommand {
    /// Whether it shows something and decides nothing.
    fn only_looks(&self) -> bool {
        match self {
            Self::List { .. } | Self::Diff { .. } | Self::Export { .. } => true,
            Self::Import { check, .. } => *check,
            Self::Approvals(command) => matches!(command, ApprovalsCommand::List { .. }),
            Self::Quarantine(command) => command.only_looks(),
            Self::Approve(_) | Self::Reject(_) | Self::Rollback { .. } | Self::Release(_) => false,
        }
    }
}

/// Whose pins.
#[derive(Args)]
pub struct Place {
    #[command(flatten)]
    config: ConfigFile,
    /// The servers that `bartizan wrap` guards, instead of those behind `bartizan run`.
    #[arg(long, conflicts_with = "config")]
    wrapped: bool,
}

/// Which definitions.
#[derive(Args, Clone, Default)]
pub struct Filter {
    /// Only this server's.
    #[arg(long, value_name = "NAME")]
    server: Option<ServerName>,
    /// Only of this kind: tool, prompt, resource, template, instructions or server-identity.
    #[arg(long, value_parser = kind)]
    kind: Option<Kind>,
}

/// A decision about some of them.
#[derive(Args)]
pub struct Deciding {
    /// Which ones, by name, or by `sha256:` and the beginning of the hash that `diff` shows.
    #[arg(required_unless_present = "all")]
    names: Vec<String>,
    /// Everything of the server that waits.
    #[arg(long, conflicts_with = "names", requires = "server")]
    all: bool,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    output: Output,
}

/// Who agrees.
#[derive(Args)]
pub struct Consent {
    /// Who decides, for the record; by default $USER. It is your own word: the audit log has the uid beside it.
    #[arg(long, value_name = "NAME")]
    pub by: Option<String>,
    /// Do not ask.
    #[arg(long, short)]
    pub yes: bool,
}

/// How to say it.
#[derive(Args)]
pub struct Output {
    /// For people or for programs.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

fn kind(text: &str) -> Result<Kind, String> {
    Kind::named(text).ok_or_else(|| format!("one of {}", Kind::ALL.map(Kind::as_str).join(", ")))
}

fn standing(text: &str) -> Result<Standing, String> {
    Standing::named(text).ok_or_else(|| "one of approved, pending, rejected, withdrawn".to_owned())
}

/// How a command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Clean,
    /// Something waits, or a decision could not be carried out.
    Findings,
    Usage,
}

impl From<End> for ExitCode {
    fn from(end: End) -> Self {
        Self::from(match end {
            End::Clean => 0,
            End::Findings => 1,
            End::Usage => 2,
        })
    }
}

/// Runs one of them.
pub async fn tools(command: ToolsCommand) -> anyhow::Result<ExitCode> {
    crate::start_log("warn");
    Ok(match run(command).await {
        Ok(end) => end,
        Err(error) => match refusal(&error) {
            Some(end) => {
                say_error(&format!("error: {}\n", words_of(&error)));
                end
            }
            None => return Err(error),
        },
    }
    .into())
}

async fn run(command: ToolsCommand) -> anyhow::Result<End> {
    let place = match &command {
        ToolsCommand::List { place, .. }
        | ToolsCommand::Diff { place, .. }
        | ToolsCommand::Export { place, .. }
        | ToolsCommand::Import { place, .. } => place,
        ToolsCommand::Approvals(command) => command.place(),
        ToolsCommand::Approve(deciding)
        | ToolsCommand::Reject(deciding)
        | ToolsCommand::Release(deciding)
        | ToolsCommand::Rollback { deciding, .. } => &deciding.place,
        ToolsCommand::Quarantine(command) => command.place(),
    };
    let locked = match &command {
        ToolsCommand::Import { file, .. } => Some(lock::read(file)?),
        _ => None,
    };
    let found = place.state(command.only_looks());
    let state = match (found, &command, &locked) {
        (Err(nobody), ToolsCommand::Import { check: false, consent, .. }, Some(text))
            if nobody.is::<NoState>() =>
        {
            let Some(begun) = place.begin(text, consent)? else { return Ok(End::Findings) };
            begun
        }
        (found, ..) => found?,
    };
    let database = match (state.database().await, &command) {
        // Whoever reviews a lock file need not have run what it is for; but they may be in the wrong folder.
        (Err(nobody), ToolsCommand::Import { check: true, .. }) if nobody.is::<NoState>() => {
            say_error(&format!("note: nothing was approved before: {nobody}\n"));
            None
        }
        (database, _) => Some(database?),
    };
    let pins: Box<dyn Pins> = match &database {
        Some(database) => Box::new(state.pins(database.clone()).await?),
        None => Box::new(unrun::Unrun),
    };
    let journal = OwnLog { state: &state, name: "tools" };
    let desk = Desk {
        pins: &*pins,
        journal: &journal,
        now: SystemClock.now(),
        say: &|text| Ok(print(text)?),
        ask: &ask,
        locked: locked.as_deref(),
        scan: match &command {
            ToolsCommand::Import { place, .. } if place.wrapped => Some(Scan::shipped()),
            ToolsCommand::Import { place, .. } => {
                Some(Scan::of_gate(place.config.config.as_deref(), &state).await?)
            }
            _ => None,
        },
    };
    let Some(database) = database else { return desk.run(command).await };
    let kept = state.quarantine(database.clone()).await?;
    let end = match command {
        ToolsCommand::Approvals(command) => {
            let approvals = state.approvals(database.clone()).await?;
            approvals::run(command, &approvals, &journal, desk.now).await
        }
        ToolsCommand::Quarantine(command) => quarantine::run(&kept, &journal, desk.now, command).await,
        ToolsCommand::Release(deciding) if quarantine::are_ids(&kept, desk.now, &deciding.names).await? => {
            quarantine::release(&kept, &journal, desk.now, &deciding.names, &deciding.consent).await
        }
        command => desk.run(command).await,
    };
    database.close().await;
    end
}

impl Place {
    /// The state of what has run here.
    fn state(&self, only_looks: bool) -> anyhow::Result<State> {
        let path = self.config.config.as_deref();
        match (self.wrapped, only_looks) {
            (true, true) => State::look_for_user(),
            (true, false) => State::of_user(),
            (false, true) => State::look(path),
            (false, false) => State::of_gate(path),
        }
    }

    /// A state for what has yet to run here, which begins with the lock file `text`; none if the person does not want that: it may
    /// be the wrong folder.
    fn begin(&self, text: &str, consent: &Consent) -> anyhow::Result<Option<State>> {
        let count = lock::parse(text)?.into_pins().len();
        let path = self.config.config.as_deref();
        let (who, folder) = if self.wrapped {
            ("`bartizan wrap`", State::folder_of_user()?)
        } else {
            ("gate", State::folder_for(path))
        };
        let folder = std::path::absolute(&folder).unwrap_or(folder);
        say_error(&format!(
            "no {who} has run here: its state would begin in {} with {count} definition(s) of the lock file\n",
            folder.display()
        ));
        if !consent.yes && !ask("begin it?")? {
            say_error("nothing was changed\n");
            return Ok(None);
        }
        Ok(Some(if self.wrapped { State::for_user()? } else { State::for_config(path)? }))
    }
}

/// A server that is not there, as far as anybody has seen.
#[derive(Debug, thiserror::Error)]
#[error("there is no server `{0}`, or nothing of it was seen yet; `bartizan tools list` shows what there is")]
struct UnknownServer(ServerName);

/// Errors that are answers: what was asked for cannot be.
fn refusal(error: &anyhow::Error) -> Option<End> {
    if error.is::<Unclear>() || error.is::<UnknownServer>() {
        return Some(End::Usage);
    }
    if let Some(QuarantineError::Unknown(_)) = error.downcast_ref() {
        return Some(End::Usage);
    }
    match error.downcast_ref::<PinError>()? {
        PinError::Moved(_) | PinError::NothingEarlier(_) | PinError::StillChanged(_) => Some(End::Findings),
        PinError::Unknown(_) => Some(End::Usage),
        PinError::Database(_) | PinError::Forged(_) | PinError::RolledBack { .. } | PinError::Seen(_) => None,
    }
}

/// Where decisions are made: the pins, the time, and the person.
struct Desk<'a> {
    pins: &'a dyn Pins,
    /// What is decided stands there first.
    journal: &'a dyn Journal,
    now: Timestamp,
    /// Data out.
    say: &'a dyn Fn(&str) -> anyhow::Result<()>,
    /// Asks the person; the answer is consent, or that there is nobody to ask.
    ask: &'a dyn Fn(&str) -> Result<bool, Unclear>,
    /// The text of the lock file that an import is about.
    locked: Option<&'a str>,
    /// What judges it.
    scan: Option<Scan>,
}

impl Desk<'_> {
    async fn run(&self, command: ToolsCommand) -> anyhow::Result<End> {
        match command {
            ToolsCommand::List { filter, state, output, .. } => {
                self.list(&filter, state, output.format).await
            }
            ToolsCommand::Diff { names, filter, output, .. } => {
                let choice = if names.is_empty() { Choice::Waiting } else { Choice::Named(names) };
                self.diff(&choice, &filter, output.format).await
            }
            ToolsCommand::Approve(deciding) => {
                self.decide(deciding, "approve", |pin| {
                    let hash = offered(pin)?;
                    Some(Ruling::Approve { key: pin.key.clone(), hash })
                })
                .await
            }
            ToolsCommand::Reject(deciding) => {
                self.decide(deciding, "reject", |pin| {
                    let hash = offered(pin)?;
                    Some(Ruling::Reject { key: pin.key.clone(), hash })
                })
                .await
            }
            ToolsCommand::Release(deciding) => {
                self.decide(deciding, "release", |pin| Some(Ruling::Release { key: pin.key.clone() })).await
            }
            // They have desks of their own.
            ToolsCommand::Approvals(_) | ToolsCommand::Quarantine(_) => Ok(End::Usage),
            ToolsCommand::Rollback { deciding, to } => self.roll_back(deciding, to).await,
            ToolsCommand::Export { server, output, .. } => self.export(server.as_ref(), output).await,
            ToolsCommand::Import { server, check, consent, output, .. } => {
                let text = self.locked.context("no lock file was read")?;
                self.import(text, server.as_ref(), check, &consent, output.format).await
            }
        }
    }

    async fn list(&self, filter: &Filter, state: Option<Standing>, format: Format) -> anyhow::Result<End> {
        let mut pins = choice::filtered(self.pins, filter).await?;
        pins.retain(|pin| state.is_none_or(|state| pin.state == state));
        (self.say)(&match format {
            Format::Text => show::table(&pins),
            Format::Json => show::json(&pins.iter().map(show::Listed::of).collect::<Vec<_>>())?,
        })?;
        Ok(if pins.iter().any(waits) { End::Findings } else { End::Clean })
    }

    async fn diff(&self, choice: &Choice, filter: &Filter, format: Format) -> anyhow::Result<End> {
        let records = self.records(choice, filter).await?;
        self.show(&records, format).await?;
        Ok(if records.iter().any(|record| waits(&record.pin)) { End::Findings } else { End::Clean })
    }

    /// Everything about what was chosen.
    async fn records(&self, choice: &Choice, filter: &Filter) -> anyhow::Result<Vec<Record>> {
        let found = choice::records(self.pins, choice, filter).await;
        let is_unknown = |error: &anyhow::Error| matches!(error.downcast_ref(), Some(Unclear::Unknown(_)));
        if found.as_ref().is_err_and(is_unknown)
            && let Some(unknown) = self.unknown_server(filter).await?
        {
            return Err(unknown.into());
        }
        found
    }

    /// The server of `filter`, if nothing of it was ever seen.
    async fn unknown_server(&self, filter: &Filter) -> Result<Option<UnknownServer>, PinError> {
        let Some(server) = &filter.server else { return Ok(None) };
        let is_known = !self.pins.list(Some(server)).await?.is_empty();
        Ok((!is_known).then(|| UnknownServer(server.clone())))
    }

    async fn show(&self, records: &[Record], format: Format) -> anyhow::Result<()> {
        let mut differences = Vec::with_capacity(records.len());
        for record in records {
            differences.push(show::Difference::of(self.pins, record).await?);
        }
        (self.say)(&match format {
            Format::Text => show::differences(&differences),
            Format::Json => show::json(&differences)?,
        })
    }

    async fn decide(
        &self,
        deciding: Deciding,
        verb: &str,
        ruling: impl Fn(&Pin) -> Option<Ruling>,
    ) -> anyhow::Result<End> {
        let choice = if deciding.all { Choice::Waiting } else { Choice::Named(deciding.names) };
        let records = self.records(&choice, &deciding.filter).await?;
        let rulings: Vec<_> = records.iter().filter_map(|record| ruling(&record.pin)).collect();
        if rulings.is_empty() {
            say_error(&match self.unknown_server(&deciding.filter).await? {
                Some(unknown) => format!("nothing waits: {unknown}\n"),
                None => "nothing waits\n".to_owned(),
            });
            return Ok(End::Clean);
        }
        self.show(&records, deciding.output.format).await?;
        self.carry_out(&rulings, verb, &deciding.consent).await
    }

    async fn roll_back(&self, deciding: Deciding, to: Option<String>) -> anyhow::Result<End> {
        let choice = if deciding.all { Choice::Waiting } else { Choice::Named(deciding.names) };
        let records = self.records(&choice, &deciding.filter).await?;
        if to.is_some() && records.len() != 1 {
            return Err(Unclear::OneForm.into());
        }
        let mut rulings = Vec::with_capacity(records.len());
        for record in &records {
            let to = to.as_ref().map(|start| choice::form(record, start)).transpose()?;
            rulings.push(Ruling::RollBack { key: record.pin.key.clone(), to });
        }
        self.show(&records, deciding.output.format).await?;
        self.carry_out(&rulings, "roll back", &deciding.consent).await
    }

    async fn carry_out(&self, rulings: &[Ruling], verb: &str, consent: &Consent) -> anyhow::Result<End> {
        if !consent.yes && !(self.ask)(&format!("{verb} {} definition(s)?", rulings.len()))? {
            say_error("nothing was changed\n");
            return Ok(End::Findings);
        }
        let by = consent.by.clone().unwrap_or_else(who);
        let mut before = Vec::with_capacity(rulings.len());
        for ruling in rulings {
            before.push(self.pins.read(ruling.key()).await?.and_then(|record| record.pin.approved));
        }
        let deeds = || rulings.iter().zip(&before).map(|(ruling, before)| deed(ruling, *before, &by));
        self.journal.note(deeds().collect()).await?;
        if let Err(error) = self.pins.decide(rulings, &by, self.now).await {
            // The record must not go on saying that it was done.
            let why = format!("not done: {error}");
            let undone = deeds().map(|deed| deed.deciding(Decision::Deny).because(&why));
            self.journal.note(undone.collect()).await?;
            return Err(error.into());
        }
        say_error(&format!("{verb}: {} definition(s), by {by}\n", rulings.len()));
        Ok(End::Clean)
    }
}

/// A ruling about a pin whose approved form is `before`, for the record.
fn deed(ruling: &Ruling, before: Option<Digest>, by: &str) -> Deed {
    let (kind, decision, to) = match ruling {
        Ruling::Approve { hash, .. } => (Recorded::ApprovalGranted, Decision::Permit, hash.to_string()),
        Ruling::Extend { form, .. } | Ruling::Import { form, .. } => {
            (Recorded::ApprovalGranted, Decision::Permit, form.hash.to_string())
        }
        Ruling::Reject { hash, .. } => (Recorded::ApprovalRejected, Decision::Deny, format!("not {hash}")),
        Ruling::Release { .. } => (Recorded::ApprovalGranted, Decision::Permit, "released".to_owned()),
        Ruling::RollBack { to, .. } => {
            let to = to.map_or_else(|| "the form approved before".to_owned(), |hash| hash.to_string());
            (Recorded::PinRolledBack, Decision::Permit, to)
        }
    };
    let (key, from) = (ruling.key(), before.map(|hash| hash.to_string()));
    Deed::new(kind, by, key.kind.as_str(), &key.name, from.as_deref(), Some(&to))
        .at(&key.server)
        .deciding(decision)
}

/// Whether something about a pin waits for a person.
fn waits(pin: &Pin) -> bool {
    pin.waiting.is_some()
}

/// The form a decision is about: the one that waits, else the one that is offered.
fn offered(pin: &Pin) -> Option<Digest> {
    pin.waiting.or(pin.offered)
}

/// The person at the keyboard.
#[expect(clippy::disallowed_methods, reason = "the command line reads the environment")]
pub fn who() -> String {
    ["USER", "LOGNAME"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|who| !who.is_empty()))
        .unwrap_or_else(uid)
}

/// Asks on the terminal, where there is one.
pub fn ask(question: &str) -> Result<bool, Unclear> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(Unclear::NobodyToAsk);
    }
    say_error(&format!("{question} [y/N] "));
    let mut answer = String::new();
    // An answer that cannot be read is none.
    let _ = stdin.lock().read_line(&mut answer);
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

#[cfg(test)]
mod tests;
