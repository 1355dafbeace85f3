//! Comparing a secret where the time it takes shows how much was right.

use bartizan_model::Secret;

fn main() {
    let token = Secret::new("bz_0123".into());
    let given = Secret::new("bz_0124".into());
    assert!(token == given);
    assert!(token == "bz_0124");
}
