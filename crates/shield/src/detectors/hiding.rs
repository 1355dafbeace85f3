//! Text written so that a person does not see it and a model does.
//!
//! Attack: tag characters, bidi controls, zero-width characters, look-alike letters, padding (attacks.md II-05, PO-02,
//! PO-11; Trojan Source). Caught: a description whose last sentence is in U+E0000 tags. Harmless look-alikes: emoji with
//! joiners and selectors, Persian with zero-width non-joiners, right-to-left text; in results most of this is ordinary
//! and only raises what else is found.

use crate::{
    detector::{Detector, Hit, Lost, Scene},
    finding::{Category, Severity},
    fragment::Kind,
    normalize::{Trick, Undone},
    passage::{Passage, excerpt},
};

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Hiding;

impl Detector for Hiding {
    fn name(&self) -> &'static str {
        "hiding"
    }

    fn inspect(&self, passage: &Passage<'_>, _: &Scene<'_>, hits: &mut Vec<Hit>) -> Result<(), Lost> {
        for undone in passage.tricks().as_slice() {
            let (rule, title) = words(undone.trick);
            hits.push(Hit {
                rule: rule.into(),
                title: title.into(),
                category: category(undone.trick, passage.kind()),
                severity: severity(undone, passage.kind()),
                owasp: Vec::new(),
                range: undone.first(),
                readings: Vec::new(),
                excerpt: visible(&excerpt(passage.text(), undone.first())),
                score: None,
            });
        }
        Ok(())
    }
}

fn severity(undone: &Undone, kind: Kind) -> Severity {
    use Severity::{High, Low, Medium};
    match (undone.trick, kind) {
        // In what people and models choose from, all of this has one purpose.
        (
            Trick::Ansi
            | Trick::Bidi
            | Trick::BlankPadding
            | Trick::InvisibleInWord
            | Trick::MixedScript
            | Trick::Packed
            | Trick::PrivateUse
            | Trick::Tags
            | Trick::TooMuchEncoded
            | Trick::VariationSelectors,
            Kind::Definition | Kind::Question,
        ) => High,
        (Trick::Tags, _) => {
            if undone.count >= 8 {
                High
            } else {
                Medium
            }
        }
        // A run this long carries a message.
        (Trick::VariationSelectors, Kind::Result | Kind::Code) => Medium,
        (Trick::Packed | Trick::TooMuchEncoded, _) => Medium,
        (
            Trick::Control
            | Trick::Encoded
            | Trick::HiddenMarkup
            | Trick::SpacedLetters
            | Trick::StackedMarks,
            Kind::Definition,
        ) => Medium,
        _ => Low,
    }
}

/// What was not read of a result is for `[shield.documents] unread` to say; elsewhere there is no reason for it.
fn category(trick: Trick, kind: Kind) -> Category {
    match (trick, kind) {
        (Trick::Packed, Kind::Result | Kind::Code) => Category::Unread,
        _ => Category::Hiding,
    }
}

fn words(trick: Trick) -> (&'static str, &'static str) {
    match trick {
        Trick::Ansi => ("hiding.ansi", "holds terminal escape sequences"),
        Trick::Bidi => ("hiding.bidi", "overrides the direction of text"),
        Trick::BlankPadding => ("hiding.padding", "pushes text out of sight with blanks or empty lines"),
        Trick::Control => ("hiding.control", "holds control characters"),
        Trick::Encoded => ("hiding.encoded", "holds text in an encoding or a cipher"),
        Trick::HiddenMarkup => ("hiding.markup", "holds text in markup that is not shown"),
        Trick::InvisibleInWord => ("hiding.invisible", "has invisible characters inside words"),
        Trick::MixedScript => {
            ("hiding.mixed-script", "writes words with look-alike letters of another script")
        }
        Trick::Packed => ("hiding.packed", "holds a compressed text that is more than is unpacked"),
        Trick::PrivateUse => ("hiding.private-use", "holds runs of private-use characters"),
        Trick::SpacedLetters => ("hiding.spaced", "writes words with a gap after every letter"),
        Trick::StackedMarks => ("hiding.stacked-marks", "stacks combining marks on letters"),
        Trick::Tags => ("hiding.tags", "holds invisible tag characters"),
        Trick::TooMuchEncoded => {
            ("hiding.nested", "holds more encodings inside one another than are looked into")
        }
        Trick::VariationSelectors => ("hiding.selectors", "holds variation selectors that select nothing"),
    }
}

/// `text` with what cannot be seen as `<U+XXXX>`.
fn visible(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        let plain = c.is_alphanumeric() || c.is_ascii_graphic() || c == ' ' || c == '…';
        if plain && !matches!(c, '\u{3164}' | '\u{115f}' | '\u{1160}' | '\u{ffa0}') {
            out.push(c);
        } else {
            out.push_str(&format!("<U+{:04X}>", u32::from(c)));
        }
    }
    out
}
