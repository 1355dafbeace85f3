//! Documents the grammar makes: attacks bare, in carriers, in real harmless texts; and the same carriers without attack.

use bartizan_shield::classifier::Kind;

use super::Grammar;
use crate::{
    data::{Document, normal},
    random::Random,
};

/// Names of the sections for one kind of text.
struct Family {
    kind: Kind,
    attack: &'static str,
    carrier: &'static str,
    /// What stands in the carrier when there is no attack.
    plain: &'static str,
    set: &'static str,
}

const FAMILIES: [Family; 3] = [
    Family {
        kind: Kind::Result,
        attack: "attack_result",
        carrier: "carrier_result",
        plain: "plain",
        set: "grammar_result",
    },
    Family {
        kind: Kind::Definition,
        attack: "attack_definition",
        carrier: "carrier_definition",
        plain: "plain_trigger",
        set: "grammar_definition",
    },
    Family {
        kind: Kind::ClientText,
        attack: "attack_client",
        carrier: "carrier_client",
        plain: "plain_client",
        set: "grammar_client",
    },
];

/// How many documents of each kind and label to make.
#[derive(Clone, Copy, Debug)]
pub struct Amounts {
    pub english: usize,
    /// Per language.
    pub other: usize,
    /// Attacks planted in real documents.
    pub planted: usize,
}

/// Attacks and harmless look-alikes of every family and language; attacks also planted in `hosts`.
pub fn documents(grammar: &Grammar, hosts: &[&Document], amounts: Amounts, seed: u64) -> Vec<Document> {
    let mut random = Random::new(seed);
    let mut documents = Vec::new();
    for family in &FAMILIES {
        for language in grammar.languages_with("override") {
            let amount = if language == "en" { amounts.english } else { amounts.other };
            for _ in 0..amount {
                documents.push(attack(grammar, family, language, &mut random));
                documents.push(harmless(grammar, family, language, &mut random));
            }
        }
    }
    for _ in 0..amounts.planted {
        let Some(host) = random.pick(hosts) else { break };
        documents.extend(plant(grammar, host, &mut random));
    }
    documents
}

fn attack(grammar: &Grammar, family: &Family, language: &str, random: &mut Random) -> Document {
    let payload = payload(grammar, family, language, random);
    let (before, after) = carrier(grammar, family, language, random);
    document(family, language, [before, payload, after])
}

/// An attack in one language, at times in two.
fn payload(grammar: &Grammar, family: &Family, language: &str, random: &mut Random) -> String {
    let payload = grammar.speak(language, family.attack, random);
    if random.chance(8) {
        let other = random.pick(&grammar.languages_with("override")).copied().unwrap_or("en");
        let section = *random.pick(&["override", "conceal", "persuade"]).unwrap_or(&"override");
        let part = grammar.speak(other, section, random);
        return if section == "conceal" { format!("{payload} {part}") } else { format!("{part} {payload}") };
    }
    payload
}

fn carrier(grammar: &Grammar, family: &Family, language: &str, random: &mut Random) -> (String, String) {
    // Half of the foreign attacks sit in English surroundings.
    let around = if random.chance(50) { language } else { "en" };
    let carrier = grammar.speak(around, family.carrier, random);
    match carrier.split_once("{payload}") {
        Some((before, after)) => (before.to_owned(), after.to_owned()),
        None => (carrier, String::new()),
    }
}

fn harmless(grammar: &Grammar, family: &Family, language: &str, random: &mut Random) -> Document {
    let plain = if language == "en" { family.plain } else { "plain" };
    let mut payload = grammar.speak(language, plain, random);
    if random.chance(40) {
        payload = format!("{payload} {}", grammar.speak(language, plain, random));
    }
    if family.kind == Kind::Definition && random.chance(40) {
        return document(
            family,
            language,
            [grammar.speak(language, "plain_definition", random), String::new(), String::new()],
        );
    }
    let (before, after) = carrier(grammar, family, language, random);
    document(family, language, [[before, payload, after].concat(), String::new(), String::new()])
}

/// An attack between two sentences of a real document, or at its end.
fn plant(grammar: &Grammar, host: &Document, random: &mut Random) -> Option<Document> {
    let family = FAMILIES.iter().find(|family| family.kind == host.kind).or(FAMILIES.first())?;
    let all = grammar.languages_with("override");
    let language = if random.chance(70) { "en" } else { random.pick(&all).copied()? };
    let payload = payload(grammar, family, language, random);
    let text = host.text();
    let ends: Vec<usize> =
        text.match_indices(". ").map(|(at, mark)| at + mark.len()).chain([text.len()]).collect();
    let at = *random.pick(&ends)?;
    let (before, after) = text.split_at_checked(at)?;
    // As much of the host as reaches into the windows with the attack.
    let before: String =
        before.chars().skip(before.chars().count().saturating_sub(random.below(600))).collect();
    let after: String = after.chars().take(random.below(600)).collect();
    let mut planted = document(family, language, [before, format!(" {payload} "), after]);
    "planted".clone_into(&mut planted.set);
    Some(planted)
}

fn document(family: &Family, language: &str, [before, attack, after]: [String; 3]) -> Document {
    Document {
        before: normal(&before),
        attack: normal(&attack),
        after: normal(&after),
        kind: family.kind,
        set: family.set.to_owned(),
        group: String::new(),
        language: language.to_owned(),
    }
}

/// Other people's attacks in the carriers of results.
pub fn carried<'d>(
    grammar: &Grammar,
    attacks: impl Iterator<Item = &'d Document>,
    seed: u64,
) -> Vec<Document> {
    let mut random = Random::new(seed);
    let [family, ..] = &FAMILIES;
    attacks
        .map(|attack| {
            let (before, after) = carrier(grammar, family, "en", &mut random);
            let carried = document(family, "en", [before, attack.attack.clone(), after]);
            Document { set: format!("{} carried", attack.set), ..carried }
        })
        .collect()
}
