//! Load generator for MCP over Streamable HTTP: keep-alive HTTP/1.1, one request at a time per connection, both eras,
//! every body checked. Prints one line of JSON.
//!
//! `load` measures rate and latency (and the CPU time of the process `--pid`), `sessions` opens legacy sessions and
//! perhaps closes them, `one` shows one answer as it comes.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a bench tool talks to the terminal")]

mod connection;
mod request;

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use clap::{Args, Parser};
use serde_json::json;
use tokio::task::LocalSet;
use tokio::time::Instant;

use connection::Connection;
use request::{Era, Session, Target};

type Error = Box<dyn std::error::Error>;

#[derive(Parser)]
#[command(about)]
enum Command {
    /// Send requests for a while and report rate, latency and CPU time.
    Load(Load),
    /// Open legacy sessions and report how many opened, or why not.
    Sessions(Sessions),
    /// Send one request and show the answer, head included.
    One(Target),
}

#[derive(Args)]
struct Load {
    #[command(flatten)]
    target: Target,
    /// How long to measure, in seconds.
    #[arg(short = 'd', default_value_t = 4.0)]
    seconds: f64,
    /// How long to warm up before, in seconds.
    #[arg(short = 'w', default_value_t = 1.5)]
    warm_up: f64,
    /// The process whose CPU time is divided by the measured requests.
    #[arg(long)]
    pid: Option<u32>,
}

#[derive(Args)]
struct Sessions {
    #[command(flatten)]
    target: Target,
    /// How many to open.
    #[arg(short = 's', default_value_t = 1000)]
    count: usize,
    /// End each with DELETE right after it opened.
    #[arg(long)]
    close: bool,
    /// Write the ids of the opened sessions here, one a line.
    #[arg(long)]
    ids: Option<PathBuf>,
}

/// What the connections of one run found, together.
#[derive(Default)]
struct Tally {
    /// Measured latencies in tenths of a microsecond.
    latencies: Vec<u32>,
    body_bytes: usize,
    errors: u64,
    /// Answers, those of the warm-up included.
    answers: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let local = LocalSet::new();
    match Command::parse() {
        Command::Load(load) => local.run_until(run_load(load)).await,
        Command::Sessions(sessions) => local.run_until(open_sessions(sessions)).await,
        Command::One(target) => show_one(target).await,
    }
}

async fn run_load(load: Load) -> Result<(), Error> {
    let target = Rc::new(load.target);
    let shared = match target.session() {
        Session::Shared => {
            Some(request::initialize(&target, &mut Connection::open(&target.address).await?).await?)
        }
        _ => None,
    };
    let warm = Instant::now() + Duration::from_secs_f64(load.warm_up);
    let end = warm + Duration::from_secs_f64(load.seconds);
    let tally = Rc::new(RefCell::new(Tally::default()));
    let workers: Vec<_> = (0..target.connections)
        .map(|_| {
            let (target, shared, tally) = (target.clone(), shared.clone(), tally.clone());
            tokio::task::spawn_local(async move {
                if let Err(error) = keep_calling(&target, shared.flatten(), warm, end, &tally).await {
                    eprintln!("a connection gave up: {error}");
                    tally.borrow_mut().errors += 1;
                }
            })
        })
        .collect();
    tokio::time::sleep_until(warm).await;
    let before = load.pid.map(cpu_seconds).transpose()?;
    tokio::time::sleep_until(end).await;
    let after = load.pid.map(cpu_seconds).transpose()?;
    for worker in workers {
        worker.await?;
    }

    let mut tally = tally.take();
    tally.latencies.sort_unstable();
    let measured = tally.latencies.len();
    let milliseconds = |share: f64| f64::from(quantile(&tally.latencies, share)) / 10_000.0;
    let cpu = before.zip(after).map(|(before, after)| (after - before) * 1e6 / ratio_base(measured));
    println!(
        "{}",
        json!({
            "connections": target.connections,
            "requests": measured,
            "errors": tally.errors,
            "answers": tally.answers,
            "per_second": measured as f64 / load.seconds,
            "cpu_us": cpu,
            "p50_ms": milliseconds(0.5),
            "p90_ms": milliseconds(0.9),
            "p99_ms": milliseconds(0.99),
            "p999_ms": milliseconds(0.999),
            "max_ms": milliseconds(1.0),
            "mean_body": tally.body_bytes as f64 / ratio_base(measured),
        })
    );
    Ok(())
}

