//! The shield itself: fragments in, verdict out.

pub(crate) mod seams;

use std::{borrow::Cow, collections::BTreeMap, ops::Range, sync::Arc};

use crate::{
    bundle::Arms,
    config::Config,
    detector::{Detector, Hit, Scene, shipped},
    detectors::Patterns,
    finding::{Category, Finding, Place, Severity},
    fragment::{Fragment, Kind, Role},
    normalize::{self, Reading, Trick, Tricks, views},
    opinion::Opinion,
    passage::{Draft, Part, Passage, places},
    verdict::Verdict,
};
use seams::Seams;

/// Bytes judged at once.
const WINDOW: usize = 128 * 1024;
/// Bytes of each window that the next one sees again; longer than any pattern's reach.
const OVERLAP: usize = 2 * 1024;
/// Findings of one message of which each may be another instance of a rule. Further rules have one finding each, for none
/// may be crowded out: what decides may be the last that is found.
const FINDINGS: usize = 64;
/// Findings of one rule and kind in one message; the last of them takes the places of all further instances.
const INSTANCES: usize = 8;
/// Findings kept of one message in any case; a message in which there are more is withheld.
const MOST_FINDINGS: usize = 1024;
/// Bytes that the places of further instances may take up in one message.
const ROOM: usize = 1 << 20;

/// From this weight on detectors judge prose only, where values are read over their seams.
const HEAVY: u64 = 4;
/// Bytes from which a text is prose to them.
const PROSE: usize = 64;

/// How a passage is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// It is judged for the first time.
    Whole,
    /// It was judged, but for what runs over its seams.
    Seams {
        /// Readers are shown its values one behind the other.
        is_prose: bool,
    },
}

impl Look {
    fn wants(self, detector: &dyn Detector) -> bool {
        self != Self::Seams { is_prose: false } || detector.weight() < HEAVY
    }
}

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

    /// What is found in a message that stands alone, whatever the configuration says to do about it, in no order. Of
    /// one rule are at most eight, the last with the places of all further instances.
    pub fn find(&self, scene: &Scene<'_>, fragments: &[Fragment<'_>]) -> Vec<Finding> {
        Inspector::default().find(self, scene, fragments)
    }
}

/// Judges messages that follow one another, such as the events of a stream: what is split over several is seen
/// whole, whatever of another kind comes in between. Keeps less than 3 KiB of text of each kind between them.
#[derive(Clone, Debug, Default)]
pub struct Inspector {
    memories: BTreeMap<Kind, Memory>,
}

impl Inspector {
    /// Judges the next message. What was found in an earlier one is not found again.
    pub fn inspect(&mut self, shield: &Shield, scene: &Scene<'_>, fragments: &[Fragment<'_>]) -> Verdict {
        let findings = self.find(shield, scene, fragments);
        let kind = fragments.first().map_or(Kind::Result, |fragment| fragment.kind);
        Verdict::of(kind, scene.trust, &shield.config, findings)
    }

    fn find(&mut self, shield: &Shield, scene: &Scene<'_>, fragments: &[Fragment<'_>]) -> Vec<Finding> {
        let budget = shield.budget;
        let mut work = Work { shield, scene, fragments, budget, findings: Vec::new(), room: ROOM };
        for (index, fragment) in fragments.iter().enumerate() {
            let kind = fragment.kind;
            self.memories.entry(kind).or_default().read(kind, index, fragment, &mut work);
        }
        for (kind, memory) in &mut self.memories {
            memory.judge(*kind, &mut work);
            memory.judge_seams(*kind, &mut work);
        }
        for memory in self.memories.values_mut() {
            memory.draft.forget_fragments();
            memory.seams.end_message(fragments, &work.findings);
        }
        work.findings
    }
}

/// What came so far of one kind of text.
#[derive(Clone, Debug, Default)]
struct Memory {
    draft: Draft,
    seams: Seams,
}

impl Memory {
    /// Adds the fragment of number `index`, and judges what is enough to be.
    fn read(&mut self, kind: Kind, index: usize, fragment: &Fragment<'_>, work: &mut Work<'_>) {
        self.seams.push(index, fragment);
        if seams::is_frame(fragment) {
            return;
        }
        let mut offset = 0;
        while let Some(rest) = fragment.text.get(offset..).filter(|rest| !rest.is_empty()) {
            let room = WINDOW.saturating_sub(self.draft.text.len()).max(4);
            let piece = rest.get(..rest.floor_char_boundary(room.min(rest.len()))).unwrap_or(rest);
            self.draft.push(index, fragment.role, offset, piece);
            offset += piece.len();
            if self.draft.text.len() + 4 > WINDOW {
                self.judge(kind, work);
            }
        }
        if self.seams.is_full() {
            self.judge_seams(kind, work);
        }
    }

    fn judge(&mut self, kind: Kind, work: &mut Work<'_>) {
        let Draft { text, parts, carried } = &self.draft;
        if text.len() > *carried {
            let fresh = *carried..text.len();
            work.judge(kind, text, parts, std::slice::from_ref(&fresh), Look::Whole);
        }
        self.draft.carry(OVERLAP);
    }

