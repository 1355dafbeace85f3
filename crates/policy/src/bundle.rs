//! A bundle: everything that decisions are made from, checked, frozen and named by its digest.

mod changes;

pub use changes::Changes;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt,
    sync::Arc,
};

use aws_lc_rs::digest;
use cedar_policy::{EntityUid, PolicySet, RestrictedExpression as Expr, Schema};
use serde::{Deserialize, Serialize};

use crate::{
    arguments::{to_record, to_set},
    catalog::{self, Catalog, FlowLabels},
    cedar::Known,
    claims::{Claims, Principal, Roles},
    compile::{Compilation, Compiled, Grant, Source},
    index::{Index, Key},
    schema::{self, ASK, CALL, CALLER_ACTIONS, FLEET, OBTAIN, SchemaError, Types, USE, uid, within},
    shape::Record,
};

/// What a bundle is made from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The operator's policies.
    pub policies: Vec<Source>,
    /// Templates given to roles.
    pub grants: Vec<Grant>,
    /// Leave out the shipped rule that keeps a stranger's text and private data from going out together.
    pub dangerous_without_flow_rule: bool,
}

/// A checked, immutable set of policies with the catalogue and roles they speak of. Swap it whole.
pub struct Bundle {
    pub(crate) version: Version,
    pub(crate) policies: BTreeMap<String, Compiled>,
    pub(crate) index: Index,
    pub(crate) schema: Schema,
    pub(crate) types: Types,
    pub(crate) roles: Roles,
    pub(crate) servers: HashMap<String, ServerEntry>,
    pub(crate) actions: HashMap<&'static str, ActionEntry>,
    pub(crate) catalog: Catalog,
    reads_address: bool,
}

/// A server, ready.
pub(crate) struct ServerEntry {
    pub entity: Known,
    /// Its numbers as a resource and as a principal.
    pub keys: Vec<Key>,
    pub tools: HashMap<String, ToolEntry>,
    /// What its pinned prompts take.
    pub prompts: HashMap<String, Record>,
}

/// A pinned tool, ready.
pub(crate) struct ToolEntry {
    pub entity: Known,
    pub keys: Vec<Key>,
    pub action: ActionEntry,
    pub shape: Record,
    pub labels: FlowLabels,
}

/// An action, ready.
pub(crate) struct ActionEntry {
    pub entity: Known,
    pub keys: Vec<Key>,
}

/// Names a bundle: SHA-256 over its policies, roles and catalogue.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version([u8; 32]);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Version({self})")
    }
}

impl Version {
    /// The digest itself, as it goes into keys of caches and approvals (attacks.md AA-37, EP-08).
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let policies = self.policies.iter().map(|(id, p)| (id, p.policy.to_string()));
        write!(f, "Bundle {} ", self.version)?;
        f.debug_map().entries(policies).finish()
    }
}

/// A bundle and what should be looked at all the same.
#[derive(Debug)]
pub struct Loaded {
    /// The bundle.
    pub bundle: Bundle,
    /// Policies that wait for a tool, never match, or say something that means nothing.
    pub warnings: Vec<String>,
}

/// Everything that is wrong with a bundle. The one in use stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<String>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the policies cannot be used:")?;
        self.0.iter().try_for_each(|problem| write!(f, "\n  - {problem}"))
    }
}

impl std::error::Error for Problems {}

impl From<SchemaError> for Problems {
    fn from(error: SchemaError) -> Self {
        Self(vec![error.to_string()])
    }
}

impl Bundle {
    /// Reads, checks and freezes policies.
    ///
    /// # Errors
    /// [`Problems`], all at once: what cannot be parsed, what does not fit the schema, names that stand twice.
    pub fn load(sources: &Sources, catalog: &Catalog, roles: &Roles) -> Result<Loaded, Problems> {
        let types = Types::new()?;
        let schema = schema::build(catalog)?;
        let mut compilation = Compilation::default();
        for source in shipped(sources.dangerous_without_flow_rule).iter().chain(&sources.policies) {
            compilation.read(source);
        }
        for grant in &sources.grants {
            compilation.grant(grant, &types);
        }
        compilation.set_aside_unpinned(&schema);
        Self::freeze(compilation, types, schema, catalog, roles)
    }

    /// The same bundle with some policies written anew and some left out (`None`).
    ///
    /// # Errors
    /// [`Problems`] of the new policies.
    pub fn with_changes(&self, changes: &BTreeMap<String, Option<String>>) -> Result<Loaded, Problems> {
        let mut compilation = Compilation::default();
        compilation.policies =
            self.policies.values().filter(|p| !changes.contains_key(p.id())).cloned().collect();
        for (id, text) in changes {
            if let Some(text) = text {
                compilation.replace(id, text);
            }
        }
        Self::freeze(compilation, self.types.clone(), self.schema.clone(), &self.catalog, &self.roles)
    }

