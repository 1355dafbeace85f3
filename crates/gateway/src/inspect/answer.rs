//! What a server says to a client: cleaned of what acts on a screen, judged, and withheld, redacted, marked or passed on.

use bartizan_mcp::{Kind as Message_, Message};
use bartizan_model::Entropy;
use bartizan_shield::{
    Action, Category, Decision, Finding, Fragment, Inspector, Judged, Kind, Shield, Spotlight, Verdict,
    controls::{Acts, on_screen},
    json,
};

use super::{
    META_FINDINGS, as_read, body, controls, kind_of,
    marks::mark,
    on_any_thread, read_again,
    report::{annotate, data_unseen, rules, titles},
    said, scene,
};
use crate::{apps, documents, naming, record::Ending, server::Server, upstream::Failure};

/// What becomes of a message from a server.
pub enum Passed {
    /// It goes on as it is.
    AsItIs,
    /// It goes on, changed.
    Changed(Box<Message>),
    /// It does not go on; for a notification, which nobody waits for.
    Dropped,
}

/// What is known of a message before it is judged.
#[derive(Clone, Copy, Default)]
pub struct Known<'k> {
    /// A member that was judged already.
    pub judged: Option<&'k str>,
    /// What others found in it.
    pub found: &'k [Finding],
    /// What was read of its documents; without it, they are found to be unread.
    pub documents: Option<&'k documents::Read>,
    /// What becomes of its structure is compared with the schema afterwards, so it may be redacted too.
    pub is_compared: bool,
}

/// Judges a message that `server` sends; `inspector` remembers what came before it in the same answer.
///
/// # Errors
/// [`Failure::Withheld`] for a response that must not be seen.
pub fn answer(
    shield: &Shield,
    inspector: &mut Inspector,
    server: &Server,
    message: &Message,
    known: Known<'_>,
    entropy: &dyn Entropy,
    ending: &mut Ending,
) -> Result<Passed, Failure> {
    let long = body(message).map_or(0, |body| body.text().len());
    if long == 0 && message.beside().next().is_none() {
        return Ok(Passed::AsItIs);
    }
    // An app is a program, and whether one may be shown is no question of what it says.
    if !server.settings().inspects
        && on_any_thread(long, || apps::found(server, message, Kind::Result)).is_empty()
    {
        return Ok(Passed::AsItIs);
    }
    let kind = kind_of(message);
    let long = long.max(message.beside().map(|(_, value)| value.text().len()).sum());
    let case = Case { shield, server, message, known, kind, long };
    let cleaned = case.clean()?;
    let found = case.judge(inspector, &cleaned)?;
    ending.found(&found.all);
    if is_withheld(found.all.decision) {
        return case.withhold(&found.all);
    }
    let redacted = match case.redact(&cleaned, &found)? {
        Redacted::Not => None,
        Redacted::To(redacted) => Some(*redacted),
        Redacted::Never => return case.withhold(&found.all),
    };
    if redacted.is_some() {
        tracing::info!(server = %server.name(), rules = %rules(&found.shown), "an answer was redacted by the shield");
        ending.altered("redacted");
    }
    if cleaned.acts.any() {
        tracing::info!(server = %server.name(), "what acts on a terminal was taken out of an answer");
        ending.altered("neutralised");
    }
    let now = redacted.as_ref().unwrap_or(cleaned.shown(message));
    if let Some(text) = case.dress(now, redacted.is_some(), &found, entropy, ending) {
        return Ok(Passed::Changed(Box::new(read_again(text)?)));
    }
    // A question of a legacy server is cleaned where it is given its server's name.
    let changed = if kind == Kind::Question { redacted } else { redacted.or(cleaned.message) };
    Ok(changed.map_or(Passed::AsItIs, |changed| Passed::Changed(Box::new(changed))))
}

/// What is taken out of what `server` said, which a person has released: whoever looked at it saw what acts on a terminal spelt
/// out, and it is taken out as it would have been of an answer that passed.
///
/// # Errors
/// [`Failure::Protocol`], if it cannot be read.
pub fn released(
    shield: &Shield,
    server: &Server,
    message: &Message,
    ending: &mut Ending,
) -> Result<Passed, Failure> {
    let (trust, config) = (server.settings().trust, shield.config());
    let cleaned = on_any_thread(message.text().len(), || {
        let acting = controls::found(message, None, config.control);
        let acts = to_clean(&Verdict::of(kind_of(message), trust, config, acting));
        as_read(message, None, acts, config.control)
    })?;
    let Some(cleaned) = cleaned else { return Ok(Passed::AsItIs) };
    ending.altered("neutralised");
    Ok(Passed::Changed(Box::new(cleaned)))
}

