//! Packages that pip, uv and pipx installed (PyPA, "Recording installed projects").

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use super::{InstalledPackage, compiled, content};
use crate::Launch;

/// The module of `python -m MODULE`.
pub fn module(arguments: &[OsString]) -> Option<String> {
    let mut rest = arguments.iter().map(|argument| argument.to_string_lossy());
    while let Some(argument) = rest.next() {
        match argument.as_ref() {
            "-m" => return rest.next().map(Into::into),
            "-W" | "-X" => {
                rest.next();
            }
            _ if argument.starts_with("-m") => return argument.strip_prefix("-m").map(ToOwned::to_owned),
            _ if argument.starts_with('-') && argument != "-c" => {}
            _ => return None,
        }
    }
    None
}

/// The package that has a module, for the interpreter `python`, links not followed: beside a link lies its environment.
pub fn of_module(launch: &Launch, python: &Path, module: &str) -> Option<InstalledPackage> {
    let top = module.split('.').next()?;
    let lines = [format!("{top}/__init__.py,"), format!("{top}.py,"), format!("{top}/__main__.py,")];
    let mut sites = sites_of(environment_of(python).as_deref());
    sites.extend(sites_of(
        python.canonicalize().ok().as_deref().and_then(Path::parent).and_then(Path::parent),
    ));
    sites.extend(sites_of(launch.variable("HOME").map(|home| home.join(".local")).as_deref()));
    sites
        .iter()
        .find_map(|site| distribution(site, top, |record| lines.iter().any(|line| has_line(record, line))))
}

/// The package that a program in the `bin` folder of an environment belongs to.
pub fn of_script(program: &Path) -> Option<InstalledPackage> {
    let environment = environment_of(program)?;
    let name = program.file_name()?.to_str()?;
    let line = format!("../../../bin/{name},");
    sites_of(Some(&environment))
        .iter()
        .find_map(|site| distribution(site, name, |record| has_line(record, &line)))
}

/// The package of `uvx`, `uv tool run` or `pipx run`, if its tool is installed for good.
pub fn of_tool(launch: &Launch, arguments: &[OsString]) -> Option<InstalledPackage> {
    let mut from = None;
    let mut rest = arguments.iter().map(|argument| argument.to_string_lossy());
    let named = loop {
        let argument = rest.next()?;
        match argument.as_ref() {
            "--from" | "--spec" => from = rest.next(),
            "--with" | "--python" | "-p" | "--index" | "--index-url" | "--extra-index-url" => {
                rest.next();
            }
            "--" => {}
            _ if argument.starts_with("--from=") => {
                from = argument.strip_prefix("--from=").map(|f| f.to_owned().into())
            }
            _ if argument.starts_with('-') => {}
            _ => break argument,
        }
    };
    let spec = from.unwrap_or(named);
    let bare = spec.split(['=', '<', '>', '@', '[', '~', '!', ' ']).next()?;
    let wanted = spec.split_once("==").or_else(|| spec.split_once('@')).map(|(_, version)| version);
    if bare.is_empty() || bare.contains('/') {
        return None;
    }
    let data = launch.variable("XDG_DATA_HOME").map(Path::to_owned);
    let home = launch.variable("HOME");
    let data = data.or_else(|| home.map(|home| home.join(".local/share")));
    let tools = launch.variable("UV_TOOL_DIR").map(Path::to_owned);
    let places = [
        tools,
        data.as_ref().map(|data| data.join("uv/tools")),
        data.as_ref().map(|data| data.join("pipx/venvs")),
        home.map(|home| home.join(".local/pipx/venvs")),
    ];
    let environments = places.into_iter().flatten().map(|tools| tools.join(normalised(bare)));
    environments.into_iter().find_map(|environment| {
        let sites = sites_of(Some(&environment));
        let package = sites.iter().find_map(|site| distribution(site, bare, |_| false))?;
        wanted.is_none_or(|wanted| wanted == package.version || wanted == "latest").then_some(package)
    })
}

/// The virtual environment in whose `bin` folder a program lies.
fn environment_of(program: &Path) -> Option<PathBuf> {
    let environment = program.parent()?.parent()?;
    environment.join("pyvenv.cfg").is_file().then(|| environment.to_owned())
}

/// The folders that packages are installed in, below a prefix.
fn sites_of(prefix: Option<&Path>) -> Vec<PathBuf> {
    let Some(lib) = prefix.map(|prefix| prefix.join("lib")) else { return Vec::new() };
    let mut versions: Vec<PathBuf> = fs::read_dir(lib)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("python3"))
        .map(|entry| entry.path())
        .collect();
    versions.sort();
    let sites = versions.iter().flat_map(|lib| ["site-packages", "dist-packages"].map(|name| lib.join(name)));
    sites.filter(|site| site.is_dir()).collect()
}

/// The distribution called `name`, or whose record `is_it`.
fn distribution(site: &Path, name: &str, is_it: impl Fn(&str) -> bool) -> Option<InstalledPackage> {
    let mut folders: Vec<PathBuf> = fs::read_dir(site).ok()?.flatten().map(|entry| entry.path()).collect();
    folders.sort();
    let named = |folder: &PathBuf| {
        let stem = folder.file_name()?.to_str()?.strip_suffix(".dist-info")?;
        let (dist, version) = stem.rsplit_once('-')?;
        Some((folder.clone(), dist.to_owned(), version.to_owned()))
    };
    let all: Vec<_> = folders.iter().filter_map(named).collect();
    let by_name = all.iter().find(|(_, dist, _)| normalised(dist) == normalised(name));
    let by_record = || {
        all.iter().find(|(folder, ..)| {
            content::read_small(&folder.join("RECORD"))
                .is_some_and(|record| is_it(&String::from_utf8_lossy(&record)))
        })
    };
    // What has the file is it; a name alone may be another's.
    let (folder, dist, version) = by_record().or(by_name)?;
    let record = content::read_small(&folder.join("RECORD"));
    let text = record.as_ref().map(|record| String::from_utf8_lossy(record).into_owned());
    let files = text.iter().flat_map(|text| text.lines()).filter_map(|line| line.split(',').next());
    let files: BTreeSet<&str> = files.filter(|file| !file.is_empty() && !compiled::is_cached(file)).collect();
    let loaded = compiled::loaded(site, files.iter().copied());
    Some(InstalledPackage {
        name: format!("pkg:pypi/{}", normalised(dist)),
        version: version.clone(),
        integrity: record.as_ref().map(|record| format!("sha256-{}", hex::encode(content::sha256(record)))),
        // `lib/pythonX.Y/site-packages`, and the scripts beside `lib`.
        content: loaded.and_then(|loaded| {
            let all: BTreeSet<&str> =
                files.iter().copied().chain(loaded.iter().map(String::as_str)).collect();
            content::listed(site, site.ancestors().nth(3).unwrap_or(site), all.into_iter())
        }),
        dependencies: None,
    })
}

fn has_line(record: &str, start: &str) -> bool {
    record.lines().any(|line| line.starts_with(start))
}

/// A name as indexes compare it: lower case, runs of `-`, `_` and `.` as one `-`.
fn normalised(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        let c = if matches!(c, '-' | '_' | '.') { '-' } else { c.to_ascii_lowercase() };
        if !(c == '-' && out.ends_with('-')) {
            out.push(c);
        }
    }
    out
}
