//! Calls in which the shield found what only a person lets pass (attacks.md II-06).
//!
//! A hold becomes a request like those that policies make, for that very call, once; see [`super::approvals`]. Nothing that
//! policy asks for is skipped by it, nor the other way round: what an approval is bound to names what was found, and which
//! policies asked.

use bartizan_mcp::{Message, Refusal};
use bartizan_model::Caller;
use bartizan_shield::{Category, ClientAction, Decision, Finding, Kind, Scene, Shield, Verdict, json};

use super::{Ready, approvals::SELF};
use crate::{Asker, inspect::on_any_thread};

/// Who approves where the operator names no role: whoever runs commands on the gate's machine, in every role.
pub(super) const OPERATOR: &str = "the gate's operator";

/// How often a text is masked before it is given up.
const ROUNDS: usize = 4;

/// A call that goes on only if somebody approves it.
pub struct Hold {
    /// What was found, a line each.
    found: Vec<String>,
    /// The same for programs: a JSON list.
    findings: String,
    /// The rules that hold it, in order.
    rules: String,
    shown: Cover,
    refusal: Box<Refusal>,
}

/// What is known of a request to the shield when the policy is asked about it.
#[derive(Clone, Copy)]
pub struct Shielded<'s> {
    /// The shield in force: by its rules credentials are told.
    pub shield: &'s Shield,
    /// What it holds the request for.
    pub hold: Option<&'s Hold>,
}

/// What of the message is shown to whoever decides.
pub(super) enum Cover {
    /// All of it.
    Open,
    /// The message with the names of rules in the place of credentials: approving needs none of them.
    Masked(Box<Message>),
    /// Nothing, for what is secret in it cannot be cut out.
    Closed,
}

impl Cover {
    /// What is shown of `message`, in which `known` tells what is wrong, and `shield` finds credentials.
    pub(super) fn of<'f>(
        shield: &Shield,
        message: &Message,
        known: impl IntoIterator<Item = &'f Finding>,
    ) -> Self {
        let known = known.into_iter().filter(is_secret);
        let Some(text) = json::redact_all(message.text(), known) else { return Self::Closed };
        match on_any_thread(text.len(), || without_secrets(shield, text)) {
            None => Self::Closed,
            Some(text) if text == message.text() => Self::Open,
            Some(text) => {
                Message::from_spliced(text).map_or(Self::Closed, |message| Self::Masked(Box::new(message)))
            }
        }
    }
}

impl Cover {
    /// What is shown of `message`, the one this was made of; `None` for nothing of it.
    pub(super) fn shown<'m>(&'m self, message: &'m Message) -> Option<&'m Message> {
        match self {
            Self::Open => Some(message),
            Self::Masked(masked) => Some(masked),
            Self::Closed => None,
        }
    }
}

fn is_secret(finding: &&Finding) -> bool {
    finding.category == Category::Secret
}

/// `text`, a whole message, without the secrets that `shield` finds in it. `None` if they cannot all be taken out.
///
/// More is shown than was judged: `_meta`, names and handles are no text of the client's, but may hold a credential. And what
/// only a policy asks about may go to a server that nothing is judged for.
fn without_secrets(shield: &Shield, mut text: String) -> Option<String> {
    for _ in 0..ROUNDS {
        let fragments = json::fragments(&text, Kind::ClientText, json::Limits::default()).ok()?;
        let found = shield.find(&Scene::default(), &fragments);
        if found.iter().any(|finding| finding.category == Category::Unjudged) {
            return None;
        }
        if !found.iter().any(|finding| is_secret(&finding)) {
            return Some(text);
        }
        text = json::redact_all(&text, found.iter().filter(is_secret))?;
    }
    None
}

