//! Who a server is, apart from what it says of itself.

use super::{Definition, json::Node};

/// What makes a server this one and no other. A change of it takes every approval with it until a person looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// A process of ours.
    Command {
        /// The program and its arguments, as they are written down.
        argv: Vec<String>,
        /// What package it is, where that is known.
        package: Option<Package>,
        /// The files it runs: program, interpreter, script.
        runs: Vec<Run>,
    },
    /// An address.
    Url {
        /// Scheme, host and port: `https://mcp.example.com`.
        origin: String,
        /// SHA-256 of the authority the operator trusts for it instead of the system's.
        authority: Option<[u8; 32]>,
        /// SHA-256 of the public key (SubjectPublicKeyInfo) the operator pins it to.
        key: Option<[u8; 32]>,
    },
}

/// A file that is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Where it is.
    pub path: String,
    /// SHA-256 of its content.
    pub sha256: [u8; 32],
}

/// A package of some registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// Its package URL without a version, `pkg:npm/%40scope/name`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// What the lockfile says its content hashes to, `sha512-…`.
    pub integrity: Option<String>,
    /// SHA-256 over its own files as they are.
    pub content: Option<[u8; 32]>,
    /// SHA-256 over what is installed beside it, by name, version and integrity.
    pub dependencies: Option<[u8; 32]>,
}

impl Identity {
    /// The same with less known of what it runs: what would be pinned before a package was installed, or by a build that did
    /// not look. Whoever approved one of these has approved nothing else than this.
    pub fn briefer(&self) -> Vec<Definition> {
        let Self::Command { argv, package, runs } = self else { return Vec::new() };
        let with = |package: Option<Package>, runs: Vec<Run>| {
            Self::Command { argv: argv.clone(), package, runs }.definition()
        };
        let mut forms = Vec::new();
        if package.is_some() {
            forms.push(with(None, runs.clone()));
        }
        if !runs.is_empty() {
            forms.push(with(None, Vec::new()));
        }
        forms
    }

    /// The identity as a definition of kind `server-identity`.
    pub fn definition(&self) -> Definition {
        let text = |text: &str| Node::Text(text.to_owned());
        // In the order of the canonical form.
        let members = match self {
            Self::Command { argv, package, runs } => {
                let argv = Node::Array(argv.iter().map(|part| text(part)).collect());
                let package = package.as_ref().map(|package| {
                    let hash = |name: &str, hash: Option<[u8; 32]>| {
                        hash.map(|hash| (name.to_owned(), Node::Text(hex::encode(hash))))
                    };
                    let integrity = package.integrity.as_ref().map(|i| ("integrity".to_owned(), text(i)));
                    let known = hash("content", package.content)
                        .into_iter()
                        .chain(hash("dependencies", package.dependencies))
                        .chain(integrity);
                    let rest = [
                        ("name".to_owned(), text(&package.name)),
                        ("version".to_owned(), text(&package.version)),
                    ];
                    ("package".to_owned(), Node::Object(known.chain(rest).collect()))
                });
                // In one text, so that a difference shows of which file it is.
                let file = |run: &Run| Node::Text(format!("{} sha256:{}", run.path, hex::encode(run.sha256)));
                let runs = (!runs.is_empty())
                    .then(|| ("runs".to_owned(), Node::Array(runs.iter().map(file).collect())));
                [("command".to_owned(), argv)].into_iter().chain(package).chain(runs).collect()
            }
            Self::Url { origin, authority, key } => {
                let hash = |name: &str, hash: &Option<[u8; 32]>| {
                    hash.map(|hash| (name.to_owned(), Node::Text(hex::encode(hash))))
                };
                hash("authority", authority)
                    .into_iter()
                    .chain(hash("key", key))
                    .chain([("origin".to_owned(), text(origin))])
                    .collect()
            }
        };
        Definition::new("identity".to_owned(), Node::Object(members), None)
    }
}
