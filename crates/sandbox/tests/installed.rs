//! What a command really runs.

#![expect(clippy::unwrap_used, clippy::string_slice, reason = "the helpers of tests may fail like tests")]

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use bartizan_sandbox::{Installed, Launch};

/// A folder to build in, and how a command starts there: `bin` is on the `PATH`, `home` is home.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().canonicalize().unwrap().join(path)
    }

    fn write(&self, path: &str, text: &str) -> PathBuf {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    fn program(&self, path: &str, text: &str) -> PathBuf {
        let path = self.write(path, text);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn look(&self, command: &[&str]) -> Installed {
        self.look_by(command, &format!("{}:/usr/bin:/bin", self.at("bin").display()))
    }

    /// The same with another `PATH`.
    fn look_by(&self, command: &[&str], path: &str) -> Installed {
        let (program, arguments) = command.split_first().unwrap();
        let environment = [("PATH", path.to_owned()), ("HOME", self.at("home").display().to_string())];
        let launch = Launch {
            program: program.into(),
            arguments: arguments.iter().map(Into::into).collect(),
            folder: Some(self.at("")),
            environment: environment.into_iter().map(|(n, v)| (n.into(), v.into())).collect(),
            confinement: None,
            helper: "/nonexistent/helper".into(),
        };
        launch.installed()
    }

    fn paths(&self, command: &[&str]) -> Vec<PathBuf> {
        self.look(command).files.into_iter().map(|file| file.path).collect()
    }
}

fn package(installed: Installed) -> (String, String, Option<String>) {
    let package = installed.package.unwrap();
    (package.name, package.version, package.integrity)
}

#[test]
fn a_program_its_interpreter_and_the_target_of_a_link_are_known_by_content() {
    let place = Place::new();
    let server = place.program("bin/server", "#!/bin/sh\necho one\n");
    let sh = Path::new("/bin/sh").canonicalize().unwrap();
    assert_eq!(place.paths(&["server"]), [server.clone(), sh]);
    let before = place.look(&["server"]);
    assert_eq!(before, place.look(&["server"]));
    // As long as it was, in the same place, within the same second.
    fs::write(&server, "#!/bin/sh\necho two\n").unwrap();
    let after = place.look(&["server"]);
    assert_ne!(before.files[0].sha256, after.files[0].sha256);
    assert_eq!(before.files[1], after.files[1]);

    let (one, two) = (place.program("one", "1"), place.program("two", "1"));
    symlink(&one, place.at("bin/linked")).unwrap();
    assert_eq!(place.paths(&["linked"]), [one]);
    fs::remove_file(place.at("bin/linked")).unwrap();
    symlink(&two, place.at("bin/linked")).unwrap();
    assert_eq!(place.paths(&["linked"]), [two], "the same content elsewhere is another file");
    assert_eq!(place.look(&["no-such-program"]), Installed::default());
}

/// Attack SC-13 by a `PATH` like `/usr/bin:`: what `exec` finds in the folder the child starts in is what must be known, not what lies
/// in the gateway's, or further along.
#[test]
fn relative_parts_of_the_path_are_looked_up_where_the_child_starts() {
    let place = Place::new();
    let (here, tools) = (place.program("server", "1"), place.program("tools/server", "2"));
    let sh = Path::new("/bin/sh").canonicalize().unwrap();
    for (path, expected) in [
        (":/usr/bin:/bin", &here),
        (".:/usr/bin:/bin", &here),
        ("/usr/bin:", &here),
        ("tools:.", &tools),
        ("nowhere:tools", &tools),
    ] {
        let found = place.look_by(&["server"], path);
        assert_eq!(&found.files[0].path, expected, "{path}");
    }
    // It comes before the system's.
    let shadow = place.program("sh", "3");
    assert_eq!(place.look_by(&["sh", "-c", "true"], ":/bin").files[0].path, shadow);
    assert_eq!(place.look_by(&["sh", "-c", "true"], "/bin:").files[0].path, sh);
    // So the kernel has it with the interpreter of a script.
    let interpreter = place.program("tools/run", "4");
    let script = place.program("bin/script", "#!tools/run\n");
    assert_eq!(place.paths(&["script"]), [script, interpreter]);
}

#[test]
fn a_script_behind_an_interpreter_is_known_whatever_the_options() {
    let place = Place::new();
    let node = place.program("bin/node", "node");
    let python = place.program("bin/python3", "python");
    let (main, hook) = (place.write("main.js", "run()"), place.write("hook.js", "hook()"));
    assert_eq!(place.paths(&["node", "main.js", "--port", "1"]), [node.clone(), main.clone()]);
    assert_eq!(
        place.paths(&["node", "--require", "hook.js", "-C", "x", "main.js"]),
        [node.clone(), hook, main.clone()]
    );
    assert_eq!(place.paths(&["node", "-e", "main.js"]), [node], "the code stands in the command");
    assert_eq!(place.paths(&["python3", "-X", "dev", "main.js"]), [python, main]);
}

fn install(place: &Place, root: &str, version: &str, integrity: &str) {
    place.write(
        &format!("{root}/@acme/files/package.json"),
        &format!("{{\"name\":\"@acme/files\",\"version\":\"{version}\"}}"),
    );
    place.program(&format!("{root}/@acme/files/cli.js"), "#!/usr/bin/env node\nserve()\n");
    place.write(
        &format!("{root}/.package-lock.json"),
        &format!(
            "{{\"packages\":{{\"node_modules/@acme/files\":{{\"version\":\"{version}\",\"integrity\":\"{integrity}\"}},\
             \"node_modules/left-pad\":{{\"version\":\"1.0.0\",\"integrity\":\"sha512-a\"}}}}}}"
        ),
    );
}

/// The cache's folder is named as libnpmexec names it.
#[test]
fn what_npx_runs_is_found_in_its_cache_with_version_and_integrity() {
    let place = Place::new();
    place.program("bin/npx", "npx");
    let command = ["npx", "-y", "@acme/files", "/srv"];
    assert_eq!(place.look(&command).package, None, "it is not installed yet");
    let cache = format!("home/.npm/_npx/{}/node_modules", cache_of("@acme/files"));
    install(&place, &cache, "1.2.3", "sha512-x");
    let expected = ("pkg:npm/%40acme/files".to_owned(), "1.2.3".to_owned(), Some("sha512-x".to_owned()));
    assert_eq!(package(place.look(&command)), expected);

    let before = place.look(&command).package.unwrap();
    place.write(&format!("{cache}/@acme/files/lib/steal.js"), "steal()");
    let after = place.look(&command).package.unwrap();
    assert_ne!(before.content, after.content, "a file more under the same version");
    assert_eq!(before.dependencies, after.dependencies);
    let lock = place.at(&format!("{cache}/.package-lock.json"));
    fs::write(&lock, fs::read_to_string(&lock).unwrap().replace("1.0.0", "1.0.1")).unwrap();
    assert_ne!(place.look(&command).package.unwrap().dependencies, before.dependencies, "another dependency");

    // A project's own comes before the cache; an exact version takes no other.
    install(&place, "node_modules", "2.0.0", "sha512-y");
    assert_eq!(package(place.look(&command)).1, "2.0.0");
    assert_eq!(place.look(&["npx", "@acme/files@3.0.0"]).package, None);
    assert_eq!(package(place.look(&["npx", "--package=@acme/files@2.0.0", "files"])).1, "2.0.0");
    for other in ["git+https://x.example/y", "http://x.example/y.tgz", "@acme", ".."] {
        assert_eq!(place.look(&["npx", other]).package, None, "{other}");
    }
}

fn cache_of(spec: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA512, spec.as_bytes());
    hex::encode(digest.as_ref())[..16].to_owned()
}

