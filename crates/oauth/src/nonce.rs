//! Nonces in DPoP proofs (RFC 9449 §8, §9): a proof that holds one of ours was made after we gave it out, so that none can be
//! made in store. They are marks over a time, so that nobody has to remember them, and every replica knows them.

use std::{sync::Arc, time::Duration};

use bartizan_model::{Clock, Timestamp};
use bartizan_store::Sealer;

/// How long a nonce is good.
const LIFE: Duration = Duration::from_secs(300);
/// How far the clock of the replica that gave it out may be ahead.
const AHEAD: Duration = Duration::from_secs(30);

/// Gives nonces out and knows them again.
#[derive(Clone)]
pub struct DpopNonces {
    sealer: Arc<Sealer>,
    clock: Arc<dyn Clock>,
}

impl DpopNonces {
    /// Nonces under the key of `sealer`, which replicas share.
    pub fn new(sealer: Arc<Sealer>, clock: Arc<dyn Clock>) -> Self {
        Self { sealer, clock }
    }

    /// A nonce that is good from now on for five minutes.
    pub fn fresh(&self) -> String {
        let at = self.clock.now().as_unix().to_string();
        let mark = self.sealer.mark(&[b"dpop-nonce", at.as_bytes()]);
        format!("{at}.{mark}")
    }

    /// Whether `nonce` is one of ours, and still good.
    pub(crate) fn is_good(&self, nonce: &str) -> bool {
        let Some((at, mark)) = nonce.split_once('.') else { return false };
        let Ok(seconds) = at.parse() else { return false };
        let (given, now) = (Timestamp::from_unix(seconds), self.clock.now());
        now.since(given) <= LIFE
            && given.since(now) <= AHEAD
            && self.sealer.is_marked(&[b"dpop-nonce", at.as_bytes()], mark)
    }
}

#[cfg(test)]
mod tests {
    use bartizan_model::ManualClock;

    use super::*;

    #[test]
    fn a_nonce_is_ours_and_good_for_five_minutes() {
        let clock = Arc::new(ManualClock::new(Timestamp::from_unix(1_000_000)));
        let of = |key: u8| DpopNonces::new(Arc::new(Sealer::new(&[key; 32]).unwrap()), clock.clone());
        let (ours, others) = (of(1), of(2));
        let nonce = ours.fresh();
        assert!(ours.is_good(&nonce) && of(1).is_good(&nonce), "every replica knows it");
        assert!(
            nonce.bytes().all(|b| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e)),
            "RFC 9449 §8.1: {nonce}"
        );
        assert!(!others.is_good(&nonce));
        let (at, mark) = nonce.split_once('.').unwrap();
        for forged in
            ["", ".", at, mark, &format!("1000001.{mark}"), &format!("0{nonce}"), &format!("+{nonce}")]
        {
            assert!(!ours.is_good(forged), "{forged}");
        }
        clock.advance(LIFE);
        assert!(ours.is_good(&nonce));
        clock.advance(Duration::from_secs(1));
        assert!(!ours.is_good(&nonce));
    }
}
