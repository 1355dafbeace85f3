//! The published Cedar schema: a fixed base, and one action for every pinned tool.

use std::collections::BTreeSet;

use cedar_policy::{EntityTypeName, EntityUid, Schema, SchemaFragment};
use serde_json::{Map, Value, json};

use crate::{catalog::Catalog, shape::Record};

/// The group of everything a caller does.
pub const USE: &str = "use";
/// The group of what a server asks of a client.
pub const ASK: &str = "ask";
/// The group of what a server is given.
pub const OBTAIN: &str = "obtain";
/// The group of all tool calls.
pub const CALL: &str = "call";
/// What a caller does beside calls.
pub(crate) const CALLER_ACTIONS: [&str; 7] =
    ["list", "read", "get", "complete", "subscribe", "task", "notify"];
/// The one `Fleet`, above every server.
pub const FLEET: &str = "all";

/// The schema cannot be built. Its parts are ours except argument names, so this is a defect.
#[derive(Debug, thiserror::Error)]
#[error("the policy schema cannot be built: {0}")]
pub struct SchemaError(String);

/// The action of calling `tool` at `server`. Server names hold no dot, so the name comes apart in one way only.
pub fn call_action(server: &str, tool: &str) -> String {
    format!("{CALL}:{server}.{tool}")
}

/// The schema in Cedar's own language, for people and their editors.
///
/// # Errors
/// [`SchemaError`], a defect.
pub fn publish(catalog: &Catalog) -> Result<String, SchemaError> {
    let fragment =
        SchemaFragment::from_json_value(as_json(catalog)).map_err(|e| SchemaError(e.to_string()))?;
    fragment.to_cedarschema().map_err(|e| SchemaError(e.to_string()))
}

/// The schema that bundles are checked against.
pub(crate) fn build(catalog: &Catalog) -> Result<Schema, SchemaError> {
    Schema::from_json_value(as_json(catalog)).map_err(|e| SchemaError(e.to_string()))
}

fn as_json(catalog: &Catalog) -> Value {
    let mut actions = base_actions(&of_any_prompt(catalog));
    for (server, _, tool, facts) in catalog.tools() {
        let record = Record::of_schema(&facts.input_schema);
        let action = action(&[CALL], "User", &["Tool"], call_context(&record));
        actions.insert(call_action(server.as_str(), tool), action);
    }
    json!({ "": { "commonTypes": common_types(), "entityTypes": entity_types(), "actions": actions } })
}

/// What any pinned prompt takes: there is one action for all of them, so none of it is always there.
fn of_any_prompt(catalog: &Catalog) -> Record {
    let names = catalog.prompts().flat_map(|prompt| prompt.arguments.keys()).collect::<BTreeSet<_>>();
    Record::of_texts(names.into_iter().map(|name| (name, false)))
}

fn entity_types() -> Value {
    let record = |attributes: Value| json!({ "type": "Record", "attributes": attributes });
    let server = || json!({ "type": "Entity", "name": "Server" });
    json!({
        "Fleet": {},
        "Group": {},
        "Role": {},
        "Client": {},
        "User": { "memberOfTypes": ["Group", "Role"], "shape": record(json!({
            "issuer": text(), "subject": text(), "app": flag(), "groups": texts(), "roles": texts(), "scopes": texts(),
            "amr": texts(), "acr": optional(text()),
        })) },
        "Server": { "memberOfTypes": ["Fleet"], "shape": record(json!({ "name": text(), "trust": text(), "labels": texts() })) },
        "Tool": { "memberOfTypes": ["Server"], "shape": record(json!({
            "server": server(), "name": text(), "labels": texts(), "sees_untrusted": flag(), "reads_private": flag(),
            "sends_out": flag(), "destructive": flag(), "hints": record(json!({
                "read_only": flag(), "destructive": flag(), "idempotent": flag(), "open_world": flag() })),
        })) },
        "Resource": { "memberOfTypes": ["Server"], "shape": record(json!({
            "server": server(), "uri": text(), "scheme": text(), "ancestors": texts(), "hosts": texts(), "domains": texts(),
        })) },
        "Prompt": { "memberOfTypes": ["Server"], "shape": record(json!({ "server": server(), "name": text() })) },
        "Secret": { "shape": record(json!({ "name": text() })) },
        "Host": { "memberOfTypes": ["Host"], "shape": record(json!({ "name": text(), "port": number() })) },
    })
}

