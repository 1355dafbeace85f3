//! A call's JSON arguments as Cedar values, from the exact text that is forwarded.

use std::collections::{BTreeMap, BTreeSet};

use cedar_policy::RestrictedExpression as Expr;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::{
    canonical::{self, Ambiguous},
    reads::Names,
    shape::{Record, Shape},
};

/// Why arguments cannot be decided about.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadArguments {
    /// No JSON object, or one with a key that stands twice.
    #[error("the arguments are no JSON object with distinct keys")]
    NotAnObject,
    /// The pinned schema closes the object, and this property is not in it.
    #[error("the argument `{0}` is not in the tool's schema")]
    Undeclared(String),
    /// A policy reads the argument as a path.
    #[error("the argument `{argument}` cannot be decided about as a path: {reason}")]
    Path {
        /// Its name.
        argument: String,
        /// Why.
        reason: Ambiguous,
    },
    /// A policy reads the argument as a URL.
    #[error("the argument `{argument}` cannot be decided about as a URL: {reason}")]
    Url {
        /// Its name.
        argument: String,
        /// Why.
        reason: Ambiguous,
    },
}

/// The entries of `context` that come from a call's arguments.
pub(crate) struct Mapped {
    pub args: Expr,
    pub paths: Expr,
    pub urls: Expr,
    /// Something was left out of `args`.
    pub unmapped: bool,
}

/// Maps `text`, a JSON object or nothing, by the pinned `record`. Only what stands in `as_paths` and `as_urls` is
/// read as a path or URL.
pub(crate) fn map(
    record: &Record,
    text: Option<&str>,
    as_paths: &Names,
    as_urls: &Names,
) -> Result<Mapped, BadArguments> {
    let object = match text {
        None => Object::default(),
        Some(text) => serde_json::from_str(text).map_err(|_| BadArguments::NotAnObject)?,
    };
    let mut unmapped = false;
    let args = self::record(record, &object, &mut unmapped)?;
    let mut paths = Vec::new();
    let mut urls = Vec::new();
    for text in &record.texts {
        let name = text.name.as_str();
        let (wants_path, wants_url) = (as_paths.has(name), as_urls.has(name));
        if !wants_path && !wants_url {
            continue;
        }
        let mut texts = Vec::new();
        if !collect(&object, &text.path, &mut texts) {
            continue;
        }
        if wants_path {
            let path = path_record(&texts)
                .map_err(|reason| BadArguments::Path { argument: name.to_owned(), reason })?;
            paths.push((name.to_owned(), path));
        }
        if wants_url {
            let url = url_record(&texts)
                .map_err(|reason| BadArguments::Url { argument: name.to_owned(), reason })?;
            urls.push((name.to_owned(), url));
        }
    }
    Ok(Mapped { args, paths: to_record(paths), urls: to_record(urls), unmapped })
}

/// A record whose names are distinct, as the names of a map are.
pub(crate) fn to_record(fields: Vec<(String, Expr)>) -> Expr {
    let distinct: BTreeMap<String, Expr> = fields.into_iter().collect();
    Expr::new_record(distinct).unwrap_or_else(|_| Expr::new_set([]))
}

/// A set of texts.
pub(crate) fn to_set(texts: impl IntoIterator<Item = String>) -> Expr {
    Expr::new_set(texts.into_iter().map(Expr::new_string))
}

fn record(shape: &Record, object: &Object<'_>, unmapped: &mut bool) -> Result<Expr, BadArguments> {
    let mut fields = Vec::with_capacity(object.0.len());
    for (name, raw) in &object.0 {
        let Some(field) = shape.fields.get(name) else {
            if shape.closed {
                return Err(BadArguments::Undeclared(name.clone()));
            }
            *unmapped = true;
            continue;
        };
        // Null in place of an optional value says that it is absent.
        if raw.get() == "null" && !field.required {
            continue;
        }
        match field.shape.as_ref().map(|shape| value(shape, raw, unmapped)).transpose()?.flatten() {
            Some(value) => fields.push((name.clone(), value)),
            None => *unmapped = true,
        }
    }
    if shape.fields.iter().any(|(name, field)| field.required && !object.0.contains_key(name)) {
        *unmapped = true;
    }
    Ok(to_record(fields))
}

/// `raw` in `shape`, or `None` if it does not fit.
fn value(shape: &Shape, raw: &RawValue, unmapped: &mut bool) -> Result<Option<Expr>, BadArguments> {
    Ok(match shape {
        Shape::Bool => match raw.get() {
            "true" => Some(Expr::new_bool(true)),
            "false" => Some(Expr::new_bool(false)),
            _ => None,
        },
        Shape::Long => raw.get().parse().ok().map(Expr::new_long),
        Shape::Decimal => decimal(raw.get()).map(Expr::new_decimal),
        Shape::Text => text(raw).map(Expr::new_string),
        Shape::Set(of) => {
            let Ok(elements) = serde_json::from_str::<Vec<&RawValue>>(raw.get()) else { return Ok(None) };
            let mut values = Vec::with_capacity(elements.len());
            for element in elements {
                let Some(value) = value(of, element, unmapped)? else { return Ok(None) };
                values.push(value);
            }
            Some(Expr::new_set(values))
        }
        Shape::Record(shape) => {
            if !raw.get().starts_with('{') {
                return Ok(None);
            }
            let object = serde_json::from_str(raw.get()).map_err(|_| BadArguments::NotAnObject)?;
            Some(record(shape, &object, unmapped)?)
        }
    })
}

