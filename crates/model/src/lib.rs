//! Nouns that two sibling crates exchange, and nothing else.
//!
//! Start from [`Caller`], who is asking, and [`ServerName`], what is being asked. Everything here is small and
//! quiet on purpose: an edit to this crate rebuilds all of them.

mod caller;
mod clock;
mod entropy;
mod secret;
mod secret_ref;
mod server_name;

pub use caller::{Caller, CallerKey};
pub use clock::{Clock, ManualClock, SystemClock, Timestamp};
pub use entropy::{Entropy, SeededEntropy};
pub use secret::Secret;
pub use secret_ref::SecretRef;
pub use server_name::{InvalidServerName, ServerName};
