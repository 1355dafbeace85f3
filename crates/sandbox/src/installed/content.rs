//! Contents by SHA-256, each read once.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File, OpenOptions},
    io::Read,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, UNIX_EPOCH},
};

use aws_lc_rs::digest;

/// Lockfiles, manifests and records larger than this are not read, in bytes.
const SMALL: u64 = 16 << 20;

/// Files of a package that are looked at.
pub const FILES: usize = 4_000;

/// Bytes of a package that are looked at.
const BYTES: u64 = 256 << 20;

/// Contents that are remembered.
const REMEMBERED: usize = 20_000;

/// What tells one content from another without reading: nobody but the kernel writes the time of change.
type Stamp = (u64, u64, u64, (i64, i64), (i64, i64));

type Known = HashMap<PathBuf, (Stamp, [u8; 32])>;

static KNOWN: Mutex<Option<Known>> = Mutex::new(None);

pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    array(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn array(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    for (to, from) in out.iter_mut().zip(bytes) {
        *to = *from;
    }
    out
}

fn stamp(about: &fs::Metadata) -> Stamp {
    let modified = (about.mtime(), about.mtime_nsec());
    (about.dev(), about.ino(), about.size(), modified, (about.ctime(), about.ctime_nsec()))
}

/// SHA-256 of a regular file.
pub fn hash_file(path: &Path) -> Option<[u8; 32]> {
    // What would wait for a writer must not; what is no file is not read.
    let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).ok()?;
    let about = file.metadata().ok().filter(fs::Metadata::is_file)?;
    let stamp = stamp(&about);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let known_here = known.get_or_insert_with(HashMap::new);
    if let Some((before, sha256)) = known_here.get(path)
        && *before == stamp
    {
        return Some(*sha256);
    }
    drop(known);
    let mut context = digest::Context::new(&digest::SHA256);
    let mut buffer = vec![0; 128 << 10];
    let mut left = about.len();
    loop {
        let read = file.read(&mut buffer).ok()?;
        if read == 0 {
            break;
        }
        // Some files of the kernel's say that they are empty and have no end.
        left = left.checked_sub(read as u64)?;
        context.update(buffer.get(..read)?);
    }
    let sha256 = array(context.finish().as_ref());
    // A file that was written while it was read is read again the next time; so is one changed within the clock's tick.
    let is_settled = file.metadata().is_ok_and(|after| self::stamp(&after) == stamp) && is_old(&about);
    if is_settled {
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.get_or_insert_with(HashMap::new);
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(path.to_owned(), (stamp, sha256));
    }
    Some(sha256)
}

/// Whether its last change lies far enough back that another one would show in its times, which a kernel's tick apart are
/// the same. This decides about remembering alone.
fn is_old(about: &fs::Metadata) -> bool {
    let changed = Duration::from_secs(u64::try_from(about.ctime()).unwrap_or_default());
    UNIX_EPOCH.checked_add(changed).is_some_and(|at| at.elapsed().is_ok_and(|ago| ago.as_secs() >= 2))
}

/// The whole of a file that is not large.
pub fn read_small(path: &Path) -> Option<Vec<u8>> {
    let file = File::open(path).ok()?;
    let is_small = file.metadata().is_ok_and(|about| about.is_file() && about.len() <= SMALL);
    if !is_small {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(SMALL).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// SHA-256 over every file below `root`, names and contents, but for what others install there; none if there is too much.
pub fn tree(root: &Path) -> Option<[u8; 32]> {
    let mut found = BTreeMap::new();
    let mut bytes = 0;
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).ok()? {
            let path = entry.ok()?.path();
            let about = fs::symlink_metadata(&path).ok()?;
            let name = path.strip_prefix(root).ok()?.to_string_lossy().into_owned();
            if about.is_dir() {
                let is_foreign = path
                    .file_name()
                    .is_some_and(|n| n == "node_modules" || n == ".git" || n == "__pycache__");
                if !is_foreign {
                    folders.push(path);
                }
                continue;
            }
            bytes += about.len();
            if found.len() >= FILES || bytes > BYTES {
                return None;
            }
            let content = if about.is_symlink() {
                format!("link {}", fs::read_link(&path).ok()?.display())
            } else if about.is_file() {
                hex::encode(hash_file(&path)?)
            } else {
                "special".to_owned()
            };
            found.insert(name, content);
        }
    }
    Some(super::digest_of(&found))
}

/// The same over the files of a list, below `root`; what is missing counts as missing. Whoever wrote the list names no file
/// that is not below `within`, links followed.
pub fn listed<'f>(root: &Path, within: &Path, files: impl Iterator<Item = &'f str>) -> Option<[u8; 32]> {
    let within = fs::canonicalize(within).ok()?;
    let (mut found, mut bytes) = (BTreeMap::new(), 0_u64);
    for name in files {
        if found.len() >= FILES {
            return None;
        }
        let path = Some(Path::new(name)).filter(|name| name.is_relative());
        let path = path.and_then(|name| fs::canonicalize(root.join(name)).ok());
        let path = path.filter(|path| path.starts_with(&within));
        bytes = bytes
            .checked_add(path.as_ref().and_then(|path| fs::metadata(path).ok()).map_or(0, |m| m.len()))?;
        if bytes > BYTES {
            return None;
        }
        let content =
            path.and_then(|path| hash_file(&path)).map_or_else(|| "missing".to_owned(), hex::encode);
        found.insert(name.to_owned(), content);
    }
    Some(super::digest_of(&found))
}