/// A JSON number as the text of a Cedar decimal: no exponent, at most four decimals, within ±922337203685477.5807.
fn decimal(number: &str) -> Option<String> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = whole.strip_prefix('-').unwrap_or(whole);
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !is_number(digits) || !is_number(fraction) || fraction.len() > 4 {
        return None;
    }
    // Ten thousandths in i64, the range of Cedar's decimals.
    format!("{whole}{fraction:0<4}").parse::<i64>().ok()?;
    Some(format!("{whole}.{fraction}"))
}

fn text(raw: &RawValue) -> Option<String> {
    serde_json::from_str(raw.get()).ok()
}

/// Collects every text that lies at `path`; whether anything is there. Of what does not fit its shape nothing is collected: the
/// call is unmapped then.
fn collect(object: &Object<'_>, path: &[String], into: &mut Vec<String>) -> bool {
    let Some((field, rest)) = path.split_first() else { return false };
    let Some(raw) = object.0.get(field) else { return false };
    if rest.is_empty() {
        return match texts(raw) {
            Some(found) => {
                into.extend(found);
                true
            }
            None => false,
        };
    }
    match serde_json::from_str::<Vec<&RawValue>>(raw.get()) {
        Ok(elements) => {
            for element in elements {
                if let Ok(object) = serde_json::from_str(element.get()) {
                    collect(&object, rest, into);
                }
            }
            true
        }
        Err(_) => serde_json::from_str(raw.get()).is_ok_and(|object| collect(&object, rest, into)),
    }
}

/// One text, or a list of nothing but texts.
fn texts(raw: &RawValue) -> Option<Vec<String>> {
    match text(raw) {
        Some(one) => Some(vec![one]),
        None => serde_json::from_str(raw.get()).ok(),
    }
}

/// `ancestors`: what every value lies below or is; `any_ancestors`: what some value lies below or is.
fn path_record(texts: &[String]) -> Result<Expr, Ambiguous> {
    let found = texts
        .iter()
        .map(|t| canonical::ancestors(t).map(BTreeSet::from_iter))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(to_record(vec![
        ("ancestors".into(), to_set(in_all(&found))),
        ("any_ancestors".into(), to_set(in_any(found))),
    ]))
}

/// `hosts`, `domains` and `schemes` of every value; `any_hosts`, `any_domains` and `any_schemes` of some value.
fn url_record(texts: &[String]) -> Result<Expr, Ambiguous> {
    let found = texts.iter().map(|t| canonical::destination(t)).collect::<Result<Vec<_>, _>>()?;
    let hosts: Vec<_> = found.iter().map(|d| BTreeSet::from([d.host.clone()])).collect();
    let domains: Vec<_> = found.iter().map(|d| d.domains()).collect();
    let schemes: Vec<_> = found.iter().map(|d| BTreeSet::from([d.scheme.clone()])).collect();
    Ok(to_record(vec![
        ("hosts".into(), to_set(in_all(&hosts))),
        ("any_hosts".into(), to_set(in_any(hosts))),
        ("domains".into(), to_set(in_all(&domains))),
        ("any_domains".into(), to_set(in_any(domains))),
        ("schemes".into(), to_set(in_all(&schemes))),
        ("any_schemes".into(), to_set(in_any(schemes))),
    ]))
}

fn in_all(sets: &[BTreeSet<String>]) -> BTreeSet<String> {
    let Some((first, rest)) = sets.split_first() else { return BTreeSet::new() };
    first.iter().filter(|t| rest.iter().all(|s| s.contains(*t))).cloned().collect()
}

fn in_any(sets: Vec<BTreeSet<String>>) -> BTreeSet<String> {
    sets.into_iter().flatten().collect()
}