/// What of that which acts on a terminal is to be taken out.
fn to_clean(verdict: &Verdict) -> Acts {
    let redacted = verdict.findings.iter().filter(|j| j.decision == Decision::Server(Action::Redact));
    Acts::of_rules(redacted.map(|judged| judged.finding.rule.as_ref()))
}

/// A message of a server, and all that is known of it.
struct Case<'c> {
    shield: &'c Shield,
    server: &'c Server,
    message: &'c Message,
    known: Known<'c>,
    kind: Kind,
    /// Bytes to be judged.
    long: usize,
}

/// A message without what is taken out of it before it is judged.
struct Cleaned {
    /// What acts on a terminal in the message as it came.
    acting: Vec<Finding>,
    /// What of that is taken out.
    acts: Acts,
    /// The message without it; none if it stays as it came.
    message: Option<Message>,
}

impl Cleaned {
    /// What goes on if nothing is found: it is judged, redacted and remembered.
    fn shown<'s>(&'s self, message: &'s Message) -> &'s Message {
        self.message.as_ref().unwrap_or(message)
    }
}

/// What is wrong with a message.
struct Found {
    /// With what goes on of it.
    shown: Verdict,
    /// With that, and with the message in its other forms: what decides.
    all: Verdict,
}

/// What is left of a message of which something must be cut out.
enum Redacted {
    /// Nothing must be.
    Not,
    /// This.
    To(Box<Message>),
    /// Not all of it can be cut out.
    Never,
}

