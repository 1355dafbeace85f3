//! What a schema is made of, before anything is compiled: its size, its references, its anchors.

use std::collections::HashMap;

use serde_json::Value;

use super::Unusable;

/// Values of a schema, all together.
const VALUES: usize = 20_000;
/// Patterns, each of which is compiled.
const PATTERNS: usize = 128;
/// Bytes of one pattern.
const PATTERN_BYTES: usize = 4 * 1024;

/// What stands under a keyword.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// No schema.
    Nothing,
    /// A schema, or a list of them.
    Schemas,
    /// Schemas by name.
    Named,
}

/// What stands under the keyword `name`, in any draft.
pub fn holds(name: &str) -> Holds {
    match name {
        "additionalItems"
        | "additionalProperties"
        | "allOf"
        | "anyOf"
        | "contains"
        | "contentSchema"
        | "else"
        | "if"
        | "items"
        | "not"
        | "oneOf"
        | "prefixItems"
        | "propertyNames"
        | "then"
        | "unevaluatedItems"
        | "unevaluatedProperties" => Holds::Schemas,
        "$defs" | "definitions" | "dependencies" | "dependentSchemas" | "patternProperties"
        | "properties" => Holds::Named,
        _ => Holds::Nothing,
    }
}

/// Looks through a whole schema. Answers its anchors, with JSON pointers to what they name.
///
/// # Errors
/// [`Unusable`] for one that is too large, or refers to anything but itself.
pub fn survey(root: &Value) -> Result<HashMap<String, String>, Unusable> {
    if !root.is_object() && !root.is_boolean() {
        return Err(Unusable { at: String::new(), why: "is neither an object nor a boolean" });
    }
    if count(root) > VALUES {
        return Err(Unusable { at: String::new(), why: "has more than 20,000 values" });
    }
    let mut survey = Survey { root, anchors: HashMap::new(), references: Vec::new(), patterns: 0 };
    survey.schema(root, &mut String::new())?;
    for (at, reference) in &survey.references {
        if target(root, &survey.anchors, reference).is_none() {
            return Err(Unusable { at: at.clone(), why: "refers to what is not in it" });
        }
    }
    Ok(survey.anchors)
}

/// What `reference` refers to within `root`.
pub fn target<'s>(root: &'s Value, anchors: &HashMap<String, String>, reference: &str) -> Option<&'s Value> {
    let own = root.get("$id").and_then(Value::as_str).map(|id| id.trim_end_matches('#'));
    let fragment = match reference.strip_prefix('#') {
        Some(fragment) => fragment,
        None => match reference.strip_prefix(own?)? {
            "" => "",
            rest => rest.strip_prefix('#')?,
        },
    };
    let fragment = unescaped(fragment)?;
    if fragment.is_empty() || fragment.starts_with('/') {
        root.pointer(&fragment)
    } else {
        root.pointer(anchors.get(&fragment)?)
    }
}

/// A fragment without its percent signs (RFC 6901 §6).
fn unescaped(fragment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(fragment.len());
    let mut rest = fragment.as_bytes();
    while let [first, tail @ ..] = rest {
        match (first, tail) {
            (b'%', [a, b, tail @ ..]) => {
                let digits = [*a, *b];
                bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
                rest = tail;
            }
            (b'%', _) => return None,
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).ok()
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count).sum::<usize>(),
        Value::Object(members) => members.values().map(count).sum(),
        _ => 0,
    }
}

struct Survey<'s> {
    root: &'s Value,
    anchors: HashMap<String, String>,
    /// Where each stands, and what it says.
    references: Vec<(String, &'s str)>,
    patterns: usize,
}

impl<'s> Survey<'s> {
    fn schema(&mut self, schema: &'s Value, path: &mut String) -> Result<(), Unusable> {
        let Some(members) = schema.as_object() else { return Ok(()) };
        for (name, value) in members {
            let unusable = |why| Err(Unusable { at: format!("{path}/{}", escaped(name)), why });
            match (name.as_str(), value.as_str()) {
                ("$ref", Some(reference)) => self.references.push((format!("{path}/$ref"), reference)),
                ("$dynamicRef" | "$recursiveRef", _) => {
                    return unusable("uses references that change their meaning, which are not supported");
                }
                ("$anchor" | "$dynamicAnchor", Some(anchor)) => {
                    self.anchors.insert(anchor.to_owned(), path.clone());
                }
                ("$id" | "id", Some(id)) if !std::ptr::eq(schema, self.root) => match id.strip_prefix('#') {
                    Some(anchor) => {
                        self.anchors.insert(anchor.to_owned(), path.clone());
                    }
                    None if name == "$id" => {
                        return unusable("has a schema with an address of its own in it");
                    }
                    // In drafts after the fourth that is nothing; a fourth-draft schema inside is compiled or fails.
                    None => {}
                },
                ("pattern", Some(pattern)) => self.pattern(pattern, path)?,
                _ => {}
            }
            if name == "patternProperties" {
                for pattern in value.as_object().into_iter().flat_map(|o| o.keys()) {
                    self.pattern(pattern, path)?;
                }
            }
            self.inside(holds(name), name, value, path)?;
        }
        Ok(())
    }

    fn inside(
        &mut self,
        holds: Holds,
        name: &str,
        value: &'s Value,
        path: &mut String,
    ) -> Result<(), Unusable> {
        let length = path.len();
        path.push('/');
        path.push_str(&escaped(name));
        match (holds, value) {
            (Holds::Nothing, _) => {}
            (Holds::Named, Value::Object(named)) => {
                for (name, schema) in named {
                    self.inside(Holds::Schemas, name, schema, path)?;
                }
            }
            (_, Value::Array(schemas)) => {
                for (index, schema) in schemas.iter().enumerate() {
                    let length = path.len();
                    path.push_str(&format!("/{index}"));
                    self.schema(schema, path)?;
                    path.truncate(length);
                }
            }
            _ => self.schema(value, path)?,
        }
        path.truncate(length);
        Ok(())
    }

    fn pattern(&mut self, pattern: &str, path: &str) -> Result<(), Unusable> {
        self.patterns += 1;
        let unusable = |why| Err(Unusable { at: path.to_owned(), why });
        if pattern.len() > PATTERN_BYTES {
            return unusable("has a pattern that is longer than 4 KiB");
        }
        if self.patterns > PATTERNS {
            return unusable("has more than 128 patterns");
        }
        Ok(())
    }
}

fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}
