//! What a server's command really runs, as a part of who the server is (attacks.md SC-01, SC-13).
//!
//! It is looked at every other second and once more before each start: a package that was exchanged under the same command is
//! another server, of which nothing is approved, and no process of it starts.

use bartizan_sandbox::Installed;
use bartizan_shield::drift::{Identity, Package, Run};
use bartizan_store::{
    Digest, Keeper,
    pins::{IDENTITY, Kind, Pinned},
};

use crate::{
    server::{Pinning, ServerSettings, Transport},
    upstream::Failure,
};

/// Who the server is now, what it runs included.
pub async fn identity(settings: &ServerSettings) -> Identity {
    let (Identity::Command { argv, .. }, Transport::Command { launch, .. }, true) =
        (&settings.identity, &settings.transport, settings.watches_program)
    else {
        return settings.identity.clone();
    };
    let launch = launch.clone();
    // A look that ends in a panic saw nothing; what was approved is more than that.
    let installed = tokio::task::spawn_blocking(move || launch.installed()).await.unwrap_or_default();
    let Installed { files, package } = installed;
    let package = package.map(|package| Package {
        name: package.name,
        version: package.version,
        integrity: package.integrity,
        content: package.content,
        dependencies: package.dependencies,
    });
    let runs = files
        .into_iter()
        .map(|file| Run { path: file.path.to_string_lossy().into_owned(), sha256: file.sha256 })
        .collect();
    Identity::Command { argv: argv.clone(), package, runs }
}

/// Whether `identity` is what was approved, with more known of what it runs.
pub fn says_more(identity: &Identity, approved: &Pinned) -> bool {
    identity.briefer().iter().any(|briefer| *briefer.text() == *approved.text)
}

/// Lets a process start.
///
/// # Errors
/// [`Failure::Unreachable`] if the command would run something else than was approved.
pub async fn clear(settings: &ServerSettings, keeper: &Keeper) -> Result<(), Failure> {
    if settings.pinning == Pinning::DangerousNone {
        return Ok(());
    }
    let identity = identity(settings).await;
    let approved = keeper.approved();
    if approved.version() == 0 {
        return Err(Failure::Unreachable(
            "it is not started: what was approved cannot be looked up now; try again later".into(),
        ));
    }
    let approved = approved.get(&settings.name, Kind::Identity, IDENTITY);
    let is_approved = approved.is_some_and(|approved| {
        approved.hash == Digest(identity.definition().hash()) || says_more(&identity, approved)
    });
    if is_approved {
        return Ok(());
    }
    Err(Failure::Unreachable(format!(
        "it is not started: what its command runs is not what was approved; its operator has to look: {}",
        settings.look_command()
    )))
}
