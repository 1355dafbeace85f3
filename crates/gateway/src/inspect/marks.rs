//! Marking of prose from outside, so that a model can tell it from instructions.

use bartizan_mcp::{
    Kind as Message_, Message, Splice,
    json::{Kind as Json, Value, quote},
};
use bartizan_model::Entropy;
use bartizan_shield::{
    Shield, Spotlight, Trust,
    spotlight::{self, EXPLANATION},
};

use crate::server::Server;

/// The explanation of our marks, where this server's texts may have any.
pub fn explanation(shield: &Shield, server: &Server) -> Option<&'static str> {
    let config = shield.config();
    (is_marked(config.spotlight, server) || config.spotlights()).then_some(EXPLANATION)
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
    if !is_found && !is_marked(mode, server) {
        return false;
    }
    let mode = if mode == Spotlight::Off { Spotlight::Delimit } else { mode };
    let marking = if is_found { spotlight::spotlight_found } else { spotlight::spotlight };
    let mut marks = false;
    for place in texts(message, is_found) {
        if let Some(text) = place.as_str()
            && let Some(marked) = marking(mode, &text, server.name().as_str(), entropy)
        {
            splice.replace(place, quote(&marked));
            marks = true;
        }
    }
    marks
}

/// The texts of `message` that a model reads as words: of blocks, resources and errors. What was found in any of them is a reason to
/// mark those, too, that are not marked as a rule: prompts, which their user chose to be followed, and what is told on the way.
fn texts(message: &Message, is_found: bool) -> Vec<Value<'_>> {
    let mut found = Vec::new();
    // What came of a task stands one result further in, and in what is told of it on the way.
    let bodies: Vec<_> = message.result().into_iter().chain(message.field("result")).collect();
    for body in &bodies {
        for key in ["content", "contents"] {
            let blocks = body.get(key).into_iter().flat_map(Value::elements);
            found.extend(blocks.flat_map(|block| texts_of(block, true, is_found)));
        }
        for content in
            body.get("messages").into_iter().flat_map(Value::elements).filter_map(|said| said.get("content"))
        {
            let blocks: Vec<_> = match content.kind() {
                Json::Array => content.elements().collect(),
                _ => vec![content],
            };
            found.extend(blocks.into_iter().flat_map(|block| texts_of(block, is_found, is_found)));
        }
    }
    found.extend(message.error().and_then(|error| error.get("message")));
    if is_found {
        found.extend(message.field("statusMessage"));
        if message.kind() == Message_::Notification {
            found.extend(["message", "data"].into_iter().filter_map(|key| message.param(key)));
        }
    }
    found
}

/// The texts of one block: its own, if `own` says so, that of the resource it embeds, and what it says of one that it links to.
/// Without anything found, only of the types that the protocol knows.
fn texts_of(block: Value<'_>, own: bool, is_found: bool) -> impl Iterator<Item = Value<'_>> {
    let type_ = block.get("type").and_then(Value::as_str);
    let is_text = is_found || type_.as_deref().is_none_or(|type_| matches!(type_, "text" | "resource"));
    let embedded = block.get("resource").and_then(|resource| resource.get("text")).filter(|_| is_text);
    let text = block.get("text").filter(|_| own && is_text);
    let link = block.get("description").filter(|_| type_.as_deref() == Some("resource_link"));
    embedded.into_iter().chain(text).chain(link)
}
