//! Every string of a JSON text, with its place; and the text again without what was found.
//!
//! For callers that have no reader of their own. A reader that keeps offsets, such as the gateway's, makes
//! [`Fragment`]s itself. Syntax is somebody else's business: this reads what RFC 8259 allows and refuses the rest.

mod pointer;

use std::{borrow::Cow, collections::BTreeMap, ops::Range};

use crate::{
    finding::{Category, Finding, Place},
    fragment::{Fragment, Kind, Role},
    verdict::{Action, Decision, Judged, Verdict},
};

use pointer::{Mark, Path};

/// How much structure a text may have.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Arrays and objects inside one another.
    pub depth: usize,
    /// Strings, property names included.
    pub strings: usize,
}

impl Default for Limits {
    /// 128 levels, 500,000 strings.
    fn default() -> Self {
        Self { depth: 128, strings: 500_000 }
    }
}

/// Why a text was not read; the byte offset says where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Not JSON.
    #[error("not valid JSON (byte {0})")]
    Syntax(usize),
    /// Deeper than [`Limits::depth`].
    #[error("nested too deeply (byte {0})")]
    TooDeep(usize),
    /// More than [`Limits::strings`].
    #[error("too many strings (byte {0})")]
    TooMany(usize),
}

/// Every string of `raw`, property names included, in the order they stand.
///
/// A fragment's place is a JSON pointer (RFC 6901) to the string, or to the property that is named so; its `raw` is the
/// literal with its quotes. An escape for half a character reads as U+FFFD. Of a pointer that is longer than a person reads, `~#`
/// and what follows it stand for the rest: memory is linear in the text.
///
/// # Errors
/// [`Fault`]; then nothing of the text counts as read.
pub fn fragments(raw: &str, kind: Kind, limits: Limits) -> Result<Vec<Fragment<'_>>, Fault> {
    fragments_in(raw, None, 0, kind, limits)
}

/// The same of a value in a message, where it begins at byte `base` and is the property `member`: places lead there from the
/// object that has it, literals are those of the message.
///
/// # Errors
/// As for [`fragments`].
pub fn fragments_in<'r>(
    raw: &'r str,
    member: Option<&str>,
    base: usize,
    kind: Kind,
    limits: Limits,
) -> Result<Vec<Fragment<'r>>, Fault> {
    let mut path = Path::default();
    if let Some(key) = member {
        path.key(key);
    }
    let mut reader = Reader { raw, base, at: 0, found: Vec::new(), kind, limits, path, open: Vec::new() };
    reader.read()?;
    Ok(reader.found)
}

struct Reader<'r> {
    raw: &'r str,
    /// Where `raw` begins in its message.
    base: usize,
    at: usize,
    found: Vec<Fragment<'r>>,
    kind: Kind,
    limits: Limits,
    path: Path,
    open: Vec<Open>,
}

struct Open {
    object: bool,
    /// Elements of an array so far.
    index: usize,
    /// The path of the container.
    path: Mark,
}

impl<'r> Reader<'r> {
    fn read(&mut self) -> Result<(), Fault> {
        loop {
            // A value begins here.
            match self.peek() {
                Some(b'{' | b'[') => {
                    let object = self.peek() == Some(b'{');
                    if self.open.len() >= self.limits.depth {
                        return Err(Fault::TooDeep(self.at));
                    }
                    self.at += 1;
                    self.open.push(Open { object, index: 0, path: self.path.mark() });
                    if self.peek() == Some(if object { b'}' } else { b']' }) {
                        self.close();
                    } else {
                        self.enter()?;
                        continue;
                    }
                }
                Some(b'"') => self.string(Role::Text)?,
                Some(b't' | b'f' | b'n' | b'-' | b'0'..=b'9') => self.scalar()?,
                _ => return Err(Fault::Syntax(self.at)),
            }
            // A value ended here.
            loop {
                let Some(open) = self.open.last() else {
                    return if self.peek().is_none() { Ok(()) } else { Err(Fault::Syntax(self.at)) };
                };
                let object = open.object;
                self.path.back(open.path);
                match (self.peek(), object) {
                    (Some(b','), _) => {
                        self.at += 1;
                        self.enter()?;
                        break;
                    }
                    (Some(b'}'), true) | (Some(b']'), false) => self.close(),
                    _ => return Err(Fault::Syntax(self.at)),
                }
            }
        }
    }

