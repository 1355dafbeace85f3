//! Writing a secret into a configuration, an answer or a log.

use bartizan_model::Secret;

fn main() {
    let token = Secret::new("bz_0123".into());
    let _ = serde_json::to_string(&token);
}
