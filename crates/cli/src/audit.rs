//! `bartizan audit`

mod filter;
mod show;
mod witness;

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail};
use bartizan_audit::{
    Checkpoint, Persons, Problem, PublicKey,
    export::{Record, Source, cef, ocsf, otlp, sentinel, syslog},
    prove::{check_proof, prove},
    search::{Filter, Term, search, walk},
    verify::{Report, Verification, logs},
    witness::{Cosigned, WitnessKey},
};
use clap::{Args, Subcommand, ValueEnum};

use crate::{
    ConfigFile, print, say_error,
    state::{self, State},
};
use filter::FilterArgs;
pub use filter::time as when;
use show::{Reader, Shape};

#[derive(Subcommand)]
pub enum AuditCommand {
    /// Show the newest entries.
    ///
    /// Each log's newest entries that fit the filters, oldest first. With --follow, new ones as they come.
    Tail(TailArgs),
    /// Find entries, newest first.
    ///
    /// Filters must all fit. Indexed fields are found at once in logs of any length; the others (message, sizes,
    /// durations, content in clear) are found by reading everything.
    #[command(after_help = "Examples:
  bartizan audit search --subject alice --decision deny --since 7d
  bartizan audit search --where findings.severity=critical --format json")]
    Search(SearchArgs),
    /// Check that no entry was altered, removed or reordered.
    ///
    /// Needs the files and the public key, nothing else. Names the first entry that is wrong, or the smallest range
    /// that has a signature of its own. A log that was cut back cleanly to an older checkpoint looks like a young one:
    /// only a checkpoint kept elsewhere tells, so save them with --save and pass them with --expect.
    #[command(
        after_help = "Exit code 0 if all is well, 1 if something is wrong, 3 if it could not be checked.

Examples:
  bartizan audit verify --key /media/safe/audit.pub --save /media/safe/checkpoints
  bartizan audit verify --key /media/safe/audit.pub --expect /media/safe/checkpoints"
    )]
    Verify(VerifyArgs),
    /// Print entries in another format, oldest first.
    ///
    /// The same encoders feed the exporters in the configuration; this is for a look, or for a one-off import.
    Export(ExportArgs),
    /// Prove that one entry is in the log, to somebody who has only the public key.
    ///
    /// Prints a C2SP tlog-proof that contains the entry, its inclusion proof and the signed checkpoint.
    #[command(
        after_help = "Exit code 0 if there is a proof or it holds, 1 if it does not hold, 3 if there is no such entry.

Examples:
  bartizan audit prove --id 4f0c8a… > entry.tlog-proof
  bartizan audit prove --check entry.tlog-proof --key audit.pub"
    )]
    Prove(ProveArgs),
    /// Be a witness: remember how far logs were, and sign only what they grow into (C2SP tlog-witness).
    ///
    /// Run it on another machine than the gate, under somebody else's hands if you can. A gate that is rolled back or rewritten,
    /// its log, keys and all, is refused, and says so by an alarm, a metric, and an entry. What it remembers are checkpoints
    /// that `bartizan audit verify --expect` takes.
    #[command(after_help = "Examples:
  bartizan audit witness --state /var/lib/bartizan-witness --name witness.example.com/1 \\
      --log gate1.pub --print-key
  bartizan audit witness --state /var/lib/bartizan-witness --name witness.example.com/1 \\
      --log gate1.pub --listen 0.0.0.0:8790 --tls-cert cert.pem --tls-key key.pem
  bartizan audit verify --key gate1.pub --expect /var/lib/bartizan-witness")]
    Witness(Box<witness::WitnessArgs>),
}

/// Where the logs are.
#[derive(Args)]
pub struct Place {
    /// The audit folder, or one log in it; by default that of the gate that runs from --config, or without one from this
    /// folder.
    #[arg(long, value_name = "DIR", env = "BARTIZAN_AUDIT_DIR")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    of: ConfigFile,
    /// The log of `bartizan wrap`, instead of that of `bartizan run`.
    #[arg(long)]
    wrapped: bool,
}

/// For people or for programs.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Columns.
    Table,
    /// JSON, a line per entry.
    Json,
}

