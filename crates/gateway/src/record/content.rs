//! What was said in calls, where the operator has it recorded: secrets and personal data out, sealed under the person's key or in
//! clear (OWASP MCP08; OpenTelemetry GenAI: content is opt-in).
//!
//! Redaction is judged again until nothing more is found. What cannot be judged, or is never clean, is not recorded.

use std::str::FromStr;

use bartizan_audit::Text;
use bartizan_mcp::{
    Message, Splice,
    json::{Kind as Json, Value, quote},
};
use bartizan_model::ServerName;
use bartizan_shield::{Category, Finding, Kind, Scene, Shield, json};

use crate::{inspect::on_any_thread, merged, server::Server};

/// Arguments or results longer than this many bytes are not recorded: they would be read several times.
const LONGEST: usize = 1 << 20;

/// How often a text is redacted before it is given up.
const ROUNDS: usize = 8;

/// From so many digits on a number may be an account's, a card's or a telephone's, and is judged as a text.
const DIGITS: usize = 8;

/// Values at the operator's paths that are at least this long, in bytes, are looked for in the rest of the message too.
const COPIED: usize = 4;

/// `[[audit.content]]`: what of which calls is recorded. The first rule that fits a call counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContentRules(pub Vec<ContentRule>);

/// One `[[audit.content]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentRule {
    /// Which servers.
    pub server: Glob,
    /// Which of their tools.
    pub tool: Glob,
    /// Whether the arguments are recorded.
    pub arguments: bool,
    /// Whether the result is recorded.
    pub results: bool,
    /// Readable by whoever reads the log, instead of sealed under the person's key.
    pub is_clear: bool,
    /// How many characters of each are kept.
    pub max_chars: usize,
    /// What is never recorded.
    pub redact: Vec<Pointer>,
}

/// A name in which `*` stands for any run of characters, none included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob(String);

impl Glob {
    /// This pattern.
    pub fn new(pattern: &str) -> Self {
        Self(pattern.to_owned())
    }

    /// Whether `name` fits.
    pub fn fits(&self, name: &str) -> bool {
        let Some((first, rest)) = self.0.split_once('*') else { return self.0 == name };
        let Some(mut left) = name.strip_prefix(first) else { return false };
        let mut pieces: Vec<&str> = rest.split('*').collect();
        let last = pieces.pop().unwrap_or_default();
        for piece in pieces {
            // The earliest place leaves most to the others.
            let Some(at) = left.find(piece) else { return false };
            left = left.get(at + piece.len()..).unwrap_or_default();
        }
        left.ends_with(last)
    }
}

/// A JSON pointer (RFC 6901) in which `*` stands for any member or element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pointer(Vec<String>);

/// What is no [`Pointer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write a JSON pointer such as /customer/iban, with * for any member or element")]
pub struct NoPointer;

impl FromStr for Pointer {
    type Err = NoPointer;

    fn from_str(text: &str) -> Result<Self, NoPointer> {
        let steps = text.strip_prefix('/').ok_or(NoPointer)?.split('/');
        let decoded = |step: &str| {
            let is_whole = step.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
            is_whole.then(|| step.replace("~1", "/").replace("~0", "~")).ok_or(NoPointer)
        };
        steps.map(decoded).collect::<Result<_, _>>().map(Self)
    }
}

/// Something to be recorded of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The words, without secrets and personal data, no longer than they may be.
    pub words: Text,
    /// Whether they need not be sealed.
    pub is_clear: bool,
    /// The tool they are of, as the client calls it, where the request does not name it.
    pub tool: Option<Text>,
}

impl ContentRules {
    /// The rule for calls of `tool` of `server`, if any of them is to be recorded.
    pub fn of(&self, server: &ServerName, tool: &str) -> Option<&ContentRule> {
        self.0.iter().find(|rule| rule.server.fits(server.as_str()) && rule.tool.fits(tool))
    }

