//! `[[alerts]]`

use std::{collections::BTreeSet, time::Duration};

use bartizan_audit::alert::{Field, Matching, Rule, When};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[[alerts]]`: a rule over the events of the audit log. What it raises is an `alert.raised` in that log, which exporters
/// carry away (`[[audit.export]] only = ["alert.raised"]`).
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Alert {
    /// What it is called: 1 to 32 of `a-z`, `0-9` and `-`.
    pub name: String,
    /// Which events it looks at; all that is given must fit.
    #[serde(default, rename = "match")]
    pub matching: Match,
    /// What it counts apart: each combination of these for itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by: Vec<By>,
    /// When it is met; every time by default.
    #[serde(default)]
    pub when: Condition,
    /// Seconds for which it is not met again for the same combination.
    #[serde(default = "default_quiet")]
    pub quiet_s: u64,
    /// What is done at once, beside raising it; `bartizan respond release` takes it back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub then: Vec<Action>,
}

const fn default_quiet() -> u64 {
    300
}

/// `match`
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Match {
    /// Kinds of events, such as `pin.drifted` (docs/audit-log.md).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kinds: Vec<String>,
    /// Reason codes, whole or up to a dot: `response` fits `response.revoked`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
    /// Outcomes of calls.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub outcomes: Vec<String>,
    /// `permit`, `deny` or `hold`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<String>,
    /// At least so severe: `info`, `low`, `medium`, `high`, `critical`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub severity: Option<String>,
    /// Rules of the shield that found something, whole or up to a dot: `secret`, `injection.german`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<String>,
    /// Names of servers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<String>,
}

/// `by`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// The person.
    Person,
    /// The client.
    Client,
    /// The server.
    Server,
    /// The tool.
    Tool,
    /// The method.
    Method,
    /// The reason.
    Reason,
}

/// `when`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Condition {
    /// So many within so long.
    Threshold {
        /// How many.
        count: u64,
        /// Within so many seconds.
        within_s: u64,
    },
    /// A combination of `by` that was never seen before.
    FirstSeen {
        /// For so many seconds from its beginning the rule only learns.
        learn_s: u64,
    },
    /// More than so many times as many as is usual.
    Burst {
        /// How many times the usual.
        times: u64,
        /// Within so many seconds.
        within_s: u64,
        /// What is usual is the mean over so many seconds before.
        over_s: u64,
        /// And at least so many.
        at_least: u64,
    },
    /// Flow labels that must not meet have met in what somebody called; it needs `by`, with `person` in it.
    Flow {
        /// Which ones: `private` data, `untrusted` text, `destructive` acts.
        #[serde(default = "default_meet")]
        meet: Vec<String>,
        /// Within so many seconds.
        within_s: u64,
        /// Only when something would have gone out after that: what the flow rule refused, or the shield found.
        #[serde(default)]
        attempt: bool,
    },
}

fn default_meet() -> Vec<String> {
    vec!["private".to_owned(), "untrusted".to_owned()]
}

impl Default for Condition {
    fn default() -> Self {
        Self::Threshold { count: 1, within_s: 1 }
    }
}

/// `then`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Put the server of the event in quarantine.
    QuarantineServer,
    /// Put the tool of the event in quarantine.
    QuarantineTool,
    /// Revoke the access of the person in the event.
    RevokePerson,
    /// Revoke the access of the client in the event.
    RevokeClient,
}

impl Alert {
    /// The rule.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn rule(&self) -> Result<Rule, Vec<String>> {
        let mut found = Vec::new();
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if !(1..=32).contains(&self.name.len()) || !self.name.bytes().all(allowed) {
            found.push("`name` is 1 to 32 of a-z, 0-9 and -".to_owned());
        }
        let m = &self.matching;
        let matching = Matching {
            kinds: read("match.kinds", &m.kinds, &mut found),
            reasons: read("match.reasons", &m.reasons, &mut found),
            outcomes: read("match.outcomes", &m.outcomes, &mut found),
            decision: read("match.decision", m.decision.as_slice(), &mut found).pop(),
            severity: read("match.severity", m.severity.as_slice(), &mut found).pop(),
            findings: m.findings.clone(),
            servers: m.servers.clone(),
        };
        let seconds = Duration::from_secs;
        let when = match self.when.clone() {
            Condition::Flow { meet, within_s, attempt } => {
                let known =
                    |label: &String| matches!(label.as_str(), "private" | "untrusted" | "destructive");
                if meet.is_empty() || within_s == 0 || !meet.iter().all(known) {
                    found.push(
                        "`when`: `meet` is of private, untrusted and destructive, and `within_s` at least 1"
                            .to_owned(),
                    );
                }
                if !self.by.contains(&By::Person) {
                    found.push(
                        "`when` flow needs `by = [\"person\"]`: labels meet in one person's window"
                            .to_owned(),
                    );
                }
                When::Flow { meet, within: seconds(within_s), attempt }
            }
            Condition::Threshold { count, within_s } => {
                if !(1..=1_000).contains(&count) || within_s == 0 {
                    found.push("`when`: `count` is 1 to 1000 and `within_s` at least 1".to_owned());
                }
                When::Threshold { count, within: seconds(within_s) }
            }
            Condition::FirstSeen { learn_s } => {
                if self.by.is_empty() {
                    found.push("`when` first-seen needs `by`: the combination that is to be new".to_owned());
                }
                When::FirstSeen { learn: seconds(learn_s) }
            }
            Condition::Burst { times, within_s, over_s, at_least } => {
                if times == 0 || within_s == 0 || over_s < within_s || over_s / within_s > 1_000 {
                    found.push(
                        "`when`: `times` and `within_s` are at least 1, `over_s` is 1 to 1000 times `within_s`"
                            .to_owned(),
                    );
                }
                When::Burst { times, within: seconds(within_s), over: seconds(over_s), at_least }
            }
        };
        if !found.is_empty() {
            return Err(found);
        }
        let by = self.by.iter().map(|by| match by {
            By::Person => Field::Person,
            By::Client => Field::Client,
            By::Server => Field::Server,
            By::Tool => Field::Tool,
            By::Method => Field::Method,
            By::Reason => Field::Reason,
        });
        Ok(Rule { name: self.name.clone(), matching, by: by.collect(), when, quiet: seconds(self.quiet_s) })
    }
}

fn read<T: std::str::FromStr<Err: std::fmt::Display>>(
    field: &str,
    texts: &[String],
    found: &mut Vec<String>,
) -> Vec<T> {
    let mut values = Vec::new();
    for text in texts {
        match text.parse() {
            Ok(value) => values.push(value),
            Err(error) => found.push(format!("`{field}`: {error}")),
        }
    }
    values
}

/// What is wrong with the alerts of a configuration.
pub fn problems(alerts: &[Alert]) -> Vec<String> {
    let mut found = Vec::new();
    let mut names = BTreeSet::new();
    for alert in alerts {
        let name = &alert.name;
        if !names.insert(name) {
            found.push(format!("two [[alerts]] are named `{name}`"));
        }
        for problem in alert.rule().err().into_iter().flatten() {
            found.push(format!("[[alerts]] `{name}`: {problem}"));
        }
    }
    found
}
