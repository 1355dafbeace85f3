//! What a tool takes and what it gives: arguments and structured results against the approved definition (spec.md A-60,
//! A-61, A-63 to A-65; attacks.md PO-06, PO-07, PO-17).
//!
//! The schemas are those of the pin, never those the server lists at the moment. A schema that cannot be used lets
//! nothing through: arguments are not sent, structured results not shown.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use bartizan_audit::Text;
use bartizan_mcp::{
    Era, Message, Refusal, code,
    json::{Value, quote},
};
use bartizan_shield::schema::{Contract, Misfit, Schema, Unusable};
use bartizan_store::{Digest, pins::Finding};

use crate::{
    catalog::long_work,
    server::Server,
    upstream::{Failure, stdio::lock},
};

/// Contracts that are kept read.
const KEPT: usize = 4096;
/// Above this many bytes, comparing moves off the threads that carry everybody's messages.
const LONG: usize = 64 * 1024;
/// The rule under which a schema nobody can use is found.
pub const UNUSABLE: &str = "schema.unusable";
/// The rule under which a schema is found that nobody has read.
const UNREAD: &str = "schema.unread";

/// Contracts by the hash of the definition they stand in.
#[derive(Default)]
pub struct Contracts(Mutex<HashMap<Digest, Arc<Contract>>>);

impl Contracts {
    /// The contract in the definition `text`, whose hash is `hash`.
    pub fn of(&self, hash: Digest, text: &str) -> Arc<Contract> {
        if let Some(known) = lock(&self.0).get(&hash) {
            return Arc::clone(known);
        }
        let read = Arc::new(long_work(|| Contract::read(text)));
        let mut kept = lock(&self.0);
        if kept.len() >= KEPT {
            kept.clear();
        }
        kept.insert(hash, Arc::clone(&read));
        read
    }

    /// Whether the contract in the definition with this `hash` is read.
    pub fn has(&self, hash: Digest) -> bool {
        lock(&self.0).contains_key(&hash)
    }
}

/// What a person who approves a definition must know whose contract was not read, for the others of its list took too long.
pub fn unread() -> Finding {
    Finding {
        rule: UNREAD.to_owned(),
        severity: "high".to_owned(),
        words: "the schemas of its list take too long to read, and this one was not read".to_owned(),
        blocks: true,
    }
}

/// What a person who approves a definition must know of its contract.
pub fn findings(contract: &Contract) -> Vec<Finding> {
    let words = |(name, unusable): (&str, &Unusable)| Finding {
        rule: UNUSABLE.to_owned(),
        severity: "high".to_owned(),
        words: format!("`{name}` {unusable}, so that nothing can be compared with it: at `{}`", unusable.at),
        blocks: true,
    };
    contract.unusable().map(words).collect()
}

/// Characters of a place in the arguments that are told; its names are the caller's.
const LONGEST_PLACE: usize = 200;

/// Compares the arguments of a call with what its tool takes.
///
/// # Errors
/// The refusal, with the place that does not fit; nothing may be sent then. The model reads it, which can call again (spec.md
/// A-48): only whoever asked for a task waits for one, and gets an error.
pub fn arguments(contract: &Contract, server: &Server, era: Era, message: &Message) -> Result<(), Refusal> {
    let Some(input) = &contract.input else { return Ok(()) };
    let status = |modern| if era == Era::Modern { modern } else { 200 };
    let name = server.name();
    let input = input.as_ref().map_err(|unusable| {
        let text = format!(
            "the `inputSchema` of this tool {unusable}, so its arguments cannot be checked and are not sent; \
             `dangerous_unvalidated` of the server `{name}` decides about it"
        );
        Refusal::new(status(403), code::WITHHELD, text).with_data(data("schema_unusable", server, "", ""))
    })?;
    let arguments = message.param("arguments").map_or("{}", Value::text);
    compare(input, arguments).map_err(|Misfit { at, rule, words }| {
        let place = match at.as_str() {
            "" => "the object `arguments`".to_owned(),
            at => format!("the argument `{}`", Text::limited(at, LONGEST_PLACE)),
        };
        let text =
            format!("{place} {words}; the call was not made: correct its arguments and call the tool again");
        let data = data("schema_arguments", server, &at, &rule);
        let refusal = Refusal::new(status(400), code::INVALID_PARAMS, text).with_data(data);
        let waits_for_task = era == Era::Legacy && message.param("task").is_some();
        if waits_for_task { refusal } else { refusal.for_model(era) }
    })
}

/// Compares the structured part of an answer with what its tool gives. Errors of a tool have no schema.
///
/// # Errors
/// [`Failure::Withheld`], which names the schema's place and nothing of the answer.
pub fn result(contract: &Contract, server: &Server, message: &Message) -> Result<(), Failure> {
    message.result().map_or(Ok(()), |result| fits(contract, server, result))
}

