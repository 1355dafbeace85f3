//! Starts real children through the helper, which is this very binary.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test without a harness")]

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    os::{fd::AsFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use bartizan_sandbox::{
    EXIT_NO_PROGRAM, EXIT_NOT_RUNNABLE, Error, HELPER_ARGUMENT, Ladder, Launch, clean_environment,
    helper_main, make_non_dumpable,
};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

/// Makes this binary a gateway that starts one child, says its process id and waits.
const GATEWAY: &str = "__gateway";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next() {
        Some(a) if a == HELPER_ARGUMENT => return helper_main(arguments),
        Some(a) if a == GATEWAY => return gateway(),
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        the_child_has_nothing_it_was_not_given().await;
        println!("ok: nothing it was not given");
        arguments_are_inert().await;
        println!("ok: arguments are inert");
        missing_programs_are_named();
        println!("ok: missing programs are named");
        the_ladder_ends_everybody().await;
        println!("ok: the ladder ends everybody");
        a_dropped_child_takes_its_group_along().await;
        println!("ok: a dropped child takes its group along");
        what_cannot_be_run_is_named().await;
        println!("ok: what cannot be run is named");
        children_outlive_the_thread_that_asked_for_them().await;
        println!("ok: children outlive the thread that asked for them");
        children_die_with_the_gateway().await;
        println!("ok: children die with the gateway");
        a_gateway_nobody_may_look_into_starts_children().await;
        println!("ok: a gateway nobody may look into starts children");
    });
    ExitCode::SUCCESS
}

fn launch(program: &str, arguments: &[&str]) -> Launch {
    let ours = [("PATH", "/usr/bin:/bin"), ("SECRET_TOKEN", "s3cret"), ("LANG", "C"), ("ALLOWED", "yes")];
    let ours = ours.map(|(k, v)| (OsString::from(k), OsString::from(v)));
    let set = BTreeMap::from([("SET".to_owned(), "here".to_owned())]);
    Launch {
        program: program.into(),
        arguments: arguments.iter().map(OsString::from).collect(),
        folder: None,
        environment: clean_environment(ours, &["ALLOWED".into()], &set),
        confinement: None,
        helper: std::env::current_exe().unwrap(),
    }
}

async fn output(launch: &Launch) -> String {
    let mut child = launch.start().unwrap();
    drop(child.take_stdin());
    let mut text = String::new();
    child.take_stdout().unwrap().read_to_string(&mut text).await.unwrap();
    child.wait().await.unwrap();
    text
}

async fn the_child_has_nothing_it_was_not_given() {
    // An open file that children would inherit.
    let leak = fs::File::open("/etc/hostname").or_else(|_| fs::File::open("/etc/passwd")).unwrap();
    rustix::io::fcntl_setfd(leak.as_fd(), rustix::io::FdFlags::empty()).unwrap();

    let mut environment: Vec<_> = output(&launch("env", &[])).await.lines().map(str::to_owned).collect();
    environment.sort();
    assert_eq!(
        environment,
        ["ALLOWED=yes", "LANG=C", "PATH=/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE=1", "SET=here"]
    );

    // `ls` lists its own, and holds the folder open while it does.
    let fds = output(&launch("ls", &["-l", "/proc/self/fd"])).await;
    let mut open: Vec<_> = fds.lines().filter_map(|l| l.split_once(" -> ")).collect();
    open.retain(|(_, target)| !target.starts_with("/proc/"));
    let mut numbers: Vec<_> = open.iter().filter_map(|(left, _)| left.split(' ').next_back()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, ["0", "1", "2"], "inherited descriptors: {fds}");
    drop(leak);

    let status = output(&launch("cat", &["/proc/self/status"])).await;
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    let mask = |name: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(name)).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    };
    assert_eq!(mask("SigBlk:"), 0, "{status}");
    assert_eq!(mask("SigIgn:") & (1 << (rustix::process::Signal::PIPE.as_raw() - 1)), 0, "{status}");
    assert_eq!(output(&launch("sh", &["-c", "umask"])).await.trim_end(), "0077");
    // Soft and hard, or the child could have its cores back.
    let limits = output(&launch("cat", &["/proc/self/limits"])).await;
    let core = limits.lines().find_map(|l| l.strip_prefix("Max core file size")).unwrap();
    assert!(core.split_whitespace().take(2).eq(["0", "0"]), "{core}");

    let group = output(&launch("sh", &["-c", "cut -d' ' -f5 /proc/$$/stat; echo $$"])).await;
    let lines: Vec<_> = group.lines().collect();
    assert_eq!(lines.first(), lines.get(1), "it leads its own group");
}

async fn arguments_are_inert() {
    let canary = std::env::temp_dir().join(format!("bartizan-canary-{}", std::process::id()));
    let hostile = format!(";$(touch {0}) `touch {0}` | touch {0}", canary.display());
    assert_eq!(output(&launch("echo", &[&hostile])).await.trim_end(), hostile);
    assert!(!canary.exists());
}

fn missing_programs_are_named() {
    assert!(
        matches!(launch("no-such-program", &[]).start(), Err(Error::NoProgram(name)) if name == "no-such-program")
    );
    assert!(matches!(launch("/etc/passwd", &[]).start(), Err(Error::NoProgram(_))));
    let script = tempfile::tempdir().unwrap();
    let path = script.path().join("script");
    fs::write(&path, "touch /tmp/never\n").unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    assert!(
        matches!(launch(path.to_str().unwrap(), &[]).start(), Err(Error::NoInterpreter(_))),
        "no shell guesses"
    );
    let mut nowhere = launch("true", &[]);
    nowhere.folder = Some(PathBuf::from("/no/such/folder"));
    assert!(matches!(nowhere.start(), Err(Error::NoFolder(_))));
}

