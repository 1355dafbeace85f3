//! From policy text to policies that can be decided with, and everything that is wrong with them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use cedar_policy::{
    Effect, EntityUid, Policy, PolicyId, PolicySet, Schema, SlotId, Template, ValidationMode, Validator,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    catalog::Catalog,
    claims::Roles,
    decision::Obligation,
    names,
    reads::{self, Reads},
    schema::{CALL, FLEET, Types, uid},
};

/// Whoever asks, in `@approval("self")`.
const SELF: &str = "self";

/// What a policy's text may say about itself beside the obligations.
const WORDS: [&str; 4] = ["id", "description", "owner", "ticket"];

/// One file of policies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// How people call it, such as its path.
    pub name: String,
    /// Cedar policies and templates. Each is best named by `@id("…")`; without, it is `name#0` and so on.
    pub text: String,
}

/// Gives a role the policies of a template: `{ template = "reader", role = "analysts", server = "files" }`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// `reader`, `operator`, `contractor`, or a template of your own: every template whose id starts with it and a dot.
    pub template: String,
    /// Who gets it.
    pub role: String,
    /// At which server; without, at every one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
}

/// One policy, ready.
#[derive(Clone, Debug)]
pub(crate) struct Compiled {
    pub policy: Policy,
    pub json: Value,
    pub obligations: Vec<Obligation>,
    pub reads: Reads,
    /// The policy without what reads arguments, where that differs.
    pub loose: Option<Policy>,
}

impl Compiled {
    pub fn id(&self) -> &str {
        self.policy.id().as_ref()
    }
}

/// What compiling found. With a problem there is nothing to decide with.
#[derive(Debug, Default)]
pub(crate) struct Compilation {
    pub policies: Vec<Compiled>,
    pub problems: Vec<String>,
    pub warnings: Vec<String>,
    templates: BTreeMap<String, Template>,
}

impl Compilation {
    pub fn read(&mut self, source: &Source) {
        let set: PolicySet = match source.text.parse() {
            Ok(set) => set,
            Err(errors) => {
                self.problems.extend(explain_parse(&source.name, &source.text, &errors));
                return;
            }
        };
        let name = |position: usize, given: Option<&str>| {
            given.map_or_else(|| format!("{}#{position}", source.name), str::to_owned)
        };
        // Cedar numbers the policies of a text in order.
        let mut policies: Vec<&Policy> = set.policies().collect();
        policies.sort_by_key(|p| ordinal(p.id().as_ref()));
        for (position, policy) in policies.into_iter().enumerate() {
            let id = name(position, policy.annotation("id"));
            self.add(policy.new_id(PolicyId::new(id)));
        }
        let mut templates: Vec<&Template> = set.templates().collect();
        templates.sort_by_key(|t| ordinal(t.id().as_ref()));
        for (position, template) in templates.into_iter().enumerate() {
            let id = name(position, template.annotation("id"));
            if self.templates.insert(id.clone(), template.new_id(PolicyId::new(&id))).is_some() {
                self.problems.push(format!("two templates are named `{id}`"));
            }
        }
    }

    pub fn grant(&mut self, grant: &Grant, types: &Types) {
        let prefix = format!("{}.", grant.template);
        let found: Vec<Template> =
            self.templates.iter().filter(|(id, _)| id.starts_with(&prefix)).map(|(_, t)| t.clone()).collect();
        if found.is_empty() {
            self.problems.push(format!("there is no template `{}`", grant.template));
        }
        let place = grant.server.as_ref().map_or_else(|| uid(&types.fleet, FLEET), |s| uid(&types.server, s));
        let at = grant.server.as_deref().unwrap_or("*");
        for template in found {
            let id = format!("{}({}@{at})", template.id(), grant.role);
            let slots = HashMap::from([
                (SlotId::principal(), uid(&types.role, &grant.role)),
                (SlotId::resource(), place.clone()),
            ]);
            match link(template, &id, slots) {
                Ok(policy) => self.add(policy),
                Err(error) => self.problems.push(format!("`{id}`: {error}")),
            }
        }
    }

