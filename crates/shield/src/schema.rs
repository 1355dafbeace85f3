//! Whether a value is what a schema says (JSON Schema 2020-12, or the draft that `$schema` names).
//!
//! Schemas are a server's to write, and so is what they are compared with: nothing is fetched, everything they refer to
//! stands in themselves, and the work of one comparison is counted before it is done (attacks.md PO-06, PO-07; spec.md
//! `format` is an annotation, as the specification has it by default: names nobody knows mean nothing.

mod numbers;
mod survey;
mod work;

use std::collections::HashMap;

use jsonschema::{
    Draft, PatternOptions, ValidationError, Validator,
    error::{TypeKind, ValidationErrorKind as Wrong},
};
use serde_json::Value;

/// Bytes of a schema.
const BYTES: usize = 256 * 1024;
/// Steps back that one pattern may take on one string before it counts as not matching.
const STEPS_BACK: usize = 5_000;
/// Bytes of one pattern, compiled.
const PATTERN: usize = 1 << 20;

/// A schema that values can be compared with.
#[derive(Debug)]
pub struct Schema {
    root: Value,
    /// `$anchor`s, and JSON pointers to what they name.
    anchors: HashMap<String, String>,
    validator: Validator,
}

/// Why a schema cannot be used. The words are ours alone; the place is the server's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Unusable {
    /// A JSON pointer into the schema.
    pub at: String,
    /// What is wrong there.
    pub why: &'static str,
}

/// Why a value does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// A JSON pointer into the value; what it names is its writer's.
    pub at: String,
    /// A JSON pointer to the keyword of the schema that says so.
    pub rule: String,
    /// What is wrong, in our words and the schema's; nothing of the value.
    pub words: String,
}

impl Schema {
    /// Reads a schema. Work is bounded: it takes some milliseconds at most.
    ///
    /// # Errors
    /// [`Unusable`].
    pub fn read(text: &str) -> Result<Self, Unusable> {
        let unusable = |why| Unusable { at: String::new(), why };
        if text.len() > BYTES {
            return Err(unusable("is longer than 256 KiB"));
        }
        let root = numbers::value(text).ok_or(unusable("is not JSON"))?;
        let draft = Draft::Draft202012.detect(&root);
        if draft == Draft::Unknown {
            return Err(Unusable { at: "/$schema".to_owned(), why: "names a dialect that is not known" });
        }
        let anchors = survey::survey(&root)?;
        let validator = jsonschema::options()
            .with_draft(draft)
            .offline()
            .should_validate_formats(false)
            .should_ignore_unknown_formats(true)
            .with_pattern_options(
                PatternOptions::fancy_regex()
                    .backtrack_limit(STEPS_BACK)
                    .size_limit(PATTERN)
                    .dfa_size_limit(PATTERN),
            )
            .build(&root)
            .map_err(|error| Unusable {
                at: error.instance_path().to_string(),
                why: match error.kind() {
                    Wrong::Referencing(_) => "refers to what is not in it",
                    Wrong::Format { .. } | Wrong::Pattern { .. } => "has a pattern that cannot be used",
                    _ => "is no valid JSON Schema",
                },
            })?;
        Ok(Self { root, anchors, validator })
    }

    /// Compares the JSON text `value` with the schema.
    ///
    /// # Errors
    /// The first [`Misfit`]; a comparison that would take too much work is one.
    pub fn check(&self, value: &str) -> Result<(), Misfit> {
        let misfit = |words: &str| Misfit { at: String::new(), rule: String::new(), words: words.to_owned() };
        let value = numbers::value(value).ok_or_else(|| misfit("is not JSON"))?;
        if !work::is_bearable(&self.root, &self.anchors, &value) {
            return Err(misfit("takes more work to compare with its schema than is allowed"));
        }
        self.validator.validate(&value).map_err(|error| misfit_of(&error))
    }
}

