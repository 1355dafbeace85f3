//! Proofs of possession (RFC 9449): a fresh signature over this request by the key the token is bound to.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use aws_lc_rs::digest;
use bartizan_model::{Caller, Timestamp};
use bartizan_store::{Digest, Grants};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::Method;
use url::Url;

use crate::{
    DpopNonces, Error,
    jws::{KeyFrom, Unverified},
    key::{Algorithm, Key, thumbprint},
};

/// How old a proof may be, and how far a client's clock may be ahead.
const AGE: Duration = Duration::from_secs(120);
const AHEAD: Duration = Duration::from_secs(30);
/// How far the clocks of gates may be apart.
const APART: Duration = Duration::from_secs(60);

/// Algorithms proofs may have; said in metadata and challenges.
pub(crate) const ALGORITHMS: [Algorithm; 7] = [
    Algorithm::Es256,
    Algorithm::EdDsa,
    Algorithm::Es384,
    Algorithm::Es512,
    Algorithm::Ps256,
    Algorithm::Rs256,
    Algorithm::Rs512,
];

/// What of the memory the proofs of one key may fill, and those of one caller, whatever keys they have: nobody locks out
/// everybody else.
const OF_A_KEY: usize = 16;
const OF_A_CALLER: usize = 8;

/// A proof that is used.
#[derive(Clone, Copy, Debug)]
pub struct UsedProof {
    /// A digest of its key and id.
    pub id: [u8; 32],
    /// Until when it could be used again.
    pub until: Timestamp,
    /// A digest of its key.
    pub key: [u8; 32],
    /// A digest of whom the token beside it speaks for.
    pub caller: [u8; 32],
}

/// Remembers which proofs were used, until they are too old to be used again (RFC 9449 §11.1).
#[async_trait]
pub trait Replays: Send + Sync {
    /// Notes a proof. Of several at once with the same id, one is first.
    ///
    /// # Errors
    /// [`Error::ProofReplayed`] if it was noted before, [`Error::ProofsFull`] and [`Error::ProofsUnavailable`] if it cannot be
    /// remembered.
    async fn note(&self, proof: UsedProof, now: Timestamp) -> Result<(), Error>;
}

/// [`Replays`] of one process.
pub struct MemoryReplays {
    seen: Mutex<Seen>,
    room: usize,
}

#[derive(Default)]
struct Seen {
    proofs: HashMap<[u8; 32], Noted>,
    of_key: HashMap<u64, usize>,
    of_caller: HashMap<u64, usize>,
    swept: Option<Timestamp>,
}

#[derive(Clone, Copy)]
struct Noted {
    until: Timestamp,
    key: u64,
    caller: u64,
}

impl MemoryReplays {
    /// Room for so many proofs, of about 70 bytes each. A sixteenth of it is the most for one key, an eighth for one caller.
    pub fn new(room: usize) -> Self {
        Self { seen: Mutex::default(), room }
    }
}

impl Seen {
    fn is_full(&self, noted: Noted, room: usize) -> bool {
        let holds = |counts: &HashMap<u64, usize>, of| counts.get(&of).copied().unwrap_or_default();
        self.proofs.len() >= room
            || holds(&self.of_key, noted.key) >= room.div_ceil(OF_A_KEY)
            || holds(&self.of_caller, noted.caller) >= room.div_ceil(OF_A_CALLER)
    }

    /// Forgets what could not be used again anyway.
    fn sweep(&mut self, now: Timestamp) {
        self.proofs.retain(|_, noted| noted.until >= now);
        self.of_key.clear();
        self.of_caller.clear();
        for noted in self.proofs.values() {
            *self.of_key.entry(noted.key).or_default() += 1;
            *self.of_caller.entry(noted.caller).or_default() += 1;
        }
    }

    fn insert(&mut self, id: [u8; 32], noted: Noted) {
        // One that had expired is in its place, and was counted.
        if self.proofs.insert(id, noted).is_none() {
            *self.of_key.entry(noted.key).or_default() += 1;
            *self.of_caller.entry(noted.caller).or_default() += 1;
        }
    }
}

#[async_trait]
impl Replays for MemoryReplays {
    async fn note(&self, proof: UsedProof, now: Timestamp) -> Result<(), Error> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.proofs.get(&proof.id).is_some_and(|noted| noted.until >= now) {
            return Err(Error::ProofReplayed);
        }
        let noted = Noted { until: proof.until, key: short(proof.key), caller: short(proof.caller) };
        // It is swept once a second at most: sweeping looks at everything.
        if seen.is_full(noted, self.room) && seen.swept != Some(now) {
            seen.swept = Some(now);
            seen.sweep(now);
        }
        // What was noted is not forgotten early, for then it could be used again.
        if seen.is_full(noted, self.room) {
            return Err(Error::ProofsFull);
        }
        seen.insert(proof.id, noted);
        Ok(())
    }
}

/// [`Replays`] of every process on one database: behind one address, a proof that one gate took is good at no other.
pub struct SharedReplays {
    here: MemoryReplays,
    everywhere: Arc<dyn Grants>,
}

impl SharedReplays {
    /// Asks this process's memory first, which keeps each key and caller to its share of what is written.
    pub fn new(here: MemoryReplays, everywhere: Arc<dyn Grants>) -> Self {
        Self { here, everywhere }
    }
}

