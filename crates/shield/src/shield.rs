//! The shield itself: fragments in, verdict out.

use std::{borrow::Cow, collections::BTreeMap, ops::Range, sync::Arc};

use crate::{
    bundle::Arms,
    config::Config,
    detector::{Detector, Hit, Scene, shipped},
    detectors::Patterns,
    finding::{Category, Finding, Severity},
    fragment::{Fragment, Kind, Role},
    normalize::{self, Reading, Trick, Tricks, views},
    opinion::Opinion,
    passage::{Draft, Part, Passage, places},
    verdict::Verdict,
};

/// Bytes judged at once.
const WINDOW: usize = 128 * 1024;
/// Bytes of each window that the next one sees again; longer than any pattern's reach.
const OVERLAP: usize = 2 * 1024;
/// Findings kept of one message; more say no more.
const FINDINGS: usize = 64;
/// Bytes on either side of the seam between two fragments that are read without a gap.
const SEAM: usize = 160;

/// All detectors and what to do about their findings; immutable, shared by all requests.
pub struct Shield {
    config: Config,
    detectors: Vec<Box<dyn Detector>>,
    opinions: BTreeMap<String, Arc<Opinion>>,
    /// Work units for one message ([`Detector::weight`]).
    budget: u64,
}

impl Shield {
    /// The detectors that ship, with `config`.
    pub fn new(config: Config) -> Self {
        let detectors = shipped(Patterns::shipped(), &config.allowed_link_hosts);
        Self::of(config, detectors)
    }

    /// These detectors, with `config`.
    pub(crate) fn of(config: Config, detectors: Vec<Box<dyn Detector>>) -> Self {
        Self { config, detectors, opinions: BTreeMap::new(), budget: 1 << 27 }
    }

    /// The detectors that ship and the learned model after them, with `config`.
    pub fn shipped(config: Config) -> Self {
        Self::armed(config, &Arms::shipped())
    }

    /// The detectors that ship, judging by the rules and the model of `arms`, with `config`.
    pub fn armed(config: Config, arms: &Arms) -> Self {
        let detectors = shipped(arms.patterns.clone(), &config.allowed_link_hosts);
        let model = arms.learned(config.injection.threshold);
        Self::of(config, detectors).with(model)
    }

    /// Adds a detector that runs after the others, such as the learned model.
    #[must_use]
    pub fn with(mut self, detector: Box<dyn Detector>) -> Self {
        self.detectors.push(detector);
        self
    }

    /// Adds a service that can be asked for its opinion. It is not asked by [`Shield::inspect`], which waits for nobody.
    #[must_use]
    pub fn with_opinion(mut self, opinion: Arc<Opinion>) -> Self {
        self.opinions.insert(opinion.name().to_owned(), opinion);
        self
    }

    /// The service called `name`.
    pub fn opinion(&self, name: &str) -> Option<&Arc<Opinion>> {
        self.opinions.get(name)
    }

    /// Limits the work on one message; what is left unjudged is withheld. The default, 2²⁷ units, is
    /// about 25 MB of text with the detectors that ship, or a third of it with a model.
    #[must_use]
    pub fn with_budget(mut self, units: u64) -> Self {
        self.budget = units;
        self
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Judges a message that stands alone. Its fragments are all a client's or all a server's.
    pub fn inspect(&self, scene: &Scene<'_>, fragments: &[Fragment<'_>]) -> Verdict {
        Inspector::default().inspect(self, scene, fragments)
    }

    /// What is found in a message that stands alone, whatever the configuration says to do about it, in no order; of more than
    /// 64 findings, some.
    pub fn find(&self, scene: &Scene<'_>, fragments: &[Fragment<'_>]) -> Vec<Finding> {
        Inspector::default().find(self, scene, fragments)
    }
}

/// Judges messages that follow one another, such as the events of a stream: what is split over several is seen
/// whole. Keeps at most 2 KiB between them.
#[derive(Clone, Debug, Default)]
pub struct Inspector {
    kind: Option<Kind>,
    draft: Draft,
}