/// The same for the result of a call (`CallToolResult`), wherever it stands.
///
/// # Errors
/// As [`result`].
pub fn fits(contract: &Contract, server: &Server, result: Value<'_>) -> Result<(), Failure> {
    let (Some(output), Some(structure)) = (&contract.output, structure_of(result)) else { return Ok(()) };
    let withheld = |words: String, rule: &str| withheld(server, words, rule);
    let output = output.as_ref().map_err(|unusable| {
        withheld(
            format!("the `outputSchema` of this tool {unusable}, so its structured result cannot be checked"),
            "",
        )
    })?;
    compare(output, structure.text()).map_err(|Misfit { rule, words, .. }| {
        withheld(
            format!("its structured result does not fit the tool's `outputSchema`: `{rule}`: {words}"),
            &rule,
        )
    })
}

/// Compares the structured part of a result, of which nobody knows any more which tool gave it, with what the tools of
/// `contracts` give: it must fit one of those that promise anything.
///
/// # Errors
/// As [`result`].
pub fn fits_some(contracts: &[Arc<Contract>], server: &Server, result: Value<'_>) -> Result<(), Failure> {
    let Some(structure) = structure_of(result) else { return Ok(()) };
    let mut outputs = contracts.iter().filter_map(|contract| contract.output.as_ref()).peekable();
    if outputs.peek().is_none() {
        return Ok(());
    }
    let text = structure.text();
    if outputs.any(|output| output.as_ref().is_ok_and(|schema| compare(schema, text).is_ok())) {
        return Ok(());
    }
    let words = "nobody knows any more which tool its task came from, and its structured result fits the `outputSchema` \
                 of no approved tool";
    Err(withheld(server, words.to_owned(), ""))
}

fn withheld(server: &Server, words: String, rule: &str) -> Failure {
    tracing::warn!(server = %server.name(), rule, "an answer was withheld: it is not what its tool promised");
    Failure::Withheld { words, data: data("schema_result", server, "", rule), suspect: None }
}

/// Whether an answer says one thing as structure and another as text: a text that is JSON is meant as its copy (26/tools).
/// Only one of the two may have been looked at by whoever reads the other.
pub fn contradicts(message: &Message) -> bool {
    let Some(structure) = structure(message) else { return false };
    let is_text = |block: &Value<'_>| block.get("type").and_then(Value::as_str).as_deref() == Some("text");
    let blocks = message.field("content").into_iter().flat_map(Value::elements).filter(is_text);
    let texts = blocks.filter_map(|block| block.get("text")?.as_str());
    let mut copies = texts.filter(|text| text.trim_start().starts_with(['{', '['])).peekable();
    if copies.peek().is_none() {
        return false;
    }
    let meant: Option<serde_json::Value> = serde_json::from_str(structure.text()).ok();
    let (mut is_copied, mut differs) = (false, false);
    for copy in copies {
        if copy.trim() == structure.text() {
            is_copied = true;
        } else if let Ok(said) = serde_json::from_str::<serde_json::Value>(&copy) {
            if Some(&said) == meant.as_ref() { is_copied = true } else { differs = true }
        }
    }
    differs && !is_copied
}

/// `structuredContent`, where it has to fit.
fn structure(message: &Message) -> Option<Value<'_>> {
    structure_of(message.result()?)
}

fn structure_of(result: Value<'_>) -> Option<Value<'_>> {
    if result.get("isError").and_then(Value::as_bool) == Some(true) {
        return None;
    }
    result.get("structuredContent")
}

/// Compares where it holds up nobody else's messages.
fn compare(schema: &Schema, text: &str) -> Result<(), Misfit> {
    if text.len() > LONG { long_work(|| schema.check(text)) } else { schema.check(text) }
}

fn data(reason: &str, server: &Server, at: &str, rule: &str) -> String {
    format!(
        r#"{{"source":"bartizan","reason":"{reason}","server":{},"at":{},"schema":{}}}"#,
        quote(server.name().as_str()),
        quote(at),
        quote(rule)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_that_says_something_else_is_noticed() {
        let answer = |texts: &[&str], structure: &str| {
            let blocks: Vec<_> =
                texts.iter().map(|text| format!(r#"{{"type":"text","text":{}}}"#, quote(text))).collect();
            let text = format!(
                r#"{{"jsonrpc":"2.0","id":1,"result":{{"content":[{}],"structuredContent":{structure}}}}}"#,
                blocks.join(",")
            );
            Message::from_spliced(text).unwrap()
        };
        let structure = r#"{"city":"Oslo","rain":[1,2]}"#;
        for (texts, expected) in [
            (vec![structure], false),
            (vec!["{ \"rain\": [1, 2],\n \"city\": \"Oslo\" }"], false),
            (vec!["Rain in Oslo."], false),
            (vec![], false),
            (vec!["{not JSON}"], false),
            (vec![r#"{"city":"Rome","rain":[1,2]}"#], true),
            (vec!["Rain.", r#"{"city":"Oslo"}"#], true),
            (vec![r#"{"of":"something else"}"#, structure], false),
        ] {
            assert_eq!(contradicts(&answer(&texts, structure)), expected, "{texts:?}");
        }
    }
}
