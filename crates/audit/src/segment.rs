//! The lines of a segment file.
//!
//! The first line is its [`Start`]; then come entries, each group followed by the checkpoint that was written with it.
//! Every line is JSON and ends in a newline; an entry's leaf is its line without the newline. Behind the last line there may
//! be room for more: newlines to the end of the file, which are no part of the log. A blank line that anything follows is
//! damage.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    os::unix::fs::FileExt,
};

use serde::{Deserialize, Serialize, de::IgnoredAny};

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

/// Where the room behind the log begins in the file of a segment.
pub fn end_of_log(file: &File) -> io::Result<u64> {
    let length = file.metadata()?.len();
    let mut end = length;
    let mut chunk = [0; 8 << 10];
    while end > 0 {
        let from = end.saturating_sub(chunk.len() as u64);
        let read = file.read_at(&mut chunk, from)?;
        let bytes = chunk.get(..read.min(usize::try_from(end - from).unwrap_or(0))).unwrap_or_default();
        if let Some(last) = bytes.iter().rposition(|byte| *byte != b'\n') {
            // Its newline, if it has one, is the log's.
            return Ok((from + last as u64 + 2).min(length));
        }
        end = from;
    }
    Ok(end)
}

/// Reads a segment line by line in bounded memory, up to the room behind the log. Also while it is written: what is read is
/// the beginning of the log as it was at some moment.
pub struct Lines<R> {
    reader: BufReader<R>,
    line: Vec<u8>,
    offset: u64,
    number: u64,
    /// Whether something is damaged for certain: from there on lines are told as they stand.
    damaged: bool,
    /// Whether the room begins here.
    ended: bool,
}

/// A line as it was found.
pub struct Raw<'a> {
    /// The bytes without their newline.
    pub bytes: &'a [u8],
    /// Whether it is all there: it has a newline, which is not the room's behind a line that was cut off.
    pub whole: bool,
    /// Where the line starts, in bytes.
    pub offset: u64,
    /// Its number, from 1.
    pub number: u64,
}

/// What follows the newline of a line.
#[derive(PartialEq, Eq)]
enum Behind {
    /// The next line, or the end of the file.
    More,
    /// Room, up to the end of the file.
    Room,
    /// This many blank lines, and then something, or a line that is none of ours: damage, unless it was written a moment ago.
    Blank(u64),
}

impl<R: Read + Seek> Lines<R> {
    pub fn new(reader: R) -> Self {
        let reader = BufReader::with_capacity(1 << 18, reader);
        Self { reader, line: Vec::new(), offset: 0, number: 0, damaged: false, ended: false }
    }

    /// The next line, or `None` at the end.
    pub fn next(&mut self) -> io::Result<Option<Raw<'_>>> {
        if self.ended {
            return Ok(None);
        }
        let (mut whole, mut behind) = self.read()?;
        while let Behind::Blank(blank) = behind {
            // Room is filled from its beginning on, but a file is not read at one stroke: what was room where the reading was
            // may be written by the time it gets to what is behind. Then it reads differently now.
            let seen = std::mem::take(&mut self.line);
            self.back(seen.len() as u64 + 1 + blank)?;
            (whole, behind) = self.read()?;
            if behind == Behind::Blank(blank) && self.line == seen {
                self.back(blank)?;
                self.damaged = true;
                break;
            }
        }
        if behind == Behind::Room {
            self.ended = true;
            whole = is_json(&self.line);
        }
        if self.line.is_empty() && (self.ended || !whole) {
            return Ok(None);
        }
        let offset = self.offset;
        self.offset += self.line.len() as u64 + u64::from(whole || self.ended);
        self.number += 1;
        Ok(Some(Raw { bytes: &self.line, whole, offset, number: self.number }))
    }

    /// Reads a line, and looks behind it. Whether it ends in a newline.
    fn read(&mut self) -> io::Result<(bool, Behind)> {
        self.line.clear();
        Read::by_ref(&mut self.reader).take(MAX_LINE).read_until(b'\n', &mut self.line)?;
        let whole = self.line.pop_if(|last| *last == b'\n').is_some();
        // Where a stroke of reading ends, a line may be half of what it is now: then its newline was room.
        let at_edge = whole && self.reader.buffer().is_empty();
        if at_edge && !self.damaged && !self.line.is_empty() && !is_json(&self.line) {
            return Ok((whole, Behind::Blank(0)));
        }
        // A line of ours ends in a brace, and no blank one is behind it.
        let is_plain = self.line.ends_with(b"}") && self.reader.fill_buf()?.first() != Some(&b'\n');
        if !whole || is_plain || self.damaged {
            return Ok((whole, Behind::More));
        }
        let mut blank = 0;
        loop {
            let buffer = self.reader.fill_buf()?;
            let newlines = buffer.iter().take_while(|byte| **byte == b'\n').count();
            let (ended, interrupted) = (buffer.is_empty(), newlines < buffer.len());
            self.reader.consume(newlines);
            blank += newlines as u64;
            if ended {
                let is_room = blank > 0 || self.line.is_empty();
                return Ok((whole, if is_room { Behind::Room } else { Behind::More }));
            }
            if interrupted {
                return Ok((whole, Behind::Blank(blank)));
            }
        }
    }

    /// Reads the last `bytes` bytes anew.
    fn back(&mut self, bytes: u64) -> io::Result<()> {
        let back = i64::try_from(bytes).map_err(io::Error::other)?;
        self.reader.seek(SeekFrom::Current(-back)).map(drop)
    }
}

