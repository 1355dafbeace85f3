//! The cast and the trials: not shipped.
//!
//! A trial is a scene: a [`Gate`] (the real binary), an [`Upstream`] or the `prober` behind it, a [`Client`] in front of
//! it. The client and the upstream write every byte themselves, so that both can misbehave as no library would let
//! them. What the trials survive is listed in docs/attacks.md, which [`matrix`] makes out of `attacks.toml` and the
//! names of the trials.

mod browser;
mod client;
mod facade;
pub mod fixture;
mod gate;
mod idp;
mod issuer;
pub mod matrix;
pub mod pdf;
mod platform;
mod server;
mod session;
mod tenant;
mod visitor;
mod wire;
mod wrapped;

pub use browser::{Browser, field, onward};
pub use client::{Answer, Ask, Client, Stream, modern_text};
pub use facade::{BACK, CHALLENGE, Facade, PUBLIC, SECRET, VERIFIER, basic, change, encode, parameter};
pub use gate::{Gate, binary, kill, prober, prober_path, refusal_of, refusal_with};
pub use idp::Idp;
pub use issuer::{Issuer, issuers_of, merge};
pub use platform::{Fault, Platform};
pub use server::{Heard, Pen, Upstream};
pub use session::Session;
pub use tenant::Tenant;
pub use wire::Event;
pub use wrapped::Wrapped;

use std::time::Duration;

/// How long anything may take before a trial fails. Far more than it takes, for the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Asks again until `found` answers, for what has no event to wait for.
///
/// # Panics
/// After [`PATIENCE`]; `what` says what was waited for.
pub fn eventually<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let began = std::time::Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
