//! The shield on the path: messages become fragments, verdicts become answers (attacks.md II, PO).
//!
//! What a client sends is judged before it is sent and never changed. What a server sends is judged message by message;
//! what is split over several messages of one answer is seen whole. A text that cannot be judged does not pass. What is
//! cleaned of characters that act is judged as it came and as it goes on, for cleaning can put together what was apart.

mod controls;

use bartizan_mcp::{
    Kind as Message_, Message, Refusal, Splice, code,
    json::{Value, quote},
};
use bartizan_model::Entropy;
use bartizan_shield::{
    Action, Catalogue, Category, ClientAction, ControlActions, Decision, Finding, Fragment, Inspector,
    Judged, Kind, Role, Scene, Shield, Spotlight, Text, Trust, Verdict,
    controls::Acts,
    json,
    spotlight::{self, EXPLANATION},
};

use crate::{
    apps, catalog::long_work, documents, naming, permit::holds::Hold, record::Ending, server::Server,
    upstream::Failure,
};

/// The member of `_meta` that says what was found in an answer that passed.
pub const META_FINDINGS: &str = "dev.bartizan/findings";

/// Above this many bytes, judging moves off the threads that carry everybody's messages.
const LONG: usize = 64 * 1024;

/// What of a request's parameters is the client's own text. Names, handles and `_meta` are not: they are checked elsewhere.
const NOT_TEXT: [&str; 5] = ["_meta", "cursor", "name", "requestState", "taskId"];

/// Judges what a client sends to `server`, in which others found `more`. Answers the hold of what may go on only if a person
/// approves it.
///
/// # Errors
/// The refusal, which names the rules and never what they found (attacks.md II-05, EP-04).
pub fn call(
    shield: &Shield,
    server: &Server,
    message: &Message,
    more: &[Finding],
) -> Result<Option<Hold>, Refusal> {
    apps::may_ask(server, message)?;
    if !server.settings().inspects {
        return Ok(None);
    }
    let fragments = sent(message).map_err(|()| unread())?;
    let verdict = on_any_thread(message.text().len(), || shield.inspect(&scene(server), &fragments));
    let verdict = verdict.and(Kind::ClientText, server.settings().trust, shield.config(), more);
    if verdict.decision.passes() {
        return Ok(None);
    }
    let what = "what was sent holds something that must not go to this server";
    let refusal =
        |decides| {
            Refusal::new(403, code::WITHHELD, format!("{what}: {}; {decides}", titles(&verdict)))
                .with_data(data("shield_call", server, &verdict))
        };
    if verdict.decision == Decision::Client(ClientAction::Hold) {
        let refusal = refusal("`[shield]` holds it, and only calls of pinned tools can be approved");
        return Ok(Some(Hold::new(message, &verdict, found(&verdict), refusal)));
    }
    tracing::warn!(server = %server.name(), method = %message.method(), rules = %rules(&verdict), "a call was refused by the shield");
    Err(refusal("`[shield]` decides about it"))
}

/// What a client says in a message.
fn sent(message: &Message) -> Result<Vec<Fragment<'_>>, ()> {
    let texts = message.fields().filter(|m| !NOT_TEXT.contains(&m.key().as_ref()));
    let mut fragments = Vec::new();
    for member in texts {
        let base = member.value.span_in(message.text()).start;
        read(member.value.text(), &member.key(), base, Kind::ClientText, &mut fragments)?;
    }
    if let Some(error) = message.error() {
        let base = error.span_in(message.text()).start;
        read(error.text(), "error", base, Kind::ClientText, &mut fragments)?;
    }
    Ok(fragments)
}

/// What a client says in a message, for others to judge.
///
/// # Errors
/// The refusal, if it cannot be read.
pub fn sent_words(message: &Message) -> Result<Text, Refusal> {
    sent(message).map(|fragments| Text::of(Kind::ClientText, &fragments)).map_err(|()| unread())
}

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

