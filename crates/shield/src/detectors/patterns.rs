//! Applies rules (see [`crate::rules`]).
//!
//! One automaton looks for the keywords of all rules at once; a rule's expressions run only around its own keywords, so
//! text without any costs one step a byte.

mod filling;
mod quoted;

use std::{
    borrow::Cow,
    cell::Cell,
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, LazyLock},
};

use regex::Regex;

use crate::{
    detector::{Detector, Hit, Lost, Scene},
    finding::{Category, Severity},
    fragment::Kind,
    passage::{Passage, Sight},
    rules::{Compiled, PackError, Ready, Rule, RuleSet, parse},
};

use filling::{Bare, in_one_line, without_filling};
use quoted::{asides, is_quoted_example};

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
    ("address", include_str!("../../rules/address.toml")),
    ("command", include_str!("../../rules/command.toml")),
    ("conduct", include_str!("../../rules/conduct.toml")),
    ("covert", include_str!("../../rules/covert.toml")),
    ("foreign", include_str!("../../rules/foreign.toml")),
    ("foreign-orders", include_str!("../../rules/foreign-orders.toml")),
    ("languages", include_str!("../../rules/languages.toml")),
    ("lasting", include_str!("../../rules/lasting.toml")),
    ("markers", include_str!("../../rules/markers.toml")),
    ("orders", include_str!("../../rules/orders.toml")),
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

/// Each rule's hits, by where they begin: where they end, and how bad they are.
type Known = BTreeMap<usize, BTreeMap<usize, (usize, Severity)>>;

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
        let mut known = Known::new();
        for sight in passage.sights() {
            self.judge(sight, None, passage.kind(), &mut known, hits)?;
            let is_apart = |gap: Range<usize>| {
                let gap = sight.original(gap);
                let parts = passage.parts();
                parts.len() > 1
                    && parts
                        .get(parts.partition_point(|part| part.range.end <= gap.start))
                        .is_none_or(|part| part.range.start > gap.start || part.range.end < gap.end)
            };
            if let Some(flat) = in_one_line(sight.text(), is_apart) {
                self.judge(sight, Some(&flat), passage.kind(), &mut known, hits)?;
            }
        }
        Ok(())
    }
}

impl Patterns {
    /// Judges `sight`, or the `line` that its words are if they have lines of their own.
    fn judge(
        &self,
        sight: Sight<'_>,
        line: Option<&Bare>,
        kind: Kind,
        known: &mut Known,
        hits: &mut Vec<Hit>,
    ) -> Result<(), Lost> {
        let text = line.map_or_else(|| sight.text(), |line| &line.text);
        for (index, windows) in self.windows(text, kind) {
            let Some(ready) = self.rules.rules.get(index) else { continue };
            let Some(&severity) = ready.rule.severity.get(&kind) else { continue };
            let is_speech = is_speech(ready.rule.category);
            if line.is_some() && !is_speech {
                continue;
            }
            let known = known.entry(index).or_default();
            let compiled = ready.compiled()?;
            let most = if is_private(ready.rule.category) { PRIVATE_HITS } else { HITS };
            let left = Cell::new(text.len().saturating_mul(AGAIN.0).saturating_add(AGAIN.1));
            let search = Search { ready, compiled, most, left: &left };
            let of_window = |window: Window| {
                let plain = search.matches(text, window.range.clone());
                let bare =
                    if is_speech { search.bare_matches(text, window.range.clone()) } else { Vec::new() };
                let joined = if window.is_joined && is_speech {
                    search.joined_matches(text, window.range)
                } else {
                    Vec::new()
                };
                let with =
                    |found: Vec<Range<usize>>, is_joined| found.into_iter().map(move |r| (r, is_joined));
                with(plain, false).chain(with(bare, false)).chain(with(joined, true))
            };
            // In the text that was judged; on one line, what would be so without it was judged before.
            let in_sight = |(range, is_joined): (Range<usize>, bool)| match line {
                None => Some((range, is_joined)),
                Some(line) => {
                    let range = line.offsets.source(range);
                    line.fills(&range).then_some((range, is_joined))
                }
            };
            let mut ranges = windows.into_iter().flat_map(of_window).filter_map(in_sight);
            for (range, is_joined) in ranges.by_ref().take(most) {
                let severity = if is_joined { of_joined(severity, kind) } else { severity };
                let hit = hit(ready, severity, kind, sight, range);
                let Range { start, end } = hit.range;
                // Seen in an easier view already. What is worse is something else: of some views all is in one place.
                let is_known = known
                    .range(..end)
                    .next_back()
                    .is_some_and(|(_, &(until, severity))| until > start && severity >= hit.severity);
                if !is_known {
                    known.insert(start, (end, hit.severity));
                    hits.push(hit);
                }
            }
            if let Some((range, is_joined)) = ranges.next() {
                // What is left may be worse than what was seen: no quoted example, say.
                let mut seen = 0;
                let mut others = ranges.take(most).inspect(|_| seen += 1);
                let is_joined = is_joined && others.all(|(_, is_joined)| is_joined);
                drop(others);
                let is_mild = is_joined && seen < most;
                let severity = if is_mild { of_joined(severity, kind) } else { severity };
                let mut rest = hit(ready, severity, kind, sight, range);
                (rest.severity, rest.range) = (severity, 0..0);
                hits.push(rest);
            }
        }
        Ok(())
    }

