//! Witnesses: somebody else's memory of a log, so that a log that is rolled back or rewritten as a whole is found out.
//!
//! A witness remembers the newest checkpoint it saw of each log and signs only what that one grows into (C2SP
//! tlog-witness: `POST …/add-checkpoint` with a consistency proof; tlog-cosignature: `cosignature/v1`, Ed25519). Start from
//! [`Witnessed`] on the log's side, [`Witness`] on the other; [`WitnessKey`] is what both share with whoever verifies.
//!
//! What a witness sees of a log is its name, how many entries it has, and hashes: nothing of what happened.

mod client;
mod cosign;
mod keeper;
mod message;

pub(crate) use client::newest_checkpoint;
pub use client::{Cosigned, Refusal, Standing, Witnessed};
pub use cosign::{Cosigner, InvalidWitnessKey, WitnessKey};
pub use keeper::{KnownLog, Reply, Witness, WitnessError};

/// The longest `add-checkpoint` body that is read, in bytes: 63 hashes and a note with some signatures.
pub const LONGEST_BODY: usize = 16 << 10;
