//! How many files may be open: a child takes four of ours, its three pipes and what tells of its end, and the limit that most systems
//! begin with, 1024, is used up by a few hundred children.
//!
//! So we take as many as we may, which changes nothing for anybody else; children begin with the limit that we began with, for
//! `select(2)` in one of them may not bear more.

use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Of ours for each child.
const EACH: u64 = 4;
/// What is left for connections, the store and the log, at least.
const OTHERS: u64 = 256;

/// The limit we began with, if it was changed.
static BEGUN_WITH: OnceLock<u64> = OnceLock::new();

/// Raises this process's limit as far as it may.
///
/// # Errors
/// What the system says; the limit is as it was then.
pub fn raise_open_files() -> std::io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let Some(current) = limit.current.filter(|current| limit.maximum.is_none_or(|most| most > *current))
    else {
        return Ok(());
    };
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    let _ = BEGUN_WITH.set(current);
    Ok(())
}

/// How many children leave files for everything else.
pub fn room_for_children() -> usize {
    let Some(current) = getrlimit(Resource::Nofile).current else { return usize::MAX };
    // Half of few, and all but some of many.
    let room = (current / 2).max(current.saturating_sub(OTHERS.max(current / 8))) / EACH;
    usize::try_from(room).unwrap_or(usize::MAX)
}

/// What the helper is told of its parent.
pub(crate) fn with_limit(parent: u32) -> String {
    match BEGUN_WITH.get() {
        Some(limit) => format!("{parent}/{limit}"),
        None => parent.to_string(),
    }
}

/// Takes what [`with_limit`] says apart.
pub(crate) fn read(told: &str) -> Option<(i32, Option<u64>)> {
    match told.split_once('/') {
        Some((parent, limit)) => Some((parent.parse().ok()?, Some(limit.parse().ok()?))),
        None => Some((told.parse().ok()?, None)),
    }
}

/// Puts the limit back, in a child.
pub(crate) fn put_back(limit: Option<u64>) -> std::io::Result<()> {
    if let Some(current) = limit {
        let now = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: Some(current), ..now })?;
    }
    Ok(())
}