impl Hold {
    /// The hold of `message`, of which `verdict` of `shield` says that it is to be held; `refusal` is for where nobody can be asked.
    pub(crate) fn new(
        shield: &Shield,
        message: &Message,
        verdict: &Verdict,
        findings: String,
        refusal: Refusal,
    ) -> Self {
        let holds = |decision| decision == Decision::Client(ClientAction::Hold);
        let held = || verdict.findings.iter().filter(|j| holds(j.decision)).map(|j| &j.finding);
        let in_order = |mut all: Vec<String>| {
            all.sort_unstable();
            all.dedup();
            all
        };
        Self {
            found: in_order(held().map(|f| format!("{} ({})", f.title, f.rule)).collect()),
            findings,
            rules: in_order(held().map(|f| f.rule.as_ref().to_owned()).collect()).join(" "),
            shown: Cover::of(shield, message, verdict.findings.iter().map(|judged| &judged.finding)),
            refusal: Box::new(refusal),
        }
    }

    /// The refusal, where nobody can be asked.
    pub fn refused(self) -> Refusal {
        *self.refusal
    }

    /// The same, of a hold that goes on being looked at.
    pub(super) fn refusal(&self) -> Refusal {
        (*self.refusal).clone()
    }

    /// What was found, a line each.
    pub(super) fn found(&self) -> &[String] {
        &self.found
    }

    /// What was found, as a JSON list.
    pub(super) fn findings(&self) -> &str {
        &self.findings
    }

    /// What is shown of the message that is held.
    pub(super) fn cover(&self) -> &Cover {
        &self.shown
    }
}

/// Who approves what the shield holds: on a laptop its owner, elsewhere the role that the operator named, and never whoever
/// asks.
pub(super) fn role(ready: &Ready, asker: &Asker) -> String {
    let owner = Caller::local_owner();
    let is_owner = (asker.caller.issuer(), asker.caller.subject()) == (owner.issuer(), owner.subject());
    if is_owner {
        return SELF.to_owned();
    }
    // A role of that name is whoever asks, whatever the operator wrote.
    let named = ready.hold_role.as_ref().filter(|role| *role != SELF);
    named.cloned().unwrap_or_else(|| OPERATOR.to_owned())
}

/// What asks for an approval, in the words it is bound to: the policies' version, where the shield holds the call what it
/// found, and which policies ask. Who said yes to some has not heard of others that ask the same role later, since more has
/// entered the caller's window.
pub(super) fn asked_by(version: &str, hold: Option<&Hold>, policies: &[String]) -> String {
    let held = hold.map_or(String::new(), |hold| format!(" shield:{}", hold.rules));
    format!("{version}{held} policies:{}", policies.join(" "))
}

/// Whether what asked for an approval did so under the policies of `version`.
pub(super) fn is_under(asked_by: &str, version: &str) -> bool {
    asked_by.split(' ').next() == Some(version)
}

#[cfg(test)]
mod tests {
    use bartizan_shield::{Config, Patterns, Place, Severity, Trust, rules};

    use super::*;

    fn finding(rule: &'static str, category: Category, places: Vec<Place>) -> Finding {
        Finding {
            category,
            severity: Severity::High,
            places,
            ..Finding::unjudged(rule, rule, Kind::ClientText, "")
        }
    }

    fn hold(text: &str, findings: Vec<Finding>) -> (Message, Hold) {
        let message = Message::parse(text.into()).unwrap();
        let config = Config::default();
        let verdict = Verdict::of(Kind::ClientText, Trust::Internal, &config, findings);
        assert_eq!(verdict.decision, Decision::Client(ClientAction::Hold));
        let shield = Shield::new(config);
        let hold = Hold::new(&shield, &message, &verdict, "[]".into(), Refusal::new(403, 0, "no"));
        (message, hold)
    }

    const CALL: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":{"a":"my s3cret"}}}"#;

