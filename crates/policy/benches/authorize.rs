//! CPU per decision: 50 policies on 20 tools, 1,000 policies on 500 tools, and a list of 500 tools.
//!
//! `cargo bench -p bartizan-policy`

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a bench prints and stops at the first surprise"
)]

use std::{hint::black_box, time::Duration};

use bartizan_model::Timestamp;
use bartizan_policy::{
    Action, Bundle, Catalog, Claims, Era, Query, Roles, Sightings, Source, Sources, Surroundings,
    flow::FlowContext,
};
use serde_json::json;

const ROUNDS: u32 = 5_000;
const BUDGETS_US: [(usize, usize, f64); 2] = [(50, 20, 15.0), (1_000, 500, 40.0)];

fn main() {
    for (policies, tools, budget) in BUDGETS_US {
        let bundle = bundle(policies, tools);
        let claims = Claims {
            issuer: "https://idp.example".into(),
            subject: "ann".into(),
            groups: (0..5).map(|i| format!("group-{i}")).collect(),
            scopes: ["files:read".to_owned(), "files:write".to_owned()].into(),
            ..Claims::default()
        };
        let principal = bundle.identify(claims);
        let action = Action::Call {
            tool: "tool7",
            arguments: Some(r#"{"path":"/data/reports/2026/a.txt","limit":10}"#),
        };
        let surroundings = Surroundings {
            address: Some([192, 0, 2, 7].into()),
            now: Timestamp::from_unix(1_790_000_000),
            era: Era::Modern,
            flow: FlowContext::default(),
        };
        let query = Query {
            principal: &principal,
            client: "agent",
            server: "files",
            action,
            surroundings,
            approved: &[],
        };
        assert!(bundle.authorize(&query).is_permit());
        let start = processor_time();
        for _ in 0..ROUNDS {
            black_box(bundle.authorize(black_box(&query)));
        }
        let each = (processor_time() - start).as_secs_f64() * 1e6 / f64::from(ROUNDS);
        println!("authorize  {policies:5} policies {tools:4} tools  {each:8.1} µs  (budget {budget} µs)");
        let names: Vec<String> = (0..tools).map(|i| format!("tool{i}")).collect();
        let list: Vec<_> = names.iter().map(|tool| Action::Call { tool, arguments: None }).collect();
        let start = processor_time();
        for _ in 0..20 {
            black_box(Sightings::default().of(&bundle, &query, &list));
        }
        let each = (processor_time() - start).as_secs_f64() * 1e3 / 20.0;
        println!("list       {policies:5} policies {tools:4} tools  {each:8.2} ms  (budget 5 ms)");
        let memory = Sightings::default();
        memory.of(&bundle, &query, &list);
        let start = processor_time();
        for _ in 0..ROUNDS {
            black_box(memory.of(&bundle, &query, &list));
        }
        let each = (processor_time() - start).as_secs_f64() * 1e6 / f64::from(ROUNDS);
        println!("list again {policies:5} policies {tools:4} tools  {each:8.1} µs");
    }
}

/// Half of the policies speak of one tool and role each, a tenth of all calls, the rest of other servers and actions.
fn bundle(policies: usize, tools: usize) -> Bundle {
    let schema = json!({ "type": "object", "required": ["path"], "properties": {
        "path": { "type": "string" }, "limit": { "type": "integer" }, "tags": { "type": "array", "items": { "type": "string" } } } });
    let tool = |_| json!({ "input_schema": schema });
    let all: serde_json::Map<_, _> = (0..tools).map(|i| (format!("tool{i}"), tool(i))).collect();
    let catalog: Catalog =
        serde_json::from_value(json!({ "files": { "trust": "internal", "tools": all } })).unwrap();
    let mut text = String::new();
    for i in 0..policies {
        let (tool, role) = (i % tools, i % 40);
        let policy = match i % 10 {
            0 => format!(
                "forbid (principal in Role::\"role{role}\", action in Action::\"call\", resource) when {{ principal.amr.contains(\"weak{i}\") }};"
            ),
            1..=4 => format!(
                "permit (principal in Group::\"other{i}\", action in Action::\"use\", resource in Server::\"s{i}\");"
            ),
            7 => format!(
                "permit (principal, action == Action::\"call:files.tool{tool}\", resource) when {{ context.paths.path.ancestors.contains(\"/data\") }};"
            ),
            _ => format!(
                "permit (principal in Role::\"role{role}\", action == Action::\"call:files.tool{tool}\", resource);"
            ),
        };
        text.push_str(&format!("@id(\"p{i}\") {policy}\n"));
    }
    let roles: Roles = serde_json::from_value(
        (0..40)
            .map(|i| (format!("role{i}"), json!({ "groups": [format!("group-{i}")] })))
            .collect::<serde_json::Map<_, _>>()
            .into(),
    )
    .unwrap();
    let sources = Sources { policies: vec![Source { name: "bench".into(), text }], ..Sources::default() };
    let start = processor_time();
    let bundle = Bundle::load(&sources, &catalog, &roles).unwrap_or_else(|p| panic!("{p}")).bundle;
    println!(
        "load       {policies:5} policies {tools:4} tools  {:8.0} ms",
        (processor_time() - start).as_secs_f64() * 1e3
    );
    bundle
}

/// What this thread has used of the processor, whoever else is running.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}