#[derive(Args)]
pub struct TailArgs {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    filter: FilterArgs,
    /// How many entries.
    #[arg(short = 'n', long, default_value_t = 20)]
    lines: usize,
    /// Go on with what is written from now on, until interrupted.
    #[arg(short, long)]
    follow: bool,
    /// For people or for programs.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    format: Output,
}

#[derive(Args)]
pub struct SearchArgs {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    filter: FilterArgs,
    /// At most this many of each log.
    #[arg(long, default_value_t = 100)]
    limit: usize,
    /// For people or for programs.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    format: Output,
}

#[derive(Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    place: Place,
    /// The public key: a file with a line as in audit.pub. Take it from a safe place; by default it is the one beside
    /// the logs, which whoever could rewrite the logs could have replaced too.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// A checkpoint that a log must still agree with: a file, or a folder of files that --save wrote; a
    /// `log.checkpoint` entry from an exporter will do. May be repeated.
    #[arg(long, value_name = "CHECKPOINT")]
    expect: Vec<PathBuf>,
    /// A witness's verifier key, or a file with it: what it signed last of each log, as it is kept beside the log, must be of
    /// this very log. Whoever can roll back a log can roll that back too: with the witness's own folder, --expect tells.
    #[arg(long, value_name = "KEY")]
    witness_key: Option<String>,
    /// Write the checkpoint of each log that verifies into this folder, to be kept elsewhere.
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,
    /// For people or for programs.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    format: Output,
}

#[derive(Args)]
pub struct ExportArgs {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    filter: FilterArgs,
    /// In which format.
    #[arg(long, value_enum, default_value_t = To::Jsonl)]
    to: To,
    /// What to call this machine where the format wants a name.
    #[arg(long, default_value = "localhost")]
    host: String,
    /// With arguments and results, where `[[audit.content]]` had them recorded. Lines without them are not what a proof proves.
    #[arg(long)]
    content: bool,
}

/// A format of `bartizan audit export`.
#[derive(Clone, Copy, ValueEnum)]
enum To {
    /// The entries as they are, with who the person is.
    Jsonl,
    /// OCSF 1.8 events.
    Ocsf,
    /// CEF lines.
    Cef,
    /// RFC 5424 messages with the entry as JSON.
    Syslog,
    /// OpenTelemetry log records.
    Otlp,
    /// Rows for Microsoft Sentinel.
    Sentinel,
}

