//! What of the system every confined child may reach, and what belongs to a program.

use std::path::{Path, PathBuf};

/// Programs, libraries and what they read to start, in every distribution that has them. The child may run what is here.
pub const PROGRAMS: &[&str] = &[
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/usr",
    "/etc/alternatives",
    "/nix/store",
    "/gnu/store",
    "/run/current-system/sw",
];

/// Settings that anybody may know, and what a runtime asks of the machine.
pub const SETTINGS: &[&str] = &[
    "/etc/ca-certificates",
    "/etc/ca-certificates.conf",
    "/etc/gai.conf",
    "/etc/group",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/ld.so.preload",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/nsswitch.conf",
    "/etc/os-release",
    "/etc/passwd",
    "/etc/pki/ca-trust",
    "/etc/pki/tls/cert.pem",
    "/etc/pki/tls/certs",
    "/etc/pki/tls/openssl.cnf",
    "/etc/protocols",
    "/etc/resolv.conf",
    "/etc/services",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/timezone",
    "/proc/cpuinfo",
    "/proc/filesystems",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/self",
    "/proc/stat",
    "/proc/sys/kernel/random",
    "/proc/sys/vm/overcommit_memory",
    "/proc/uptime",
    "/proc/version",
    "/sys/devices/system/cpu",
    "/sys/fs/cgroup",
    "/sys/kernel/mm/transparent_hugepage",
];

/// Devices that hold nothing.
pub const DEVICES: &[&str] = &["/dev/full", "/dev/null", "/dev/random", "/dev/urandom", "/dev/zero"];

/// Folders of a package in which its code is kept, or ends up.
const CODE: [&str; 7] = ["bin", "build", "dist", "lib", "out", "server", "src"];

/// What belongs to the files that are run. Must be asked in the gate: a child has another home.
pub fn of_programs(files: &[PathBuf]) -> Vec<PathBuf> {
    let home = std::env::home_dir().filter(|home| home.is_absolute());
    files.iter().flat_map(|file| of_program(file, home.as_deref())).collect()
}

/// What belongs to `file`, which is run by the user whose home is `home`: the file; its environment, if it lies in the `bin` of one
/// of Python's; its packages, if it is of Node's; and where it lies in the `bin` of a folder, that `bin` and its `lib`.
fn of_program(file: &Path, home: Option<&Path>) -> Vec<PathBuf> {
    let mut found = vec![file.to_owned()];
    found.extend(of_node(file, home));
    let Some(programs) = file.parent().filter(|folder| folder.ends_with("bin")) else { return found };
    let Some(prefix) = programs.parent().filter(|prefix| prefix.parent().is_some()) else { return found };
    found.extend([programs.to_owned(), prefix.join("lib"), prefix.join("lib64")]);
    if prefix.join("pyvenv.cfg").is_file() && !holds(prefix, home) {
        found.push(prefix.to_owned());
    }
    found
}

/// Of the packages that `file` lies in: the outermost `node_modules`, for packages hold others, and the `package.json` beside it. Of a
/// script that lies in none, what Node looks for in its package, and the folder of code in there that it lies in.
fn of_node(file: &Path, home: Option<&Path>) -> Vec<PathBuf> {
    let folders = || file.ancestors().skip(1);
    if let Some(packages) = folders().filter(|folder| folder.ends_with("node_modules")).last() {
        let beside = packages.parent().map(|project| project.join("package.json"));
        return std::iter::once(packages.to_owned()).chain(beside).collect();
    }
    let package = folders().find(|folder| folder.join("package.json").is_file());
    let Some(package) = package.filter(|folder| !holds(folder, home) && !is_binary(file)) else {
        return Vec::new();
    };
    let mut found = vec![package.join("package.json"), package.join("node_modules")];
    let code = CODE.iter().map(|name| package.join(name));
    found.extend(code.filter(|folder| *folder != file && file.starts_with(folder)));
    found
}

/// Whether `folder` is the root or a home, or has that in it: too much to come along with a program.
fn holds(folder: &Path, home: Option<&Path>) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    folder.parent().is_none()
        || home.is_some_and(|home| home.starts_with(folder) || real(home).starts_with(real(folder)))
}

