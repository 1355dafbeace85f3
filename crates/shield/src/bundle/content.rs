//! What detectors judge by: the rules and the model of the build, or of a bundle over them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{Refusal, Verified, manifest::Place};
use crate::{
    classifier::Classifier,
    detector::Detector,
    detectors::{Learned, PACKS, Patterns},
    fragment::Kind,
    rules::{PackError, Rule, RuleSet, parse},
};

/// A reference value of a model: for this text it answers this score, on every machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vector {
    /// The text, as it comes.
    pub text: String,
    /// What the text is.
    pub kind: Kind,
    /// Whether it is an attack, and so reaches the threshold of its kind.
    pub attack: bool,
    /// The score of its normal form; `bartizan shield bundle make` fills it in.
    #[serde(default)]
    pub score: Option<f32>,
}

/// Rules and a model, ready to judge. From a bundle only [`Verified::prove`] makes them.
#[derive(Clone)]
pub struct Arms {
    pub(crate) patterns: Patterns,
    pub(crate) model: Model,
    /// The ids of the rules that come from the bundle.
    pub(super) fresh: BTreeSet<String>,
    pub(super) vectors: Vec<Vector>,
}

/// Whose model.
#[derive(Clone)]
pub(crate) enum Model {
    /// The build's.
    Embedded,
    /// A bundle's.
    Loaded(Arc<Classifier>),
}

impl Default for Arms {
    fn default() -> Self {
        Self::shipped()
    }
}

impl std::fmt::Debug for Arms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Arms").field("rules_of_bundle", &self.fresh.len()).finish_non_exhaustive()
    }
}

impl Arms {
    /// Those of the build.
    pub fn shipped() -> Self {
        Self {
            patterns: Patterns::shipped(),
            model: Model::Embedded,
            fresh: BTreeSet::new(),
            vectors: Vec::new(),
        }
    }

    /// Compiles what a bundle brings over what the build has: every expression of its rules is tried.
    pub(super) fn of(bundle: &Verified) -> Result<Self, Refusal> {
        let mut packs: BTreeMap<String, (bool, Vec<Rule>)> = BTreeMap::new();
        for (name, text) in PACKS {
            let rules =
                parse(text).map_err(|error| content(format!("the build's rules/{name}.toml"), &error))?;
            packs.insert((*name).to_owned(), (false, rules));
        }
        let (mut model, mut vectors) = (Model::Embedded, None);
        for (path, bytes) in &bundle.files {
            match Place::of(path) {
                Some(Place::Rules(name)) => {
                    let text = std::str::from_utf8(bytes)
                        .map_err(|_| Refusal::Content(format!("{path} is no UTF-8")))?;
                    let rules = parse(text).map_err(|error| content(path.clone(), &error))?;
                    packs.insert(name.to_owned(), (true, rules));
                }
                Some(Place::Model) => {
                    let classifier = Classifier::parse(bytes)
                        .map_err(|error| Refusal::Content(format!("{path}: {error}")))?;
                    model = Model::Loaded(Arc::new(classifier));
                }
                Some(Place::Vectors) => {
                    let read: Vec<Vector> = serde_json::from_slice(bytes)
                        .map_err(|error| Refusal::Content(format!("{path}: {error}")))?;
                    vectors = Some(read);
                }
                // The manifest was read.
                None => return Err(Refusal::Tampered(path.clone())),
            }
        }
        if matches!(model, Model::Loaded(_)) != vectors.is_some() {
            let both =
                "a model and its reference values, model/ngrams.bin and model/vectors.json, come together";
            return Err(Refusal::Content(both.to_owned()));
        }
        let is_fresh = |(_, (fresh, _)): &(&String, &(bool, Vec<Rule>))| *fresh;
        let fresh: BTreeSet<String> = packs
            .iter()
            .filter(is_fresh)
            .flat_map(|(_, (_, rules))| rules.iter().map(|r| r.id.clone()))
            .collect();
        let rules = packs.into_values().flat_map(|(_, rules)| rules).collect();
        let set = RuleSet::proving(rules, |id| fresh.contains(id))
            .map_err(|error| content("rules".to_owned(), &error))?;
        Ok(Self { patterns: Patterns::new(set), model, fresh, vectors: vectors.unwrap_or_default() })
    }

    /// The model as a detector.
    pub(crate) fn learned(&self, threshold: Option<f32>) -> Box<dyn Detector> {
        match &self.model {
            Model::Embedded => Box::new(Learned::new(Classifier::embedded(), threshold)),
            Model::Loaded(model) => Box::new(Learned::new(Arc::clone(model), threshold)),
        }
    }

    /// Every rule.
    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.patterns.rules().rules()
    }

    /// How they differ from those of the build.
    pub fn against_shipped(&self) -> Difference {
        let shipped = Self::shipped();
        let of = |arms: &Self| -> BTreeMap<String, String> {
            arms.rules().map(|rule| (rule.id.clone(), format!("{rule:?}"))).collect()
        };
        let (old, new) = (of(&shipped), of(self));
        Difference {
            added: new.keys().filter(|id| !old.contains_key(*id)).cloned().collect(),
            changed: new
                .iter()
                .filter(|(id, rule)| old.get(*id).is_some_and(|was| was != *rule))
                .map(|(id, _)| id.clone())
                .collect(),
            removed: old.keys().filter(|id| !new.contains_key(*id)).cloned().collect(),
            other_model: matches!(self.model, Model::Loaded(_)),
        }
    }
}

/// How the rules and the model of a bundle differ from the build's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Rules the build has not.
    pub added: Vec<String>,
    /// Rules the build has in another form.
    pub changed: Vec<String>,
    /// Rules the build has and the bundle's pack of the same name has not.
    pub removed: Vec<String>,
    /// It has a model of its own.
    pub other_model: bool,
}

fn content(place: String, error: &PackError) -> Refusal {
    let hint = match error {
        PackError::Twice(_) => "; to change a rule of the build, name the pack as the build does",
        _ => "",
    };
    Refusal::Content(format!("{place}: {error}{hint}"))
}