#[async_trait]
impl Replays for SharedReplays {
    async fn note(&self, proof: UsedProof, now: Timestamp) -> Result<(), Error> {
        self.here.note(proof, now).await?;
        // Apart from those of the token endpoint: each place has ids of its own (RFC 9449 §11.1).
        let id = Digest(hash(&[b"at an endpoint", &proof.id]));
        // A gate whose clock is ahead does not forget it while another would take it.
        let until = proof.until.plus(APART);
        let is_first = self.everywhere.first_use(id, until, now).await.map_err(|error| {
            tracing::error!(%error, "used DPoP proofs are out of reach");
            Error::ProofsUnavailable
        })?;
        if is_first { Ok(()) } else { Err(Error::ProofReplayed) }
    }
}

/// Enough of a digest to count by.
fn short(digest: [u8; 32]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = digest;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// The request a proof must be about.
pub(crate) struct Bound<'a> {
    pub method: &'a Method,
    /// The URL clients see, whatever stands in between.
    pub url: &'a Url,
    /// The access token beside the proof.
    pub token: &'a str,
    /// The thumbprint of the key the token is bound to.
    pub jkt: &'a str,
    /// Whom the token speaks for.
    pub caller: &'a Caller,
}

/// A proof whose signature is right, for this request. It may have been used before.
pub(crate) struct Proof {
    /// The thumbprint of its key.
    pub jkt: String,
    /// A digest of its key and id.
    pub id: [u8; 32],
    /// Until when it could be used again.
    pub until: Timestamp,
    /// The nonce it holds.
    pub nonce: Option<String>,
}

/// Checks a proof for a request with an access token, and that it is used for the first time.
///
/// # Errors
/// [`Error::NonceNeeded`], [`Error::ProofInvalid`], and what [`Replays::note`] says.
pub(crate) async fn check(
    proof: &str,
    bound: &Bound<'_>,
    nonces: Option<&DpopNonces>,
    replays: &dyn Replays,
    now: Timestamp,
) -> Result<(), Error> {
    let proof = read(proof, bound.method, bound.url, Some(bound.token), now)?;
    if proof.jkt != bound.jkt {
        return Err(Error::ProofInvalid("its key is not the one the token is bound to"));
    }
    check_nonce(&proof, nonces)?;
    let (issuer, subject) = (bound.caller.issuer(), bound.caller.subject());
    // Last, so that only proofs that would have been taken use up room.
    let used = UsedProof {
        id: proof.id,
        until: proof.until,
        key: hash(&[proof.jkt.as_bytes()]),
        caller: hash(&[&(issuer.len() as u64).to_be_bytes(), issuer.as_bytes(), subject.as_bytes()]),
    };
    replays.note(used, now).await
}

fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    parts.iter().for_each(|part| context.update(part));
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

/// Checks that a proof was made after we gave out a nonce, where we give them out (RFC 9449 §8, §9).
///
/// # Errors
/// [`Error::NonceNeeded`].
pub(crate) fn check_nonce(proof: &Proof, nonces: Option<&DpopNonces>) -> Result<(), Error> {
    match nonces {
        Some(nonces) if !proof.nonce.as_deref().is_some_and(|nonce| nonces.is_good(nonce)) => {
            Err(Error::NonceNeeded)
        }
        _ => Ok(()),
    }
}

/// Checks a proof (RFC 9449 §4.3), in that section's order. Beside an access token it must name it (`ath`).
///
/// # Errors
/// [`Error::ProofInvalid`].
pub(crate) fn read(
    proof: &str,
    method: &Method,
    url: &Url,
    token: Option<&str>,
    now: Timestamp,
) -> Result<Proof, Error> {
    let bad = Error::ProofInvalid;
    let unverified = Unverified::parse(proof, KeyFrom::Header).map_err(|_| bad("it is no signed JWT"))?;
    if unverified.kind.as_deref() != Some("dpop+jwt") {
        return Err(bad("its `typ` is not dpop+jwt"));
    }
    if !ALGORITHMS.contains(&unverified.algorithm) {
        return Err(bad("its algorithm is not taken"));
    }
    let jwk = unverified.jwk.clone().ok_or(bad("it has no `jwk`"))?;
    let key = Key::from_jwk_for(&jwk, unverified.algorithm).map_err(|_| bad("its `jwk` is no public key"))?;
    let signed = unverified.verify(&key).map_err(|_| bad("its signature is wrong"))?;
    let claims = signed.claims();
    let text = |name| claims.needed_text(name).map_err(|_| bad("a claim is missing"));
    // Methods are case-sensitive (RFC 9110 §9.1).
    if text("htm")? != method.as_str() {
        return Err(bad("its `htm` is another method"));
    }
    if !is_same_place(text("htu")?, url) {
        return Err(bad("its `htu` is another place"));
    }
    let issued_at = claims.needed_time("iat").map_err(|_| bad("its `iat` is no time"))?;
    if now.since(issued_at) > AGE || issued_at.since(now) > AHEAD {
        return Err(bad("its `iat` is too far from now"));
    }
    if let Some(token) = token {
        let hash = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, token.as_bytes()));
        if text("ath")? != hash {
            return Err(bad("its `ath` is another token's"));
        }
    }
    let jkt = thumbprint(&jwk).ok_or(bad("its `jwk` is no public key"))?;
    let id = hash(&[jkt.as_bytes(), b" ", text("jti")?.as_bytes()]);
    // One that is no text is none.
    let nonce = claims.text("nonce").ok().flatten().map(str::to_owned);
    Ok(Proof { jkt, id, until: issued_at.plus(AGE), nonce })
}

/// Whether `htu` means `url`: both in normal form (RFC 3986 §6.2.2), neither query nor fragment counted.
fn is_same_place(htu: &str, url: &Url) -> bool {
    let Ok(mut htu) = Url::parse(htu) else { return false };
    htu.set_query(None);
    htu.set_fragment(None);
    htu == *url
}
