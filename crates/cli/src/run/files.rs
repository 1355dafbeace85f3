//! Noticing that a file is another than before, whatever put it there.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Files that are read again when they change, and what each was when it was last looked at.
pub struct Files(Vec<(PathBuf, Option<Stamp>)>);

/// Which file stands behind a name, links followed, and what state it is in: device, inode, length, and when it was changed.
type Stamp = (u64, u64, u64, (i64, i64));

impl Files {
    /// These files as they are now.
    pub fn new(files: Vec<PathBuf>) -> Self {
        let looked_at = files.into_iter().map(|file| {
            let stamp = stamp(&file);
            (file, stamp)
        });
        Self(looked_at.collect())
    }

    /// The folders that their names are in.
    pub fn folders(&self) -> BTreeSet<PathBuf> {
        let folder = |file: &PathBuf| file.parent().filter(|p| !p.as_os_str().is_empty()).map(Path::to_owned);
        self.0.iter().map(|(file, _)| folder(file).unwrap_or_else(|| PathBuf::from("."))).collect()
    }

    /// Whether something that happened to `paths`, which are in those folders, happened to one of these files: to one of its name,
    /// or to what its name leads to. In Kubernetes a name is a link through `..data`, and that link alone is exchanged.
    pub fn are_touched(&mut self, paths: &[PathBuf]) -> bool {
        let names: BTreeSet<&OsStr> = paths.iter().filter_map(|path| path.file_name()).collect();
        let mut are_touched = false;
        for (file, then) in &mut self.0 {
            let now = stamp(file);
            are_touched |= now != *then || file.file_name().is_some_and(|name| names.contains(name));
            *then = now;
        }
        are_touched
    }
}

fn stamp(file: &Path) -> Option<Stamp> {
    let about = fs::metadata(file).ok()?;
    Some((about.dev(), about.ino(), about.len(), (about.ctime(), about.ctime_nsec())))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_file_is_another_when_what_its_name_leads_to_is() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        // As a kubelet mounts a secret or a configuration, and renews it.
        for version in ["..one", "..two"] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("tls.crt"), "of one length").unwrap();
        }
        symlink("..one", at("..data")).unwrap();
        symlink("..data/tls.crt", at("tls.crt")).unwrap();
        fs::write(at("bartizan.toml"), "").unwrap();
        let mut files = Files::new(vec![at("bartizan.toml"), at("tls.crt")]);
        assert_eq!(files.folders(), [folder.path().to_owned()].into());
        assert!(!files.are_touched(&[at("..tmp")]), "something else there");
        symlink("..two", at("..tmp")).unwrap();
        fs::rename(at("..tmp"), at("..data")).unwrap();
        assert!(files.are_touched(&[at("..tmp"), at("..data")]));
        assert!(!files.are_touched(&[]), "once");

        assert!(files.are_touched(&[at("bartizan.toml")]), "by its name, though nothing can be seen of it");
        fs::remove_file(at("bartizan.toml")).unwrap();
        assert!(files.are_touched(&[]) && !files.are_touched(&[]), "it is gone");
        fs::write(at("bartizan.toml"), "").unwrap();
        assert!(files.are_touched(&[]), "and there again");
        assert_eq!(Files::new(vec!["bartizan.toml".into()]).folders(), [PathBuf::from(".")].into());
    }
}
