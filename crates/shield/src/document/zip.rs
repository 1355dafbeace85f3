//! Just enough ZIP to read the files in one: the central directory, stored and deflated entries (PKWARE APPNOTE 6.3).
//! What the directory does not list is not there, and what it says of sizes is a limit, not a promise.

use std::io::Read;

use flate2::read::DeflateDecoder;

use super::Unread;

/// One file.
pub struct Entry<'z> {
    /// Its name, as written.
    pub name: String,
    /// 0 stored, 8 deflated.
    method: u16,
    is_encrypted: bool,
    packed: &'z [u8],
}

/// The files of `bytes`, at most `limit` of them.
///
/// # Errors
/// [`Unread`].
pub fn entries(bytes: &[u8], limit: usize) -> Result<Vec<Entry<'_>>, Unread> {
    // The end record is 22 bytes and a comment of at most 64 KiB from the end. Readers differ on which one counts if there are two,
    // or if something stands behind it.
    let tail = bytes.len().saturating_sub(22 + 65_535);
    let mut ends = memchr::memmem::find_iter(bytes.get(tail..).unwrap_or_default(), b"PK\x05\x06");
    let (Some(end), None) = (ends.next().map(|at| tail + at), ends.next()) else {
        return Err(Unread::Damaged);
    };
    if end + 22 + usize::from(short(bytes, end + 20)?) != bytes.len() {
        return Err(Unread::Damaged);
    }
    let count = usize::from(short(bytes, end + 10)?);
    let mut at = long(bytes, end + 16)?;
    if count > limit {
        return Err(Unread::TooMuch);
    }
    let mut found = Vec::with_capacity(count);
    for _ in 0..count {
        if bytes.get(at..at.saturating_add(4)) != Some(b"PK\x01\x02") {
            return Err(Unread::Damaged);
        }
        let (flags, method) = (short(bytes, at + 8)?, short(bytes, at + 10)?);
        let size = long(bytes, at + 20)?;
        let (name, extra, comment) = (short(bytes, at + 28)?, short(bytes, at + 30)?, short(bytes, at + 32)?);
        let (name, extra, comment) = (usize::from(name), usize::from(extra), usize::from(comment));
        let header = long(bytes, at + 42)?;
        let label = slice(bytes, at + 46, name)?;
        if slice(bytes, header, 4)? != b"PK\x03\x04" {
            return Err(Unread::Damaged);
        }
        let body =
            header + 30 + usize::from(short(bytes, header + 26)?) + usize::from(short(bytes, header + 28)?);
        found.push(Entry {
            name: String::from_utf8_lossy(label).into_owned(),
            method,
            is_encrypted: flags & 1 != 0,
            packed: slice(bytes, body, size)?,
        });
        at = at + 46 + name + extra + comment;
    }
    Ok(found)
}

impl Entry<'_> {
    /// Its first bytes, at most `count` of them.
    ///
    /// # Errors
    /// [`Unread`].
    pub fn begin(&self, count: usize) -> Result<Vec<u8>, Unread> {
        match (self.is_encrypted, self.method) {
            (true, _) => Err(Unread::Encrypted),
            (_, 0) => Ok(self.packed.get(..count.min(self.packed.len())).unwrap_or_default().to_vec()),
            (_, 8) => {
                let mut out = Vec::new();
                let most = u64::try_from(count).unwrap_or(u64::MAX);
                let read = DeflateDecoder::new(self.packed).take(most).read_to_end(&mut out);
                read.map(|_| out).map_err(|_| Unread::Damaged)
            }
            _ => Err(Unread::Kind),
        }
    }

    /// Its bytes, at most `limit` of them.
    ///
    /// # Errors
    /// [`Unread`].
    pub fn unpack(&self, limit: usize) -> Result<Vec<u8>, Unread> {
        match (self.is_encrypted, self.method) {
            (true, _) => Err(Unread::Encrypted),
            (_, 0) if self.packed.len() > limit => Err(Unread::TooMuch),
            (_, 0) => Ok(self.packed.to_vec()),
            (_, 8) => {
                let mut out = Vec::new();
                let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
                let unpacked = DeflateDecoder::new(self.packed).take(most).read_to_end(&mut out);
                match unpacked {
                    Ok(length) if length > limit => Err(Unread::TooMuch),
                    Ok(_) => Ok(out),
                    Err(_) => Err(Unread::Damaged),
                }
            }
            _ => Err(Unread::Kind),
        }
    }
}

fn slice(bytes: &[u8], at: usize, length: usize) -> Result<&[u8], Unread> {
    bytes.get(at..at.saturating_add(length)).ok_or(Unread::Damaged)
}

fn short(bytes: &[u8], at: usize) -> Result<u16, Unread> {
    slice(bytes, at, 2)?.first_chunk().map(|b| u16::from_le_bytes(*b)).ok_or(Unread::Damaged)
}

fn long(bytes: &[u8], at: usize) -> Result<usize, Unread> {
    let number = slice(bytes, at, 4)?.first_chunk().map(|b| u32::from_le_bytes(*b)).ok_or(Unread::Damaged)?;
    usize::try_from(number).map_err(|_| Unread::Damaged)
}
