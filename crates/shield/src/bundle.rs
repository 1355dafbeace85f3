//! Rules and a model from a signed file, in place of those that the build has.
//!
//! *Attack.* Whoever can change what a detector looks for need not hide from it: a pack that is altered on its way, an old
//! one without last week's rule, one that catches nothing or everything. *Answer.* A bundle counts only if a key of the
//! operator's signed its manifest, the manifest has the SHA-256 of every file, its version is not below one that was seen
//! before ([`Verified::version`]; whoever keeps versions compares), it has not expired, and its rules and model pass their
//! own tests and ours ([`Verified::prove`]). It is The Update Framework's least part (TUF 1.0, §5.4 to §5.6), and its
//! signature is DSSE's (v1.0.2).
//!
//! ```text
//! bytes → Envelope → Verified → Arms → Shield
//!         read       signed     proven
//! ```

mod chain;
mod config;
mod content;
mod keys;
mod manifest;
mod proof;

use std::collections::{BTreeMap, BTreeSet};

use bartizan_model::Timestamp;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

pub use chain::Chain;
pub use config::{BundleConfig, Span};
pub use content::{Arms, Difference, Vector};
pub use keys::{InvalidKey, KeyId, PublicKey, SigningKey};
pub use manifest::{File, Manifest};
pub use proof::fill_in;

use crate::drift::sha256;

/// Bytes of a bundle's file.
pub const BUNDLE_BYTES: usize = 8 << 20;

/// What the format is called in the file.
const FORMAT: &str = "bartizan-shield-bundle/1";

/// What a signature is over, beside the manifest's bytes (DSSE's payload type).
const PAYLOAD_TYPE: &str = "application/vnd.bartizan.shield-bundle+json";

/// How far ahead of ours the clock of whoever made a bundle may be, in seconds.
const AHEAD_S: u64 = 3600;

/// Signatures of one bundle.
const SIGNATURES: usize = 16;

/// Why a bundle is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is no bundle.
    #[error("it is no bundle: {0}")]
    Format(String),
    /// It is larger than a bundle may be.
    #[error("it has more than {BUNDLE_BYTES} bytes")]
    Size,
    /// Too few of the keys that count signed it.
    #[error(
        "{found} of the {needed} signatures needed are there; compare `keys` with `bartizan shield bundle show`"
    )]
    Signature {
        /// Keys that count and signed it.
        found: usize,
        /// How many must.
        needed: usize,
    },
    /// A file is not the one the manifest speaks of.
    #[error("its file `{0}` is not the one that was signed")]
    Tampered(String),
    /// Its time is over.
    #[error("it expired {ago_s} s ago")]
    Expired {
        /// How long ago, in seconds.
        ago_s: u64,
    },
    /// It is dated after now.
    #[error("it is dated {ahead_s} s ahead of this machine's clock")]
    Future {
        /// How far, in seconds.
        ahead_s: u64,
    },
    /// The chain of keys that it goes by is not one that can be followed from here.
    #[error("{0}; see `bartizan shield bundle show`")]
    Keys(String),
    /// A key that has been replaced signed it.
    #[error("its key {0} has been replaced: the chain of keys has gone on")]
    Retired(KeyId),
    /// Its version is below one that was used before.
    #[error("its version {found} is older than {known}, which was used before")]
    Rollback {
        /// Its version.
        found: u64,
        /// The newest one that was used.
        known: u64,
    },
    /// Its version was used before, for other content.
    #[error("version {0} was used before with other content: a version is signed once")]
    Equivocal(u64),
    /// A file cannot be used: a rule that does not compile, a model that is none.
    #[error("{0}")]
    Content(String),
    /// It fails a test of its own or one of ours.
    #[error("self-test: {0}")]
    SelfTest(String),
}

impl Refusal {
    /// A stable word for records and metrics.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Format(_) => "bundle.format",
            Self::Size => "bundle.size",
            Self::Signature { .. } => "bundle.signature",
            Self::Tampered(_) => "bundle.tampered",
            Self::Expired { .. } => "bundle.expired",
            Self::Future { .. } => "bundle.future",
            Self::Keys(_) => "bundle.keys",
            Self::Retired(_) => "bundle.retired",
            Self::Rollback { .. } => "bundle.rollback",
            Self::Equivocal(_) => "bundle.equivocal",
            Self::Content(_) => "bundle.content",
            Self::SelfTest(_) => "bundle.self_test",
        }
    }
}

