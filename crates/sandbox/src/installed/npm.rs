//! Packages that npm installed: a project's, global ones, and those in the cache of `npx`.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Component, Path, PathBuf},
};

use aws_lc_rs::digest;

use super::{InstalledPackage, content, digest_of, escaped, json};
use crate::Launch;

/// Folders above a script in which its manifest is looked for.
const UP: usize = 8;

/// Options of `npx` that take the next argument with them.
const WITH_VALUE: &[&str] =
    &["--cache", "--prefix", "--registry", "--userconfig", "--workspace", "-w", "--node-options", "-C"];

/// What a spec asks for.
struct Spec {
    written: String,
    name: String,
    version: Option<String>,
}

impl Spec {
    /// `name`, `name@version`, `@scope/name@version`; nothing else can be told without asking npm.
    fn read(text: &str) -> Option<Self> {
        let at = text.char_indices().skip(1).find(|(_, c)| *c == '@').map(|(at, _)| at);
        let (name, version) = match at {
            Some(at) => text.split_at_checked(at).map(|(name, rest)| (name, rest.strip_prefix('@')))?,
            None => (text, None),
        };
        let is_name = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~'))
        };
        let is_package = match name.strip_prefix('@').map(|scoped| scoped.split_once('/')) {
            Some(Some((scope, bare))) => is_name(scope) && is_name(bare),
            Some(None) => false,
            None => is_name(name),
        };
        is_package.then(|| Self {
            written: text.to_owned(),
            name: name.to_owned(),
            version: version.map(ToOwned::to_owned),
        })
    }

    /// Whether an installed version is what was asked for; a range or a tag takes any.
    fn takes(&self, version: &str) -> bool {
        let is_exact = |wanted: &str| {
            wanted.starts_with(|c: char| c.is_ascii_digit()) && wanted.matches('.').count() >= 2
        };
        self.version.as_deref().is_none_or(|wanted| !is_exact(wanted) || wanted == version)
    }
}

/// What `npx` runs with these arguments.
pub fn of_npx(launch: &Launch, npx: &Path, arguments: &[OsString]) -> Option<InstalledPackage> {
    let (mut packages, mut positional) = (Vec::new(), None);
    let mut rest = arguments.iter().map(|argument| argument.to_string_lossy());
    while let Some(argument) = rest.next() {
        let (option, joined) =
            argument.split_once('=').map_or((argument.as_ref(), None), |(o, v)| (o, Some(v.to_owned())));
        match option {
            "-p" | "--package" => packages.extend(joined.or_else(|| rest.next().map(Into::into))),
            "--" => {
                positional = rest.next().map(Into::into);
                break;
            }
            _ if WITH_VALUE.contains(&option) => {
                if joined.is_none() {
                    rest.next();
                }
            }
            _ if option.starts_with('-') => {}
            _ => {
                positional = Some(argument.into_owned());
                break;
            }
        }
    }
    if packages.is_empty() {
        packages.extend(positional);
    }
    let first = packages.first()?;
    if first.starts_with(['.', '/']) {
        return at(&launch.at(first).canonicalize().ok()?);
    }
    let specs: Vec<Spec> = packages.iter().filter_map(|text| Spec::read(text)).collect();
    let spec = specs.first()?;
    let fits = |folder: PathBuf| {
        let package = at(&folder.join(&spec.name).canonicalize().ok()?)?;
        spec.takes(&package.version).then_some(package)
    };
    places(launch, npx, &specs).into_iter().find_map(fits)
}

