//! Flow labels proposed from a tool's pinned definition, for a person to confirm.
//!
//! A name is no proof: a proposal is never applied by itself, and an unlabelled tool keeps its server's trust.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::{Catalog, FlowLabels, Tool};

/// What one tool's labels could be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Suggestion {
    /// The server.
    pub server: String,
    /// The tool.
    pub tool: String,
    /// The labels it has now, given or by its server's trust.
    pub now: FlowLabels,
    /// The labels its definition speaks for.
    pub proposed: FlowLabels,
    /// Which words spoke for which label.
    pub because: Vec<String>,
}

const UNTRUSTED: &[&str] = &[
    "browse", "crawl", "download", "email", "emails", "fetch", "http", "inbox", "issue", "issues", "rss",
    "scrape", "url", "web",
];
const PRIVATE: &[&str] = &[
    "calendar", "contact", "contacts", "customer", "db", "email", "emails", "file", "files", "inbox", "mail",
    "query", "read", "secret", "sql",
];
const OUT: &[&str] = &[
    "browse",
    "comment",
    "email",
    "fetch",
    "forward",
    "http",
    "invite",
    "message",
    "notify",
    "post",
    "publish",
    "push",
    "recipient",
    "reply",
    "send",
    "share",
    "tweet",
    "upload",
    "url",
    "webhook",
];
const DESTRUCTIVE: &[&str] = &[
    "apply",
    "delete",
    "deploy",
    "destroy",
    "drop",
    "edit",
    "exec",
    "execute",
    "kill",
    "merge",
    "move",
    "overwrite",
    "purge",
    "remove",
    "reset",
    "run",
    "shell",
    "truncate",
    "update",
    "write",
];

/// Proposes labels for every tool whose definition speaks for others than it has.
pub fn suggest(catalog: &Catalog) -> Vec<Suggestion> {
    let all = catalog.tools().map(|(server, facts, name, tool)| {
        let now = tool.flow.unwrap_or_else(|| facts.trust.default_labels());
        let (proposed, because) = propose(name, tool);
        Suggestion { server: server.to_string(), tool: name.to_owned(), now, proposed, because }
    });
    all.filter(|s| s.proposed != s.now && !s.because.is_empty()).collect()
}

fn propose(name: &str, tool: &Tool) -> (FlowLabels, Vec<String>) {
    let mut words = words(name);
    words.extend(
        tool.input_schema
            .get("properties")
            .and_then(|p| p.as_object())
            .into_iter()
            .flatten()
            .flat_map(|(n, _)| self::words(n)),
    );
    // Of a description only the first sentence: the rest tells how, not what.
    words.extend(self::words(tool.description.split(". ").next().unwrap_or_default()));
    let mut because = Vec::new();
    let mut speaks = |label: &str, list: &[&str], hint: bool| {
        let found: Vec<&str> = list.iter().filter(|w| words.contains(**w)).copied().collect();
        if !found.is_empty() {
            because.push(format!("{label}: `{}`", found.join("`, `")));
        }
        if hint {
            because.push(format!("{label}: its annotations say so"));
        }
        hint || !found.is_empty()
    };
    let labels = FlowLabels {
        sees_untrusted: speaks("sees_untrusted", UNTRUSTED, tool.hints.open_world),
        reads_private: speaks("reads_private", PRIVATE, false),
        sends_out: speaks("sends_out", OUT, false),
        destructive: speaks("destructive", DESTRUCTIVE, tool.hints.destructive),
    };
    (labels, because)
}

/// The words of a name or sentence in lower case, taken apart at case changes and everything that is no letter.
fn words(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut word = String::new();
    let mut was_lower = false;
    for c in text.chars() {
        let starts_anew = c.is_uppercase() && was_lower;
        if (!c.is_alphabetic() || starts_anew) && !word.is_empty() {
            found.insert(std::mem::take(&mut word));
        }
        if c.is_alphabetic() {
            word.extend(c.to_lowercase());
        }
        was_lower = c.is_lowercase();
    }
    if !word.is_empty() {
        found.insert(word);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_names_apart() {
        let of = |text: &str| words(text).into_iter().collect::<Vec<_>>();
        assert_eq!(of("sendEmail"), ["email", "send"]);
        assert_eq!(of("delete_file-now"), ["delete", "file", "now"]);
        assert_eq!(of("posted"), ["posted"]);
    }

    #[test]
    fn proposes_what_the_definition_speaks_for() {
        let catalog: Catalog = serde_json::from_value(serde_json::json!({ "x": { "trust": "trusted", "tools": {
            "web_fetch": { "input_schema": { "properties": { "url": {} } } },
            "deleteFile": {}, "send_mail": { "flow": { "sends_out": true, "reads_private": true } }, "add": {},
            "sum": { "description": "Adds numbers. Never delete files" } } } }))
        .unwrap();
        let found: Vec<(String, FlowLabels)> =
            suggest(&catalog).into_iter().map(|s| (s.tool, s.proposed)).collect();
        let none = FlowLabels::default();
        assert_eq!(
            found,
            [
                ("deleteFile".to_owned(), FlowLabels { destructive: true, reads_private: true, ..none }),
                ("web_fetch".to_owned(), FlowLabels { sees_untrusted: true, sends_out: true, ..none }),
            ]
        );
    }
}
