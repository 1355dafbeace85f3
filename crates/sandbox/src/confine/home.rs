//! A folder of a child's own.

use std::{
    ffi::{CStr, CString},
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, chmodat, openat, unlinkat};

/// A new folder that only this user may enter, which goes with the child.
#[derive(Debug)]
pub(crate) struct PrivateHome {
    path: PathBuf,
    identity: Identity,
}

/// Which folder it is, of all on this machine: device and inode. Names may lead elsewhere by the time they are used.
pub(crate) type Identity = (u64, u64);

/// How long what is in it is taken away. Who outlived the child can put more there meanwhile.
const PATIENCE: Duration = Duration::from_secs(60);

impl PrivateHome {
    /// Variables that say where a program keeps what is its own; other folders of XDG's are below `HOME`.
    pub const VARIABLES: [&str; 4] = ["HOME", "TMPDIR", "TMP", "TEMP"];

    /// Makes it where temporary files are.
    ///
    /// # Errors
    /// What the system says.
    pub fn make() -> io::Result<Self> {
        // Links are followed before it is made. Once it is there, somebody may have put a link in its place.
        let parent = std::env::temp_dir().canonicalize()?;
        let folder = tempfile::Builder::new().prefix("bartizan-home-").tempdir_in(parent)?;
        let opened = openat(CWD, folder.path(), FOLDER, Mode::empty())?;
        let identity = identity(opened.as_fd())?;
        Ok(Self { path: folder.keep(), identity })
    }

    /// Where it is; no part of it was a link when it was made.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Which folder it is.
    pub fn identity(&self) -> Identity {
        self.identity
    }
}

impl Drop for PrivateHome {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path, self.identity) {
            tracing::warn!(folder = %self.path.display(), %error, "a server's home could not be removed; remove it by hand");
        }
    }
}

/// Removes a folder that whoever filled it may have made to do harm: folders in folders without end, which would take a stack or
/// all open files, and links that appear where a folder was. So no link is followed, two folders are open at a time,
/// and the way back is taken only where it leads to where we came from.
fn remove(folder: &Path, expected: Identity) -> io::Result<()> {
    let until = Instant::now() + PATIENCE;
    let mut current = openat(CWD, folder, FOLDER, Mode::empty())?;
    if identity(current.as_fd())? != expected {
        return Err(io::Error::other("another folder is in its place"));
    }
    let mut above: Vec<(CString, Identity)> = Vec::new();
    loop {
        if let Some((name, below)) = empty(&current, until)? {
            above.push((name, identity(current.as_fd())?));
            current = below;
            continue;
        }
        let Some((name, parent)) = above.pop() else { return std::fs::remove_dir(folder) };
        current = openat(&current, c"..", FOLDER, Mode::empty())?;
        if identity(current.as_fd())? != parent {
            return Err(io::Error::other("somebody moves folders in it"));
        }
        unlinkat(&current, &name, AtFlags::REMOVEDIR)?;
    }
}

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Which folder was opened.
pub(super) fn identity(folder: BorrowedFd<'_>) -> io::Result<Identity> {
    let found = File::from(folder.try_clone_to_owned()?).metadata()?;
    Ok((found.dev(), found.ino()))
}

/// Removes the files and empty folders in `folder`, up to one that is not empty: its name, and it opened.
fn empty(folder: &OwnedFd, until: Instant) -> io::Result<Option<(CString, OwnedFd)>> {
    for entry in Dir::read_from(folder)? {
        if Instant::now() > until {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it takes too long"));
        }
        let entry = entry?;
        let name = entry.file_name();
        if [c".", c".."].contains(&name) {
            continue;
        }
        let gone =
            unlinkat(folder, name, AtFlags::empty()).or_else(|_| unlinkat(folder, name, AtFlags::REMOVEDIR));
        if gone.is_err() {
            make_open(folder.as_fd(), name)?;
            return Ok(Some((name.to_owned(), openat(folder, name, FOLDER, Mode::empty())?)));
        }
    }
    Ok(None)
}

/// Gives us all rights to a folder that its maker left without. By what was opened, for `chmod` follows links.
fn make_open(at: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = File::from(openat(at, name, flags, Mode::empty())?);
    if folder.metadata()?.mode() & 0o700 != 0o700 {
        chmodat(CWD, format!("/proc/self/fd/{}", folder.as_raw_fd()), Mode::RWXU, AtFlags::empty())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn whatever_is_in_it_goes_and_nothing_else() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("file"), "content").unwrap();
        let home = PrivateHome::make().unwrap();
        let at = home.path().to_owned();
        std::os::unix::fs::symlink(outside.path(), at.join("link")).unwrap();
        for folder in ["a/b/c", "a/d", "e"] {
            fs::create_dir_all(at.join(folder)).unwrap();
            fs::write(at.join(folder).join("file"), "content").unwrap();
            std::os::unix::fs::symlink(outside.path(), at.join(folder).join("link")).unwrap();
        }
        chmodat(CWD, at.join("a/b"), Mode::WUSR, AtFlags::empty()).unwrap();
        drop(home);
        assert!(!at.exists());
        assert_eq!(fs::read_to_string(outside.path().join("file")).unwrap(), "content");
    }

    #[test]
    fn what_was_put_in_its_place_stays() {
        let home = PrivateHome::make().unwrap();
        let (at, moved) = (home.path().to_owned(), home.path().with_extension("moved"));
        fs::rename(&at, &moved).unwrap();
        fs::create_dir(&at).unwrap();
        fs::write(at.join("file"), "content").unwrap();
        drop(home);
        assert_eq!(fs::read_to_string(at.join("file")).unwrap(), "content");
        for folder in [at, moved] {
            fs::remove_dir_all(folder).unwrap();
        }
    }

    /// Deeper than most tables of open files.
    #[test]
    fn folders_in_folders_without_end_go_too() {
        let home = PrivateHome::make().unwrap();
        let mut inner = openat(CWD, home.path(), FOLDER, Mode::empty()).unwrap();
        for _ in 0..1_100 {
            rustix::fs::mkdirat(&inner, "d", Mode::RWXU).unwrap();
            inner = openat(&inner, "d", FOLDER, Mode::empty()).unwrap();
        }
        let at = home.path().to_owned();
        drop(home);
        assert!(!at.exists());
    }
}
