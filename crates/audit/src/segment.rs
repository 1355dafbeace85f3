//! The lines of a segment file.
//!
//! The first line is its [`Start`]; then come entries, each group followed by the checkpoint that was written with it.
//! Every line is JSON and ends in a newline; an entry's leaf is its line without the newline.

use std::io::{self, BufRead, BufReader, Read};

use serde::{Deserialize, Serialize};

use crate::tree::{Frontier, Hash};

/// The longest line that is read. What we write is far shorter.
const MAX_LINE: u64 = 16 << 20;

/// How a segment starts: all that came before it, summed up, so that it can be verified without the segments that
/// retention has dropped.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// The number of the first entry.
    pub first: u64,
    /// The subtrees over the entries before it.
    pub subtrees: Vec<Hash>,
    /// The signed checkpoint whose size is `first`.
    pub checkpoint: String,
}

impl Start {
    /// The edge of the tree before this segment, if its parts fit.
    pub fn frontier(&self) -> Option<Frontier> {
        Frontier::from_parts(self.first, self.subtrees.clone())
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StartLine {
    segment: Start,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckpointLine {
    checkpoint: String,
}

/// What every verifier needs of an entry.
#[derive(Debug, Deserialize)]
pub struct Position<'a> {
    pub seq: u64,
    pub base: u64,
    #[serde(borrow)]
    pub kind: std::borrow::Cow<'a, str>,
    pub time: std::borrow::Cow<'a, str>,
    #[serde(default)]
    pub count: Option<u64>,
}

/// A line without its newline.
pub enum Line<'a> {
    Start(Start),
    Entry(&'a [u8], Position<'a>),
    Checkpoint(String),
}

impl<'a> Line<'a> {
    /// Reads a line; `None` if it is none of ours, or not as we write it: our own two kinds have one spelling only.
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        if line.starts_with(br#"{"segment":"#) {
            let parsed: StartLine = serde_json::from_slice(line).ok()?;
            (start_line(&parsed.segment)?.strip_suffix(b"\n") == Some(line))
                .then_some(Self::Start(parsed.segment))
        } else if line.starts_with(br#"{"checkpoint":"#) {
            let parsed: CheckpointLine = serde_json::from_slice(line).ok()?;
            (checkpoint_line(&parsed.checkpoint)?.strip_suffix(b"\n") == Some(line))
                .then_some(Self::Checkpoint(parsed.checkpoint))
        } else {
            Some(Self::Entry(line, serde_json::from_slice(line).ok()?))
        }
    }
}

/// `start` as a line with its newline.
pub fn start_line(start: &Start) -> Option<Vec<u8>> {
    #[derive(Serialize)]
    struct Borrowed<'a> {
        segment: &'a Start,
    }
    finished(serde_json::to_vec(&Borrowed { segment: start }))
}

/// A checkpoint's note as a line with its newline.
pub fn checkpoint_line(note: &str) -> Option<Vec<u8>> {
    #[derive(Serialize)]
    struct Borrowed<'a> {
        checkpoint: &'a str,
    }
    finished(serde_json::to_vec(&Borrowed { checkpoint: note }))
}

fn finished(line: serde_json::Result<Vec<u8>>) -> Option<Vec<u8>> {
    let mut line = line.ok()?;
    line.push(b'\n');
    Some(line)
}

/// Reads a segment line by line in bounded memory.
pub struct Lines<R> {
    reader: BufReader<R>,
    line: Vec<u8>,
    offset: u64,
    number: u64,
}

/// A line as it was found.
pub struct Raw<'a> {
    /// The bytes without their newline.
    pub bytes: &'a [u8],
    /// Whether there was a newline.
    pub whole: bool,
    /// Where the line starts, in bytes.
    pub offset: u64,
    /// Its number, from 1.
    pub number: u64,
}

impl<R: Read> Lines<R> {
    pub fn new(reader: R) -> Self {
        Self { reader: BufReader::with_capacity(1 << 18, reader), line: Vec::new(), offset: 0, number: 0 }
    }

    /// The next line, or `None` at the end.
    pub fn next(&mut self) -> io::Result<Option<Raw<'_>>> {
        self.line.clear();
        let read = Read::by_ref(&mut self.reader).take(MAX_LINE).read_until(b'\n', &mut self.line)?;
        if read == 0 {
            return Ok(None);
        }
        let whole = self.line.pop_if(|last| *last == b'\n').is_some();
        let offset = self.offset;
        self.offset += read as u64;
        self.number += 1;
        Ok(Some(Raw { bytes: &self.line, whole, offset, number: self.number }))
    }
}
