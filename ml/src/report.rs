//! Tables for people, and for the model card.

use std::{
    collections::BTreeMap,
    error::Error,
    hint::black_box,
    io::{Write, stdout},
    path::Path,
    time::Instant,
};

use bartizan_shield::classifier::{Classifier, Kind};

use crate::{
    data::{self, Document},
    measure,
    train::Rehearsal,
};

type Outcome = Result<(), Box<dyn Error>>;

/// Harmless training texts by kind and set, as models saw them that were not trained on their sources.
pub fn harmless(scores: &[(Kind, String, f32)]) -> Outcome {
    let mut sets: BTreeMap<String, Vec<f32>> = BTreeMap::new();
    for (kind, set, score) in scores {
        sets.entry(format!("{kind:?} {set}")).or_default().push(*score);
    }
    let mut out = stdout();
    writeln!(out, "| kind and set | n | score at 1 % | at 0.1 % | highest |\n|---|---|---|---|---|")?;
    for (set, scores) in &sets {
        let at = |rate| measure::threshold_at(scores, rate);
        writeln!(out, "| {set} | {} | {:.2} | {:.2} | {:.2} |", scores.len(), at(0.01), at(0.001), at(0.0))?;
    }
    Ok(())
}

/// Recall on held-out goals at thresholds of held-out harmless texts.
pub fn rehearsal(rehearsal: &Rehearsal) -> Outcome {
    let all: Vec<f32> = rehearsal.harmless.iter().map(|(.., score)| *score).collect();
    let (loose, strict) = (measure::threshold_at(&all, 0.01), measure::threshold_at(&all, 0.001));
    let mut out = stdout();
    writeln!(out, "thresholds: {loose:.2} at 1 %, {strict:.2} at 0.1 % of {} harmless texts\n", all.len())?;
    let table = |rows: &[(String, String, f32)], key: fn(&(String, String, f32)) -> String| {
        let mut groups: BTreeMap<String, Vec<f32>> = BTreeMap::new();
        for row in rows {
            groups.entry(key(row)).or_default().push(row.2);
        }
        groups
    };
    let by_set: fn(&(String, String, f32)) -> String = |(set, ..)| set.clone();
    let by_language: fn(&(String, String, f32)) -> String = |(_, language, _)| language.clone();
    for (title, rows, key) in [
        ("harmless set", &rehearsal.harmless, by_set),
        ("look-alikes", &rehearsal.look_alikes, by_set),
        ("attack set", &rehearsal.attacks, by_set),
        ("attacks by language", &rehearsal.attacks, by_language),
    ] {
        writeln!(out, "| {title} | n | AUROC | share at 1 % | at 0.1 % |\n|---|---|---|---|---|")?;
        for (group, scores) in table(rows, key) {
            let auroc = measure::auroc(&scores, &all);
            let (loose, strict) = (measure::share_at(&scores, loose), measure::share_at(&scores, strict));
            writeln!(out, "| {group} | {} | {auroc:.3} | {loose:.3} | {strict:.3} |", scores.len())?;
        }
        writeln!(out)?;
    }
    Ok(())
}

/// The evaluation sets: AUROC and recall against all harmless evaluation texts; false positives and recall at the shipped
/// thresholds.
pub fn eval(folder: &Path, classifier: &Classifier) -> Outcome {
    let mut sets = Vec::new();
    for set in data::sets(folder)? {
        let documents = data::read(folder, &set, "eval")?;
        let scores: Vec<f32> = documents.iter().map(|d| classifier.score(&d.text()).max).collect();
        sets.push((set, documents, scores));
    }
    let is_attack = |documents: &[Document]| documents.iter().any(Document::is_attack);
    let pooled: Vec<f32> = sets
        .iter()
        .filter(|(_, documents, _)| !is_attack(documents))
        .flat_map(|(.., s)| s)
        .copied()
        .collect();
    let (loose, strict) = (measure::threshold_at(&pooled, 0.01), measure::threshold_at(&pooled, 0.001));
    let mut out = stdout();
    writeln!(out, "| attack set | n | AUROC | recall at 1 % | at 0.1 % | at the shipped thresholds |")?;
    writeln!(out, "|---|---|---|---|---|---|")?;
    for (set, documents, scores) in sets.iter().filter(|(_, documents, _)| is_attack(documents)) {
        let auroc = measure::auroc(scores, &pooled);
        let (loose, strict) = (measure::share_at(scores, loose), measure::share_at(scores, strict));
        let shipped = measure::float(found(classifier, documents, scores)) / measure::float(scores.len());
        writeln!(out, "| {set} | {} | {auroc:.3} | {loose:.3} | {strict:.3} | {shipped:.3} |", scores.len())?;
    }
    writeln!(
        out,
        "\n| benign set | n | FPR at 1 % | at 0.1 % | found at the shipped thresholds | highest |"
    )?;
    writeln!(out, "|---|---|---|---|---|---|")?;
    for (set, documents, scores) in sets.iter().filter(|(_, documents, _)| !is_attack(documents)) {
        let (loose, strict) = (measure::share_at(scores, loose), measure::share_at(scores, strict));
        let found = found(classifier, documents, scores);
        let highest = measure::threshold_at(scores, 0.0);
        writeln!(out, "| {set} | {} | {loose:.3} | {strict:.3} | {found} | {highest:.2} |", scores.len())?;
    }
    for kind in Kind::ALL {
        writeln!(out, "threshold of {kind:?}: {:.3}", classifier.threshold(kind))?;
    }
    writeln!(out, "pooled thresholds: {loose:.2} at 1 %, {strict:.2} at 0.1 %")?;
    Ok(())
}

fn found(classifier: &Classifier, documents: &[Document], scores: &[f32]) -> usize {
    documents.iter().zip(scores).filter(|(d, score)| **score >= classifier.threshold(d.kind)).count()
}

/// Megabytes per second over the harmless texts of `folder`, already normalised; the best of several rounds.
pub fn speed(folder: &Path) -> Outcome {
    let classifier = Classifier::embedded();
    let mut texts = Vec::new();
    for set in data::sets(folder)? {
        texts
            .extend(data::read(folder, &set, "train")?.iter().filter(|d| !d.is_attack()).map(Document::text));
    }
    let bytes: usize = texts.iter().map(String::len).sum();
    let mut best = f64::MAX;
    for _ in 0..7 {
        let start = Instant::now();
        for text in &texts {
            black_box(classifier.score(black_box(text)));
        }
        best = best.min(start.elapsed().as_secs_f64());
    }
    writeln!(stdout(), "{bytes} bytes, {:.1} MB/s", measure::float(bytes) / best / 1e6)?;
    Ok(())
}
