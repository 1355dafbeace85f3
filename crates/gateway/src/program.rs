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
    keeper.keep_fresh().await;
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

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, path::Path, sync::Arc, time::Duration};

    use bartizan_audit::{AuditFolder, Options};
    use bartizan_mcp::Era;
    use bartizan_model::{CallerKey, ManualClock, SeededEntropy, Timestamp};
    use bartizan_store::{
        Database, Sealer, StoredPins,
        pins::{Extent, Look, Offered, Policy},
    };

    use super::*;
    use crate::{record::Recorder, server::Server};

    /// A keeper and the store it reads.
    async fn kept(folder: &Path) -> (Database, Arc<Keeper>) {
        let database = Database::sqlite(&folder.join("store.db")).await.unwrap();
        let sealer = Arc::new(Sealer::new(&[1; 32]).unwrap());
        let clock = Arc::new(ManualClock::new(Timestamp::from_unix(100)));
        let pins = Arc::new(StoredPins::new(database.clone(), sealer, None));
        (database, Keeper::new(pins, clock).await.unwrap())
    }

    fn command(program: &str) -> ServerSettings {
        ServerSettings::probe(program, &[], Pinning::FirstUse)
    }

    /// Approves what the server is now.
    async fn approve(settings: &ServerSettings, keeper: &Keeper) {
        let definition = identity(settings).await.definition();
        let offered = Offered {
            kind: Kind::Identity,
            name: IDENTITY.to_owned(),
            hash: Digest(definition.hash()),
            body: Digest(definition.body()),
            text: definition.text().to_owned(),
            findings: Vec::new(),
        };
        let look = Look {
            server: settings.name.clone(),
            caller: CallerKey::nobody(),
            policy: Policy::TrustOnFirstUse,
            extent: Extent::Whole(vec![Kind::Identity]),
            offered: vec![offered],
        };
        keeper.observe(&look).await.unwrap();
    }

    /// A person who is sent to look at a change that is none looks in vain.
    #[tokio::test]
    async fn where_approvals_cannot_be_read_that_is_what_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let (database, keeper) = kept(folder.path()).await;
        let (settings, other) = (command("one"), command("another"));
        approve(&settings, &keeper).await;
        assert_eq!(clear(&settings, &keeper).await, Ok(()));
        let words = |failure: Failure| failure.to_string();
        let changed = clear(&other, &keeper).await.map_err(words).unwrap_err();
        assert!(changed.contains("is not what was approved") && changed.contains("tools diff"), "{changed}");
        database.close().await;
        assert!(keeper.refresh().await.is_err());
        for settings in [&settings, &other] {
            let unread = clear(settings, &keeper).await.map_err(words).unwrap_err();
            assert!(unread.contains("cannot be looked up now") && !unread.contains("diff"), "{unread}");
        }
    }

    /// Where many begin at once, that takes seconds.
    #[tokio::test]
    async fn sc_01_what_is_exchanged_while_its_start_waits_for_its_turn_is_not_started() {
        let folder = tempfile::tempdir().unwrap();
        let (_database, keeper) = kept(folder.path()).await;
        let program = folder.path().join("server");
        let install = |text: &str| {
            std::fs::write(&program, text).unwrap();
            std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        };
        install("#!/bin/sh\n");
        let settings = ServerSettings { watches_program: true, ..command(&program.display().to_string()) };
        approve(&settings, &keeper).await;
        let clock = Arc::new(ManualClock::new(Timestamp::from_unix(100)));
        let audit = AuditFolder::open(folder.path(), Arc::new(SeededEntropy::new(1))).unwrap();
        let log = audit.start("gate", clock.clone(), Options::default()).unwrap();
        let server = Server::new(settings.clone(), Arc::new(Recorder::new(log, clock))).with_pins(keeper);
        let Transport::Command { launch, secrets } = &settings.transport else { unreachable!() };
        let start = || server.start(launch, secrets, Era::Legacy, None);
        let said = |started: Result<_, Failure>| started.err().map(|failure| failure.to_string()).unwrap();
        let unstarted = said(start().await);
        assert!(!unstarted.contains("approved"), "there is no sandbox here: {unstarted}");
        // One that did not start has the next one wait.
        let exchange = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            install("#!/bin/sh\n: and steals\n");
        };
        let ((), started) = futures::future::join(exchange, start()).await;
        let refused = said(started);
        assert!(refused.contains("is not what was approved"), "{refused}");
    }
}
