//! What a confined child can and cannot do. Each deed is done by this very binary, started again through the helper.

#![expect(clippy::unwrap_used, clippy::print_stdout, clippy::panic, reason = "a test without a harness")]

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    net::{TcpListener, TcpStream, UdpSocket},
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        net::{UnixDatagram, UnixListener, UnixStream},
        process::ExitStatusExt,
    },
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use bartizan_sandbox::{
    Confinement, EXIT_NOT_RUNNABLE, Error, HELPER_ARGUMENT, LARGEST_FILE, Launch, Network, can_confine,
    clean_environment, helper_main,
};
use rustix::{
    fs::{XattrFlags, inotify},
    net::{AddressFamily, SocketType, ipproto::SCTP},
    process::{Pid, Resource, Rlimit, Signal},
};
use tokio::io::AsyncReadExt;

/// Makes this binary a prisoner; the next arguments say what it tries, on what.
const PRISONER: &str = "__prisoner";
const DONE: u8 = 0;
const REFUSED: u8 = 3;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next() {
        Some(first) if first == HELPER_ARGUMENT => return helper_main(arguments),
        Some(first) if first == PRISONER => {
            let rest: Vec<_> = arguments.map(|argument| argument.into_string().unwrap()).collect();
            let on = rest.get(1).map(String::as_str).unwrap_or_default();
            return ExitCode::from(if deed(rest.first().unwrap(), on) { DONE } else { REFUSED });
        }
        _ => {}
    }
    if let Err(error) = can_confine() {
        // Elsewhere it refuses to start anything, which is all there is to see.
        println!("ok: {error}");
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let scene = Scene::new();
        files_are_those_that_were_named(&scene).await;
        println!("ok: files are those that were named");
        what_surrounds_a_file_stays_as_it_is(&scene).await;
        println!("ok: what surrounds a file stays as it is");
        what_it_can_exchange_opens_nothing(&scene).await;
        println!("ok: what it can exchange opens nothing");
        a_home_that_was_exchanged_starts_nothing(&scene).await;
        println!("ok: a home that was exchanged starts nothing");
        its_home_is_its_own_and_goes_with_it(&scene).await;
        println!("ok: its home is its own and goes with it");
        without_a_network_there_are_no_sockets(&scene).await;
        println!("ok: without a network there are no sockets");
        with_a_network_there_is_the_internet_and_no_daemon(&scene).await;
        println!("ok: with a network there is the internet and no daemon");
        others_are_out_of_reach(&scene).await;
        println!("ok: others are out of reach");
        what_it_starts_is_confined_too(&scene).await;
        println!("ok: what it starts is confined too");
        what_cannot_be_is_said_before_the_start(&scene);
        println!("ok: what cannot be is said before the start");
        orders_that_cannot_be_read_start_nothing().await;
        println!("ok: orders that cannot be read start nothing");
    });
    ExitCode::SUCCESS
}

