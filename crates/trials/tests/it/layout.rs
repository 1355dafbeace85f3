//! The house of docs/architecture.md: who may depend on whom.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// Each crate and what it may depend on. Arrows only go down.
const ARROWS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("egress", &["model"]),
    ("mcp", &["model"]),
    ("policy", &["model"]),
    ("shield", &["model"]),
    ("audit", &["model"]),
    ("store", &["model"]),
    ("sandbox", &["model"]),
    ("oauth", &["model", "egress", "store"]),
    ("scan", &["model", "egress", "mcp", "shield", "sandbox"]),
    ("gateway", &["model", "egress", "mcp", "policy", "shield", "audit", "store", "oauth", "sandbox"]),
    ("console", &["model", "policy", "audit", "store", "oauth", "scan"]),
    (
        "cli",
        &[
            "model", "egress", "mcp", "policy", "shield", "audit", "store", "sandbox", "oauth", "scan",
            "gateway", "console",
        ],
    ),
];

/// Not shipped: these may use everything, and nothing may use them.
const TRIALS: [&str; 3] = ["trials", "benches", "ml"];

/// Crates that one crate alone may use: what they do is that crate's business.
const OWNERS: &[(&str, &[&str])] =
    &[("anyhow", &["cli", "trials", "benches"]), ("rustls-platform-verifier", &["egress"])];

/// Every workspace crate with the names of what it depends on, development dependencies left out.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = metadata();
    let short = |name: &Value| name.as_str().unwrap().trim_start_matches("bartizan-").to_owned();
    let needed = |package: &Value| {
        let all = package["dependencies"].as_array().unwrap().iter();
        all.filter(|d| d["kind"] != "dev").map(|d| short(&d["name"])).collect()
    };
    metadata["packages"].as_array().unwrap().iter().map(|p| (short(&p["name"]), needed(p))).collect()
}

/// What cargo says of the workspace.
fn metadata() -> Value {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = std::process::Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The README's first command names no binary.
#[test]
fn cargo_run_runs_the_product() {
    let metadata = metadata();
    let members = metadata["workspace_default_members"].as_array().unwrap();
    assert!(members.len() == 1 && members[0].as_str().unwrap().contains("crates/cli"), "{members:?}");
}

#[test]
fn arrows_only_go_where_the_table_says() {
    let crates = dependencies();
    let arrows: BTreeMap<_, _> = ARROWS.iter().copied().collect();
    for (name, needs) in crates.iter().filter(|(name, _)| !TRIALS.contains(&name.as_str())) {
        let may =
            arrows.get(name.as_str()).unwrap_or_else(|| panic!("`{name}` is not in the table of layout.rs"));
        for need in needs.iter().filter(|need| crates.contains_key(*need)) {
            assert!(may.contains(&need.as_str()), "`{name}` may not depend on `{need}`");
        }
    }
    assert!(crates.len() >= 8, "the workspace was found: {:?}", crates.keys());
}

#[test]
fn the_table_has_no_circles() {
    let place: BTreeMap<_, _> = ARROWS.iter().enumerate().map(|(at, (name, _))| (*name, at)).collect();
    for (name, needs) in ARROWS {
        for need in *needs {
            assert!(place[need] < place[name], "`{name}` needs `{need}`, which must stand above it");
        }
    }
}

#[test]
fn what_belongs_to_one_crate_is_used_by_no_other() {
    let crates = dependencies();
    for (library, owners) in OWNERS {
        for (name, needs) in &crates {
            assert!(
                !needs.contains(*library) || owners.contains(&name.as_str()),
                "`{library}` is not for `{name}`"
            );
        }
    }
    for outsider in ["reqwest", "ureq", "openssl", "native-tls"] {
        assert!(
            crates.values().all(|needs| !needs.contains(outsider)),
            "`{outsider}`: egress is the way out"
        );
    }
}
