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

/// What the mark of a grant's line is over, first.
const MARK: &[u8] = b"admin_roles ended";
/// What the mark of a person's line is over, first.
const OVER: &[u8] = b"admin_roles over";
/// Stands in a person's line where no grant is left.
const NONE: &str = "-";

/// The file. It has a line for each role that was taken back or replaced: a digest of what was granted, when it would have ended by
/// itself, our mark. Such a line is dropped after that, for the row counts no more then.
///
/// And it has a line for each role of each person that was ever granted or taken back: a digest of both, the time up to which what was
/// granted is over, a digest of the one grant that is not, our mark. A row that was out of the database just when its role was taken
/// back could not be read then, and is over by this line. It stays, for nobody knows when such a row would end.
#[derive(Debug)]
pub struct Ended {
    file: Option<PathBuf>,
}

/// What the file said.
#[derive(Debug, Default)]
pub struct Lines {
    /// Grants that ended, and when each would have ended by itself.
    grants: BTreeMap<Digest, Timestamp>,
    /// What is over of a person's role.
    over: BTreeMap<Digest, Over>,
}

/// What is over of a person's role.
#[derive(Debug)]
struct Over {
    /// What was granted then or earlier.
    up_to: Timestamp,
    /// But not this grant.
    but: Option<Digest>,
}

impl Over {
    fn has(&self, held: &Held) -> bool {
        held.at <= self.up_to && self.but != Some(digest(held))
    }

    fn with_parts<T>(&self, whose: &Digest, make: impl FnOnce(&[&[u8]]) -> T) -> T {
        let but = self.but.as_ref().map_or(&[] as &[u8], |but| but.0.as_slice());
        make(&[OVER, &whose.0, &self.up_to.as_unix().to_be_bytes(), but])
    }
}

impl Lines {
    /// Whether what was granted so was taken back, or replaced.
    pub fn has(&self, held: &Held) -> bool {
        let whose = whose(&held.role, &held.issuer, &held.subject);
        self.grants.contains_key(&digest(held)) || self.over.get(&whose).is_some_and(|over| over.has(held))
    }

    fn is_empty(&self) -> bool {
        self.grants.is_empty() && self.over.is_empty()
    }

    /// Takes a line of the file up, if it is ours.
    fn add(&mut self, line: &str, sealer: &Sealer) -> Option<()> {
        let words: Vec<&str> = line.split('\t').collect();
        match *words.as_slice() {
            [digest, until, mark] => {
                let digest: Digest = digest.parse().ok()?;
                let until = Timestamp::from_unix(until.parse().ok()?);
                let is_ours = with_parts(&digest, until, |parts| sealer.is_marked(parts, mark));
                is_ours.then(|| self.grants.insert(digest, until)).map(drop)
            }
            [whose, up_to, but, mark] => {
                let whose: Digest = whose.parse().ok()?;
                let up_to = Timestamp::from_unix(up_to.parse().ok()?);
                let but = if but == NONE { None } else { Some(but.parse::<Digest>().ok()?) };
                let over = Over { up_to, but };
                let is_ours = over.with_parts(&whose, |parts| sealer.is_marked(parts, mark));
                is_ours.then(|| self.over.insert(whose, over)).map(drop)
            }
            _ => None,
        }
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

    /// Remembers at `now` that whatever `whose` role, issuer and subject were granted until now is over, and that `begun` is not; `rows`
    /// is what the database had of it. To be asked before the database's change is committed: if that fails, less counts than the
    /// database says, never more.
    ///
    /// # Errors
    /// [`DatabaseError::Beside`]; nothing is to be changed then.
    pub fn remember(
        &self,
        sealer: &Sealer,
        [role, issuer, subject]: [&str; 3],
        rows: &[Held],
        begun: Option<&Held>,
        now: Timestamp,
    ) -> Result<(), DatabaseError> {
        self.change(sealer, |lines| {
            lines.grants.retain(|_, until| *until > now);
            lines.grants.extend(rows.iter().map(|held| (digest(held), held.until)));
            let but = begun.map(digest);
            if let Some(begun) = &but {
                // The very same grant again, within a second.
                lines.grants.remove(begun);
            }
            let whose = whose(role, issuer, subject);
            // A clock that was set back brings nothing back.
            let up_to = lines.over.get(&whose).map_or(now, |over| over.up_to.max(now));
            lines.over.insert(whose, Over { up_to, but });
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
        if lines.is_empty() && !file.exists() {
            return Ok(());
        }
        let mut text = String::new();
        for (digest, until) in &lines.grants {
            let mark = with_parts(digest, *until, |parts| sealer.mark(parts));
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{digest}\t{}\t{mark}", until.as_unix());
        }
        for (whose, over) in &lines.over {
            let mark = over.with_parts(whose, |parts| sealer.mark(parts));
            let but = over.but.as_ref().map_or_else(|| NONE.to_owned(), Digest::to_string);
            let _ = writeln!(text, "{whose}\t{}\t{but}\t{mark}", over.up_to.as_unix());
        }
        beside::put(file, &text).map_err(failed)
    }
}

fn read(file: &Path, sealer: &Sealer) -> Result<Lines, DatabaseError> {
    let text = match fs::read_to_string(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Lines::default()),
        text => text.map_err(|error| beside_error(file, &error))?,
    };
    let mut lines = Lines::default();
    for line in text.lines() {
        lines.add(line, sealer).ok_or_else(|| beside_error(file, &"it is not as it was written"))?;
    }
    Ok(lines)
}

fn with_parts<T>(digest: &Digest, until: Timestamp, make: impl FnOnce(&[&[u8]]) -> T) -> T {
    make(&[MARK, &digest.0, &until.as_unix().to_be_bytes()])
}

/// Names a grant, whoever marks it.
fn digest(held: &Held) -> Digest {
    with_mark(held, |parts| Digest::of(&frame(parts)))
}

/// Names a role of a person.
fn whose(role: &str, issuer: &str, subject: &str) -> Digest {
    Digest::of(&frame(&[b"admin_roles of", role.as_bytes(), issuer.as_bytes(), subject.as_bytes()]))
}

fn beside_error(file: &Path, words: &dyn std::fmt::Display) -> DatabaseError {
    DatabaseError::Beside(format!("{}: {words}", file.display()))
}