#[test]
fn a_program_of_an_installed_package_is_known_as_that() {
    let place = Place::new();
    place.program("bin/node", "node");
    install(&place, "node_modules", "1.2.3", "sha512-x");
    fs::create_dir_all(place.at("node_modules/.bin")).unwrap();
    symlink("../@acme/files/cli.js", place.at("node_modules/.bin/files")).unwrap();
    let by_link = place.look(&["node_modules/.bin/files"]);
    assert_eq!(by_link.files.len(), 2, "the script and node");
    assert_eq!(package(by_link).1, "1.2.3");
    assert_eq!(
        package(place.look(&["node", "node_modules/@acme/files/cli.js"])).2.as_deref(),
        Some("sha512-x")
    );

    // Somebody's own project: its script counts, not everything around it.
    place.write("own/package.json", "{\"name\":\"own\",\"version\":\"0.1.0\"}");
    place.write("own/src/main.js", "run()");
    let own = place.look(&["node", "own/src/main.js"]).package.unwrap();
    assert_eq!((own.name.as_str(), own.content), ("pkg:npm/own", None));
}

fn distribution(place: &Place, site: &str) {
    place.write(&format!("{site}/mcp_time/__init__.py"), "pass");
    place.write(
        &format!("{site}/mcp_time-0.4.0.dist-info/RECORD"),
        "mcp_time/__init__.py,sha256-a,4\n../../../bin/mcp-time,sha256-b,9\nmcp_time-0.4.0.dist-info/RECORD,,\n",
    );
    place.write(&format!("{site}/other-1.0.dist-info/RECORD"), "other.py,,\n");
}