impl Inspector {
    /// Judges the next message. What was found in an earlier one is not found again.
    pub fn inspect(&mut self, shield: &Shield, scene: &Scene<'_>, fragments: &[Fragment<'_>]) -> Verdict {
        let findings = self.find(shield, scene, fragments);
        let kind = fragments.first().map_or(Kind::Result, |fragment| fragment.kind);
        Verdict::of(kind, scene.trust, &shield.config, findings)
    }

    fn find(&mut self, shield: &Shield, scene: &Scene<'_>, fragments: &[Fragment<'_>]) -> Vec<Finding> {
        let mut work = Work { shield, scene, fragments, budget: shield.budget, findings: Vec::new() };
        for (index, fragment) in fragments.iter().enumerate() {
            if self.kind != Some(fragment.kind) {
                self.judge(&mut work);
                *self = Self { kind: Some(fragment.kind), draft: Draft::default() };
            }
            let mut offset = 0;
            while let Some(rest) = fragment.text.get(offset..).filter(|rest| !rest.is_empty()) {
                let room = WINDOW.saturating_sub(self.draft.text.len()).max(4);
                let piece = rest.get(..rest.floor_char_boundary(room.min(rest.len()))).unwrap_or(rest);
                self.draft.push(index, fragment.role, offset, piece);
                offset += piece.len();
                if self.draft.text.len() + 4 > WINDOW {
                    self.judge(&mut work);
                }
            }
        }
        self.judge(&mut work);
        self.draft.forget_fragments();
        work.findings
    }

    fn judge(&mut self, work: &mut Work<'_>) {
        let Some(kind) = self.kind else { return };
        let Draft { text, parts, carried } = &self.draft;
        if text.len() > *carried {
            let fresh = *carried..text.len();
            work.judge(kind, text, parts, std::slice::from_ref(&fresh));
            let (text, parts, seams) = seams(text, parts, *carried);
            if !seams.is_empty() {
                work.judge(kind, &text, &parts, &seams);
            }
        }
        self.draft.carry(OVERLAP);
    }
}

/// The judging of one message.
struct Work<'w> {
    shield: &'w Shield,
    scene: &'w Scene<'w>,
    fragments: &'w [Fragment<'w>],
    budget: u64,
    findings: Vec<Finding>,
}

impl Work<'_> {
    /// Judges one passage; hits count if they reach into one of `fresh`, all of which are in order.
    fn judge(&mut self, kind: Kind, text: &str, parts: &[Part], fresh: &[Range<usize>]) {
        let passage = Passage::new(kind, text, parts, views(text, normalize::Limits::for_text(text)));
        let size = u64::try_from(passage.size()).unwrap_or(u64::MAX);
        let mut hits = Vec::new();
        for detector in &self.shield.detectors {
            let work = size.saturating_mul(detector.weight());
            let Some(left) = self.budget.checked_sub(work) else {
                hits.push(unjudged("the text takes more work to judge than is allowed", text.len()));
                break;
            };
            self.budget = left;
            if detector.inspect(&passage, self.scene, &mut hits).is_err() {
                hits.push(unjudged(
                    format!("the detector {} could not judge the text", detector.name()),
                    text.len(),
                ));
            }
        }
        for mut hit in hits {
            let reaches = fresh.iter().any(|f| hit.range.start < f.end && hit.range.end > f.start);
            if reaches && self.findings.len() < FINDINGS {
                raise_if_hidden(&mut hit, passage.tricks(), parts);
                self.add(kind, parts, hit);
            } else if reaches && !self.findings.iter().any(|known| known.severity >= hit.severity) {
                // The list is full of milder ones: the worst must not be the one that is lost.
                self.findings.pop();
                self.add(kind, parts, hit);
            }
        }
    }

    fn add(&mut self, kind: Kind, parts: &[Part], hit: Hit) {
        let places = places(parts, &hit.range, self.fragments);
        let begins = parts.partition_point(|part| part.range.end <= hit.range.start);
        let continued = parts.get(begins).is_some_and(|part| part.fragment.is_none());
        let twin = |known: &Finding| known.rule == hit.rule && known.places == places;
        if self.findings.iter().any(twin) {
            return;
        }
        let owasp = if hit.owasp.is_empty() {
            hit.category.owasp().iter().map(|entry| Cow::Borrowed(*entry)).collect()
        } else {
            hit.owasp
        };
        self.findings.push(Finding {
            rule: hit.rule,
            title: hit.title,
            category: hit.category,
            severity: hit.severity,
            owasp,
            kind,
            places,
            continued,
            readings: hit.readings,
            excerpt: hit.excerpt,
            score: hit.score,
        });
    }
}