    /// Adds one policy under the id `id`, whatever its text says.
    pub fn replace(&mut self, id: &str, text: &str) {
        match Policy::parse(Some(PolicyId::new(id)), text) {
            Ok(policy) => self.add(policy),
            Err(errors) => self.problems.extend(explain_parse(id, text, &errors)),
        }
    }

    fn add(&mut self, policy: Policy) {
        let id: String = policy.id().to_string();
        if self.policies.iter().any(|p| p.id() == id) {
            self.problems.push(format!("two policies are named `{id}`"));
            return;
        }
        let (obligations, problems) = obligations(&policy);
        self.problems.extend(problems.into_iter().map(|p| format!("policy `{id}`: {p}")));
        let known = |word: &str| WORDS.contains(&word) || is_obligation(word);
        for (word, _) in policy.annotations().filter(|(word, _)| !known(word)) {
            self.warnings.push(format!("policy `{id}`: the annotation `@{word}` means nothing here"));
        }
        let compiled = policy.to_json().map_err(|e| e.to_string()).and_then(|json| {
            let loose = reads::without_arguments(&json).filter(|_| policy.effect() == Effect::Permit);
            let loose = match loose {
                Some(json) => {
                    Some(Policy::from_json(Some(policy.id().clone()), json).map_err(|e| e.to_string())?)
                }
                None => None,
            };
            Ok(Compiled { reads: Reads::of_policy(&json), policy, json, obligations, loose })
        });
        match compiled {
            Ok(compiled) => self.policies.push(compiled),
            Err(error) => self.problems.push(format!("policy `{id}`: {error}")),
        }
    }

    /// Takes out what speaks of tools that are not pinned yet: such a policy waits, and the bundle is good without it.
    pub fn set_aside_unpinned(&mut self, schema: &Schema) {
        let known: BTreeSet<&str> = schema.actions().map(|a| a.id().unescaped()).collect();
        let is_pinned = |action: &str| !action.starts_with(&format!("{CALL}:")) || known.contains(action);
        let mut kept = Vec::with_capacity(self.policies.len());
        for compiled in std::mem::take(&mut self.policies) {
            let named = scope_actions(&compiled.json);
            let missing: Vec<String> = named.iter().filter(|a| !is_pinned(a)).cloned().collect();
            if missing.is_empty() {
                kept.push(compiled);
                continue;
            }
            let id = compiled.id().to_owned();
            let list = missing.join("`, `");
            self.warnings
                .push(format!("policy `{id}`: `{list}` is not pinned yet, so the policy says nothing of it"));
            if missing.len() < named.len() {
                let json = keep_actions(&compiled.json, is_pinned);
                match Policy::from_json(Some(PolicyId::new(&id)), json) {
                    Ok(policy) => {
                        // Its annotations were judged before.
                        let warned = self.warnings.len();
                        let count = self.policies.len();
                        self.add(policy);
                        self.warnings.truncate(warned);
                        kept.extend(self.policies.drain(count..));
                    }
                    Err(error) => self.problems.push(format!("policy `{id}`: {error}")),
                }
            }
        }
        self.policies = kept;
    }

    /// Checks every policy strictly against the schema.
    pub fn validate(&mut self, schema: &Schema) {
        let validator = Validator::new(schema.clone());
        match PolicySet::from_policies(self.policies.iter().map(|p| p.policy.clone())) {
            Ok(set) => {
                let result = validator.validate(&set, ValidationMode::Strict);
                self.problems.extend(result.validation_errors().map(|e| on_one_line(&e.to_string())));
                self.warnings.extend(result.validation_warnings().map(|w| on_one_line(&w.to_string())));
            }
            Err(error) => self.problems.push(error.to_string()),
        }
    }