/// The file as it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    bundle: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    chain: Vec<chain::WrittenLink>,
    files: BTreeMap<String, String>,
    manifest: String,
    signatures: Vec<WrittenSignature>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenSignature {
    key: String,
    sig: String,
}

impl WrittenSignature {
    fn of(signatures: &[(KeyId, Vec<u8>)]) -> Vec<Self> {
        let write = |(key, sig): &(KeyId, Vec<u8>)| Self { key: key.to_string(), sig: STANDARD.encode(sig) };
        signatures.iter().map(write).collect()
    }
}

fn signatures(written: &[WrittenSignature]) -> Result<Vec<(KeyId, Vec<u8>)>, Refusal> {
    let format = |what: &str| Refusal::Format(what.to_owned());
    let read = |signature: &WrittenSignature| {
        let key = signature.key.parse().map_err(|_| format("a signature's `key` is no key's id"))?;
        Ok((key, STANDARD.decode(&signature.sig).map_err(|_| format("a signature is no Base64"))?))
    };
    written.iter().map(read).collect()
}

/// A bundle nobody has vouched for yet.
#[derive(Clone, Debug)]
pub struct Envelope {
    chain: Chain,
    manifest: Manifest,
    /// The bytes that are signed.
    text: Vec<u8>,
    files: BTreeMap<String, Vec<u8>>,
    signatures: Vec<(KeyId, Vec<u8>)>,
}

impl Envelope {
    /// Reads the file of a bundle.
    ///
    /// # Errors
    /// [`Refusal::Size`] or [`Refusal::Format`].
    pub fn read(bytes: &[u8]) -> Result<Self, Refusal> {
        if bytes.len() > BUNDLE_BYTES {
            return Err(Refusal::Size);
        }
        let format = |what: &str| Refusal::Format(what.to_owned());
        let written: Written =
            serde_json::from_slice(bytes).map_err(|error| Refusal::Format(error.to_string()))?;
        if written.bundle != FORMAT {
            return Err(format("its `bundle` is another format"));
        }
        if written.signatures.len() > SIGNATURES {
            return Err(format("it has too many signatures"));
        }
        let decode = |text: &str| STANDARD.decode(text).map_err(|_| format("a member is no Base64"));
        let text = decode(&written.manifest)?;
        let manifest = Manifest::read(&text)?;
        let files = written.files.iter().map(|(path, text)| Ok((path.clone(), decode(text)?)));
        Ok(Self {
            chain: Chain::of(&written.chain)?,
            manifest,
            text,
            files: files.collect::<Result<_, Refusal>>()?,
            signatures: signatures(&written.signatures)?,
        })
    }

    /// A new bundle that nobody has signed yet.
    ///
    /// # Errors
    /// [`Refusal::Format`] for names or dates that cannot be.
    pub fn new(
        name: &str,
        version: u64,
        created: Timestamp,
        expires: Timestamp,
        files: BTreeMap<String, Vec<u8>>,
    ) -> Result<Self, Refusal> {
        let listed = files.iter().map(|(path, bytes)| File {
            path: path.clone(),
            sha256: hex::encode(sha256(bytes)),
            size: bytes.len() as u64,
        });
        let manifest = Manifest {
            created: created.as_unix(),
            expires: expires.as_unix(),
            files: listed.collect(),
            name: name.to_owned(),
            version,
        };
        let text = manifest.canonical();
        let chain = Chain::default();
        Ok(Self { chain, manifest: Manifest::read(&text)?, text, files, signatures: Vec::new() })
    }

    /// The same with `chain`, which leads gates from the keys they know to those that sign it.
    #[must_use]
    pub fn with_chain(self, chain: Chain) -> Self {
        Self { chain, ..self }
    }

    /// The chain of keys it brings along; nobody has followed it.
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// Signs it, beside whoever signed it before.
    pub fn sign(&mut self, key: &SigningKey) {
        let id = key.public().id();
        self.signatures.retain(|(known, _)| *known != id);
        self.signatures.push((id, key.sign(&pre_authentication(PAYLOAD_TYPE, &self.text))));
    }

    /// The file.
    pub fn to_json(&self) -> String {
        let written = Written {
            bundle: FORMAT.to_owned(),
            chain: self.chain.written(),
            files: self.files.iter().map(|(path, bytes)| (path.clone(), STANDARD.encode(bytes))).collect(),
            manifest: STANDARD.encode(&self.text),
            signatures: WrittenSignature::of(&self.signatures),
        };
        // Strings and maps of strings have a JSON form.
        serde_json::to_string(&written).unwrap_or_default() + "\n"
    }