/// Whether the deed could be done.
#[expect(clippy::disallowed_methods, reason = "a child that goes its own way out")]
fn deed(name: &str, on: &str) -> bool {
    let socket = |family, kind| rustix::net::socket(family, kind, None).is_ok();
    match name {
        "open" => fs::File::open(on).is_ok(),
        "read" => fs::read(on).is_ok(),
        "list" => fs::read_dir(on).is_ok(),
        "write" => fs::write(on, "x").is_ok(),
        "empty" => fs::OpenOptions::new().write(true).open(on).is_ok_and(|file| file.set_len(0).is_ok()),
        "link" => std::os::unix::fs::symlink("/etc/shadow", on).is_ok() && fs::read(on).is_ok(),
        "rename" => fs::rename(on, format!("{on}-moved")).is_ok(),
        "remove" => fs::remove_file(on).is_ok(),
        "grow" => fs::File::create(on).is_ok_and(|file| file.set_len(LARGEST_FILE + 1).is_ok()),
        "run" => Command::new(on).status().is_ok_and(|status| status.success()),
        "say" => {
            print!("{}", std::env::var(on).unwrap());
            true
        }
        "status" => {
            print!("{}", fs::read_to_string("/proc/self/status").unwrap());
            true
        }
        "tcp" => TcpStream::connect(on).is_ok(),
        "listen" => TcpListener::bind("127.0.0.1:0").is_ok(),
        "udp" => UdpSocket::bind("127.0.0.1:0").is_ok_and(|socket| socket.send_to(b"x", on).is_ok()),
        "unix" => UnixStream::connect(on).is_ok(),
        "netlink" => socket(AddressFamily::NETLINK, SocketType::RAW),
        "packet" => socket(AddressFamily::PACKET, SocketType::RAW),
        "raw" => socket(AddressFamily::INET, SocketType::RAW),
        "vsock" => socket(AddressFamily::from_raw(40), SocketType::STREAM),
        "pair" => UnixStream::pair().is_ok(),
        "datagram" => UnixDatagram::pair().is_ok_and(|(one, _)| one.send_to(b"x", on).is_ok()),
        "sctp" => rustix::net::socket(AddressFamily::INET, SocketType::STREAM, Some(SCTP)).is_ok(),
        "mode" => fs::set_permissions(on, fs::Permissions::from_mode(0o666)).is_ok(),
        "mode of an open file" => {
            fs::File::open(on).unwrap().set_permissions(fs::Permissions::from_mode(0o666)).is_ok()
        }
        "owner" => std::os::unix::fs::chown(on, None, Some(rustix::process::getgid().as_raw())).is_ok(),
        "attribute" => rustix::fs::setxattr(on, c"user.x", b"1", XattrFlags::empty()).is_ok(),
        "watch" => inotify::init(inotify::CreateFlags::empty())
            .is_ok_and(|watch| inotify::add_watch(&watch, on, inotify::WatchFlags::ALL_EVENTS).is_ok()),
        "limit" => {
            let none = Rlimit { current: Some(0), maximum: Some(0) };
            rustix::process::prlimit(Pid::from_raw(on.parse().unwrap()), Resource::Core, none).is_ok()
        }
        "own limit" => {
            let none = Rlimit { current: Some(0), maximum: Some(0) };
            rustix::process::prlimit(None, Resource::Core, none).is_ok()
        }
        "priority" => rustix::process::setpriority_process(Pid::from_raw(on.parse().unwrap()), 19).is_ok(),
        "signal" => {
            rustix::process::kill_process(Pid::from_raw(on.parse().unwrap()).unwrap(), Signal::CONT).is_ok()
        }
        "thread" => std::thread::spawn(|| 1).join().is_ok_and(|one| one == 1),
        "follow" => fs::read_link(on).is_ok(),
        _ => panic!("{name}"),
    }
}

struct Scene {
    folder: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["read", "write", "elsewhere", "closed"] {
            fs::create_dir(folder.path().join(name)).unwrap();
            fs::write(folder.path().join(name).join("file"), "content").unwrap();
        }
        Self { folder }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn launch(&self, network: Network, arguments: &[&str]) -> Launch {
        let ours = [("PATH", "/usr/bin:/bin"), ("HOME", "/root")];
        let binary = std::env::current_exe().unwrap();
        Launch {
            program: binary.clone().into(),
            arguments: [PRISONER].iter().chain(arguments).map(OsString::from).collect(),
            folder: None,
            environment: clean_environment(ours.map(|(k, v)| (k.into(), v.into())), &[], &BTreeMap::new()),
            confinement: Some(Confinement {
                read: vec![self.at("read")],
                write: vec![self.at("write")],
                network,
                closed: vec![self.at("closed")],
            }),
            helper: binary,
        }
    }