    fn freeze(
        mut compilation: Compilation,
        types: Types,
        schema: Schema,
        catalog: &Catalog,
        roles: &Roles,
    ) -> Result<Loaded, Problems> {
        compilation.validate(&schema);
        compilation.check_names(roles, catalog, &types);
        let policies: BTreeMap<String, Compiled> =
            compilation.policies.into_iter().map(|p| (p.id().to_owned(), p)).collect();
        let index = Index::new(policies.values());
        if !compilation.problems.is_empty() {
            return Err(Problems(compilation.problems));
        }
        let bundle = Self {
            version: version(&policies, catalog, roles),
            servers: servers(catalog, &index, &types)?,
            actions: base_actions(&index, &types),
            reads_address: policies.values().any(|p| p.reads.address),
            policies,
            index,
            schema,
            types,
            roles: roles.clone(),
            catalog: catalog.clone(),
        };
        Ok(Loaded { bundle, warnings: compilation.warnings })
    }

    /// The bundle's name.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The ids of its policies, sorted.
    pub fn policy_ids(&self) -> impl Iterator<Item = &str> {
        self.policies.keys().map(String::as_str)
    }

    /// A policy as Cedar text.
    pub fn policy_text(&self, id: &str) -> Option<String> {
        self.policies.get(id).and_then(|p| p.policy.to_cedar())
    }

    /// What a call of a tool does to the flow of information; `None` if it is not pinned.
    pub fn flow_labels(&self, server: &str, tool: &str) -> Option<FlowLabels> {
        Some(self.servers.get(server)?.tools.get(tool)?.labels)
    }

    /// What a call of some pinned tool of a server does, whichever that is.
    pub fn flow_labels_of_any(&self, server: &str) -> FlowLabels {
        let tools = self.servers.get(server).into_iter().flat_map(|server| server.tools.values());
        tools.fold(FlowLabels::default(), |all, tool| all.or(tool.labels))
    }

    /// Every policy as one Cedar set, for analysis.
    pub fn policy_set(&self) -> Result<PolicySet, Problems> {
        PolicySet::from_policies(self.policies.values().map(|p| p.policy.clone()))
            .map_err(|e| Problems(vec![e.to_string()]))
    }

    /// The schema its policies were checked against.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Every action of callers that the schema knows, groups aside.
    pub(crate) fn caller_actions(&self) -> BTreeSet<String> {
        let of_tools =
            self.catalog.tools().map(|(server, _, tool, _)| schema::call_action(server.as_str(), tool));
        CALLER_ACTIONS.iter().map(|a| (*a).to_owned()).chain(of_tools).collect()
    }

    /// Whether any policy looks at the time, so that the same query may be answered differently later.
    pub fn reads_time(&self) -> bool {
        self.policies.values().any(|p| p.reads.time || p.reads.auth_age)
    }

    /// Whether any policy looks at the client's address.
    pub(crate) fn reads_address(&self) -> bool {
        self.reads_address
    }

    /// Makes an identity ready for decisions of this bundle.
    pub fn identify(&self, claims: Claims) -> Principal {
        self.prepare(Arc::new(claims))
    }

    pub(crate) fn prepare(&self, claims: Arc<Claims>) -> Principal {
        let roles = self.roles.of(&claims);
        let user = uid(&self.types.user, &claims.user());
        let mut parents: HashSet<EntityUid> =
            claims.groups.iter().map(|g| uid(&self.types.group, g)).collect();
        parents.extend(roles.iter().map(|r| uid(&self.types.role, r)));
        let keys = self.index.keys(parents.iter().chain([&user]));
        let mut attributes = HashMap::from([
            ("issuer".to_owned(), Expr::new_string(claims.issuer.clone())),
            ("subject".to_owned(), Expr::new_string(claims.subject.clone())),
            ("app".to_owned(), Expr::new_bool(claims.app)),
            ("groups".to_owned(), to_set(claims.groups.iter().cloned())),
            ("roles".to_owned(), to_set(claims.roles.iter().cloned())),
            ("scopes".to_owned(), to_set(claims.scopes.iter().cloned())),
            ("amr".to_owned(), to_set(claims.amr.iter().cloned())),
        ]);
        if let Some(acr) = &claims.acr {
            attributes.insert("acr".to_owned(), Expr::new_string(acr.clone()));
        }
        Principal {
            entity: Known::new(user.clone(), attributes, parents),
            version: self.version,
            keys,
            roles: Arc::new(roles),
            claims,
        }
    }
}

/// What comes with the program.
fn shipped(without_flow_rule: bool) -> Vec<Source> {
    let mut found = vec![
        Source { name: "shipped/owner".into(), text: include_str!("shipped/owner.cedar").into() },
        Source { name: "shipped/templates".into(), text: include_str!("shipped/templates.cedar").into() },
    ];
    if !without_flow_rule {
        found.push(Source { name: "shipped/flow".into(), text: include_str!("shipped/flow.cedar").into() });
    }
    found
}

