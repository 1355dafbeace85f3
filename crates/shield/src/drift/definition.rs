//! A definition in its one canonical form.

use std::fmt;

use aws_lc_rs::digest;

use super::{
    difference::{self, Change},
    json::{Fault, Node},
};

/// A tool, prompt, resource, template, instructions or server identity, in canonical form.
///
/// Two JSON texts that mean the same have the same hash: order of keys, white space and escapes do not count. Whatever a
/// reader could be shown differently does: `1` is not `1.0`, and a letter with an accent is not the letter and the accent
/// (attacks.md PO-13).
#[derive(Clone, PartialEq, Eq)]
pub struct Definition {
    name: String,
    text: String,
    hash: [u8; 32],
    body: [u8; 32],
    node: Node,
}

/// Why a text is no definition of its kind. Such a definition can be pinned, shown and called by nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Not strict JSON.
    #[error(transparent)]
    Json(#[from] Fault),
    /// There is no such kind.
    #[error("there is no such kind of definition")]
    Kind,
    /// It has no name, or one that is no string.
    #[error("it has no `{0}` that is a string")]
    Name(&'static str),
}

impl Definition {
    /// The definition of `kind` that stands in `raw`, one JSON text.
    ///
    /// Kinds and where their name stands: `tool` and `prompt` in `name`, `resource` in `uri`, `template` in
    /// `uriTemplate`; `instructions` and `server-identity` have a fixed name, `instructions` and `identity`.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub fn read(kind: &str, raw: &str) -> Result<Self, Unreadable> {
        let member = match kind {
            "tool" | "prompt" => "name",
            "resource" => "uri",
            "template" => "uriTemplate",
            "instructions" => return Ok(Self::new("instructions".to_owned(), Node::parse(raw)?, None)),
            "server-identity" => return Ok(Self::new("identity".to_owned(), Node::parse(raw)?, None)),
            _ => return Err(Unreadable::Kind),
        };
        let node = Node::parse(raw)?;
        let name = node.get(member).and_then(Node::as_text).ok_or(Unreadable::Name(member))?.to_owned();
        Ok(Self::new(name, node, Some(member)))
    }

    pub(super) fn new(name: String, node: Node, member: Option<&str>) -> Self {
        let text = node.canonical();
        let body = match (&node, member) {
            (Node::Object(members), Some(member)) => {
                let others = members.iter().filter(|(key, _)| key != member).cloned();
                sha256(Node::Object(others.collect()).canonical().as_bytes())
            }
            _ => sha256(text.as_bytes()),
        };
        Self { name, hash: sha256(text.as_bytes()), body, text, node }
    }

    /// The server's name for it: any text.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Canonical JSON.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// SHA-256 of [`Definition::text`].
    pub fn hash(&self) -> [u8; 32] {
        self.hash
    }

    /// SHA-256 of the canonical JSON without the name: the same for a definition that was only renamed.
    pub fn body(&self) -> [u8; 32] {
        self.body
    }

    /// How `new` differs from this, by path.
    pub fn changes(&self, new: &Self) -> Vec<Change> {
        difference::between(&self.node, &new.node)
    }

    /// All of it, by path: for somebody who sees it for the first time. There is no old text in it.
    pub fn spelled_out(&self) -> Vec<Change> {
        difference::whole(&self.node)
    }

    pub(super) fn node(&self) -> &Node {
        &self.node
    }
}

impl fmt::Debug for Definition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Definition({:?}, {})", self.name, hex::encode(self.hash))
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    for (to, from) in out.iter_mut().zip(digest::digest(&digest::SHA256, bytes).as_ref()) {
        *to = *from;
    }
    out
}
