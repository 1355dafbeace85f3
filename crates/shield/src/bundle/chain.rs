//! Which keys sign bundles from now on: a chain of statements, each signed by the keys before it and by its own.
//!
//! *Attack.* A publisher's key gets out, or is about to; until every gate has another configuration, whoever has it signs
//! rules. *Answer.* The publisher signs, with the old keys and the new ones, that the new ones count from now on; gates
//! follow the chain from the keys of their configuration, remember how far, and never go back (TUF 1.0, §5.3: the root
//! role). A key that the last link does not name signs nothing any more, whatever the configuration says. Whoever has an
//! old key can add a link of his own only where nobody has followed another one yet.

use bartizan_model::Timestamp;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

use super::{
    KeyId, PublicKey, Refusal, SIGNATURES, SigningKey, WrittenSignature, pre_authentication, signatures,
};
use crate::drift::sha256;

/// Links of one chain.
const LINKS: usize = 64;
/// Keys of one link.
const KEYS: usize = 16;
/// Bytes of a chain's file.
const CHAIN_BYTES: usize = 1 << 20;

/// What the format of a chain's own file is called.
const FORMAT: &str = "bartizan-shield-bundle-keys/1";

/// What a link's signatures are over, beside its bytes (DSSE's payload type).
const PAYLOAD_TYPE: &str = "application/vnd.bartizan.shield-bundle-keys+json";

/// What one link says. Its canonical form is this, as JSON without white space, members in this order (RFC 8785's), keys
/// sorted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Statement {
    /// When it was made, in Unix seconds.
    created: u64,
    /// The public keys that count from now on.
    keys: Vec<String>,
    /// Its place in the chain, from 1.
    number: u64,
}

#[derive(Clone, Debug)]
struct Link {
    /// The bytes that are signed.
    text: Vec<u8>,
    keys: Vec<PublicKey>,
    created: Timestamp,
    signatures: Vec<(KeyId, Vec<u8>)>,
}

/// A link as it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenLink {
    link: String,
    signatures: Vec<WrittenSignature>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenChain {
    chain: String,
    links: Vec<WrittenLink>,
}

/// A chain of keys, which nobody has followed yet.
#[derive(Clone, Debug, Default)]
pub struct Chain(Vec<Link>);

impl Chain {
    /// Reads a chain's file.
    ///
    /// # Errors
    /// [`Refusal::Format`].
    pub fn read(bytes: &[u8]) -> Result<Self, Refusal> {
        if bytes.len() > CHAIN_BYTES {
            return Err(Refusal::Format("a chain of keys has at most 1 MiB".to_owned()));
        }
        let written: WrittenChain =
            serde_json::from_slice(bytes).map_err(|error| Refusal::Format(error.to_string()))?;
        if written.chain != FORMAT {
            return Err(Refusal::Format("its `chain` is another format".to_owned()));
        }
        Self::of(&written.links)
    }

