//! How much work a comparison is, counted by walking the way it will go and doing nothing on it.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::survey::target;

/// Steps that any comparison may take.
const STEPS: u64 = 300_000;
/// Steps more for each value that is compared: work that grows as the text does is no attack.
const STEPS_A_VALUE: u64 = 24;
/// Schemas and values inside one another.
const DEPTH: usize = 200;

/// Whether comparing `value` with the schema `root` takes an amount of work that can be borne.
pub fn is_bearable(root: &Value, anchors: &HashMap<String, String>, value: &Value) -> bool {
    let left = STEPS.saturating_add(STEPS_A_VALUE.saturating_mul(size(value)));
    Walk { root, anchors, left, depth: 0 }.compare(root, value).is_some()
}

fn size(value: &Value) -> u64 {
    1 + match value {
        Value::Array(items) => items.iter().map(size).sum::<u64>(),
        Value::Object(members) => members.values().map(size).sum(),
        Value::String(text) => text.len() as u64 / 64,
        _ => 0,
    }
}

struct Walk<'s> {
    root: &'s Value,
    anchors: &'s HashMap<String, String>,
    left: u64,
    depth: usize,
}

/// None when there is no more work left to do.
type Borne = Option<()>;

impl<'s> Walk<'s> {
    fn spend(&mut self, steps: u64) -> Borne {
        self.left = self.left.checked_sub(steps)?;
        Some(())
    }

    fn compare(&mut self, schema: &'s Value, value: &Value) -> Borne {
        self.spend(1)?;
        let Some(keywords) = schema.as_object() else { return Some(()) };
        if self.depth >= DEPTH {
            return None;
        }
        self.depth += 1;
        for (name, rule) in keywords {
            self.keyword(keywords, name, rule, value)?;
        }
        self.depth -= 1;
        Some(())
    }

    fn keyword(&mut self, all: &'s Map<String, Value>, name: &str, rule: &'s Value, value: &Value) -> Borne {
        match (name, rule, value) {
            ("$ref", Value::String(reference), _) => {
                let target = target(self.root, self.anchors, reference)?;
                self.compare(target, value)
            }
            ("allOf" | "anyOf" | "oneOf", Value::Array(schemas), _) => {
                schemas.iter().try_for_each(|schema| self.compare(schema, value))
            }
            ("not" | "if" | "then" | "else" | "contentSchema", schema, _) => self.compare(schema, value),
            ("enum", Value::Array(options), _) => self.spend(options.len() as u64 / 4 + 1),
            ("pattern", Value::String(pattern), Value::String(text)) => self.spend(matching(pattern, text)),
            ("minLength" | "maxLength", _, Value::String(text)) => self.spend(text.len() as u64 / 256 + 1),
            ("uniqueItems", _, Value::Array(_)) => self.spend(size(value).saturating_mul(2)),
            ("properties", Value::Object(schemas), Value::Object(members)) => {
                self.spend(schemas.len() as u64 / 4)?;
                for (name, member) in members {
                    if let Some(schema) = schemas.get(name) {
                        self.compare(schema, member)?;
                    }
                }
                Some(())
            }
            ("patternProperties", Value::Object(schemas), Value::Object(members)) => {
                for (pattern, schema) in schemas {
                    for (name, member) in members {
                        self.spend(matching(pattern, name))?;
                        self.compare(schema, member)?;
                    }
                }
                Some(())
            }
            ("additionalProperties" | "unevaluatedProperties", schema, Value::Object(members)) => {
                let known = all.get("properties").and_then(Value::as_object);
                for (name, member) in members {
                    if known.is_none_or(|known| !known.contains_key(name)) {
                        self.compare(schema, member)?;
                    }
                }
                if name.starts_with('u') { self.again(all, value) } else { Some(()) }
            }
            ("dependentSchemas" | "dependencies", Value::Object(schemas), Value::Object(members)) => schemas
                .iter()
                .filter(|(name, _)| members.contains_key(*name))
                .try_for_each(|(_, schema)| self.compare(schema, value)),
            ("propertyNames", schema, Value::Object(members)) => {
                members.keys().try_for_each(|name| self.compare(schema, &Value::String(name.clone())))
            }
            ("prefixItems" | "items", Value::Array(schemas), Value::Array(items)) => {
                schemas.iter().zip(items).try_for_each(|(schema, item)| self.compare(schema, item))
            }
            ("items" | "additionalItems" | "contains" | "unevaluatedItems", schema, Value::Array(items)) => {
                items.iter().try_for_each(|item| self.compare(schema, item))?;
                if name.starts_with('u') { self.again(all, value) } else { Some(()) }
            }
            _ => Some(()),
        }
    }

