//! The part of a tool's JSON input schema that Cedar's types can carry.
//!
//! Integers, numbers of up to four decimals, texts, booleans, arrays of one of them as sets, and objects with named
//! properties as records. Everything else has a place but no shape: a call that uses it is marked unmapped.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// Levels of objects and arrays that are followed.
const DEEPEST: usize = 6;
/// Properties of one tool that are followed, all levels together.
const MOST: usize = 256;

/// The Cedar type of one argument.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Shape {
    Bool,
    Long,
    Decimal,
    Text,
    Set(Box<Shape>),
    Record(Record),
}

/// The properties of an object.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Record {
    pub fields: BTreeMap<String, Field>,
    /// `additionalProperties` is false.
    pub closed: bool,
    /// Of the arguments as a whole: the texts at any level, which a policy may read as paths or URLs.
    pub texts: Vec<TextAt>,
}

/// A text, or several, somewhere in the arguments.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TextAt {
    /// What policies call it: `path`, `options.path`, `edits[].path`.
    pub name: String,
    /// The properties on the way there. Objects in a list are all walked into.
    pub path: Vec<String>,
    /// Whether it is there in all arguments.
    pub required: bool,
    /// Whether there may be several.
    pub is_list: bool,
}

/// One property; without a shape it is known to exist and nothing more.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Field {
    pub shape: Option<Shape>,
    pub required: bool,
}

impl Record {
    /// The arguments that `input_schema` describes. A schema that is no object schema describes none.
    pub fn of_schema(input_schema: &Value) -> Self {
        let mut reader = Reader { root: input_schema, left: MOST };
        let record = reader.record(input_schema, 0).unwrap_or_default();
        let mut found = Vec::new();
        record.find_texts(&mut Vec::new(), "", (true, false), &mut found);
        let count = |name: &str| found.iter().filter(|text: &&TextAt| text.name == name).count();
        // A property may have a name that is written as the way to another: such a name means neither.
        let texts = found.iter().filter(|text| count(&text.name) == 1).cloned().collect();
        Self { texts, ..record }
    }

    /// The arguments of a prompt: a text each, `true` for those that it needs.
    pub fn of_texts<'a>(arguments: impl IntoIterator<Item = (&'a String, bool)>) -> Self {
        let mut record = Self::default();
        for (name, required) in arguments.into_iter().take(MOST) {
            record.fields.insert(name.clone(), Field { shape: Some(Shape::Text), required });
        }
        let text = |(name, field): (&String, &Field)| TextAt {
            name: name.clone(),
            path: vec![name.clone()],
            required: field.required,
            is_list: false,
        };
        Self { texts: record.fields.iter().map(text).collect(), ..record }
    }

    fn find_texts(
        &self,
        path: &mut Vec<String>,
        before: &str,
        (required, is_list): (bool, bool),
        found: &mut Vec<TextAt>,
    ) {
        for (field, Field { shape, required: is_always }) in &self.fields {
            let name = if before.is_empty() { field.clone() } else { format!("{before}.{field}") };
            let required = required && *is_always;
            path.push(field.clone());
            match shape {
                Some(shape) if shape.is_text() => found.push(TextAt {
                    name,
                    path: path.clone(),
                    required,
                    is_list: is_list || matches!(shape, Shape::Set(_)),
                }),
                Some(Shape::Record(record)) => record.find_texts(path, &name, (required, is_list), found),
                Some(Shape::Set(of)) => {
                    if let Shape::Record(record) = of.as_ref() {
                        // Whether an empty list has one is nobody's guess.
                        record.find_texts(path, &format!("{name}[]"), (false, true), found);
                    }
                }
                _ => {}
            }
            path.pop();
        }
    }

    /// The type in Cedar's JSON schema format.
    pub fn to_cedar(&self) -> Value {
        let attributes: Map<String, Value> = self
            .fields
            .iter()
            .filter_map(|(name, field)| {
                let mut of = field.shape.as_ref()?.to_cedar();
                if let Some(object) = of.as_object_mut() {
                    object.insert("required".into(), field.required.into());
                }
                Some((name.clone(), of))
            })
            .collect();
        json!({ "type": "Record", "attributes": attributes })
    }

    /// The texts at any level, which a policy may read as paths or URLs, with whether they are always there.
    pub fn texts(&self) -> impl Iterator<Item = (&str, bool)> {
        self.texts.iter().map(|text| (text.name.as_str(), text.required))
    }

    /// Whether the argument `name` is a list of texts, or one text in several objects.
    pub fn is_list(&self, name: &str) -> bool {
        self.texts.iter().any(|text| text.name == name && text.is_list)
    }
}

