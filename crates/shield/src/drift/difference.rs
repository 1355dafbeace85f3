//! The difference between two forms, by path and word.

use std::fmt;

use similar::{Algorithm, DiffOp, capture_diff_slices};

use super::{
    json::Node,
    visible::{distinct, is_latin, visible},
};

/// Elements or words that are aligned with each other at most; longer ones are shown whole, since aligning costs the
/// product of both.
const ALIGNED: usize = 2000;

/// Unchanged words shown on either side of a change.
const CONTEXT: usize = 6;

/// One place where two forms differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// JSON Pointer (RFC 6901). Of array elements, the index is that of the form in which the element stands; of changed
    /// ones the new form's.
    pub path: String,
    /// What stood there: the text of a string, if it is one in both forms, else canonical JSON.
    pub old: Option<String>,
    /// What stands there.
    pub new: Option<String>,
}

/// A run of words in a changed text, as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// Only in the old text.
    Gone(String),
    /// Only in the new text.
    New(String),
    /// In both.
    Same(String),
}

impl Change {
    /// The old and the new text, word by word.
    pub fn words(&self) -> Vec<Word> {
        let old = split(self.old.as_deref().unwrap_or_default());
        let new = split(self.new.as_deref().unwrap_or_default());
        let mut words = Vec::new();
        let run = |tokens: &[&str], at: usize, length: usize| {
            tokens.iter().skip(at).take(length).copied().collect::<String>()
        };
        for op in align(&old, &new) {
            let (old_range, new_range) = (op.old_range(), op.new_range());
            let (gone, come) =
                (run(&old, old_range.start, old_range.len()), run(&new, new_range.start, new_range.len()));
            if matches!(op, DiffOp::Equal { .. }) {
                words.push(Word::Same(gone));
                continue;
            }
            words.extend((!gone.is_empty()).then_some(Word::Gone(gone)));
            words.extend((!come.is_empty()).then_some(Word::New(come)));
        }
        words
    }
}

/// The path, then the change on a line of its own: `[-gone-]`, `{+new+}`. Everything hidden is visible.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = if self.path.is_empty() { "(the whole)" } else { &self.path };
        write!(f, "{}\n    ", visible(path))?;
        let latin = [&self.old, &self.new].into_iter().flatten().all(|text| is_latin(text));
        let words = self.words();
        for (at, word) in words.iter().enumerate() {
            match word {
                Word::Gone(text) => write!(f, "[-{}-]", unmarked(&distinct(text, latin)))?,
                Word::New(text) => write!(f, "{{+{}+}}", unmarked(&distinct(text, latin)))?,
                Word::Same(text) => {
                    let (first, last) = (at == 0, at + 1 == words.len());
                    f.write_str(&unmarked(&visible(&shortened(text, first, last))))?;
                }
            }
        }
        Ok(())
    }
}

/// Text that holds none of our marks, so that no server can draw them.
fn unmarked(text: &str) -> String {
    text.replace("[-", "[⟨-⟩").replace("-]", "⟨-⟩]").replace("{+", "{⟨+⟩").replace("+}", "⟨+⟩}")
}

/// The ends of an unchanged run that touch a change.
fn shortened(text: &str, is_first: bool, is_last: bool) -> String {
    let words = split(text);
    let (head, tail) = (if is_first { 0 } else { CONTEXT }, if is_last { 0 } else { CONTEXT });
    if words.len() <= head + tail + 1 {
        return text.to_owned();
    }
    let front: String = words.iter().take(head).copied().collect();
    let back: String = words.iter().skip(words.len() - tail).copied().collect();
    format!("{front}…{back}")
}

/// Every place where `new` differs from `old`, in the order of the canonical form.
pub fn between(old: &Node, new: &Node) -> Vec<Change> {
    let mut changes = Vec::new();
    walk(old, new, &mut String::new(), &mut changes);
    changes
}

/// Every leaf and list of `node`, as if nothing had been there.
pub fn whole(node: &Node) -> Vec<Change> {
    let mut changes = Vec::new();
    spell_out(node, &mut String::new(), &mut changes);
    changes
}

fn spell_out(node: &Node, path: &mut String, changes: &mut Vec<Change>) {
    if let Node::Object(members) = node
        && !members.is_empty()
    {
        for (key, value) in members {
            at(path, &escaped(key), |path| spell_out(value, path, changes));
        }
        return;
    }
    let new = node.as_text().map_or_else(|| node.canonical(), str::to_owned);
    changes.push(Change { path: path.clone(), old: None, new: Some(new) });
}

