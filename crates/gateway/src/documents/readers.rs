//! Processes that read documents and can do nothing else.
//!
//! A reader is our own binary, started again by `sandbox`, in a cell ([`bartizan_sandbox::cell`]): it may use some memory
//! and time, its standard input and output, and nothing else. Few run at once, and servers take turns at them ([`Turns`]).
//! One that fails, dawdles or answers what is no answer is killed; each is replaced after [`READER_DOCUMENTS`], so that what
//! one document did to it does not last.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bartizan_model::ServerName;
use bartizan_sandbox::{Child, Launch, cell::Cell};
use bartizan_shield::document::{
    Limits, Unread, Words,
    wire::{self, ANSWER_HEAD},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{ChildStdin, ChildStdout},
    time::{Instant, timeout_at},
};

use super::turns::Turns;
use crate::limits::{READER_DOCUMENTS, READER_START, READER_WAIT, READERS, READING_LINE};

/// The processes of one gate that read documents.
pub struct Readers {
    launch: Option<Launch>,
    idle: Mutex<Vec<Reader>>,
    turns: Arc<Turns>,
    /// Processes that died, dawdled or lied so far.
    failed: AtomicU64,
}

struct Reader {
    /// Killed when it is dropped.
    _child: Child,
    input: ChildStdin,
    output: ChildStdout,
    cell: Cell,
    served: u32,
}

impl std::fmt::Debug for Readers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Readers").field("failed", &self.failed).finish_non_exhaustive()
    }
}

impl Default for Readers {
    /// Nobody: every document that takes a reader is one whose reader failed.
    fn default() -> Self {
        Self {
            launch: None,
            idle: Mutex::default(),
            turns: Turns::new(READERS, READING_LINE),
            failed: AtomicU64::default(),
        }
    }
}

impl Readers {
    /// Readers which are `binary`, started with the one argument `argument`. It says by one byte what keeps it in its cell
    /// ([`Cell::to_byte`]), then serves [`wire`]. `binary` is also its own launcher.
    pub fn new(binary: PathBuf, argument: &str) -> Self {
        let launch = Launch {
            program: binary.clone().into_os_string(),
            arguments: vec![argument.into()],
            folder: Some("/".into()),
            environment: std::collections::BTreeMap::new(),
            confinement: None,
            helper: binary,
        };
        Self { launch: Some(launch), ..Self::default() }
    }

    /// How many readers died, dawdled or lied so far.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// What keeps a reader in its cell; starts one to see.
    ///
    /// # Errors
    /// Why none started.
    pub async fn probe(&self) -> io::Result<Cell> {
        Ok(self.start().await?.cell)
    }

    /// The words of `document` of `server`, which is said to be of `media_type`, by `deadline`. What goes wrong is a reason
    /// not to have read it.
    pub async fn read(
        &self,
        server: &ServerName,
        document: Vec<u8>,
        media_type: String,
        limits: Limits,
        deadline: Instant,
    ) -> Words {
        let Some(question) = wire::question(&document, &media_type) else {
            return Words::unread(Unread::TooMuch);
        };
        let Ok(Some(_turn)) = timeout_at(deadline, self.turns.take(server)).await else {
            return Words::unread(Unread::Late);
        };
        loop {
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let was_used = idle.is_some();
            let reader = match idle {
                Some(reader) => Ok(reader),
                None => self.start().await,
            };
            let mut reader = match reader {
                Ok(reader) => reader,
                Err(error) => {
                    self.failed.fetch_add(1, Ordering::Relaxed);
                    tracing::error!(%error, "no reader of documents started");
                    return Words::unread(Unread::Failed);
                }
            };
            let until = (Instant::now() + READER_WAIT).min(deadline);
            let why = match timeout_at(until, reader.ask(&question, &document, limits)).await {
                Ok(Ok(words)) => {
                    reader.served += 1;
                    // One that says it failed goes on in an odd state.
                    if reader.served < READER_DOCUMENTS && words.unread != Some(Unread::Failed) {
                        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(reader);
                    }
                    return words;
                }
                // What earlier documents left it of time and memory may have been too little for this one.
                Ok(Err(_)) if was_used => continue,
                Ok(Err(_)) => Unread::Failed,
                Err(_) => Unread::Late,
            };
            self.failed.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(reason = ?why, bytes = document.len(), "a reader of documents was ended");
            return Words::unread(why);
        }
    }

    async fn start(&self) -> io::Result<Reader> {
        let launch = self.launch.as_ref().ok_or_else(|| io::Error::other("there are none here"))?;
        let mut child = launch.start().map_err(io::Error::other)?;
        let gone = || io::Error::other("it has no pipes");
        let input = child.take_stdin().ok_or_else(gone)?;
        let mut output = child.take_stdout().ok_or_else(gone)?;
        // What it complains of may be the document's words.
        drop(child.take_stderr());
        let byte = timeout_at(Instant::now() + READER_START, output.read_u8()).await??;
        let cell =
            Cell::from_byte(byte).ok_or_else(|| io::Error::other("it does not say what confines it"))?;
        Ok(Reader { _child: child, input, output, cell, served: 0 })
    }
}

impl Reader {
    /// Puts one question. After an error it must not be asked again.
    async fn ask(&mut self, question: &[u8], document: &[u8], limits: Limits) -> io::Result<Words> {
        self.input.write_all(question).await?;
        self.input.write_all(document).await?;
        self.input.flush().await?;
        let lie = || io::Error::new(io::ErrorKind::InvalidData, "it is no answer");
        let mut head = [0; ANSWER_HEAD];
        self.output.read_exact(&mut head).await?;
        let mut rest = vec![0; wire::answer_length(head, limits).ok_or_else(lie)?];
        self.output.read_exact(&mut rest).await?;
        wire::answer(&rest, limits).ok_or_else(lie)
    }
}