    /// What it says of itself; nobody has vouched for it.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Who is said to have signed it.
    pub fn signers(&self) -> impl Iterator<Item = &KeyId> {
        self.signatures.iter().map(|(key, _)| key)
    }

    /// SHA-256 of the manifest, by which one content is told from another.
    pub fn digest(&self) -> [u8; 32] {
        sha256(&self.text)
    }

    /// Those of `keys` that signed it.
    pub fn signed_by<'k>(&self, keys: &'k [PublicKey]) -> impl Iterator<Item = &'k PublicKey> {
        let signed = pre_authentication(PAYLOAD_TYPE, &self.text);
        keys.iter().filter(move |key| {
            self.signatures.iter().any(|(id, sig)| *id == key.id() && key.verifies(&signed, sig))
        })
    }

    /// Believes it if at least `needed` (at least one) of `keys` signed it and every file is the signed one. Its dates are
    /// another question: [`Verified::current`].
    ///
    /// # Errors
    /// [`Refusal::Signature`] or [`Refusal::Tampered`].
    pub fn verify(self, keys: &[PublicKey], needed: usize) -> Result<Verified, Refusal> {
        let signers: BTreeSet<KeyId> = self.signed_by(keys).map(PublicKey::id).collect();
        let needed = needed.max(1);
        if signers.len() < needed {
            return Err(Refusal::Signature { found: signers.len(), needed });
        }
        for file in &self.manifest.files {
            let is_it = self.files.get(&file.path).is_some_and(|bytes| {
                bytes.len() as u64 == file.size && hex::encode(sha256(bytes)) == file.sha256
            });
            if !is_it {
                return Err(Refusal::Tampered(file.path.clone()));
            }
        }
        let is_listed = |path: &&String| self.manifest.files.iter().any(|file| file.path == **path);
        if let Some(stray) = self.files.keys().find(|path| !is_listed(path)) {
            return Err(Refusal::Tampered(stray.clone()));
        }
        let digest = self.digest();
        Ok(Verified { manifest: self.manifest, digest, files: self.files, signers })
    }
}

/// A bundle that the operator's keys signed, whole and unaltered. Only [`Envelope::verify`] makes it.
#[derive(Debug)]
pub struct Verified {
    manifest: Manifest,
    digest: [u8; 32],
    files: BTreeMap<String, Vec<u8>>,
    signers: BTreeSet<KeyId>,
}

impl Verified {
    /// Its manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Its version, which never goes down for a key.
    pub fn version(&self) -> u64 {
        self.manifest.version
    }

    /// SHA-256 of its manifest.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// The keys that count and signed it.
    pub fn signers(&self) -> &BTreeSet<KeyId> {
        &self.signers
    }

    /// Whether it may be taken up `now`.
    ///
    /// # Errors
    /// [`Refusal::Expired`] or [`Refusal::Future`].
    pub fn current(&self, now: Timestamp) -> Result<(), Refusal> {
        let (created, expires) = (self.manifest.created, self.manifest.expires);
        let ahead_s = created.saturating_sub(now.as_unix());
        if ahead_s > AHEAD_S {
            return Err(Refusal::Future { ahead_s });
        }
        match now.as_unix().checked_sub(expires) {
            Some(ago_s) => Err(Refusal::Expired { ago_s }),
            None => Ok(()),
        }
    }

    /// Compiles it and puts it to the test: each rule's examples, the model's reference values, and what no shield may miss
    /// or withhold.
    ///
    /// Takes some seconds of a core for a bundle of the size of what ships; not for a thread that serves requests.
    ///
    /// # Errors
    /// [`Refusal::Content`] or [`Refusal::SelfTest`].
    pub fn prove(&self) -> Result<Arms, Refusal> {
        let arms = Arms::of(self)?;
        proof::prove(&arms, self)?;
        Ok(arms)
    }
}

/// What a signature is over: DSSE's pre-authentication encoding, which keeps the signature from meaning anything elsewhere.
fn pre_authentication(payload_type: &str, body: &[u8]) -> Vec<u8> {
    let mut out = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), body.len()).into_bytes();
    out.extend_from_slice(body);
    out
}
