//! The command stays, what it runs does not (attacks.md SC-01, SC-13; MCPoison, CVE-2025-54136).

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use bartizan_trials::{Gate, binary, eventually, prober_path};

const WITHHELD: i64 = -31005;

/// A package as npm installs one, whose program notes that it was started.
struct Package(tempfile::TempDir);

impl Package {
    fn new(version: &str, integrity: &str) -> Self {
        let package = Self(tempfile::tempdir().unwrap());
        package.install(version, integrity, "");
        fs::create_dir_all(package.at("node_modules/.bin")).unwrap();
        symlink("../files/cli", package.program()).unwrap();
        package
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn program(&self) -> PathBuf {
        self.at("node_modules/.bin/files")
    }

    /// Installs it anew, with `more` in its program.
    fn install(&self, version: &str, integrity: &str, more: &str) {
        let write = |path: &str, text: String| {
            let (path, draft) = (self.at(path), self.at("draft"));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&draft, text).unwrap();
            fs::set_permissions(&draft, fs::Permissions::from_mode(0o755)).unwrap();
            fs::rename(draft, path).unwrap();
        };
        let started = self.at("started").display().to_string();
        write("node_modules/files/package.json", format!("{{\"name\":\"files\",\"version\":\"{version}\"}}"));
        write(
            "node_modules/.package-lock.json",
            format!(
                "{{\"packages\":{{\"node_modules/files\":{{\"version\":\"{version}\",\"integrity\":\"{integrity}\"}}}}}}"
            ),
        );
        write(
            "node_modules/files/cli",
            format!(
                "#!/bin/sh\n{more}\necho {version} >> {started}\nexec {} --modern\n",
                prober_path().display()
            ),
        );
    }

    /// The versions that were started, in order.
    fn started(&self) -> Vec<String> {
        let text = fs::read_to_string(self.at("started")).unwrap_or_default();
        text.lines().map(ToOwned::to_owned).collect()
    }

    fn config(&self, more: &str) -> String {
        format!(
            "[[servers]]\nname = \"s\"\ncommand = [{:?}]\ntrust_on_first_use = true\n{more}\n",
            self.program().display().to_string()
        )
    }
}

fn works(gate: &Gate) -> bool {
    gate.client().call("/mcp/s", "echo", r#"{"word":"tea"}"#).said() == r#"{"word":"tea"}"#
}

fn refused(gate: &Gate) -> bool {
    let answer = gate.client().call("/mcp/s", "echo", "{}");
    let reason = answer.json()["error"]["data"]["reason"].clone();
    (answer.status, answer.code()) == (200, Some(WITHHELD)) && reason == "pins.identity_changed"
}

fn tools(gate: &Gate, arguments: &[&str]) -> String {
    let config = gate.folder().join("bartizan.toml");
    let done =
        Command::new(binary()).arg("tools").args(arguments).arg("--config").arg(config).output().unwrap();
    String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned()
}

fn approve(gate: &Gate) {
    let said = tools(gate, &["approve", "--server", "s", "--yes", "--all"]);
    eventually(&format!("approval: {said}"), || works(gate).then_some(()));
}

/// Also: SC-13.
#[test]
fn sc_01_a_package_that_changes_under_its_command_is_held_and_not_started() {
    let package = Package::new("1.0.15", "sha512-good");
    let mut gate = Gate::start(&package.config(""));
    eventually("the server", || works(&gate).then_some(()));

    // The update that nobody asked for: same command, same tools, one thing more.
    package.install("1.0.16", "sha512-evil", ": and steals");
    eventually("the hold", || refused(&gate).then_some(()));
    let seen = tools(&gate, &["diff", "--server", "s"]);
    for shown in ["1.0.15", "1.0.16", "sha512-good", "sha512-evil", "node_modules/files/cli"] {
        assert!(seen.contains(shown), "{shown}: {seen}");
    }
    gate.restart();
    assert!(refused(&gate));
    assert!(package.started().iter().all(|version| version == "1.0.15"), "{:?}", package.started());

    approve(&gate);
    assert!(package.started().contains(&"1.0.16".to_owned()));
}

/// One byte in a file on disk, the version as before; and a link that leads elsewhere.
#[test]
fn sc_01_a_program_exchanged_on_disk_is_not_started() {
    let package = Package::new("1.0.0", "sha512-good");
    let mut gate = Gate::start(&package.config(""));
    eventually("the server", || works(&gate).then_some(()));
    package.install("1.0.0", "sha512-good", "#");
    eventually("the hold", || refused(&gate).then_some(()));
    approve(&gate);

    let other = package.at("other");
    fs::copy(package.at("node_modules/files/cli"), &other).unwrap();
    fs::remove_file(package.program()).unwrap();
    symlink(&other, package.program()).unwrap();
    let before = package.started().len();
    gate.restart();
    assert!(refused(&gate));
    assert_eq!(package.started().len(), before, "nothing was started to find that out");
}

/// What a gate of an older version pinned says nothing of files: the first look completes it, and is no alarm.
#[test]
fn sc_01_what_was_pinned_without_its_program_is_completed_at_first_sight() {
    let package = Package::new("1.0.0", "sha512-good");
    let gate = Gate::start(&package.config("dangerous_any_program = true"));
    eventually("the server", || works(&gate).then_some(()));
    package.install("1.0.1", "sha512-new", "");
    gate.reconfigure(&package.config("dangerous_any_program = true"));
    assert!(works(&gate), "the operator said that any program will do");

    gate.reconfigure(&package.config(""));
    eventually("the completed pin", || {
        gate.log().contains("what its command runs is pinned from now on").then_some(())
    });
    eventually("the server", || works(&gate).then_some(()));
    package.install("1.0.2", "sha512-newer", "");
    eventually("the hold", || refused(&gate).then_some(()));
}

/// A launcher that installs at its first start: `npx` before its cache is filled.
#[test]
fn sc_13_what_is_installed_at_the_first_start_is_pinned_then() {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| folder.path().join(path);
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA512, b"files");
    let cache = format!("home/.npm/_npx/{}/node_modules/files", &hex::encode(digest.as_ref())[..16]);
    let install = |path: &Path| {
        format!(
            "mkdir -p {0}; [ -f {0}/package.json ] || echo '{{\"name\":\"files\",\"version\":\"1.0.0\"}}' > {0}/package.json",
            path.display()
        )
    };
    let npx = at("npx");
    fs::write(
        &npx,
        format!("#!/bin/sh\n{}\nexec {} --modern\n", install(&at(&cache)), prober_path().display()),
    )
    .unwrap();
    fs::set_permissions(&npx, fs::Permissions::from_mode(0o755)).unwrap();
    let gate = Gate::start(&format!(
        "[[servers]]\nname = \"s\"\ncommand = [{:?}, \"-y\", \"files\"]\ntrust_on_first_use = true\nset_env = {{ HOME = {:?} }}\n",
        npx.display().to_string(),
        at("home").display().to_string()
    ));
    eventually("the server", || works(&gate).then_some(()));
    eventually("the pin", || {
        gate.log().contains("what its command runs is pinned from now on").then_some(())
    });
    eventually("the server again", || works(&gate).then_some(()));
    fs::write(at(&cache).join("package.json"), "{\"name\":\"files\",\"version\":\"1.0.1\"}").unwrap();
    eventually("the hold", || refused(&gate).then_some(()));
}