impl Shape {
    fn is_text(&self) -> bool {
        match self {
            Self::Text => true,
            Self::Set(of) => **of == Self::Text,
            _ => false,
        }
    }

    fn to_cedar(&self) -> Value {
        match self {
            Self::Bool => json!({ "type": "Boolean" }),
            Self::Long => json!({ "type": "Long" }),
            Self::Decimal => json!({ "type": "Extension", "name": "decimal" }),
            Self::Text => json!({ "type": "String" }),
            Self::Set(of) => json!({ "type": "Set", "element": of.to_cedar() }),
            Self::Record(record) => record.to_cedar(),
        }
    }
}

struct Reader<'a> {
    root: &'a Value,
    left: usize,
}

impl Reader<'_> {
    fn record(&mut self, schema: &Value, depth: usize) -> Option<Record> {
        let properties = schema.get("properties").and_then(Value::as_object)?;
        let required: Vec<&str> = schema
            .get("required")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let mut record = Record {
            closed: schema.get("additionalProperties") == Some(&Value::Bool(false)),
            ..Record::default()
        };
        for (name, property) in properties {
            self.left = self.left.checked_sub(1)?;
            let (shape, nullable) = self.shape(property, depth + 1);
            record.fields.insert(
                name.clone(),
                Field { shape, required: required.contains(&name.as_str()) && !nullable },
            );
        }
        Some(record)
    }

    /// The shape, and whether null may stand in its place.
    fn shape(&mut self, schema: &Value, depth: usize) -> (Option<Shape>, bool) {
        if depth > DEEPEST {
            return (None, false);
        }
        if let Some(target) = schema.get("$ref").and_then(Value::as_str) {
            // Only within the document, and what stands beside it narrows, which a type need not know.
            let found = target.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer));
            return found.map_or((None, false), |found| self.shape(found, depth + 1));
        }
        if let Some(choices) = schema.get("anyOf").or_else(|| schema.get("oneOf")).and_then(Value::as_array) {
            let is_null = |s: &&Value| s.get("type").and_then(Value::as_str) == Some("null");
            let mut others = choices.iter().filter(|s| !is_null(s));
            return match (others.next(), others.next(), choices.iter().any(|s| is_null(&s))) {
                (Some(only), None, nullable) => (self.shape(only, depth + 1).0, nullable),
                _ => (None, false),
            };
        }
        match schema.get("type") {
            Some(Value::String(kind)) => (self.of_kind(kind, schema, depth), false),
            Some(Value::Array(kinds)) => {
                let mut others = kinds.iter().filter_map(Value::as_str).filter(|k| *k != "null");
                let nullable = kinds.iter().any(|k| k == "null");
                match (others.next(), others.next()) {
                    (Some(kind), None) => (self.of_kind(kind, schema, depth), nullable),
                    _ => (None, nullable),
                }
            }
            // An enumeration or constant of texts alone says its type by its values.
            None => {
                let values = schema.get("enum").and_then(Value::as_array).map(Vec::as_slice);
                let values =
                    values.or_else(|| schema.get("const").map(std::slice::from_ref)).unwrap_or_default();
                let all_texts = !values.is_empty() && values.iter().all(Value::is_string);
                (all_texts.then_some(Shape::Text), false)
            }
            Some(_) => (None, false),
        }
    }

    fn of_kind(&mut self, kind: &str, schema: &Value, depth: usize) -> Option<Shape> {
        match kind {
            "boolean" => Some(Shape::Bool),
            "integer" => Some(Shape::Long),
            "number" => Some(Shape::Decimal),
            "string" => Some(Shape::Text),
            "array" => match self.shape(schema.get("items")?, depth + 1) {
                (Some(of), false) => Some(Shape::Set(Box::new(of))),
                _ => None,
            },
            "object" => self.record(schema, depth).map(Shape::Record),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_what_cedar_can_say_and_keeps_a_place_for_the_rest() {
        let record = Record::of_schema(&json!({
            "type": "object", "required": ["path", "note"], "additionalProperties": false,
            "properties": {
                "path": { "type": "string" },
                "note": { "type": ["string", "null"] },
                "limit": { "anyOf": [{ "type": "integer" }, { "type": "null" }] },
                "price": { "type": "number" },
                "tags": { "type": "array", "items": { "enum": ["a", "b"] } },
                "filter": { "$ref": "#/$defs/Filter" },
                "either": { "anyOf": [{ "type": "integer" }, { "type": "string" }] },
                "free": { "type": "object" },
                "loop": { "$ref": "#/properties/loop" },
            },
            "$defs": { "Filter": { "type": "object", "properties": { "deep": { "type": "boolean" } } } },
        }));
        let shape = |name: &str| record.fields[name].shape.clone();
        assert!(record.closed && record.fields["path"].required && !record.fields["note"].required);
        assert_eq!(shape("limit"), Some(Shape::Long));
        assert_eq!(shape("price"), Some(Shape::Decimal));
        assert_eq!(shape("tags"), Some(Shape::Set(Box::new(Shape::Text))));
        assert!(
            matches!(shape("filter"), Some(Shape::Record(r)) if r.fields["deep"].shape == Some(Shape::Bool))
        );
        assert_eq!((shape("either"), shape("free"), shape("loop")), (None, None, None));
        assert_eq!(record.texts().map(|(n, _)| n).collect::<Vec<_>>(), ["note", "path", "tags"]);
        assert_eq!(Record::of_schema(&Value::Null), Record::default());
    }

    #[test]
    fn the_arguments_of_a_prompt_are_texts() {
        let names = ["a.b".to_owned(), "topic".to_owned()];
        let record = Record::of_texts(names.iter().map(|name| (name, name == "topic")));
        assert_eq!(record.texts().collect::<Vec<_>>(), [("a.b", false), ("topic", true)]);
        assert!(record.fields.values().all(|field| field.shape == Some(Shape::Text)) && !record.closed);
    }

    #[test]
    fn texts_are_found_at_every_level_under_one_name_each() {
        let text = || json!({ "type": "string" });
        let record = Record::of_schema(&json!({
            "type": "object", "required": ["path", "options"],
            "properties": {
                "path": text(),
                "options": { "type": "object", "required": ["to"], "properties": { "to": text(), "from": text(), "n": { "type": "integer" } } },
                "edits": { "type": "array", "items": { "type": "object", "required": ["file"], "properties": { "file": text() } } },
                "a": { "type": "object", "properties": { "b": text() } },
                "a.b": text(),
            },
        }));
        let found: Vec<_> = record.texts().collect();
        let expected =
            [("edits[].file", false), ("options.from", false), ("options.to", true), ("path", true)];
        assert_eq!(found, expected, "`a.b` would be two things");
        assert!(record.is_list("edits[].file") && !record.is_list("options.to"));
    }

    #[test]
    fn a_schema_that_unfolds_without_end_is_cut_off() {
        let many = |n: usize| (0..n).map(|i| (format!("a{i}"), json!({"$ref": "#"}))).collect::<Map<_, _>>();
        let record = Record::of_schema(&json!({ "type": "object", "properties": many(16) }));
        assert_eq!(record, Record::default());
    }
}
