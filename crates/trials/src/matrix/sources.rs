//! Finding the trials by reading their sources.

use std::{fs, io, path::Path};

/// One trial of an attack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// Its function.
    pub name: String,
    /// Its module below `attacks`.
    pub module: String,
    /// The attacks it tries.
    pub attacks: Vec<String>,
}

/// The trials in the files of `folder`/attacks, by file and place.
///
/// # Errors
/// A file that cannot be read.
pub fn trials(folder: &Path) -> io::Result<Vec<Trial>> {
    let mut files: Vec<_> =
        fs::read_dir(folder.join("attacks"))?.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?;
    files.sort();
    let mut found = Vec::new();
    for file in files {
        let module = file.file_stem().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        found.extend(in_source(&module, &fs::read_to_string(&file)?));
    }
    Ok(found)
}

/// The trials in one source. An ignored test is no trial.
pub fn in_source(module: &str, source: &str) -> Vec<Trial> {
    let (mut found, mut also, mut is_test) = (Vec::new(), Vec::new(), false);
    for line in source.lines() {
        if let Some(ids) = line.strip_prefix("/// Also: ") {
            also = ids.trim_end_matches('.').split(", ").map(str::to_owned).collect();
        } else if line == "#[test]" {
            is_test = true;
        } else if line.starts_with("#[ignore") {
            is_test = false;
        } else if let Some(rest) = line.strip_prefix("fn ") {
            let name = rest.split('(').next().unwrap_or_default();
            let own = attack_of(name).filter(|_| is_test);
            if let Some(own) = own {
                let attacks = [own].into_iter().chain(std::mem::take(&mut also)).collect();
                found.push(Trial { name: name.to_owned(), module: module.to_owned(), attacks });
            }
            (also, is_test) = (Vec::new(), false);
        }
    }
    found
}

/// `PH-01` of `ph_01_a_sentence`.
fn attack_of(name: &str) -> Option<String> {
    let mut parts = name.splitn(3, '_');
    let (family, number) = (parts.next()?, parts.next()?);
    let is_id = family.len() == 2 && number.len() == 2 && number.bytes().all(|b| b.is_ascii_digit());
    (is_id && parts.next().is_some()).then(|| format!("{}-{number}", family.to_ascii_uppercase()))
}

/// Whether the file of `path::name` has a function of that name.
///
/// # Errors
/// A file that cannot be read.
pub fn exists(root: &Path, test: &str) -> io::Result<bool> {
    let Some((path, name)) = test.split_once("::") else { return Ok(false) };
    let path = root.join(path);
    Ok(path.is_file() && fs::read_to_string(path)?.contains(&format!("fn {name}(")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_is_a_test_whose_name_begins_with_an_attack() {
        let source = "\
/// Also: AA-02, PH-08.
#[test]
fn ph_01_a_name() {}

fn ph_02_a_helper() {}

#[test]
fn works_in_general() {}

#[test]
#[ignore = \"no\"]
fn ph_03_a_name() {}

#[test]
fn ph_04_a_name() {}
";
        let found = in_source("m", source);
        let shown: Vec<_> = found.iter().map(|t| (t.name.as_str(), t.attacks.join(" "))).collect();
        assert_eq!(
            shown,
            [("ph_01_a_name", "PH-01 AA-02 PH-08".to_owned()), ("ph_04_a_name", "PH-04".to_owned())]
        );
    }
}
