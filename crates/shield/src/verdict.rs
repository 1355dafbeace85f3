//! How findings become one decision.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    config::{Config, Trust},
    finding::{Category, Finding, Severity},
    fragment::Kind,
};

/// What to do with a text from a server, mildest first.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Pass it on.
    #[default]
    Allow,
    /// Pass it on and say what was found.
    Annotate,
    /// Pass it on marked as text from outside.
    Spotlight,
    /// Pass it on without what was found.
    Redact,
    /// Withhold it until an approver releases it.
    Quarantine,
    /// Withhold it.
    Block,
}

/// What to do with a text on its way to a server, mildest first. What was judged is what is sent, so nothing is
/// changed on the way.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum ClientAction {
    /// Send it.
    #[default]
    Allow,
    /// Ask an approver first.
    Hold,
    /// Refuse it.
    Block,
}

/// The one decision about a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decision {
    /// About what a client sends.
    Client(ClientAction),
    /// About what a server sends.
    Server(Action),
}

impl Action {
    /// As in configuration and reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Annotate => "annotate",
            Self::Spotlight => "spotlight",
            Self::Redact => "redact",
            Self::Quarantine => "quarantine",
            Self::Block => "block",
        }
    }
}

impl ClientAction {
    /// As in configuration and reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Hold => "hold",
            Self::Block => "block",
        }
    }
}

impl Decision {
    /// Whether the message goes on, changed or not.
    pub const fn passes(self) -> bool {
        !matches!(
            self,
            Self::Client(ClientAction::Hold | ClientAction::Block)
                | Self::Server(Action::Quarantine | Action::Block)
        )
    }
}

/// What was found in a message and what becomes of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Worst first.
    pub findings: Vec<Judged>,
    /// The strictest of their actions.
    pub decision: Decision,
}

/// A finding and what it asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// What was found.
    pub finding: Finding,
    /// What it alone would lead to.
    pub decision: Decision,
}

impl Verdict {
    /// Nothing was found in a text of `kind`.
    pub fn clear(kind: Kind) -> Self {
        Self::of(kind, Trust::Untrusted, &Config::default(), Vec::new())
    }

    /// Judges `findings` in a message of `kind` from or to a server that is trusted as `trust` says.
    ///
    /// A text that could not be judged to the end is withheld, whatever the configuration says (attacks.md II-01).
    pub fn of(kind: Kind, trust: Trust, config: &Config, findings: Vec<Finding>) -> Self {
        let mut findings: Vec<Judged> = findings
            .into_iter()
            .filter(|finding| {
                let ignored = config.dangerous_ignore_rules.iter().any(|rule| *rule == finding.rule);
                !ignored || finding.category == Category::Unjudged
            })
            .map(|finding| Judged { decision: decide(&finding, trust, config), finding })
            .collect();
        findings.sort_by_key(|judged| std::cmp::Reverse(judged.finding.severity));
        let (mut client, mut server) = (ClientAction::Allow, Action::Allow);
        for judged in &findings {
            match judged.decision {
                Decision::Client(action) => client = client.max(action),
                Decision::Server(action) => server = server.max(action),
            }
        }
        // A message goes one way; should a caller mix the two, neither way passes unless both do.
        let decision = if kind == Kind::ClientText {
            let other = Decision::Server(server).passes();
            Decision::Client(if other { client } else { ClientAction::Block })
        } else {
            let other = Decision::Client(client).passes();
            Decision::Server(if other { server } else { Action::Block })
        };
        Self { findings, decision }
    }

    /// The same with what others found too.
    #[must_use]
    pub fn and(self, kind: Kind, trust: Trust, config: &Config, more: &[Finding]) -> Self {
        if more.is_empty() {
            return self;
        }
        let findings = self.findings.into_iter().map(|judged| judged.finding).chain(more.iter().cloned());
        Self::of(kind, trust, config, findings.collect())
    }