#[derive(Args)]
pub struct ProveArgs {
    #[command(flatten)]
    place: Place,
    /// The entry's id.
    #[arg(long, conflicts_with_all = ["seq", "check"])]
    id: Option<String>,
    /// The entry's number in the log that --log names.
    #[arg(long, conflicts_with = "check")]
    seq: Option<u64>,
    /// The log, if there are several: the name of its folder.
    #[arg(long, value_name = "NAME")]
    log: Option<String>,
    /// Check this proof instead (`-` for standard input).
    #[arg(long, value_name = "PROOF")]
    check: Option<PathBuf>,
    /// The public key; see `bartizan audit verify --help`.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

pub fn audit(command: AuditCommand) -> anyhow::Result<ExitCode> {
    match command {
        AuditCommand::Tail(arguments) => tail(&arguments),
        AuditCommand::Search(arguments) => find(&arguments),
        AuditCommand::Verify(arguments) => verify(&arguments),
        AuditCommand::Export(arguments) => export(&arguments),
        AuditCommand::Prove(arguments) => proof(&arguments),
        AuditCommand::Witness(arguments) => witness::witness(*arguments),
    }
}

fn tail(arguments: &TailArgs) -> anyhow::Result<ExitCode> {
    let reader = Reader::of(&arguments.place.logs()?)?;
    let Some(mut filter) = arguments.filter.resolve(&reader)? else { return Ok(ExitCode::SUCCESS) };
    let mut seen = std::collections::HashMap::new();
    let (mut limit, mut heading) = (arguments.lines, true);
    loop {
        let found = search(&arguments.place.folder()?, &filter, limit)?;
        let lines = found.lines.into_iter().filter_map(|(log, line)| reader.record(&log, &line));
        let mut rows: Vec<_> =
            lines.filter(|row| seen.get(&row.log).is_none_or(|last| row.record.entry.seq > *last)).collect();
        rows.sort_by_key(|row| (row.record.entry.time, row.log.clone(), row.record.entry.seq));
        let surplus = if heading { rows.len().saturating_sub(arguments.lines) } else { 0 };
        for row in &rows {
            seen.insert(row.log.clone(), row.record.entry.seq);
        }
        if let Some(last) = rows.last() {
            filter.since = Some(last.record.entry.time.timestamp());
        }
        let shape = Shape { output: arguments.format, heading, logs: reader.logs() > 1 };
        show::rows(rows.get(surplus..).unwrap_or_default(), shape)?;
        if !arguments.follow {
            return Ok(ExitCode::SUCCESS);
        }
        (limit, heading) = (10_000, false);
        std::thread::sleep(Duration::from_millis(500));
    }
}

fn find(arguments: &SearchArgs) -> anyhow::Result<ExitCode> {
    let reader = Reader::of(&arguments.place.logs()?)?;
    let Some(filter) = arguments.filter.resolve(&reader)? else { return Ok(ExitCode::SUCCESS) };
    let found = search(&arguments.place.folder()?, &filter, arguments.limit)?;
    let rows: Vec<_> = found.lines.iter().filter_map(|(log, line)| reader.record(log, line)).collect();
    show::rows(&rows, Shape { output: arguments.format, heading: true, logs: reader.logs() > 1 })?;
    let shown = rows.len() as u64;
    say_error(&match found.total {
        0 => "nothing found\n".to_owned(),
        total if total > shown => format!("{shown} of {total} entries; --limit shows more\n"),
        total => format!("{total} entries\n"),
    });
    Ok(ExitCode::SUCCESS)
}

fn verify(arguments: &VerifyArgs) -> anyhow::Result<ExitCode> {
    let logs = arguments.place.logs()?;
    let key = arguments.place.key(arguments.key.as_deref(), &logs)?;
    let mut expected = expectations(&arguments.expect, &key)?;
    let witnesses = match &arguments.witness_key {
        Some(witness) => signed_by(witness, &logs, &key)?,
        None => Vec::new(),
    };
    expected.extend(witnesses.iter().filter_map(|(_, signed)| Some(signed.as_ref()?.checkpoint.clone())));
    let (reports, missing) =
        Verification { key: &key, expected: &expected }.all(&arguments.place.folder()?)?;
    for report in &reports {
        print(&verdict(report, arguments.format)?)?;
    }
    let mut is_witnessed = true;
    for (log, signed) in &witnesses {
        let log = show::name(log);
        is_witnessed &= signed.is_some();
        let words = match signed {
            Some(signed) => {
                let at = bartizan_audit::event::rfc3339::text(signed.at);
                format!("{log}: witnessed up to entry {} at {at}", signed.checkpoint.size.saturating_sub(1))
            }
            None => format!("{log}: BAD: the witness has signed nothing of it that is kept beside it"),
        };
        print(&match arguments.format {
            Output::Table => format!("{words}\n"),
            Output::Json => {
                let (size, at) = (signed.as_ref().map(|s| s.checkpoint.size), signed.as_ref().map(|s| s.at));
                let at = at.map(bartizan_audit::event::rfc3339::text);
                format!(
                    "{}\n",
                    serde_json::json!({ "log": log, "witnessed": size, "at": at, "words": words })
                )
            }
        })?;
    }
    for problem in &missing {
        print(&match arguments.format {
            Output::Table => format!("{problem}\n"),
            Output::Json => format!("{}\n", serde_json::json!({ "problem": problem })),
        })?;
    }
    if let Some(folder) = &arguments.save {
        save(&reports, folder)?;
    }
    if arguments.key.is_none() {
        say_error(
            "note: the key is the one beside the logs; whoever could rewrite them could have replaced it. --key takes one from a safe place\n",
        );
    }
    if arguments.expect.is_empty() {
        say_error(
            "note: a log cut back to an older checkpoint cannot be told from a young one without --expect\n",
        );
    }
    let clean = is_witnessed && missing.is_empty() && reports.iter().all(|report| report.problem.is_none());
    Ok(ExitCode::from(u8::from(!clean)))
}

/// What the witness of this key, or of the key in this file, signed last of each log.
fn signed_by(
    witness: &str,
    logs: &[PathBuf],
    key: &PublicKey,
) -> anyhow::Result<Vec<(PathBuf, Option<Cosigned>)>> {
    let text = match witness.parse::<WitnessKey>() {
        Ok(_) => witness.to_owned(),
        Err(_) => fs::read_to_string(witness).with_context(|| format!("--witness-key: {witness}"))?,
    };
    let witness: WitnessKey = text.parse().context("--witness-key")?;
    Ok(logs.iter().map(|log| (log.clone(), witness.last(log, key))).collect())
}

fn verdict(report: &Report, output: Output) -> anyhow::Result<String> {
    let checkpoint = report.checkpoint.as_ref();
    let log = show::name(&report.folder);
    if output == Output::Json {
        let line = serde_json::json!({
            "log": log,
            "origin": checkpoint.map(|(c, _)| c.origin.as_str()),
            "first": report.first,
            "size": checkpoint.map(|(c, _)| c.size),
            "root": checkpoint.map(|(c, _)| c.root),
            "checkpoint": checkpoint.map(|(_, note)| note),
            "agreed": report.agreed,
            "being_written": report.being_written,
            "time_went_back": report.time_went_back,
            "problem": report.problem,
            "words": report.problem.as_ref().map(Problem::to_string),
        });
        return Ok(format!("{line}\n"));
    }
    let size = checkpoint.map_or(0, |(c, _)| c.size);
    let mut text = match &report.problem {
        Some(problem) => format!("{log}: BAD: {problem}\n"),
        None => format!("{log}: good, entries {} to {}\n", report.first, size.saturating_sub(1)),
    };
    if report.problem.is_some() {
        text.push_str(&format!("  verified up to entry {} by its checkpoint\n", size.saturating_sub(1)));
    }
    if report.agreed > 0 {
        text.push_str(&format!("  agrees with {} expected checkpoint(s)\n", report.agreed));
    }
    if let Some(entry) = report.time_went_back {
        text.push_str(&format!("  the clock was set back before entry {entry}\n"));
    }
    if report.being_written {
        text.push_str("  is being written; what follows the last checkpoint was not looked at\n");
    }
    Ok(text)
}

/// The checkpoints in these files and folders, each with a signature that counts.
fn expectations(paths: &[PathBuf], key: &PublicKey) -> anyhow::Result<Vec<Checkpoint>> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            for entry in fs::read_dir(path)? {
                files
                    .extend(Some(entry?.path()).filter(|p| p.extension().is_some_and(|e| e == "checkpoint")));
            }
        } else {
            files.push(path.clone());
        }
    }
    if files.is_empty() && !paths.is_empty() {
        bail!("there is no checkpoint in what --expect names");
    }
    files
        .iter()
        .map(|file| {
            let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
            // An exported entry carries its note in a field.
            let entry = serde_json::from_str::<serde_json::Value>(&text).unwrap_or_default();
            let note = entry.get("checkpoint").and_then(|note| note.as_str()).unwrap_or(&text);
            key.open(note).with_context(|| format!("{} does not bear this key's signature", file.display()))
        })
        .collect()
}

