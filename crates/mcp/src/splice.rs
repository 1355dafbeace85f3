//! Changes to a JSON text that leave every other byte alone.

use std::{borrow::Cow, ops::Range};

use crate::json::{Value, quote};

/// A set of changes to one checked JSON text, applied in one pass.
///
/// Changes must not overlap: replace a value or set its members, not both.
#[derive(Debug)]
pub struct Splice<'a> {
    text: &'a str,
    edits: Vec<(Range<usize>, Cow<'a, str>)>,
    /// New members, by where their object opens: (position after `{`, the object is empty, member text).
    inserts: Vec<(usize, bool, String)>,
}

impl<'a> Splice<'a> {
    /// No change yet. `text` must be the text the values given to the other methods are pieces of.
    pub fn new(text: &'a str) -> Self {
        Self { text, edits: Vec::new(), inserts: Vec::new() }
    }

    /// Puts the JSON text `with` in the place of `value`.
    pub fn replace(&mut self, value: Value<'a>, with: impl Into<Cow<'a, str>>) {
        self.edits.push((value.span_in(self.text), with.into()));
    }

    /// Sets the member `key` of `object` to the JSON text `with`, in place if it is there, else as its first member.
    pub fn set(&mut self, object: Value<'a>, key: &str, with: impl Into<Cow<'a, str>>) {
        self.put(object, object.get(key), key, with);
    }

    /// As [`Splice::set`] for whoever has looked already: `now` is the member `key` of `object`.
    pub fn put(
        &mut self,
        object: Value<'a>,
        now: Option<Value<'a>>,
        key: &str,
        with: impl Into<Cow<'a, str>>,
    ) {
        match now {
            Some(value) => self.replace(value, with),
            None => self.insert(object, key, &with.into()),
        }
    }

    /// Adds the member `key`, which `object` must not have, as its first.
    pub fn insert(&mut self, object: Value<'a>, key: &str, with: &str) {
        let open = object.span_in(self.text).start + 1;
        let is_empty = object.is_empty();
        self.inserts.push((open, is_empty, format!("{}:{with}", quote(key))));
    }

    /// Keeps only the members of `object` that `keep` accepts, each as written; no change if it accepts all.
    pub fn retain(&mut self, object: Value<'a>, keep: impl Fn(&str) -> bool) {
        if object.members().all(|m| keep(&m.key())) {
            return;
        }
        let mut kept = String::with_capacity(object.text().len());
        for member in object.members().filter(|m| keep(&m.key())) {
            push_member(&mut kept, member.raw_key(), member.value.text());
        }
        self.replace(object, format!("{{{kept}}}"));
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.edits.is_empty() && self.inserts.is_empty()
    }

    /// The text with every change made.
    pub fn finish(mut self) -> String {
        self.inserts.sort_by_key(|(at, ..)| *at);
        for group in self.inserts.chunk_by(|a, b| a.0 == b.0) {
            let mut text = group.iter().map(|(.., member)| member.as_str()).collect::<Vec<_>>().join(",");
            if let Some((at, is_empty, _)) = group.first() {
                if !is_empty {
                    text.push(',');
                }
                self.edits.push((*at..*at, Cow::Owned(text)));
            }
        }
        self.edits.sort_by_key(|(range, _)| range.start);
        let grown: usize = self.edits.iter().map(|(_, with)| with.len()).sum();
        let mut out = String::with_capacity(self.text.len() + grown);
        let mut from = 0;
        for (range, with) in &self.edits {
            debug_assert!(range.start >= from, "changes overlap");
            out.push_str(self.text.get(from..range.start).unwrap_or_default());
            out.push_str(with);
            from = range.end;
        }
        out.push_str(self.text.get(from..).unwrap_or_default());
        out
    }
}

/// Appends a member to the inside of an object; `raw_key` is escaped and without quotes.
pub(crate) fn push_member(inside: &mut String, raw_key: &str, value: &str) {
    if !inside.is_empty() {
        inside.push(',');
    }
    inside.push('"');
    inside.push_str(raw_key);
    inside.push_str("\":");
    inside.push_str(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Value<'_> {
        Value::of_checked(text)
    }

    #[test]
    fn leaves_other_bytes_alone() {
        let text = r#"{ "id" : 7 ,"x":{"k":1.0e2, "z":"\u0041"},"params":{}, "m":{"a" : 1} }"#;
        let root = value(text);
        let mut splice = Splice::new(text);
        splice.set(root, "id", "\"new\"");
        splice.set(root.get("params").unwrap(), "a", "1");
        splice.set(root.get("params").unwrap(), "b", "2");
        splice.set(root.get("m").unwrap(), "b", "3");
        assert_eq!(
            splice.finish(),
            r#"{ "id" : "new" ,"x":{"k":1.0e2, "z":"\u0041"},"params":{"a":1,"b":2}, "m":{"b":3,"a" : 1} }"#
        );
    }

    #[test]
    fn retains_members_as_written() {
        let text = r#"{"m":{"drop":1, "k\u0065ep" : [1 , 2],"also":null}}"#;
        let mut splice = Splice::new(text);
        splice.retain(value(text).get("m").unwrap(), |key| key != "drop");
        assert_eq!(splice.finish(), r#"{"m":{"k\u0065ep":[1 , 2],"also":null}}"#);
        let mut splice = Splice::new(text);
        splice.retain(value(text), |_| true);
        assert!(splice.is_empty());
        assert_eq!(splice.finish(), text);
    }
}