/// A key as a part of a JSON Pointer (RFC 6901 §4).
fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

fn walk(old: &Node, new: &Node, path: &mut String, changes: &mut Vec<Change>) {
    match (old, new) {
        _ if old == new => {}
        (Node::Object(old), Node::Object(new)) => {
            let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
            loop {
                // Both are in one order.
                let order = match (old.peek(), new.peek()) {
                    (None, None) => break,
                    (Some(_), None) => std::cmp::Ordering::Less,
                    (None, Some(_)) => std::cmp::Ordering::Greater,
                    (Some((a, _)), Some((b, _))) => a.encode_utf16().cmp(b.encode_utf16()),
                };
                let gone = if order.is_le() { old.next() } else { None };
                let come = if order.is_ge() { new.next() } else { None };
                let Some((key, _)) = gone.or(come) else { break };
                at(path, &escaped(key), |path| {
                    step(gone.map(|(_, value)| value), come.map(|(_, value)| value), path, changes);
                });
            }
        }
        (Node::Array(old), Node::Array(new)) => {
            let texts = |nodes: &[Node]| nodes.iter().map(Node::canonical).collect::<Vec<_>>();
            for op in align(&texts(old), &texts(new)) {
                if matches!(op, DiffOp::Equal { .. }) {
                    continue;
                }
                let (old_range, new_range) = (op.old_range(), op.new_range());
                for pair in 0..old_range.len().max(new_range.len()) {
                    let gone = (pair < old_range.len()).then_some(old_range.start + pair);
                    let come = (pair < new_range.len()).then_some(new_range.start + pair);
                    let Some(index) = come.or(gone) else { continue };
                    at(path, &index.to_string(), |path| {
                        step(gone.and_then(|at| old.get(at)), come.and_then(|at| new.get(at)), path, changes);
                    });
                }
            }
        }
        (Node::Text(old), Node::Text(new)) => {
            changes.push(Change { path: path.clone(), old: Some(old.clone()), new: Some(new.clone()) });
        }
        _ => changes.push(Change {
            path: path.clone(),
            old: Some(old.canonical()),
            new: Some(new.canonical()),
        }),
    }
}

fn step(old: Option<&Node>, new: Option<&Node>, path: &mut String, changes: &mut Vec<Change>) {
    match (old, new) {
        (Some(old), Some(new)) => walk(old, new, path, changes),
        _ => changes.push(Change {
            path: path.clone(),
            old: old.map(Node::canonical),
            new: new.map(Node::canonical),
        }),
    }
}

fn at(path: &mut String, part: &str, then: impl FnOnce(&mut String)) {
    let length = path.len();
    path.push('/');
    path.push_str(part);
    then(path);
    path.truncate(length);
}

/// How two sequences go together; what is too long for that is one replacement between its equal ends.
fn align<T: Eq + std::hash::Hash>(old: &[T], new: &[T]) -> Vec<DiffOp> {
    let head = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let rest = old.len().min(new.len()) - head;
    let tail = old.iter().rev().zip(new.iter().rev()).take(rest).take_while(|(a, b)| a == b).count();
    let (old_len, new_len) = (old.len() - head - tail, new.len() - head - tail);
    if old_len.max(new_len) <= ALIGNED {
        return capture_diff_slices(Algorithm::Myers, old, new);
    }
    let equal = |old_index, new_index, len| (len > 0).then_some(DiffOp::Equal { old_index, new_index, len });
    let middle = DiffOp::Replace { old_index: head, old_len, new_index: head, new_len };
    equal(0, 0, head).into_iter().chain([middle]).chain(equal(head + old_len, head + new_len, tail)).collect()
}

/// Words with the blanks behind them; in scripts without blanks, characters.
fn split(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let (mut start, mut was_blank) = (0, false);
    for (at, c) in text.char_indices() {
        let alone = matches!(c, '\u{e00}'..='\u{eff}' | '\u{2e80}'..='\u{9fff}' | '\u{ac00}'..='\u{d7af}' | '\u{20000}'..='\u{3ffff}');
        if at > start && ((was_blank && !c.is_whitespace()) || alone) {
            words.extend(text.get(start..at));
            start = at;
        }
        was_blank = c.is_whitespace();
    }
    words.extend(text.get(start..).filter(|rest| !rest.is_empty()));
    words
}