    fn judge_seams(&mut self, kind: Kind, work: &mut Work<'_>) {
        for stretch in self.seams.read() {
            // Elsewhere its readers see names between the values, and heavy detectors have judged them so.
            let is_prose = stretch.is_shown && stretch.text.len() >= PROSE;
            work.judge(kind, &stretch.text, &stretch.parts, &stretch.seams, Look::Seams { is_prose });
        }
        self.seams.carry();
    }
}

/// The judging of one message.
struct Work<'w> {
    shield: &'w Shield,
    scene: &'w Scene<'w>,
    fragments: &'w [Fragment<'w>],
    budget: u64,
    findings: Vec<Finding>,
    /// What is left of [`ROOM`].
    room: usize,
}

impl Work<'_> {
    /// Judges one passage; hits count if they reach into one of `fresh`, all of which are in order. One without a range
    /// says that its rule hits more often than it was looked for.
    fn judge(&mut self, kind: Kind, text: &str, parts: &[Part], fresh: &[Range<usize>], look: Look) {
        let passage = Passage::new(kind, text, parts, views(text, normalize::Limits::for_text(text)));
        let size = u64::try_from(passage.size()).unwrap_or(u64::MAX);
        let mut hits = Vec::new();
        for detector in self.shield.detectors.iter().filter(|detector| look.wants(detector.as_ref())) {
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
            let behind = fresh.partition_point(|f| f.end <= hit.range.start);
            let reaches = fresh.get(behind).is_some_and(|f| hit.range.end > f.start);
            if reaches || hit.range.is_empty() {
                raise_if_hidden(&mut hit, passage.tricks(), parts);
                let places = places(parts, &hit.range, self.fragments);
                if look == Look::Whole || !self.is_known(kind, &hit, &places) {
                    self.add(kind, parts, hit, places);
                }
            }
        }
    }

    /// Whether `hit` at a seam says nothing new: it is one that is known, and what came before or behind it, to which no harm is
    /// done for it; or it is about how a text is written, which is known of either half.
    fn is_known(&self, kind: Kind, hit: &Hit, places: &[Place]) -> bool {
        if hit.category == Category::Hiding {
            return true;
        }
        let is_part = |place: &Place| {
            places.iter().any(|longer| {
                let shares = place.range.start < longer.range.end && longer.range.start < place.range.end;
                shares && place.raw == longer.raw && place.at == longer.at
            })
        };
        let is_same =
            |known: &&Finding| known.rule == hit.rule && known.kind == kind && known.severity >= hit.severity;
        self.findings.iter().filter(is_same).any(|known| known.places.iter().any(is_part))
    }

    fn add(&mut self, kind: Kind, parts: &[Part], hit: Hit, places: Vec<Place>) {
        let begins = parts.partition_point(|part| part.range.end <= hit.range.start);
        let is_rest = hit.range.is_empty();
        let continued = is_rest || parts.get(begins).is_some_and(|part| part.fragment.is_none());
        let twin = |known: &Finding| {
            known.rule == hit.rule && known.places == places && known.severity >= hit.severity
        };
        if !is_rest && self.findings.iter().any(twin) {
            return;
        }
        let is_same = |known: &Finding| known.rule == hit.rule && known.kind == kind;
        let instances = self.findings.iter().filter(|known| is_same(known)).count();
        let is_listed = !is_rest && instances < INSTANCES && self.findings.len() < FINDINGS;
        if !is_listed && let Some(last) = self.findings.iter_mut().rfind(|known| is_same(known)) {
            // The verdict may turn on the worst of them, wherever it stands.
            last.severity = last.severity.max(hit.severity);
            last.continued |= continued || places.is_empty();
            let size: usize = places.iter().map(|place| size_of::<Place>() + place.at.len()).sum();
            match self.room.checked_sub(size) {
                Some(left) => {
                    self.room = left;
                    last.places.extend(places);
                }
                None => last.continued = true,
            }
            return;
        }
        if self.findings.len() >= MOST_FINDINGS {
            let rule = "unjudged.findings";
            if !self.findings.iter().any(|known| known.rule == rule && known.kind == kind) {
                let title = "more is wrong with the text than can be listed";
                self.findings.push(Finding::unjudged(rule, title, kind, ""));
            }
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

/// An instruction that was also hidden is no accident. Of a hit without a range, it is not known which text is meant, so
/// all of it is.
fn raise_if_hidden(hit: &mut Hit, tricks: &Tricks, parts: &[Part]) {
    if hit.category != Category::Injection {
        return;
    }
    let range = if hit.range.is_empty() { 0..usize::MAX } else { hit.range.clone() };
    let unseen = parts.iter().any(|part| {
        part.role == Role::Hidden && part.range.start < range.end && part.range.end > range.start
    });
    let is_plain = |reading: &Reading| matches!(reading, Reading::Markup | Reading::Escapes | Reading::Plain);
    let decoded = !hit.readings.iter().all(is_plain);
    let disguised = tricks.as_slice().iter().any(|undone| {
        let hard = matches!(
            undone.trick,
            Trick::Tags
                | Trick::InvisibleInWord
                | Trick::MixedScript
                | Trick::VariationSelectors
                | Trick::HiddenMarkup
        );
        hard && undone.touches(&range)
    });
    if decoded || disguised || unseen {
        hit.severity = match hit.severity {
            Severity::Low => Severity::Medium,
            Severity::Medium => Severity::High,
            Severity::High | Severity::Critical => Severity::Critical,
        };
    }
}

#[cfg(test)]
mod tests;