    /// What nobody evaluated is found out by evaluating everything beside it once more.
    fn again(&mut self, all: &'s Map<String, Value>, value: &Value) -> Borne {
        const IN_PLACE: [&str; 8] =
            ["$ref", "allOf", "anyOf", "oneOf", "if", "then", "else", "dependentSchemas"];
        let beside = all.iter().filter(|(name, _)| IN_PLACE.contains(&name.as_str()));
        for (name, rule) in beside {
            self.keyword(all, name, rule, value)?;
        }
        Some(())
    }
}

/// What matching takes at worst: patterns that look around or back may be tried again from every place.
fn matching(pattern: &str, text: &str) -> u64 {
    let length = text.len() as u64;
    1 + if goes_back(pattern) { length * 100 } else { length / 64 }
}

/// Whether `pattern` has anything but what one pass over a text decides. What is not known to be plain is not.
fn goes_back(pattern: &str) -> bool {
    let mut rest = pattern.as_bytes();
    let mut in_class = false;
    // Something may be repeated here that is repeated already: a `+` makes it possessive.
    let mut is_repeated = false;
    while let [first, tail @ ..] = rest {
        let was_repeated = std::mem::take(&mut is_repeated);
        rest = tail;
        match (first, tail) {
            (b'\\', [escaped, tail @ ..]) => {
                let is_plain = escaped.is_ascii_punctuation() || b"0bBcdDfnrsStuvwWx".contains(escaped);
                let is_property = matches!(escaped, b'p' | b'P' | b'A' | b'z') || !escaped.is_ascii();
                if !is_plain && !is_property {
                    return true;
                }
                let braced = matches!((escaped, tail), (b'p' | b'P' | b'u' | b'x', [b'{', ..]));
                let end = tail.iter().position(|b| *b == b'}').filter(|_| braced);
                rest = end.and_then(|end| tail.get(end + 1..)).unwrap_or(tail);
            }
            (b'[', _) => in_class = true,
            (b']', _) => in_class = false,
            _ if in_class => {}
            (b'(', [b'?', tail @ ..]) => {
                let flags = tail.iter().take_while(|b| matches!(b, b'i' | b's' | b'm' | b'-')).count();
                if !matches!(tail.get(flags), Some(b':' | b')')) {
                    return true;
                }
                // The sign after the bracket repeats nothing.
                rest = tail;
            }
            (b'+', _) if was_repeated => return true,
            (b'*' | b'+' | b'?' | b'}', _) => is_repeated = true,
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_plain_goes_back() {
        for plain in [
            "^[a-z]+$",
            r"^\d{4}-\d{2}$",
            r"[\w.+*?-]+@(?:\w+\.)+\w+",
            "(?i)abc|d+?",
            r"\p{L}+\+\+",
            "a(?:b|c)*",
        ] {
            assert!(!goes_back(plain), "{plain}");
        }
        for other in [
            "a{2}+b", "a++", "a*+", "a?+", "a+?+", "(?=a)", "(?!a)", "(?<=a)", "(?>a)", r"(a)\1", r"\k<a>",
            r"\Ka", "(?(1)a)", "(?x)a* +", r"\g<1>", "(?P=a)", "(?~a)",
        ] {
            assert!(goes_back(other), "{other}");
        }
    }
}
