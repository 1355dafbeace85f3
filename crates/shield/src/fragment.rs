//! A piece of text that can reach a model, and where it stood.

use std::{borrow::Cow, ops::Range};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a text is. Each kind has rules, thresholds and actions of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// What a client sends: arguments, prompt arguments, answers to elicitation and sampling.
    ClientText,
    /// Source code and other machine text in a result.
    Code,
    /// Names, descriptions, schemas, server instructions, prompts' and resources' metadata.
    Definition,
    /// What a server asks of a person or a model: elicitation and sampling.
    Question,
    /// What a server answers: content, errors, logs, progress, resources.
    Result,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::ClientText, Self::Code, Self::Definition, Self::Question, Self::Result];
}

/// What part a string plays in its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Words of a document that nobody sees who looks at it; an order there is no accident.
    Hidden,
    /// The name of a property.
    Key,
    /// The name of a tool, prompt or resource, which shadowing is about (attacks.md PO-05, PO-10).
    Name,
    /// Any other string.
    Text,
}

/// One string, decoded, with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fragment<'t> {
    /// What the text is.
    pub kind: Kind,
    /// What part it plays.
    pub role: Role,
    /// Where it stood: a JSON pointer (RFC 6901) into the message, or any name the caller understands.
    pub at: Cow<'t, str>,
    /// The text, with JSON escapes read.
    pub text: Cow<'t, str>,
    /// The bytes of the string literal in the raw message, quotes included, so that it can be cut out.
    pub raw: Option<Range<usize>>,
}

impl<'t> Fragment<'t> {
    /// A text without a message around it.
    pub fn new(kind: Kind, at: impl Into<Cow<'t, str>>, text: impl Into<Cow<'t, str>>) -> Self {
        Self { kind, role: Role::Text, at: at.into(), text: text.into(), raw: None }
    }

    /// The name of a tool, prompt or resource.
    pub fn name(kind: Kind, at: impl Into<Cow<'t, str>>, text: impl Into<Cow<'t, str>>) -> Self {
        Self { role: Role::Name, ..Self::new(kind, at, text) }
    }
}
