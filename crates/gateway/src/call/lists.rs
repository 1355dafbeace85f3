//! A list as its client gets it.

use std::borrow::Cow;

use bartizan_mcp::{
    Era, Message, Splice,
    json::{Value, quote},
};

use super::{Call, Vetted};
use crate::{inspect, inventory::DefinitionKind};

impl Call {
    /// Leaves out of a list what may not be shown.
    pub(super) fn shown_list<'a>(&self, message: &'a Message, vetted: &Vetted, splice: &mut Splice<'a>) {
        let Some(kind) = DefinitionKind::listed_by(&self.method) else { return };
        let Some(list) = message.field(kind.member()) else { return };
        let mut hidden: Vec<usize> = vetted.withheld.iter().map(|w| w.at).collect();
        hidden.extend(&vetted.hidden);
        if kind == DefinitionKind::Tool {
            hidden.extend(self.learn_tools(message, list));
        }
        let explanation =
            inspect::explanation(&self.shield, &self.server).filter(|_| kind == DefinitionKind::Tool);
        if hidden.is_empty() && explanation.is_none() {
            return;
        }
        hidden.sort_unstable();
        let shown = list
            .elements()
            .enumerate()
            .filter(|(at, _)| hidden.binary_search(at).is_err())
            .map(|(_, e)| explanation.map_or_else(|| e.text().into(), |why| explained(e, why)))
            .collect::<Vec<Cow<'_, str>>>();
        // Nothing else is changed inside a list: merged lists are put together from calls that are not merged.
        splice.replace(list, format!("[{}]", shown.join(",")));
    }

    /// Remembers which headers mirror which parameters. Answers the places of tools whose annotations cannot be followed
    /// (C-07); in the legacy era there are no such headers.
    fn learn_tools(&self, message: &Message, tools: Value<'_>) -> Vec<usize> {
        if self.era == Era::Legacy {
            return Vec::new();
        }
        let is_whole = message.field("nextCursor").is_none();
        if !message.text().contains("x-mcp-header") && !message.text().contains("\\u") {
            self.server.tools().learn_plain(is_whole);
            return Vec::new();
        }
        self.server.tools().learn(tools, is_whole, self.server.name())
    }
}

/// A tool whose description also says what our marks in its results mean: after its pin was compared, never part of it.
fn explained<'a>(tool: Value<'a>, why: &str) -> Cow<'a, str> {
    let now = tool.get("description");
    let text = now.and_then(Value::as_str).unwrap_or_default();
    let mut splice = Splice::new(tool.text());
    let text = if text.is_empty() { why.to_owned() } else { format!("{text}\n\n{why}") };
    splice.put(tool, now, "description", quote(&text));
    splice.finish().into()
}
