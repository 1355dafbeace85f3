//! What Python loads beside the files that an installer wrote down.
//!
//! *Attack.* The source stays as it was, and what is run is another: a compiled file whose header says that it belongs to
//! that source (PEP 552), an extension module, a package or a compiled module beside a module of the same name, a `.pth` file,
//! `sitecustomize` (attacks.md SC-13). None of them is in the installer's list. *Answer.* They are looked for and count like
//! the files of the list. Compiled files that Python would not take for their source do not: they come and go.

use std::{
    collections::BTreeSet,
    fs,
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Component, Path},
};

use super::content::FILES;

/// Where Python keeps compiled files (PEP 3147).
const CACHE: &str = "__pycache__";

/// What is loaded at every start, if it is there (Python's `site` module).
const AT_START: [&str; 2] = ["sitecustomize", "usercustomize"];

/// How deep folders are followed.
const DEPTH: usize = 32;

/// Whether a name of an installer's list is that of a compiled file, which counts only while it is loaded.
pub fn is_cached(name: &str) -> bool {
    Path::new(name).components().any(|part| part.as_os_str() == CACHE)
}

/// The names, from `site`, of everything that Python would load for a package whose files are `listed`, and of what it loads
/// at every start. None if there is too much.
pub fn loaded<'n>(site: &Path, listed: impl Iterator<Item = &'n str>) -> Option<BTreeSet<String>> {
    let mut walk = Walk { site, found: BTreeSet::new() };
    let mut modules: BTreeSet<String> = AT_START.iter().map(|&name| name.to_owned()).collect();
    let mut folders = BTreeSet::new();
    for name in listed {
        let path = Path::new(name);
        let is_inside = path.components().all(|part| matches!(part, Component::Normal(_)));
        if !is_inside || is_cached(name) {
            continue;
        }
        match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            Some(parent) => {
                folders.insert(parent.to_owned());
            }
            None => {
                modules.extend(stem(name).map(ToOwned::to_owned));
            }
        }
    }
    for folder in folders {
        walk.folder(&folder, DEPTH)?;
    }
    walk.modules(&modules)?;
    Some(walk.found)
}

struct Walk<'s> {
    site: &'s Path,
    found: BTreeSet<String>,
}

impl Walk<'_> {
    fn add(&mut self, name: &Path) -> Option<()> {
        self.found.insert(name.to_str()?.to_owned());
        (self.found.len() <= FILES).then_some(())
    }

    /// Everything below `folder`. What is a link counts as what it leads to, and is not followed as a folder.
    fn folder(&mut self, folder: &Path, depth: usize) -> Option<()> {
        // A list may name folders that are not there.
        let Ok(entries) = fs::read_dir(self.site.join(folder)) else { return Some(()) };
        for entry in entries {
            let entry = entry.ok()?;
            let (name, is_folder) = (folder.join(entry.file_name()), entry.file_type().ok()?.is_dir());
            if is_folder && entry.file_name() == CACHE {
                self.cache(folder, |_| true)?;
            } else if is_folder {
                self.folder(&name, depth.checked_sub(1)?)?;
            } else {
                self.add(&name)?;
            }
        }
        Some(())
    }

    /// The modules of these names in the site's own folder, whatever form they have, and what is loaded at every start.
    fn modules(&mut self, names: &BTreeSet<String>) -> Option<()> {
        for entry in fs::read_dir(self.site).ok()? {
            let entry = entry.ok()?;
            let Some(name) = entry.file_name().to_str().map(ToOwned::to_owned) else { continue };
            let is_folder = entry.file_type().ok()?.is_dir();
            if is_folder && names.contains(&name) {
                self.folder(Path::new(&name), DEPTH)?;
            } else if !is_folder && (name.ends_with(".pth") || stem(&name).is_some_and(|s| names.contains(s)))
            {
                self.add(Path::new(&name))?;
            }
        }
        self.cache(Path::new(""), |stem| names.contains(stem))
    }

    /// Compiled files of `folder` that Python takes for their source, of modules that `is_wanted`.
    fn cache(&mut self, folder: &Path, is_wanted: impl Fn(&str) -> bool) -> Option<()> {
        let cache = folder.join(CACHE);
        let Ok(entries) = fs::read_dir(self.site.join(&cache)) else { return Some(()) };
        for entry in entries {
            let name = entry.ok()?.file_name();
            let Some(module) = name.to_str().and_then(stem).filter(|module| is_wanted(module)) else {
                continue;
            };
            let source = self.site.join(folder).join(format!("{module}.py"));
            if is_taken(&self.site.join(&cache).join(&name), &source) {
                self.add(&cache.join(&name))?;
            }
        }
        Some(())
    }
}

/// The module that a file is of.
fn stem(name: &str) -> Option<&str> {
    name.split('.').next().filter(|stem| !stem.is_empty())
}

/// Whether Python loads `compiled` and never looks into `source`: its header has the source's time and size, or a digest of
/// it, which need not even be compared (PEP 552).
fn is_taken(compiled: &Path, source: &Path) -> bool {
    let Ok(about) = fs::metadata(source) else { return false };
    let mut head = [0; 16];
    let read = fs::metadata(compiled).ok().filter(fs::Metadata::is_file);
    let read = read.and_then(|_| fs::File::open(compiled).ok()?.read_exact(&mut head).ok());
    if read.is_none() {
        return false;
    }
    let [.., f0, f1, f2, f3, t0, t1, t2, t3, s0, s1, s2, s3] = head;
    if [f0, f1, f2, f3] != [0; 4] {
        return true;
    }
    let low = |number: u64| u32::try_from(number & u64::from(u32::MAX)).unwrap_or_default();
    let modified = about.mtime().cast_unsigned();
    u32::from_le_bytes([t0, t1, t2, t3]) == low(modified)
        && u32::from_le_bytes([s0, s1, s2, s3]) == low(about.len())
}