/// What a server says in a message, `but` for one member.
fn said<'m>(message: &'m Message, but: Option<&str>) -> Result<(Kind, Vec<Fragment<'m>>), Failure> {
    let kind = kind_of(message);
    let Some(body) = body(message) else { return Ok((kind, Vec::new())) };
    let mut fragments = Vec::new();
    // What a modern server asks stands in its answer, or in what it says of a task, and is a question all the same (26/mrtr).
    let may_ask = message.result().is_some() || message.method() == "notifications/tasks";
    let asks = may_ask && message.field("inputRequests").is_some();
    let read_all = if but.is_none() && !asks {
        read(body.text(), "", body.span_in(message.text()).start, kind, &mut fragments)
    } else {
        message.fields().filter(|m| but.is_none_or(|but| !m.is(but))).try_for_each(|m| {
            let kind = if asks && m.is("inputRequests") { Kind::Question } else { kind };
            let base = m.value.span_in(message.text()).start;
            fragments.push(Fragment::new(kind, "/", m.key()));
            read(m.value.text(), &m.key(), base, kind, &mut fragments)
        })
    };
    match read_all {
        Ok(()) => Ok((kind, fragments)),
        Err(()) => Err(Failure::Protocol("its answer could not be read for judging".into())),
    }
}

/// What the words of a server's message are.
fn kind_of(message: &Message) -> Kind {
    if message.kind() == Message_::Request { Kind::Question } else { Kind::Result }
}

/// `message` as it is read by those it is for: its texts, `but` those of one member, without `acts`, and what people are asked
/// without any. `None` if it is read as it came.
fn as_read(
    message: &Message,
    but: Option<&str>,
    acts: Acts,
    config: ControlActions,
) -> Result<Option<Message>, Failure> {
    let mut now = None;
    if acts.any() {
        let text = controls::without(message, but, acts, config);
        if text != message.text() {
            now = Some(read_again(text)?);
        }
    }
    let asked = naming::plain(now.as_ref().unwrap_or(message));
    if let Some(text) = asked {
        now = Some(read_again(text)?);
    }
    Ok(now)
}

fn body(message: &Message) -> Option<Value<'_>> {
    message.params().or(message.result()).or(message.error())
}