fn is_json(line: &[u8]) -> bool {
    serde_json::from_slice::<IgnoredAny>(line).is_ok()
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    /// A file that is written while it is read: each read sees the next of its states, and no more bytes than told.
    struct Growing {
        states: Vec<Vec<u8>>,
        reads: usize,
        at: usize,
        stroke: usize,
    }

    impl Read for Growing {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let state = &self.states[self.reads.min(self.states.len() - 1)];
            self.reads += 1;
            let bytes = state.get(self.at..).unwrap_or_default();
            let length = bytes.len().min(into.len()).min(self.stroke);
            into[..length].copy_from_slice(&bytes[..length]);
            self.at += length;
            Ok(length)
        }
    }

    impl Seek for Growing {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            let SeekFrom::Current(by) = to else { panic!("only back and forth") };
            self.at = self.at.checked_add_signed(isize::try_from(by).unwrap()).unwrap();
            Ok(self.at as u64)
        }
    }

    /// Every line: its number, where it starts, its text, and whether it is whole.
    fn read(reader: impl Read + Seek) -> Vec<(u64, u64, String, bool)> {
        let (mut lines, mut found) = (Lines::new(reader), Vec::new());
        while let Some(raw) = lines.next().unwrap() {
            let text = String::from_utf8(raw.bytes.to_vec()).unwrap();
            found.push((raw.number, raw.offset, text, raw.whole));
        }
        assert!(lines.next().unwrap().is_none(), "the end stays the end");
        found
    }

    fn line(number: u64, offset: u64, text: &str) -> (u64, u64, String, bool) {
        (number, offset, text.to_owned(), true)
    }

    #[test]
    fn room_is_no_part_of_the_log_and_a_blank_line_before_something_is_a_line() {
        let two = vec![line(1, 0, "{}"), line(2, 3, "{ }")];
        for room in ["", "\n", "\n\n", &"\n".repeat(600_000)] {
            assert_eq!(read(Cursor::new(format!("{{}}\n{{ }}\n{room}"))), two);
            assert_eq!(read(Cursor::new(room)), []);
        }
        let blank = "\n".repeat(3);
        let damaged = vec![line(1, 0, ""), line(2, 1, "{}"), line(3, 4, ""), line(4, 5, ""), line(5, 6, "x")];
        assert_eq!(read(Cursor::new(format!("\n{{}}\n\n\nx\n{blank}")))[..5], damaged);
        assert_eq!(read(Cursor::new("\n{}\n\n\nx\n")), damaged);
        assert_eq!(read(Cursor::new("\n\n\0"))[..2], [line(1, 0, ""), line(2, 1, "")]);
        let long = read(Cursor::new(format!("{{}}\n{}x\n{{}}\n", "\n".repeat(300_000))));
        assert_eq!((long.len(), long[299_999].2.as_str()), (300_003, ""));
        assert_eq!(long[300_001..], [line(300_002, 300_003, "x"), line(300_003, 300_005, "{}")]);
    }

    #[test]
    fn a_line_that_was_cut_off_does_not_pass_for_whole_by_the_room_behind_it() {
        for text in [r#"{"seq":1,"base"#, r#"{"seq":1"#, "{", "\u{1}"] {
            let cut = vec![(1, 0, text.to_owned(), false)];
            assert_eq!(read(Cursor::new(text)), cut, "without room");
            assert_eq!(read(Cursor::new(format!("{text}\n\n\n"))), cut, "with room");
            assert!(read(Cursor::new(format!("{text}\n")))[0].3, "its own newline");
            assert!(read(Cursor::new(format!("{text}\n\nx\n")))[0].3, "damaged rather than cut off");
        }
    }

    #[test]
    fn room_that_is_filled_while_it_is_read_is_not_taken_for_damage_and_nothing_in_it_is_missed() {
        let groups = ["{}\n", "{\"a\":1}\n{ }\n", "{\"c\":2}\n", "{\"b\":[4]}\n{\"d\":{\"e\":{}}}\n", "{}\n"];
        // The file after each byte, as the writer goes on from the left.
        let whole = groups.concat();
        let state = |written: usize| {
            let mut bytes = vec![b'\n'; whole.len() + 20];
            bytes[..written].copy_from_slice(&whole.as_bytes()[..written]);
            bytes
        };
        for stroke in 1..9 {
            for pace in 0..9 {
                for from in 0..whole.len() {
                    let states =
                        (from..=whole.len()).step_by(pace + 1).chain([whole.len()]).map(state).collect();
                    let found = read(Growing { states, reads: 0, at: 0, stroke });
                    let (said, told) = (whole.lines(), found.iter().filter(|line| line.3));
                    let told: Vec<_> = told.map(|line| line.2.as_str()).collect();
                    let said: Vec<_> = said.take(told.len()).collect();
                    assert_eq!(told, said, "{stroke} bytes at a time, {pace} bytes faster, from {from}");
                    let cut = found.iter().position(|line| !line.3);
                    assert!(cut.is_none_or(|at| at == found.len() - 1), "only the last can be cut off");
                }
            }
        }
    }

    #[test]
    fn the_end_of_a_log_is_found_before_any_room() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("segment");
        for log in
            ["", "x\n", "{}\n[1]\n", &format!("{}\n", "y".repeat(8190)), &format!("{}\n", "y".repeat(8191))]
        {
            for room in [0, 1, 8190, 8191, 8192, 100_000] {
                std::fs::write(&path, format!("{log}{}", "\n".repeat(room))).unwrap();
                assert_eq!(end_of_log(&File::open(&path).unwrap()).unwrap(), log.len() as u64, "{room}");
            }
        }
        std::fs::write(&path, "{}\nx").unwrap();
        assert_eq!(end_of_log(&File::open(&path).unwrap()).unwrap(), 4, "without a newline");
    }
}