/// Where `npx` looks, in its order (libnpmexec): the project, what is global, its own cache.
fn places(launch: &Launch, npx: &Path, specs: &[Spec]) -> Vec<PathBuf> {
    let mut places = Vec::new();
    let here = launch.folder.clone().or_else(|| std::env::current_dir().ok());
    places.extend(here.iter().flat_map(|here| here.ancestors()).map(|folder| folder.join("node_modules")));
    // npx is PREFIX/lib/node_modules/npm/bin/npx-cli.js, links followed.
    if let Some(global) = npx.canonicalize().ok().and_then(|npx| npx.ancestors().nth(3).map(Path::to_owned))
        && global.ends_with("node_modules")
    {
        places.push(global);
    }
    let cache = ["npm_config_cache", "NPM_CONFIG_CACHE"].iter().find_map(|name| launch.variable(name));
    let cache = cache.map(Path::to_owned).or_else(|| launch.variable("HOME").map(|home| home.join(".npm")));
    if let Some(cache) = cache {
        places.push(cache.join("_npx").join(cache_name(specs)).join("node_modules"));
    }
    places
}

/// How libnpmexec names the folder of some specs: the first 16 digits of SHA-512 over them, sorted, a line each.
fn cache_name(specs: &[Spec]) -> String {
    let mut written: Vec<&str> = specs.iter().map(|spec| spec.written.as_str()).collect();
    written.sort_unstable();
    let digest = digest::digest(&digest::SHA512, written.join("\n").as_bytes());
    hex::encode(digest.as_ref()).chars().take(16).collect()
}

/// The package that a file, links followed, belongs to.
pub fn of_file(file: &Path) -> Option<InstalledPackage> {
    let root = file.ancestors().skip(1).take(UP).find(|folder| folder.join("package.json").is_file())?;
    match root_in_modules(file) {
        Some(root) => at(&root),
        // A project of somebody's own: its files change as he works, and the one that is run is known already.
        None => described(root),
    }
}

/// The folder of the innermost package that an installer put there.
fn root_in_modules(file: &Path) -> Option<PathBuf> {
    let parts: Vec<Component<'_>> = file.components().collect();
    let modules = parts.iter().rposition(|part| part.as_os_str() == "node_modules")?;
    let is_scoped = parts.get(modules + 1)?.as_os_str().to_string_lossy().starts_with('@');
    let end = modules + if is_scoped { 3 } else { 2 };
    // The last part is the file itself.
    (end < parts.len()).then(|| parts.iter().take(end).collect())
}

/// The package whose folder is `root`, with what the lockfile of its installation says.
fn at(root: &Path) -> Option<InstalledPackage> {
    let mut package = described(root)?;
    package.content = content::tree(root);
    let parts: Vec<Component<'_>> = root.components().collect();
    let Some(modules) = parts.iter().position(|part| part.as_os_str() == "node_modules") else {
        return Some(package);
    };
    let top: PathBuf = parts.iter().take(modules + 1).collect();
    let key: PathBuf = parts.iter().skip(modules).collect();
    let Some(lock) = json(&top.join(".package-lock.json")) else { return Some(package) };
    let Some(all) = lock.get("packages").and_then(|packages| packages.as_object()) else {
        return Some(package);
    };
    let text = |entry: &serde_json::Value, member: &str| {
        entry.get(member).and_then(|value| value.as_str()).unwrap_or_default().to_owned()
    };
    if let Some(entry) = all.get(key.to_string_lossy().as_ref()) {
        package.integrity = Some(text(entry, "integrity")).filter(|integrity| !integrity.is_empty());
    }
    let beside: BTreeMap<String, String> = all
        .iter()
        .map(|(key, entry)| (key.clone(), format!("{} {}", text(entry, "version"), text(entry, "integrity"))))
        .collect();
    package.dependencies = Some(digest_of(&beside));
    Some(package)
}

/// What a package says of itself.
fn described(root: &Path) -> Option<InstalledPackage> {
    let manifest = json(&root.join("package.json"))?;
    let text = |member: &str| manifest.get(member).and_then(|value| value.as_str());
    Some(InstalledPackage {
        name: format!("pkg:npm/{}", escaped(text("name")?)),
        version: text("version").unwrap_or_default().to_owned(),
        integrity: None,
        content: None,
        dependencies: None,
    })
}
