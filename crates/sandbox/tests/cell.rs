//! What a process in a cell can and cannot do. Each case is this very binary, started again.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test without a harness")]

use std::{
    io::{Read, Write},
    os::unix::process::ExitStatusExt,
    process::{Command, ExitCode, Output, Stdio},
    time::Duration,
};

use bartizan_sandbox::cell::{Cell, CellLimits, enter};

/// Makes this binary a prisoner; the next argument says what it tries.
const PRISONER: &str = "__prisoner";
const LIMITS: CellLimits = CellLimits { memory: 512 << 20, processor: Duration::from_secs(1) };

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, deed, ..] = arguments.as_slice()
        && first == PRISONER
    {
        return prisoner(deed);
    }
    let cell = it_reads_and_answers();
    println!("ok: it reads and answers, {cell:?}");
    what_it_may_not_do_ends_it(cell);
    println!("ok: what it may not do ends it");
    its_memory_and_its_time_are_bounded();
    println!("ok: its memory and its time are bounded");
    ExitCode::SUCCESS
}

/// Enters the cell, says what is in force, then tries `deed`.
fn prisoner(deed: &str) -> ExitCode {
    let Ok(cell) = enter(LIMITS) else { return ExitCode::from(9) };
    let mut output = std::io::stdout();
    output.write_all(&[cell.to_byte()]).unwrap();
    output.flush().unwrap();
    let succeeded = match deed {
        "answer" => {
            let mut asked = String::new();
            std::io::stdin().read_to_string(&mut asked).unwrap();
            // Maps are seeded, memory is had and given back, panics are caught.
            let map: std::collections::HashMap<u32, String> =
                (0..10_000).map(|n| (n, asked.clone())).collect();
            std::panic::set_hook(Box::new(|_| {}));
            let caught = std::panic::catch_unwind(|| "x".parse::<usize>().unwrap());
            output.write_all(map.get(&7).unwrap().as_bytes()).unwrap();
            output.flush().unwrap();
            caught.is_err()
        }
        "open" => std::fs::File::open("/etc/passwd").is_ok(),
        "list" => std::fs::read_dir("/").is_ok(),
        "write" => std::fs::write("/tmp/bartizan-cell", "x").is_ok(),
        "connect" => {
            rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None)
                .is_ok()
        }
        "start" => Command::new("/bin/true").status().is_ok(),
        "thread" => std::thread::Builder::new().spawn(|| ()).is_ok(),
        "kill" => rustix::process::kill_process(
            rustix::process::Pid::from_raw(1).unwrap(),
            rustix::process::Signal::CONT,
        )
        .is_ok(),
        "hoard" => {
            let hoard = vec![1_u8; 1 << 30];
            hoard.contains(&1)
        }
        "spin" => {
            let mut turns = 0_u64;
            loop {
                turns = std::hint::black_box(turns.wrapping_add(1));
            }
        }
        _ => false,
    };
    ExitCode::from(if succeeded { 0 } else { 3 })
}

fn try_to(deed: &str) -> Output {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([PRISONER, deed])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // Who does not listen has ended.
    let _ = child.stdin.take().unwrap().write_all(b"words");
    child.wait_with_output().unwrap()
}

fn it_reads_and_answers() -> Cell {
    let output = try_to("answer");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let (first, rest) = output.stdout.split_first().unwrap();
    assert_eq!(rest, b"words");
    assert_eq!(Cell::from_byte(4), None);
    Cell::from_byte(*first).unwrap()
}

fn what_it_may_not_do_ends_it(cell: Cell) {
    for deed in ["open", "list", "write", "connect", "start", "thread", "kill"] {
        let status = try_to(deed).status;
        if cell.calls {
            assert_eq!(status.signal(), Some(libc_sigsys()), "{deed}: {status:?}");
        } else if deed != "kill" {
            // Without seccomp there are Landlock and the limits; root is above some of those.
            assert_ne!(status.code(), Some(0), "{deed}: {status:?}");
        }
    }
    assert!(!std::path::Path::new("/tmp/bartizan-cell").exists());
}

fn its_memory_and_its_time_are_bounded() {
    for deed in ["hoard", "spin"] {
        let status = try_to(deed).status;
        assert!(status.signal().is_some(), "{deed}: {status:?}");
    }
}

/// SIGSYS, by which a filter ends a process.
fn libc_sigsys() -> i32 {
    rustix::process::Signal::SYS.as_raw()
}
