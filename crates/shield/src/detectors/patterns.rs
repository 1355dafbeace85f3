//! Applies rules (see [`crate::rules`]).
//!
//! One automaton looks for the keywords of all rules at once; a rule's expressions run only around its own keywords, so
//! text without any costs one step a byte.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, LazyLock},
};

use crate::{
    detector::{Detector, Hit, Lost, Scene},
    finding::{Category, Severity},
    fragment::Kind,
    passage::{Passage, Sight},
    rules::{Compiled, PackError, Ready, Rule, RuleSet, parse},
};

/// Bytes around a keyword in which its rule's expressions match.
const BEFORE: usize = 200;
const BEHIND: usize = 320;
/// Hits of one rule in one way to read a passage; that there are more is said by one without a range.
const HITS: usize = 64;
/// The same for what is cut out piece by piece: what is not a hit would stay.
const PRIVATE_HITS: usize = 4096;

/// The packs that ship.
pub(crate) const PACKS: &[(&str, &str)] = &[
    ("access", include_str!("../../rules/access.toml")),
    ("command", include_str!("../../rules/command.toml")),
    ("covert", include_str!("../../rules/covert.toml")),
    ("languages", include_str!("../../rules/languages.toml")),
    ("markers", include_str!("../../rules/markers.toml")),
    ("override", include_str!("../../rules/override.toml")),
    ("personal", include_str!("../../rules/personal.toml")),
    ("phishing", include_str!("../../rules/phishing.toml")),
    ("secrets", include_str!("../../rules/secrets.toml")),
    ("steering", include_str!("../../rules/steering.toml")),
];

/// A detector over a set of rules.
#[derive(Clone)]
pub struct Patterns {
    rules: Arc<RuleSet>,
}

impl Patterns {
    /// The rules that ship.
    pub fn shipped() -> Self {
        #[expect(clippy::expect_used, reason = "a test compiles the packs that ship")]
        static SHIPPED: LazyLock<Arc<RuleSet>> = LazyLock::new(|| {
            let rules = read(PACKS.iter().map(|(_, text)| *text));
            Arc::new(rules.and_then(RuleSet::unproven).expect("the packs that ship are good"))
        });
        Self { rules: Arc::clone(&SHIPPED) }
    }

    /// An operator's rules, beside those that ship.
    pub fn new(rules: RuleSet) -> Self {
        Self { rules: Arc::new(rules) }
    }

    /// The rules.
    pub fn rules(&self) -> &RuleSet {
        &self.rules
    }
}

fn read<'p>(packs: impl Iterator<Item = &'p str>) -> Result<Vec<Rule>, PackError> {
    let mut rules = Vec::new();
    for pack in packs {
        rules.extend(parse(pack)?);
    }
    Ok(rules)
}

impl Detector for Patterns {
    fn name(&self) -> &'static str {
        "rules"
    }

    fn weight(&self) -> u64 {
        2
    }

    fn inspect(&self, passage: &Passage<'_>, _: &Scene<'_>, hits: &mut Vec<Hit>) -> Result<(), Lost> {
        // Each rule's hits, by where they begin; none overlaps another.
        let mut known: BTreeMap<usize, BTreeMap<usize, usize>> = BTreeMap::new();
        for sight in passage.sights() {
            for (index, windows) in self.windows(sight.text(), passage.kind()) {
                let Some(ready) = self.rules.rules.get(index) else { continue };
                let Some(&severity) = ready.rule.severity.get(&passage.kind()) else { continue };
                let known = known.entry(index).or_default();
                let compiled = ready.compiled()?;
                let most = if is_private(ready.rule.category) { PRIVATE_HITS } else { HITS };
                let of_window = |window| matches(ready, compiled, sight.text(), window, most);
                let mut ranges = windows.into_iter().flat_map(of_window);
                for range in ranges.by_ref().take(most) {
                    let hit = hit(ready, severity, passage.kind(), sight, range);
                    let Range { start, end } = hit.range;
                    // Seen in an easier view already.
                    let is_known = known.range(..end).next_back().is_some_and(|(_, &until)| until > start);
                    if !is_known {
                        known.insert(start, end);
                        hits.push(hit);
                    }
                }
                if let Some(range) = ranges.next() {
                    // What is left may be worse than what was seen: no quoted example, say.
                    let mut rest = hit(ready, severity, passage.kind(), sight, range);
                    (rest.severity, rest.range) = (severity, 0..0);
                    hits.push(rest);
                }
            }
        }
        Ok(())
    }
}

impl Patterns {
    /// Where each rule's expressions are worth trying.
    fn windows(&self, text: &str, kind: Kind) -> BTreeMap<usize, Vec<Range<usize>>> {
        let mut windows: BTreeMap<usize, Vec<Range<usize>>> = BTreeMap::new();
        let mut note = |rule: usize, at: Range<usize>| {
            let start = text.floor_char_boundary(at.start.saturating_sub(BEFORE));
            let end = text.ceil_char_boundary((at.end + BEHIND).min(text.len()));
            let of_rule = windows.entry(rule).or_default();
            match of_rule.last_mut() {
                Some(last) if last.end >= start => last.end = last.end.max(end),
                _ => of_rule.push(start..end),
            }
        };
        let applies =
            |rule: usize| self.rules.rules.get(rule).is_some_and(|r| r.rule.severity.contains_key(&kind));
        for hit in self.rules.keywords.find_overlapping_iter(text) {
            if let Some(&rule) = self.rules.owners.get(hit.pattern().as_usize())
                && applies(rule)
            {
                note(rule, hit.range());
            }
        }
        let wants = |ready: &Ready| ready.rule.digits.filter(|_| ready.rule.severity.contains_key(&kind));
        if self.rules.rules.iter().any(|ready| wants(ready).is_some()) {
            for (range, count) in digit_groups(text) {
                for (rule, ready) in self.rules.rules.iter().enumerate() {
                    if wants(ready).is_some_and(|least| count >= least) {
                        note(rule, range.clone());
                    }
                }
            }
        }
        windows
    }
}