/// An error of the library in our words; its own would quote the value.
fn misfit_of(error: &ValidationError<'_>) -> Misfit {
    let mut at = error.instance_path().to_string();
    let words = match error.kind() {
        Wrong::AdditionalProperties { unexpected } | Wrong::UnevaluatedProperties { unexpected } => {
            if let Some(name) = unexpected.first() {
                at.push('/');
                at.push_str(&name.replace('~', "~0").replace('/', "~1"));
            }
            "is a property that the schema does not have".to_owned()
        }
        Wrong::AdditionalItems { .. } | Wrong::UnevaluatedItems { .. } => {
            "has more items than the schema".to_owned()
        }
        Wrong::AnyOf { .. } | Wrong::OneOfNotValid { .. } => "is none of the forms in the schema".to_owned(),
        Wrong::OneOfMultipleValid { .. } => "is more than one of the forms in the schema".to_owned(),
        Wrong::BacktrackLimitExceeded { .. } | Wrong::RegexEngineFailure { .. } => {
            "takes more work to compare with its pattern than is allowed".to_owned()
        }
        Wrong::Constant { .. } | Wrong::Enum { .. } => "is none of the values in the schema".to_owned(),
        Wrong::Contains => "does not hold the item that the schema asks for".to_owned(),
        Wrong::ExclusiveMaximum { limit } => format!("must be less than {limit}"),
        Wrong::ExclusiveMinimum { limit } => format!("must be more than {limit}"),
        Wrong::FalseSchema => "may not be there".to_owned(),
        Wrong::MaxItems { limit } => format!("must not have more than {limit} items"),
        Wrong::Maximum { limit } => format!("must not be more than {limit}"),
        Wrong::MaxLength { limit } => format!("must not be longer than {limit} characters"),
        Wrong::MaxProperties { limit } => format!("must not have more than {limit} properties"),
        Wrong::MinItems { limit } => format!("must have {limit} items or more"),
        Wrong::Minimum { limit } => format!("must be {limit} or more"),
        Wrong::MinLength { limit } => format!("must be {limit} characters or longer"),
        Wrong::MinProperties { limit } => format!("must have {limit} properties or more"),
        Wrong::MultipleOf { multiple_of } => format!("must be a multiple of {multiple_of}"),
        Wrong::Not { .. } => "is what the schema excludes".to_owned(),
        Wrong::Pattern { .. } => "does not match its pattern".to_owned(),
        Wrong::PropertyNames { .. } => "has a property of a name that the schema excludes".to_owned(),
        Wrong::Required { property } => format!("lacks the property {property}"),
        Wrong::Type { kind: TypeKind::Single(one) } => format!("must be of type {one}"),
        Wrong::Type { kind: TypeKind::Multiple(types) } => {
            let types: Vec<_> = types.iter().map(|t| t.to_string()).collect();
            format!("must be of type {}", types.join(" or "))
        }
        Wrong::UniqueItems => "has the same item twice".to_owned(),
        _ => "does not fit its schema".to_owned(),
    };
    Misfit { at, rule: error.schema_path().to_string(), words }
}

/// What a tool's definition promises: the schemas of its arguments and of its structured results.
#[derive(Debug)]
pub struct Contract {
    /// `inputSchema`, if there is one.
    pub input: Option<Result<Schema, Unusable>>,
    /// `outputSchema`, if there is one.
    pub output: Option<Result<Schema, Unusable>>,
}

impl Contract {
    /// Reads both out of a definition, a JSON text.
    pub fn read(definition: &str) -> Self {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Tool<'t> {
            #[serde(borrow)]
            input_schema: Option<&'t serde_json::value::RawValue>,
            #[serde(borrow)]
            output_schema: Option<&'t serde_json::value::RawValue>,
        }
        let read = |schema: Option<&serde_json::value::RawValue>| schema.map(|s| Schema::read(s.get()));
        match serde_json::from_str::<Tool<'_>>(definition) {
            Ok(tool) => Self { input: read(tool.input_schema), output: read(tool.output_schema) },
            Err(_) => {
                let broken = || Some(Err(Unusable { at: String::new(), why: "is not JSON" }));
                Self { input: broken(), output: broken() }
            }
        }
    }

    /// What cannot be used of it, and which schema that is.
    pub fn unusable(&self) -> impl Iterator<Item = (&'static str, &Unusable)> {
        [("inputSchema", &self.input), ("outputSchema", &self.output)]
            .into_iter()
            .filter_map(|(name, schema)| Some((name, schema.as_ref()?.as_ref().err()?)))
    }
}

#[cfg(test)]
mod tests;