    /// Warns of names that stand for nothing, and of approvals that nobody's role gives.
    pub fn check_names(&mut self, roles: &Roles, catalog: &Catalog, types: &Types) {
        for compiled in &self.policies {
            let mut unknown = names::unknown(&compiled.policy, (catalog, roles), types);
            let asked = compiled.obligations.iter().filter_map(|obligation| match obligation {
                Obligation::Approval(role) if role != SELF && !roles.0.contains_key(role) => Some(role),
                _ => None,
            });
            unknown.extend(asked.map(|role| {
                format!("nobody has the role `{role}` that is to approve, so only commands on the gate's machine can")
            }));
            self.warnings
                .extend(unknown.into_iter().map(|what| format!("policy `{}`: {what}", compiled.id())));
        }
    }
}

/// The policy that `template` is with its slots filled.
fn link(template: Template, id: &str, slots: HashMap<SlotId, EntityUid>) -> Result<Policy, String> {
    let mut set = PolicySet::new();
    let template_id = template.id().clone();
    let wanted: BTreeSet<SlotId> = template.slots().cloned().collect();
    set.add_template(template).map_err(|e| e.to_string())?;
    let slots = slots.into_iter().filter(|(slot, _)| wanted.contains(slot)).collect();
    let new_id = PolicyId::new(format!("{id} "));
    set.link(template_id, new_id.clone(), slots).map_err(|e| e.to_string())?;
    let linked = set.policy(&new_id).ok_or("it cannot be linked")?;
    let json = linked.to_json().map_err(|e| e.to_string())?;
    Policy::from_json(Some(PolicyId::new(id)), json).map_err(|e| e.to_string())
}

/// The number in `policy7`, as Cedar names what a text holds.
fn ordinal(id: &str) -> usize {
    id.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(usize::MAX)
}

fn is_obligation(word: &str) -> bool {
    matches!(word, "approval" | "max_age" | "require_mfa" | "step_up")
}

fn obligations(policy: &Policy) -> (Vec<Obligation>, Vec<String>) {
    let mut found = Vec::new();
    let mut problems = Vec::new();
    for (word, value) in policy.annotations().filter(|(word, _)| is_obligation(word)) {
        if policy.effect() == Effect::Permit {
            problems.push(format!("`@{word}` stands on a permit; it belongs on the forbid that it lifts"));
        }
        match word {
            "approval" if !value.is_empty() => found.push(Obligation::Approval(value.to_owned())),
            "max_age" => match value.parse() {
                Ok(seconds) => found.push(Obligation::MaxAge(seconds)),
                Err(_) => problems.push("`@max_age` needs a number of seconds".into()),
            },
            "require_mfa" => found.push(Obligation::Mfa),
            "step_up" if is_scope(value) => found.push(Obligation::StepUp(value.to_owned())),
            "step_up" => problems.push("`@step_up` needs one scope token (RFC 6749 §3.3)".into()),
            _ => problems.push(format!("`@{word}` needs a value")),
        }
    }
    (found, problems)
}

/// A scope token: printable ASCII without space, quote and backslash (RFC 6749 §3.3).
fn is_scope(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
}

/// The actions that a policy's scope names.
fn scope_actions(policy: &Value) -> Vec<String> {
    let Some(action) = policy.get("action") else { return Vec::new() };
    let many = action.get("entities").and_then(Value::as_array).into_iter().flatten();
    let id = |entity: &Value| entity.get("id").and_then(Value::as_str).map(str::to_owned);
    action.get("entity").into_iter().chain(many).filter_map(id).collect()
}

fn keep_actions(policy: &Value, keep: impl Fn(&str) -> bool) -> Value {
    let mut policy = policy.clone();
    if let Some(Value::Array(entities)) = policy.pointer_mut("/action/entities") {
        entities.retain(|e| e.get("id").and_then(Value::as_str).is_none_or(&keep));
    }
    policy
}

/// The parser's complaints with the lines they are about.
fn explain_parse(name: &str, text: &str, errors: &cedar_policy::ParseErrors) -> Vec<String> {
    use miette::Diagnostic as _;
    errors
        .iter()
        .map(|error| {
            let at = error.labels().and_then(|mut labels| labels.next()).map_or(0, |label| label.offset());
            let line = text.bytes().take(at).filter(|b| *b == b'\n').count() + 1;
            format!("{name}:{line}: {}", on_one_line(&error.to_string()))
        })
        .collect()
}

fn on_one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