    /// What is recorded in the place of a result of `server`, of which nobody knows any more which tool it is of: that there
    /// was one, if any rule has results of that server recorded. What a rule would take out of it is not known either.
    pub fn of_no_tool(&self, server: &ServerName) -> Option<Told> {
        let rule = self.0.iter().find(|rule| rule.results && rule.server.fits(server.as_str()))?;
        let words = Text::new("[not recorded: it is not known any more which tool made the task]");
        Some(Told { words, is_clear: rule.is_clear, tool: None })
    }
}

/// The tool that `request` calls, as its server calls it. `None` if it calls none.
pub fn tool_called(is_merged: bool, request: &Message) -> Option<String> {
    let named = request.param("name").filter(|_| request.method() == "tools/call").and_then(Value::as_str)?;
    let bare = || merged::split_name(&named).map_or("", |(_, bare)| bare).to_owned();
    Some(if is_merged { bare() } else { named.into_owned() })
}

impl ContentRule {
    /// What is to be recorded of the arguments of `request`.
    pub fn arguments(&self, shield: &Shield, server: &Server, request: &Message) -> Option<Told> {
        let arguments = request.param("arguments").filter(|_| self.arguments)?;
        Some(self.told(shield, server, Kind::ClientText, arguments.text()))
    }

    /// What is to be recorded of `result`, a tool's result or the error in its place, as its caller gets it.
    pub fn result(&self, shield: &Shield, server: &Server, result: Value<'_>) -> Option<Told> {
        self.results.then(|| self.told(shield, server, Kind::Result, result.text()))
    }

    fn told(&self, shield: &Shield, server: &Server, kind: Kind, raw: &str) -> Told {
        let words = if raw.len() > LONGEST {
            Text::new(&format!("[not recorded: {} bytes]", raw.len()))
        } else {
            let scene =
                Scene { server: server.name().as_str(), trust: server.settings().trust, catalogue: None };
            let redacted = on_any_thread(raw.len(), || {
                let hidden = hidden(raw, &self.redact);
                clean(shield, &scene, kind, hidden)
            });
            match redacted {
                Some(text) => Text::limited(&text, self.max_chars),
                None => Text::new("[not recorded: it could not be redacted]"),
            }
        };
        Told { words, is_clear: self.is_clear, tool: None }
    }
}

/// `text` without the secrets and personal data in it. `None` if they cannot all be taken out.
fn clean(shield: &Shield, scene: &Scene<'_>, kind: Kind, mut text: String) -> Option<String> {
    for _ in 0..ROUNDS {
        let fragments = json::fragments(&text, kind, json::Limits::default()).ok()?;
        let found = shield.find(scene, &fragments);
        if found.iter().any(|finding| finding.category == Category::Unjudged) {
            return None;
        }
        let is_private =
            |finding: &&Finding| matches!(finding.category, Category::Secret | Category::PersonalData);
        let private: Vec<_> = found.iter().filter(is_private).collect();
        if private.is_empty() {
            return Some(text);
        }
        text = json::redact_all(&text, private)?;
    }
    None
}

/// What was taken out because of the operator's paths.
#[derive(Default)]
struct Taken {
    /// Whether anything was.
    is_any: bool,
    /// Its scalars, as text.
    values: Vec<String>,
}

/// `raw`, a checked JSON text, without the values at `paths` and copies of them, and with long numbers as strings, which are
/// judged as those are.
///
/// MCP has a server send its `structuredContent` as JSON text too, however that is escaped: as soon as anything is taken
/// out, so is every string that may hold JSON.
fn hidden(raw: &str, paths: &[Pointer]) -> String {
    let steps: Vec<_> = paths.iter().map(|path| path.0.as_slice()).collect();
    let (mut splice, mut taken) = (Splice::new(raw), Taken::default());
    take_out(Value::of(raw), &steps, &mut splice, &mut taken);
    let text = splice.finish();
    if !taken.is_any {
        return text;
    }
    let mut copies = taken.values;
    copies.retain(|value| value.len() >= COPIED);
    // Longest first, or what a short one leaves of it stays.
    copies.sort_by_key(|value| std::cmp::Reverse(value.len()));
    copies.dedup();
    let mut splice = Splice::new(&text);
    take_out_copies(Value::of(&text), &copies, &mut splice);
    splice.finish()
}