    /// Whether it could be done; what it said.
    async fn tries(&self, network: Network, name: &str, on: impl AsRef<Path>) -> (bool, String) {
        let on = on.as_ref().to_string_lossy().into_owned();
        let mut child = self.launch(network, &[name, &on]).start().unwrap();
        drop(child.take_stdin());
        let (mut said, mut complained) = (String::new(), String::new());
        child.take_stdout().unwrap().read_to_string(&mut said).await.unwrap();
        child.take_stderr().unwrap().read_to_string(&mut complained).await.unwrap();
        let status = child.wait().await.unwrap();
        let code = status.code();
        if name == "grow" && status.signal() == Some(Signal::XFSZ.as_raw()) {
            return (false, said);
        }
        assert!(
            code == Some(DONE.into()) || code == Some(REFUSED.into()),
            "{name} {on}: {code:?} {complained}"
        );
        (code == Some(DONE.into()), said)
    }

    async fn can(&self, name: &str, on: impl AsRef<Path>) -> bool {
        self.tries(Network::None, name, on).await.0
    }
}

async fn files_are_those_that_were_named(scene: &Scene) {
    let own = std::env::current_exe().unwrap();
    for allowed in ["/etc/hosts", "/proc/self/status", "/dev/urandom"] {
        assert!(scene.can("open", allowed).await, "{allowed}");
    }
    assert!(scene.can("list", "/usr").await);
    assert!(scene.can("read", scene.at("read/file")).await);
    assert!(scene.can("read", scene.at("write/file")).await);
    assert!(scene.can("write", scene.at("write/new")).await);
    assert!(scene.can("empty", scene.at("write/new")).await);
    assert!(scene.can("rename", scene.at("write/new")).await);
    assert!(scene.can("remove", scene.at("write/new-moved")).await);
    assert!(scene.can("write", "/dev/null").await);

    for secret in ["/etc/shadow", "/proc/1/cmdline", "/proc/1/environ", "/proc/kcore", "/proc/sysrq-trigger"]
    {
        assert!(!scene.can("read", secret).await, "{secret}");
    }
    for folder in ["/", "/etc", "/root", "/home", "/tmp", "/proc", "/dev", "/run", "/var"] {
        assert!(!scene.can("list", folder).await, "{folder}");
    }
    for (name, on) in [
        ("read", "elsewhere/file"),
        ("list", "elsewhere"),
        ("write", "elsewhere/new"),
        ("empty", "elsewhere/file"),
        ("rename", "elsewhere/file"),
        ("remove", "elsewhere/file"),
        ("write", "read/new"),
        ("empty", "read/file"),
        ("remove", "read/file"),
        ("read", "write/../elsewhere/file"),
        ("link", "write/link"),
        ("write", "new"),
    ] {
        assert!(!scene.can(name, scene.at(on)).await, "{name} {on}");
    }
    for name in ["elsewhere", "read"] {
        assert_eq!(fs::read_to_string(scene.at(name).join("file")).unwrap(), "content");
    }
    assert!(!scene.can("write", own.with_extension("new")).await, "not beside itself");
    assert!(!scene.can("grow", scene.at("write/large")).await, "1 TB is not written");
}

/// Landlock asks about none of these; they work by name, wherever the user's rights reach.
async fn what_surrounds_a_file_stays_as_it_is(scene: &Scene) {
    let (elsewhere, read) = (scene.at("elsewhere/file"), scene.at("read/file"));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    for path in [&elsewhere, &read] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(scene.can("mode", path).await, "who unpacks files is told that it was done");
        assert_eq!(mode(path), 0o600, "{}", path.display());
        // Even one that changes nothing shows in the inode's times.
        let changed = fs::metadata(path).unwrap().ctime_nsec();
        assert!(scene.can("owner", path).await && !scene.can("attribute", path).await);
        assert_eq!(fs::metadata(path).unwrap().ctime_nsec(), changed);
    }
    assert!(scene.can("mode of an open file", &read).await);
    assert_eq!(mode(&read), 0o600);
    assert!(!scene.can("watch", scene.at("elsewhere")).await, "names of files in it, as they are used");
}

