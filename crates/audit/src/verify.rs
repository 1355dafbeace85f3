//! Verification offline, from files and a public key alone.
//!
//! What it can tell: every entry that a checkpoint covers is there, unchanged and in order, back to where the log
//! itself says it dropped older ones. What it cannot tell alone: whether the newest part was cut off cleanly, because
//! a shorter log with its own valid checkpoint looks like a log that is young. A checkpoint kept elsewhere, by a
//! witness or an exporter, tells that ([`Verification::expected`]).

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use crate::{
    check::{Checker, Problem},
    checkpoint::{Checkpoint, PublicKey},
    segment::{Line, Lines},
    storage::{segment_path, segments},
};

/// What to verify with.
#[derive(Debug)]
pub struct Verification<'a> {
    /// Whose signature counts.
    pub key: &'a PublicKey,
    /// Checkpoints that the logs must still agree with, already opened with [`PublicKey::open`].
    pub expected: &'a [Checkpoint],
}

/// What was found of one log.
#[derive(Debug)]
pub struct Report {
    /// Where the log is.
    pub folder: PathBuf,
    /// The first entry that is kept.
    pub first: u64,
    /// The last checkpoint that verifies, and its note.
    pub checkpoint: Option<(Checkpoint, String)>,
    /// What is wrong, where it first shows.
    pub problem: Option<Problem>,
    /// The first entry that claims to be older than one before it; a clock that was set back, most often.
    pub time_went_back: Option<u64>,
    /// The end was being written: what follows the last checkpoint was not looked at.
    pub being_written: bool,
    /// How many expected checkpoints this log agrees with.
    pub agreed: usize,
}

/// The logs in `folder`: the folder itself, or the folders in it, in order of name.
///
/// # Errors
/// What the system says.
pub fn logs(folder: &Path) -> io::Result<Vec<PathBuf>> {
    if !segments(folder)?.is_empty() {
        return Ok(vec![folder.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() && !segments(&path)?.is_empty() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

impl Verification<'_> {
    /// Verifies every log in `folder`, and that none is missing of which a checkpoint is expected.
    ///
    /// # Errors
    /// What the system says; a log that is wrong is no error but a [`Report::problem`].
    pub fn all(&self, folder: &Path) -> io::Result<(Vec<Report>, Vec<Problem>)> {
        let reports = logs(folder)?.iter().map(|log| self.one(log)).collect::<io::Result<Vec<_>>>()?;
        let there = |expected: &Checkpoint| {
            let origins = reports.iter().filter_map(|report| Some(&report.checkpoint.as_ref()?.0.origin));
            origins.into_iter().any(|origin| *origin == expected.origin)
        };
        let missing = self.expected.iter().filter(|expected| !there(expected));
        let missing =
            missing.map(|expected| Problem::NoSuchLog { origin: expected.origin.to_string() }).collect();
        Ok((reports, missing))
    }

    /// Verifies the log in `folder`.
    ///
    /// # Errors
    /// What the system says.
    pub fn one(&self, folder: &Path) -> io::Result<Report> {
        let segments = segments(folder)?;
        let mut walk =
            Walk { checker: Checker::new(self.key, None), roots: Vec::new(), expected: self.expected };
        let mut problem = walk.segments(folder, &segments)?;
        if let Some(Problem::Missing { first, last, segment, line }) = problem
            && turns_up(folder, &segments, first)?
        {
            problem = Some(Problem::Reordered { expected: first, found: last + 1, segment, line });
        }
        let newest = segments.last().copied();
        let being_written = matches!(problem, Some(Problem::Truncated { segment, .. }) if Some(segment) == newest)
            && is_held(folder);
        if being_written {
            problem = None;
        }
        let first = segments.first().copied().unwrap_or(0);
        let checker = &walk.checker;
        if problem.is_none() && checker.dropped() < first {
            // Nobody said that these may go.
            let dropped = checker.dropped();
            problem = Some(Problem::Missing { first: dropped, last: first - 1, segment: first, line: 1 });
        }
        let mut agreed = 0;
        for expected in
            self.expected.iter().filter(|e| checker.last().is_some_and(|(c, _)| c.origin == e.origin))
        {
            match walk.compare(expected, first) {
                None => agreed += 1,
                found => problem = problem.or(found),
            }
        }
        Ok(Report {
            folder: folder.to_owned(),
            first,
            checkpoint: checker.last().cloned(),
            problem,
            time_went_back: checker.time_went_back(),
            being_written,
            agreed,
        })
    }
}

struct Walk<'a> {
    checker: Checker<'a>,
    /// The roots at the sizes of expected checkpoints.
    roots: Vec<(u64, crate::tree::Hash)>,
    expected: &'a [Checkpoint],
}

impl Walk<'_> {
    /// Walks the segments until something is wrong.
    fn segments(&mut self, folder: &Path, segments: &[u64]) -> io::Result<Option<Problem>> {
        for &first in segments {
            let mut lines = Lines::new(File::open(segment_path(folder, first))?);
            if let Err(problem) = self.checker.start(first, lines.next()?.as_ref()) {
                return Ok(Some(problem));
            }
            self.remember_root();
            let mut count = 1;
            while let Some(raw) = lines.next()? {
                count = raw.number;
                if let Err(problem) = self.checker.line(&raw) {
                    return Ok(Some(problem));
                }
                self.remember_root();
            }
            if let Err(problem) = self.checker.end(count) {
                return Ok(Some(problem));
            }
        }
        Ok(None)
    }

    fn remember_root(&mut self) {
        let size = self.checker.frontier().size();
        if self.expected.iter().any(|expected| expected.size == size) {
            self.roots.push((size, self.checker.frontier().root()));
        }
    }

    /// What speaks against this log being the one of which `expected` is a checkpoint.
    fn compare(&self, expected: &Checkpoint, first: u64) -> Option<Problem> {
        let size = expected.size;
        if size > self.checker.signed() {
            return Some(Problem::RolledBack { expected: size, found: self.checker.signed() });
        }
        match self.roots.iter().find(|(at, _)| *at == size) {
            Some((_, root)) if *root == expected.root => None,
            Some(_) => Some(Problem::Rewritten { size }),
            None => Some(Problem::TooOld { size, first }),
        }
    }
}

/// Whether an entry that claims number `seq` is anywhere in the log.
fn turns_up(folder: &Path, segments: &[u64], seq: u64) -> io::Result<bool> {
    for &first in segments {
        let mut lines = Lines::new(File::open(segment_path(folder, first))?);
        while let Some(raw) = lines.next()? {
            if matches!(Line::parse(raw.bytes), Some(Line::Entry(_, position)) if position.seq == seq) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Whether a process is writing the log in `folder`.
pub fn is_held(folder: &Path) -> bool {
    File::open(folder.join("lock"))
        .is_ok_and(|lock| matches!(lock.try_lock_shared(), Err(fs::TryLockError::WouldBlock)))
}
