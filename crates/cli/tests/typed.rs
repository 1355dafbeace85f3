//! What is typed at a terminal and shown nowhere.

use std::{
    fs,
    io::{Read, Write},
    process::{Command, Stdio},
};

/// Whoever thinks better of it has a terminal that shows again what they type.
#[test]
fn a_question_that_is_broken_off_leaves_the_terminal_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    // The shell lives on, as that of whoever typed.
    let commands = format!(
        "trap : INT QUIT\n{} secrets set KEY\necho code $?\nstty -a\n",
        env!("CARGO_BIN_EXE_bartizan")
    );
    fs::write(folder.path().join("typed.sh"), commands).unwrap();
    for (typed, code) in [("\u{3}", "code 130"), ("\u{1c}", "code 131"), ("hunter2\n", "code 0")] {
        // It gives the commands a terminal of their own (util-linux), and starts them by a shell, whichever the environment names.
        // That one must not stay between: a signal from the keyboard would end it, and the terminal with it.
        let started = Command::new("script")
            .args(["-q", "-e", "-c", "exec sh typed.sh", "/dev/null"])
            .env("SHELL", "/bin/sh")
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let Ok(mut terminal) = started else {
            eprintln!("there is no `script` here to make a terminal; nothing was tried");
            return;
        };
        let mut shown = String::new();
        let mut screen = terminal.stdout.take().unwrap();
        let mut read = |until: &str| {
            let mut byte = [0];
            while !shown.contains(until) && screen.read(&mut byte).unwrap() == 1 {
                shown.push(char::from(byte[0]));
            }
            assert!(shown.contains(until), "{typed:?}: {shown}");
        };
        read("The value of KEY: ");
        let mut keyboard = terminal.stdin.take().unwrap();
        keyboard.write_all(typed.as_bytes()).unwrap();
        read(code);
        read(" echo ");
        drop(keyboard);
        terminal.wait().unwrap();
        assert!(!shown.contains("-echo ") && !shown.contains("hunter2"), "{shown}");
    }
}
