//! Proofs that one entry is in the log, for somebody who has nothing but the public key (C2SP tlog-proof).

use std::{fs::File, io, path::Path};

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::{
    check::{Checker, Problem},
    checkpoint::{Checkpoint, PublicKey},
    segment::{Line, Lines},
    storage::{segment_path, segments},
    tree::{Frontier, Hash, Proof, verify_inclusion},
};

/// The first line of a proof.
const MAGIC: &str = "c2sp.org/tlog-proof@v1";

/// Why there is no proof.
#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    /// The log cannot be read.
    #[error("cannot read the log: {0}")]
    Io(#[from] io::Error),
    /// There is no such entry under the last checkpoint.
    #[error("entry {0} is not in this log, or not yet, or dropped")]
    NoSuchEntry(u64),
    /// The log is not what was signed.
    #[error("the log does not verify: {0}")]
    Tampered(#[from] Problem),
    /// A text that is not a proof, or proves nothing under this key.
    #[error("this proof does not hold under this key")]
    DoesNotHold,
}

/// An entry that is proved.
#[derive(Debug, PartialEq, Eq)]
pub struct Proved {
    /// The entry's number.
    pub seq: u64,
    /// The entry as it was written.
    pub line: String,
    /// The checkpoint it is proved against.
    pub checkpoint: Checkpoint,
}

/// A C2SP tlog-proof that entry `seq` is in the log in `folder`, with the entry itself as its extra data. The whole log
/// is read twice, in bounded memory, and verified on the way.
///
/// # Errors
/// [`ProveError`].
pub fn prove(folder: &Path, key: &PublicKey, seq: u64) -> Result<String, ProveError> {
    let all = segments(folder)?;
    let mut checker = Checker::new(key, None);
    let mut start: Option<Frontier> = None;
    let mut wanted = None;
    for_each_line(folder, &all, |first, raw| {
        if raw.number == 1 {
            checker.start(first, Some(raw))?;
            start.get_or_insert_with(|| checker.frontier().clone());
        } else {
            let at = checker.frontier().size();
            match checker.line(raw) {
                // The end is being written: what is signed is behind us.
                Err(Problem::Truncated { .. }) => return Ok(false),
                seen => seen?,
            };
            if at == seq && checker.frontier().size() > seq && wanted.is_none() {
                wanted = Some(raw.bytes.to_vec());
            }
        }
        Ok(true)
    })?;
    let (checkpoint, note) = checker.last().ok_or(ProveError::NoSuchEntry(seq))?;
    let (line, edge) = wanted.zip(start).ok_or(ProveError::NoSuchEntry(seq))?;
    let mut proof = Proof::inclusion(seq, checkpoint.size, &edge).ok_or(ProveError::NoSuchEntry(seq))?;
    for_each_line(folder, &all, |_, raw| {
        if let Some(Line::Entry(bytes, _)) = Line::parse(raw.bytes) {
            proof.push(Hash::leaf(bytes));
        }
        Ok(true)
    })?;
    let hashes = proof.finish().ok_or(ProveError::NoSuchEntry(seq))?;
    let hashes: String = hashes.iter().map(|hash| format!("{hash}\n")).collect();
    Ok(format!("{MAGIC}\nextra {}\nindex {seq}\n{hashes}\n{note}", STANDARD.encode(line)))
}

/// What `proof` proves under `key`.
///
/// # Errors
/// [`ProveError::DoesNotHold`].
pub fn check_proof(proof: &str, key: &PublicKey) -> Result<Proved, ProveError> {
    parse(proof, key).ok_or(ProveError::DoesNotHold)
}

fn parse(proof: &str, key: &PublicKey) -> Option<Proved> {
    let (head, note) = proof.split_once("\n\n")?;
    let checkpoint = key.open(note)?;
    let mut lines = head.split('\n');
    if lines.next()? != MAGIC {
        return None;
    }
    let entry = STANDARD.decode(lines.next()?.strip_prefix("extra ")?).ok()?;
    let seq: u64 = lines.next()?.strip_prefix("index ")?.parse().ok()?;
    let hashes = lines.map(|line| line.parse().ok()).collect::<Option<Vec<Hash>>>()?;
    let holds = verify_inclusion(Hash::leaf(&entry), seq, checkpoint.size, &hashes, checkpoint.root);
    holds.then_some(Proved { seq, line: String::from_utf8(entry).ok()?, checkpoint })
}

/// Calls `each` with every line of the log, and the segment it is in, until it says to stop.
fn for_each_line(
    folder: &Path,
    segments: &[u64],
    mut each: impl FnMut(u64, &crate::segment::Raw<'_>) -> Result<bool, Problem>,
) -> Result<(), ProveError> {
    for &first in segments {
        let mut lines = Lines::new(File::open(segment_path(folder, first))?);
        while let Some(raw) = lines.next()? {
            if !each(first, &raw)? {
                return Ok(());
            }
        }
    }
    Ok(())
}
