//! `provider = "pkcs11"`: an AES key that never leaves its token.
//!
//! Keys are wrapped by AES-GCM on the token (PKCS#11 v2.40 §2.12.3: `CKM_AES_GCM`). The key of the configured label is made there
//! if there is none: sensitive, not extractable. `keys rotate` makes a newer one of the same label and destroys the older.

use std::{path::PathBuf, sync::Mutex};

use async_trait::async_trait;
use bartizan_model::{Clock, Entropy, Secret, SystemClock};
use bartizan_store::{
    KEY, KeyBytes, OsEntropy, RootError, RootKey,
    root::{Wrapped, key_bytes},
};
use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    error::{Error, RvError},
    mechanism::{Mechanism, aead::GcmParams},
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::{Session, UserType},
    types::AuthPin,
};

use super::blocking;

/// Bytes of a nonce.
const NONCE: usize = 12;

/// What a wrapped key is bound to.
const CONTEXT: &[u8] = b"bartizan root key";

/// A module is loaded and initialised once in a process, whatever reads the configuration again.
static MODULES: Mutex<Vec<(PathBuf, Pkcs11)>> = Mutex::new(Vec::new());

/// The root key on a token.
pub struct Pkcs11Root {
    at: At,
}

#[derive(Clone)]
struct At {
    module: PathBuf,
    token: String,
    key: String,
    pin: Secret,
}

impl Pkcs11Root {
    /// The key labelled `key` on the token labelled `token`, by `module`.
    pub fn new(module: PathBuf, token: String, key: String, pin: Secret) -> Self {
        Self { at: At { module, token, key, pin } }
    }

    /// Does something with the token, away from everything else.
    async fn on_token<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Session, &At) -> Result<T, RootError> + Send + 'static,
    ) -> Result<T, RootError> {
        let at = self.at.clone();
        blocking(move || work(&at.session()?, &at)).await
    }
}

impl At {
    fn session(&self) -> Result<Session, RootError> {
        let away = |error: Error| RootError::Away(format!("{}: {error}", self.module.display()));
        let module = self.loaded().map_err(away)?;
        let slots = module.get_slots_with_initialized_token().map_err(away)?;
        let slot = slots.into_iter().find(|slot| {
            module.get_token_info(*slot).is_ok_and(|token| token.label().trim_end() == self.token)
        });
        let slot = slot.ok_or_else(|| {
            RootError::Away(format!("{} knows no token `{}`", self.module.display(), self.token))
        })?;
        let session = module.open_rw_session(slot).map_err(away)?;
        match session.login(UserType::User, Some(&AuthPin::from(self.pin.reveal().to_owned()))) {
            // Another session of this process is logged in, and so is this one.
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(session),
            Err(error) => Err(RootError::Refused(format!("the token `{}`: {error}", self.token))),
        }
    }

    fn loaded(&self) -> Result<Pkcs11, Error> {
        let mut modules = MODULES.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some((_, module)) = modules.iter().find(|(path, _)| *path == self.module) {
            return Ok(module.clone());
        }
        let module = Pkcs11::new(&self.module)?;
        match module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
            Err(error) => return Err(error),
        }
        modules.push((self.module.clone(), module.clone()));
        Ok(module)
    }

    /// Keys of our label, the newest first: ids begin with the time they were made at.
    fn keys(&self, session: &Session) -> Result<Vec<(Vec<u8>, ObjectHandle)>, RootError> {
        let template = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::Label(self.key.clone().into_bytes()),
        ];
        let mut found = Vec::new();
        for handle in session.find_objects(&template).map_err(failed)? {
            for attribute in session.get_attributes(handle, &[AttributeType::Id]).map_err(failed)? {
                if let Attribute::Id(id) = attribute {
                    found.push((id, handle));
                }
            }
        }
        found.sort_by(|(a, _), (b, _)| b.cmp(a));
        Ok(found)
    }

    /// A new key, which is the newest: of two that were made in one second, too, and after a clock was set back.
    fn make(&self, session: &Session) -> Result<(Vec<u8>, ObjectHandle), RootError> {
        let newest = self.keys(session)?.into_iter().next();
        let newest = newest.and_then(|(id, _)| id.first_chunk().copied().map(u64::from_be_bytes));
        let after = newest.map_or(0, |seconds| seconds.saturating_add(1));
        let mut id = SystemClock.now().as_unix().max(after).to_be_bytes().to_vec();
        let mut more = [0; 8];
        OsEntropy.fill(&mut more);
        id.extend_from_slice(&more);
        let template = [
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Encrypt(true),
            Attribute::Decrypt(true),
            Attribute::ValueLen(32.into()),
            Attribute::Label(self.key.clone().into_bytes()),
            Attribute::Id(id.clone()),
        ];
        let handle = session.generate_key(&Mechanism::AesKeyGen, &template).map_err(failed)?;
        Ok((id, handle))
    }
}