/// What a server says in a message, `but` for one member, and in its `documents`, for others to judge: as it came, and if
/// characters in it act, once more as it is read without them.
///
/// # Errors
/// [`Failure::Protocol`], if it cannot be read.
pub fn said_words(
    message: &Message,
    but: Option<&str>,
    documents: &documents::Read,
) -> Result<Text, Failure> {
    // Whatever the settings leave of colours, the letters between them are read in one.
    let plain = ControlActions { colours: false, ..ControlActions::default() };
    let read = on_any_thread(message.text().len(), || as_read(message, but, Acts::ALL, plain))?;
    let (kind, mut fragments) = said(message, but)?;
    if let Some(read) = &read {
        let (_, words) = said(read, but)?;
        // These are no literals of the message that came, so nothing can be cut out of it for them.
        fragments.extend(words.into_iter().map(|fragment| Fragment { raw: None, ..fragment }));
    }
    // What is not read is found where it is judged.
    let _ = documents.add_to(kind, &mut fragments);
    Ok(Text::of(kind, &fragments))
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
    let Some(body) = body(message) else { return Ok(Passed::AsItIs) };
    // An app is a program, and whether one may be shown is no question of what it says.
    if !server.settings().inspects && apps::found(server, message, Kind::Result).is_empty() {
        return Ok(Passed::AsItIs);
    }
    let (kind, long) = (kind_of(message), body.text().len());
    let (trust, config) = (server.settings().trust, shield.config());
    let acting = if kind == Kind::Result {
        on_any_thread(long, || controls::found(message, known.judged, config.control))
    } else {
        Vec::new()
    };
    let acts = to_clean(&Verdict::of(kind, trust, config, acting.clone()));
    let cleaned = on_any_thread(long, || as_read(message, known.judged, acts, config.control))?;
    // What goes on is what is judged, redacted and remembered.
    let shown = cleaned.as_ref().unwrap_or(message);
    let (_, mut fragments) = said(shown, known.judged)?;
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
    more.extend(apps::found(server, message, kind));
    more.extend(acting);
    if cleaned.is_some() {
        more.iter_mut().for_each(forget_literals);
    }
    let before = cleaned.is_some().then(|| inspector.clone());
    let verdict = on_any_thread(long, || inspector.inspect(shield, &scene(server), &fragments));
    let verdict = verdict.and(kind, trust, config, &more);
    let mut others = Vec::new();
    if let Some(mut before) = before {
        // As it came, it counts too, but nothing remembers it.
        let (_, mut came) = said(message, known.judged)?;
        // What there is to say of its documents is said above.
        let _ = documents.add_to(kind, &mut came);
        let found = on_any_thread(long, || before.inspect(shield, &scene(server), &came));
        others.extend(found.findings);
    }
    let sentences = naming::sentences(server.name(), shown);
    if !sentences.is_empty() {
        let asked: Vec<_> = sentences
            .iter()
            .map(|(at, text)| Fragment::new(Kind::Question, at.as_str(), text.as_str()))
            .collect();
        let found = on_any_thread(long, || shield.inspect(&scene(server), &asked));
        // The gateway's own words in front are no reason to say more of a question that may be put.
        if !found.decision.passes() {
            others.extend(found.findings);
        }
    }
    let others = unsaid(&verdict, others);
    let told = verdict.clone().and(kind, trust, config, &others);
    ending.found(&told);
    let blocked = |rules: String| {
        tracing::warn!(server = %server.name(), %rules, "an answer was withheld by the shield");
        if message.kind() == Message_::Response {
            let suspect = (told.decision == Decision::Server(Action::Quarantine)).then_some(rules);
            Err(Failure::Withheld {
                words: titles(&told),
                data: data("shield_answer", server, &told),
                suspect,
            })
        } else {
            Ok(Passed::Dropped)
        }
    };
    match told.decision {
        Decision::Client(_) | Decision::Server(Action::Block | Action::Quarantine) => {
            return blocked(rules(&told));
        }
        Decision::Server(_) => {}
    }
    // What acts on a terminal was taken out of its text, which stays where it is.
    let action = verdict.action_but(Category::Control);
    let mut redacted: Option<Message> = None;
    if action == Action::Redact {
        let touches_structure = verdict
            .findings
            .iter()
            .flat_map(|j| &j.finding.places)
            .any(|p| p.at.starts_with("/structuredContent"));
        // What may have a schema must keep to it, and what came earlier cannot be taken back.
        if (touches_structure && !known.is_compared) || !json::is_redacted_whole(&verdict) {
            return blocked(rules(&told));
        }
        tracing::info!(server = %server.name(), rules = %rules(&verdict), "an answer was redacted by the shield");
        ending.altered("redacted");
        redacted = Some(read_again(json::redact(shown.text(), &verdict))?);
    }
    if acts.any() {
        tracing::info!(server = %server.name(), "what acts on a terminal was taken out of an answer");
        ending.altered("neutralised");
    }
    let text = {
        let message = redacted.as_ref().unwrap_or(shown);
        let mut splice = message.splice();
        if action != Action::Redact {
            let says = told
                .findings
                .iter()
                .any(|j| matches!(j.decision, Decision::Server(action) if action >= Action::Annotate));
            if says && message.result().is_some() {
                annotate(message, &told, &mut splice);
            }
            let marks = [action, told.action_but(Category::Control)].contains(&Action::Spotlight);
            if (marks || config.spotlight != Spotlight::Off)
                && mark(config.spotlight, server, message, entropy, &mut splice)
            {
                ending.altered("spotlighted");
            }
        }
        (!splice.is_empty()).then(|| splice.finish())
    };
    // A question of a legacy server is cleaned where it is given its server's name.
    let now = if kind == Kind::Question { redacted } else { redacted.or(cleaned) };
    match (text, now) {
        (Some(text), _) => Ok(Passed::Changed(Box::new(read_again(text)?))),
        (None, Some(now)) => Ok(Passed::Changed(Box::new(now))),
        (None, None) => Ok(Passed::AsItIs),
    }
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

/// What `others` say that `verdict` does not. The literals they stand in are not those of the message that was judged last.
fn unsaid(verdict: &Verdict, others: Vec<Judged>) -> Vec<Finding> {
    let is_same = |known: &Finding, other: &Finding| {
        known.rule == other.rule
            && known.severity >= other.severity
            && known.places.iter().map(|place| &place.at).eq(other.places.iter().map(|place| &place.at))
    };
    let others = others.into_iter().map(|judged| judged.finding);
    let mut unsaid: Vec<_> =
        others.filter(|other| !verdict.findings.iter().any(|known| is_same(&known.finding, other))).collect();
    unsaid.iter_mut().for_each(forget_literals);
    unsaid
}

/// Nothing can be cut out for a finding in another form of the message; if that is asked for, the message does not pass.
fn forget_literals(finding: &mut Finding) {
    for place in &mut finding.places {
        place.raw = None;
    }
}

/// A message that we wrote.
fn read_again(text: String) -> Result<Message, Failure> {
    Message::from_spliced(text).map_err(|fault| Failure::Protocol(fault.to_string()))
}

/// Judges one definition as it was listed, beside what other servers offer; none if it could not be read.
pub fn definition(shield: &Shield, server: &Server, catalogue: &Catalogue, raw: &str) -> Option<Verdict> {
    let mut fragments = Vec::new();
    read(raw, "", 0, Kind::Definition, &mut fragments).ok()?;
    for fragment in &mut fragments {
        // The name by which it is called, not a property's or an argument's.
        if fragment.role == Role::Text && fragment.at == "/name" {
            fragment.role = Role::Name;
        }
    }
    let scene = Scene { catalogue: Some(catalogue), ..scene(server) };
    Some(on_any_thread(raw.len(), || shield.inspect(&scene, &fragments)))
}

/// The explanation of our marks, where marking is on for this server.
pub fn explanation(shield: &Shield, server: &Server) -> Option<&'static str> {
    is_marked(shield.config().spotlight, server).then_some(EXPLANATION)
}

