//! What to do about findings: the operator's part.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    bundle::BundleConfig,
    finding::Severity,
    opinion::SecondOpinion,
    verdict::{Action, ClientAction},
};

/// How far the operator trusts a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Trust {
    /// Own code over own data: findings in its text count one step milder.
    Trusted,
    /// Own code that shows other people's text.
    Internal,
    /// Anybody's.
    #[default]
    Untrusted,
}

/// The `[shield]` section.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What to do about definitions: tools, prompts, resources, instructions.
    pub definition: DefinitionActions,
    /// What to do about results, errors, logs and resources.
    pub result: ResultActions,
    /// What to do about code and other machine text in results.
    pub code: CodeActions,
    /// What to do about elicitation and sampling.
    pub question: ResultActions,
    /// What to do about arguments and answers on their way to a server.
    pub client: ClientActions,
    /// What to do about credentials.
    pub secrets: SecretActions,
    /// What to do about personal data.
    pub personal_data: PersonalDataActions,
    /// What to do about documents.
    pub documents: DocumentActions,
    /// What to do about characters that act on a terminal.
    pub control: ControlActions,
    /// The learned model.
    pub injection: Injection,
    /// Marking text from outside, off by default.
    pub spotlight: Spotlight,
    /// Hosts that images and links may point to whatever their address carries.
    pub allowed_link_hosts: Vec<String>,
    /// Rules and a model from a signed bundle, beside and in place of those of the build.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bundle: Option<BundleConfig>,
    /// Services that judge texts too, by name, for servers that name them in `second_opinions`.
    pub second_opinion: BTreeMap<String, SecondOpinion>,
    /// Rules that are not applied, by id.
    pub dangerous_ignore_rules: Vec<String>,
}

impl Config {
    /// Whether anything a server answers is to be kept until a person has looked.
    pub fn quarantines(&self) -> bool {
        self.does(Action::Quarantine)
    }

    /// Whether anything a server answers is to be marked for what was found in it.
    pub fn spotlights(&self) -> bool {
        self.does(Action::Spotlight)
    }

    /// Whether `action` is done about anything a server answers.
    fn does(&self, action: Action) -> bool {
        let of = |actions: ResultActions| [actions.critical, actions.high, actions.medium, actions.low];
        let CodeActions { critical, high, medium, low } = self.code;
        of(self.result)
            .into_iter()
            .chain([
                critical,
                high,
                medium,
                low,
                self.secrets.result,
                self.personal_data.result,
                self.documents.unread,
                self.control.result,
            ])
            .chain(self.injection.action)
            .any(|done| done == action)
    }

    /// What is asked for and cannot be done.
    pub fn problems(&self) -> Vec<String> {
        let ResultActions { critical, high, medium, low } = self.question;
        let questions = [critical, high, medium, low].contains(&Action::Spotlight);
        let DefinitionActions { critical, high, medium, low } = self.definition;
        let definitions = [critical, high, medium, low];
        let is_changed = |action: &Action| matches!(action, Action::Redact | Action::Spotlight);
        let mut problems = Vec::new();
        if definitions.iter().any(is_changed) {
            problems.push(
                "[shield.definition] a definition is shown as it was approved, or not at all: `redact` and `spotlight` \
                 are for results"
                    .to_owned(),
            );
        }
        if questions {
            problems
                .push("[shield.question] `spotlight` is for results: a question is not marked".to_owned());
        }
        problems
    }
}

macro_rules! actions {
    ($(#[$about:meta])* $name:ident: $action:ty { $($field:ident = $default:expr, $words:literal;)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name { $(#[doc = $words] pub $field: $action,)* }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl $name {
            /// The action on a finding of `severity`.
            pub const fn on(self, severity: Severity) -> $action {
                match severity {
                    Severity::Critical => self.critical,
                    Severity::High => self.high,
                    Severity::Medium => self.medium,
                    Severity::Low => self.low,
                }
            }
        }
    };
}

actions! {
    /// Actions on definitions, by severity. `quarantine` withholds the definition until somebody approves it.
    DefinitionActions: Action {
        critical = Action::Quarantine, "There is no honest reason for it.";
        high = Action::Quarantine, "Honest definitions do not do it.";
        medium = Action::Annotate, "Unusual.";
        low = Action::Allow, "Worth a line in a report.";
    }
}