    /// The next byte that is not white space.
    fn peek(&mut self) -> Option<u8> {
        let rest = self.raw.as_bytes().get(self.at..)?;
        self.at += rest.iter().take_while(|b| matches!(b, b' ' | b'\t' | b'\n' | b'\r')).count();
        self.raw.as_bytes().get(self.at).copied()
    }

    /// Goes on to the next element or property of the innermost container.
    fn enter(&mut self) -> Result<(), Fault> {
        let Some(open) = self.open.last_mut() else { return Err(Fault::Syntax(self.at)) };
        if !open.object {
            self.path.index(open.index);
            open.index += 1;
            return Ok(());
        }
        if self.peek() != Some(b'"') {
            return Err(Fault::Syntax(self.at));
        }
        self.string(Role::Key)?;
        if self.peek() != Some(b':') {
            return Err(Fault::Syntax(self.at));
        }
        self.at += 1;
        Ok(())
    }

    fn close(&mut self) {
        self.at += 1;
        if let Some(open) = self.open.pop() {
            self.path.back(open.path);
        }
    }

    fn scalar(&mut self) -> Result<(), Fault> {
        let rest = self.raw.as_bytes().get(self.at..).unwrap_or_default();
        let length =
            rest.iter().take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'+' | b'.')).count();
        let text = self.raw.get(self.at..self.at + length).unwrap_or_default();
        if serde_json::from_str::<serde::de::IgnoredAny>(text).is_err() {
            return Err(Fault::Syntax(self.at));
        }
        self.at += length;
        Ok(())
    }

    fn string(&mut self, role: Role) -> Result<(), Fault> {
        let start = self.at;
        let bytes = self.raw.as_bytes();
        let mut end = start + 1;
        loop {
            match bytes.get(end) {
                Some(b'"') => break,
                Some(b'\\') => end += 2,
                Some(0..=0x1f) | None => return Err(Fault::Syntax(end)),
                Some(_) => end += 1,
            }
        }
        self.at = end + 1;
        if self.found.len() >= self.limits.strings {
            return Err(Fault::TooMany(start));
        }
        let text = decode(self.raw.get(start + 1..end).unwrap_or_default()).ok_or(Fault::Syntax(start))?;
        if role == Role::Key {
            self.path.key(&text);
        }
        let at = Cow::Owned(self.path.pointer(self.found.len()));
        let raw = Some(self.base + start..self.base + end + 1);
        self.found.push(Fragment { kind: self.kind, role, at, text, raw });
        Ok(())
    }
}

/// The inside of a literal with its escapes read; none if one is malformed.
fn decode(inside: &str) -> Option<Cow<'_, str>> {
    let Some(first) = inside.find('\\') else { return Some(inside.into()) };
    let mut out = String::with_capacity(inside.len());
    out.push_str(inside.get(..first)?);
    let mut units: Vec<u16> = Vec::new();
    let mut rest = inside.get(first..)?;
    while !rest.is_empty() {
        if let Some(digits) = rest.strip_prefix("\\u") {
            let digits = digits.get(..4).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))?;
            units.push(u16::from_str_radix(digits, 16).ok()?);
            rest = rest.get(6..)?;
            continue;
        }
        out.extend(char::decode_utf16(units.drain(..)).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)));
        if let Some(escaped) = rest.strip_prefix('\\') {
            out.push(match escaped.bytes().next()? {
                b'b' => '\u{8}',
                b'f' => '\u{c}',
                b'n' => '\n',
                b'r' => '\r',
                b't' => '\t',
                c @ (b'"' | b'\\' | b'/') => char::from(c),
                _ => return None,
            });
            rest = rest.get(2..)?;
        } else {
            let length = rest.find('\\').unwrap_or(rest.len());
            out.push_str(rest.get(..length)?);
            rest = rest.get(length..)?;
        }
    }
    out.extend(char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)));
    Some(out.into())
}

/// `raw` without what `verdict` wants redacted; every byte outside the literals concerned stays as it is.
///
/// Only findings whose places have a literal are taken out; the caller compares their number, or asks
/// [`is_redacted_whole`], before it lets the text pass. Characters that act are not cut out here, see [`crate::controls`].
pub fn redact(raw: &str, verdict: &Verdict) -> String {
    in_literals(raw, cuts(verdict))
}

/// `raw` without all that `findings` say, whatever is done about it elsewhere: in the place of each stands the name of its rule.
/// `None` if one of them has a place outside the literals of this message, or more places than are listed.
pub fn redact_all<'f>(raw: &str, findings: impl IntoIterator<Item = &'f Finding>) -> Option<String> {
    let findings: Vec<_> = findings.into_iter().collect();
    let is_whole = |finding: &&Finding| {
        !finding.continued
            && !finding.places.is_empty()
            && finding.places.iter().all(|place| place.raw.is_some())
    };
    findings.iter().all(is_whole).then(|| in_literals(raw, findings.into_iter().flat_map(cuts_of)))
}

