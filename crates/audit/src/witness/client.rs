//! The log's side: shows a witness what the log has grown into, and keeps what it signed beside the log.

use std::{
    fs::{self, File},
    io::{self, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use bartizan_model::Timestamp;

use super::{cosign, cosign::WitnessKey, message::AddCheckpoint};
use crate::{
    Checkpoint, PublicKey,
    export::{Answer, Authorization, Shipment, Transport},
    private::sync_folder,
    segment::{Line, Lines, end_of_log},
    storage::{segment_path, segments},
    tree::{Frontier, Hash, Proof},
};

/// How much of the end of the log in a segment is looked at for its last checkpoint before all of it is, in bytes.
const TAIL: u64 = 64 << 10;

/// How often a witness is told anew where to begin.
const TRIES: usize = 4;

/// A checkpoint with a witness's signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cosigned {
    /// What it says.
    pub checkpoint: Checkpoint,
    /// When the witness signed it.
    pub at: Timestamp,
}

/// Why a witness did not sign.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It has seen more of this log than there is now.
    #[error("the witness has seen {witnessed} entries, and there are {found}: the log was rolled back")]
    RolledBack {
        /// How many it has seen.
        witnessed: u64,
        /// How many there are.
        found: u64,
    },
    /// What it has seen is no part of this log.
    #[error("the witness has seen another log of this name: its first {witnessed} entries were others")]
    Forked {
        /// How many it has seen.
        witnessed: u64,
    },
    /// What it has seen cannot be compared with what is kept.
    #[error(
        "the witness has seen {witnessed} entries, and those are dropped: nothing can be proved to it any more"
    )]
    Dropped {
        /// How many it has seen.
        witnessed: u64,
    },
    /// It answers something else: it does not know this log, or is no witness.
    #[error("the witness answers HTTP {0}: does it know this log (`audit.pub`), and is the URL right?")]
    Unexpected(u16),
    /// It signed nothing, or not with its key.
    #[error("the witness's answer holds no signature of its key")]
    Unsigned,
    /// It cannot be reached.
    #[error("{0}")]
    Unreachable(String),
    /// The log itself cannot be read, or is not what was signed.
    #[error("the log cannot be shown to a witness: {0}")]
    Unreadable(String),
}

/// Whom a refusal speaks against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The log: it is not what it was.
    Log,
    /// The witness, or the way to it.
    Witness,
}

impl Refusal {
    /// Whom it speaks against.
    pub fn against(&self) -> Standing {
        match self {
            Self::RolledBack { .. } | Self::Forked { .. } | Self::Dropped { .. } | Self::Unreadable(_) => {
                Standing::Log
            }
            Self::Unexpected(_) | Self::Unsigned | Self::Unreachable(_) => Standing::Witness,
        }
    }

    /// A stable word for records.
    pub fn code(&self) -> &'static str {
        match self {
            Self::RolledBack { .. } => "witness.rolled_back",
            Self::Forked { .. } => "witness.forked",
            Self::Dropped { .. } => "witness.dropped",
            Self::Unexpected(_) => "witness.unexpected",
            Self::Unsigned => "witness.unsigned",
            Self::Unreachable(_) => "witness.unreachable",
            Self::Unreadable(_) => "witness.unreadable",
        }
    }
}

impl WitnessKey {
    /// Where what this witness signed last is kept, beside the log in `folder`.
    pub fn file(&self, folder: &Path) -> PathBuf {
        let name = self.name().as_str();
        let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        folder.join(format!("witness-{name}.checkpoint"))
    }

    /// What this witness signed last of the log in `folder`, which `log_key` signs, as it is kept there: whoever can rewrite
    /// the log can put an older one there too.
    pub fn last(&self, folder: &Path, log_key: &PublicKey) -> Option<Cosigned> {
        let note = fs::read_to_string(self.file(folder)).ok()?;
        let (checkpoint, at) = (log_key.open(&note)?, self.cosigned(&note)?);
        Some(Cosigned { checkpoint, at })
    }
}

/// One witness of any number of logs.
pub struct Witnessed {
    url: String,
    key: WitnessKey,
    log_key: PublicKey,
    transport: Arc<dyn Transport>,
}

impl Witnessed {
    /// The witness at the submission prefix `url`, known by `key`, of logs that `log_key` signs.
    pub fn new(url: &str, key: WitnessKey, log_key: PublicKey, transport: Arc<dyn Transport>) -> Self {
        Self { url: format!("{}/add-checkpoint", url.trim_end_matches('/')), key, log_key, transport }
    }

    /// What it is known by.
    pub fn key(&self) -> &WitnessKey {
        &self.key
    }

    /// Shows the witness the newest checkpoint of the log in `folder`, and keeps what it signs.
    ///
    /// # Errors
    /// [`Refusal`]; what was kept stays.
    pub async fn ask(&self, folder: &Path) -> Result<Cosigned, Refusal> {
        let mut old = self.key.last(folder, &self.log_key).map_or(0, |last| last.checkpoint.size);
        for _ in 0..TRIES {
            let (note, new) = self.newest(folder).await?;
            if old > new.size {
                return Err(Refusal::RolledBack { witnessed: old, found: new.size });
            }
            let proof = self.proof(folder, old, new.size).await?;
            let body = AddCheckpoint { old, proof, checkpoint: note.clone() }.encode();
            let answer = self.post(body).await?;
            match answer.status {
                200 => return self.keep(folder, &note, new, &answer).await,
                409 => {
                    let size =
                        std::str::from_utf8(&answer.body).ok().and_then(|body| body.trim().parse().ok());
                    let witnessed: u64 = size.ok_or(Refusal::Unexpected(409))?;
                    if witnessed == old {
                        return Err(Refusal::Forked { witnessed });
                    }
                    old = witnessed;
                }
                422 => return Err(Refusal::Forked { witnessed: old }),
                status => return Err(Refusal::Unexpected(status)),
            }
        }
        Err(Refusal::Unreachable("the witness is told of this log by somebody else all the time".to_owned()))
    }