/// Whether the system runs it as it is, without an interpreter.
fn is_binary(file: &Path) -> bool {
    use std::io::Read;
    let mut head = [0; 4];
    let opened = || std::fs::File::open(file);
    file.is_file() && opened().and_then(|mut file| file.read_exact(&mut head)).is_ok() && head == *b"\x7fELF"
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_program_brings_its_own_along_and_not_the_home_it_lies_in() {
        let home = tempfile::tempdir().unwrap();
        let at = |path: &str| home.path().join(path);
        for folder in
            ["bin", "venv/bin", "app/node_modules/server/dist", "app/node_modules/.bin", "tool/dist"]
        {
            fs::create_dir_all(at(folder)).unwrap();
        }
        for file in [
            "venv/pyvenv.cfg",
            "app/package.json",
            "app/node_modules/server/package.json",
            "tool/package.json",
        ] {
            fs::write(at(file), "").unwrap();
        }
        let own = |path: &str| of_program(&at(path), Some(home.path()));
        assert_eq!(
            own("server"),
            [at("server")],
            "a folder with anything else in it is no part of a program"
        );
        assert_eq!(own("bin/server"), [at("bin/server"), at("bin"), at("lib"), at("lib64")]);
        assert!(own("venv/bin/python").contains(&at("venv")));
        let of_package = own("app/node_modules/server/dist/index.js");
        assert!(
            of_package.contains(&at("app/node_modules")) && !of_package.contains(&at("app")),
            "{of_package:?}"
        );
        let of_project = own("tool/dist/index.js");
        assert!(of_project.contains(&at("tool/dist")) && !of_project.contains(&at("tool")), "{of_project:?}");
        for own in ["server", "bin/server", "venv/bin/python"].map(own) {
            assert!(own.iter().all(|path| !home.path().starts_with(path)), "{own:?}");
        }
        assert_eq!(of_program(Path::new("/bin/sh"), None), [Path::new("/bin/sh")]);
    }

    #[test]
    fn what_lies_around_a_script_is_no_part_of_it() {
        let user = tempfile::tempdir().unwrap();
        let home = user.path().join("home");
        let at = |path: &str| home.join(path);
        for folder in ["Documents", "src", "bin", "project/private", "project/src/deep", "venv/bin"] {
            fs::create_dir_all(at(folder)).unwrap();
        }
        for file in ["package.json", "project/package.json", "pyvenv.cfg", "venv/pyvenv.cfg"] {
            fs::write(at(file), "").unwrap();
        }
        let own = |path: &str| of_program(&at(path), Some(&home));
        for script in ["server.py", "Documents/server.py", "src/server.py"] {
            assert_eq!(own(script), [at(script)], "a home is no package");
        }
        assert_eq!(own("bin/server"), [at("bin/server"), at("bin"), at("lib"), at("lib64")]);
        assert_eq!(
            own("venv/server.py"),
            [at("venv/server.py")],
            "an environment is of what is in its `bin`"
        );
        let package = [at("project/package.json"), at("project/node_modules")];
        for script in ["project/server.js", "project/private/server.js", "project/src"] {
            assert_eq!(own(script), [&[at(script)][..], &package[..]].concat());
        }
        let script = "project/src/deep/server.js";
        let with_code = [&[at(script)][..], &package[..], &[at("project/src")][..]].concat();
        assert_eq!(own(script), with_code);
        fs::write(at("project/src/server"), b"\x7fELF and more").unwrap();
        assert_eq!(
            own("project/src/server"),
            [at("project/src/server")],
            "what is no script needs no packages"
        );
        // However the home is named.
        let link = user.path().join("link");
        std::os::unix::fs::symlink(&home, &link).unwrap();
        assert_eq!(of_program(&at("src/server.py"), Some(&link)), [at("src/server.py")]);
        let above = user.path().join("package.json");
        fs::write(&above, "").unwrap();
        fs::remove_file(at("package.json")).unwrap();
        assert_eq!(own("src/server.py"), [at("src/server.py")], "nor is what homes lie in");
    }
}
