//! `[policy]` in `bartizan.toml`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Catalog, FlowLabels, Grant, Roles, flow::WINDOW};

/// `[policy]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PolicyConfig {
    /// The folder with Cedar files (`*.cedar`), in folders of it too but those whose names begin with a dot. It is beside the
    /// configuration file unless absolute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dir: Option<PathBuf>,
    /// Roles, and who has them.
    pub roles: Roles,
    /// Templates given to roles.
    pub grants: Vec<Grant>,
    /// Labels, by server and tool: `[policy.tools.mail.send]`.
    pub tools: BTreeMap<String, BTreeMap<String, ToolLabels>>,
    /// The role whose holders may release, on the page `/quarantine`, results that the shield withheld from others. Without it
    /// only commands on the gate's machine and the admin API release anything, and on a laptop its owner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release_role: Option<String>,
    /// The role whose holders may approve, on the page `/approvals`, calls of others that the shield holds. Without it only
    /// commands on the gate's machine approve any, and on a laptop its owner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold_role: Option<String>,
    /// Information flow.
    pub flow: FlowConfig,
    /// Reviews of rights that nobody uses, by the running gate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub review: Option<ReviewConfig>,
}

impl PolicyConfig {
    /// What works and is still not as it should be, whatever the policies say; each names its field. Whoever checks policies tells
    /// these too.
    pub fn warnings(&self) -> Vec<String> {
        let deciding = [("release_role", &self.release_role), ("hold_role", &self.hold_role)];
        let unknown = deciding.into_iter().filter_map(|(field, role)| {
            let role = role.as_ref().filter(|role| !self.roles.0.contains_key(*role))?;
            Some(format!(
                "[policy] {field}: nobody has the role `{role}`, for there is no [policy.roles.{role}]: add it, or name one that \
                 there is"
            ))
        });
        unknown.collect()
    }
}

/// `[policy.review]`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReviewConfig {
    /// How often: `30d`, `12h`.
    pub every: Span,
    /// How far each looks back.
    #[serde(default = "a_quarter")]
    pub since: Span,
}

fn a_quarter() -> Span {
    Span(Duration::from_secs(90 * 24 * 3600))
}

/// A length of time: a whole number with `d`, `h`, `m` or `s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Span(pub Duration);

/// What is no [`Span`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write a number with d, h, m or s, such as 90d")]
pub struct NoSpan;

const UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];

impl std::str::FromStr for Span {
    type Err = NoSpan;

    fn from_str(text: &str) -> Result<Self, NoSpan> {
        let found = UNITS.iter().find_map(|(unit, factor)| {
            let number = text.strip_suffix(unit)?;
            let is_plain = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
            number.parse::<u64>().ok().filter(|_| is_plain)?.checked_mul(*factor)
        });
        // Of nothing, there would be no end.
        found.filter(|seconds| *seconds > 0).map(|seconds| Self(Duration::from_secs(seconds))).ok_or(NoSpan)
    }
}

impl TryFrom<String> for Span {
    type Error = NoSpan;

    fn try_from(text: String) -> Result<Self, NoSpan> {
        text.parse()
    }
}

impl std::fmt::Display for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = self.0.as_secs();
        let (unit, factor) =
            UNITS.iter().find(|(_, factor)| seconds.is_multiple_of(*factor)).unwrap_or(&("s", 1));
        write!(f, "{}{unit}", seconds / factor)
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}

/// What the operator says of a tool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ToolLabels {
    /// What a call does to the flow of information; without, the server's trust decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flow: Option<FlowLabels>,
    /// Labels for policies to speak of.
    pub labels: BTreeSet<String>,
}

/// `[policy.flow]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FlowConfig {
    /// For how many seconds what has entered counts.
    pub window_s: u64,
    /// Applications whose own conversation ids are believed; each conversation then has a window of its own.
    pub conversations: BTreeSet<String>,
    /// Leave out the rule that keeps a stranger's text and private data from going out together.
    pub dangerous_no_rule: bool,
}

impl Default for FlowConfig {
    fn default() -> Self {
        Self { window_s: WINDOW.as_secs(), conversations: BTreeSet::new(), dangerous_no_rule: false }
    }
}

impl FlowConfig {
    /// See `window_s`.
    pub fn window(&self) -> Duration {
        Duration::from_secs(self.window_s)
    }
}

impl PolicyConfig {
    /// Puts the operator's labels on the pinned tools. What is not pinned is passed over.
    pub fn label(&self, catalog: &mut Catalog) {
        for (name, server) in &mut catalog.0 {
            for (tool, labels) in self.tools.get(name.as_str()).into_iter().flatten() {
                if let Some(tool) = server.tools.get_mut(tool) {
                    tool.flow = labels.flow.or(tool.flow);
                    tool.labels.extend(labels.labels.iter().cloned());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_roles_grants_and_labels_and_refuses_unknown_keys() {
        let text = "dir = \"policies\"\n[roles.reader]\ngroups = [\"g\"]\n[[grants]]\ntemplate = \"reader\"\nrole = \"reader\"\n\
                    [tools.mail.send]\nflow = { sends_out = true, destructive = true }\nlabels = [\"x\"]\n[flow]\nwindow_s = 60\n\
                    [review]\nevery = \"30d\"\n";
        let config: PolicyConfig = toml::from_str(text).unwrap();
        let mut catalog = crate::scene::catalog();
        config.label(&mut catalog);
        let send = &catalog.0["mail"].tools["send"];
        assert!(send.flow.unwrap().destructive && send.labels.contains("x"));
        assert_eq!(config.flow.window(), Duration::from_secs(60));
        assert_eq!(toml::from_str::<PolicyConfig>(&toml::to_string(&config).unwrap()).unwrap(), config);
        assert_eq!(config.review.unwrap().since, a_quarter());
        assert!(toml::from_str::<PolicyConfig>("directory = \"x\"").is_err());
    }

    #[test]
    fn spans_are_whole_numbers_of_a_unit() {
        for (text, seconds) in [("30d", 2_592_000), ("12h", 43_200), ("90m", 5400), ("45s", 45)] {
            let span: Span = text.parse().unwrap();
            assert_eq!((span.0.as_secs(), span.to_string().as_str()), (seconds, text));
        }
        for bad in ["", "d", "0d", "-1d", "+1d", "1.5d", "1 d", "1w", "99999999999999999d", "1dd"] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
    }
}
