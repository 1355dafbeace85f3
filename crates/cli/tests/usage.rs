//! What the command line or the configuration lacks is told apart from what could not be done.

use std::{fs, process::Command};

#[test]
fn what_the_command_line_lacks_is_not_a_failure() {
    let folder = tempfile::tempdir().unwrap();
    let people = "[identity]\nmode = \"resource-server\"\n[[identity.issuers]]\nkind = \"oidc\"\nissuer = \"https://idp.example\"\n\
                  [[servers]]\nname = \"a\"\ncommand = [\"true\"]\n";
    fs::write(folder.path().join("people.toml"), people).unwrap();
    for (command, word) in [
        ("policy review", "--uses"),
        ("policy review --config people.toml", "--uses"),
        ("login --config people.toml", "identity provider"),
    ] {
        let mut process = Command::new(env!("CARGO_BIN_EXE_bartizan"));
        let output =
            process.args(command.split(' ')).current_dir(folder.path()).env_clear().output().unwrap();
        let words = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{command}: {words}");
        assert!(words.contains(word), "{command}: {words}");
    }
}
