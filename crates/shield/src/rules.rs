//! Rules as data: patterns, where they come from, what they catch and what they must leave alone.
//!
//! A pack is a TOML file of `[[rule]]` tables; [`Rule`] says what a table holds. Packs that ship are in `rules/`, and a
//! test runs every example of every rule.

use std::{collections::BTreeMap, sync::OnceLock};

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use regex::{Regex, RegexBuilder};
use serde::Deserialize;
use unicode_normalization::UnicodeNormalization;

use crate::{
    detector::Lost,
    detectors::Check,
    finding::{Category, Severity},
    fragment::Kind,
};

/// One rule, as its pack has it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// `family.name`, unique.
    pub id: String,
    /// One line for people, beginning with a verb in the third person.
    pub title: String,
    /// What kind of wrong it is.
    pub category: Category,
    /// How bad it is in each kind of text; the rule does not look at kinds that are not named.
    pub severity: BTreeMap<Kind, Severity>,
    /// Entries of the OWASP lists; without any, those of the category.
    #[serde(default)]
    pub owasp: Vec<String>,
    /// Where the attack is described.
    pub source: String,
    /// Words one of which must be there, whatever their case, before a pattern is tried around it.
    #[serde(default)]
    pub keywords: Vec<String>,
    /// Instead of a keyword: a group of at least so many digits, single blanks and hyphens between them.
    #[serde(default)]
    pub digits: Option<usize>,
    /// Regular expressions (without case, linear time), any of which is a hit. They match within 200 bytes before and
    /// 320 bytes behind a keyword. `{{name}}` stands for any of the expressions of that
    /// name in [`parts`](Self::parts).
    pub patterns: Vec<String>,
    /// Expressions by name, for patterns that would be too long to read or say the same again.
    #[serde(default)]
    pub parts: BTreeMap<String, Vec<String>>,
    /// A match that also matches one of these is no hit; they have the same parts.
    #[serde(default)]
    pub unless: Vec<String>,
    /// What the match, or its first group, must satisfy besides.
    #[serde(default)]
    pub check: Option<Check>,
    /// Bits of entropy a character that the match, or its first group, must have.
    #[serde(default)]
    pub entropy: Option<f64>,
    /// At least two texts it catches. Secrets are put together from parts at `\u{2060}`, so that no scanner trips.
    pub caught: Vec<String>,
    /// At least two similar texts it must not catch.
    pub harmless: Vec<String>,
}

/// Why a pack cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A rule has neither keywords nor digits, or its pattern matches nothing at all.
    #[error("rule {rule}: {what}")]
    Incomplete {
        /// The rule's id.
        rule: String,
        /// What is missing.
        what: &'static str,
    },
    /// A pattern is no regular expression, or too large a one.
    #[error("rule {rule}: {source}")]
    Pattern {
        /// The rule's id.
        rule: String,
        /// What the engine says.
        source: Box<regex::Error>,
    },
    /// The keywords do not make an automaton.
    #[error("the keywords of the rules are too many")]
    Keywords,
    /// Not a pack.
    #[error(transparent)]
    Syntax(#[from] toml::de::Error),
    /// Two rules have one id.
    #[error("rule {0} is there twice")]
    Twice(String),
}

/// Reads the rules of one pack.
///
/// # Errors
/// [`PackError`] for the first fault.
pub fn parse(pack: &str) -> Result<Vec<Rule>, PackError> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Pack {
        rule: Vec<Rule>,
    }
    Ok(toml::from_str::<Pack>(pack)?.rule)
}

/// Rules ready to be applied.
pub struct RuleSet {
    pub(crate) rules: Vec<Ready>,
    /// Finds every keyword of every rule in one pass.
    pub(crate) keywords: AhoCorasick,
    /// Which rule each keyword is for.
    pub(crate) owners: Vec<usize>,
}

/// A rule with its patterns, which are compiled when they are first needed: most never are.
pub(crate) struct Ready {
    pub rule: Rule,
    compiled: OnceLock<Option<Compiled>>,
}

/// The expressions of a rule.
pub(crate) struct Compiled {
    pub patterns: Vec<Regex>,
    pub unless: Vec<Regex>,
}

impl Ready {
    /// The expressions.
    ///
    /// # Errors
    /// [`Lost`] if they do not compile, which [`RuleSet::new`] and a test rule out.
    pub fn compiled(&self) -> Result<&Compiled, Lost> {
        self.compiled.get_or_init(|| self.rule.compile().ok()).as_ref().ok_or(Lost)
    }
}

impl Rule {
    fn compile(&self) -> Result<Compiled, PackError> {
        let patterns = self.expressions(&self.patterns)?;
        if patterns.is_empty() || patterns.iter().any(|pattern| pattern.is_match("")) {
            let what = "a pattern must match something and not nothing";
            return Err(PackError::Incomplete { rule: self.id.clone(), what });
        }
        Ok(Compiled { patterns, unless: self.expressions(&self.unless)? })
    }