fn servers(
    catalog: &Catalog,
    index: &Index,
    types: &Types,
) -> Result<HashMap<String, ServerEntry>, Problems> {
    let fleet = uid(&types.fleet, FLEET);
    let mut found = HashMap::new();
    for (name, server) in &catalog.0 {
        let of_server = uid(&types.server, name.as_str());
        let keys = index.keys([&of_server, &fleet]);
        let attributes = HashMap::from([
            ("name".to_owned(), Expr::new_string(name.to_string())),
            ("trust".to_owned(), Expr::new_string(server.trust.as_str().to_owned())),
            ("labels".to_owned(), to_set(server.labels.iter().cloned())),
        ]);
        let above = HashSet::from([of_server.clone(), fleet.clone()]);
        let tools = server.tools.iter().map(|(tool, facts)| {
            let of_tool = uid(&types.tool, &within(name.as_str(), tool));
            let labels = facts.flow.unwrap_or_else(|| server.trust.default_labels());
            let entry = ToolEntry {
                keys: index.keys([&of_tool, &of_server, &fleet]),
                entity: Known::new(
                    of_tool.clone(),
                    tool_attributes(tool, facts, labels, &of_server),
                    above.clone(),
                ),
                action: action_entry(index, types, &schema::call_action(name.as_str(), tool), &[CALL, USE]),
                shape: Record::of_schema(&facts.input_schema),
                labels,
            };
            (tool.clone(), entry)
        });
        let tools = tools.collect();
        let prompts = server.prompts.iter().map(|(prompt, facts)| {
            let arguments = facts.arguments.iter().map(|(name, required)| (name, *required));
            (prompt.clone(), Record::of_texts(arguments))
        });
        let prompts = prompts.collect();
        found.insert(
            name.to_string(),
            ServerEntry {
                entity: Known::new(of_server.clone(), attributes, HashSet::from([fleet.clone()])),
                keys,
                tools,
                prompts,
            },
        );
    }
    Ok(found)
}

fn tool_attributes(
    name: &str,
    facts: &catalog::Tool,
    labels: FlowLabels,
    server: &EntityUid,
) -> HashMap<String, Expr> {
    let hints = [
        ("read_only", facts.hints.read_only),
        ("destructive", facts.hints.destructive),
        ("idempotent", facts.hints.idempotent),
        ("open_world", facts.hints.open_world),
    ];
    let hints = hints.into_iter().map(|(name, value)| (name.to_owned(), Expr::new_bool(value))).collect();
    HashMap::from([
        ("server".to_owned(), Expr::new_entity_uid(server.clone())),
        ("name".to_owned(), Expr::new_string(name.to_owned())),
        ("labels".to_owned(), to_set(facts.labels.iter().cloned())),
        ("sees_untrusted".to_owned(), Expr::new_bool(labels.sees_untrusted)),
        ("reads_private".to_owned(), Expr::new_bool(labels.reads_private)),
        ("sends_out".to_owned(), Expr::new_bool(labels.sends_out)),
        ("destructive".to_owned(), Expr::new_bool(labels.destructive)),
        ("hints".to_owned(), to_record(hints)),
    ])
}

fn base_actions(index: &Index, types: &Types) -> HashMap<&'static str, ActionEntry> {
    let of_callers = CALLER_ACTIONS.map(|name| (name, USE));
    let of_clients = ["sample", "elicit", "roots"].map(|name| (name, ASK));
    let of_gate = ["secret", "connect", "offer"].map(|name| (name, OBTAIN));
    let all = of_callers.into_iter().chain(of_clients).chain(of_gate);
    all.map(|(name, group)| (name, action_entry(index, types, name, &[group]))).collect()
}

fn action_entry(index: &Index, types: &Types, name: &str, groups: &[&str]) -> ActionEntry {
    let action = types.action(name);
    let groups: HashSet<EntityUid> = groups.iter().map(|g| types.action(g)).collect();
    let keys = index.keys(groups.iter().chain([&action]));
    ActionEntry { entity: Known::new(action, HashMap::new(), groups), keys }
}

fn version(policies: &BTreeMap<String, Compiled>, catalog: &Catalog, roles: &Roles) -> Version {
    let mut hasher = digest::Context::new(&digest::SHA256);
    // Plain maps and lists: they always have a JSON text.
    let parts = [
        serde_json::to_vec(catalog),
        serde_json::to_vec(roles),
        serde_json::to_vec(&policies.iter().map(|(id, p)| (id, &p.json)).collect::<BTreeMap<_, _>>()),
    ];
    for part in parts.into_iter().map(Result::unwrap_or_default) {
        hasher.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        hasher.update(&part);
    }
    let mut bytes = [0; 32];
    bytes.iter_mut().zip(hasher.finish().as_ref()).for_each(|(to, from)| *to = *from);
    Version(bytes)
}
