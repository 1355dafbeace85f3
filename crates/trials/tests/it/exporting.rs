//! What trials of the log's receivers have in common: exporters in the configuration, and a look at everything a gate left.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use bartizan_trials::{Gate, binary};

/// An exporter of this kind that sends to `url`, with these further lines.
pub fn to_url(name: &str, kind: &str, url: &str, more: &str) -> String {
    format!("[[audit.export]]\nname = \"{name}\"\nkind = \"{kind}\"\nurl = \"{url}\"\n{more}\n")
}

/// An exporter to Sentinel, whose endpoint and token server are at `at`; `secret` is the variable with the application's.
pub fn to_sentinel(at: &str, secret: &str) -> String {
    format!(
        "[[audit.export]]\nname = \"sentinel\"\nkind = \"sentinel\"\nendpoint = \"{at}\"\nauthority = \"{at}\"\n\
         rule = \"dcr-0123\"\nstream = \"Custom-Bartizan_CL\"\ntenant = \"contoso\"\nclient_id = \"gate\"\n\
         client_secret = {{ env = \"{secret}\" }}\n"
    )
}

/// An exporter to the file at `path`.
pub fn to_file(path: &Path) -> String {
    format!("[[audit.export]]\nname = \"file\"\nkind = \"file\"\npath = {path:?}\n")
}

/// Every file below `folder` but the local token, as text.
pub fn files(folder: &Path) -> Vec<(PathBuf, String)> {
    let (mut found, mut open) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.file_name().is_some_and(|name| name != "token") {
            let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
            found.push((path, text));
        }
    }
    found
}

/// What a command says in the gate's folder, with no more in its environment than `environment`.
pub fn says(gate: &Gate, arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let mut command = Command::new(binary());
    let command = command.args(arguments).current_dir(gate.folder());
    let done = command.env_clear().envs(environment.iter().copied()).output().unwrap();
    String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned()
}
