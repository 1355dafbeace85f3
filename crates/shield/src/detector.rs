//! What looks for one family of wrongs, and the order in which it is done.

use std::{borrow::Cow, ops::Range};

use crate::{
    config::Trust,
    detectors::{Catalogue, Exfiltration, Hiding, Patterns, Shadowing},
    finding::{Category, Severity},
    normalize::Reading,
    passage::{Passage, Sight, excerpt},
};

/// Whose text is judged, and beside what.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scene<'s> {
    /// The operator's name of the server the text comes from or goes to.
    pub server: &'s str,
    /// How far the operator trusts it.
    pub trust: Trust,
    /// What other servers offer; without it, shadowing is not looked for.
    pub catalogue: Option<&'s Catalogue>,
}

/// Looks for one family of wrongs.
///
/// Its work is linear in the passage. It judges a passage as if it were the only one: what is split over several has
/// been put together before.
pub trait Detector: Send + Sync {
    /// How it is called in reports of lost detectors.
    fn name(&self) -> &'static str;

    /// Work per byte of a passage's views, in units of one automaton's step; 1 unless it is a heavy one.
    fn weight(&self) -> u64 {
        1
    }

    /// Adds what it finds to `hits`.
    ///
    /// # Errors
    /// [`Lost`] if it cannot judge; the text is withheld then (attacks.md II-01).
    fn inspect(&self, passage: &Passage<'_>, scene: &Scene<'_>, hits: &mut Vec<Hit>) -> Result<(), Lost>;
}

/// A detector could not do its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a detector could not judge the text")]
pub struct Lost;

/// A finding before its place in the message is known.
#[derive(Clone, Debug, PartialEq)]
pub struct Hit {
    /// As in [`Finding`](crate::Finding).
    pub rule: Cow<'static, str>,
    /// As in [`Finding`](crate::Finding).
    pub title: Cow<'static, str>,
    /// As in [`Finding`](crate::Finding).
    pub category: Category,
    /// As in [`Finding`](crate::Finding).
    pub severity: Severity,
    /// Entries of the OWASP lists; if empty, those of the category.
    pub owasp: Vec<Cow<'static, str>>,
    /// Bytes of the passage.
    pub range: Range<usize>,
    /// As in [`Finding`](crate::Finding).
    pub readings: Vec<Reading>,
    /// As in [`Finding`](crate::Finding).
    pub excerpt: String,
    /// As in [`Finding`](crate::Finding).
    pub score: Option<f32>,
}

impl Hit {
    /// A hit on `range` of the text of `sight`.
    pub fn new(
        rule: impl Into<Cow<'static, str>>,
        title: impl Into<Cow<'static, str>>,
        category: Category,
        severity: Severity,
        sight: Sight<'_>,
        range: Range<usize>,
    ) -> Self {
        Self {
            rule: rule.into(),
            title: title.into(),
            category,
            severity,
            owasp: Vec::new(),
            excerpt: excerpt(sight.text(), range.clone()),
            range: sight.original(range),
            readings: sight.readings().to_vec(),
            score: None,
        }
    }
}

/// The detectors that ship, in the order they run: cheap and certain ones first.
pub(crate) fn shipped(patterns: Patterns, allowed_link_hosts: &[String]) -> Vec<Box<dyn Detector>> {
    vec![
        Box::new(Hiding),
        Box::new(patterns),
        Box::new(Exfiltration::new(allowed_link_hosts)),
        Box::new(Shadowing),
    ]
}
