//! A file of sealed lines, ours alone: what is kept outside the database and is nobody's in particular.

use std::{
    fs::{self, OpenOptions},
    io::{self, ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use crate::{Sealer, root::replace, seal::Stored};

/// A file, each line of which is sealed under the gate's key and one context.
#[derive(Clone, Debug)]
pub struct SealedLines {
    path: PathBuf,
    context: &'static [u8],
}

impl SealedLines {
    /// The lines in `path`, whether or not it is there yet, sealed under `context`.
    pub fn new(path: PathBuf, context: &'static [u8]) -> Self {
        Self { path, context }
    }

    /// Where they are.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds one, durable when this returns.
    ///
    /// # Errors
    /// What the system says, or that there is no key.
    pub fn append(&self, sealer: &Sealer, plain: &[u8]) -> io::Result<()> {
        let _lock = self.lock()?;
        let sealed = sealer.seal(&[self.context], plain);
        if sealed.is_empty() {
            return Err(io::Error::other("the keys that seal it are not at hand"));
        }
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?;
        file.write_all(format!("{sealed}\n").as_bytes())?;
        file.sync_data()
    }

    /// All of them in order; `None` for one that does not open.
    ///
    /// # Errors
    /// What the system says; a file that is not there has no lines.
    pub fn read(&self, sealer: &Sealer) -> io::Result<Vec<Option<Vec<u8>>>> {
        Ok(self.text()?.lines().map(|line| sealer.open(&[self.context], line)).collect())
    }

    /// Seals those that an older key sealed again: how many there were, and how many do not open and were left as they are.
    ///
    /// # Errors
    /// What the system says; nothing changed then.
    pub fn reseal(&self, sealer: &Sealer) -> io::Result<(u64, u64)> {
        let _lock = self.lock()?;
        let key = sealer.key_id().ok_or_else(|| io::Error::other("the keys are not at hand"))?;
        let (mut done, mut lost, mut text) = (0, 0, String::new());
        for line in self.text()?.lines() {
            let is_current = Stored::parse(line).is_some_and(|stored| stored.key == key);
            match sealer.open(&[self.context], line).map(Zeroizing::new) {
                Some(plain) if !is_current => {
                    done += 1;
                    text.push_str(&sealer.seal(&[self.context], &plain));
                }
                opened => {
                    lost += u64::from(opened.is_none());
                    text.push_str(line);
                }
            }
            text.push('\n');
        }
        if done > 0 {
            replace(&self.path, text.as_bytes())?;
        }
        Ok((done, lost))
    }

    fn text(&self) -> io::Result<String> {
        match fs::read_to_string(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
            text => text,
        }
    }

    /// Whoever writes waits for whoever writes.
    fn lock(&self) -> io::Result<fs::File> {
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true).mode(0o600);
        let file = options.open(self.path.with_extension("lock"))?;
        file.lock()?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::MetadataExt, sync::Arc};

    use super::*;

    #[test]
    fn lines_are_read_in_order_by_whoever_has_the_key() {
        let folder = tempfile::tempdir().unwrap();
        let lines = SealedLines::new(folder.path().join("lines"), b"a line");
        let sealer = Arc::new(Sealer::new(&[7; 32]).unwrap());
        assert_eq!(lines.read(&sealer).unwrap(), Vec::<Option<Vec<u8>>>::new());
        assert_eq!(lines.reseal(&sealer).unwrap(), (0, 0), "nothing is made of nothing");
        assert!(!lines.path().exists());
        lines.append(&sealer, b"marmalade").unwrap();
        lines.append(&sealer, b"").unwrap();
        assert_eq!(lines.read(&sealer).unwrap(), [Some(b"marmalade".to_vec()), Some(Vec::new())]);
        assert_eq!(fs::metadata(lines.path()).unwrap().mode() & 0o777, 0o600);
        assert!(!fs::read_to_string(lines.path()).unwrap().contains("marmalade"));
        let elsewhere = SealedLines::new(lines.path().to_owned(), b"another");
        assert_eq!(elsewhere.read(&sealer).unwrap(), [None, None]);
        assert_eq!(lines.reseal(&sealer).unwrap(), (0, 0), "they are under the current key");
        let stranger = Sealer::new(&[8; 32]).unwrap();
        assert_eq!(lines.reseal(&stranger).unwrap(), (0, 2));
        assert_eq!(lines.read(&sealer).unwrap().len(), 2, "and stay as they are");
        sealer.lock();
        assert!(lines.append(&sealer, b"x").is_err() && lines.reseal(&sealer).is_err());
    }
}