/// A folder that it writes could become a link to anywhere before the next start.
async fn what_it_can_exchange_opens_nothing(scene: &Scene) {
    let inside = scene.at("write/inside");
    std::os::unix::fs::symlink(scene.at("elsewhere"), &inside).unwrap();
    let mut launch = scene.launch(Network::None, &["read", &scene.at("elsewhere/file").to_string_lossy()]);
    launch.confinement.as_mut().unwrap().read.push(inside.clone());
    launch.folder = Some(inside.clone());
    assert_eq!(launch.start().unwrap().wait().await.unwrap().code(), Some(REFUSED.into()));
    fs::remove_file(&inside).unwrap();
    // The neighbour: a link that is not its own to exchange.
    let link = scene.at("link");
    std::os::unix::fs::symlink(scene.at("elsewhere"), &link).unwrap();
    let mut launch = scene.launch(Network::None, &["read", &scene.at("elsewhere/file").to_string_lossy()]);
    launch.confinement.as_mut().unwrap().read.push(link.clone());
    assert_eq!(launch.start().unwrap().wait().await.unwrap().code(), Some(DONE.into()));
    fs::remove_file(&link).unwrap();
}

/// Its home is new, and who writes around it can put something else there before it is opened; here the helper does.
async fn a_home_that_was_exchanged_starts_nothing(scene: &Scene) {
    let (helper, note) = (scene.at("helper"), scene.at("note"));
    let own = std::env::current_exe().unwrap();
    let link =
        format!("mv \"$HOME\" \"$HOME-moved\" && ln -s '{}' \"$HOME\"", scene.at("elsewhere").display());
    let folder = "mv \"$HOME\" \"$HOME-moved\" && mkdir \"$HOME\"";
    let refused: Option<i32> = Some(EXIT_NOT_RUNNABLE.into());
    for (first, code) in [("true", Some(REFUSED.into())), (link.as_str(), refused), (folder, refused)] {
        let script = format!(
            "#!/bin/sh\nprintf %s \"$HOME\" >'{}'\n{first}\nexec '{}' \"$@\"\n",
            note.display(),
            own.display()
        );
        fs::write(&helper, script).unwrap();
        fs::set_permissions(&helper, fs::Permissions::from_mode(0o700)).unwrap();
        let secret = scene.at("elsewhere/file").to_string_lossy().into_owned();
        let launch = Launch { helper: helper.clone(), ..scene.launch(Network::None, &["read", &secret]) };
        let mut child = launch.start().unwrap();
        drop(child.take_stdin());
        let mut said = String::new();
        child.take_stderr().unwrap().read_to_string(&mut said).await.unwrap();
        assert_eq!(child.wait().await.unwrap().code(), code, "{first}: {said}");
        assert_eq!(said.contains("exchanged"), code == refused, "{first}: {said}");
        let home = PathBuf::from(fs::read_to_string(&note).unwrap());
        let moved = PathBuf::from(format!("{}-moved", home.display()));
        assert_eq!(moved.exists(), code == refused, "{first}");
        if moved.exists() {
            fs::remove_dir(moved).unwrap();
            fs::remove_file(&home).or_else(|_| fs::remove_dir(&home)).unwrap();
        }
    }
    assert_eq!(fs::read_to_string(scene.at("elsewhere/file")).unwrap(), "content");
    fs::remove_file(helper).unwrap();
    fs::remove_file(note).unwrap();
}

