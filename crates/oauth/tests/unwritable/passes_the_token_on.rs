//! Handing the client's token to a server behind the gate (spec.md G-03; attacks.md TP-01).

use bartizan_oauth::VerifiedToken;

fn from_the_proof(token: &VerifiedToken) -> &str {
    token.as_ref()
}

fn written_out(token: &VerifiedToken) -> String {
    token.to_string()
}

fn main() {}
