//! Printing a secret, on purpose or inside something else.

use bartizan_model::Secret;

#[derive(Debug)]
struct Settings {
    token: Secret,
}

fn main() {
    let token = Secret::new("bz_0123".into());
    println!("{token}");
    println!("{token:?}");
    println!("{:?}", Settings { token });
}
