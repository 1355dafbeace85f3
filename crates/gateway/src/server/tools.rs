//! What a server's tools want in headers.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use bartizan_mcp::{
    json::{Value, quote},
    tool::{self, Mirror},
};
use bartizan_model::ServerName;

use crate::{limits::MIRRORING_TOOLS, upstream::stdio::lock};

/// Bytes of the longest name that is remembered: a longer one is no tool's (spec.md A-59).
const LONGEST_NAME: usize = 128;

/// Which headers mirror which parameters of a server's tools, as it last listed them.
#[derive(Default)]
pub struct ToolHeaders(Mutex<Known>);

#[derive(Default)]
struct Known {
    annotated: BTreeMap<String, Arc<[Mirror]>>,
    /// Whether a tool that is not in `annotated` is known to have none.
    complete: bool,
}

impl ToolHeaders {
    /// The mirrors of `tool`; `None` if its definition has not been seen.
    pub(super) fn of(&self, tool: &str) -> Option<Arc<[Mirror]>> {
        let known = lock(&self.0);
        known.annotated.get(tool).cloned().or_else(|| known.complete.then(Arc::default))
    }

    /// Forgets everything, after a change.
    pub fn forget(&self) {
        *lock(&self.0) = Known::default();
    }

    /// What has not been seen by now has no mirrors.
    pub(super) fn complete(&self) {
        lock(&self.0).complete = true;
    }

    /// Whether no more tools are remembered.
    pub(super) fn is_full(&self) -> bool {
        lock(&self.0).annotated.len() >= MIRRORING_TOOLS
    }

    /// Takes in a page of tools without any annotation.
    pub fn learn_plain(&self, is_whole: bool) {
        let mut known = lock(&self.0);
        if is_whole {
            known.annotated.clear();
            known.complete = true;
        }
    }

    /// Takes in a page of tools. Answers which of them break the rules, by place (C-07).
    pub fn learn(&self, tools: Value<'_>, is_whole: bool, server: &ServerName) -> Vec<usize> {
        let mut bad = Vec::new();
        let mut found = BTreeMap::new();
        for (at, definition) in tools.elements().enumerate() {
            let name = definition.get("name").and_then(Value::as_str).unwrap_or_default();
            match definition.get("inputSchema").map_or(Ok(Vec::new()), tool::mirrors) {
                Ok(mirrors) => {
                    if name.len() <= LONGEST_NAME && found.len() < MIRRORING_TOOLS {
                        found.insert(name.into_owned(), Arc::from(mirrors));
                    }
                }
                Err(reason) => {
                    tracing::warn!(%server, tool = %quote(&name), %reason, "a tool was left out of the list");
                    bad.push(at);
                }
            }
        }
        let mut known = lock(&self.0);
        if is_whole {
            *known = Known { annotated: found, complete: true };
        } else {
            // A list that never ends must not be remembered without end (attacks.md PH-29).
            for (name, mirrors) in found {
                if known.annotated.len() < MIRRORING_TOOLS || known.annotated.contains_key(&name) {
                    known.annotated.insert(name, mirrors);
                }
            }
        }
        bad
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_without_end_is_not_remembered_without_end() {
        let (headers, server) = (ToolHeaders::default(), "up".parse().unwrap());
        let page = |from: usize| {
            let tools: Vec<_> = (from..from + 1000)
                .map(|n| format!(r#"{{"name":"t{n}","inputSchema":{{"type":"object"}}}}"#))
                .collect();
            format!("[{}]", tools.join(","))
        };
        for from in 0..20 {
            headers.learn(Value::of(&page(from * 1000)), false, &server);
        }
        assert_eq!(lock(&headers.0).annotated.len(), MIRRORING_TOOLS);
        assert!(headers.is_full() && headers.of("t0").is_some());
        assert!(headers.of("t19999").is_none(), "it is not known that it has none");
        let whole = page(0).replace("\"name\":\"t1\"", &format!("\"name\":\"{}\"", "t".repeat(129)));
        headers.learn(Value::of(&whole), true, &server);
        assert_eq!(lock(&headers.0).annotated.len(), 999, "names that are none are not remembered");
    }
}
