//! Definitions and lock files: one form for everything that means the same.

use bartizan_shield::drift::{Definition, LockFile, Locked};
use serde_json::Value;

/// The canonical form of a definition is its own canonical form, and says the same; what is approved in a lock file is
/// what the file says when it is read again.
pub fn definition(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut pins = Vec::new();
    for kind in ["tool", "prompt", "resource", "template", "instructions", "server-identity"] {
        let Ok(definition) = Definition::read(kind, text) else { continue };
        let again = Definition::read(kind, definition.text()).expect("the canonical form can be read");
        assert_eq!(
            (again.text(), again.hash(), again.body()),
            (definition.text(), definition.hash(), definition.body())
        );
        assert_eq!(again.name(), definition.name());
        assert!(definition.changes(&again).is_empty());
        let meant = serde_json::from_str::<Value>(text).expect("what is strict is JSON");
        let said = serde_json::from_str::<Value>(definition.text()).expect("and so is its canonical form");
        assert_eq!(said, meant, "{text:?}");
        pins.push(Locked { server: "s".parse().expect("a name"), kind: kind.to_owned(), definition });
    }
    let lock = LockFile::new(pins).expect("each kind is there once");
    let written = lock.to_string();
    assert_eq!(written.parse::<LockFile>().expect("what was written can be read"), lock, "{written}");
    if let Ok(read) = text.parse::<LockFile>() {
        assert_eq!(read.to_string().parse::<LockFile>().expect("it can be read again"), read);
    }
}