/// A package cannot have the gate read what is not its own, which may have no end or wait for a writer (attacks.md SC-01).
#[test]
fn a_record_names_no_file_outside_its_environment() {
    let place = Place::new();
    place.program("venv/bin/python", "python");
    place.write("venv/pyvenv.cfg", "home = /usr/bin");
    let site = "venv/lib/python3.12/site-packages";
    distribution(&place, site);
    let secret = place.write("secret", "of another");
    symlink(&secret, place.at(&format!("{site}/mcp_time/link.py"))).unwrap();
    let record = place.at(&format!("{site}/mcp_time-0.4.0.dist-info/RECORD"));
    let own = fs::read_to_string(&record).unwrap();
    let outside =
        format!("/proc/self/pagemap,,\n{},,\n../../../../secret,,\nmcp_time/link.py,,\n", secret.display());
    fs::write(&record, own + &outside).unwrap();
    let look = || place.look(&["venv/bin/python", "-m", "mcp_time"]).package.unwrap();
    let before = look();
    place.write("secret", "of another, changed");
    assert_eq!(before, look(), "nobody looked there");
    place.write(&format!("{site}/mcp_time/__init__.py"), "evil");
    assert_ne!(before, look(), "the honest rows count as ever");
}

#[test]
fn what_python_runs_is_found_in_its_environment() {
    let place = Place::new();
    place.program("bin/uvx", "uvx");
    place.program("system/python3.12", "python");
    place.write("venv/pyvenv.cfg", "home = /usr/bin");
    fs::create_dir_all(place.at("venv/bin")).unwrap();
    symlink(place.at("system/python3.12"), place.at("venv/bin/python")).unwrap();
    distribution(&place, "venv/lib/python3.12/site-packages");
    place.program("venv/bin/mcp-time", &format!("#!{}\nmain()\n", place.at("venv/bin/python").display()));
    for command in [&["venv/bin/python", "-m", "mcp_time.server"][..], &["venv/bin/mcp-time", "--zone", "x"]]
    {
        let (name, version, integrity) = package(place.look(command));
        assert_eq!((name.as_str(), version.as_str()), ("pkg:pypi/mcp-time", "0.4.0"), "{command:?}");
        assert!(integrity.unwrap().starts_with("sha256-"));
    }
    let before = place.look(&["venv/bin/mcp-time"]).package;
    place.write("venv/lib/python3.12/site-packages/mcp_time/__init__.py", "evil");
    assert_ne!(before, place.look(&["venv/bin/mcp-time"]).package);
    assert_eq!(place.look(&["venv/bin/python", "-m", "nothing"]).package, None);

    assert_eq!(place.look(&["uvx", "mcp-time"]).package, None, "only uv knows where it will be");
    distribution(&place, "home/.local/share/uv/tools/mcp-time/lib/python3.12/site-packages");
    assert_eq!(package(place.look(&["uvx", "--from", "mcp.time==0.4.0", "mcp-time"])).1, "0.4.0");
    assert_eq!(place.look(&["uvx", "mcp-time@0.5.0"]).package, None);
}

/// A compiled file (PEP 552) of `source`, whose code is `code`.
fn compiled(source: &Path, flags: u32, is_fresh: bool, code: &str) -> Vec<u8> {
    use std::os::unix::fs::MetadataExt;
    let about = fs::metadata(source).unwrap();
    let modified = u32::try_from(about.mtime()).unwrap() - u32::from(!is_fresh);
    let size = u32::try_from(about.len()).unwrap();
    let head = [flags, modified, size].map(u32::to_le_bytes).concat();
    [b"\xcb\x0d\x0d\x0a", head.as_slice(), code.as_bytes()].concat()
}

