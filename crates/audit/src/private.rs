//! Files that hold secrets: ours alone, written whole or not at all.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

/// Why a private file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PrivateFileError {
    /// The file cannot be read or written.
    #[error("cannot use the private file {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Its content is not what we write.
    #[error("the private file {0} does not hold what it should")]
    Malformed(PathBuf),
    /// Others can read the file.
    #[error("the private file {0} must belong to you and be readable by you alone; run `chmod 600` on it")]
    Permissions(PathBuf),
}

/// The content of the file `path`, which is made with `fresh` and mode 0600 if there is none. Several processes may
/// ask at once: all get what the first one wrote.
pub fn create_or_read(path: &Path, fresh: &[u8]) -> Result<Zeroizing<Vec<u8>>, PrivateFileError> {
    let io = |source| PrivateFileError::Io { path: path.to_owned(), source };
    if !path.try_exists().map_err(io)? {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // Mode 0600 from the start.
        let mut draft = tempfile::NamedTempFile::new_in(folder).map_err(io)?;
        draft.write_all(fresh).and_then(|()| draft.as_file().sync_all()).map_err(io)?;
        match draft.persist_noclobber(path) {
            Err(refused) if refused.error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(io(refused.error));
            }
            _ => {}
        }
        sync_folder(folder).map_err(io)?;
    }
    read(path)
}

/// The content of the private file `path`.
pub fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, PrivateFileError> {
    let io = |source| PrivateFileError::Io { path: path.to_owned(), source };
    let about = fs::symlink_metadata(path).map_err(io)?;
    if !about.is_file() || about.mode() & 0o077 != 0 || about.uid() != rustix::process::geteuid().as_raw() {
        return Err(PrivateFileError::Permissions(path.to_owned()));
    }
    Ok(Zeroizing::new(fs::read(path).map_err(io)?))
}

/// Makes the folder `folder`, mode 0700, and its name durable, if there is none.
pub fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    match folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => sync_folder(parent),
        None => sync_folder(Path::new(".")),
    }
}

/// Makes names in `folder` durable.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    fs::File::open(folder)?.sync_all()
}