async fn its_home_is_its_own_and_goes_with_it(scene: &Scene) {
    let (_, home) = scene.tries(Network::None, "say", "HOME").await;
    assert!(Path::new(&home).is_absolute() && home != "/root", "{home}");
    let (_, temporary) = scene.tries(Network::None, "say", "TMPDIR").await;
    assert_ne!(home, temporary, "each child has one of its own");
    // It is taken away behind our back.
    for _ in 0..100 {
        if !Path::new(&home).exists() && !Path::new(&temporary).exists() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("{home} or {temporary} stayed");
}

async fn without_a_network_there_are_no_sockets(scene: &Scene) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let daemon = scene.at("write/daemon");
    let _unix = UnixListener::bind(&daemon).unwrap();
    for name in ["tcp", "udp", "listen", "netlink", "packet", "raw", "vsock"] {
        assert!(!scene.can(name, &address).await, "{name}");
    }
    assert!(!scene.can("unix", &daemon).await, "a daemon's door is no file");
    let _log = UnixDatagram::bind(scene.at("elsewhere/log")).unwrap();
    assert!(!scene.can("datagram", scene.at("elsewhere/log")).await, "the system's log is a daemon too");
    fs::remove_file(scene.at("elsewhere/log")).unwrap();
    assert!(scene.can("pair", "").await, "what it starts can be talked to");
    fs::remove_file(daemon).unwrap();
}

async fn with_a_network_there_is_the_internet_and_no_daemon(scene: &Scene) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let daemon = scene.at("write/daemon");
    let _unix = UnixListener::bind(&daemon).unwrap();
    for (name, may) in [
        ("tcp", true),
        ("udp", true),
        ("listen", true),
        // Which interfaces there are.
        ("netlink", true),
        ("packet", false),
        ("raw", false),
        ("vsock", false),
        ("sctp", false),
    ] {
        assert_eq!(scene.tries(Network::Open, name, &address).await.0, may, "{name}");
    }
    assert!(
        !scene.tries(Network::Open, "unix", &daemon).await.0,
        "docker, the session bus, an agent of keys"
    );
    fs::remove_file(daemon).unwrap();
}

async fn others_are_out_of_reach(scene: &Scene) {
    let me = std::process::id();
    for what in ["environ", "cmdline", "maps"] {
        assert!(!scene.can("read", format!("/proc/{me}/{what}")).await, "{what}");
    }
    assert!(!scene.can("follow", format!("/proc/{me}/exe")).await);
    if Path::new("/proc/version").exists() && knows_scopes() {
        assert!(!scene.can("signal", me.to_string()).await);
    }
    let before = rustix::process::getrlimit(Resource::Core);
    for name in ["limit", "priority"] {
        assert!(!scene.can(name, me.to_string()).await, "{name}");
    }
    assert_eq!(rustix::process::getrlimit(Resource::Core), before);
    assert!(scene.can("own limit", "").await);
    let (_, status) = scene.tries(Network::None, "status", "").await;
    let line =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    for capabilities in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(u64::from_str_radix(&line(capabilities), 16).unwrap(), 0, "{capabilities}");
    }
    assert_eq!((line("NoNewPrivs:").as_str(), line("Seccomp:").as_str()), ("1", "2"));
}

/// Whether the kernel can keep signals in: Linux 6.12.
fn knows_scopes() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(12))
}

async fn what_it_starts_is_confined_too(scene: &Scene) {
    assert!(scene.can("thread", "").await);
    assert!(scene.can("run", "/bin/true").await, "the system's programs run");
    let script = scene.at("write/script");
    let secret = scene.at("elsewhere/file");
    fs::write(&script, format!("#!/bin/sh\ncat {}\n", secret.display())).unwrap();
    Command::new("chmod").arg("755").arg(&script).status().unwrap();
    assert!(!scene.can("run", &script).await, "what it can write it cannot run");
    let inside = scene.at("read/script");
    fs::copy(&script, &inside).unwrap();
    assert!(!scene.can("run", &inside).await, "what it reads is no program");
    let launch = Launch {
        program: "/bin/cat".into(),
        arguments: vec![secret.into()],
        ..scene.launch(Network::None, &[])
    };
    let mut child = launch.start().unwrap();
    assert_eq!(child.wait().await.unwrap().code(), Some(1));
    // With name spaces of its own it would have every capability in them.
    let launch = Launch {
        program: "unshare".into(),
        arguments: ["--user", "--map-root-user", "true"].map(OsString::from).into(),
        ..scene.launch(Network::None, &[])
    };
    if launch.check().is_ok() {
        let mut child = launch.start().unwrap();
        let mut said = String::new();
        child.take_stderr().unwrap().read_to_string(&mut said).await.unwrap();
        assert!(!child.wait().await.unwrap().success() && said.contains("not permitted"), "{said}");
    }
}

