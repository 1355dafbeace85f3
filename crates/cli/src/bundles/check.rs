//! Whether a bundle is good, and what judges where no gate runs.

use std::path::Path;

use anyhow::Context;
use bartizan_model::{Clock, SystemClock, Timestamp};
use bartizan_shield::bundle::{
    Arms, BUNDLE_BYTES, BundleConfig, Chain, Envelope, KeyId, Manifest, PublicKey, Refusal, Verified,
};
use bartizan_store::{Bundles as Stored, DatabaseError, StoredBundles, bundles::Followed};

use super::{KEPT, read};
use crate::{config::Config, state::State};

/// Why a bundle is not taken up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It does not pass its checks.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Its file cannot be read.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    /// Its feed does not answer as it should.
    #[error("its feed: {0}")]
    Unreachable(String),
    /// It cannot be found out which version was taken up before.
    #[error("which version was used before cannot be found out: {0}")]
    Store(String),
}

impl Unfit {
    /// A stable word for records and metrics.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.code(),
            Self::Unreadable(_) => "bundle.unreadable",
            Self::Unreachable(_) => "bundle.unreachable",
            Self::Store(_) => "bundle.store",
        }
    }

    /// Whether other keys could make it good.
    pub(super) fn is_about_keys(&self) -> bool {
        matches!(self, Self::Refused(Refusal::Signature { .. } | Refusal::Keys(_) | Refusal::Retired(_)))
    }

    /// Whether the same bundle may be good in a while: what was wrong is ours, or may be our clock.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Unreadable(_) | Self::Unreachable(_) | Self::Store(_) => true,
            Self::Refused(refusal) => matches!(refusal, Refusal::Future { .. } | Refusal::Expired { .. }),
        }
    }
}

/// What a gate judges by, and whose it is.
pub struct Active {
    /// Rules and model.
    pub arms: Arms,
    /// The name and version of the bundle they are of. `None` is the build.
    pub bundle: Option<(String, u64)>,
}

impl Active {
    /// What the build has.
    pub fn shipped() -> Self {
        Self { arms: Arms::shipped(), bundle: None }
    }
}

/// What is said of who judged: `{"bundle": NAME, "version": N}`, or `"build"`.
pub fn judged_by(bundle: Option<&(String, u64)>) -> serde_json::Value {
    match bundle {
        Some((name, version)) => serde_json::json!({ "bundle": name, "version": version }),
        None => "build".into(),
    }
}

/// What a gate of `config` with the state folder `state` judges by: the configured file if it is good, or else the copy of the
/// last good bundle, or else the build's own rules and model. Nothing is taken up; `say` hears why something is not used.
pub async fn judging(
    config: &Config,
    base: &Path,
    state: &State,
    say: impl Fn(&str),
) -> anyhow::Result<Active> {
    let Some(settings) = &config.shield.bundle else { return Ok(Active::shipped()) };
    let keys = settings.public_keys().map_err(anyhow::Error::msg).context("[shield.bundle]")?;
    let store = state.known_bundles().await?;
    let kept = state.folder().join(KEPT);
    let paths = settings.path.iter().map(|path| base.join(path)).chain(kept.exists().then_some(kept));
    for path in paths {
        let proven = async {
            let bytes = read(&path).await?;
            let verified =
                check(&bytes, settings.threshold, &keys, store.as_ref(), SystemClock.now()).await?.verified;
            let bundle = Some((verified.manifest().name.clone(), verified.version()));
            let proving = tokio::task::spawn_blocking(move || verified.prove());
            let proven = proving.await.map_err(|error| Refusal::SelfTest(error.to_string()))?;
            Ok::<_, Unfit>(Active { arms: proven?, bundle })
        };
        match proven.await {
            Ok(active) => return Ok(active),
            Err(unfit) => say(&format!("[shield.bundle] {}: refused: {unfit}\n", path.display())),
        }
    }
    say("[shield.bundle]: no good bundle; the build's own rules and model judge\n");
    Ok(Active::shipped())
}

