//! What is not in a state folder: nobody has begun there, or it was lost.

use std::path::{Path, PathBuf};

use super::{AUDIT, SEEN, STORE};

/// Something of a state folder that a command wanted to look at, and that no gate has made yet.
#[derive(Debug, thiserror::Error)]
#[error("no {} has run here: there is no {}. {}", .whose.maker(), .missing.display(), .whose.advice())]
pub struct NoState {
    pub(super) missing: PathBuf,
    pub(super) whose: Folder,
}

/// Something of a state folder that is gone, while other things of it are there: whatever is made in its place is not what it was.
#[derive(Debug, thiserror::Error)]
#[error(
    "{} is missing, though `{there}` is beside where it was: restore it from a backup; do not {} before",
    .missing.display(),
    .whose.start()
)]
pub struct Incomplete {
    missing: PathBuf,
    there: &'static str,
    whose: Folder,
}

/// Whose state a folder keeps.
#[derive(Clone, Copy, Debug)]
pub(super) enum Folder {
    /// A gate's.
    Gate,
    /// A gate's, of which the audit log alone is looked at.
    Log,
    /// The user's own.
    User,
}

impl Folder {
    fn maker(self) -> &'static str {
        match self {
            Self::Gate | Self::Log => "gate",
            Self::User => "`bartizan wrap`",
        }
    }

    fn start(self) -> &'static str {
        match self {
            Self::Gate | Self::Log => "run the gate",
            Self::User => "start `bartizan wrap`",
        }
    }

    fn advice(self) -> &'static str {
        match self {
            Self::Gate => {
                "Say this in the folder where `bartizan run` was started, and with the same --config if it had one"
            }
            Self::Log => {
                "Say this in the folder where `bartizan run` was started, and with the same --config if it had one, or name the audit folder with --dir"
            }
            Self::User => "Say this as the user whose client starts it, and with the same XDG_STATE_HOME",
        }
    }
}

/// That the audit folder `audit` is there, in the state folder of a gate, or of the user if it `is_wrapped`.
///
/// # Errors
/// [`NoState`] where no gate has run, [`Incomplete`] where one has.
pub fn recorded(audit: &Path, is_wrapped: bool) -> anyhow::Result<()> {
    if audit.exists() {
        return Ok(());
    }
    let whose = if is_wrapped { Folder::User } else { Folder::Log };
    Err(missing(audit.parent().unwrap_or(Path::new("")), audit, whose))
}

/// What to say of `path` in the state folder `folder`, where it is not: nobody has begun there, or it was lost.
pub(super) fn missing(folder: &Path, path: &Path, whose: Folder) -> anyhow::Error {
    let there = [STORE, "keys.json", SEEN, AUDIT].into_iter().find(|name| folder.join(name).exists());
    let missing = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    match there {
        Some(there) => Incomplete { missing, there, whose }.into(),
        None => NoState { missing, whose }.into(),
    }
}
