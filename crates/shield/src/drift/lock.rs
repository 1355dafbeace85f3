//! `bartizan.lock`: approved definitions, as people review them in git.
//!
//! JSON with the definitions spelled out, one member a line, in one order, so that a change of a definition is a change
//! of the lines that say it. Characters nobody can see are escapes there: a review sees them (attacks.md PO-13).

use std::{fmt, str::FromStr};

use bartizan_model::ServerName;

use super::{
    Definition, Unreadable,
    definition::sha256,
    json::{Fault, Node, quote},
    visible::is_hidden,
};

/// The format's version.
const VERSION: &str = "1";

/// Approved definitions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LockFile {
    /// By server, kind and name, each once.
    pins: Vec<Locked>,
}

/// One approved definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Locked {
    /// Whose it is.
    pub server: ServerName,
    /// Its kind, see [`Definition::read`].
    pub kind: String,
    /// The approved form.
    pub definition: Definition,
}

/// Why a text is no `bartizan.lock`. Nothing of it counts then.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// A definition is pinned twice.
    #[error("pin {0} is there twice")]
    Duplicate(usize),
    /// A hash or name is not the definition's.
    #[error("the `{1}` of pin {0} is not its definition's")]
    Forged(usize, &'static str),
    /// Not JSON.
    #[error(transparent)]
    Json(#[from] Fault),
    /// A member is missing, unknown or of another type.
    #[error("{place} has no proper `{member}`, or something besides")]
    Shape {
        /// Where: `the file` or `pin N`.
        place: String,
        /// Which member.
        member: &'static str,
    },
    /// A definition cannot be read.
    #[error("pin {0} has no proper definition: {1}")]
    Unreadable(usize, Unreadable),
    /// Another version of the format.
    #[error("it is of another version than {VERSION}")]
    Version,
}

impl LockFile {
    /// A lock file of these, in its one order.
    ///
    /// # Errors
    /// [`LockError::Duplicate`].
    pub fn new(mut pins: Vec<Locked>) -> Result<Self, LockError> {
        let key = |pin: &Locked| (pin.server.clone(), pin.kind.clone(), pin.definition.name().to_owned());
        pins.sort_by_key(key);
        let twice = pins.windows(2).position(|pair| matches!(pair, [a, b] if key(a) == key(b)));
        match twice {
            Some(at) => Err(LockError::Duplicate(at + 2)),
            None => Ok(Self { pins }),
        }
    }

    /// The definitions, by server, kind and name.
    pub fn pins(&self) -> &[Locked] {
        &self.pins
    }

    /// The definitions, owned.
    pub fn into_pins(self) -> Vec<Locked> {
        self.pins
    }
}

impl fmt::Display for LockFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |text: &str| {
            let mut out = String::new();
            quote(&mut out, text, &is_hidden);
            out
        };
        write!(f, "{{\n  \"version\": {VERSION},\n  \"pins\": [")?;
        for (at, pin) in self.pins.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            write!(
                f,
                "{comma}\n    {{\n      \"server\": {},\n      \"kind\": {},\n      \"name\": {},\n      \"sha256\": {},\n      \"definition\": {}\n    }}",
                text(pin.server.as_str()),
                text(&pin.kind),
                text(pin.definition.name()),
                text(&hex::encode(pin.definition.hash())),
                pin.definition.node().pretty(6),
            )?;
        }
        f.write_str(if self.pins.is_empty() { "]\n}\n" } else { "\n  ]\n}\n" })
    }
}

impl FromStr for LockFile {
    type Err = LockError;

    /// Reads a lock file; hashes and names are checked against the definitions.
    fn from_str(text: &str) -> Result<Self, LockError> {
        let root = Node::parse(text)?;
        if root.get("version") != Some(&Node::Number(VERSION.to_owned())) {
            return Err(LockError::Version);
        }
        let shape = |at: usize, member| LockError::Shape {
            place: if at == 0 { "the file".to_owned() } else { format!("pin {at}") },
            member,
        };
        let (Node::Object(members), Some(Node::Array(listed))) = (&root, root.get("pins")) else {
            return Err(shape(0, "pins"));
        };
        if members.len() != 2 {
            return Err(shape(0, "pins"));
        }
        let mut pins = Vec::with_capacity(listed.len());
        for (at, pin) in (1..).zip(listed) {
            let member =
                |name: &'static str| pin.get(name).and_then(Node::as_text).ok_or_else(|| shape(at, name));
            let (server, kind, name, sha256_shown) =
                (member("server")?, member("kind")?, member("name")?, member("sha256")?);
            let definition = pin.get("definition").ok_or_else(|| shape(at, "definition"))?;
            if !matches!(pin, Node::Object(members) if members.len() == 5) {
                return Err(shape(at, "definition"));
            }
            let definition = Definition::read(kind, &definition.canonical())
                .map_err(|unreadable| LockError::Unreadable(at, unreadable))?;
            if definition.name() != name {
                return Err(LockError::Forged(at, "name"));
            }
            if hex::encode(sha256(definition.text().as_bytes())) != sha256_shown {
                return Err(LockError::Forged(at, "sha256"));
            }
            pins.push(Locked {
                server: server.parse().map_err(|_| shape(at, "server"))?,
                kind: kind.to_owned(),
                definition,
            });
        }
        Self::new(pins)
    }
}