async fn the_ladder_ends_everybody() {
    let script = "trap '' TERM; (trap '' TERM; echo child; exec sleep 600) & echo $!; wait";
    let mut child = launch("sh", &["-c", script]).start().unwrap();
    let mut stdin = child.take_stdin().unwrap();
    let _ = stdin.write_all(b"\n").await;
    let mut out = child.take_stdout().unwrap();
    let mut text = vec![0; 64];
    let mut grandchild = None;
    while grandchild.is_none() {
        let n = out.read(&mut text).await.unwrap();
        grandchild =
            String::from_utf8_lossy(text.get(..n).unwrap()).lines().find_map(|l| l.parse::<u32>().ok());
    }
    drop(stdin);
    child
        .stop(Ladder { after_close: Duration::from_millis(50), after_term: Duration::from_millis(50) })
        .await;
    wait_until_gone(&format!("/proc/{}", grandchild.unwrap())).await;
}

/// Waits until a process or thread is gone or dead but not buried.
async fn wait_until_gone(path: &str) {
    let gone = || {
        !Path::new(path).exists()
            || fs::read_to_string(format!("{path}/stat")).is_ok_and(|s| s.contains(") Z "))
    };
    for _ in 0..200 {
        if gone() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(gone(), "{path} survived");
}

async fn first_line(from: impl tokio::io::AsyncRead + Unpin) -> String {
    let mut line = String::new();
    BufReader::new(from).read_line(&mut line).await.unwrap();
    line.trim_end().to_owned()
}

async fn a_dropped_child_takes_its_group_along() {
    let mut child = launch("sh", &["-c", "sleep 600 & echo $!; wait"]).start().unwrap();
    let grandchild = first_line(child.take_stdout().unwrap()).await;
    assert!(child.try_wait().unwrap().is_none());
    drop(child);
    wait_until_gone(&format!("/proc/{grandchild}")).await;

    // The leader goes by itself; what it left behind goes when that is noticed.
    let mut child =
        launch("sh", &["-c", "sleep 600 </dev/null >/dev/null 2>&1 & echo $!; exit 7"]).start().unwrap();
    let grandchild = first_line(child.take_stdout().unwrap()).await;
    assert_eq!(child.wait().await.unwrap().code(), Some(7));
    wait_until_gone(&format!("/proc/{grandchild}")).await;
}

async fn what_cannot_be_run_is_named() {
    let folder = tempfile::tempdir().unwrap();
    for (name, content, code) in [
        ("no-interpreter", "#!/no/such/interpreter\n", EXIT_NO_PROGRAM),
        ("not-runnable", "#!/\n", EXIT_NOT_RUNNABLE),
    ] {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let mut child = launch(path.to_str().unwrap(), &[]).start().unwrap();
        let complaint = first_line(child.take_stderr().unwrap()).await;
        assert!(complaint.starts_with("bartizan: cannot start ") && complaint.contains(name), "{complaint}");
        assert_eq!(child.wait().await.unwrap().code(), Some(code.into()), "{complaint}");
    }
}

async fn children_outlive_the_thread_that_asked_for_them() {
    let runtime = tokio::runtime::Handle::current();
    let asking = std::thread::spawn(move || {
        runtime.block_on(async {
            let mut child = launch("sh", &["-c", "echo up; exec cat"]).start().unwrap();
            let mut out = BufReader::new(child.take_stdout().unwrap());
            let mut line = String::new();
            // From here on the child is confined, and would die with its parent.
            out.read_line(&mut line).await.unwrap();
            assert_eq!(line, "up\n");
            let thread = format!("/proc/self/task/{}", rustix::thread::gettid().as_raw_nonzero());
            (child, out, thread)
        })
    });
    let (mut child, out, thread) = tokio::task::spawn_blocking(|| asking.join().unwrap()).await.unwrap();
    wait_until_gone(&thread).await;
    child.take_stdin().unwrap().write_all(b"still here\n").await.unwrap();
    assert_eq!(first_line(out).await, "still here");
}

/// See [`GATEWAY`].
fn gateway() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        // Its standard input stays open, so that only the signal can end it.
        let mut child = launch("sh", &["-c", "echo $$; exec sleep 600"]).start().unwrap();
        println!("{}", first_line(child.take_stdout().unwrap()).await);
        child.wait().await.unwrap();
    });
    ExitCode::SUCCESS
}

async fn children_die_with_the_gateway() {
    let mut gateway = tokio::process::Command::new(std::env::current_exe().unwrap())
        .arg(GATEWAY)
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let child = first_line(gateway.stdout.take().unwrap()).await;
    assert!(Path::new(&format!("/proc/{child}")).exists(), "{child}");
    gateway.kill().await.unwrap();
    wait_until_gone(&format!("/proc/{child}")).await;
}

async fn a_gateway_nobody_may_look_into_starts_children() {
    use rustix::process::{DumpableBehavior, dumpable_behavior};
    make_non_dumpable().unwrap();
    assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
    let by_link = Launch { helper: "/proc/self/exe".into(), ..launch("echo", &["hello"]) };
    assert_eq!(output(&by_link).await, "hello\n");
}
