//! The shield's bundle: whether there is one, whose it is, how old.

use std::path::Path;

use bartizan_model::{Clock, SystemClock};
use bartizan_store::StoredBundles;

use super::Check;
use crate::{
    bundles::{self, KEPT},
    config::Config,
    state::State,
};

/// Looks at the configured file and at the copy of the last good bundle.
pub async fn checks(config: &Config, base: &Path, state: &State) -> Vec<Check> {
    let id = "shield.bundle";
    let Some(settings) = &config.shield.bundle else {
        return vec![Check::pass(id, "none is configured: the build's own rules and model judge")];
    };
    let remedy = "see `bartizan shield bundle verify --config FILE BUNDLE`";
    let keys = match settings.public_keys() {
        Ok(keys) => keys,
        Err(problem) => return vec![Check::fail(id, problem, remedy)],
    };
    let store = match state.known_bundles().await {
        Ok(store) => store,
        Err(error) => return vec![Check::unknown(id, format!("{error:#}"), "see the check `pins`")],
    };
    let (now, kept) = (SystemClock.now(), state.folder().join(KEPT));
    let path = settings.path.as_ref().map_or_else(|| kept.clone(), |path| base.join(path));
    let mut looked = look(&path, settings, &keys, store.as_ref(), now).await;
    let mut found = Vec::new();
    if let Err(problem) = &looked
        && path != kept
        && kept.exists()
    {
        found.push(Check::fail(
            id,
            format!("{}: {problem}; the last good one is used", path.display()),
            remedy,
        ));
        looked = look(&kept, settings, &keys, store.as_ref(), now).await;
    }
    found.push(match looked {
        Err(problem) => {
            Check::fail(id, format!("{}: {problem}; the build's own rules judge", path.display()), remedy)
        }
        Ok(manifest) => match bundles::staleness(&manifest, settings, now) {
            Some(words) => {
                Check::warn(id, words, "put a newer one in its place, or look why the feed has none")
            }
            None => Check::pass(
                id,
                format!("{} version {}, signed by a key that counts", manifest.name, manifest.version),
            ),
        },
    });
    found
}

async fn look(
    path: &Path,
    settings: &bartizan_shield::bundle::BundleConfig,
    keys: &[bartizan_shield::bundle::PublicKey],
    store: Option<&StoredBundles>,
    now: bartizan_model::Timestamp,
) -> Result<bartizan_shield::bundle::Manifest, bundles::Unfit> {
    let bytes = bundles::read(path).await?;
    Ok(bundles::check(&bytes, settings.threshold, keys, store, now).await?.verified.manifest().clone())
}