/// The source is what was approved, and Python would run something else (attacks.md SC-13).
#[test]
fn what_python_would_load_in_the_place_of_a_source_is_part_of_what_is_run() {
    let site = "venv/lib/python3.12/site-packages";
    let module = format!("{site}/mcp_time/__init__.py");
    let cached = format!("{site}/mcp_time/__pycache__/__init__.cpython-312.pyc");
    let place = || {
        let place = Place::new();
        place.program("venv/bin/python", "python");
        place.write("venv/pyvenv.cfg", "home = /usr/bin");
        distribution(&place, site);
        place.write(&format!("{site}/mcp_time/clock.py"), "import time");
        place.write(&format!("{site}/other.py"), "another's");
        let record = place.at(&format!("{site}/mcp_time-0.4.0.dist-info/RECORD"));
        let listed = fs::read_to_string(&record).unwrap();
        fs::write(&record, listed + "mcp_time/clock.py,sha256-c,11\nmcp_single.py,sha256-d,4\n").unwrap();
        place.write(&format!("{site}/mcp_single.py"), "pass");
        place
    };
    let look = |place: &Place| place.look(&["venv/bin/python", "-m", "mcp_time"]).package.unwrap();
    let attack = |path: &str, content: &[u8]| {
        let place = place();
        let before = look(&place);
        let path = place.write(&format!("{site}/{path}"), "");
        fs::write(path, content).unwrap();
        let after = look(&place);
        assert_eq!(before.integrity, after.integrity, "the installer's list is as it was");
        before.content.is_some() && after.content.is_some() && before.content != after.content
    };
    for (path, what) in [
        ("mcp_time/clock.cpython-312-x86_64-linux-gnu.so", "an extension module comes before a source"),
        ("mcp_time/clock/__init__.py", "so does a package"),
        ("mcp_time/extra.pyc", "a compiled module without a source"),
        ("mcp_single.abi3.so", "beside a module of its own"),
        ("mcp_single/__init__.py", "a package in its place"),
        ("evil.pth", "run at every start"),
        ("sitecustomize.py", "run at every start"),
    ] {
        assert!(attack(path, b"steal"), "{path}: {what}");
    }
    for (path, what) in
        [("other.cpython-312.so", "another's module"), ("third/__init__.py", "another's package")]
    {
        assert!(!attack(path, b"steal"), "{path}: {what}");
    }

    let place = place();
    let before = look(&place);
    let put = |flags, is_fresh, code: &str| {
        let path = place.write(&cached, "");
        fs::write(path, compiled(&place.at(&module), flags, is_fresh, code)).unwrap();
        look(&place)
    };
    assert_eq!(put(0, false, "steal"), before, "Python compiles the source again");
    let fresh = put(0, true, "pass");
    assert_ne!(fresh, before, "it would be taken for the source");
    assert_ne!(put(0, true, "steal"), fresh, "by its content");
    for flags in [1, 3] {
        assert_ne!(put(flags, false, "steal"), before, "known by a digest, {flags}");
    }
    fs::write(place.at(&cached), "short").unwrap();
    assert_eq!(look(&place), before, "no compiled file");
    place.write(&format!("{site}/mcp_time/__pycache__/gone.cpython-312.pyc"), "0123456789abcdef");
    assert_eq!(look(&place), before, "without its source it is not looked for there");
    // A module in the site's own folder.
    let source = place.at(&format!("{site}/mcp_single.py"));
    let path = place.write(&format!("{site}/__pycache__/mcp_single.cpython-312.pyc"), "");
    fs::write(&path, compiled(&source, 0, true, "steal")).unwrap();
    assert_ne!(look(&place), before);
    fs::remove_file(&path).unwrap();
    let path = place.write(&format!("{site}/__pycache__/other.cpython-312.pyc"), "");
    fs::write(&path, compiled(&place.at(&format!("{site}/other.py")), 0, true, "anything")).unwrap();
    assert_eq!(look(&place), before, "another's");
}