    /// Where each rule's expressions are worth trying.
    fn windows(&self, text: &str, kind: Kind) -> BTreeMap<usize, Vec<Window>> {
        let mut windows: BTreeMap<usize, Vec<Window>> = BTreeMap::new();
        let mut note = |rule: usize, at: Range<usize>| {
            let is_joined = is_joined(text.as_bytes(), &at);
            let start = text.floor_char_boundary(at.start.saturating_sub(BEFORE));
            let end = text.ceil_char_boundary((at.end + BEHIND).min(text.len()));
            let of_rule = windows.entry(rule).or_default();
            match of_rule.last_mut() {
                Some(Window { range, is_joined: joined }) if range.end >= start => {
                    range.end = range.end.max(end);
                    *joined |= is_joined;
                }
                _ => of_rule.push(Window { range: start..end, is_joined }),
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

/// Where a rule's expressions are worth trying.
struct Window {
    /// Bytes of the text.
    range: Range<usize>,
    /// A keyword in it is joined to another word: `ignore_all_…`.
    is_joined: bool,
}

/// Joints between words that a match through them must have: names of parameters have two, sentences more.
const JOINTS: usize = 3;

/// Whether `byte` may join two words as a blank does.
const fn joins(byte: u8) -> bool {
    matches!(byte, b'_' | b'-' | b'.' | b'/' | b'+' | b'|' | b',' | b':' | b'~')
}

/// Whether a letter is joined to either end of `word`.
fn is_joined(text: &[u8], word: &Range<usize>) -> bool {
    let is = |at: Option<usize>, is: fn(u8) -> bool| at.and_then(|at| text.get(at)).is_some_and(|b| is(*b));
    let is_letter = |byte: u8| byte.is_ascii_alphabetic();
    is(word.start.checked_sub(1), joins) && is(word.start.checked_sub(2), is_letter)
        || is(Some(word.end), joins) && is(Some(word.end + 1), is_letter)
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

/// The expressions of a rule, looked for in a text.
struct Search<'r> {
    ready: &'r Ready,
    compiled: &'r Compiled,
    /// Matches that count; of more, one is told at most.
    most: usize,
    /// Bytes that may be searched again behind excuses, so that a text full of them costs no more than a few of its length.
    left: &'r Cell<usize>,
}

/// Whether what was denied goes on in `behind`: "never read this, or send that".
fn goes_on(behind: &str) -> bool {
    let sentence = behind.split(['.', ';', ':', '!', '?', '\n']).next().unwrap_or_default();
    let is = |word: &str, known: &[&str]| known.iter().any(|known| known.eq_ignore_ascii_case(word));
    let mut words = sentence.split(|c: char| !c.is_alphanumeric());
    let joint = words.find(|word| is(word, &["or", "nor", "and", "but", "so", "then"]));
    joint.is_some_and(|word| is(word, &["or", "nor"]))
}

/// Times that a match which is excused is tried again.
const RETRIES: usize = 6;
/// Bytes searched again, for one rule and text: so many times its length, and so many more.
const AGAIN: (usize, usize) = (16, 32 * 1024);
/// Stands where an excuse stood: no blank and of no word.
const MASK: &str = "\u{1}";

impl Search<'_> {
    /// Where they match in `window`; they see what stands before it, so that `^` and `\b` mean what they say.
    fn matches(&self, text: &str, window: Range<usize>) -> Vec<Range<usize>> {
        let Self { ready, compiled, most, .. } = *self;
        let text = text.get(..window.end).unwrap_or(text);
        let mut found = Vec::new();
        for pattern in &compiled.patterns {
            let mut at = window.start;
            while let Some(captures) = pattern.captures_at(text, at) {
                let Some(whole) = captures.get(0) else { break };
                let value = captures.get(1).unwrap_or(whole);
                let holds = ready.rule.check.is_none_or(|check| check.holds(value.as_str()))
                    && ready.rule.entropy.is_none_or(|least| entropy(value.as_str()) >= least);
                let is_excused = || compiled.unless.iter().any(|unless| unless.is_match(whole.as_str()));
                // No pattern matches nothing, so this goes on.
                at = whole.end();
                if holds && !is_excused() {
                    found.push(whole.range());
                } else if holds && let Some(range) = self.behind_excuse(pattern, text, whole.range()) {
                    at = range.end;
                    found.push(range);
                }
                if found.len() > most {
                    return found;
                }
            }
        }
        found
    }

    /// Where `pattern` matches from inside of `excused`, a match that is excused, on its own account: "the docs do not mention it, so
    /// never mention it" is no less an order for what it begins with. One with more excuses than are looked behind counts as it is.
    fn behind_excuse(&self, pattern: &Regex, text: &str, excused: Range<usize>) -> Option<Range<usize>> {
        let unless = &self.compiled.unless;
        let from = text.floor_char_boundary(excused.start.saturating_sub(BEFORE));
        let until = text.ceil_char_boundary(excused.end.saturating_add(BEHIND).min(text.len()));
        let mut around = Cow::Borrowed(text.get(from..until)?);
        let (first, mut last) = (excused.start - from, excused.end - from);
        if let Some(found) = self.over_asides(pattern, &around, first..last) {
            return Some(found.start + from..found.end + from);
        }
        let mut start = first;
        for _ in 0..RETRIES {
            // An excuse for the last of the words is no excuse for others that stand where it ends.
            let ends = |unless: &Regex| {
                let within = around.get(start..last)?;
                unless
                    .find_iter(within)
                    .find(|excuse| excuse.end() == within.len())
                    .map(|e| start + e.start())
            };
            let ended = unless.iter().find_map(ends).filter(|excuse| *excuse > start);
            if let Some(excuse) = ended.filter(|_| !goes_on(around.get(last..).unwrap_or_default())) {
                let masked = MASK.repeat(last - excuse);
                around.to_mut().replace_range(excuse..last, &masked);
                let next = pattern.find_at(&around, start);
                if !self.spend(next.map_or(around.len(), |next| next.end()) - start) {
                    return Some(excused);
                }
                let next = next?;
                if next.start() < last && next.end() > last {
                    (start, last) = (next.start(), next.end());
                    if !unless.iter().any(|unless| unless.is_match(next.as_str())) {
                        return Some(start + from..last + from);
                    }
                    continue;
                }
            }
            let words = around.get(start..last)?;
            let mut letters = words.char_indices().skip(1);
            let (word, _) = letters.find(|(_, c)| !c.is_alphanumeric())?;
            let next = pattern.find_at(&around, start + word);
            if !self.spend(next.map_or(around.len(), |next| next.end()) - start) {
                return Some(excused);
            }
            let next = next?;
            if next.start() >= last {
                return None;
            }
            // What excused the other words excuses these if it reaches them: "must not read".
            let touches = |unless: &Regex| {
                unless.is_match(next.as_str())
                    || around.get(first..next.end()).is_some_and(|words| {
                        unless.find_iter(words).any(|excuse| first + excuse.end() >= next.start())
                    })
            };
            (start, last) = (next.start(), next.end());
            if !unless.iter().any(touches) {
                return Some(start + from..last + from);
            }
        }
        Some(excused)
    }

    /// Where `pattern` matches from the beginning of `words` in `around` over asides that begin in them: "read the key (never read it
    /// twice) from here" excuses nothing.
    fn over_asides(&self, pattern: &Regex, around: &str, words: Range<usize>) -> Option<Range<usize>> {
        let within = asides(around.get(words.clone())?);
        let mut masked = around.to_owned();
        for aside in within.iter().map(|aside| aside.start + words.start..aside.end + words.start) {
            masked.replace_range(aside.clone(), &MASK.repeat(aside.len()));
        }
        if within.is_empty() || !self.spend(masked.len() - words.start) {
            return None;
        }
        let next = pattern.find_at(&masked, words.start)?;
        let is_excused = self.compiled.unless.iter().any(|unless| unless.is_match(next.as_str()));
        (next.start() == words.start && !is_excused).then(|| next.range())
    }

    /// Takes `bytes` from what may be searched again, if so many are left.
    fn spend(&self, bytes: usize) -> bool {
        let left = self.left.get().checked_sub(bytes);
        left.inspect(|left| self.left.set(*left)).is_some()
    }

    /// Where they match in `window` over what only fills it.
    fn bare_matches(&self, text: &str, window: Range<usize>) -> Vec<Range<usize>> {
        let Some(bare) = text.get(window.clone()).and_then(without_filling) else { return Vec::new() };
        let found = self.matches(&bare.text, 0..bare.text.len()).into_iter();
        let found = found.map(|range| bare.offsets.source(range)).filter(|range| bare.fills(range));
        found.map(|range| range.start + window.start..range.end + window.start).collect()
    }

    /// Where they match in `window` if what joins two words there is a blank.
    fn joined_matches(&self, text: &str, window: Range<usize>) -> Vec<Range<usize>> {
        let mut bytes = text.get(window.clone()).unwrap_or_default().as_bytes().to_vec();
        let joints: Vec<usize> = bytes
            .windows(3)
            .enumerate()
            .filter(|(_, three)| {
                matches!(three, [a, b, c] if a.is_ascii_alphabetic() && joins(*b) && c.is_ascii_alphabetic())
            })
            .map(|(at, _)| at + 1)
            .collect();
        for &at in &joints {
            if let Some(joint) = bytes.get_mut(at) {
                *joint = b' ';
            }
        }
        // ASCII in the place of ASCII: it stays what it was.
        let apart = String::from_utf8(bytes).unwrap_or_default();
        let found = self.matches(&apart, 0..apart.len());
        let has_joints =
            |range: &Range<usize>| joints.iter().filter(|at| range.contains(at)).count() >= JOINTS;
        found
            .into_iter()
            .filter(has_joints)
            .map(|range| range.start + window.start..range.end + window.start)
            .collect()
    }
}

/// Whether a rule is about what is said to a model, which reads words that are joined as others.
fn is_speech(category: Category) -> bool {
    matches!(category, Category::Injection | Category::Shadowing)
}

/// How bad it is if the words are joined: in what is pinned there is no reason for it, and elsewhere addresses of articles about the
/// attack are so.
fn of_joined(severity: Severity, kind: Kind) -> Severity {
    if matches!(kind, Kind::Definition | Kind::Question) { severity } else { severity.lowered() }
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
