//! Searching logs: newest first, in bounded memory.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{
    index,
    segment::Lines,
    storage::{segment_path, segments},
    verify::logs,
};

pub use crate::index::{Filter, Term};

/// What a search found.
#[derive(Debug, Default)]
pub struct Found {
    /// The newest entries that fit, as they stand in the log, newest first within each log; with the log they are in.
    pub lines: Vec<(PathBuf, String)>,
    /// How many fit altogether.
    pub total: u64,
}

/// Searches every log in `folder` for entries that fit `filter`, and returns at most `limit` of each log. What is
/// found is not verified: that is `verify`'s work.
///
/// # Errors
/// What the system says.
pub fn search(folder: &Path, filter: &Filter, limit: usize) -> io::Result<Found> {
    let mut found = Found::default();
    for log in logs(folder)? {
        let mut wanted = limit;
        let segments = segments(&log)?;
        for (n, &first) in segments.iter().rev().enumerate() {
            // Only the newest may still be written.
            let hits = index::search(&segment_path(&log, first), n > 0, filter, wanted)?;
            wanted = wanted.saturating_sub(hits.lines.len());
            found.total += hits.total;
            found.lines.extend(hits.lines.into_iter().map(|line| (log.clone(), line)));
        }
    }
    Ok(found)
}

/// Calls `each` with every entry of every log in `folder` that fits `filter`, oldest first within each log, until it
/// says `false`. Reads everything, in bounded memory.
///
/// # Errors
/// What the system or `each` says.
pub fn walk(
    folder: &Path,
    filter: &Filter,
    mut each: impl FnMut(&Path, &str) -> io::Result<bool>,
) -> io::Result<()> {
    for log in logs(folder)? {
        for first in segments(&log)? {
            let mut lines = Lines::new(File::open(segment_path(&log, first))?);
            while let Some(raw) = lines.next()? {
                if !index::is_entry(raw.bytes) || !raw.whole {
                    continue;
                }
                let fits = serde_json::from_slice::<Value>(raw.bytes).is_ok_and(|entry| filter.fits(&entry));
                if fits && !each(&log, &String::from_utf8_lossy(raw.bytes))? {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}