fn save(reports: &[Report], folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let good = reports.iter().filter(|report| report.problem.is_none());
    for (checkpoint, note) in good.filter_map(|report| report.checkpoint.as_ref()) {
        let name: String = checkpoint
            .origin
            .as_str()
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .collect();
        let path = folder.join(format!("{name}.checkpoint"));
        fs::write(&path, note).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn export(arguments: &ExportArgs) -> anyhow::Result<ExitCode> {
    let reader = Reader::of(&arguments.place.logs()?)?;
    let Some(filter) = arguments.filter.resolve(&reader)? else { return Ok(ExitCode::SUCCESS) };
    let mut out = io::BufWriter::new(io::stdout().lock());
    walk(&arguments.place.folder()?, &filter, |log, line| {
        let row =
            if arguments.content { reader.record(log, line) } else { reader.record_for_export(log, line) };
        let Some(row) = row else { return Ok(true) };
        let source = Source { host: arguments.host.clone(), log: row.log };
        writeln!(out, "{}", in_format(&row.record, source, arguments.to))?;
        Ok(true)
    })?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn in_format(record: &Record, source: Source, to: To) -> String {
    match to {
        To::Jsonl => show::json(record),
        To::Ocsf => ocsf::event(record, &source).to_string(),
        To::Cef => cef::line(record, &source),
        To::Otlp => otlp::log_record(record).to_string(),
        To::Sentinel => sentinel::row(record, &source).to_string(),
        To::Syslog => {
            let process = std::process::id();
            let syslog = syslog::Syslog { source, body: syslog::Body::Json, enterprise: 32473, process };
            syslog::message(record, &syslog)
        }
    }
}

fn proof(arguments: &ProveArgs) -> anyhow::Result<ExitCode> {
    if let Some(file) = &arguments.check {
        return check(arguments, file);
    }
    let logs = arguments.place.logs()?;
    let key = arguments.place.key(arguments.key.as_deref(), &logs)?;
    let (log, seq) = match (&arguments.id, arguments.seq) {
        (Some(id), _) => {
            let filter = Filter { terms: vec![Term::new("id", id)], ..Filter::default() };
            let found = search(&arguments.place.folder()?, &filter, 1)?;
            let (log, line) = found.lines.into_iter().next().context("there is no entry with this id")?;
            (log, serde_json::from_str::<bartizan_audit::Entry>(&line)?.seq)
        }
        (None, Some(seq)) => {
            let named = |log: &&PathBuf| arguments.log.as_ref().is_none_or(|name| show::name(log) == *name);
            let mut wanted = logs.iter().filter(named);
            let log = wanted.next().context("there is no such log")?;
            if wanted.next().is_some() {
                bail!("there are several logs: say which with --log");
            }
            (log.clone(), seq)
        }
        (None, None) => {
            say_error("error: say which entry with --id or --seq, or give a proof to --check\n");
            return Ok(ExitCode::from(2));
        }
    };
    print(&prove(&log, &key, seq)?)?;
    Ok(ExitCode::SUCCESS)
}

fn check(arguments: &ProveArgs, file: &Path) -> anyhow::Result<ExitCode> {
    let proof =
        if file == Path::new("-") { io::read_to_string(io::stdin())? } else { fs::read_to_string(file)? };
    let key = arguments.place.key(arguments.key.as_deref(), &[])?;
    match check_proof(&proof, &key) {
        Ok(proved) => {
            print(&format!("{}\n", bartizan_audit::harmless(&proved.line)))?;
            let (origin, size) = (proved.checkpoint.origin, proved.checkpoint.size);
            say_error(&format!(
                "this is entry {} of `{origin}`, under its checkpoint of {size} entries\n",
                proved.seq
            ));
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            say_error(&format!("{error}\n"));
            Ok(ExitCode::from(1))
        }
    }
}

impl Place {
    fn folder(&self) -> anyhow::Result<PathBuf> {
        Ok(match (&self.dir, self.wrapped) {
            (_, true) => State::folder_of_user()?.join(state::AUDIT),
            (Some(folder), false) => folder.clone(),
            (None, false) => State::folder_for(self.of.config.as_deref()).join(state::AUDIT),
        })
    }

    fn logs(&self) -> anyhow::Result<Vec<PathBuf>> {
        let folder = self.folder()?;
        if self.wrapped || self.dir.is_none() {
            state::recorded(&folder, self.wrapped)?;
        }
        let found = logs(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
        if found.is_empty() {
            bail!("there is no audit log in {}", folder.display());
        }
        Ok(found)
    }

    /// The key in `file`, or the one beside the logs.
    fn key(&self, file: Option<&Path>, logs: &[PathBuf]) -> anyhow::Result<PublicKey> {
        let folder = self.folder()?;
        let beside = [Some(folder.as_path()), logs.first().and_then(|log| log.parent())];
        let beside = beside.into_iter().flatten().map(|folder| folder.join("audit.pub"));
        let path = match file {
            Some(file) => file.to_owned(),
            None => beside
                .into_iter()
                .find(|path| path.exists())
                .context("there is no audit.pub beside the logs: give the public key with --key")?,
        };
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        text.parse().with_context(|| format!("{} holds no key", path.display()))
    }
}

/// Who the people in the logs beside `folder` are, as far as we may know.
fn people(folder: &Path) -> show::People {
    // Whoever may not read them sees pseudonyms.
    Persons::in_folder(&folder.join("people")).unwrap_or_default()
}
