//! Reading a caller's token where it is kept to be exchanged (attacks.md TP-01).

use bartizan_oauth::SubjectTokens;

fn taken_out(kept: &SubjectTokens) -> bool {
    kept.inside.lock().is_ok()
}

fn main() {}
