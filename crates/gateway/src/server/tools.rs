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

use crate::upstream::stdio::lock;

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

    pub(super) fn complete(&self) {
        lock(&self.0).complete = true;
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
                    found.insert(name.into_owned(), Arc::from(mirrors));
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
            known.annotated.extend(found);
        }
        bad
    }
}