/// Whether a JSON object or array may be written in `text`, alone or among other words, as JSON or as a language prints it.
/// It need not be valid: a copy that was cut short, or has `NaN` in it, is one all the same.
fn may_hold_json(text: &str) -> bool {
    const OPEN: [char; 2] = ['{', '['];
    // What a string is written in, once or several times over.
    let is_quote = |c: char| matches!(c, '"' | '\'' | '\\');
    let inside = text.trim_start_matches(|c: char| c.is_whitespace() || c == '\u{feff}' || is_quote(c));
    inside.starts_with(OPEN) || inside.split(OPEN).skip(1).any(|rest| rest.trim_start().starts_with(is_quote))
}

const BY_PATH: &str = "[redacted: path]";

fn take_out<'a>(value: Value<'a>, paths: &[&[String]], splice: &mut Splice<'a>, taken: &mut Taken) {
    if paths.iter().any(|path| path.is_empty()) {
        taken.is_any = true;
        scalars(value, &mut taken.values);
        splice.replace(value, quote(BY_PATH));
        return;
    }
    let below = |key: &str| -> Vec<&[String]> {
        let next = |path: &&'_ [String]| {
            path.split_first().filter(|(step, _)| *step == "*" || *step == key).is_some()
        };
        paths.iter().filter(|path| next(path)).filter_map(|path| path.get(1..)).collect()
    };
    match value.kind() {
        Json::Object => {
            value.members().for_each(|m| take_out(m.value, &below(&m.key()), splice, taken));
        }
        Json::Array => {
            let elements = value.elements().enumerate();
            elements.for_each(|(at, e)| take_out(e, &below(&at.to_string()), splice, taken));
        }
        Json::Number if value.text().bytes().filter(u8::is_ascii_digit).count() >= DIGITS => {
            splice.replace(value, quote(value.text()));
        }
        Json::Boolean | Json::Null | Json::Number | Json::String => {}
    }
}

/// Every scalar in `value`, as text.
fn scalars(value: Value<'_>, found: &mut Vec<String>) {
    match value.kind() {
        Json::Object => value.members().for_each(|m| scalars(m.value, found)),
        Json::Array => value.elements().for_each(|e| scalars(e, found)),
        Json::String => found.extend(value.as_str().map(std::borrow::Cow::into_owned)),
        Json::Number => found.push(value.text().to_owned()),
        Json::Boolean | Json::Null => {}
    }
}

fn take_out_copies<'a>(value: Value<'a>, removed: &[String], splice: &mut Splice<'a>) {
    match value.kind() {
        Json::Object => value.members().for_each(|m| take_out_copies(m.value, removed, splice)),
        Json::Array => value.elements().for_each(|e| take_out_copies(e, removed, splice)),
        Json::String => {
            let mut text = value.as_str().unwrap_or_default();
            if text != BY_PATH && may_hold_json(&text) {
                splice.replace(value, quote(BY_PATH));
                return;
            }
            for copy in removed.iter().filter(|copy| copy.as_str() != BY_PATH) {
                if text.contains(copy.as_str()) {
                    text = text.replace(copy.as_str(), BY_PATH).into();
                }
            }
            if value.as_str().is_some_and(|before| before != text) {
                splice.replace(value, quote(&text));
            }
        }
        Json::Number if removed.iter().any(|copy| copy == value.text()) => {
            splice.replace(value, quote(BY_PATH));
        }
        Json::Boolean | Json::Null | Json::Number => {}
    }
}

#[cfg(test)]
mod tests;