actions! {
    /// Actions on results or questions, by severity.
    ResultActions: Action {
        critical = Action::Block, "There is no honest reason for it.";
        high = Action::Block, "Honest text does not do it.";
        medium = Action::Annotate, "Unusual.";
        low = Action::Allow, "Worth a line in a report.";
    }
}

actions! {
    /// Actions on code, by severity: test data and comments say all kinds of things.
    CodeActions: Action {
        critical = Action::Block, "There is no honest reason for it.";
        high = Action::Annotate, "Honest code seldom does it.";
        medium = Action::Annotate, "Unusual.";
        low = Action::Allow, "Worth a line in a report.";
    }
}

actions! {
    /// Actions on what clients send, by severity.
    ClientActions: ClientAction {
        critical = ClientAction::Block, "There is no honest reason for it.";
        high = ClientAction::Hold, "Honest callers do not do it.";
        medium = ClientAction::Allow, "Unusual.";
        low = ClientAction::Allow, "Worth a line in a report.";
    }
}

/// Actions on credentials, whatever their severity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SecretActions {
    /// In results.
    pub result: Action,
    /// On their way to an untrusted server.
    pub to_untrusted: ClientAction,
    /// On their way to an internal server.
    pub to_internal: ClientAction,
    /// On their way to a trusted server.
    pub to_trusted: ClientAction,
}

impl Default for SecretActions {
    fn default() -> Self {
        Self {
            result: Action::Redact,
            to_untrusted: ClientAction::Block,
            to_internal: ClientAction::Hold,
            to_trusted: ClientAction::Allow,
        }
    }
}

/// Actions on personal data, whatever their severity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PersonalDataActions {
    /// In results.
    pub result: Action,
    /// On its way to a server.
    pub client: ClientAction,
}

impl Default for PersonalDataActions {
    fn default() -> Self {
        Self { result: Action::Allow, client: ClientAction::Allow }
    }
}

/// Actions on documents that travel as bytes: mails, office files, PDF.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DocumentActions {
    /// On one that could not be read, whole or in part: it is damaged, encrypted, too large, or of a kind without a reader.
    pub unread: Action,
}

impl Default for DocumentActions {
    fn default() -> Self {
        Self { unread: Action::Annotate }
    }
}

/// Actions on characters that act on a terminal instead of being read, and on what turns the direction of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ControlActions {
    /// In texts of results, errors, logs and progress. `redact` takes them out and leaves all that can be read; structured
    /// results stay byte for byte, and texts that are JSON as long as their strings are escaped.
    pub result: Action,
    /// Whether colours of programs (SGR, as they are written by ESC) pass all the same.
    pub colours: bool,
}

impl Default for ControlActions {
    fn default() -> Self {
        Self { result: Action::Redact, colours: true }
    }
}

/// The learned model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Injection {
    /// The score from which a text is a finding; without one, the model's own for the kind of text.
    pub threshold: Option<f32>,
    /// What to do about such a text in results; without one, it is annotated.
    pub action: Option<Action>,
}

/// Marking text from outside, so that a model can tell it from instructions (Hines et al., arXiv 2403.14720).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Spotlight {
    /// Leave text as it is.
    #[default]
    Off,
    /// Put it between delimiters that cannot be guessed.
    Delimit,
    /// Put a mark in place of every blank, too.
    Mark,
    /// Encode it as Base64, too, for strong models only.
    Encode,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_done_to_a_definition_or_a_question_is_refused() {
        let problems = |text: &str| toml::from_str::<Config>(text).unwrap().problems();
        for level in ["critical", "high", "medium", "low"] {
            for action in ["redact", "spotlight"] {
                let found = problems(&format!("[definition]\n{level} = \"{action}\""));
                assert!(
                    found.len() == 1 && found[0].starts_with("[shield.definition]"),
                    "{action}: {found:?}"
                );
                assert_eq!(problems(&format!("[result]\n{level} = \"{action}\"")), Vec::<String>::new());
            }
            let found = problems(&format!("[question]\n{level} = \"spotlight\""));
            assert!(found.len() == 1 && found[0].starts_with("[shield.question]"), "{found:?}");
            assert_eq!(problems(&format!("[question]\n{level} = \"redact\"")), Vec::<String>::new());
        }
        let both = "[definition]\nlow = \"redact\"\n[question]\nlow = \"spotlight\"";
        assert_eq!(problems(both).len(), 2);
        assert_eq!(Config::default().problems(), Vec::<String>::new());
    }
}