    /// What `others`, found in another form of the same message, say that this one does not. As often as a rule hits more there
    /// than here, it is said. Nothing can be cut out for what is left: if that is asked for, the message does not pass.
    #[must_use]
    pub fn unsaid(&self, others: Vec<Judged>) -> Vec<Finding> {
        let mut known: Vec<&Finding> = self.findings.iter().map(|judged| &judged.finding).collect();
        let mut unsaid = Vec::new();
        for Judged { finding: mut other, .. } in others {
            let is_same = |known: &&Finding| {
                known.rule == other.rule
                    && known.severity >= other.severity
                    && known
                        .places
                        .iter()
                        .map(|place| &place.at)
                        .eq(other.places.iter().map(|place| &place.at))
            };
            if let Some(same) = known.iter().position(is_same) {
                known.swap_remove(same);
                continue;
            }
            other.forget_literals();
            unsaid.push(other);
        }
        unsaid
    }

    /// What the findings of other categories than `but` lead to, in a text of a server.
    pub fn action_but(&self, but: Category) -> Action {
        let others = self.findings.iter().filter(|judged| judged.finding.category != but);
        let actions = others.map(|judged| match judged.decision {
            Decision::Server(action) => action,
            Decision::Client(_) => Action::Block,
        });
        actions.max().unwrap_or_default()
    }

    /// The worst severity.
    pub fn severity(&self) -> Option<Severity> {
        self.findings.iter().map(|judged| judged.finding.severity).max()
    }
}

fn decide(finding: &Finding, trust: Trust, config: &Config) -> Decision {
    if finding.kind == Kind::ClientText {
        Decision::Client(decide_client(finding, trust, config))
    } else {
        Decision::Server(decide_server(finding, trust, config))
    }
}

fn decide_client(finding: &Finding, trust: Trust, config: &Config) -> ClientAction {
    match (finding.category, trust) {
        (Category::Unjudged, _) => ClientAction::Block,
        (Category::PersonalData, _) => config.personal_data.client,
        (Category::Secret, Trust::Trusted) => config.secrets.to_trusted,
        (Category::Secret, Trust::Internal) => config.secrets.to_internal,
        (Category::Secret, Trust::Untrusted) => config.secrets.to_untrusted,
        _ => config.client.on(finding.severity),
    }
}

