//! What is kept on this machine: its files, its pins, its audit log.

use std::{fs, os::unix::fs::MetadataExt};

use bartizan_audit::{PublicKey, verify::Verification};
use bartizan_store::{Pins, pins::State as Standing};

use super::Check;
use crate::state::{self, NoState, State};

/// Looks at the state folder.
pub async fn checks(state: &State) -> Vec<Check> {
    let mut found = vec![private_files(state)];
    found.extend(lost(state));
    found.push(pins(state).await);
    found.push(audit(state));
    found
}

fn private_files(state: &State) -> Check {
    let id = "state.permissions";
    if let Err(nobody) = state.present() {
        return Check::pass(id, format!("there is no state yet: {nobody}"));
    }
    let mut open = Vec::new();
    let mut stack = vec![state.folder().to_owned()];
    let mut seen = 0;
    while let Some(path) = stack.pop() {
        let Ok(about) = fs::symlink_metadata(&path) else { continue };
        seen += 1;
        // What is inside a folder that is ours alone is reached by nobody else; the folder itself must be.
        if path == *state.folder() && about.mode() & 0o077 != 0 {
            open.push(format!("{} (mode {:o})", path.display(), about.mode() & 0o777));
        }
        let is_key = path.extension().is_some_and(|e| e == "key") || path.ends_with("token");
        if is_key && about.mode() & 0o077 != 0 {
            open.push(format!("{} (mode {:o})", path.display(), about.mode() & 0o777));
        }
        if about.is_dir()
            && let Ok(entries) = fs::read_dir(&path)
        {
            stack.extend(entries.flatten().map(|entry| entry.path()));
        }
    }
    if open.is_empty() {
        Check::pass(id, format!("{} and its keys are yours alone ({seen} files)", state.folder().display()))
    } else {
        Check::fail(
            id,
            format!("others can read {}", open.join(", ")),
            "chmod 700 the folder, chmod 600 the keys, and replace what others may have read",
        )
    }
}

/// What a gate had here and has no more. Where nothing is lost there is nothing to say.
fn lost(state: &State) -> Option<Check> {
    let lost = state.whole().err().filter(|error| !error.is::<NoState>())?;
    Some(Check::fail("state.files", lost.to_string(), "docs/keys.md says what to keep copies of"))
}

async fn pins(state: &State) -> Check {
    let id = "pins";
    let listed = async {
        let database = state.database().await?;
        let listed = state.pins(database.clone()).await?.list(None).await;
        database.close().await;
        Ok::<_, anyhow::Error>(listed?)
    };
    match listed.await {
        Err(nobody) if nobody.is::<NoState>() => Check::pass(id, "nothing was offered yet"),
        Err(error) => Check::fail(id, format!("they cannot be read: {error:#}"), "see `bartizan tools list`"),
        Ok(pins) => {
            // As `tools list` counts them: what changed after its approval waits like what is new.
            let waiting = pins.iter().filter(|pin| pin.waiting.is_some()).count();
            let approved = pins.iter().filter(|pin| pin.state == Standing::Approved && pin.is_open()).count();
            if waiting == 0 {
                Check::pass(id, format!("{approved} definitions are approved, none waits"))
            } else {
                Check::warn(
                    id,
                    format!("{waiting} definitions wait for a person, {approved} are approved"),
                    "look at them with `bartizan tools diff`, then approve or reject",
                )
            }
        }
    }
}

fn audit(state: &State) -> Check {
    let id = "audit.verify";
    let folder = state.folder().join("audit");
    let key = folder.join("audit.pub");
    match state::recorded(&folder, false) {
        Ok(()) => {}
        Err(nobody) if nobody.is::<NoState>() => return Check::pass(id, "nothing has been recorded yet"),
        Err(lost) => {
            return Check::fail(id, lost.to_string(), "without the log nobody can tell what was done");
        }
    }
    let verified = fs::read_to_string(&key)
        .map_err(|error| error.to_string())
        .and_then(|text| text.trim().parse::<PublicKey>().map_err(|error| error.to_string()))
        .and_then(|key| {
            Verification { key: &key, expected: &[] }.all(&folder).map_err(|error| error.to_string())
        });
    match verified {
        Err(error) => {
            Check::unknown(id, format!("it cannot be verified: {error}"), "see `bartizan audit verify`")
        }
        Ok((reports, missing)) => {
            let wrong = reports.iter().filter(|report| report.problem.is_some()).count() + missing.len();
            if wrong == 0 {
                Check::pass(id, format!("{} log(s), every entry where it was put", reports.len()))
            } else {
                Check::fail(id, format!("{wrong} problem(s)"), "see `bartizan audit verify`")
            }
        }
    }
}
