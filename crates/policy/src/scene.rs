//! The cast of this crate's tests: a few servers, a few people.

use std::collections::BTreeSet;

use bartizan_model::Timestamp;
use serde_json::json;

use crate::{
    Action, Bundle, Catalog, Claims, Decision, Era, Grant, Loaded, Principal, Problems, Query, Roles, Source,
    Sources, Surroundings, flow::FlowContext,
};

pub fn catalog() -> Catalog {
    serde_json::from_value(json!({
        "files": { "trust": "internal", "tools": {
            "read_file": { "input_schema": { "type": "object", "required": ["path"], "properties": { "path": { "type": "string" } } } },
            "read_many": { "input_schema": { "type": "object", "properties": {
                "paths": { "type": "array", "items": { "type": "string" } } } } },
            "delete_file": {
                "input_schema": { "type": "object", "required": ["path"], "properties": { "path": { "type": "string" } } },
                "flow": { "destructive": true } },
        } },
        "web": { "prompts": { "p": { "arguments": { "topic": false, "page": false } } }, "tools": {
            "fetch": { "input_schema": { "type": "object", "required": ["url"], "properties": {
                "url": { "type": "string" }, "timeout": { "type": "integer" }, "weird": {} } } },
        } },
        "mail": { "trust": "trusted", "labels": ["office"], "tools": {
            "count": { "flow": {}, "input_schema": { "type": "object", "required": ["n"], "properties": {
                "n": { "type": "integer" }, "price": { "type": "number" }, "flag": { "type": "boolean" },
                "deep": { "type": "object", "properties": { "few": { "type": "array", "items": { "type": "integer" } } } } } } },
            "search": { "flow": { "reads_private": true } },
            "send": { "flow": { "sends_out": true }, "input_schema": { "type": "object", "additionalProperties": false, "properties": {
                "to": { "type": "array", "items": { "type": "string" } }, "body": { "type": "string" } } } },
        } },
    }))
    .unwrap()
}

pub fn roles() -> Roles {
    toml::from_str("[reader]\ngroups = [\"readers\"]\n[writer]\ngroups = [\"writers\"]\n").unwrap()
}

pub fn try_load(text: &str, grants: Vec<Grant>) -> Result<Loaded, Problems> {
    let policies = vec![Source { name: "test".into(), text: text.into() }];
    Bundle::load(&Sources { policies, grants, dangerous_without_flow_rule: false }, &catalog(), &roles())
}

pub fn load(text: &str) -> Bundle {
    try_load(text, Vec::new()).unwrap_or_else(|p| panic!("{p}")).bundle
}

pub fn person(name: &str, groups: &[&str]) -> Claims {
    Claims {
        issuer: "https://idp".into(),
        subject: name.into(),
        groups: groups.iter().map(|g| (*g).to_owned()).collect::<BTreeSet<_>>(),
        ..Claims::default()
    }
}

pub fn reader() -> Claims {
    person("rita", &["readers"])
}

pub fn owner() -> Claims {
    Claims::of_caller(&bartizan_model::Caller::local_owner())
}

pub fn surroundings() -> Surroundings {
    Surroundings {
        address: Some([192, 0, 2, 7].into()),
        now: Timestamp::from_unix(1_790_000_000),
        era: Era::Modern,
        flow: FlowContext::default(),
    }
}

pub fn query<'a>(principal: &'a Principal, server: &'a str, action: Action<'a>) -> Query<'a> {
    Query { principal, client: "agent", server, action, surroundings: surroundings(), approved: &[] }
}

pub fn call(bundle: &Bundle, who: &Claims, server: &str, tool: &str, arguments: &str) -> Decision {
    let principal = bundle.identify(who.clone());
    bundle.authorize(&query(&principal, server, Action::Call { tool, arguments: Some(arguments) }))
}
