//! Granted roles that ended before their time, outside the database: a row of one that is put back counts for nothing.
//!
//! Whoever can write the state folder can put both back. This is against whoever reaches the database only, as
//! [`crate::pins`] has it for pins.

use std::{
    collections::BTreeMap,
    fmt::Write,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use bartizan_model::Timestamp;

use super::{Held, with_mark};
use crate::{DatabaseError, Digest, Sealer, beside, keyfile::lock_file, ring::frame};

/// What a line's mark is over, first.
const MARK: &[u8] = b"admin_roles ended";

/// The file, a line for each role that was taken back or replaced: a digest of what was granted, when it would have ended by
/// itself, our mark. A line is dropped after that, for the row counts no more then.
#[derive(Debug)]
pub struct Ended {
    file: Option<PathBuf>,
}

/// What the file said.
#[derive(Debug, Default)]
pub struct Lines(BTreeMap<Digest, Timestamp>);

impl Lines {
    /// Whether what was granted so was taken back, or replaced.
    pub fn has(&self, held: &Held) -> bool {
        self.0.contains_key(&digest(held))
    }
}

impl Ended {
    pub fn new(file: Option<PathBuf>) -> Self {
        Self { file }
    }

    /// What ended so far.
    ///
    /// # Errors
    /// [`DatabaseError::Beside`] if the file is there and not as we wrote it.
    pub fn read(&self, sealer: &Sealer) -> Result<Lines, DatabaseError> {
        match &self.file {
            Some(file) => read(file, sealer),
            None => Ok(Lines::default()),
        }
    }

    /// Remembers at `now` that `over` ended, and that `begun` did not. To be asked before the database's change is committed: if
    /// that fails, less counts than the database says, never more.
    ///
    /// # Errors
    /// [`DatabaseError::Beside`]; nothing is to be changed then.
    pub fn remember(
        &self,
        sealer: &Sealer,
        over: &[Held],
        begun: Option<&Held>,
        now: Timestamp,
    ) -> Result<(), DatabaseError> {
        self.change(sealer, |lines| {
            lines.0.retain(|_, until| *until > now);
            lines.0.extend(over.iter().map(|held| (digest(held), held.until)));
            // The very same grant again, within a second.
            begun.map(|held| lines.0.remove(&digest(held)));
        })
    }

    /// Writes the file again, under the key that marks now.
    ///
    /// # Errors
    /// [`DatabaseError::Beside`].
    pub fn renew(&self, sealer: &Sealer) -> Result<(), DatabaseError> {
        self.change(sealer, |_| {})
    }

    /// Changes the file, while no other process does; one that would be empty is not begun.
    fn change(&self, sealer: &Sealer, change: impl FnOnce(&mut Lines)) -> Result<(), DatabaseError> {
        let Some(file) = &self.file else { return Ok(()) };
        let failed = |error| beside_error(file, &error);
        let lock = lock_file(&file.with_extension("lock")).map_err(failed)?;
        lock.lock().map_err(failed)?;
        let mut lines = read(file, sealer)?;
        change(&mut lines);
        if lines.0.is_empty() && !file.exists() {
            return Ok(());
        }
        let mut text = String::new();
        for (digest, until) in &lines.0 {
            let mark = with_parts(digest, *until, |parts| sealer.mark(parts));
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{digest}\t{}\t{mark}", until.as_unix());
        }
        beside::put(file, &text).map_err(failed)
    }
}

fn read(file: &Path, sealer: &Sealer) -> Result<Lines, DatabaseError> {
    let text = match fs::read_to_string(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Lines::default()),
        text => text.map_err(|error| beside_error(file, &error))?,
    };
    let lines = text.lines().map(|line| parse(line, sealer)).collect::<Option<_>>();
    lines.map(Lines).ok_or_else(|| beside_error(file, &"it is not as it was written"))
}

fn parse(line: &str, sealer: &Sealer) -> Option<(Digest, Timestamp)> {
    let mut words = line.split('\t');
    let digest: Digest = words.next()?.parse().ok()?;
    let until = Timestamp::from_unix(words.next()?.parse().ok()?);
    let mark = words.next()?;
    let is_ours = with_parts(&digest, until, |parts| sealer.is_marked(parts, mark));
    (words.next().is_none() && is_ours).then_some((digest, until))
}

fn with_parts<T>(digest: &Digest, until: Timestamp, make: impl FnOnce(&[&[u8]]) -> T) -> T {
    make(&[MARK, &digest.0, &until.as_unix().to_be_bytes()])
}

/// Names a grant, whoever marks it.
fn digest(held: &Held) -> Digest {
    with_mark(held, |parts| Digest::of(&frame(parts)))
}

fn beside_error(file: &Path, words: &dyn std::fmt::Display) -> DatabaseError {
    DatabaseError::Beside(format!("{}: {words}", file.display()))
}