fn decide_server(finding: &Finding, trust: Trust, config: &Config) -> Action {
    let severity = if trust == Trust::Trusted { finding.severity.lowered() } else { finding.severity };
    match (finding.category, finding.kind) {
        (Category::Unjudged, _) => Action::Block,
        (Category::Unread, _) => config.documents.unread,
        (Category::Control, Kind::Result | Kind::Code) => config.control.result,
        (Category::PersonalData, _) => config.personal_data.result,
        (Category::Secret, Kind::Result | Kind::Code) => config.secrets.result,
        // What cannot be changed is not shown.
        (_, Kind::Definition) => match config.definition.on(severity) {
            Action::Redact | Action::Spotlight => Action::Quarantine,
            action => action,
        },
        (_, Kind::Code) => config.code.on(severity),
        (_, Kind::Question) => match config.question.on(severity) {
            Action::Spotlight => Action::Block,
            action => action,
        },
        (_, Kind::Result | Kind::ClientText) => match config.injection.action {
            Some(action) if finding.score.is_some() => action,
            _ => config.result.on(severity),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(category: Category, severity: Severity, kind: Kind) -> Finding {
        Finding {
            rule: "test.rule".into(),
            title: "a test".into(),
            category,
            severity,
            owasp: Vec::new(),
            kind,
            places: Vec::new(),
            continued: false,
            readings: Vec::new(),
            excerpt: String::new(),
            score: None,
        }
    }

    fn decision(
        trust: Trust,
        config: &Config,
        category: Category,
        severity: Severity,
        kind: Kind,
    ) -> Decision {
        Verdict::of(kind, trust, config, vec![finding(category, severity, kind)]).decision
    }

    #[test]
    fn shipped_settings_withhold_what_is_grave_and_only_mention_the_rest() {
        let config = Config::default();
        let of = |category, severity, kind| decision(Trust::Untrusted, &config, category, severity, kind);
        use {Category as C, Severity as S};
        for (category, severity, kind, expected) in [
            (C::Injection, S::High, Kind::Definition, Decision::Server(Action::Quarantine)),
            (C::Injection, S::Medium, Kind::Definition, Decision::Server(Action::Annotate)),
            (C::Injection, S::High, Kind::Result, Decision::Server(Action::Block)),
            (C::Injection, S::Medium, Kind::Result, Decision::Server(Action::Annotate)),
            (C::Injection, S::Low, Kind::Result, Decision::Server(Action::Allow)),
            (C::Injection, S::High, Kind::Code, Decision::Server(Action::Annotate)),
            (C::Injection, S::Medium, Kind::ClientText, Decision::Client(ClientAction::Allow)),
            (C::Command, S::High, Kind::ClientText, Decision::Client(ClientAction::Hold)),
            (C::Secret, S::High, Kind::ClientText, Decision::Client(ClientAction::Block)),
            (C::Secret, S::High, Kind::Result, Decision::Server(Action::Redact)),
            (C::PersonalData, S::Medium, Kind::Result, Decision::Server(Action::Allow)),
        ] {
            assert_eq!(of(category, severity, kind), expected, "{category:?} {severity:?} {kind:?}");
        }
    }

    #[test]
    fn trust_softens_what_a_server_says_but_not_what_could_not_be_judged() {
        let config = Config::default();
        let high = |trust| decision(trust, &config, Category::Injection, Severity::High, Kind::Result);
        assert!(high(Trust::Trusted).passes() && !high(Trust::Internal).passes());
        let lenient: Config =
            toml::from_str("[result]\ncritical='allow'\nhigh='allow'\n[client]\ncritical='allow'").unwrap();
        for kind in Kind::ALL {
            assert!(!decision(Trust::Trusted, &lenient, Category::Unjudged, Severity::Low, kind).passes());
        }
    }

    #[test]
    fn clients_text_is_never_changed() {
        for bad in
            ["[client]\nhigh='redact'", "[client]\nhigh='spotlight'", "[secrets]\nto_untrusted='redact'"]
        {
            assert!(toml::from_str::<Config>(bad).is_err(), "{bad}");
        }
        assert!(toml::from_str::<Config>("unknown = 1").is_err());
    }

    #[test]
    fn what_another_form_says_counts_as_often_as_it_is_said() {
        let config = Config::default();
        let place = |at: &str| crate::Place { at: at.to_owned(), range: 0..4, raw: Some(0..6) };
        let at = |places: &[&str], severity| Finding {
            places: places.iter().map(|at| place(at)).collect(),
            ..finding(Category::Secret, severity, Kind::Result)
        };
        let verdict = |findings| Verdict::of(Kind::Result, Trust::Untrusted, &config, findings);
        let known = verdict(vec![at(&["/a"], Severity::Medium), at(&["/b"], Severity::High)]);
        for (others, unsaid) in [
            (vec![at(&["/a"], Severity::Medium)], 0),
            (vec![at(&["/a"], Severity::Medium), at(&["/a"], Severity::Low)], 1),
            (vec![at(&["/a"], Severity::High)], 1),
            (vec![at(&["/a", "/b"], Severity::Low)], 1),
            (vec![at(&["/b"], Severity::High), at(&["/a"], Severity::Low)], 0),
        ] {
            let found = known.unsaid(verdict(others).findings);
            assert_eq!(found.len(), unsaid, "{found:?}");
            assert!(found.iter().flat_map(|f| &f.places).all(|place| place.raw.is_none()));
        }
    }

    #[test]
    fn an_ignored_rule_decides_nothing() {
        let config: Config = toml::from_str("dangerous_ignore_rules = ['test.rule']").unwrap();
        let decision =
            decision(Trust::Untrusted, &config, Category::Injection, Severity::Critical, Kind::Result);
        assert_eq!(decision, Decision::Server(Action::Allow));
    }
}
