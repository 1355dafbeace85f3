//! What the gate keeps in memory: idle, per idle legacy session, and after sessions came and went. Of what is resident idle, the
//! part of its own is told apart from pages of the program file, which any process that runs it shares.

use std::time::Duration;

use serde_json::{Value, json};

use crate::Error;
use crate::cell::{Group, Kind};
use crate::host::{Host, Proxy};

/// Measures the gate (and the floor's idle size beside it); `null` without a gate. Sizes are KiB of `VmRSS` and `RssAnon` (proc(5)).
pub fn measure(host: &Host, quick: bool) -> Result<Value, Error> {
    let (kept, rounds, passing) = if quick { (1_000, 2, 1_000) } else { (3_000, 4, 10_000) };
    let _upstream = host.upstream(&Group { era: "legacy", kind: Kind::Call })?;
    let floor_idle = resident(&host.floor()?)?;
    println!("\nmemory\n  floor idle                         {floor_idle:>8} KiB");

    let Some(gate) = host.gate()? else { return Ok(json!({ "floor_idle_kib": floor_idle })) };
    let idle = resident(&gate)?;
    let own = status(&gate, "RssAnon")?;
    println!(
        "  gate idle                          {idle:>8} KiB   ({own} KiB its own, the rest pages of its program)"
    );

    // The first sessions also pay for what every process allocates once; they are not counted as sessions.
    sessions(host, &gate, 100, false)?;
    let before = resident(&gate)?;
    let opened = sessions(host, &gate, kept, false)?;
    let after = resident(&gate)?;
    let each = (after as f64 - before as f64) / opened.max(1) as f64;
    println!("  per 1,000 legacy sessions          {:>8.0} KiB   ({opened} of {kept} opened)", each * 1000.0);

    // A fresh one; the old one must be gone first, for they share a port.
    drop(gate);
    let gate = host.gate()?.ok_or("the gate's binary is gone")?;
    let mut after_each = vec![resident(&gate)?];
    for round in 1..=rounds {
        let opened = sessions(host, &gate, passing, true)?;
        let size = resident(&gate)?;
        println!("  after {passing:>6} opened and closed, x{round}  {size:>8} KiB   ({opened} opened)");
        after_each.push(size);
    }
    Ok(json!({
        "floor_idle_kib": floor_idle,
        "gate_idle_kib": idle,
        "gate_idle_own_kib": own,
        "gate_per_1000_sessions_kib": each * 1000.0,
        "sessions_a_round": passing,
        "gate_after_rounds_kib": after_each,
    }))
}

/// Opens legacy sessions, and closes each if `close`; how many opened.
fn sessions(host: &Host, gate: &Proxy, count: usize, close: bool) -> Result<u64, Error> {
    let mut load = host.mcpload("sessions", gate);
    load.args(["--era", "legacy", "-c", "8", "-s", &count.to_string()]);
    if close {
        load.arg("--close");
    }
    let result = Host::json_line(load)?;
    result.get("opened").and_then(Value::as_u64).ok_or_else(|| "the load generator counted nothing".into())
}

/// The resident set of `proxy` in KiB, once it had a moment to settle.
fn resident(proxy: &Proxy) -> Result<u64, Error> {
    std::thread::sleep(Duration::from_millis(700));
    status(proxy, "VmRSS")
}

/// What proc(5) says of `proxy` under `name`, in KiB.
fn status(proxy: &Proxy, name: &str) -> Result<u64, Error> {
    let pid = proxy.pid().ok_or("no process to look at")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let value = value.ok_or_else(|| format!("no {name} in /proc/PID/status"))?;
    Ok(value.trim().trim_end_matches(" kB").parse()?)
}