/// A JSON object by its distinct keys; a key that stands twice is an error, whichever value others would take.
#[derive(Default)]
struct Object<'a>(BTreeMap<String, &'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Distinct;
        impl<'de> Visitor<'de> for Distinct {
            type Value = Object<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut found = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<String, &RawValue>()? {
                    if found.insert(key, value).is_some() {
                        return Err(A::Error::custom("a key stands twice"));
                    }
                }
                Ok(Object(found))
            }
        }
        deserializer.deserialize_map(Distinct)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shape() -> Record {
        Record::of_schema(&json!({
            "type": "object", "required": ["path"],
            "properties": {
                "path": { "type": "string" }, "paths": { "type": "array", "items": { "type": "string" } },
                "n": { "type": "integer" }, "price": { "type": "number" }, "o": { "type": "object", "properties": { "b": { "type": "boolean" } } },
                "any": {},
            }
        }))
    }

    fn mapped(text: &str) -> Result<Mapped, BadArguments> {
        map(&shape(), Some(text), &Names::All, &Names::None)
    }

    #[test]
    fn what_fits_is_mapped_and_what_does_not_is_marked() {
        for (text, unmapped) in [
            (r#"{"path":"/a"}"#, false),
            (r#"{"path":"/a","n":9223372036854775807,"price":-0.25,"o":{"b":true},"paths":[]}"#, false),
            (r#"{"path":"/a","n":null}"#, false),
            (r#"{"path":"/a","n":9223372036854775808}"#, true),
            (r#"{"path":"/a","n":1.0}"#, true),
            (r#"{"path":"/a","n":"1"}"#, true),
            (r#"{"path":"/a","price":0.12345}"#, true),
            (r#"{"path":"/a","price":1e2}"#, true),
            (r#"{"path":"/a","price":922337203685477.5808}"#, true),
            (r#"{"path":"/a","o":{"c":1}}"#, true),
            (r#"{"path":"/a","o":[]}"#, true),
            (r#"{"path":"/a","any":1}"#, true),
            (r#"{"path":"/a","Path":"/etc"}"#, true),
            (r#"{"path":"/a","args":{"path":"/etc"}}"#, true),
            (r#"{"path":["/data/a","/etc"]}"#, true),
            (r#"{"path":{"a":1}}"#, true),
            (r#"{"path":7}"#, true),
            (r#"{"path":null}"#, true),
            ("{}", true),
        ] {
            assert_eq!(mapped(text).map(|m| m.unmapped), Ok(unmapped), "{text}");
        }
    }

    #[test]
    fn a_repeated_key_or_no_object_is_refused() {
        for text in [
            "[]",
            "null",
            "7",
            "",
            r#"{"path":"/a","path":"/b"}"#,
            r#"{"path":"/a","p\u0061th":"/b"}"#,
            r#"{"path":"/a","o":{"b":true,"b":false}}"#,
        ] {
            assert_eq!(mapped(text).map(|m| m.unmapped), Err(BadArguments::NotAnObject), "{text}");
        }
    }

    #[test]
    fn a_list_lies_below_a_folder_only_if_all_of_it_does() {
        let ancestors = |text| {
            let paths = mapped(text).unwrap().paths;
            cedar_policy::Context::from_pairs([("p".to_owned(), paths)]).unwrap().to_string()
        };
        let inside = ancestors(r#"{"path":"/x","paths":["/data/a","/data/b"]}"#);
        assert!(inside.contains(r#"{ancestors: ["/", "/data"], any"#), "{inside}");
        let mixed = ancestors(r#"{"path":"/x","paths":["/data/a","/etc"]}"#);
        assert!(mixed.contains(r#"{ancestors: ["/"], any"#) && mixed.contains(r#""/etc""#), "{mixed}");
        assert!(matches!(
            mapped(r#"{"path":"/x","paths":["/data/a","/data/../b"]}"#),
            Err(BadArguments::Path { .. })
        ));
    }

    #[test]
    fn what_lies_deeper_is_read_the_same_way() {
        let text = || json!({ "type": "string" });
        let shape = Record::of_schema(&json!({ "type": "object", "properties": {
            "options": { "type": "object", "properties": { "path": text() } },
            "edits": { "type": "array", "items": { "type": "object", "properties": { "file": text() } } },
        } }));
        let read = |arguments: &str| {
            let mapped = map(&shape, Some(arguments), &Names::All, &Names::None)?;
            let pairs = [("p".to_owned(), mapped.paths)];
            Ok::<_, BadArguments>(cedar_policy::Context::from_pairs(pairs).unwrap().to_string())
        };
        let deep =
            read(r#"{"options":{"path":"/data/a"},"edits":[{"file":"/data/x"},{"file":"/etc/y"},{}]}"#)
                .unwrap();
        assert!(deep.contains(r#""options.path": {ancestors: ["/", "/data"#), "{deep}");
        assert!(
            deep.contains(r#""edits[].file": {ancestors: ["/"], any_ancestors"#) && deep.contains("/etc/y"),
            "{deep}"
        );
        assert!(!read(r#"{"options":{}}"#).unwrap().contains("options.path"));
        for bad in [
            r#"{"options":{"path":"/data/../etc"}}"#,
            r#"{"edits":[{"file":"/data/a"},{"file":"/data/%2e%2e/b"}]}"#,
        ] {
            assert!(matches!(read(bad), Err(BadArguments::Path { .. })), "{bad}");
        }
    }

    #[test]
    fn decimals_are_exact() {
        for (number, text) in [("1", "1.0"), ("-0.5", "-0.5"), ("12.3400", "12.3400")] {
            assert_eq!(decimal(number).as_deref(), Some(text));
        }
        for number in ["1e1", "1.23456", "99999999999999999999", "\"1\"", "-", "1.", "-922337203685477.5809"]
        {
            assert_eq!(decimal(number), None, "{number}");
        }
    }
}
