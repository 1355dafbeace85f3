//! `bartizan keys`

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use bartizan_audit::Kind;
use bartizan_model::{Clock, SystemClock};
use bartizan_store::{
    KeyFile,
    reseal::{Only, Progress, Rotation},
};
use clap::{Args, Subcommand};
use serde::Serialize;

use super::{LOOK, file};
use crate::{
    ConfigFile, Format, Listing,
    config::{self, keys::Provider},
    journal::{Deed, Journal, OwnLog},
    print,
    run::base_of,
    say_error,
    shield::kept::Reports,
    state::{NoState, State},
    tools::who,
};

/// How long gates get to learn of a change: they look every two seconds.
const PATIENCE: Duration = Duration::from_secs(LOOK.as_secs() * 2 + 1);

/// `bartizan keys …`
#[derive(Subcommand)]
pub enum KeysCommand {
    /// Show who keeps the root key, which keys there are, and whether they open. Exit code 1 if they do not.
    #[command(alias = "list")]
    Status(Listing),
    /// Make new keys and seal everything again under them, while gates run.
    ///
    /// Every person gets a new data key, the gate gets one, and the root key is made anew where that is ours to do (file,
    /// keyring, PKCS#11); elsewhere rotate it at the provider first, and this wraps by the newest version. Gates go on and take the new
    /// keys up within seconds. What is stopped half-way goes on when it is run again; a second rotation at the same time is
    /// refused. Exit code 1 if rows that cannot be read were left as they are.
    #[command(after_help = "Examples:
  bartizan keys rotate
  bartizan keys rotate --compromised       # a key got out: cursors and session ids end too
  bartizan keys rotate --from old.toml     # [keys] provider has changed: wrap by the new one")]
    Rotate(Rotate),
}

/// `bartizan keys rotate`
#[derive(Args)]
pub struct Rotate {
    #[command(flatten)]
    place: ConfigFile,
    /// Destroy the gate's older key at once, not after a day.
    #[arg(long)]
    compromised: bool,
    /// The configuration whose [keys] wrap the key file until now.
    #[arg(long, value_name = "OLD")]
    from: Option<PathBuf>,
}

/// Runs it.
pub async fn keys(command: KeysCommand) -> anyhow::Result<ExitCode> {
    match command {
        KeysCommand::Status(listing) => status(&listing).await,
        KeysCommand::Rotate(rotate) => {
            crate::start_log("warn");
            run(rotate).await
        }
    }
}

/// What there is to say of the keys: never what they are.
#[derive(Default, Serialize)]
struct Status {
    /// Who keeps the root key.
    provider: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    root_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<PathBuf>,
    keys: Keys,
    #[serde(flatten)]
    open: Option<Open>,
    /// Why they do not open.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// What became of the keys.
#[derive(Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Keys {
    /// There are none yet.
    #[default]
    None,
    /// There were some.
    Lost,
    /// They do not open.
    Shut,
    Open,
}

/// What is said of keys that open.
#[derive(Serialize)]
struct Open {
    gate_key: String,
    /// Older keys of the gate, for what went out under them.
    older: usize,
    persons_root: String,
    /// How many persons were erased since that root is in use.
    erased: u64,
    /// When a rotation was begun that is not finished.
    rotation_begun: Option<String>,
}

impl Status {
    async fn look(path: Option<&Path>) -> anyhow::Result<Self> {
        let loaded = config::load(path)?;
        let state = State::look(path)?;
        let file = file(&loaded.config, &base_of(path), state.folder())?;
        if !file.path().exists() {
            let none = Self { provider: file.root().provider().to_owned(), ..Self::default() };
            return Ok(match state.whole() {
                Err(lost) if !lost.is::<NoState>() => {
                    Self { keys: Keys::Lost, error: Some(format!("{lost:#}")), ..none }
                }
                _ => none,
            });
        }
        let (provider, key) = file.wrapped_by()?;
        let found =
            Self { provider, root_key: Some(key), file: Some(file.path().to_owned()), ..Self::default() };
        let keys = match file.read().await {
            Err(error) => return Ok(Self { keys: Keys::Shut, error: Some(error.to_string()), ..found }),
            Ok(keys) => keys,
        };
        let (gate, persons) = keys.ids().context("there are no keys")?;
        let open = Open {
            gate_key: gate,
            older: keys.older(),
            persons_root: persons,
            erased: keys.erased(),
            rotation_begun: keys.rotating().map(bartizan_audit::event::rfc3339::text),
        };
        Ok(Self { keys: Keys::Open, open: Some(open), ..found })
    }

    /// The same in words.
    fn words(&self) -> String {
        use std::fmt::Write;
        let mut words = format!("provider  {}\n", self.provider);
        if let (Some(key), Some(file)) = (&self.root_key, &self.file) {
            // Writing to a string cannot fail.
            let _ = writeln!(words, "root key  {key}\nfile      {}", file.display());
        }
        words.push_str(match self.keys {
            Keys::None => "keys      none yet; the first `bartizan run` makes them\n",
            Keys::Lost => "keys      lost\n",
            Keys::Shut => "opens     no\n",
            Keys::Open => "opens     yes\n",
        });
        if let Some(Open { gate_key, older, persons_root, erased, rotation_begun }) = &self.open {
            let _ = writeln!(words, "gate key  {gate_key}, {older} older for what went out");
            let _ = writeln!(words, "persons   root {persons_root}, {erased} erased since it is in use");
            if let Some(since) = rotation_begun {
                let _ = writeln!(words, "rotation  begun {since}, not finished: run `bartizan keys rotate`");
            }
        }
        words
    }
}