/// One connection's part of the load, until `end`.
async fn keep_calling(
    target: &Target,
    shared: Option<String>,
    warm: Instant,
    end: Instant,
    tally: &RefCell<Tally>,
) -> Result<(), Error> {
    let mut connection = Connection::open(&target.address).await?;
    let session = match target.session() {
        Session::Perconn => request::initialize(target, &mut connection).await?,
        _ => shared,
    };
    let mut call = request::Call::new(target, session.as_deref());
    let mut own = Tally { latencies: Vec::with_capacity(1 << 16), ..Tally::default() };
    loop {
        let bytes = call.next();
        let begun = Instant::now();
        if begun >= end {
            break;
        }
        match connection.call(bytes).await {
            Ok(answer) => {
                own.answers += 1;
                if !target.is_expected(&answer) {
                    if own.errors == 0 {
                        eprintln!("unexpected: {} {}", answer.status, answer.excerpt());
                    }
                    own.errors += 1;
                } else if begun >= warm {
                    own.latencies.push(u32::try_from(begun.elapsed().as_nanos() / 100).unwrap_or(u32::MAX));
                    own.body_bytes += answer.body.len();
                }
            }
            Err(error) => {
                if own.errors == 0 {
                    eprintln!("connection: {error}");
                }
                own.errors += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
                connection = Connection::open(&target.address).await?;
            }
        }
    }
    let mut tally = tally.borrow_mut();
    tally.latencies.append(&mut own.latencies);
    tally.body_bytes += own.body_bytes;
    tally.errors += own.errors;
    tally.answers += own.answers;
    Ok(())
}

async fn open_sessions(sessions: Sessions) -> Result<(), Error> {
    let target = Rc::new(Target { era: Era::Legacy, ..sessions.target });
    let left = Rc::new(Cell::new(sessions.count));
    let ids = Rc::new(RefCell::new(Vec::new()));
    let closed = Rc::new(Cell::new(0u64));
    let begun = Instant::now();
    let workers: Vec<_> = (0..target.connections)
        .map(|_| {
            let (target, left, ids, closed) = (target.clone(), left.clone(), ids.clone(), closed.clone());
            tokio::task::spawn_local(async move {
                let work = async {
                    let mut connection = Connection::open(&target.address).await?;
                    while let Some(rest) = left.get().checked_sub(1) {
                        left.set(rest);
                        let id = request::initialize(&target, &mut connection).await?;
                        let id =
                            id.ok_or("the server opened no session: its answer has no Mcp-Session-Id")?;
                        if sessions.close {
                            let answer = connection.call(&request::delete(&target, &id)).await?;
                            if !(200..300).contains(&answer.status) {
                                return Err(format!("DELETE: {} {}", answer.status, answer.excerpt()).into());
                            }
                            closed.set(closed.get() + 1);
                        }
                        ids.borrow_mut().push(id);
                    }
                    Ok::<(), Error>(())
                };
                if let Err(error) = work.await {
                    eprintln!("a connection gave up: {error}");
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await?;
    }
    let ids = ids.take();
    println!(
        "{}",
        json!({
            "opened": ids.len(),
            "closed": closed.get(),
            "asked": sessions.count,
            "seconds": begun.elapsed().as_secs_f64(),
            "id_length": ids.first().map(String::len),
        })
    );
    if let Some(path) = sessions.ids {
        std::fs::write(path, ids.join("\n"))?;
    }
    Ok(())
}

async fn show_one(target: Target) -> Result<(), Error> {
    let mut connection = Connection::open(&target.address).await?;
    let session = match target.session() {
        Session::None => None,
        _ => request::initialize(&target, &mut connection).await?,
    };
    let answer = connection.call(request::Call::new(&target, session.as_deref()).next()).await?;
    println!("{}{}", String::from_utf8_lossy(answer.head), String::from_utf8_lossy(answer.body));
    if target.is_expected(&answer) { Ok(()) } else { Err("not the expected answer".into()) }
}

/// User and system time that `pid` has used, in seconds (proc(5), /proc/PID/stat fields 14 and 15; resolution 10 ms).
fn cpu_seconds(pid: u32) -> Result<f64, Error> {
    /// The unit of those fields, which Linux fixes for user space.
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is a name in parentheses, which may hold spaces.
    let (_, rest) = stat.rsplit_once(')').ok_or("unreadable /proc/PID/stat")?;
    let mut ticks = 0.0;
    for field in rest.split_ascii_whitespace().skip(11).take(2) {
        ticks += field.parse::<f64>()?;
    }
    Ok(ticks / TICKS_PER_SECOND)
}

/// The value below which `share` of the sorted `values` lie; 0 of none.
fn quantile(values: &[u32], share: f64) -> u32 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "share is between 0 and 1")]
    let at = (values.len().saturating_sub(1) as f64 * share).round() as usize;
    values.get(at).copied().unwrap_or(0)
}

fn ratio_base(count: usize) -> f64 {
    count.max(1) as f64
}
