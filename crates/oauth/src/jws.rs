//! Signed tokens in compact form (RFC 7515 §7.1), read strictly and believed only after their signature.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{
    Error,
    json::Object,
    key::{Algorithm, Key},
};

/// Bytes of the longest token that is looked at; the longest honest ones (Entra's, with 200 groups) have about 10 KiB.
pub(crate) const MAX_BYTES: usize = 16 * 1024;

/// Header parameters that say where the key is, what is signed, or what must be understood (RFC 7515 §4.1; RFC 8725
/// §3.10; attacks.md AA-11). No honest access token needs them: keys come from the issuer, never from the token.
const REFUSED: [&str; 9] = ["b64", "crit", "cty", "enc", "jku", "jwk", "x5c", "x5u", "zip"];

/// A signed token that nobody has checked. What it says is for finding the key that would have signed it, no more.
pub(crate) struct Unverified<'a> {
    pub algorithm: Algorithm,
    /// The token's type in lower case, without the `application/` that may stand before it (RFC 7515 §4.1.9).
    pub kind: Option<String>,
    pub kid: Option<String>,
    /// The header's public key, where the caller said that it may have one.
    pub jwk: Option<Object>,
    claims: Object,
    signed: &'a [u8],
    signature: Vec<u8>,
}

/// Where the key of a token comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyFrom {
    /// The issuer.
    Issuer,
    /// The token's own header: it proves possession of a key, and nothing about whose it is (RFC 9449 §4.2).
    Header,
}

/// The claims of a token whose signature is right.
pub(crate) struct Signed {
    claims: Object,
}

impl<'a> Unverified<'a> {
    /// Takes a token apart.
    ///
    /// Every byte counts: three segments of unpadded base64url in their one canonical spelling, so that no token has a
    /// twin that reads the same and hashes differently (attacks.md AA-30).
    pub fn parse(token: &'a str, key_from: KeyFrom) -> Result<Self, Error> {
        if token.len() > MAX_BYTES {
            return Err(Error::TokenTooLong);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(Error::TokenMalformed)?;
        let (header, payload) = signed.split_once('.').ok_or(Error::TokenMalformed)?;
        let decode = |segment: &str| URL_SAFE_NO_PAD.decode(segment).map_err(|_| Error::TokenMalformed);
        // A fourth dot is no base64url, so this also counts the segments.
        let header = Object::parse(&decode(header)?)?;
        let (payload, signature) = (decode(payload)?, decode(signature)?);
        let is_refused = |name: &&str| header.has(name) && (*name != "jwk" || key_from == KeyFrom::Issuer);
        if let Some(name) = REFUSED.into_iter().find(is_refused) {
            return Err(Error::HeaderRefused(name));
        }
        let algorithm = header.text("alg")?.and_then(Algorithm::named).ok_or(Error::AlgorithmRefused)?;
        let kind = header.text("typ")?.map(|kind| {
            let kind = kind.to_ascii_lowercase();
            kind.strip_prefix("application/").map(str::to_owned).unwrap_or(kind)
        });
        let kid = header.text("kid")?.map(str::to_owned);
        if kid.as_ref().is_some_and(|kid| kid.len() > 256) {
            return Err(Error::ClaimMalformed("kid"));
        }
        let jwk = header.object("jwk")?.cloned();
        let claims = Object::parse(&payload)?;
        Ok(Self { algorithm, kind, kid, jwk, claims, signed: signed.as_bytes(), signature })
    }

    /// The issuer the token claims to have.
    pub fn issuer(&self) -> Result<&str, Error> {
        Ok(self.claims.needed_text("iss")?)
    }

    /// The subject the token claims to have.
    pub fn subject(&self) -> Result<&str, Error> {
        Ok(self.claims.needed_text("sub")?)
    }

    /// The claims, if `key` signed them.
    pub fn verify(self, key: &Key) -> Result<Signed, Error> {
        // Whoever looked the key up compared already; a key never works under another algorithm than its own.
        if key.algorithm() != self.algorithm {
            return Err(Error::AlgorithmRefused);
        }
        key.verify(self.signed, &self.signature)?;
        Ok(Signed { claims: self.claims })
    }
}

impl Signed {
    pub fn claims(&self) -> &Object {
        &self.claims
    }

    pub fn into_claims(self) -> Object {
        self.claims
    }
}