    #[test]
    fn a_credential_is_not_shown_to_whoever_approves_it() {
        let start = CALL.find(r#""my s3cret""#).unwrap();
        let place = Place { at: "/arguments/a".into(), range: 3..9, raw: Some(start..start + 11) };
        let (message, held) = hold(CALL, vec![finding("secret.x", Category::Secret, vec![place.clone()])]);
        let shown = held.cover().shown(&message).unwrap().text();
        assert!(shown.contains("my [redacted: secret.x]") && !shown.contains("s3cret"), "{shown}");
        let nowhere = Place { raw: None, ..place.clone() };
        let (message, held) = hold(CALL, vec![finding("secret.x", Category::Secret, vec![nowhere])]);
        assert!(held.cover().shown(&message).is_none(), "what cannot be cut out is not shown at all");
        let (message, held) = hold(CALL, vec![finding("command.x", Category::Command, vec![place])]);
        assert_eq!(
            held.cover().shown(&message).unwrap().text(),
            CALL,
            "what is no secret is shown to the letter"
        );
    }

    #[test]
    fn no_credential_is_shown_from_where_nothing_is_judged() {
        let token = ["ghp_", "a8Kd03jFq7LmZx92BvNcT5rWy1Ue4Ho6GsPi"].concat();
        for call in [
            CALL.replace(r#""arguments""#, &format!(r#""_meta":{{"x":"key {token}"}},"arguments""#)),
            CALL.replace(r#""params""#, &format!(r#""beside":["{token}"],"params""#)),
        ] {
            let (message, held) = hold(&call, vec![finding("command.x", Category::Command, Vec::new())]);
            let shown = held.cover().shown(&message).unwrap().text();
            assert!(!shown.contains(&token), "{shown}");
            for rest in ["[redacted: secret.github-token]", "my s3cret"] {
                assert!(shown.contains(rest), "{rest}: {shown}");
            }
        }
    }

    #[test]
    fn what_the_rules_in_force_find_is_shown_to_nobody_whoever_asks() {
        let pack = r#"
            [[rule]]
            id = "secret.house-key"
            title = "holds a key of the house"
            category = "secret"
            severity = { client-text = "high" }
            source = "ours"
            keywords = ["hk_"]
            patterns = ['\bhk_[a-z0-9]{8}\b']
            caught = ["hk_\u2060a8kd03jf", "the key hk_\u2060b9le14kg"]
            harmless = ["hk_ is the beginning of a key", "hk_short"]
        "#;
        let rules = rules::RuleSet::new(rules::parse(pack).unwrap()).unwrap();
        let shipped = Shield::new(Config::default());
        let loaded = Shield::new(Config::default()).with(Box::new(Patterns::new(rules)));
        let token = ["ghp_", "a8Kd03jFq7LmZx92BvNcT5rWy1Ue4Ho6GsPi"].concat();
        let text = CALL.replace("s3cret", &format!("hk_a8kd03jf and {token}"));
        let message = Message::parse(text.into()).unwrap();
        for (shield, shows_key) in [(&shipped, true), (&loaded, false)] {
            // Only a policy asks.
            let cover = Cover::of(shield, &message, []);
            let shown = cover.shown(&message).unwrap().text();
            assert!(!shown.contains(&token), "{shown}");
            assert_eq!(shown.contains("hk_a8kd03jf"), shows_key, "{shown}");
            // The shield holds it for something else.
            let config = Config::default();
            let found = vec![finding("command.x", Category::Command, Vec::new())];
            let verdict = Verdict::of(Kind::ClientText, Trust::Internal, &config, found);
            let hold = Hold::new(shield, &message, &verdict, "[]".into(), Refusal::new(403, 0, "no"));
            assert_eq!(hold.cover().shown(&message).unwrap().text(), shown);
        }
    }

    #[test]
    fn an_approval_names_what_was_found_and_who_asked_besides() {
        let of = |rules: &[&'static str]| {
            hold(CALL, rules.iter().map(|rule| finding(rule, Category::Command, Vec::new())).collect()).1
        };
        let one = of(&["b", "a", "b"]);
        assert_eq!(asked_by("v", Some(&one), &[]), asked_by("v", Some(&of(&["a", "b"])), &[]));
        let all = [
            asked_by("v", None, &[]),
            asked_by("v", None, &["ask".to_owned()]),
            asked_by("v", None, &["ask".to_owned(), "leak".to_owned()]),
            asked_by("v", Some(&one), &[]),
            asked_by("v", Some(&one), &["ask".to_owned()]),
            asked_by("v", Some(&of(&["a"])), &[]),
        ];
        for (nth, one) in all.iter().enumerate() {
            assert!(is_under(one, "v") && !is_under(one, "w"), "{one}");
            assert!(!all.iter().skip(nth + 1).any(|other| other == one), "{one}");
        }
    }
}