/// A bundle that is rightly signed, and how that was found out.
#[derive(Debug)]
pub struct Checked {
    /// The bundle.
    pub verified: Verified,
    /// The keys of the configuration, as chains that begin there are known by.
    pub root: String,
    /// The chain of keys from there to those that signed it.
    pub chain: Chain,
}

/// Reads, verifies and dates a bundle that `threshold` of `keys` must stand behind; what is left is its own tests. Without a
/// `store` none was taken up before.
pub async fn check(
    bytes: &[u8],
    threshold: usize,
    keys: &[PublicKey],
    store: Option<&StoredBundles>,
    now: Timestamp,
) -> Result<Checked, Unfit> {
    let unknown = |error: DatabaseError| Unfit::Store(error.to_string());
    let envelope = Envelope::read(bytes)?;
    let root = Chain::root(keys);
    let followed = match store {
        Some(store) => store.followed(&root).await.map_err(unknown)?,
        None => None,
    };
    let chain = longest(&envelope, followed.as_ref(), keys, threshold)?;
    let current = chain.follow(keys, threshold)?;
    // Of all keys there ever were, not of its signers alone: whoever leaves a signature out goes back no further, nor does
    // whoever has a key that was replaced.
    let all: Vec<PublicKey> = keys.iter().chain(chain.keys()).copied().collect();
    let former: Vec<PublicKey> = all.iter().filter(|key| !current.contains(key)).copied().collect();
    let retired = envelope.signed_by(&former).next().map(PublicKey::id);
    let verified = envelope.verify(&current, threshold).map_err(|refusal| match (refusal, retired) {
        (Refusal::Signature { .. }, Some(retired)) => Refusal::Retired(retired),
        (refusal, _) => refusal,
    })?;
    let ids: Vec<KeyId> = all.iter().map(PublicKey::id).collect();
    let known = match store {
        Some(store) => store.newest(&names(&ids)).await.map_err(unknown)?,
        None => None,
    };
    let found = verified.version();
    match known {
        Some(known) if found < known.version => {
            return Err(Refusal::Rollback { found, known: known.version }.into());
        }
        Some(known) if found == known.version && known.digest.0 != verified.digest() => {
            return Err(Refusal::Equivocal(found).into());
        }
        // It was good when it was taken up; letting go of it would leave less.
        Some(known) if found == known.version => {}
        _ => verified.current(now)?,
    }
    Ok(Checked { verified, root, chain })
}

/// The bundle with the chain of keys by which it was found good: its copy counts though the database loses that chain.
pub(super) fn with_its_chain(bytes: Vec<u8>, chain: Chain) -> Vec<u8> {
    match Envelope::read(&bytes) {
        Ok(envelope) if envelope.chain().len() < chain.len() => {
            let text = envelope.with_chain(chain).to_json();
            if text.len() <= BUNDLE_BYTES { text.into_bytes() } else { bytes }
        }
        _ => bytes,
    }
}

/// The chain of keys to go by: the longer one of the bundle's and the one that was followed before, which it must not leave.
/// Whoever writes to the database has no say: links there that cannot be followed from `keys` to where they led are none.
fn longest(
    envelope: &Envelope,
    followed: Option<&Followed>,
    keys: &[PublicKey],
    threshold: usize,
) -> Result<Chain, Refusal> {
    let own = envelope.chain();
    let Some(followed) = followed else { return Ok(own.clone()) };
    let last = followed.last;
    let leads_on = |chain: &Chain| {
        chain.digest(last.version) == Some(last.digest.0) && chain.follow(keys, threshold).is_ok()
    };
    let stored = followed.links.as_ref().and_then(|links| Chain::read(links.as_bytes()).ok());
    if let Some(stored) = stored.filter(leads_on)
        && (stored.len() > own.len() || (stored.len() == own.len() && !leads_on(own)))
    {
        return Ok(stored);
    }
    match own.digest(last.version) {
        Some(digest) if digest == last.digest.0 => Ok(own.clone()),
        Some(_) => Err(Refusal::Keys(format!(
            "link {} of its chain of keys is another than the one that was followed before",
            last.version
        ))),
        None => Err(Refusal::Keys(format!(
            "its chain of keys has {} links, and {} were followed before",
            own.len(),
            last.version
        ))),
    }
}

