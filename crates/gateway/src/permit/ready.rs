//! Policies made ready to judge by: a bundle for one state of the pins and one edition of the rules.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bartizan_model::ServerName;
use bartizan_policy::{Bundle, Catalog, Hints, PolicyConfig, Prompt, Source, Sources, Tool, Trust, lint};
use bartizan_store::{
    Digest,
    pins::{Kind, PinSet},
};

use super::{Policy, Question, attributes, questions};
use crate::{catalog, upstream::stdio::lock};

/// What the operator wrote, and the servers it is about.
#[derive(Clone, Default)]
pub struct Rules {
    /// `[policy]`
    pub config: PolicyConfig,
    /// The Cedar files.
    pub policies: Vec<Source>,
    /// How far each server is trusted.
    pub servers: BTreeMap<ServerName, Trust>,
    /// What each server may ask its clients for.
    pub may_ask: BTreeMap<ServerName, BTreeSet<Question>>,
    /// Whether several issuers vouch for people, so that a group or role is nobody's without its issuer.
    pub has_issuers: bool,
}

impl Rules {
    /// What bundles are made from: the operator's policies, and those that `may_ask` stands for.
    pub fn sources(&self) -> Sources {
        let asking = questions::as_policies(self.may_ask.iter());
        Sources {
            policies: self.policies.iter().cloned().chain(asking).collect(),
            grants: self.config.grants.clone(),
            dangerous_without_flow_rule: self.config.flow.dangerous_no_rule,
        }
    }
}

/// Rules that can be adopted: they were read, and fit the tools.
pub struct Draft {
    rules: Rules,
    ready: Ready,
    warnings: Vec<String>,
}

impl Draft {
    /// What would judge.
    pub fn bundle(&self) -> &Bundle {
        &self.ready.bundle
    }

    /// What should be looked at all the same.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

#[derive(Default)]
pub(super) struct Making {
    rules: Rules,
    /// Counts changes of `rules`.
    edition: u64,
}

/// A bundle for one state of the pins and one edition of the rules.
pub(super) struct Ready {
    pub(super) pins: u64,
    pub(super) edition: u64,
    pub(super) bundle: Arc<Bundle>,
    /// The approved tools and prompts it speaks of.
    pub(super) tools: Digest,
    /// Whether the operator's own policies ask what has entered: every call then asks the store, not this process's memory.
    pub(super) reads_flow: bool,
    /// Whether the shipped rule holds.
    pub(super) has_rule: bool,
    pub(super) trust: BTreeMap<ServerName, Trust>,
    /// Whether the operator wrote any policy of his own; without, the owner sees all there is.
    pub(super) is_own: bool,
    pub(super) window: Duration,
    /// Whose holders may release what was withheld.
    pub(super) release_role: Option<String>,
    /// Whose holders may approve what the shield holds.
    pub(super) hold_role: Option<String>,
    /// What of whoever asks is recorded.
    pub(super) relevant: Arc<attributes::Relevant>,
}

impl Policy {
    /// Judges by `rules` from now on. If they cannot be used, the old ones stay.
    ///
    /// # Errors
    /// Every problem, a line each.
    pub fn govern(&self, rules: Rules) -> Result<Vec<String>, String> {
        let mut draft = self.draft(rules)?;
        let warnings = std::mem::take(&mut draft.warnings);
        self.adopt(draft);
        Ok(warnings)
    }

    /// What `rules` would be, for the tools that are approved now. Nothing changes.
    ///
    /// # Errors
    /// Every problem, a line each.
    pub fn draft(&self, rules: Rules) -> Result<Draft, String> {
        let (ready, warnings) = catalog::long_work(|| make(&rules, 0, &self.keeper.approved()))?;
        Ok(Draft { rules, ready, warnings })
    }

    /// Judges by `draft` from now on. Should tools be approved since that do not fit it, nothing is permitted until they do.
    pub fn adopt(&self, draft: Draft) {
        let Draft { rules, ready, .. } = draft;
        let mut making = lock(&self.making);
        let edition = making.edition + 1;
        *making = Making { rules, edition };
        self.ready.store(Some(Arc::new(Ready { edition, ..ready })));
    }

    /// The bundle for the pins as they are now.
    pub(super) fn ready(&self) -> Option<Arc<Ready>> {
        // One state of the pins for all of this: they may change any time.
        let set = self.keeper.approved();
        let current = |ready: &Arc<Ready>| ready.pins == set.version();
        if let Some(ready) = self.ready.load_full().filter(current) {
            return Some(ready);
        }
        let made = catalog::long_work(|| {
            let making = lock(&self.making);
            let known = self.ready.load_full().filter(|ready| ready.edition == making.edition);
            let fresh = match known {
                Some(ready) if current(&ready) => return Ok(ready),
                // Pins change more often than what policies can speak of.
                Some(ready) if ready.tools == tools_of(&making.rules, &set) => ready.at(set.version()),
                _ => make(&making.rules, making.edition, &set)?.0,
            };
            let fresh = Arc::new(fresh);
            self.ready.store(Some(Arc::clone(&fresh)));
            Ok::<_, String>(fresh)
        });
        match made {
            Ok(ready) => Some(ready),
            Err(problems) => {
                tracing::error!(%problems, "the policies do not fit the approved tools; nothing is permitted");
                None
            }
        }
    }

