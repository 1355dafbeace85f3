//! Documents in answers: what travels as bytes is read for judging, and what cannot be read is found (attacks.md II-07).

use bartizan_mcp::{Message, json::Value};
use bartizan_shield::{
    Finding, Fragment, Kind,
    document::{self, Limits, Unread},
};
use base64::{Engine, engine::general_purpose::STANDARD};

/// Adds the words of every document in `message` to `fragments`; answers what could not be read.
///
/// Documents stand in `contents` of `resources/read`, and in `content` as embedded resources.
pub fn read(message: &Message, kind: Kind, fragments: &mut Vec<Fragment<'_>>) -> Vec<Finding> {
    let mut unread = Vec::new();
    if message.result().is_none() {
        return unread;
    }
    for (member, holder) in [("contents", None), ("content", Some("resource"))] {
        for (number, block) in message.field(member).into_iter().flat_map(Value::elements).enumerate() {
            let at = match holder {
                None => format!("/{member}/{number}"),
                Some(holder) => format!("/{member}/{number}/{holder}"),
            };
            let Some(resource) = holder.map_or(Some(block), |holder| block.get(holder)) else { continue };
            let media_type = resource.get("mimeType").and_then(Value::as_str).unwrap_or_default();
            let blob = resource.get("blob").and_then(Value::as_str);
            let text = resource.get("text").and_then(Value::as_str).filter(|_| is_mail(&media_type));
            let (at, words) = match (blob, text) {
                (Some(blob), _) => {
                    let words = STANDARD
                        .decode(blob.as_ref())
                        .map(|b| document::read(&b, &media_type, Limits::default()));
                    let damaged = || document::Words { unread: Some(Unread::Damaged), ..Default::default() };
                    (format!("{at}/blob"), words.unwrap_or_else(|_| damaged()))
                }
                (None, Some(text)) => {
                    (format!("{at}/text"), document::read(text.as_bytes(), &media_type, Limits::default()))
                }
                (None, None) => continue,
            };
            unread.extend(words.unread.map(|why| why.finding(kind, at.clone())));
            fragments.extend(
                words.parts.into_iter().map(|(part, text)| Fragment::new(kind, format!("{at}{part}"), text)),
            );
        }
    }
    unread
}

/// Mail is text whose words are in other words.
fn is_mail(media_type: &str) -> bool {
    media_type.trim_start().get(..8).is_some_and(|kind| kind.eq_ignore_ascii_case("message/"))
}