impl Case<'_> {
    fn clean(&self) -> Result<Cleaned, Failure> {
        let config = self.shield.config();
        let acting = if self.kind == Kind::Result {
            on_any_thread(self.long, || controls::found(self.message, self.known.judged, config.control))
        } else {
            Vec::new()
        };
        let acts = to_clean(&Verdict::of(self.kind, self.server.settings().trust, config, acting.clone()));
        let message =
            on_any_thread(self.long, || as_read(self.message, self.known.judged, acts, config.control))?;
        Ok(Cleaned { acting, acts, message })
    }

    /// Judges the message in all its forms. `inspector` remembers the one that goes on.
    fn judge(&self, inspector: &mut Inspector, cleaned: &Cleaned) -> Result<Found, Failure> {
        let Self { shield, server, message, known, kind, long } = *self;
        let (trust, config) = (server.settings().trust, shield.config());
        let shown = cleaned.shown(message);
        let (_, mut fragments) = said(shown, known.judged)?;
        let mut came = None;
        if cleaned.message.is_some() {
            came = Some(said(message, known.judged)?.1);
        }
        let mut more = known.found.to_vec();
        let unread;
        let documents = match known.documents {
            Some(read) => read,
            None => {
                unread = documents::unread(message);
                &unread
            }
        };
        more.extend(documents.add_to(kind, &mut fragments));
        if let Some(came) = &mut came {
            // What there is to say of its documents is said already.
            let _ = documents.add_to(kind, came);
        }
        more.extend(apps::found(server, message, kind));
        more.extend(cleaned.acting.iter().cloned());
        if cleaned.message.is_some() {
            more.iter_mut().for_each(Finding::forget_literals);
        }
        // What has to stay byte for byte is shown by somebody all the same, and so are colours.
        let screen = on_any_thread(long, || on_screen(came.as_ref().unwrap_or(&fragments)));
        let screen = screen.filter(|screen| !is_said_by(screen, &fragments));
        let forms: Vec<_> = [came.as_deref(), screen.as_deref()].into_iter().flatten().collect();
        let before = (!forms.is_empty()).then(|| inspector.clone());
        let verdict = on_any_thread(long, || inspector.inspect(shield, &scene(server), &fragments));
        let verdict = verdict.and(kind, trust, config, &more);
        let mut all = verdict.clone();
        for form in forms {
            // It counts too, but nothing remembers it.
            let mut before = before.clone().unwrap_or_default();
            let found = on_any_thread(long, || before.inspect(shield, &scene(server), form));
            let unsaid = all.unsaid(found.findings);
            all = all.and(kind, trust, config, &unsaid);
        }
        let unsaid = all.unsaid(self.asked(shown));
        let all = all.and(kind, trust, config, &unsaid);
        Ok(Found { shown: verdict, all })
    }

    /// What is wrong with what people are asked in `shown`, as they will read it.
    fn asked(&self, shown: &Message) -> Vec<Judged> {
        let sentences = naming::sentences(self.server.name(), shown);
        if sentences.is_empty() {
            return Vec::new();
        }
        let asked: Vec<_> = sentences
            .iter()
            .map(|(at, text)| Fragment::new(Kind::Question, at.as_str(), text.as_str()))
            .collect();
        let found = on_any_thread(self.long, || self.shield.inspect(&scene(self.server), &asked));
        // The gateway's own words in front are no reason to say more of a question that may be put.
        if found.decision.passes() { Vec::new() } else { found.findings }
    }

    /// Answers that the message does not go on, because of what `told` says.
    fn withhold(&self, told: &Verdict) -> Result<Passed, Failure> {
        let rules = rules(told);
        let what = if self.message.kind() == Message_::Request { "a question" } else { "an answer" };
        tracing::warn!(server = %self.server.name(), %rules, "{what} was withheld by the shield");
        if self.message.kind() != Message_::Response {
            return Ok(Passed::Dropped);
        }
        let suspect = (told.decision == Decision::Server(Action::Quarantine)).then_some(rules);
        Err(Failure::Withheld {
            words: titles(told),
            data: data_unseen("shield_answer", self.server, told),
            suspect,
        })
    }

    /// What goes on without what is to be cut out of it.
    fn redact(&self, cleaned: &Cleaned, found: &Found) -> Result<Redacted, Failure> {
        // What acts on a terminal was taken out of its text, which stays where it is.
        if found.all.action_but(Category::Control) != Action::Redact {
            return Ok(Redacted::Not);
        }
        let mut places = found.shown.findings.iter().flat_map(|judged| &judged.finding.places);
        let touches_structure = places.any(|place| place.at.starts_with("/structuredContent"));
        // What may have a schema must keep to it; what came earlier cannot be taken back, nor can what is seen in another form
        // of the message be cut out of this one.
        if (touches_structure && !self.known.is_compared) || !json::is_redacted_whole(&found.all) {
            return Ok(Redacted::Never);
        }
        let text = json::redact(cleaned.shown(self.message).text(), &found.shown);
        Ok(Redacted::To(Box::new(read_again(text)?)))
    }

    /// `now` with what is said of it and with the marks of text from outside; none if it needs neither.
    fn dress(
        &self,
        now: &Message,
        is_redacted: bool,
        found: &Found,
        entropy: &dyn Entropy,
        ending: &mut Ending,
    ) -> Option<String> {
        let mut splice = now.splice();
        let says = found
            .all
            .findings
            .iter()
            .any(|j| matches!(j.decision, Decision::Server(action) if action >= Action::Annotate));
        // Nobody else says what we found.
        let is_forged =
            || now.field("_meta").is_some_and(|meta| meta.members().any(|member| member.is(META_FINDINGS)));
        // What was cut out says so itself.
        if now.result().is_some() && (says && !is_redacted || is_forged()) {
            annotate(now, &found.all, &mut splice);
        }
        let asks_for_marks = |verdict: &Verdict| {
            let others = verdict.findings.iter().filter(|j| j.finding.category != Category::Control);
            others.map(|j| j.decision).any(|decision| decision == Decision::Server(Action::Spotlight))
        };
        let mode = self.shield.config().spotlight;
        let is_found = asks_for_marks(&found.shown) || asks_for_marks(&found.all);
        let marks = is_found || mode != Spotlight::Off;
        if marks && mark(mode, is_found, self.server, now, entropy, &mut splice) {
            ending.altered("spotlighted");
        }
        (!splice.is_empty()).then(|| splice.finish())
    }
}

/// Whether the texts of two forms of a message are the same.
fn is_said_by(one: &[Fragment<'_>], other: &[Fragment<'_>]) -> bool {
    one.iter().map(|fragment| &fragment.text).eq(other.iter().map(|fragment| &fragment.text))
}

fn is_withheld(decision: Decision) -> bool {
    matches!(decision, Decision::Client(_) | Decision::Server(Action::Block | Action::Quarantine))
}
