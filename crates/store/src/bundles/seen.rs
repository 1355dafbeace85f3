//! What this gate took up of bundles, outside the database: an older database put back, or a row taken out of it, is noticed.
//!
//! Whoever can write the state folder can put both back. This is against whoever reaches the database only, as
//! [`crate::pins`] has it for pins.

use std::{
    collections::BTreeMap,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use super::{CHAIN, Taken, VERSION, with_parts};
use crate::{DatabaseError, Sealer, beside};

/// The file, a line for each key and chain: what it is, its name, its number, a digest, our mark.
#[derive(Debug)]
pub struct Seen {
    file: Option<PathBuf>,
    /// Held while the file is read and written again.
    writing: Mutex<()>,
}

/// What the file said.
#[derive(Debug, Default)]
pub struct Lines(BTreeMap<(&'static str, String), Taken>);

impl Lines {
    /// What was seen of `name`.
    pub fn get(&self, what: &'static str, name: &str) -> Option<Taken> {
        self.0.get(&(what, name.to_owned())).copied()
    }

    /// Whether none of `news` is older than what was seen, or another content of the same number.
    pub fn permits(&self, news: &[(&'static str, &str, Taken)]) -> bool {
        news.iter().all(|(what, name, taken)| {
            self.get(what, name).is_none_or(|seen| seen.version < taken.version || seen == *taken)
        })
    }
}

impl Seen {
    pub fn new(file: Option<PathBuf>) -> Self {
        Self { file, writing: Mutex::default() }
    }

    /// What was seen so far.
    ///
    /// # Errors
    /// [`DatabaseError::Beside`] if the file is there and not as we wrote it.
    pub fn read(&self, sealer: &Sealer) -> Result<Lines, DatabaseError> {
        let Some(file) = &self.file else { return Ok(Lines::default()) };
        let beside =
            |words: &dyn std::fmt::Display| DatabaseError::Beside(format!("{}: {words}", file.display()));
        let text = match fs::read_to_string(file) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Lines::default()),
            text => text.map_err(|error| beside(&error))?,
        };
        let lines = text.lines().map(|line| parse(line, sealer)).collect::<Option<_>>();
        lines.map(Lines).ok_or_else(|| beside(&"it is not as it was written"))
    }

    /// Remembers `news`, where they are newer.
    ///
    /// # Errors
    /// [`DatabaseError::Beside`].
    pub fn remember(
        &self,
        sealer: &Sealer,
        news: &[(&'static str, &str, Taken)],
    ) -> Result<(), DatabaseError> {
        let Some(file) = &self.file else { return Ok(()) };
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lines = self.read(sealer)?;
        let mut is_news = false;
        for (what, name, taken) in news {
            if lines.get(what, name).is_none_or(|seen| seen.version < taken.version) {
                lines.0.insert((what, (*name).to_owned()), *taken);
                is_news = true;
            }
        }
        if is_news { write(sealer, file, &lines) } else { Ok(()) }
    }

    /// Writes the file again, under the key that marks now.
    ///
    /// # Errors
    /// [`DatabaseError::Beside`].
    pub fn renew(&self, sealer: &Sealer) -> Result<(), DatabaseError> {
        let Some(file) = self.file.as_ref().filter(|file| file.exists()) else { return Ok(()) };
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        write(sealer, file, &self.read(sealer)?)
    }
}

fn parse(line: &str, sealer: &Sealer) -> Option<((&'static str, String), Taken)> {
    let mut words = line.split('\t');
    let what = words.next()?;
    let what = [VERSION, CHAIN].into_iter().find(|known| *known == what)?;
    let name = words.next()?;
    let taken = Taken { version: words.next()?.parse().ok()?, digest: words.next()?.parse().ok()? };
    let mark = words.next()?;
    let is_ours =
        words.next().is_none() && with_parts(what, name, taken, |parts| sealer.is_marked(parts, mark));
    is_ours.then(|| ((what, name.to_owned()), taken))
}

fn write(sealer: &Sealer, file: &Path, lines: &Lines) -> Result<(), DatabaseError> {
    let line = |((what, name), taken): (&(&'static str, String), &Taken)| {
        let mark = with_parts(what, name, *taken, |parts| sealer.mark(parts));
        format!("{what}\t{name}\t{}\t{}\t{mark}\n", taken.version, taken.digest)
    };
    let text: String = lines.0.iter().map(line).collect();
    beside::put(file, &text).map_err(|error| DatabaseError::Beside(format!("{}: {error}", file.display())))
}