fn in_literals<'v>(raw: &str, cuts: impl Iterator<Item = (&'v Place, Cut<'v>)>) -> String {
    let mut literals: BTreeMap<usize, (Range<usize>, Vec<Cut<'_>>)> = BTreeMap::new();
    for (place, cut) in cuts {
        if let Some(literal) = &place.raw {
            literals.entry(literal.start).or_insert_with(|| (literal.clone(), Vec::new())).1.push(cut);
        }
    }
    let mut out = String::with_capacity(raw.len());
    let mut done = 0;
    for (literal, cuts) in literals.into_values() {
        let Some(text) = raw.get(literal.start + 1..literal.end.saturating_sub(1)).and_then(decode) else {
            continue;
        };
        out.push_str(raw.get(done..literal.start).unwrap_or_default());
        out.push_str(&quote(&cut_out(&text, cuts)));
        done = literal.end;
    }
    out.push_str(raw.get(done..).unwrap_or_default());
    out
}

/// Whether every finding that is to be redacted has all its places in literals of this message, none in an earlier
/// one, and all of them listed.
pub fn is_redacted_whole(verdict: &Verdict) -> bool {
    let mut to_redact = verdict.findings.iter().filter(is_cut_out);
    to_redact.all(|judged| {
        let places = &judged.finding.places;
        !judged.finding.continued && !places.is_empty() && places.iter().all(|place| place.raw.is_some())
    })
}

/// A text outside JSON without what `verdict` wants redacted at the place `at`.
pub fn redact_text(text: &str, at: &str, verdict: &Verdict) -> String {
    cut_out(text, cuts(verdict).filter(|(place, _)| place.at == at).map(|(_, cut)| cut).collect())
}

struct Cut<'v> {
    range: Range<usize>,
    rule: &'v str,
    /// The words around go too: an instruction seldom ends where its mark ends.
    paragraph: bool,
}

fn cuts(verdict: &Verdict) -> impl Iterator<Item = (&Place, Cut<'_>)> {
    verdict.findings.iter().filter(is_cut_out).flat_map(|judged| cuts_of(&judged.finding))
}

fn is_cut_out(judged: &&Judged) -> bool {
    judged.decision == Decision::Server(Action::Redact) && judged.finding.category != Category::Control
}

fn cuts_of(finding: &Finding) -> impl Iterator<Item = (&Place, Cut<'_>)> {
    let paragraph = !matches!(finding.category, Category::Secret | Category::PersonalData);
    finding
        .places
        .iter()
        .map(move |place| (place, Cut { range: place.range.clone(), rule: &finding.rule, paragraph }))
}

fn cut_out(text: &str, mut cuts: Vec<Cut<'_>>) -> String {
    cuts.sort_by_key(|cut| (cut.range.start, cut.range.end));
    let mut paragraph = 0..0;
    for cut in cuts.iter_mut().filter(|cut| cut.paragraph) {
        // The ends of a paragraph are looked for once, however many orders are in it.
        let is_inside = paragraph.start <= cut.range.start && cut.range.end <= paragraph.end;
        if is_inside && !paragraph.is_empty() {
            cut.range = paragraph.clone();
            continue;
        }
        let before = text.get(..cut.range.start).and_then(|t| t.rfind("\n\n")).map_or(0, |at| at + 2);
        let behind = text
            .get(cut.range.end..)
            .and_then(|t| t.find("\n\n"))
            .map_or(text.len(), |at| cut.range.end + at);
        cut.range = before..behind;
        paragraph = cut.range.clone();
    }
    cuts.sort_by_key(|cut| (cut.range.start, cut.range.end));
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    for cut in cuts {
        if cut.range.end <= done {
            continue;
        }
        if cut.range.start >= done {
            out.push_str(text.get(done..cut.range.start).unwrap_or_default());
            out.push_str(&format!("[redacted: {}]", cut.rule));
        }
        done = cut.range.end;
    }
    out.push_str(text.get(done..).unwrap_or_default());
    out
}

fn quote(text: &str) -> String {
    // Strings always serialise.
    serde_json::to_string(text).unwrap_or_else(|_| "\"\"".to_owned())
}

#[cfg(test)]
mod tests;