    pub(super) fn of(written: &[WrittenLink]) -> Result<Self, Refusal> {
        if written.len() > LINKS {
            return Err(Refusal::Format(format!("its chain of keys has more than {LINKS} links")));
        }
        written
            .iter()
            .zip(1..)
            .map(|(written, number)| Link::read(written, number))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    pub(super) fn written(&self) -> Vec<WrittenLink> {
        let write = |link: &Link| WrittenLink {
            link: STANDARD.encode(&link.text),
            signatures: WrittenSignature::of(&link.signatures),
        };
        self.0.iter().map(write).collect()
    }

    /// The file.
    pub fn to_json(&self) -> String {
        let written = WrittenChain { chain: FORMAT.to_owned(), links: self.written() };
        // Strings and lists have a JSON form.
        serde_json::to_string(&written).unwrap_or_default() + "\n"
    }

    /// Adds a link, which nobody has signed yet: from it on `keys` count, and no others.
    ///
    /// # Errors
    /// [`Refusal::Format`] for too many keys or links, or none.
    pub fn add(&mut self, keys: &[PublicKey], created: Timestamp) -> Result<(), Refusal> {
        let mut keys = keys.to_vec();
        keys.sort_unstable();
        keys.dedup();
        let statement = Statement {
            created: created.as_unix(),
            keys: keys.iter().map(ToString::to_string).collect(),
            number: self.0.len() as u64 + 1,
        };
        if self.0.len() >= LINKS || keys.is_empty() || keys.len() > KEYS {
            return Err(Refusal::Format(format!(
                "a link of a chain names 1 to {KEYS} keys, and a chain has at most {LINKS} links"
            )));
        }
        // Numbers, strings and lists have a JSON form.
        let text = serde_json::to_vec(&statement).unwrap_or_default();
        self.0.push(Link { text, keys, created, signatures: Vec::new() });
        Ok(())
    }

    /// Signs its last link, beside whoever signed it before. Earlier ones have had their day.
    pub fn sign(&mut self, key: &SigningKey) {
        let Some(link) = self.0.last_mut() else { return };
        let id = key.public().id();
        link.signatures.retain(|(known, _)| *known != id);
        link.signatures.push((id, key.sign(&pre_authentication(PAYLOAD_TYPE, &link.text))));
    }

    /// The keys that count at its end for whoever begins with `root` and wants the signatures of `needed` (at least one) of
    /// them: each link must be signed by so many of the keys before it, and by so many of its own.
    ///
    /// # Errors
    /// [`Refusal::Keys`], with the link that is not.
    pub fn follow(&self, root: &[PublicKey], needed: usize) -> Result<Vec<PublicKey>, Refusal> {
        let needed = needed.max(1);
        let mut current = root.to_vec();
        for (link, number) in self.0.iter().zip(1u64..) {
            for (keys, whose) in [(&current, "the keys before it"), (&link.keys, "its own keys")] {
                let found = link.signers(keys);
                if found < needed {
                    return Err(Refusal::Keys(format!(
                        "link {number} of its chain is signed by {found} of {whose}, and {needed} are needed"
                    )));
                }
            }
            current.clone_from(&link.keys);
        }
        Ok(current)
    }

    /// How many links it has.
    pub fn len(&self) -> u64 {
        self.0.len() as u64
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// SHA-256 of the link with this number, from 1.
    pub fn digest(&self, number: u64) -> Option<[u8; 32]> {
        let at = usize::try_from(number).ok()?.checked_sub(1)?;
        self.0.get(at).map(|link| sha256(&link.text))
    }

    /// Every key that any link names.
    pub fn keys(&self) -> impl Iterator<Item = &PublicKey> {
        self.0.iter().flat_map(|link| &link.keys)
    }

    /// When each link was made, the keys it names, and who is said to have signed it; in order.
    pub fn links(&self) -> impl Iterator<Item = (Timestamp, &[PublicKey], Vec<&KeyId>)> {
        self.0.iter().map(|link| {
            (link.created, link.keys.as_slice(), link.signatures.iter().map(|(key, _)| key).collect())
        })
    }

    /// By what chains that begin with `root` are told from others: 64 hexadecimal digits.
    pub fn root(root: &[PublicKey]) -> String {
        let mut keys: Vec<String> = root.iter().map(ToString::to_string).collect();
        keys.sort_unstable();
        keys.dedup();
        hex::encode(sha256(keys.join("\n").as_bytes()))
    }
}

impl Link {
    fn read(written: &WrittenLink, number: u64) -> Result<Self, Refusal> {
        let fault = |what: &str| Refusal::Format(format!("link {number} of its chain of keys {what}"));
        let text = STANDARD.decode(&written.link).map_err(|_| fault("is no Base64"))?;
        let statement: Statement = serde_json::from_slice(&text).map_err(|_| fault("cannot be read"))?;
        let keys: Vec<PublicKey> = statement
            .keys
            .iter()
            .map(|key| key.parse().map_err(|_| fault("names what is no key")))
            .collect::<Result<_, _>>()?;
        let canonical =
            Statement { keys: keys.iter().map(ToString::to_string).collect(), ..statement.clone() };
        if serde_json::to_vec(&canonical).unwrap_or_default() != text || !keys.is_sorted_by(|a, b| a < b) {
            return Err(fault("is not in its canonical form"));
        }
        if statement.number != number {
            return Err(fault("has another number"));
        }
        if keys.is_empty() || keys.len() > KEYS || written.signatures.len() > SIGNATURES {
            return Err(fault("has no key, or too many keys or signatures"));
        }
        let signatures = signatures(&written.signatures)?;
        Ok(Self { text, keys, created: Timestamp::from_unix(statement.created), signatures })
    }

    /// How many of `keys` signed it.
    fn signers(&self, keys: &[PublicKey]) -> usize {
        let signed = pre_authentication(PAYLOAD_TYPE, &self.text);
        let mut keys = keys.to_vec();
        keys.sort_unstable();
        keys.dedup();
        let has_signed = |key: &&PublicKey| {
            self.signatures.iter().any(|(id, sig)| *id == key.id() && key.verifies(&signed, sig))
        };
        keys.iter().filter(has_signed).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_seed(&[seed; 32])
    }

    fn public(seeds: &[u8]) -> Vec<PublicKey> {
        seeds.iter().map(|seed| key(*seed).public()).collect()
    }

    /// A chain whose links name `to`, each signed by `by`.
    fn chain(links: &[(&[u8], &[u8])]) -> Chain {
        let mut chain = Chain::default();
        for (number, (to, by)) in links.iter().enumerate() {
            chain.add(&public(to), Timestamp::from_unix(number as u64)).unwrap();
            by.iter().for_each(|seed| chain.sign(&key(*seed)));
        }
        Chain::read(chain.to_json().as_bytes()).unwrap()
    }

    #[test]
    fn each_link_needs_the_word_of_the_keys_before_it_and_of_its_own() {
        let mut sorted = public(&[2]);
        sorted.sort_unstable();
        assert_eq!(chain(&[(&[2], &[1, 2])]).follow(&public(&[1]), 1), Ok(sorted));
        assert_eq!(chain(&[(&[2], &[1, 2]), (&[3], &[2, 3])]).follow(&public(&[1]), 1), Ok(public(&[3])));
        assert_eq!(Chain::default().follow(&public(&[1]), 1), Ok(public(&[1])));
        for (bad, root, needed, why) in [
            (chain(&[(&[2], &[2])]), &[1][..], 1, "nobody before it"),
            (chain(&[(&[2], &[1])]), &[1], 1, "a key that nobody is known to have"),
            (chain(&[(&[2], &[3, 2])]), &[1], 1, "a stranger"),
            (chain(&[(&[2], &[1, 2]), (&[3], &[1, 3])]), &[1], 1, "a key that was replaced"),
            (chain(&[(&[3, 4], &[1, 3, 4])]), &[1, 2], 2, "one of two"),
            (chain(&[(&[3], &[1, 2, 3])]), &[1, 2], 2, "fewer keys than must sign"),
            (chain(&[(&[3, 4], &[1, 3, 4])]), &[1, 1], 2, "one that counts twice"),
        ] {
            assert!(matches!(bad.follow(&public(root), needed), Err(Refusal::Keys(_))), "{why}");
        }
        assert!(chain(&[(&[3, 4], &[1, 2, 3, 4])]).follow(&public(&[1, 2]), 2).is_ok());
    }

    #[test]
    fn a_link_that_is_altered_moved_or_not_in_its_one_form_is_none() {
        let two = chain(&[(&[2], &[1, 2]), (&[3], &[2, 3])]).to_json();
        let parsed: serde_json::Value = serde_json::from_str(&two).unwrap();
        let mut swapped = parsed.clone();
        swapped["links"] = serde_json::json!([parsed["links"][1], parsed["links"][0]]);
        assert!(Chain::read(swapped.to_string().as_bytes()).is_err());
        let mut stripped = parsed.clone();
        stripped["links"][1]["signatures"] = serde_json::json!([]);
        let stripped = Chain::read(stripped.to_string().as_bytes()).unwrap();
        assert!(stripped.follow(&public(&[1]), 1).is_err());
        let text = STANDARD.decode(parsed["links"][0]["link"].as_str().unwrap()).unwrap();
        let spaced = String::from_utf8(text).unwrap().replace(':', ": ");
        let mut odd = parsed.clone();
        odd["links"][0]["link"] = STANDARD.encode(spaced).into();
        assert!(Chain::read(odd.to_string().as_bytes()).is_err());
        // What signs a link signs no bundle: the payload types differ.
        let link = STANDARD.decode(parsed["links"][0]["link"].as_str().unwrap()).unwrap();
        assert_ne!(
            pre_authentication(PAYLOAD_TYPE, &link),
            pre_authentication(super::super::PAYLOAD_TYPE, &link)
        );
    }

    #[test]
    fn a_root_is_its_keys_in_any_order() {
        assert_eq!(Chain::root(&public(&[1, 2])), Chain::root(&public(&[2, 1, 2])));
        assert_ne!(Chain::root(&public(&[1, 2])), Chain::root(&public(&[1])));
    }
}