async fn status(listing: &Listing) -> anyhow::Result<ExitCode> {
    let status = Status::look(listing.place.config.as_deref()).await?;
    match listing.format {
        Format::Text => {
            print(&status.words())?;
            if let Some(error) = &status.error {
                say_error(&format!("error: {error}\n"));
            }
        }
        Format::Json => print(&format!("{}\n", serde_json::to_string_pretty(&status)?))?,
    }
    Ok(ExitCode::from(u8::from(matches!(status.keys, Keys::Lost | Keys::Shut))))
}

async fn run(rotate: Rotate) -> anyhow::Result<ExitCode> {
    let path = rotate.place.config.as_deref();
    let loaded = config::load(path)?;
    // Without a gate there are no keys to rotate: those of a wrong folder would be made, and said to be destroyed.
    let state = State::of_gate(path)?;
    let to = file(&loaded.config, &base_of(path), state.folder())?;
    // Before anything is done or recorded: a second rotation begins nothing.
    let only = Only::of(&to)?;
    if let Some(old) = &rotate.from {
        let was = config::load(Some(old))?;
        let from = file(&was.config, &base_of(Some(old)), state.folder())?;
        if to.wrapped_by()?.0 != to.root().provider() || to.read().await.is_err() {
            to.move_from(&from).await.context("the keys stay wrapped as they were")?;
            say_error(&format!("the keys are wrapped by `{}` now\n", to.root().provider()));
        }
    }
    let keys = state.keys().await?;
    let database = state.database().await?;
    let pins = state.pins(database.clone()).await?;
    let bundles = state.bundles(database.clone()).await?;
    let admins = state.admins(database.clone()).await?;
    let journal = OwnLog { state: &state, name: "keys" };
    let before = ids(&keys.file).await?;
    let rotated =
        |from: &str, to: &str| Deed::new(Kind::KeyRotated, &who(), "keys", "all", Some(from), Some(to));
    let reports = Reports::of(&state).await?;
    // Recorded first: what is done and not recorded cannot be explained afterwards.
    journal.note(vec![rotated(&before, "new keys").because("begun")]).await?;
    let rotation = Rotation {
        file: &keys.file,
        database: &database,
        sealer: Arc::clone(&keys.sealer),
        pins: &pins,
        bundles: &bundles,
        admins: &admins,
        outside: &[&reports],
        patience: PATIENCE,
        at_once: rotate.compromised,
    };
    let (mut lost, mut malformed) = (0, 0_u32);
    let mut say = |progress| match progress {
        Progress::Published => say_error("new keys are made; gates learn of them\n"),
        Progress::Promoted => say_error("new keys seal\n"),
        Progress::Resealed { what, done, lost: rows } => {
            lost += rows;
            say_error(&format!("{what}: {done} sealed again{}\n", unopened(rows)));
        }
        Progress::Malformed { what, row } => {
            malformed += 1;
            say_error(&format!("{what}: the row of {row} cannot be read, and was left as it is\n"));
        }
        Progress::Ended => say_error("older keys are destroyed\n"),
    };
    rotation.run(&only, SystemClock.now(), &mut say).await.context(
        "the rotation is not finished; nothing is lost: run `bartizan keys rotate` again to go on",
    )?;
    database.close().await;
    let after = ids(&keys.file).await?;
    journal.note(vec![rotated(&before, &after).because("rotated")]).await.context("the keys are rotated")?;
    if loaded.config.keys.provider != Provider::File {
        // The key of `provider = "file"`, or of versions without a key file: nothing is under it any more.
        discard(&state.folder().join("seal.key"))?;
    }
    if lost > 0 {
        say_error("rows that do not open counted for nothing before and were left as they are\n");
    }
    say_error(&format!("keep a copy of {}, apart from copies of the database\n", keys.file.path().display()));
    if malformed > 0 {
        say_error(&format!(
            "the keys are rotated, and {malformed} row(s) that nobody can read are still in the database: delete them, or put \
             them back as they were from a copy of it and of the keys of that time\n"
        ));
        return Ok(ExitCode::from(1));
    }
    Ok(ExitCode::SUCCESS)
}

/// What the keys in use are called: not what they are.
async fn ids(file: &KeyFile) -> anyhow::Result<String> {
    let (gate, persons) = file.read().await?.ids().context("there are no keys")?;
    Ok(format!("gate {gate}, persons {persons}"))
}

/// Overwrites and removes a key nobody needs.
fn discard(path: &Path) -> anyhow::Result<()> {
    let wipe = || {
        let file = std::fs::OpenOptions::new().write(true).open(path)?;
        let length = usize::try_from(file.metadata()?.len()).unwrap_or(0);
        std::io::Write::write_all(&mut &file, &vec![0; length])?;
        file.sync_all()?;
        std::fs::remove_file(path)
    };
    match wipe() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.with_context(|| format!("{} is not needed any more and still there", path.display())),
    }
}

fn unopened(rows: u64) -> String {
    if rows == 0 { String::new() } else { format!(", {rows} do not open") }
}
