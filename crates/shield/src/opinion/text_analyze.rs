//! Azure AI Content Safety, `text:analyze`: hate, sexual content, violence and self-harm by severity, and the operator's
//! blocklists.

use std::ops::Range;

use serde_json::{Value, json};

use super::{Found, NoOpinion, Question, Text};
use crate::finding::{Category, Severity};

/// Each category as the service calls it, and what is said of a find.
const CATEGORIES: [(&str, &str); 4] = [
    ("Hate", "a second opinion finds hate in it"),
    ("SelfHarm", "a second opinion finds self-harm in it"),
    ("Sexual", "a second opinion finds sexual content in it"),
    ("Violence", "a second opinion finds violence in it"),
];

pub fn questions(text: &Text, pieces: &[Range<usize>], blocklists: &[String]) -> Vec<Question> {
    let question = |piece: &Range<usize>| Question {
        pieces: vec![piece.clone()],
        is_prompt: false,
        body: json!({
            "text": text.as_str().get(piece.clone()).unwrap_or_default(),
            "categories": CATEGORIES.map(|(name, _)| name),
            "blocklistNames": blocklists,
            "haltOnBlocklistHit": false,
            "outputType": "FourSeverityLevels",
        })
        .to_string(),
    };
    pieces.iter().map(question).collect()
}

/// `has_lists` says that the answer must tell of them.
pub fn read(answer: &Value, threshold: u8, has_lists: bool) -> Result<Vec<Vec<Found>>, NoOpinion> {
    let analysis = answer.get("categoriesAnalysis").and_then(Value::as_array);
    let analysis = analysis.ok_or(NoOpinion::Malformed("it has no analysis"))?;
    let mut found = Vec::new();
    for (name, words) in CATEGORIES {
        let of = analysis.iter().find(|of| of.get("category").and_then(Value::as_str) == Some(name));
        let severity = of.and_then(|of| of.get("severity")).and_then(Value::as_u64);
        let severity = severity.ok_or(NoOpinion::Malformed("it leaves out a category"))?;
        if severity >= u64::from(threshold) {
            let severity = match severity {
                0..4 => Severity::Medium,
                4..6 => Severity::High,
                _ => Severity::Critical,
            };
            found.push(Found { category: Category::Content, severity, words });
        }
    }
    match answer.get("blocklistsMatch").and_then(Value::as_array) {
        Some(matches) if !matches.is_empty() => found.push(Found {
            category: Category::Content,
            severity: Severity::High,
            words: "it holds what is on a blocklist",
        }),
        None if has_lists => return Err(NoOpinion::Malformed("it does not tell of the blocklists")),
        _ => {}
    }
    Ok(vec![found])
}
