//! What a tool's definition says about headers (26/http; spec.md A-34, C-05, C-07).

use http::{HeaderMap, HeaderName};

use crate::{
    headers::{self, Fault, PARAM_PREFIX},
    json::{Kind, Value},
};

/// One annotated parameter: where it lies in `arguments` and which header mirrors it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    path: Vec<String>,
    header: HeaderName,
}

/// Why a tool's annotations cannot be followed; such a tool is left out of lists (C-07).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAnnotation {
    /// Not a field name.
    #[error("`x-mcp-header` is not a header name")]
    Name,
    /// Two parameters share a header.
    #[error("two parameters are mirrored in the header {0}")]
    Repeated(String),
    /// Only strings, integers and booleans have one text.
    #[error("`x-mcp-header` stands on a parameter that is no string, integer or boolean")]
    Type,
    /// Under `items`, `anyOf` and the like a parameter has no one place.
    #[error("`x-mcp-header` stands where `properties` alone do not lead")]
    Place,
}

/// The annotated parameters of an input schema.
///
/// # Errors
/// [`InvalidAnnotation`] if one breaks the rules of 26/http.
pub fn mirrors(schema: Value<'_>) -> Result<Vec<Mirror>, InvalidAnnotation> {
    // Most schemas have none: one search spares the walk. An escaped key would not be found, so it is walked for.
    if !schema.text().contains("x-mcp-header") && !schema.text().contains("\\u") {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    collect(schema, &mut Vec::new(), true, &mut found)?;
    Ok(found)
}

fn collect(
    schema: Value<'_>,
    path: &mut Vec<String>,
    reachable: bool,
    found: &mut Vec<Mirror>,
) -> Result<(), InvalidAnnotation> {
    for member in schema.members() {
        let key = member.key();
        match key.as_ref() {
            "x-mcp-header" => {
                let name =
                    member.value.as_str().filter(|n| headers::is_token(n)).ok_or(InvalidAnnotation::Name)?;
                if !reachable || path.is_empty() {
                    return Err(InvalidAnnotation::Place);
                }
                let kind = schema.get("type").and_then(Value::as_str);
                if !matches!(kind.as_deref(), Some("string" | "integer" | "boolean")) {
                    return Err(InvalidAnnotation::Type);
                }
                let header = HeaderName::try_from(format!("{PARAM_PREFIX}{name}"))
                    .map_err(|_| InvalidAnnotation::Name)?;
                if found.iter().any(|m| m.header == header) {
                    return Err(InvalidAnnotation::Repeated(header.to_string()));
                }
                found.push(Mirror { path: path.clone(), header });
            }
            "properties" => {
                for property in member.value.members() {
                    path.push(property.key().into_owned());
                    collect(property.value, path, reachable, found)?;
                    path.pop();
                }
            }
            // Data, not schemas: a key in there is no annotation.
            "default" | "const" | "enum" | "examples" => {}
            _ => match member.value.kind() {
                Kind::Object => collect(member.value, path, false, found)?,
                Kind::Array => {
                    for element in member.value.elements() {
                        collect(element, path, false, found)?;
                    }
                }
                _ => {}
            },
        }
    }
    Ok(())
}

impl Mirror {
    fn value<'a>(&self, arguments: Option<Value<'a>>) -> Option<Value<'a>> {
        let mut value = arguments?;
        for key in &self.path {
            value = value.get(key)?;
        }
        (!value.is_null()).then_some(value)
    }

    /// The header's name, in lower case.
    pub fn header(&self) -> &HeaderName {
        &self.header
    }

    /// Adds the header that mirrors `arguments`, if the parameter is there (C-05).
    pub fn write(&self, arguments: Option<Value<'_>>, to: &mut HeaderMap) {
        if let Some(text) = self.value(arguments).and_then(headers::mirrored) {
            to.insert(self.header.clone(), headers::encode(&text));
        }
    }

    /// Checks the header that should mirror `arguments` (A-34 to A-36).
    ///
    /// # Errors
    /// What is wrong, for a -32020 error.
    pub fn check(&self, arguments: Option<Value<'_>>, headers: &HeaderMap) -> Result<(), String> {
        let sent = headers::read(headers, &self.header).map_err(|fault: Fault| fault.to_string())?;
        match (self.value(arguments), sent) {
            (None, None) => Ok(()),
            (Some(value), Some(sent)) if headers::matches(&sent, value) => Ok(()),
            (Some(_), None) => Err(format!("the header {} is missing; it mirrors a parameter", self.header)),
            (None, Some(_)) => Err(format!("the header {} mirrors a parameter that is absent", self.header)),
            (Some(_), Some(_)) => Err(format!("the header {} differs from its parameter", self.header)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(schema: &str) -> Result<Vec<Mirror>, InvalidAnnotation> {
        mirrors(Value::of_checked(schema))
    }

    #[test]
    fn finds_nested_parameters_and_mirrors_them() {
        let schema = r#"{"type":"object","properties":{"region":{"type":"string","x-mcp-header":"Region"},
            "opts":{"type":"object","properties":{"n":{"type":"integer","x-mcp-header":"N"}}}}}"#;
        let found = of(schema).unwrap();
        let arguments = Value::of_checked(r#"{"region":"é","opts":{"n":42.0}}"#);
        let mut headers = HeaderMap::new();
        for mirror in &found {
            mirror.write(Some(arguments), &mut headers);
        }
        assert_eq!(headers.get("mcp-param-region").unwrap(), "=?base64?w6k=?=");
        assert_eq!(headers.get("mcp-param-n").unwrap(), "42");
        assert!(found.iter().all(|m| m.check(Some(arguments), &headers).is_ok()));
        let other = Value::of_checked(r#"{"region":"us","opts":{}}"#);
        assert!(found.iter().all(|m| m.check(Some(other), &headers).is_err()));
        assert!(
            found
                .iter()
                .all(|m| m.check(Some(Value::of_checked(r#"{"region":null}"#)), &HeaderMap::new()).is_ok())
        );
        assert!(found.iter().all(|m| m.check(Some(arguments), &HeaderMap::new()).is_err()));
    }

    #[test]
    fn refuses_invalid_annotations() {
        let property = |p: &str| of(&format!(r#"{{"properties":{{"a":{p}}}}}"#));
        assert_eq!(property(r#"{"type":"string","x-mcp-header":""}"#), Err(InvalidAnnotation::Name));
        assert_eq!(property(r#"{"type":"string","x-mcp-header":"a b"}"#), Err(InvalidAnnotation::Name));
        assert_eq!(property(r#"{"type":"string","x-mcp-header":7}"#), Err(InvalidAnnotation::Name));
        assert_eq!(property(r#"{"type":"number","x-mcp-header":"A"}"#), Err(InvalidAnnotation::Type));
        assert_eq!(property(r#"{"x-mcp-header":"A"}"#), Err(InvalidAnnotation::Type));
        assert_eq!(
            property(r#"{"type":"array","items":{"type":"string","x-mcp-header":"A"}}"#),
            Err(InvalidAnnotation::Place)
        );
        assert_eq!(
            property(r#"{"anyOf":[{"type":"string","x-mcp-\u0068eader":"A"}]}"#),
            Err(InvalidAnnotation::Place)
        );
        let twice = r#"{"properties":{"a":{"type":"string","x-mcp-header":"X"},"b":{"type":"string","x-mcp-header":"x"}}}"#;
        assert!(matches!(of(twice), Err(InvalidAnnotation::Repeated(_))));
        assert_eq!(property(r#"{"type":"object","default":{"x-mcp-header":1}}"#), Ok(vec![]));
    }
}