fn unjudged(title: impl Into<Cow<'static, str>>, length: usize) -> Hit {
    Hit {
        rule: "unjudged".into(),
        title: title.into(),
        category: Category::Unjudged,
        severity: Severity::Critical,
        owasp: Vec::new(),
        range: 0..length,
        readings: Vec::new(),
        excerpt: String::new(),
        score: None,
    }
}

/// An instruction that was also hidden is no accident.
fn raise_if_hidden(hit: &mut Hit, tricks: &Tricks, parts: &[Part]) {
    let unseen = parts.iter().any(|part| {
        part.role == Role::Hidden && part.range.start < hit.range.end && part.range.end > hit.range.start
    });
    let decoded = hit.readings.iter().any(|reading| !matches!(reading, Reading::Markup | Reading::Escapes));
    let disguised = tricks.as_slice().iter().any(|undone| {
        let hard = matches!(
            undone.trick,
            Trick::Tags
                | Trick::InvisibleInWord
                | Trick::MixedScript
                | Trick::VariationSelectors
                | Trick::HiddenMarkup
        );
        hard && undone.first.start < hit.range.end && undone.first.end > hit.range.start
    });
    if hit.category == Category::Injection && (decoded || disguised || unseen) {
        hit.severity = match hit.severity {
            Severity::Low => Severity::Medium,
            Severity::Medium => Severity::High,
            Severity::High | Severity::Critical => Severity::Critical,
        };
    }
}

/// The ends of neighbouring fragments without the gap between them, for words that were cut in two; and which ranges
/// of the text span a seam.
fn seams(text: &str, parts: &[Part], carried: usize) -> (String, Vec<Part>, Vec<Range<usize>>) {
    let (mut out, mut seam_parts, mut seams) = (String::new(), Vec::new(), Vec::new());
    for pair in parts.windows(2) {
        let [left, right] = pair else { continue };
        let a = text.get(left.range.clone()).unwrap_or_default();
        let b = text.get(right.range.clone()).unwrap_or_default();
        let cut_word = a.chars().next_back().is_some_and(char::is_alphanumeric)
            && b.chars().next().is_some_and(char::is_alphanumeric);
        let names = [left, right].iter().any(|part| matches!(part.role, Role::Key | Role::Name));
        if left.range.end == right.range.start
            || right.range.end <= carried
            || !cut_word
            || names
            || a.len().min(b.len()) < 6
        {
            continue;
        }
        if !out.is_empty() {
            out.push_str("\n\n");
        }
        for (part, range) in [
            (left, a.ceil_char_boundary(a.len().saturating_sub(SEAM))..a.len()),
            (right, 0..b.floor_char_boundary(SEAM.min(b.len()))),
        ] {
            let start = out.len();
            out.push_str(
                text.get(part.range.start + range.start..part.range.start + range.end).unwrap_or_default(),
            );
            seam_parts.push(Part {
                range: start..out.len(),
                offset: part.offset + range.start,
                ..part.clone()
            });
            if part.range == left.range {
                seams.push(out.len()..out.len());
            }
        }
    }
    (out, seam_parts, seams)
}

#[cfg(test)]
mod tests;
