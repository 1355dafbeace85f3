//! A folder of a child's own.

use std::{io, path::Path};

use tempfile::TempDir;

/// A new folder that only this user may enter, which goes with the child.
#[derive(Debug)]
pub(crate) struct PrivateHome(TempDir);

impl PrivateHome {
    /// Variables that say where a program keeps what is its own; other folders of XDG's are below `HOME`.
    pub const VARIABLES: [&str; 4] = ["HOME", "TMPDIR", "TMP", "TEMP"];

    /// Makes it where temporary files are.
    ///
    /// # Errors
    /// What the system says.
    pub fn make() -> io::Result<Self> {
        tempfile::Builder::new().prefix("bartizan-home-").tempdir().map(Self)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}
