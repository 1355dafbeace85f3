//! Finding entries: an index per closed segment, and the filter both it and a plain scan obey.
//!
//! An index file lists, for every `field=value` of its segment, the entries that have it. It holds hashes only, so
//! erasing a person leaves nothing of him here. It is a cache: a hit is read from the log and checked again, and a
//! missing or stale index is made anew. Whoever can edit it can hide entries from a search, not from `verify`.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufWriter, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use bartizan_model::Timestamp;
use serde_json::Value;

use crate::{event::rfc3339, segment::Lines};

/// The first bytes of an index file; the number is the format's.
const MAGIC: &[u8; 8] = b"bzindex1";

/// Magic, length of the segment, entries, terms, first and last time.
const HEADER: u64 = 8 + 8 + 4 + 4 + 8 + 8;

/// Fields that are not indexed: they are unique to an entry, or long, or sealed. A filter on one scans.
const UNINDEXED: [&str; 13] = [
    "seq",
    "base",
    "time",
    "attributes",
    "arguments",
    "result",
    "sealed_arguments",
    "sealed_result",
    "message",
    "checkpoint",
    "request_bytes",
    "response_bytes",
    "duration_us",
];

/// Which entries are wanted: all that fit every part.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// `field=value`: `server=files`, `findings.rule=…`. A field of a list fits if any element does.
    pub terms: Vec<Term>,
    /// Not before this time.
    pub since: Option<Timestamp>,
    /// Before this time.
    pub until: Option<Timestamp>,
}

/// One `field=value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    /// The field's name, with dots for fields of objects and lists.
    pub field: String,
    /// What it must be, as text.
    pub value: String,
}

impl Term {
    /// `field` must be `value`.
    pub fn new(field: impl Into<String>, value: impl Into<String>) -> Self {
        Self { field: field.into(), value: value.into() }
    }

    fn is_indexed(&self) -> bool {
        !UNINDEXED.contains(&self.field.split('.').next().unwrap_or_default())
    }

    fn hash(&self) -> u64 {
        hash(&self.field, &self.value)
    }
}

impl Filter {
    /// Whether an entry, given as JSON, is wanted.
    pub fn fits(&self, entry: &Value) -> bool {
        let time = || entry.get("time").and_then(Value::as_str).and_then(rfc3339::parse);
        let in_time =
            (self.since.is_none() && self.until.is_none()) || time().is_some_and(|time| self.in_time(time));
        let has = |term: &Term| {
            let mut found = false;
            each_scalar("", entry, &mut |field, value| found |= field == term.field && value == term.value);
            found
        };
        in_time && self.terms.iter().all(has)
    }

    fn in_time(&self, time: Timestamp) -> bool {
        self.since.is_none_or(|since| time >= since) && self.until.is_none_or(|until| time < until)
    }
}

/// The entries of one segment that fit.
pub struct Hits {
    /// The newest `limit` of them, newest first.
    pub lines: Vec<String>,
    /// How many there are.
    pub total: u64,
}

/// Searches the segment in the file `path`. Without an index it is read whole, in bounded memory; an index is made
/// first if the segment is `closed`.
pub fn search(path: &Path, closed: bool, filter: &Filter, limit: usize) -> io::Result<Hits> {
    if filter.terms.iter().all(Term::is_indexed) && closed {
        let look = || Index::open(path).and_then(|mut index| index.search(path, filter, limit));
        let found = look().or_else(|_| build(path).and_then(|()| look()));
        // An index that cannot be had, on a read-only disk for one, costs time only.
        if let Ok(hits) = found {
            return Ok(hits);
        }
    }
    scan(path, filter, limit)
}

fn scan(path: &Path, filter: &Filter, limit: usize) -> io::Result<Hits> {
    let mut lines = Lines::new(File::open(path)?);
    let mut newest = std::collections::VecDeque::new();
    let mut total = 0;
    while let Some(raw) = lines.next()? {
        if !is_entry(raw.bytes) || !raw.whole {
            continue;
        }
        let Ok(entry) = serde_json::from_slice::<Value>(raw.bytes) else { continue };
        if filter.fits(&entry) {
            total += 1;
            newest.push_front(String::from_utf8_lossy(raw.bytes).into_owned());
            newest.truncate(limit);
        }
    }
    Ok(Hits { lines: newest.into(), total })
}

