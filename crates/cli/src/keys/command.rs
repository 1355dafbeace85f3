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

use super::{LOOK, file};
use crate::{
    ConfigFile,
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
    Status(ConfigFile),
    /// Make new keys and seal everything again under them, while gates run.
    ///
    /// Every person gets a new data key, the gate gets one, and the root key is made anew where that is ours to do (file,
    /// keyring, PKCS#11); elsewhere rotate it at the provider first, and this wraps by the newest version. Gates go on and take the new
    /// keys up within seconds. What is stopped half-way goes on when it is run again; a second rotation at the same time is
    /// refused. Exit code 1 if rows that cannot be read were left as they are.
    #[command(after_help = "Examples:
  bartizan keys rotate
  bartizan keys rotate --compromised       # a key got out: cursors and session ids in clients' hands end too
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
        KeysCommand::Status(place) => status(&place).await,
        KeysCommand::Rotate(rotate) => {
            crate::start_log("warn");
            run(rotate).await
        }
    }
}

async fn status(place: &ConfigFile) -> anyhow::Result<ExitCode> {
    let path = place.config.as_deref();
    let loaded = config::load(path)?;
    let state = State::look(path)?;
    let file = file(&loaded.config, &base_of(path), state.folder())?;
    if !file.path().exists() {
        if let Err(lost) = state.whole()
            && !lost.is::<NoState>()
        {
            print(&format!("provider  {}\nkeys      lost\n", file.root().provider()))?;
            say_error(&format!("error: {lost:#}\n"));
            return Ok(ExitCode::from(1));
        }
        print(&format!(
            "provider  {}\nkeys      none yet; the first `bartizan run` makes them\n",
            file.root().provider()
        ))?;
        return Ok(ExitCode::SUCCESS);
    }
    let (provider, key) = file.wrapped_by()?;
    print(&format!("provider  {provider}\nroot key  {}\nfile      {}\n", key, file.path().display()))?;
    match file.read().await {
        Err(error) => {
            print("opens     no\n")?;
            say_error(&format!("error: {error}\n"));
            Ok(ExitCode::from(1))
        }
        Ok(keys) => {
            let (gate, persons) = keys.ids().context("there are no keys")?;
            print(&format!(
                "opens     yes\ngate key  {gate}, {} older for what went out\npersons   root {persons}, {} erased since it is in use\n",
                keys.older(),
                keys.erased()
            ))?;
            if let Some(since) = keys.rotating() {
                let since = bartizan_audit::event::rfc3339::text(since);
                print(&format!("rotation  begun {since}, not finished: run `bartizan keys rotate`\n"))?;
            }
            Ok(ExitCode::SUCCESS)
        }
    }
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
