//! Data keys in memory: what seals, what only opens, and what wraps the keys of persons.

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf, hmac,
};
use bartizan_model::Entropy;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

use crate::{KeyError, punctured::Punctured};

/// Bytes in a key.
pub const KEY: usize = 32;

/// A key as bytes, wiped from memory when dropped.
pub type KeyBytes = Zeroizing<[u8; KEY]>;

/// A fresh random key.
pub fn fresh(entropy: &dyn Entropy) -> KeyBytes {
    let mut key = Zeroizing::new([0; KEY]);
    entropy.fill(key.as_mut());
    key
}

/// One data key, for each of its uses derived anew (RFC 5869).
pub struct DataKey {
    id: String,
    handles: LessSafeKey,
    rows: LessSafeKey,
    nonces: hmac::Key,
    marks: hmac::Key,
}

impl DataKey {
    /// # Errors
    /// [`KeyError::Refused`].
    pub fn new(key: &[u8; KEY]) -> Result<Self, KeyError> {
        let root = hkdf::Salt::new(hkdf::HKDF_SHA256, b"bartizan seal v1").extract(key);
        let derive = |purpose: &[u8]| {
            let mut out = Zeroizing::new([0; KEY]);
            root.expand(&[purpose], hkdf::HKDF_SHA256)
                .and_then(|o| o.fill(out.as_mut()))
                .map_err(|_| KeyError::Refused)?;
            Ok::<_, KeyError>(out)
        };
        let cipher = |key: &KeyBytes| {
            UnboundKey::new(&AES_256_GCM, key.as_ref()).map(LessSafeKey::new).map_err(|_| KeyError::Refused)
        };
        let mut id = hex::encode(derive(b"id")?.as_ref());
        id.truncate(8);
        Ok(Self {
            id,
            handles: cipher(&derive(b"seal")?)?,
            rows: cipher(&derive(b"row")?)?,
            nonces: hmac::Key::new(hmac::HMAC_SHA256, derive(b"nonce")?.as_ref()),
            marks: hmac::Key::new(hmac::HMAC_SHA256, derive(b"mark")?.as_ref()),
        })
    }

    /// Names the key, and says nothing of it: 8 hexadecimal digits.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Seals so that equal inputs give equal texts: the nonce is a MAC of context and content.
    ///
    /// Where the context ends is under the MAC too: of two that differ in nothing else, one nonce would seal both, and a nonce
    /// is good for one (NIST SP 800-38D, 8). What was sealed by an earlier MAC has its nonce in front, and opens as ever.
    pub fn seal_handle(&self, aad: &[u8], plain: &[u8]) -> Option<String> {
        let mut mac = hmac::Context::with_key(&self.nonces);
        mac.update(&u64::try_from(aad.len()).ok()?.to_be_bytes());
        mac.update(aad);
        mac.update(plain);
        let nonce: [u8; NONCE_LEN] = mac.sign().as_ref().get(..NONCE_LEN)?.try_into().ok()?;
        seal(&self.handles, nonce, aad, plain)
    }

    /// What [`Self::seal_handle`] sealed.
    pub fn open_handle(&self, aad: &[u8], text: &str) -> Option<Vec<u8>> {
        open(&self.handles, aad, text)
    }

    /// Seals under a random nonce.
    pub fn seal_row(&self, aad: &[u8], plain: &[u8], entropy: &dyn Entropy) -> Option<String> {
        let mut nonce = [0; NONCE_LEN];
        entropy.fill(&mut nonce);
        seal(&self.rows, nonce, aad, plain)
    }

    /// What [`Self::seal_row`] sealed.
    pub fn open_row(&self, aad: &[u8], text: &str) -> Option<Vec<u8>> {
        open(&self.rows, aad, text)
    }

    /// A MAC.
    pub fn mark(&self, framed: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode(hmac::sign(&self.marks, framed))
    }

    /// Whether a MAC is ours.
    pub fn is_marked(&self, framed: &[u8], mark: &str) -> bool {
        URL_SAFE_NO_PAD.decode(mark).is_ok_and(|mark| hmac::verify(&self.marks, framed, &mark).is_ok())
    }
}

/// `plain` under `key` as URL-safe Base64: nonce, then ciphertext and tag.
fn seal(key: &LessSafeKey, nonce: [u8; NONCE_LEN], aad: &[u8], plain: &[u8]) -> Option<String> {
    let mut body = plain.to_vec();
    // It fails only on bodies of 64 GiB and more.
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), &mut body).ok()?;
    let mut out = Vec::from(nonce);
    out.append(&mut body);
    Some(URL_SAFE_NO_PAD.encode(out))
}

fn open(key: &LessSafeKey, aad: &[u8], text: &str) -> Option<Vec<u8>> {
    let mut bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let mut body = bytes.split_off(NONCE_LEN.min(bytes.len()));
    let nonce = Nonce::try_assume_unique_for_key(&bytes).ok()?;
    let length = key.open_in_place(nonce, Aad::from(aad), &mut body).ok()?.len();
    body.truncate(length);
    Some(body)
}

/// Every key there is. The first of each kind seals and wraps; the others open what they sealed.
#[derive(Default)]
pub struct Ring {
    pub gate: Vec<DataKey>,
    pub persons: Vec<Punctured>,
}

impl Ring {
    /// The gate's key of this id.
    pub fn gate(&self, id: &str) -> Option<&DataKey> {
        self.gate.iter().find(|key| key.id == id)
    }

    /// The root of person keys of this id.
    pub fn persons(&self, id: &str) -> Option<&Punctured> {
        self.persons.iter().find(|root| root.id() == id)
    }
}

/// The parts of a context with their lengths, so that no two contexts look alike.
pub fn frame(context: &[&[u8]]) -> Vec<u8> {
    let mut framed = Vec::with_capacity(context.iter().map(|part| part.len() + 4).sum());
    for part in context {
        framed.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        framed.extend_from_slice(part);
    }
    framed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_nonce_is_never_two_handles() {
        let key = DataKey::new(&[7; KEY]).unwrap();
        let nonce = |aad: &[u8], plain: &[u8]| {
            let sealed = key.seal_handle(aad, plain).unwrap();
            assert_eq!(key.open_handle(aad, &sealed).as_deref(), Some(plain));
            URL_SAFE_NO_PAD.decode(sealed).unwrap()[..NONCE_LEN].to_vec()
        };
        assert_eq!(nonce(b"aad", b"plain"), nonce(b"aad", b"plain"), "equal inputs give equal texts");
        assert_ne!(nonce(b"aad", b"plain"), nonce(b"aadp", b"lain"), "what is context is no content");
        let (short, long) = (frame(&[b"a"]), frame(&[b"a", b"b"]));
        let rest = [&long[short.len()..], b"plain"].concat();
        assert_ne!(nonce(&long, b"plain"), nonce(&short, &rest), "nor one part more");
    }
}