    /// Counts the rules that were in force.
    pub fn edition(&self) -> u64 {
        lock(&self.making).edition
    }

    /// The policies in force, for the pins as they are now.
    pub fn bundle(&self) -> Option<Arc<Bundle>> {
        self.ready().map(|ready| Arc::clone(&ready.bundle))
    }
}

impl Ready {
    /// The same at another version of the pins.
    fn at(&self, pins: u64) -> Self {
        Self {
            pins,
            bundle: Arc::clone(&self.bundle),
            trust: self.trust.clone(),
            release_role: self.release_role.clone(),
            hold_role: self.hold_role.clone(),
            relevant: Arc::clone(&self.relevant),
            ..*self
        }
    }
}

fn make(rules: &Rules, edition: u64, set: &PinSet) -> Result<(Ready, Vec<String>), String> {
    let catalog = catalog_of(rules, set);
    let loaded = Bundle::load(&rules.sources(), &catalog, &rules.config.roles)
        .map_err(|problems| problems.0.join("\n"))?;
    let mut warnings = loaded.warnings;
    if rules.has_issuers {
        warnings.extend(lint::of_any_issuer(&loaded.bundle).iter().map(ToString::to_string));
    }
    let speaks_of_flow = rules.policies.iter().any(|source| source.text.contains("flow"));
    let ready = Ready {
        pins: set.version(),
        edition,
        bundle: Arc::new(loaded.bundle),
        tools: tools_of(rules, set),
        reads_flow: speaks_of_flow,
        has_rule: !rules.config.flow.dangerous_no_rule,
        trust: rules.servers.clone(),
        is_own: !rules.policies.is_empty() || !rules.config.grants.is_empty(),
        window: rules.config.flow.window(),
        release_role: rules.config.release_role.clone(),
        hold_role: rules.config.hold_role.clone(),
        relevant: Arc::new(attributes::Relevant::of(&rules.config, &rules.policies)),
    };
    Ok((ready, warnings))
}

/// What policies are about: the servers of `rules` with the tools that are approved in `set`, labelled by the operator.
pub fn catalog_of(rules: &Rules, set: &PinSet) -> Catalog {
    let servers = rules.servers.iter().map(|(name, trust)| {
        let pinned = set.of(name, Kind::Tool);
        let tools = pinned.map(|(tool, pinned)| (tool.to_owned(), facts(&pinned.text))).collect();
        let pinned = set.of(name, Kind::Prompt);
        let prompts = pinned.map(|(prompt, pinned)| (prompt.to_owned(), prompt_of(&pinned.text))).collect();
        (name.clone(), bartizan_policy::Server { trust: *trust, tools, prompts, ..Default::default() })
    });
    let mut catalog = Catalog(servers.collect());
    rules.config.label(&mut catalog);
    catalog
}

/// Every approved tool and prompt of the servers that `rules` are about.
fn tools_of(rules: &Rules, set: &PinSet) -> Digest {
    let mut all: Vec<String> = Vec::new();
    for (server, kind) in rules.servers.keys().flat_map(|s| [(s, Kind::Tool), (s, Kind::Prompt)]) {
        let pinned = set.of(server, kind);
        all.extend(
            pinned.map(|(name, pinned)| format!("{server}\0{}\0{name}\0{}", kind.as_str(), pinned.hash)),
        );
    }
    all.sort_unstable();
    Digest::of(all.join("\0").as_bytes())
}

/// What a pinned definition says of a tool.
fn facts(text: &str) -> Tool {
    let definition: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    let hint = |name: &str| {
        definition
            .pointer(&format!("/annotations/{name}"))
            .and_then(serde_json::Value::as_bool)
            .unwrap_or(false)
    };
    Tool {
        description: definition.get("description").and_then(|d| d.as_str()).unwrap_or_default().to_owned(),
        input_schema: definition.get("inputSchema").cloned().unwrap_or_default(),
        hints: Hints {
            read_only: hint("readOnlyHint"),
            destructive: hint("destructiveHint"),
            idempotent: hint("idempotentHint"),
            open_world: hint("openWorldHint"),
        },
        ..Tool::default()
    }
}

/// What a pinned definition says of a prompt (26/prompts).
fn prompt_of(text: &str) -> Prompt {
    let definition: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    let named = |argument: &serde_json::Value| {
        let name = argument.get("name")?.as_str()?.to_owned();
        let required = argument.get("required").and_then(serde_json::Value::as_bool);
        Some((name, required.unwrap_or(false)))
    };
    let arguments = definition.get("arguments").and_then(serde_json::Value::as_array);
    Prompt { arguments: arguments.into_iter().flatten().filter_map(named).collect() }
}
