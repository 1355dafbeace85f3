//! What single parts of the gate cost: gates that differ in one setting, under the same load, in one run, by turns.

use bartizan_trials::Issuer;
use serde_json::{Value, json};

use crate::Error;
use crate::cell::{self, Cell, Group, Kind};
use crate::host::{Host, IN_MEMORY, Proxy, Setting, Token};

/// How long a token is good for: longer than any run.
const TOKEN_SECONDS: u64 = 24 * 3600;

/// The gates that are compared, and what each is compared with.
const COMPARED: [(&str, &str, &str); 4] = [
    ("token", "open", "the token of a laptop, and who it belongs to"),
    ("jwt", "open", "an access token of another authorization server, and a role"),
    ("token", "unshielded", "the shield"),
    ("token", "memory", "a disk under the audit log and the store"),
];

/// Measures the gates one by one in each cell; the figures of each, and what the parts cost as ratios.
pub fn measure(host: &Host, rounds: usize, warm_up: f64, seconds: f64) -> Result<Value, Error> {
    let issuer = Issuer::start(1);
    let group = Group { era: "modern", kind: Kind::Call };
    let _upstream = host.upstream(&group)?;
    let mut gates = Vec::new();
    for setting in settings(host, &issuer) {
        gates.extend(host.gate_with(&setting)?);
    }
    let mut rows = Vec::new();
    println!("\n{:27} | {}", "one part at a time", gates.iter().map(heading).collect::<Vec<_>>().join(" | "));
    for (bytes, connections) in [(200, 1), (200, 16), (200, 64), (2_000, 16), (20_000, 16)] {
        let cell = Cell { group, bytes, connections };
        let mut runs = vec![Vec::new(); gates.len()];
        for _ in 0..rounds.max(1) {
            for (gate, runs) in gates.iter().zip(&mut runs) {
                runs.push(cell.measure(host, gate, warm_up, seconds)?);
            }
        }
        let runs: Vec<Value> = runs.into_iter().map(cell::median).collect();
        println!("{:27} | {}", cell.name(), runs.iter().map(figures).collect::<Vec<_>>().join(" | "));
        let of = |name: &str| gates.iter().position(|gate| gate.name == name).and_then(|i| runs.get(i));
        let mut parts = serde_json::Map::new();
        for (with, without, what) in COMPARED {
            let (Some(with), Some(without)) = (of(with), of(without)) else { continue };
            let ratio = |key: &str| Some(figure(with, key)? / figure(without, key)?);
            let [cpu, p50, rate] = ["cpu_us", "p50_ms", "per_second"].map(ratio);
            let [shown_cpu, shown_p50, shown_rate] =
                [cpu, p50, rate].map(|ratio| ratio.map_or("-".into(), |ratio| format!("{ratio:.2}")));
            println!("    {what:62} CPU × {shown_cpu}, p50 × {shown_p50}, calls a second × {shown_rate}");
            parts.insert(what.to_owned(), json!({ "cpu": cpu, "p50": p50, "per_second": rate }));
        }
        let gates: serde_json::Map<_, _> = gates.iter().map(|gate| gate.name.to_owned()).zip(runs).collect();
        rows.push(json!({ "cell": cell.name(), "gates": gates, "parts": parts }));
    }
    Ok(rows.into())
}

fn settings(host: &Host, issuer: &Issuer) -> Vec<Setting> {
    let base = format!("http://{}", host.gate_address(2));
    let expires = json!({ "exp": now() + TOKEN_SECONDS });
    let jwt = issuer.token("ann", &format!("{base}/mcp/bench"), expires);
    let people = format!(
        "[identity]\nmode = \"resource-server\"\n{}[policy.roles.people]\ngroups = [\"people\"]\nissuers = [\"{}\"]\n\
         [[policy.grants]]\ntemplate = \"operator\"\nrole = \"people\"\n",
        issuer.config(),
        issuer.name(),
    );
    vec![
        Setting { name: "token", ..Setting::default() },
        Setting {
            name: "open",
            place: 1,
            rest: "[identity]\ndangerous_open = true\n".into(),
            token: Token::None,
            ..Setting::default()
        },
        Setting {
            name: "jwt",
            place: 2,
            public_url: Some(base),
            rest: people,
            token: Token::Given(jwt),
            ..Setting::default()
        },
        Setting {
            name: "unshielded",
            place: 3,
            server: "dangerous_unshielded = true\n".into(),
            ..Setting::default()
        },
        Setting { name: "memory", place: 4, folder: Some(IN_MEMORY), ..Setting::default() },
    ]
}

fn now() -> u64 {
    std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs())
}

fn heading(gate: &Proxy) -> String {
    format!("{:>10} CPU us    p50", gate.name)
}

fn figures(run: &Value) -> String {
    let show = |key: &str, digits: usize| figure(run, key).map_or("-".into(), |v| format!("{v:.digits$}"));
    format!("{:>17} {:>6}", show("cpu_us", 1), show("p50_ms", 3))
}

fn figure(run: &Value, key: &str) -> Option<f64> {
    run.get(key).and_then(Value::as_f64)
}