/// Whether this line of a segment is an entry.
pub fn is_entry(line: &[u8]) -> bool {
    line.starts_with(b"{\"seq\":")
}

/// Writes the index of the segment in the file `path` beside it.
pub fn build(path: &Path) -> io::Result<()> {
    let length = fs::metadata(path)?.len();
    let mut lines = Lines::new(File::open(path)?);
    let (mut offsets, mut times) = (Vec::new(), Vec::new());
    let mut terms: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    while let Some(raw) = lines.next()? {
        if !is_entry(raw.bytes) {
            continue;
        }
        let ordinal = u32::try_from(offsets.len()).map_err(io::Error::other)?;
        offsets.push(u32::try_from(raw.offset).map_err(io::Error::other)?);
        let entry: Value = serde_json::from_slice(raw.bytes).unwrap_or_default();
        times.push(
            entry.get("time").and_then(Value::as_str).and_then(rfc3339::parse).map_or(0, Timestamp::as_unix),
        );
        each_scalar("", &entry, &mut |field, value| {
            if !UNINDEXED.contains(&field.split('.').next().unwrap_or_default()) {
                let list = terms.entry(hash(field, value)).or_default();
                if list.last() != Some(&ordinal) {
                    list.push(ordinal);
                }
            }
        });
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    let draft = tempfile::NamedTempFile::new_in(folder)?;
    let mut out = BufWriter::new(draft);
    out.write_all(MAGIC)?;
    out.write_all(&length.to_le_bytes())?;
    out.write_all(&u32::try_from(offsets.len()).map_err(io::Error::other)?.to_le_bytes())?;
    out.write_all(&u32::try_from(terms.len()).map_err(io::Error::other)?.to_le_bytes())?;
    out.write_all(&times.iter().min().copied().unwrap_or(0).to_le_bytes())?;
    out.write_all(&times.iter().max().copied().unwrap_or(0).to_le_bytes())?;
    for offset in &offsets {
        out.write_all(&offset.to_le_bytes())?;
    }
    for time in &times {
        out.write_all(&time.to_le_bytes())?;
    }
    let mut from = 0_u32;
    for (hash, list) in &terms {
        let count = u32::try_from(list.len()).map_err(io::Error::other)?;
        out.write_all(&hash.to_le_bytes())?;
        out.write_all(&from.to_le_bytes())?;
        out.write_all(&count.to_le_bytes())?;
        from += count;
    }
    for ordinal in terms.values().flatten() {
        out.write_all(&ordinal.to_le_bytes())?;
    }
    let draft = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    draft.persist(index_path(path)).map_err(|refused| refused.error)?;
    Ok(())
}

fn index_path(segment: &Path) -> PathBuf {
    segment.with_extension("index")
}

/// An index file, read where needed.
struct Index {
    file: File,
    entries: u64,
    terms: u64,
    first_time: Timestamp,
    last_time: Timestamp,
}

impl Index {
    /// The index of the segment in the file `segment`, if it is there and not stale.
    fn open(segment: &Path) -> io::Result<Self> {
        let mut file = File::open(index_path(segment))?;
        let mut magic = [0; 8];
        file.read_exact(&mut magic)?;
        if magic != *MAGIC || read_u64(&mut file)? != fs::metadata(segment)?.len() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let (entries, terms) = (read_u32(&mut file)?.into(), read_u32(&mut file)?.into());
        let (first_time, last_time) = (read_u64(&mut file)?, read_u64(&mut file)?);
        let index = Self {
            file,
            entries,
            terms,
            first_time: Timestamp::from_unix(first_time),
            last_time: Timestamp::from_unix(last_time),
        };
        if index.file.metadata()?.len() < index.lists_at() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(index)
    }

    fn search(&mut self, segment: &Path, filter: &Filter, limit: usize) -> io::Result<Hits> {
        let outside = filter.since.is_some_and(|since| self.last_time < since)
            || filter.until.is_some_and(|until| self.first_time >= until);
        if outside {
            return Ok(Hits { lines: Vec::new(), total: 0 });
        }
        let mut ordinals: Option<Vec<u32>> = None;
        for term in &filter.terms {
            let list = self.list(term.hash())?;
            ordinals = Some(match ordinals {
                None => list,
                Some(so_far) => intersection(&so_far, &list),
            });
        }
        // Without a term, every entry.
        let mut ordinals =
            ordinals.unwrap_or_else(|| (0..u32::try_from(self.entries).unwrap_or(u32::MAX)).collect());
        if filter.since.is_some() || filter.until.is_some() {
            let times = self.numbers(HEADER + 4 * self.entries, self.entries * 2)?;
            ordinals.retain(|ordinal| {
                let at = *ordinal as usize * 2;
                let time = times
                    .get(at)
                    .zip(times.get(at + 1))
                    .map(|(low, high)| u64::from(*high) << 32 | u64::from(*low));
                time.is_some_and(|time| filter.in_time(Timestamp::from_unix(time)))
            });
        }
        let total = ordinals.len() as u64;
        let mut file = File::open(segment)?;
        let mut lines = Vec::new();
        for ordinal in ordinals.iter().rev().take(limit) {
            self.file.seek(SeekFrom::Start(HEADER + 4 * u64::from(*ordinal)))?;
            file.seek(SeekFrom::Start(read_u32(&mut self.file)?.into()))?;
            let mut reader = Lines::new(&mut file);
            let Some(raw) = reader.next()? else { continue };
            if serde_json::from_slice::<Value>(raw.bytes).is_ok_and(|entry| filter.fits(&entry)) {
                lines.push(String::from_utf8_lossy(raw.bytes).into_owned());
            }
        }
        Ok(Hits { lines, total })
    }

    /// The entries that have the term with this hash, by binary search in the table on disk.
    fn list(&mut self, wanted: u64) -> io::Result<Vec<u32>> {
        let (mut low, mut high) = (0, self.terms);
        while low < high {
            let middle = low + (high - low) / 2;
            self.file.seek(SeekFrom::Start(self.terms_at() + 16 * middle))?;
            let found = read_u64(&mut self.file)?;
            match found.cmp(&wanted) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => {
                    let (from, count) = (read_u32(&mut self.file)?, read_u32(&mut self.file)?);
                    return self.numbers(self.lists_at() + 4 * u64::from(from), count.into());
                }
            }
        }
        Ok(Vec::new())
    }

    fn numbers(&mut self, at: u64, count: u64) -> io::Result<Vec<u32>> {
        self.file.seek(SeekFrom::Start(at))?;
        // No more than the file holds, whatever it claims.
        let mut bytes = Vec::new();
        Read::by_ref(&mut self.file).take(count * 4).read_to_end(&mut bytes)?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|chunk| u32::from_le_bytes(*chunk)).collect())
    }

    const fn terms_at(&self) -> u64 {
        HEADER + 12 * self.entries
    }

    const fn lists_at(&self) -> u64 {
        self.terms_at() + 16 * self.terms
    }
}

