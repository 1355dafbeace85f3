//! Finding the end of the log after a crash.
//!
//! Nothing past the last signed checkpoint was ever acknowledged, so it may be cut. But a torn write leaves lines that
//! are cut or have holes, never whole ones that say something else; and a checkpoint that anything of another group follows
//! *was* acknowledged, because a new group is begun only when the one before it is durable. Damage of either sort is no torn
//! write, and the log is refused.
//!
//! A group is written over room, in pages that reach the disk in any order. So its end may be there with its beginning still
//! blank; and what was room around it, newlines or the zeros of a file that was being made longer, tells nothing about what
//! was acknowledged.

use std::{
    collections::BTreeSet,
    io::{Read, Seek, SeekFrom},
};

use bartizan_model::Timestamp;

use crate::{
    check::{Checker, Problem, Seen},
    checkpoint::{Origin, PublicKey},
    event::{Entry, EventId, Kind, rfc3339},
    log::{
        OpenError,
        current::Current,
        writer::{Closed, Durable},
    },
    segment::{Line, Lines},
    storage::Storage,
};

/// The log as it was found.
pub struct Recovered {
    /// `None` if there is no log yet.
    pub durable: Option<Durable>,
    pub older: Vec<Closed>,
    pub current: Option<Current>,
    /// How many bytes were cut.
    pub cut: u64,
}

/// Reads the first line of every segment and all of the newest one, and cuts its torn end.
pub fn recover(storage: &dyn Storage, key: &PublicKey, origin: &Origin) -> Result<Recovered, OpenError> {
    let mut segments = storage.list()?;
    let mut cut = 0;
    while let Some(first) = segments.pop() {
        let Some((durable, bytes)) = read_newest(storage, key, origin, first)? else {
            // Not one group of this segment is whole: we died while beginning it.
            cut += keep_aside(storage, first, 0)?.torn;
            storage.remove(first)?;
            continue;
        };
        let older = read_older(storage, key, origin, &segments, first)?;
        let Rest { torn, end } = keep_aside(storage, first, bytes)?;
        let mut segment = storage.resume(first)?;
        if torn > 0 {
            segment.truncate(bytes)?;
        }
        // What we build on must be durable, whoever wrote it.
        segment.sync()?;
        let current = Some(Current::resume(segment, first, bytes, end));
        return Ok(Recovered { durable: Some(durable), older, current, cut: cut + torn });
    }
    Ok(Recovered { durable: None, older: Vec::new(), current: None, cut })
}

/// The log up to the last checkpoint in the newest segment, and how many bytes of the segment that is. `None` if no
/// group of entries in it is whole.
fn read_newest(
    storage: &dyn Storage,
    key: &PublicKey,
    origin: &Origin,
    first: u64,
) -> Result<Option<(Durable, u64)>, OpenError> {
    let mut checker = Checker::new(key, Some(origin.clone()));
    let mut open_calls = BTreeSet::new();
    let mut good = None;
    let mut damage: Option<Problem> = None;
    let mut acknowledged = false;
    let mut lines = Lines::new(storage.read(first)?);
    while let Some(raw) = lines.next()? {
        // Neither room nor a hole: another group.
        let is_written = raw.bytes.iter().any(|byte| *byte != 0);
        if let Some(problem) = damage.as_ref().filter(|_| acknowledged && is_written) {
            return Err(problem.clone().into());
        }
        if damage.is_none() {
            let seen = if raw.number == 1 {
                checker.start(first, Some(&raw)).map(|()| None)
            } else {
                checker.line(&raw).map(Some)
            };
            match seen {
                Ok(Some(Seen::Entry { .. })) => follow(raw.bytes, &mut open_calls),
                Ok(Some(Seen::Checkpoint)) => {
                    let note = checker.last().map(|(_, note)| note.clone()).unwrap_or_default();
                    let frontier = checker.frontier().clone();
                    let durable = Durable { frontier, note, open_calls: open_calls.clone() };
                    good = Some((durable, raw.offset + raw.bytes.len() as u64 + 1));
                }
                Ok(None) => {}
                Err(problem) if raw.whole && Line::parse(raw.bytes).is_some() => return Err(problem.into()),
                Err(problem) => damage = Some(problem),
            }
        }
        acknowledged |=
            damage.is_some() && raw.whole && matches!(Line::parse(raw.bytes), Some(Line::Checkpoint(_)));
    }
    Ok(good)
}

/// Keeps account of the calls that are open after this entry.
fn follow(line: &[u8], open_calls: &mut BTreeSet<EventId>) {
    let Ok(entry) = serde_json::from_slice::<Entry>(line) else { return };
    match entry.kind {
        Kind::CallOpened => drop(open_calls.insert(entry.id)),
        Kind::CallClosed => drop(entry.details.call.map(|call| open_calls.remove(&call))),
        Kind::LogRotated => open_calls.extend(entry.details.open_calls),
        _ => {}
    }
}

/// The older segments, of which only the first line is verified: `bartizan audit verify` reads the rest.
fn read_older(
    storage: &dyn Storage,
    key: &PublicKey,
    origin: &Origin,
    segments: &[u64],
    newest: u64,
) -> Result<Vec<Closed>, OpenError> {
    let mut older = Vec::with_capacity(segments.len());
    let next = segments.iter().skip(1).chain([&newest]);
    for (&first, &next) in segments.iter().zip(next) {
        Checker::new(key, Some(origin.clone()))
            .start(first, Lines::new(storage.read(first)?).next()?.as_ref())?;
        // Of an age that nobody can tell: no retention may take what somebody damaged.
        let at = began(storage, next)?.unwrap_or(Timestamp::from_unix(u64::MAX));
        older.push(Closed { first, bytes: storage.length(first)?, at });
    }
    Ok(older)
}

/// When the segment `first` was begun, by its first entry.
fn began(storage: &dyn Storage, first: u64) -> Result<Option<Timestamp>, OpenError> {
    let mut lines = Lines::new(storage.read(first)?);
    lines.next()?;
    let Some(raw) = lines.next()? else { return Ok(None) };
    let Some(Line::Entry(_, position)) = Line::parse(raw.bytes) else { return Ok(None) };
    Ok(rfc3339::parse(&position.time))
}

/// What follows the log in the file of its newest segment.
struct Rest {
    /// How many bytes that are not room.
    torn: u64,
    /// Where the file ends once those are cut.
    end: u64,
}

/// Keeps what follows the first `from` bytes of a segment for whoever looks into it, if it is more than room.
fn keep_aside(storage: &dyn Storage, first: u64, from: u64) -> Result<Rest, OpenError> {
    let mut reader = storage.read(first)?;
    reader.seek(SeekFrom::Start(from))?;
    let mut rest = Vec::new();
    Read::by_ref(&mut reader).take(64 << 20).read_to_end(&mut rest)?;
    let end = from + rest.len() as u64;
    let is_all = reader.read(&mut [0])? == 0;
    if is_all && rest.iter().all(|byte| *byte == b'\n') {
        return Ok(Rest { torn: 0, end });
    }
    // Its last newline is its own, those behind that are room.
    while rest.ends_with(b"\n\n") {
        rest.pop();
    }
    storage.keep_aside(first, &rest)?;
    Ok(Rest { torn: rest.len() as u64, end: from })
}
