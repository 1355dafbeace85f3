//! Azure AI Content Safety, Prompt Shields (attacks.md §2.1): what a server says is a document, what a client says a
//! prompt. The answer is one flag for each, in order.

use std::ops::Range;

use serde_json::{Value, json};

use super::{Found, NoOpinion, Question, Text};
use crate::{
    finding::{Category, Severity},
    fragment::Kind,
};

/// Documents of one request.
const DOCUMENTS: usize = 5;
/// UTF-16 code units of all of them.
const UNITS: usize = 10_000;

pub fn questions(text: &Text, pieces: &[Range<usize>]) -> Vec<Question> {
    let of = |piece: &Range<usize>| text.as_str().get(piece.clone()).unwrap_or_default();
    if text.kind() == Kind::ClientText {
        let question = |piece: &Range<usize>| Question {
            pieces: vec![piece.clone()],
            is_prompt: true,
            body: json!({ "userPrompt": of(piece), "documents": [] }).to_string(),
        };
        return pieces.iter().map(question).collect();
    }
    let mut packs: Vec<Vec<Range<usize>>> = Vec::new();
    let mut units = 0;
    for piece in pieces {
        let more = of(piece).encode_utf16().count();
        match packs.last_mut() {
            Some(pack) if pack.len() < DOCUMENTS && units + more <= UNITS => {
                pack.push(piece.clone());
                units += more;
            }
            _ => {
                packs.push(vec![piece.clone()]);
                units = more;
            }
        }
    }
    let question = |pieces: Vec<Range<usize>>| {
        let documents: Vec<_> = pieces.iter().map(of).collect();
        let body = json!({ "userPrompt": "", "documents": documents }).to_string();
        Question { pieces, is_prompt: false, body }
    };
    packs.into_iter().map(question).collect()
}

pub fn read(question: &Question, answer: &Value) -> Result<Vec<Vec<Found>>, NoOpinion> {
    let flag = |of: &Value| of.get("attackDetected").and_then(Value::as_bool);
    let flags: Option<Vec<bool>> = if question.is_prompt {
        answer.get("userPromptAnalysis").and_then(flag).map(|flag| vec![flag])
    } else {
        let documents = answer.get("documentsAnalysis").and_then(Value::as_array);
        documents.and_then(|documents| documents.iter().map(flag).collect())
    };
    let flags = flags.ok_or(NoOpinion::Malformed("it has no analysis"))?;
    let found = |flag: bool| {
        flag.then_some(Found {
            category: Category::Injection,
            severity: Severity::High,
            words: "a second opinion takes it for an attack on the model",
        })
    };
    Ok(flags.into_iter().map(|flag| found(flag).into_iter().collect()).collect())
}
