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
    "/etc/pki/tls",
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

/// What belongs to `file`, which is run: the file; its environment, if it is one of Python's; the packages beside it, if it is one of
/// Node's; and where it lies in the `bin` of a folder, that `bin` and its `lib`.
pub fn of_program(file: &Path) -> Vec<PathBuf> {
    let mut found = vec![file.to_owned()];
    let folders = || file.ancestors().skip(1);
    if let Some(environment) = folders().find(|folder| folder.join("pyvenv.cfg").is_file()) {
        found.push(environment.to_owned());
    }
    // The outermost: packages hold others.
    if let Some(packages) = folders().filter(|folder| folder.ends_with("node_modules")).last() {
        found.push(packages.to_owned());
        found.extend(packages.parent().map(|project| project.join("package.json")));
    } else if let Some(package) = folders().find(|folder| folder.join("package.json").is_file()) {
        found.extend([package.join("package.json"), package.join("node_modules")]);
        found.extend(file.parent().filter(|folder| *folder != package).map(Path::to_owned));
    }
    if let Some(programs) = file.parent().filter(|folder| folder.ends_with("bin"))
        && let Some(prefix) = programs.parent().filter(|prefix| prefix.parent().is_some())
    {
        found.extend([programs.to_owned(), prefix.join("lib"), prefix.join("lib64")]);
    }
    found
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
        let own = |path: &str| of_program(&at(path));
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
        assert_eq!(of_program(Path::new("/bin/sh")), [Path::new("/bin/sh")]);
    }
}