/// Groups of eight or more digits with at most one blank, hyphen or dot between two of them, and how many digits.
fn digit_groups(text: &str) -> Vec<(Range<usize>, usize)> {
    let bytes = text.as_bytes();
    let digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let mut groups = Vec::new();
    let mut at = 0;
    while let Some(found) = bytes.get(at..).and_then(|rest| rest.iter().position(u8::is_ascii_digit)) {
        let start = at + found;
        let (mut end, mut count) = (start, 0);
        while digit(end) {
            count += 1;
            end += 1;
            if !digit(end)
                && bytes.get(end).is_some_and(|b| matches!(b, b' ' | b'-' | b'.'))
                && digit(end + 1)
            {
                end += 1;
            }
        }
        if count >= 8 {
            groups.push((start..end, count));
        }
        at = end;
    }
    groups
}

/// Where the rule's expressions match in `window`, and once more than `most` at most; they see what stands before it, so that
/// `^` and `\b` mean what they say.
fn matches(
    ready: &Ready,
    compiled: &Compiled,
    text: &str,
    window: Range<usize>,
    most: usize,
) -> Vec<Range<usize>> {
    let text = text.get(..window.end).unwrap_or(text);
    let mut found = Vec::new();
    for pattern in &compiled.patterns {
        let mut at = window.start;
        while let Some(captures) = pattern.captures_at(text, at) {
            let Some(whole) = captures.get(0) else { break };
            let value = captures.get(1).unwrap_or(whole);
            let fits = ready.rule.check.is_none_or(|check| check.holds(value.as_str()))
                && ready.rule.entropy.is_none_or(|least| entropy(value.as_str()) >= least)
                && !compiled.unless.iter().any(|unless| unless.is_match(whole.as_str()));
            if fits {
                found.push(whole.range());
            }
            // No pattern matches nothing, so this goes on.
            at = whole.end();
            if found.len() > most {
                return found;
            }
        }
    }
    found
}

/// Whether what is found of this category is shown to nobody.
fn is_private(category: Category) -> bool {
    matches!(category, Category::Secret | Category::PersonalData)
}

fn hit(ready: &Ready, severity: Severity, kind: Kind, sight: Sight<'_>, range: Range<usize>) -> Hit {
    let rule = &ready.rule;
    let example = rule.category == Category::Injection
        && matches!(kind, Kind::Result | Kind::Code)
        && is_quoted_example(sight.text(), &range);
    let severity = if example { severity.lowered() } else { severity };
    let mut hit = Hit::new(rule.id.clone(), rule.title.clone(), rule.category, severity, sight, range);
    hit.owasp = rule.owasp.iter().cloned().map(Into::into).collect();
    if is_private(rule.category) {
        hit.excerpt = mask(&hit.excerpt);
    }
    hit
}

/// Whether a security text quotes the words: they stand between quotation marks or in code, and the text around names
/// the attack. Somebody who attacks can write so too, and gets an annotation; somebody who teaches must not be blocked.
fn is_quoted_example(text: &str, range: &Range<usize>) -> bool {
    let start = text.floor_char_boundary(range.start.saturating_sub(400));
    let end = text.ceil_char_boundary((range.end + 400).min(text.len()));
    let before = text.get(start..range.start).unwrap_or_default();
    let behind = text.get(range.end..end).unwrap_or_default();
    let line_before = before.rsplit('\n').next().unwrap_or_default();
    let line_behind = behind.split('\n').next().unwrap_or_default();
    let quoted = [('"', '"'), ('`', '`'), ('“', '”'), ('«', '»'), ('„', '“'), ('\'', '\'')].iter().any(
        |(open, close)| {
            let opens = line_before.matches(*open).count();
            let inside =
                if open == close { opens % 2 == 1 } else { opens > line_before.matches(*close).count() };
            inside && line_behind.contains(*close)
        },
    );
    let around = text.get(start..end).unwrap_or_default().to_lowercase();
    quoted
        && ["prompt injection", "prompt-injection", "jailbreak", "adversarial", "tool poisoning"]
            .iter()
            .any(|w| around.contains(w))
}

/// What identifies a secret to its owner and gives nothing to anybody else.
fn mask(text: &str) -> String {
    let shown: String = text.chars().take(4).collect();
    format!("{shown}… ({} characters)", text.chars().count())
}

/// Shannon entropy in bits a character.
fn entropy(text: &str) -> f64 {
    let mut counts = BTreeMap::new();
    for c in text.chars() {
        *counts.entry(c).or_insert(0_u32) += 1;
    }
    let total = f64::from(counts.values().sum::<u32>());
    counts.values().map(|&count| f64::from(count) / total).map(|share| -share * share.log2()).sum()
}

#[cfg(test)]
mod tests;