    fn expressions(&self, patterns: &[String]) -> Result<Vec<Regex>, PackError> {
        let whole = patterns.iter().map(|pattern| self.with_parts(pattern, DEPTH));
        compile(&self.id, &whole.collect::<Result<Vec<_>, _>>()?)
    }

    /// `pattern` with its parts in their places, and theirs in them.
    fn with_parts(&self, pattern: &str, depth: usize) -> Result<String, PackError> {
        let incomplete = |what| PackError::Incomplete { rule: self.id.clone(), what };
        let mut whole = String::with_capacity(pattern.len());
        let mut rest = pattern;
        while let Some((before, (name, behind))) =
            rest.split_once("{{").and_then(|(before, inside)| Some((before, inside.split_once("}}")?)))
        {
            let depth = depth.checked_sub(1).ok_or_else(|| incomplete("its parts go too deep"))?;
            let part = self.parts.get(name);
            let part = part.ok_or_else(|| incomplete("a pattern names a part that is not there"))?;
            whole.push_str(before);
            whole.push_str("(?:");
            whole.push_str(&self.with_parts(&part.join("|"), depth)?);
            whole.push(')');
            if whole.len() > WHOLE {
                return Err(incomplete("a pattern with its parts is too long"));
            }
            rest = behind;
        }
        whole.push_str(rest);
        Ok(whole)
    }
}

/// A pattern with its parts, in bytes, and how deep these are inside one another.
const WHOLE: usize = 64 << 10;
const DEPTH: usize = 4;

/// A pattern's compiled size, in bytes.
const PATTERN_SIZE: usize = 4 << 20;

impl RuleSet {
    /// Compiles `rules`.
    ///
    /// # Errors
    /// [`PackError`] for the first fault.
    pub fn new(rules: Vec<Rule>) -> Result<Self, PackError> {
        Self::proving(rules, |_| true)
    }

    /// Compiles the rules whose id `is_new`; the others a test has proven.
    pub(crate) fn proving(rules: Vec<Rule>, is_new: impl Fn(&str) -> bool) -> Result<Self, PackError> {
        let set = Self::unproven(rules)?;
        for ready in set.rules.iter().filter(|ready| is_new(&ready.rule.id)) {
            // Kept, so that the work is not done again.
            let compiled = ready.rule.compile()?;
            let _ = ready.compiled.set(Some(compiled));
        }
        Ok(set)
    }

    /// The same without looking at the expressions; for rules that a test has proven.
    pub(crate) fn unproven(rules: Vec<Rule>) -> Result<Self, PackError> {
        let mut keywords = Vec::new();
        let mut owners = Vec::new();
        let mut ready: Vec<Ready> = Vec::with_capacity(rules.len());
        for (index, rule) in rules.into_iter().enumerate() {
            let incomplete = |what| PackError::Incomplete { rule: rule.id.clone(), what };
            if rule.keywords.is_empty() && rule.digits.is_none() {
                return Err(incomplete("it has neither keywords nor digits"));
            }
            if rule.caught.len() < 2 || rule.harmless.len() < 2 {
                return Err(incomplete(
                    "it needs two examples of what it catches and two of what it does not",
                ));
            }
            if ready.iter().any(|other| other.rule.id == rule.id) {
                return Err(PackError::Twice(rule.id));
            }
            for keyword in &rule.keywords {
                for form in forms(keyword) {
                    keywords.push(form);
                    owners.push(index);
                }
            }
            ready.push(Ready { rule, compiled: OnceLock::new() });
        }
        let keywords = AhoCorasick::builder()
            .ascii_case_insensitive(true)
            .match_kind(MatchKind::Standard)
            // Some megabytes, once, for a third of the time on every text.
            .kind(Some(AhoCorasickKind::DFA))
            .build(&keywords)
            .map_err(|_| PackError::Keywords)?;
        Ok(Self { rules: ready, keywords, owners })
    }

    /// The rules.
    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter().map(|ready| &ready.rule)
    }
}

/// The automaton folds the case of ASCII only; other letters come in three forms.
fn forms(keyword: &str) -> Vec<String> {
    let keyword: String = keyword.nfkc().collect();
    if keyword.is_ascii() {
        return vec![keyword];
    }
    let lower = keyword.to_lowercase();
    let mut chars = lower.chars();
    let capital: String = chars.next().into_iter().flat_map(char::to_uppercase).chain(chars).collect();
    let mut forms = vec![lower.clone(), lower.to_uppercase(), capital];
    forms.sort();
    forms.dedup();
    forms
}

fn compile(rule: &str, patterns: &[String]) -> Result<Vec<Regex>, PackError> {
    let one = |pattern: &String| {
        // The text they meet is in NFKC.
        let pattern: String = pattern.nfkc().collect();
        RegexBuilder::new(&pattern)
            .case_insensitive(true)
            .dot_matches_new_line(true)
            .multi_line(true)
            .size_limit(PATTERN_SIZE)
            .build()
            .map_err(|source| PackError::Pattern { rule: rule.to_owned(), source: Box::new(source) })
    };
    patterns.iter().map(one).collect()
}