fn base_actions(of_any_prompt: &Record) -> Map<String, Value> {
    let caller = || context(json!({}));
    let server = |more: Value| {
        let mut attributes = json!({ "client": client(), "time": common("Time"), "era": text() });
        extend(&mut attributes, more);
        json!({ "type": "Record", "attributes": attributes })
    };
    let group = || json!({ "memberOf": [] });
    let entries = [
        (USE, group()),
        (ASK, group()),
        (OBTAIN, group()),
        // A group that is also an action, so that a policy on all calls has a type before any tool is pinned.
        (CALL, action(&[USE], "User", &["Tool"], call_context(&Record::default()))),
        ("list", action(&[USE], "User", &["Server"], caller())),
        ("read", action(&[USE], "User", &["Resource"], caller())),
        ("get", action(&[USE], "User", &["Prompt"], call_context(of_any_prompt))),
        ("complete", action(&[USE], "User", &["Prompt", "Resource"], caller())),
        ("subscribe", action(&[USE], "User", &["Resource", "Server"], caller())),
        ("task", action(&[USE], "User", &["Server"], caller())),
        ("notify", action(&[USE], "User", &["Server"], caller())),
        (
            "sample",
            action(
                &[ASK],
                "Server",
                &["Client"],
                server(json!({
                "max_tokens": number(), "model_hints": texts(), "include_context": text(), "with_tools": flag() })),
            ),
        ),
        (
            "elicit",
            action(
                &[ASK],
                "Server",
                &["Client"],
                server(json!({ "mode": text(), "hosts": texts(), "domains": texts() })),
            ),
        ),
        ("roots", action(&[ASK], "Server", &["Client"], server(json!({})))),
        ("secret", action(&[OBTAIN], "Server", &["Secret"], server(json!({})))),
        ("connect", action(&[OBTAIN], "Server", &["Host"], server(json!({})))),
        ("offer", action(&[OBTAIN], "Server", &["Resource"], server(json!({})))),
    ];
    entries.into_iter().map(|(name, action)| (name.to_owned(), action)).collect()
}

fn action(groups: &[&str], principal: &str, resources: &[&str], context: Value) -> Value {
    let groups: Vec<Value> = groups.iter().map(|g| json!({ "id": g })).collect();
    json!({ "memberOf": groups, "appliesTo": { "principalTypes": [principal], "resourceTypes": resources, "context": context } })
}

/// The context of a caller's action, and `more`.
fn context(more: Value) -> Value {
    let mut attributes = json!({
        "client": client(), "address": optional(json!({ "type": "Extension", "name": "ipaddr" })), "time": common("Time"),
        "era": text(), "auth_age_s": optional(number()), "flow": common("Flow"),
    });
    extend(&mut attributes, more);
    json!({ "type": "Record", "attributes": attributes })
}

fn call_context(record: &Record) -> Value {
    let by_name = |of: &str| {
        let named = record
            .texts()
            .map(|(name, required)| (name.to_owned(), json!({ "type": of, "required": required })));
        json!({ "type": "Record", "attributes": named.collect::<Map<_, _>>() })
    };
    context(json!({
        "args": record.to_cedar(), "paths": by_name("Path"), "urls": by_name("Url"), "unmapped": flag(),
    }))
}

fn common_types() -> Value {
    json!({
        "Time": { "type": "Extension", "name": "datetime" },
        "Flow": { "type": "Record", "attributes": { "untrusted": flag(), "private": flag(), "destructive": flag() } },
        "Path": { "type": "Record", "attributes": { "ancestors": texts(), "any_ancestors": texts() } },
        "Url": { "type": "Record", "attributes": {
            "hosts": texts(), "any_hosts": texts(), "domains": texts(), "any_domains": texts(), "schemes": texts(), "any_schemes": texts() } },
    })
}

fn extend(to: &mut Value, more: Value) {
    if let (Some(to), Value::Object(more)) = (to.as_object_mut(), more) {
        to.extend(more);
    }
}

fn text() -> Value {
    json!({ "type": "String" })
}

fn texts() -> Value {
    json!({ "type": "Set", "element": text() })
}

fn flag() -> Value {
    json!({ "type": "Boolean" })
}

fn number() -> Value {
    json!({ "type": "Long" })
}

fn client() -> Value {
    json!({ "type": "Entity", "name": "Client" })
}

fn common(name: &str) -> Value {
    json!({ "type": name })
}

fn optional(mut of: Value) -> Value {
    extend(&mut of, json!({ "required": false }));
    of
}

/// The types of the schema, parsed once.
#[derive(Clone)]
pub(crate) struct Types {
    action: EntityTypeName,
    pub client: EntityTypeName,
    pub fleet: EntityTypeName,
    pub group: EntityTypeName,
    pub host: EntityTypeName,
    pub prompt: EntityTypeName,
    pub resource: EntityTypeName,
    pub role: EntityTypeName,
    pub secret: EntityTypeName,
    pub server: EntityTypeName,
    pub tool: EntityTypeName,
    pub user: EntityTypeName,
}

impl Types {
    pub fn new() -> Result<Self, SchemaError> {
        let of = |name: &str| name.parse::<EntityTypeName>().map_err(|e| SchemaError(e.to_string()));
        Ok(Self {
            action: of("Action")?,
            client: of("Client")?,
            fleet: of("Fleet")?,
            group: of("Group")?,
            host: of("Host")?,
            prompt: of("Prompt")?,
            resource: of("Resource")?,
            role: of("Role")?,
            secret: of("Secret")?,
            server: of("Server")?,
            tool: of("Tool")?,
            user: of("User")?,
        })
    }

    pub fn action(&self, name: &str) -> EntityUid {
        uid(&self.action, name)
    }
}

/// `of::"id"`
pub(crate) fn uid(of: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(of.clone(), cedar_policy::EntityId::new(id))
}

/// The identifier of a tool's, resource's or prompt's entity: the server's name holds no `/`.
pub(crate) fn within(server: &str, name: &str) -> String {
    format!("{server}/{name}")
}
