//! The JSON of tokens and metadata, read in one way only.
//!
//! A name that an object holds twice means the first to one parser and the last to another (RFC 8725 §2.4;
//! attacks.md AA-30), so such a text is no JSON here. The texts are small: every caller bounds them first.

use std::{collections::BTreeMap, fmt};

use bartizan_model::Timestamp;
use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};

/// A value. Numbers that are no whole number from 0 to 2^64-1 keep no value: nothing here has a use for them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Array(Vec<Value>),
    Boolean(bool),
    Null,
    OtherNumber,
    String(String),
    Unsigned(u64),
    Object(Object),
}

/// An object, each of whose names is there once.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Object(BTreeMap<String, Value>);

/// What is wrong with a text or one of its members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Missing(&'static str),
    Mistyped(&'static str),
    Syntax,
}

impl Object {
    /// Reads a text that is one object.
    pub fn parse(text: &[u8]) -> Result<Self, Fault> {
        let text = std::str::from_utf8(text).map_err(|_| Fault::Syntax)?;
        match serde_json::from_str(text) {
            Ok(Value::Object(object)) => Ok(object),
            _ => Err(Fault::Syntax),
        }
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub fn value(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// The value at the end of `path`, through objects.
    pub fn value_at(&self, path: &[String]) -> Option<&Value> {
        let (last, through) = path.split_last()?;
        let mut object = self;
        for name in through {
            let Some(Value::Object(inner)) = object.value(name) else { return None };
            object = inner;
        }
        object.value(last)
    }

    pub fn object(&self, name: &'static str) -> Result<Option<&Self>, Fault> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(object)),
            Some(_) => Err(Fault::Mistyped(name)),
        }
    }

    /// The object as text, without the numbers of which nothing is kept.
    pub fn to_json(&self) -> String {
        serde_json::Value::from(self).to_string()
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// A string without control characters, and not empty: it will stand in logs and keys.
    pub fn text(&self, name: &'static str) -> Result<Option<&str>, Fault> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::String(text)) if is_plain(text) => Ok(Some(text)),
            Some(_) => Err(Fault::Mistyped(name)),
        }
    }

    pub fn needed_text(&self, name: &'static str) -> Result<&str, Fault> {
        self.text(name)?.ok_or(Fault::Missing(name))
    }

    /// A NumericDate (RFC 7519 §2), which here is a whole number of seconds (attacks.md AA-19).
    pub fn time(&self, name: &'static str) -> Result<Option<Timestamp>, Fault> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Unsigned(seconds)) => Ok(Some(Timestamp::from_unix(*seconds))),
            Some(_) => Err(Fault::Mistyped(name)),
        }
    }

    pub fn needed_time(&self, name: &'static str) -> Result<Timestamp, Fault> {
        self.time(name)?.ok_or(Fault::Missing(name))
    }

    /// A string, or an array of them; an array is not empty.
    pub fn one_or_more(&self, name: &'static str) -> Result<Option<Vec<&str>>, Fault> {
        self.value(name).map(|value| value.one_or_more().ok_or(Fault::Mistyped(name))).transpose()
    }
}

impl Value {
    pub fn one_or_more(&self) -> Option<Vec<&str>> {
        match self {
            Self::String(text) if is_plain(text) => Some(vec![text]),
            Self::Array(_) => self.texts().filter(|texts| !texts.is_empty()),
            _ => None,
        }
    }

    /// The strings of an array of strings.
    pub fn texts(&self) -> Option<Vec<&str>> {
        let Self::Array(values) = self else { return None };
        values
            .iter()
            .map(|value| match value {
                Self::String(text) if is_plain(text) => Some(text.as_str()),
                _ => None,
            })
            .collect()
    }
}

impl From<&Object> for serde_json::Value {
    fn from(object: &Object) -> Self {
        Self::Object(object.0.iter().map(|(name, value)| (name.clone(), value.into())).collect())
    }
}

impl From<&Value> for serde_json::Value {
    fn from(value: &Value) -> Self {
        match value {
            Value::Array(values) => Self::Array(values.iter().map(Into::into).collect()),
            Value::Boolean(boolean) => Self::Bool(*boolean),
            Value::Null | Value::OtherNumber => Self::Null,
            Value::String(text) => Self::String(text.clone()),
            Value::Unsigned(number) => (*number).into(),
            Value::Object(object) => object.into(),
        }
    }
}

fn is_plain(text: &str) -> bool {
    !text.is_empty() && !text.chars().any(char::is_control)
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Boolean(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Unsigned(value))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Value, E> {
        Ok(Value::OtherNumber)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::OtherNumber)
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::String(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::String(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = sequence.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members = BTreeMap::new();
        while let Some((name, value)) = map.next_entry::<String, Value>()? {
            if name.contains('\0') || members.insert(name, value).is_some() {
                return Err(de::Error::custom("a name is there twice, or holds U+0000"));
            }
        }
        Ok(Value::Object(Object(members)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_parsers_could_read_differently_is_no_json() {
        let deep = format!(r#"{{"a":{}1{}}}"#, "[".repeat(200), "]".repeat(200));
        let bad = [
            "",
            "{",
            "[]",
            "1",
            "null",
            r#"{"a":1}x"#,
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"{"a":{"b":1,"b":1}}"#,
            r#"{"a\u0000":1}"#,
            r#"{"a":"\ud800"}"#,
            r#"{"a":1e400}"#,
            r#"{"a":01}"#,
            r#"{"a":1,}"#,
            "{'a':1}",
            "\u{feff}{}",
            &deep,
        ];
        for text in bad {
            assert_eq!(Object::parse(text.as_bytes()), Err(Fault::Syntax), "{text}");
        }
        assert_eq!(Object::parse(b"{\"a\":\"\xff\"}"), Err(Fault::Syntax));
        assert!(Object::parse(br#" {"a": {"b": [1, "c", {"a": null}]}} "#).is_ok());
    }

    #[test]
    fn a_time_is_a_whole_number_of_seconds() {
        let time =
            |value: &str| Object::parse(format!(r#"{{"exp":{value}}}"#).as_bytes()).unwrap().time("exp");
        assert_eq!(time("1700000000"), Ok(Some(Timestamp::from_unix(1_700_000_000))));
        for bad in
            [r#""9999999999""#, "-1", "true", "null", "[1]", "1.5", "1e3", "{}", "18446744073709551616"]
        {
            assert_eq!(time(bad), Err(Fault::Mistyped("exp")), "{bad}");
        }
        assert_eq!(Object::parse(b"{}").unwrap().needed_time("exp"), Err(Fault::Missing("exp")));
    }

    #[test]
    fn an_audience_is_a_string_or_some_strings() {
        let read = |value: &str| {
            let object = Object::parse(format!(r#"{{"aud":{value}}}"#).as_bytes()).unwrap();
            object.one_or_more("aud").map(|a| a.unwrap().join("|"))
        };
        assert_eq!(read(r#""a""#), Ok("a".into()));
        assert_eq!(read(r#"["a","b"]"#), Ok("a|b".into()));
        for bad in [r#""""#, "[]", "1", "{}", "null", r#"[["a"]]"#, r#"["a",1]"#, r#"["a",""]"#, r#""a\n""#] {
            assert_eq!(read(bad), Err(Fault::Mistyped("aud")), "{bad}");
        }
    }
}
