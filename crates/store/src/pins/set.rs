//! What may be called, in memory: the hot path asks nobody.

use std::{collections::HashMap, sync::Arc};

use bartizan_model::ServerName;

use super::Kind;
use crate::Digest;

/// The approved form of a definition that is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pinned {
    /// SHA-256 of `text`.
    pub hash: Digest,
    /// Canonical JSON: what arguments and results are validated against.
    pub text: Arc<str>,
}

/// Everything that may be called and shown, at one version of the pins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PinSet {
    version: u64,
    /// At which version something of a server changed last; none while something of it is in doubt.
    versions: HashMap<ServerName, Option<u64>>,
    /// Shared between the versions at which a server is the same.
    servers: HashMap<ServerName, Arc<OfServer>>,
}

type OfServer = HashMap<Kind, HashMap<String, Pinned>>;

impl PinSet {
    /// Nothing at all.
    pub fn nothing() -> Self {
        Self::default()
    }

    /// The same at a later version, up to which nothing changed but `servers`, each at its own; of those it holds nothing.
    pub(super) fn advanced(&self, version: u64, servers: Vec<(ServerName, u64)>) -> Self {
        let mut next = Self { version, ..self.clone() };
        for (server, version) in servers {
            next.servers.remove(&server);
            next.versions.insert(server, Some(version));
        }
        next
    }

    pub(super) fn insert(&mut self, server: ServerName, kind: Kind, name: String, pinned: Pinned) {
        let of_server = Arc::make_mut(self.servers.entry(server).or_default());
        of_server.entry(kind).or_default().insert(name, pinned);
    }

    pub(super) fn remove(&mut self, server: &ServerName, kind: Kind, name: &str) {
        let of_server = self.servers.get_mut(server).map(Arc::make_mut);
        if let Some(of_kind) = of_server.and_then(|of_server| of_server.get_mut(&kind)) {
            of_kind.remove(name);
        }
    }

    pub(super) fn remove_server(&mut self, server: &ServerName) {
        self.servers.remove(server);
    }

    /// Its version.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// At which version something of `server` changed last, approved or not: what was found out about it since is still so. None
    /// while something of it is in doubt: nothing is to be remembered then.
    pub fn version_of(&self, server: &ServerName) -> Option<u64> {
        self.versions.get(server).copied().unwrap_or(Some(0))
    }

    pub(super) fn doubt(&mut self, server: &ServerName) {
        self.versions.insert(server.clone(), None);
    }

    /// The approved form of a definition, if it may be called and shown now.
    pub fn get(&self, server: &ServerName, kind: Kind, name: &str) -> Option<&Pinned> {
        self.servers.get(server)?.get(&kind)?.get(name)
    }

    /// The approved definitions of one kind of every server, in no order.
    pub fn all(&self, kind: Kind) -> impl Iterator<Item = (&ServerName, &str)> {
        self.servers.iter().flat_map(move |(server, kinds)| {
            kinds.get(&kind).into_iter().flatten().map(move |(name, _)| (server, name.as_str()))
        })
    }

    /// The approved definitions of one kind of a server, in no order.
    pub fn of<'a>(&'a self, server: &ServerName, kind: Kind) -> impl Iterator<Item = (&'a str, &'a Pinned)> {
        let of_kind = self.servers.get(server).and_then(|kinds| kinds.get(&kind));
        of_kind.into_iter().flatten().map(|(name, pinned)| (name.as_str(), pinned))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_name_of_its_server_and_kind_only() {
        let pinned = Pinned { hash: Digest::of(b"{}"), text: "{}".into() };
        let mut set = PinSet::nothing();
        let files: ServerName = "files".parse().unwrap();
        set.insert(files.clone(), Kind::Tool, "read".to_owned(), pinned.clone());
        assert_eq!(set.get(&files, Kind::Tool, "read"), Some(&pinned));
        assert_eq!(set.get(&files, Kind::Prompt, "read"), None);
        assert_eq!(set.get(&files, Kind::Tool, "reads"), None);
        assert_eq!(set.get(&"other".parse().unwrap(), Kind::Tool, "read"), None);
        assert_eq!(set.of(&files, Kind::Tool).map(|(name, _)| name).collect::<Vec<_>>(), ["read"]);
    }
}