fn what_cannot_be_is_said_before_the_start(scene: &Scene) {
    let mut launch = scene.launch(Network::None, &["thread"]);
    launch.confinement.as_mut().unwrap().read.push(scene.at("nowhere"));
    let error = launch.start().unwrap_err();
    assert!(matches!(&error, Error::NoPlace(path) if *path == scene.at("nowhere")), "{error}");
    let link = scene.at("to-closed");
    std::os::unix::fs::symlink(scene.at("closed"), &link).unwrap();
    let closed = |name: &str| {
        let path = scene.at(name);
        let mut read = scene.launch(Network::None, &["thread"]);
        read.confinement.as_mut().unwrap().read.push(path.clone());
        let folder = Launch { folder: Some(path), ..scene.launch(Network::None, &["thread"]) };
        for launch in [read, folder] {
            let error = launch.start().unwrap_err();
            assert!(matches!(&error, Error::Opens { .. }), "{name}: {error}");
        }
    };
    ["closed", "to-closed", "."].into_iter().for_each(closed);
    fs::remove_file(link).unwrap();
    // What every child reaches may be around it as well.
    let mut launch = scene.launch(Network::None, &["thread"]);
    launch.confinement.as_mut().unwrap().closed.push("/usr/src/gate/.bartizan".into());
    let error = launch.start().unwrap_err();
    assert!(matches!(&error, Error::Opens { path, .. } if path == Path::new("/usr")), "{error}");
    let own = std::env::current_exe().unwrap();
    for write in [own.clone(), own.parent().unwrap().to_owned()] {
        let mut launch = scene.launch(Network::None, &["thread"]);
        launch.program = "/bin/sh".into();
        launch.arguments = vec![own.clone().into()];
        launch.confinement.as_mut().unwrap().write.push(write);
        let error = launch.start().unwrap_err();
        assert!(matches!(&error, Error::WritesProgram { program, .. } if *program == own), "{error}");
    }
}

async fn orders_that_cannot_be_read_start_nothing() {
    let parent = std::process::id().to_string();
    let no_such_network =
        r#"{"runs":[],"home":"/tmp","home_identity":[1,2],"read":[],"write":[],"network":"all","closed":[]}"#;
    let no_identity = r#"{"runs":[],"home":"/tmp","read":[],"write":[],"network":"none","closed":[]}"#;
    for orders in ["{}", no_such_network, no_identity, ""] {
        let helper = std::env::current_exe().unwrap();
        let output = Command::new(helper)
            .args([HELPER_ARGUMENT, &parent, orders, "/bin/echo", "hello"])
            .output()
            .unwrap();
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(2), &[][..]), "{orders}");
    }
    // Whatever was there before the start, what is opened counts.
    let swapped = r#"{"runs":[],"home":"/tmp","home_identity":[1,2],"read":["/tmp"],"write":[],"network":"none","closed":["/tmp/keys"]}"#;
    let mut helper = Command::new(std::env::current_exe().unwrap());
    helper.args([HELPER_ARGUMENT, &parent, swapped, "/bin/echo", "hello"]);
    let output = helper.output().unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(EXIT_NOT_RUNNABLE.into()), 0));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/tmp/keys"), "{output:?}");
    let nowhere = r#"{"runs":[],"home":"/nowhere","home_identity":[1,2],"read":[],"write":[],"network":"none","closed":[]}"#;
    let mut helper = Command::new(std::env::current_exe().unwrap());
    helper.args([HELPER_ARGUMENT, &parent, nowhere, "/bin/echo", "hello"]);
    let output = helper.output().unwrap();
    assert_eq!(output.status.code(), Some(EXIT_NOT_RUNNABLE.into()));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nowhere"), "{output:?}");
}
