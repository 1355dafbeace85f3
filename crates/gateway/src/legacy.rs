//! Sessions of the legacy era: a handshake, then a conversation in both directions (25/life, 25/tr; spec.md B).

mod link;
mod session;
mod sessions;

pub use link::{Errand, Link, NoLink, Taken, Way, Whence, audience, greet, shake_hands};
pub use session::{Hub, Session, Turn, exchange, greeting, initialize, refusal_of};
pub use sessions::{Manner, Sessions, keep};