    async fn newest(&self, folder: &Path) -> Result<(String, Checkpoint), Refusal> {
        let (folder, key) = (folder.to_owned(), self.log_key);
        blocking(move || {
            let found =
                newest_checkpoint(&folder, &key).map_err(|error| Refusal::Unreadable(error.to_string()))?;
            found.ok_or_else(|| Refusal::Unreadable("it has no signed checkpoint".to_owned()))
        })
        .await
    }

    async fn proof(&self, folder: &Path, old: u64, new: u64) -> Result<Vec<Hash>, Refusal> {
        if old == 0 || old == new {
            return Ok(Vec::new());
        }
        let folder = folder.to_owned();
        blocking(move || match consistency(&folder, old, new) {
            Ok(Some(proof)) => Ok(proof),
            Ok(None) => Err(Refusal::Dropped { witnessed: old }),
            Err(error) => Err(Refusal::Unreadable(error.to_string())),
        })
        .await
    }

    async fn post(&self, body: String) -> Result<Answer, Refusal> {
        let shipment = Shipment::Post {
            url: self.url.clone(),
            headers: vec![("content-type", "text/plain; charset=utf-8".to_owned())],
            authorization: Authorization::None,
            body: body.into_bytes(),
        };
        self.transport.carry(shipment).await.map_err(|error| Refusal::Unreachable(error.to_string()))
    }

    /// Keeps the note with what of the answer is this witness's.
    async fn keep(
        &self,
        folder: &Path,
        note: &str,
        new: Checkpoint,
        answer: &Answer,
    ) -> Result<Cosigned, Refusal> {
        let body = std::str::from_utf8(&answer.body).map_err(|_| Refusal::Unsigned)?;
        let (text, signatures) = cosign::parts(note).ok_or(Refusal::Unsigned)?;
        let ours = body.split('\n').find_map(|line| Some((line, self.key.check(text, line)?)));
        let (line, at) = ours.ok_or(Refusal::Unsigned)?;
        let whole = format!("{text}\n{signatures}{line}\n");
        let (path, folder) = (self.key.file(folder), folder.to_owned());
        blocking(move || {
            let write = || {
                let mut draft = tempfile::NamedTempFile::new_in(&folder)?;
                draft.write_all(whole.as_bytes())?;
                draft.as_file().sync_all()?;
                draft.persist(&path).map_err(|error| error.error)?;
                sync_folder(&folder)
            };
            write().map_err(|error: io::Error| Refusal::Unreadable(error.to_string()))
        })
        .await?;
        Ok(Cosigned { checkpoint: new, at })
    }
}

/// Reading a long log must not hold up whoever waits for something else.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let gone = |_| Refusal::Unreadable("reading it was given up".to_owned());
    tokio::task::spawn_blocking(work).await.map_err(gone)?
}

/// The newest checkpoint of the log in `folder` that `key` signed.
pub(crate) fn newest_checkpoint(folder: &Path, key: &PublicKey) -> io::Result<Option<(String, Checkpoint)>> {
    for first in segments(folder)?.into_iter().rev() {
        let path = segment_path(folder, first);
        let mut file = File::open(&path)?;
        let end = end_of_log(&file)?;
        for from in [end.saturating_sub(TAIL), 0] {
            file.seek(SeekFrom::Start(from))?;
            let mut found = None;
            let mut lines = Lines::new(&file);
            while let Some(raw) = lines.next()? {
                // From the middle of a line it is none of ours.
                if raw.whole
                    && let Some(Line::Checkpoint(note)) = Line::parse(raw.bytes)
                    && let Some(checkpoint) = key.open(&note)
                {
                    found = Some((note, checkpoint));
                }
            }
            if found.is_some() {
                return Ok(found);
            }
            if from == 0 {
                break;
            }
        }
    }
    Ok(None)
}

/// That the first `old` entries are the beginning of the first `new`; `None` if those that are needed are dropped.
fn consistency(folder: &Path, old: u64, new: u64) -> io::Result<Option<Vec<Hash>>> {
    let all = segments(folder)?;
    let Some(at) = all.iter().rposition(|first| *first <= old) else { return Ok(None) };
    let mut proof = None;
    let mut seen = 0;
    for &first in all.get(at..).unwrap_or_default() {
        let mut lines = Lines::new(File::open(segment_path(folder, first))?);
        while let Some(raw) = lines.next()? {
            match Line::parse(raw.bytes) {
                Some(Line::Start(start)) if proof.is_none() => {
                    let edge: Frontier = start.frontier().ok_or(io::ErrorKind::InvalidData)?;
                    seen = edge.size();
                    proof = Some(Proof::consistency(old, new, &edge).ok_or(io::ErrorKind::InvalidData)?);
                }
                Some(Line::Entry(bytes, _)) if seen < new && raw.whole => {
                    proof.as_mut().ok_or(io::ErrorKind::InvalidData)?.push(Hash::leaf(bytes));
                    seen += 1;
                }
                _ => {}
            }
        }
        if seen >= new {
            break;
        }
    }
    Ok(Some(proof.and_then(Proof::finish).ok_or(io::ErrorKind::InvalidData)?))
}

#[cfg(test)]
mod tests;
