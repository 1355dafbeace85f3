//! The segment being written, and the room behind the log in it.
//!
//! A write that makes a file longer costs a commit of the file system's journal on top of the write itself; one over bytes
//! that are there already does not. So the file is made longer than the log ahead of need, a stretch at a time and with the
//! sync that is paid for anyway, as databases do with theirs. The room is newlines: the file stays text, and readers tell
//! room from log ([`Lines`](crate::segment::Lines)).

use std::io;

use crate::storage::Segment;

/// The longest room, in bytes: a few hundred groups of one entry.
const ROOM: u64 = 256 << 10;

/// Files are given room in pages: less than one costs a page of disk all the same.
const PAGE: u64 = 4 << 10;

/// After the disk refused, the log grows by this much without room before room is tried for again.
const RESPITE: u64 = 64 << 10;

/// The segment being written.
pub struct Current {
    segment: Box<dyn Segment>,
    /// The number of its first entry.
    pub first: u64,
    /// How long the log in it is, in bytes.
    bytes: u64,
    /// How long the file is: from `bytes` on there are newlines.
    end: u64,
    /// Whether what is behind the log may be something else.
    torn: bool,
    /// How much our process has written. The room is no more than that, so that a log of a few lines takes little.
    written: u64,
    /// No room is made before the log is this long.
    roomless_below: u64,
}

impl Current {
    /// A segment that is still empty, of a process that has written `written` bytes before.
    pub fn begin(segment: Box<dyn Segment>, first: u64, written: u64) -> Self {
        Self { written, ..Self::resume(segment, first, 0, 0) }
    }

    /// A segment in which the log is `bytes` long, in a file that has newlines from there to `end`.
    pub fn resume(segment: Box<dyn Segment>, first: u64, bytes: u64, end: u64) -> Self {
        Self { segment, first, bytes, end, torn: false, written: 0, roomless_below: 0 }
    }

    /// How long the log in it is, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How much our process has written, to this segment and those before it.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Writes `group` behind the log and makes it durable. After an error, what is on the disk is not the log:
    /// [`clean`](Self::clean) must succeed before anything else is written.
    pub fn append(&mut self, group: &[u8]) -> io::Result<()> {
        self.torn = true;
        let length = group.len() as u64;
        let bytes = self.bytes + length;
        let synced = self.segment.write_at(self.bytes, group).and_then(|()| {
            let end = if bytes > self.end { self.make_room(bytes)? } else { self.end };
            self.segment.sync()?;
            Ok(end)
        });
        match synced {
            Ok(end) => (self.bytes, self.end, self.torn) = (bytes, end, false),
            Err(error) => {
                // Some disks say only now that they are full. Without room, the next group may still fit.
                self.roomless_below = bytes + RESPITE;
                return Err(error);
            }
        }
        self.written += length;
        Ok(())
    }

    /// Cuts what a failed write left behind, so that no second history with our signature exists beside the log.
    pub fn clean(&mut self) -> io::Result<()> {
        if self.torn {
            self.cut()?;
        }
        Ok(())
    }

    /// Ends the segment: the file is as long as the log, durably.
    pub fn seal(&mut self) -> io::Result<()> {
        if self.torn || self.end > self.bytes {
            self.cut()?;
        }
        Ok(())
    }

    fn cut(&mut self) -> io::Result<()> {
        // Until all of it has succeeded.
        self.torn = true;
        self.segment.truncate(self.bytes)?;
        self.end = self.bytes;
        self.segment.sync()?;
        self.torn = false;
        Ok(())
    }

    /// Makes room behind the first `bytes` bytes, which reach to the end of the file; returns where the file ends then. On a
    /// disk that is full there is none.
    fn make_room(&mut self, bytes: u64) -> io::Result<u64> {
        if bytes < self.roomless_below {
            return Ok(bytes);
        }
        let end = (bytes + self.written.min(ROOM)).next_multiple_of(PAGE);
        let newlines = vec![b'\n'; usize::try_from(end - bytes).unwrap_or(0)];
        if self.segment.write_at(bytes, &newlines).is_ok() {
            return Ok(end);
        }
        // Any part of it may be there.
        self.segment.truncate(bytes)?;
        self.roomless_below = bytes + RESPITE;
        Ok(bytes)
    }
}