/// Why a bundle is stale, if it is.
pub fn staleness(manifest: &Manifest, config: &BundleConfig, now: Timestamp) -> Option<String> {
    let days = |seconds: u64| format!("{} days", seconds / 86_400);
    let age = now.since(Timestamp::from_unix(manifest.created));
    if now.as_unix() >= manifest.expires {
        return Some(format!(
            "version {} expired {} ago",
            manifest.version,
            days(now.as_unix() - manifest.expires)
        ));
    }
    let is_old = age > config.max_age.0;
    is_old.then(|| {
        format!("version {} is {} old, more than {}", manifest.version, days(age.as_secs()), config.max_age)
    })
}

pub(super) fn names(keys: &[KeyId]) -> Vec<String> {
    keys.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bartizan_shield::bundle::SigningKey;
    use bartizan_store::{Digest, bundles::Taken};

    use super::*;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_seed(&[seed; 32])
    }

    /// A chain whose links name the first key, each signed by the second ones.
    fn chain(links: &[(u8, &[u8])]) -> Chain {
        let mut chain = Chain::default();
        for (to, by) in links {
            chain.add(&[key(*to).public()], Timestamp::from_unix(1)).unwrap();
            by.iter().for_each(|seed| chain.sign(&key(*seed)));
        }
        chain
    }

    fn chosen(own: &Chain, last: &Chain, links: Option<&str>) -> Result<u64, Refusal> {
        let (from, until) = (Timestamp::from_unix(1), Timestamp::from_unix(2));
        let files = BTreeMap::from([("rules/house.toml".to_owned(), Vec::new())]);
        let bundle = Envelope::new("house", 1, from, until, files).unwrap().with_chain(own.clone());
        let digest = Digest(last.digest(last.len()).unwrap());
        let last = Taken { version: last.len(), digest };
        let followed = Followed { last, links: links.map(ToOwned::to_owned) };
        let chosen = longest(&bundle, Some(&followed), &[key(1).public()], 1)?;
        assert!(chosen.follow(&[key(1).public()], 1).is_ok(), "what is chosen can be followed");
        Ok(chosen.len())
    }

    #[test]
    fn links_of_the_database_that_lead_nowhere_are_none_and_the_bundles_own_count() {
        let one = chain(&[(2, &[1, 2])]);
        let two = chain(&[(2, &[1, 2]), (3, &[2, 3])]);
        let none = Chain::default();
        let forged = chain(&[(2, &[1, 2]), (9, &[9])]).to_json();
        let unsigned = chain(&[(2, &[]), (3, &[2, 3])]).to_json();
        let fork = chain(&[(9, &[1, 9]), (8, &[9, 8])]).to_json();
        for bad in [None, Some("x"), Some(""), Some(&*forged), Some(&*unsigned), Some(&*fork)] {
            assert_eq!(chosen(&one, &one, bad), Ok(1), "{bad:?}");
            assert_eq!(chosen(&two, &one, bad), Ok(2), "{bad:?}");
            // How far it was followed counts all the same.
            assert!(matches!(chosen(&none, &one, bad), Err(Refusal::Keys(_))), "{bad:?}");
            assert!(matches!(chosen(&one, &two, bad), Err(Refusal::Keys(_))), "{bad:?}");
        }
        // Good ones lead a bundle that brings none, fewer, or others of the same number.
        assert_eq!(chosen(&none, &one, Some(&one.to_json())), Ok(1));
        assert_eq!(chosen(&one, &two, Some(&two.to_json())), Ok(2));
        assert_eq!(chosen(&chain(&[(9, &[1, 9])]), &one, Some(&one.to_json())), Ok(1));
        assert_eq!(chosen(&chain(&[(2, &[])]), &one, Some(&one.to_json())), Ok(1));
        let longer = chain(&[(9, &[1, 9]), (8, &[9, 8])]);
        assert!(matches!(chosen(&longer, &one, Some(&one.to_json())), Err(Refusal::Keys(_))));
    }
}
