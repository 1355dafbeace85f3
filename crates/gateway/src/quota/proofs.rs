//! DPoP proofs that were used at one of several gates that count together: behind one address, whoever listens on the way to one
//! gate would have a proof for each of the others (RFC 9449 §11.1).

use std::sync::Arc;

use async_trait::async_trait;
use bartizan_model::Timestamp;
use bartizan_oauth::{Error, MemoryReplays, Replays, UsedProof};
use bartizan_store::Digest;

use super::APART;
use crate::Gate;

/// [`Replays`] of every gate that counts where this one does, by `[limits] shared`; where that is not set, of this process.
pub struct CountedReplays {
    here: MemoryReplays,
    gate: Arc<Gate>,
}

impl CountedReplays {
    /// Asks this process's memory first, which keeps each key and caller to its share of what is noted.
    pub fn new(here: MemoryReplays, gate: Arc<Gate>) -> Self {
        Self { here, gate }
    }
}

#[async_trait]
impl Replays for CountedReplays {
    async fn note(&self, proof: UsedProof, now: Timestamp) -> Result<(), Error> {
        self.here.note(proof, now).await?;
        let Some(shared) = self.gate.quotas().shared() else { return Ok(()) };
        // A gate whose clock is behind takes it for longer.
        let life = proof.until.plus(APART).since(now);
        // `dangerous_fail_open` is of limits: what may have been used is not taken.
        match shared.is_first(&Digest(proof.id), life).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::ProofReplayed),
            Err(error) => {
                tracing::error!(%error, "used DPoP proofs are out of reach: see `[limits] shared`");
                Err(Error::ProofsUnavailable)
            }
        }
    }
}
