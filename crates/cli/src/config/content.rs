//! `[[audit.content]]`

use bartizan_audit::export::LONGEST_CONTENT;
use bartizan_gateway::record::{ContentRule, ContentRules, Glob, Pointer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[[audit.content]]`: arguments and results of calls of tools that are recorded, without the secrets and personal data that the
/// shield finds in them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ContentConfig {
    /// Which servers: a name, or a pattern in which `*` stands for any run of characters.
    #[serde(default = "any")]
    pub server: String,
    /// Which of their tools, likewise.
    #[serde(default = "any")]
    pub tool: String,
    /// Record the arguments.
    #[serde(default)]
    pub arguments: bool,
    /// Record the result, or the error in its place.
    #[serde(default)]
    pub results: bool,
    /// Write them in clear, for whoever can read the log. Without, they are sealed under the person's key, and erased with it.
    #[serde(default)]
    pub clear: bool,
    /// How many characters of each are kept, at most 65536.
    #[serde(default = "some")]
    pub max_chars: usize,
    /// Values that are never recorded: JSON pointers (RFC 6901) into the arguments or the result, `*` for any member or element,
    /// such as `/customer/iban` or `/structuredContent/rows/*/salary`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub redact: Vec<String>,
}

fn any() -> String {
    "*".to_owned()
}

const fn some() -> usize {
    4096
}

impl ContentConfig {
    /// What is wrong with it.
    pub fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        if !self.arguments && !self.results {
            found.push("set `arguments` or `results`, or both; it records nothing".to_owned());
        }
        if !(1..=LONGEST_CONTENT).contains(&self.max_chars) {
            found.push(format!("`max_chars` is 1 to {LONGEST_CONTENT}"));
        }
        for path in &self.redact {
            if let Err(error) = path.parse::<Pointer>() {
                found.push(format!("`redact`: `{path}`: {error}"));
            }
        }
        found
    }

    /// What works and is still not as it should be.
    pub fn warning(&self) -> Option<String> {
        self.clear.then(|| {
            format!(
                "[[audit.content]] {}: `clear` writes what is said for whoever can read the log, and erasing a person does not \
                 erase it",
                self.shown()
            )
        })
    }

    /// Which calls it is about, for people.
    pub fn shown(&self) -> String {
        format!("server `{}`, tool `{}`", self.server, self.tool)
    }
}

/// The rules of these, which have no problem.
pub fn rules(content: &[ContentConfig]) -> ContentRules {
    let rule = |of: &ContentConfig| ContentRule {
        server: Glob::new(&of.server),
        tool: Glob::new(&of.tool),
        arguments: of.arguments,
        results: of.results,
        is_clear: of.clear,
        max_chars: of.max_chars,
        redact: of.redact.iter().filter_map(|path| path.parse().ok()).collect(),
    };
    ContentRules(content.iter().map(rule).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_records_nothing_or_names_no_place_is_an_error() {
        let problems = |text: &str| toml::from_str::<ContentConfig>(text).unwrap().problems();
        assert_eq!(problems("results = true\nredact = [\"/a/*/b~1c\"]"), Vec::<String>::new());
        assert!(problems("clear = true")[0].contains("`arguments` or `results`"));
        assert!(problems("results = true\nmax_chars = 65537")[0].contains("`max_chars`"));
        assert!(problems("results = true\nmax_chars = 0")[0].contains("`max_chars`"));
        for bad in ["", "iban", "/a~2", "/a~"] {
            let found = problems(&format!("results = true\nredact = [\"{bad}\"]"));
            assert!(found[0].contains("JSON pointer"), "{bad}");
        }
        assert!(toml::from_str::<ContentConfig>("result = true").is_err());
    }
}