fn failed(error: Error) -> RootError {
    match error {
        Error::Pkcs11(
            RvError::DeviceRemoved
            | RvError::DeviceError
            | RvError::TokenNotPresent
            | RvError::FunctionFailed,
            _,
        ) => RootError::Away(error.to_string()),
        other => RootError::Refused(other.to_string()),
    }
}

fn gcm<'a>(nonce: &'a mut [u8], aad: &'a [u8]) -> Result<Mechanism<'a>, RootError> {
    GcmParams::new(nonce, aad, 128.into()).map(Mechanism::AesGcm).map_err(failed)
}

#[async_trait]
impl RootKey for Pkcs11Root {
    fn provider(&self) -> &'static str {
        "pkcs11"
    }

    async fn wrap(&self, key: &[u8; KEY]) -> Result<Wrapped, RootError> {
        let key = KeyBytes::new(*key);
        self.on_token(move |session, at| {
            let newest = at.keys(session)?.into_iter().next();
            let (id, handle) = newest.map_or_else(|| at.make(session), Ok)?;
            let mut nonce = [0; NONCE];
            OsEntropy.fill(&mut nonce);
            let text = hex(&nonce);
            let sealed = session.encrypt(&gcm(&mut nonce, CONTEXT)?, handle, key.as_ref()).map_err(failed)?;
            Ok(Wrapped { key_id: hex(&id), text: format!("{text}{}", hex(&sealed)) })
        })
        .await
    }

    async fn unwrap(&self, wrapped: &Wrapped) -> Result<KeyBytes, RootError> {
        let wrapped = wrapped.clone();
        self.on_token(move |session, at| {
            let key = at.keys(session)?.into_iter().find(|(id, _)| hex(id) == wrapped.key_id);
            let (_, handle) = key.ok_or_else(|| {
                RootError::Refused(format!(
                    "the token `{}` has no key `{}` with the id {}",
                    at.token, at.key, wrapped.key_id
                ))
            })?;
            let wrong = || RootError::Wrong("what was wrapped is not hexadecimal".into());
            let bytes = unhex(&wrapped.text).ok_or_else(wrong)?;
            let (nonce, sealed) = bytes.split_at_checked(NONCE).ok_or_else(wrong)?;
            let opened = session.decrypt(&gcm(&mut nonce.to_vec(), CONTEXT)?, handle, sealed);
            let opened = opened.map(zeroize::Zeroizing::new);
            key_bytes(&opened.map_err(|error| RootError::Wrong(format!("the token says {error}")))?)
        })
        .await
    }

    async fn renew(&self) -> Result<(), RootError> {
        self.on_token(|session, at| at.make(session).map(drop)).await
    }

    async fn forget_older(&self) -> Result<(), RootError> {
        self.on_token(|session, at| {
            for (_, handle) in at.keys(session)?.into_iter().skip(1) {
                session.destroy_object(handle).map_err(failed)?;
            }
            Ok(())
        })
        .await
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    let pairs = digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    digits.len().is_multiple_of(2).then(|| pairs.collect()).flatten()
}
