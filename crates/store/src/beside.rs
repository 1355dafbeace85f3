//! Small files beside the database, by which an older one that is put back is noticed.

use std::{
    io::{self, ErrorKind, Write},
    path::Path,
};

/// Puts `text` in the place of the file at `path`, whole or not at all; whoever reads it meanwhile reads the one or the other.
pub fn put(path: &Path, text: &str) -> io::Result<()> {
    let mut draft = tempfile::NamedTempFile::new_in(path.parent().ok_or(ErrorKind::InvalidInput)?)?;
    draft.write_all(text.as_bytes())?;
    draft.as_file().sync_all()?;
    draft.persist(path).map_err(|refused| refused.error)?;
    Ok(())
}
