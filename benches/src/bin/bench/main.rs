//! Compares the gate with a bare reverse proxy (`floor`), with no proxy at all (`direct`) and perhaps with another
//! gateway (`--peer`), in one run, alternating, with the same load. Reports CPU time per request, latency and memory,
//! and the gate as a ratio to the floor; writes everything to `target/bench/results.json`.
//!
//! Fairness on two cores: proxies run on CPU 1, upstream and load on CPU 0, in a network namespace of their own where
//! the system allows it. Requests a second say little then (load and upstream share a core), so they are not compared.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a bench tool talks to the terminal")]

mod cell;
mod host;
mod memory;
mod report;
mod variants;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::Parser;
use serde_json::{Value, json};

use cell::{Cell, Group};
use host::{Host, Proxy, Setting};

type Error = Box<dyn std::error::Error>;

#[derive(Parser)]
#[command(about)]
struct Args {
    /// Short cells: a look, not a measurement.
    #[arg(long)]
    quick: bool,
    /// How often every cell is measured; the median counts.
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// Only cells whose name contains this; `memory` is one.
    #[arg(long)]
    only: Option<String>,
    /// The gate with all turned off that can be, in memory: what it costs to carry messages and to write them down.
    #[arg(long)]
    bare: bool,
    /// In place of all that: what single parts of the gate cost, by gates that differ in one setting.
    #[arg(long)]
    parts: bool,
    /// The gate's binary; by default `bartizan` beside this one.
    #[arg(long)]
    gate: Option<PathBuf>,
    /// Where results.json goes.
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
    /// Another gateway, already running, whose upstream is 127.0.0.1:--upstream-port: its endpoint, http://HOST:PORT/PATH.
    #[arg(long, env = "BENCH_PEER")]
    peer: Option<String>,
    /// The peer's process, for its CPU time.
    #[arg(long, env = "BENCH_PEER_PID")]
    peer_pid: Option<u32>,
    /// A file with the peer's bearer token.
    #[arg(long, env = "BENCH_PEER_TOKEN")]
    peer_token: Option<PathBuf>,
    /// Where the upstream listens.
    #[arg(long, default_value_t = 9100)]
    upstream_port: u16,
    /// Measure on the machine's own loopback.
    #[arg(long)]
    no_namespace: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let outcome = match namespace(&args) {
        // Inside, the same program runs with --no-namespace.
        Some(mut inside) => return inside.status().map_or(ExitCode::from(3), code_of),
        None => run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::from(3)
        }
    }
}

/// This program again, in a network namespace of its own; `None` where there is none to be had or it must not be.
fn namespace(args: &Args) -> Option<Command> {
    if args.no_namespace || args.peer.is_some() {
        return None;
    }
    let script = "ip link set lo up && exec \"$0\" \"$@\"";
    let unshare = |program: &Path| {
        let mut command = Command::new("unshare");
        command.args(["-rn", "sh", "-c", script]).arg(program);
        command
    };
    let works = unshare(Path::new("true")).output().is_ok_and(|output| output.status.success());
    if !works {
        eprintln!(
            "bench: no private network namespace here; other traffic on loopback may disturb the figures"
        );
        return None;
    }
    let mut inside = unshare(&std::env::current_exe().ok()?);
    inside.arg("--no-namespace").args(std::env::args_os().skip(1));
    Some(inside)
}

fn code_of(status: std::process::ExitStatus) -> ExitCode {
    ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(3))
}

fn run(args: &Args) -> Result<(), Error> {
    let host = Host::new(args.gate.clone(), args.upstream_port)?;
    if host.gate.is_none() {
        eprintln!(
            "bench: no gate (build it with `cargo build --release -p bartizan-cli`, or name it with --gate)"
        );
    }
    let peer = args
        .peer
        .as_deref()
        .map(|url| Proxy::peer(url, args.peer_pid, args.peer_token.clone()))
        .transpose()?;
    let wanted = |name: &str| args.only.as_deref().is_none_or(|part| name.contains(part));
    let (warm_up, seconds) = if args.quick { (0.3, 0.7) } else { (1.5, 4.0) };

    let mut cells = Vec::new();
    for group in Group::ALL {
        let chosen: Vec<Cell> = group.cells().into_iter().filter(|cell| wanted(&cell.name())).collect();
        if chosen.is_empty() || args.parts {
            continue;
        }
        if cells.is_empty() {
            report::head(peer.is_some());
        }
        let _upstream = host.upstream(&group)?;
        let mut proxies = vec![host.direct(), host.floor()?];
        proxies.extend(if args.bare { host.gate_with(&Setting::bare())? } else { host.gate()? });
        for cell in chosen {
            let mut results = vec![Vec::new(); proxies.len() + usize::from(peer.is_some())];
            for _ in 0..args.rounds.max(1) {
                for (proxy, results) in proxies.iter().chain(&peer).zip(&mut results) {
                    results.push(cell.measure(&host, proxy, warm_up, seconds)?);
                }
            }
            let medians =
                proxies.iter().chain(&peer).zip(results).map(|(p, r)| (p.name, cell::median(r))).collect();
            let row = report::row(&cell.name(), medians);
            cells.push(row);
        }
    }
    // Many gates at once are a measurement of their own.
    let parts =
        if args.parts { variants::measure(&host, args.rounds, warm_up, seconds)? } else { Value::Null };
    let memory =
        if wanted("memory") && !args.parts { memory::measure(&host, args.quick)? } else { Value::Null };

    std::fs::create_dir_all(&args.out)?;
    let path = args.out.join("results.json");
    let results = json!({ "quick": args.quick, "bare": args.bare, "rounds": args.rounds, "cells": cells, "parts": parts, "memory": memory });
    std::fs::write(&path, serde_json::to_vec_pretty(&results)?)?;
    println!("\n{}", path.display());
    Ok(())
}