fn is_marked(mode: Spotlight, server: &Server) -> bool {
    mode != Spotlight::Off && server.settings().trust != Trust::Trusted
}

/// Marks prose from outside; what is no prose stays byte for byte. Answers whether there was any.
fn mark<'a>(
    mode: Spotlight,
    server: &Server,
    message: &'a Message,
    entropy: &dyn Entropy,
    splice: &mut Splice<'a>,
) -> bool {
    if message.result().is_none() || server.settings().trust == Trust::Trusted {
        return false;
    }
    let mut marks = false;
    let mode = if mode == Spotlight::Off { Spotlight::Delimit } else { mode };
    for key in ["content", "contents"] {
        for block in message.field(key).into_iter().flat_map(Value::elements) {
            let holder = block.get("resource").unwrap_or(block);
            let is_text = block
                .get("type")
                .and_then(Value::as_str)
                .is_none_or(|t| matches!(t.as_ref(), "text" | "resource"));
            if let Some(place) = holder.get("text").filter(|_| is_text)
                && let Some(text) = place.as_str()
                && let Some(marked) = spotlight::spotlight(mode, &text, server.name().as_str(), entropy)
            {
                splice.replace(place, quote(&marked));
                marks = true;
            }
        }
    }
    marks
}

fn annotate<'a>(message: &'a Message, verdict: &Verdict, splice: &mut Splice<'a>) {
    let Some(result) = message.result() else { return };
    let found = found(verdict);
    match message.field("_meta") {
        Some(meta) => splice.set(meta, META_FINDINGS, found),
        None => splice.insert(result, "_meta", &format!("{{{}:{found}}}", quote(META_FINDINGS))),
    }
}

