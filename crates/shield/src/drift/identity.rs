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

/// A package of some registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// Its package URL without a version, `pkg:npm/%40scope/name`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// What the lockfile says its content hashes to, `sha512-…`.
    pub integrity: Option<String>,
}

impl Identity {
    /// The identity as a definition of kind `server-identity`.
    pub fn definition(&self) -> Definition {
        let text = |text: &str| Node::Text(text.to_owned());
        // In the order of the canonical form.
        let members = match self {
            Self::Command { argv, package } => {
                let argv = Node::Array(argv.iter().map(|part| text(part)).collect());
                let package = package.as_ref().map(|package| {
                    let integrity = package.integrity.as_ref().map(|i| ("integrity".to_owned(), text(i)));
                    let rest = [
                        ("name".to_owned(), text(&package.name)),
                        ("version".to_owned(), text(&package.version)),
                    ];
                    ("package".to_owned(), Node::Object(integrity.into_iter().chain(rest).collect()))
                });
                [("command".to_owned(), argv)].into_iter().chain(package).collect()
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
