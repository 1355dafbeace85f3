//! Marking of prose from outside, so that a model can tell it from instructions.

use bartizan_mcp::{
    Message, Splice,
    json::{Value, quote},
};
use bartizan_model::Entropy;
use bartizan_shield::{
    Shield, Spotlight, Trust,
    spotlight::{self, EXPLANATION},
};

use crate::server::Server;

/// The explanation of our marks, where marking is on for this server.
pub fn explanation(shield: &Shield, server: &Server) -> Option<&'static str> {
    is_marked(shield.config().spotlight, server).then_some(EXPLANATION)
}

fn is_marked(mode: Spotlight, server: &Server) -> bool {
    mode != Spotlight::Off && server.settings().trust != Trust::Trusted
}

/// Marks prose from outside; what is no prose stays byte for byte, unless something was found for which it is to be marked. Answers
/// whether there was any.
pub(super) fn mark<'a>(
    mode: Spotlight,
    is_found: bool,
    server: &Server,
    message: &'a Message,
    entropy: &dyn Entropy,
    splice: &mut Splice<'a>,
) -> bool {
    if server.settings().trust == Trust::Trusted {
        return false;
    }
    // What came of a task stands one result further in, and in what is told of it on the way.
    let bodies: Vec<_> = message.result().into_iter().chain(message.field("result")).collect();
    let mut marks = false;
    let mode = if mode == Spotlight::Off { Spotlight::Delimit } else { mode };
    let marking = if is_found { spotlight::spotlight_found } else { spotlight::spotlight };
    for key in ["content", "contents"] {
        for block in bodies.iter().filter_map(|body| body.get(key)).flat_map(Value::elements) {
            let holder = block.get("resource").unwrap_or(block);
            let is_text = block
                .get("type")
                .and_then(Value::as_str)
                .is_none_or(|t| matches!(t.as_ref(), "text" | "resource"));
            if let Some(place) = holder.get("text").filter(|_| is_text)
                && let Some(text) = place.as_str()
                && let Some(marked) = marking(mode, &text, server.name().as_str(), entropy)
            {
                splice.replace(place, quote(&marked));
                marks = true;
            }
        }
    }
    marks
}
