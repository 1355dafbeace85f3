//! What was found, where, and how bad it is.

use std::{borrow::Cow, ops::Range};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{fragment::Kind, normalize::Reading};

/// How bad a finding is, mildest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Worth a line in a report; honest text does it too.
    Low,
    /// Unusual in honest text.
    Medium,
    /// Honest text of this kind does not do it.
    High,
    /// There is no honest reason for it.
    Critical,
}

impl Severity {
    /// One step milder.
    #[must_use]
    pub const fn lowered(self) -> Self {
        match self {
            Self::Low | Self::Medium => Self::Low,
            Self::High => Self::Medium,
            Self::Critical => Self::High,
        }
    }

    /// As in configuration and reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

/// What kind of wrong a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Category {
    /// Shell and path tricks in arguments.
    Command,
    /// Content that the operator does not want: hate, violence, what is on a blocklist.
    Content,
    /// Characters that act on a terminal, or turn the direction of text.
    Control,
    /// Data on its way out in links, images or host names.
    Exfiltration,
    /// Text written so that it is not seen.
    Hiding,
    /// Instructions to a model in text that should only inform.
    Injection,
    /// Personal data.
    PersonalData,
    /// Questions that ask people for secrets.
    Phishing,
    /// Credentials.
    Secret,
    /// Names and words that draw calls away from other servers' tools.
    Shadowing,
    /// Text that could not be judged.
    Unjudged,
    /// Documents that could not be read, whole or in part.
    Unread,
}

impl Category {
    /// The entries of the OWASP lists (LLM applications 2025, MCP top 10) that a finding belongs to unless its rule
    /// names others.
    pub const fn owasp(self) -> &'static [&'static str] {
        match self {
            Self::Command => &["LLM05", "MCP05"],
            Self::Content => &["LLM05"],
            Self::Exfiltration => &["LLM02", "LLM05", "MCP10"],
            Self::Control => &["LLM05", "MCP03"],
            Self::Hiding | Self::Injection => &["LLM01", "MCP03", "MCP06"],
            Self::PersonalData => &["LLM02", "MCP10"],
            Self::Phishing => &["LLM02", "MCP01"],
            Self::Secret => &["LLM02", "MCP01"],
            Self::Shadowing => &["LLM01", "MCP03"],
            Self::Unjudged => &["LLM10"],
            Self::Unread => &["LLM01"],
        }
    }

    /// As in configuration and reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::Content => "content",
            Self::Control => "control",
            Self::Exfiltration => "exfiltration",
            Self::Hiding => "hiding",
            Self::Injection => "injection",
            Self::PersonalData => "personal-data",
            Self::Phishing => "phishing",
            Self::Secret => "secret",
            Self::Shadowing => "shadowing",
            Self::Unjudged => "unjudged",
            Self::Unread => "unread",
        }
    }
}

impl Finding {
    /// That what stands at `at` cannot be judged, for the reason that `rule` and `title` give; it is withheld.
    pub fn unjudged(rule: &'static str, title: &'static str, kind: Kind, at: impl Into<String>) -> Self {
        let category = Category::Unjudged;
        Self {
            rule: rule.into(),
            title: title.into(),
            category,
            severity: Severity::Critical,
            owasp: category.owasp().iter().map(|entry| Cow::Borrowed(*entry)).collect(),
            kind,
            places: vec![Place { at: at.into(), range: 0..0, raw: None }],
            continued: false,
            readings: Vec::new(),
            excerpt: String::new(),
            score: None,
        }
    }
}

impl Finding {
    /// That a text of `kind` at `at` holds what `rule` and `title` say of characters that act; see [`crate::controls`].
    pub fn control(rule: &'static str, title: &'static str, kind: Kind, at: impl Into<String>) -> Self {
        let category = Category::Control;
        let owasp = category.owasp().iter().map(|entry| Cow::Borrowed(*entry)).collect();
        Self { category, severity: Severity::Medium, owasp, ..Self::unjudged(rule, title, kind, at) }
    }
}

impl Finding {
    /// Says that it is about another form of the message than the one that goes on: nothing can be cut out for it.
    pub fn forget_literals(&mut self) {
        for place in &mut self.places {
            place.raw = None;
        }
    }
}

/// Part of a fragment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The fragment's place, as its [`Fragment`](crate::Fragment) names it.
    pub at: String,
    /// Bytes of the fragment's text.
    pub range: Range<usize>,
    /// Bytes of the string literal in the raw message, quotes included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub raw: Option<Range<usize>>,
}

/// One thing that is wrong with a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// Names the rule or detector: `injection.override`.
    pub rule: Cow<'static, str>,
    /// One line for people.
    pub title: Cow<'static, str>,
    /// What kind of wrong it is.
    pub category: Category,
    /// How bad it is here.
    pub severity: Severity,
    /// Entries of the OWASP lists.
    pub owasp: Vec<Cow<'static, str>>,
    /// What the text is.
    pub kind: Kind,
    /// Where it stood, one place for every fragment it runs through; a part in an earlier event has none.
    pub places: Vec<Place>,
    /// Not all of it is at `places`: it began in an earlier piece of the stream, or there is more of it than is listed.
    pub continued: bool,
    /// What had to be decoded to see it, outermost first.
    pub readings: Vec<Reading>,
    /// The words, in normal form, at most 160 characters, safe to print; secrets and personal data are masked.
    pub excerpt: String,
    /// The score of a detector that has one.
    pub score: Option<f32>,
}