/// What was found, as a JSON list.
fn found(verdict: &Verdict) -> String {
    let found: Vec<_> = verdict.findings.iter().map(as_json).collect();
    format!("[{}]", found.join(","))
}

/// How many places of a finding are named; a text may hold thousands.
const PLACES: usize = 16;

fn as_json(judged: &Judged) -> String {
    let finding = &judged.finding;
    let places: Vec<_> = finding.places.iter().take(PLACES).map(|p| quote(&p.at)).collect();
    let more = match finding.places.len().saturating_sub(PLACES) {
        0 => String::new(),
        more => format!(r#","more":{more}"#),
    };
    format!(
        r#"{{"rule":{},"severity":"{}","at":[{}]{more}}}"#,
        quote(&finding.rule),
        finding.severity.as_str(),
        places.join(",")
    )
}

fn data(reason: &str, server: &Server, verdict: &Verdict) -> String {
    format!(
        r#"{{"source":"bartizan","reason":"{reason}","server":{},"findings":{}}}"#,
        quote(server.name().as_str()),
        found(verdict)
    )
}

fn rules(verdict: &Verdict) -> String {
    verdict.findings.iter().map(|j| j.finding.rule.as_ref()).collect::<Vec<_>>().join(" ")
}

/// What was found, in the rules' own words; those that do not pass only.
fn titles(verdict: &Verdict) -> String {
    let mut titles: Vec<_> =
        verdict.findings.iter().filter(|j| !j.decision.passes()).map(|j| j.finding.title.as_ref()).collect();
    if titles.is_empty() {
        titles = verdict.findings.iter().map(|j| j.finding.title.as_ref()).collect();
    }
    titles.dedup();
    titles.truncate(3);
    titles.join("; ")
}

fn scene(server: &Server) -> Scene<'_> {
    Scene { server: server.name().as_str(), trust: server.settings().trust, catalogue: None }
}

/// Adds every string of the JSON text `raw`, which stands at byte `base` of its message and is the member `at` of it.
fn read<'r>(raw: &'r str, at: &str, base: usize, kind: Kind, to: &mut Vec<Fragment<'r>>) -> Result<(), ()> {
    let member = (!at.is_empty()).then_some(at);
    to.extend(json::fragments_in(raw, member, base, kind, json::Limits::default()).map_err(|_| ())?);
    Ok(())
}

fn unread() -> Refusal {
    Refusal::new(400, code::INVALID_REQUEST, "the parameters could not be read for judging")
}

/// Runs long work where it holds up nobody else's messages.
pub fn on_any_thread<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    if bytes > LONG { long_work(work) } else { work() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_places_some_are_named_and_the_rest_is_counted() {
        let mut finding = Finding::unjudged("r", "t", Kind::Result, "/0");
        let place = finding.places[0].clone();
        let named = |finding: &Finding| {
            let judged = Judged { finding: finding.clone(), decision: Decision::Server(Action::Annotate) };
            serde_json::from_str::<serde_json::Value>(&as_json(&judged)).unwrap()
        };
        assert_eq!(named(&finding), serde_json::json!({ "rule": "r", "severity": "critical", "at": ["/0"] }));
        finding
            .places
            .extend((1..3000).map(|n| bartizan_shield::Place { at: format!("/{n}"), ..place.clone() }));
        let many = named(&finding);
        assert_eq!(many["at"].as_array().map(Vec::len), Some(PLACES));
        assert_eq!((&many["at"][15], &many["more"]), (&"/15".into(), &2984.into()));
    }
}
