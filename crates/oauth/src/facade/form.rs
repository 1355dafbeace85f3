//! Parameters of queries and forms, each there once (RFC 6749 §3.1, §3.2).

use std::collections::{BTreeMap, BTreeSet};

use url::form_urlencoded;

/// The parameters of a request. They may hold secrets, so they do not print.
pub(crate) struct Parameters {
    values: BTreeMap<String, String>,
    repeated: BTreeSet<String>,
}

impl Parameters {
    /// Reads a query, or a form's body. A parameter without a value is as good as none (RFC 6749 §3.1); what is no
    /// UTF-8 is no value.
    pub fn parse(text: &[u8]) -> Self {
        let (mut values, mut repeated) = (BTreeMap::new(), BTreeSet::new());
        for (name, value) in form_urlencoded::parse(text) {
            if values.contains_key(name.as_ref()) {
                repeated.insert(name.into_owned());
            } else {
                values.insert(name.into_owned(), value.into_owned());
            }
        }
        Self { values, repeated }
    }

    /// A parameter that is there once. What is there twice means one thing to one reader and another to the next.
    pub fn get(&self, name: &str) -> Option<&str> {
        let value = self.values.get(name).filter(|value| !value.is_empty())?;
        // The replacement character stands for what could not be decoded.
        let is_whole = !value.contains('\u{fffd}') && !self.repeated.contains(name);
        is_whole.then_some(value.as_str())
    }

    /// Whether a parameter is there, in whatever form.
    pub fn has(&self, name: &str) -> bool {
        self.values.get(name).is_some_and(|value| !value.is_empty()) || self.repeated.contains(name)
    }

    /// Whether a parameter is there and cannot be read.
    pub fn is_broken(&self, name: &str) -> bool {
        self.has(name) && self.get(name).is_none()
    }

    /// Whether any parameter is there twice.
    pub fn is_repeating(&self) -> bool {
        !self.repeated.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_there_once_or_not_at_all() {
        let parameters = Parameters::parse(b"a=1&b=2&b=2&c=&d=%ff&e=x%20y+z&%61b=q");
        assert_eq!(parameters.get("a"), Some("1"));
        assert_eq!((parameters.get("b"), parameters.is_broken("b")), (None, true));
        assert_eq!((parameters.get("c"), parameters.has("c")), (None, false));
        assert_eq!((parameters.get("d"), parameters.is_broken("d")), (None, true));
        assert_eq!(parameters.get("e"), Some("x y z"));
        assert_eq!(parameters.get("ab"), Some("q"));
        assert!(parameters.is_repeating() && !Parameters::parse(b"a=1&b=1").is_repeating());
    }
}
