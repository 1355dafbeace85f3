//! The pins of a gate that has yet to run: none.

use async_trait::async_trait;
use bartizan_model::{ServerName, Timestamp};
use bartizan_store::{
    Pins,
    pins::{Key, Look, Observation, Pin, PinError, PinSet, Record, Ruling},
};

/// Nothing was offered, and nothing is approved. Nothing can be decided either: where that would be kept is not there.
pub(super) struct Unrun;

#[async_trait]
impl Pins for Unrun {
    async fn observe(&self, _look: &Look, _now: Timestamp) -> Result<Observation, PinError> {
        Ok(Observation { sights: Vec::new(), withdrawn: Vec::new(), version: 0 })
    }

    async fn decide(&self, rulings: &[Ruling], _by: &str, _now: Timestamp) -> Result<u64, PinError> {
        rulings.first().map_or(Ok(0), |ruling| Err(PinError::Unknown(ruling.key().clone())))
    }

    async fn list(&self, _server: Option<&ServerName>) -> Result<Vec<Pin>, PinError> {
        Ok(Vec::new())
    }

    async fn read(&self, _key: &Key) -> Result<Option<Record>, PinError> {
        Ok(None)
    }

    async fn snapshot(&self) -> Result<PinSet, PinError> {
        Ok(PinSet::nothing())
    }

    async fn version(&self) -> Result<u64, PinError> {
        Ok(0)
    }
}