fn read_u32(reader: &mut File) -> io::Result<u32> {
    let mut bytes = [0; 4];
    reader.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

fn read_u64(reader: &mut File) -> io::Result<u64> {
    let mut bytes = [0; 8];
    reader.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

fn intersection(one: &[u32], two: &[u32]) -> Vec<u32> {
    let (short, long) = if one.len() <= two.len() { (one, two) } else { (two, one) };
    short.iter().copied().filter(|ordinal| long.binary_search(ordinal).is_ok()).collect()
}

/// Calls `each` with every scalar in `value`, its dotted name and its text.
fn each_scalar(name: &str, value: &Value, each: &mut dyn FnMut(&str, &str)) {
    match value {
        Value::Null => {}
        Value::Bool(yes) => each(name, if *yes { "true" } else { "false" }),
        Value::Number(number) => each(name, &number.to_string()),
        Value::String(text) => each(name, text),
        Value::Array(list) => list.iter().for_each(|element| each_scalar(name, element, each)),
        Value::Object(fields) => {
            for (field, value) in fields {
                if name.is_empty() {
                    each_scalar(field, value, each);
                } else {
                    each_scalar(&format!("{name}.{field}"), value, each);
                }
            }
        }
    }
}

/// FNV-1a over `field`, a zero and `value`. A collision costs one line read in vain.
fn hash(field: &str, value: &str) -> u64 {
    let bytes = field.bytes().chain([0]).chain(value.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
