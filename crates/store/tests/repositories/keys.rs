//! Keys of persons: made at need, changed while gates run, and destroyed.

use std::{cell::RefCell, fs, path::Path, sync::Arc, time::Duration};

use bartizan_model::{Secret, SeededEntropy};
use bartizan_store::{
    Admins, Browsers, Bundles, Consents, Contents, Database, DatabaseError, Digest, FileRoot, Grants,
    KeyFile, KeysError, Links, Pins, RootError, Sealer, SigningKeys, StoredAdmins, StoredBrowsers,
    StoredBundles, StoredConsents, StoredGrants, StoredLinks, StoredPins, StoredSigningKeys, Vault,
    VaultError,
    admins::Held,
    browsers::Browser,
    bundles::Taken,
    consents::{Consent, Given},
    erase,
    grants::{FreshToken, Grant, Revocation, RevokedKind},
    links::{self, Account},
    reseal::{Only, Progress, Rotation, RotationError},
    signing::SigningKey,
};
use tokio::runtime::Handle;

use crate::bench::{Bench, approve, at, each, look, server, tool};

const ISSUER: &str = "https://id.example";
/// A linked account as the first versions sealed it, under a key of 32 sevens: made by another program, from the description of
/// the format.
const V1_LINK: &str = "cOxKQ_IUuhJOWa-9AxKthu7aw0IcuQNKPudOUzB9V-hnyV0LKvhKqZk";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn only(file: &KeyFile) -> Only {
    Only::of(file).unwrap()
}

/// A gate's folder.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn keys(&self, seed: u64) -> KeyFile {
        file(&self.path("keys.json"), &self.path("seal.key"), seed)
    }
}

fn file(keys: &Path, root: &Path, seed: u64) -> KeyFile {
    let entropy = Arc::new(SeededEntropy::new(seed));
    KeyFile::new(keys, Arc::new(FileRoot::new(root, entropy.clone())), entropy)
}

fn sealer(keys: &Contents, seed: u64) -> Arc<Sealer> {
    Arc::new(Sealer::of(keys, Arc::new(SeededEntropy::new(seed))).unwrap())
}

/// What one process uses.
struct Desk {
    database: Database,
    sealer: Arc<Sealer>,
    grants: StoredGrants,
    links: StoredLinks,
    browsers: StoredBrowsers,
    consents: StoredConsents,
    signing: StoredSigningKeys,
    vault: Vault,
    pins: StoredPins,
    bundles: StoredBundles,
    admins: StoredAdmins,
}

async fn desk(bench: &Bench, sealer: Arc<Sealer>, seen: Option<std::path::PathBuf>) -> Desk {
    let database = bench.open().await;
    let of = || (database.clone(), Arc::clone(&sealer));
    Desk {
        grants: StoredGrants::new(of().0, of().1),
        links: StoredLinks::new(of().0, of().1),
        browsers: StoredBrowsers::new(of().0, of().1),
        consents: StoredConsents::new(of().0, of().1),
        signing: StoredSigningKeys::new(of().0, of().1),
        vault: Vault::new(of().0, of().1),
        bundles: StoredBundles::new(of().0, of().1, seen.as_ref().map(|seen| seen.with_extension("bundles"))),
        admins: StoredAdmins::new(of().0, of().1, seen.as_ref().map(|seen| seen.with_extension("ended"))),
        pins: StoredPins::new(of().0, of().1, seen),
        database,
        sealer,
    }
}

fn account(subject: &str) -> Account {
    Account { issuer: ISSUER.to_owned(), subject: subject.to_owned(), server: server("files") }
}

fn consent(subject: &str) -> Consent {
    Consent {
        issuer: ISSUER.to_owned(),
        subject: subject.to_owned(),
        client: "editor".to_owned(),
        redirect_uri: "http://127.0.0.1/callback".to_owned(),
        scopes: ["use".to_owned()].into(),
        resource: "https://gate.example/mcp".to_owned(),
        metadata: "m".to_owned(),
    }
}

fn code(subject: &str) -> Digest {
    Digest::of(format!("code of {subject}").as_bytes())
}

fn refresh(subject: &str) -> Digest {
    Digest::of(format!("refresh token of {subject}").as_bytes())
}

fn cookie(subject: &str) -> Digest {
    Digest::of(format!("cookie of {subject}").as_bytes())
}

impl Desk {
    /// Everything a person can have.
    async fn furnish(&self, subject: &str) {
        let grant = Grant {
            id: format!("grant of {subject}"),
            client: "editor".to_owned(),
            issuer: ISSUER.to_owned(),
            subject: subject.to_owned(),
            content: format!("content of {subject}"),
            made_at: at(0),
            expires_at: at(100_000),
        };
        self.grants.begin(&grant, code(subject), at(60)).await.unwrap();
        let token = FreshToken { token: refresh(subject), binding: None, until: at(90_000) };
        assert!(self.grants.redeem(code(subject), Some(&token), at(1)).await.unwrap());
        let link = links::Grant {
            upstream: "https://as.example".to_owned(),
            scopes: vec!["read".to_owned()],
            content: Secret::new(format!("tokens of {subject}")),
            granted_at: at(1),
            revision: 0,
        };
        self.links.link(&account(subject), &link).await.unwrap();
        let browser = Browser {
            id: cookie(subject),
            issuer: ISSUER.to_owned(),
            subject: subject.to_owned(),
            person: format!("name of {subject}").into_bytes(),
            opened_at: at(1),
            expires_at: at(90_000),
        };
        self.browsers.open(&browser).await.unwrap();
        let given = Given { consent: consent(subject), client_name: "Editor".to_owned(), at: at(1) };
        self.consents.remember(&given).await.unwrap();
    }

    /// What of a person opens: grant, refresh token, linked account, browser, consent.
    async fn opens(&self, subject: &str) -> [bool; 5] {
        let grant = self.grants.find(&format!("grant of {subject}"), at(2)).await.unwrap();
        let link = self.links.grant(&account(subject)).await;
        let browser = self.browsers.find(&cookie(subject), DAY, at(2)).await;
        [
            grant.is_some_and(|g| g.content == format!("content of {subject}")),
            self.grants.of_refresh(refresh(subject)).await.unwrap().is_some(),
            link.is_ok_and(|l| l.is_some_and(|l| l.content.reveal() == format!("tokens of {subject}"))),
            browser.is_ok_and(|b| b.is_some_and(|b| b.person == format!("name of {subject}").into_bytes())),
            self.consents.is_given(&consent(subject)).await.unwrap(),
        ]
    }

    fn rotation<'a>(&'a self, file: &'a KeyFile, at_once: bool) -> Rotation<'a> {
        Rotation {
            file,
            database: &self.database,
            sealer: Arc::clone(&self.sealer),
            pins: &self.pins,
            bundles: &self.bundles,
            admins: &self.admins,
            outside: &[],
            patience: Duration::ZERO,
            at_once,
        }
    }
}

#[tokio::test]
async fn each_person_has_a_key_and_nothing_opens_under_anothers() {
    each(async |bench| {
        let place = Place::new();
        let keys = place.keys(1).open(None).await.unwrap();
        let desk = desk(bench, sealer(&keys, 2), None).await;
        desk.furnish("ann").await;
        desk.furnish("bob").await;
        assert_eq!((desk.opens("ann").await, desk.opens("bob").await), ([true; 5], [true; 5]));
        assert_eq!(bench.meddle("UPDATE person_keys SET made_at = made_at").await, 2, "one each");
        assert_eq!(
            bench.meddle("UPDATE grants SET content = content WHERE content LIKE '4.%'").await,
            2,
            "under their own"
        );
        // Whoever can write to the database can move no key, and no column.
        bench.meddle("UPDATE person_keys SET subject = 'x' WHERE subject = 'bob'").await;
        bench.meddle("UPDATE person_keys SET subject = 'bob' WHERE subject = 'ann'").await;
        assert_eq!(desk.opens("bob").await[..1], [false]);
        bench.meddle("UPDATE person_keys SET subject = 'ann' WHERE subject = 'bob'").await;
        bench.meddle("UPDATE person_keys SET subject = 'bob' WHERE subject = 'x'").await;
        assert_eq!((desk.opens("ann").await, desk.opens("bob").await), ([true; 5], [true; 5]));
        // A key that does not open is no reason to make another: what is sealed under it would be lost.
        bench.meddle("UPDATE person_keys SET wrapped = 'x' WHERE subject = 'bob'").await;
        let grant = links::Grant {
            upstream: "https://as.example".to_owned(),
            scopes: Vec::new(),
            content: Secret::new("new".to_owned()),
            granted_at: at(1),
            revision: 0,
        };
        assert!(desk.links.link(&account("bob"), &grant).await.is_err());
    })
    .await;
}

#[tokio::test]
async fn what_earlier_versions_sealed_opens_and_is_sealed_again_by_a_rotation() {
    each(async |bench| {
        let place = Place::new();
        // As the first versions wrote it: under the key in `seal.key`, without the key's name.
        let old = [7; 32];
        let old_desk = desk(bench, Arc::new(Sealer::new(&old).unwrap()), None).await;
        old_desk.furnish("ann").await;
        bench.meddle(&format!("UPDATE upstream_grants SET sealed = '{V1_LINK}'")).await;
        bench.meddle("DELETE FROM person_keys").await;
        let keys = place.keys(1).open(Some(old.into())).await.unwrap();
        let desk = desk(bench, sealer(&keys, 2), None).await;
        assert!(desk.opens("ann").await[2], "it opens");
        let file = place.keys(3);
        desk.rotation(&file, true).run(&only(&file), at(10), &mut |_| {}).await.unwrap();
        assert!(desk.opens("ann").await[2]);
        let sealed_anew = "UPDATE upstream_grants SET sealed = sealed WHERE sealed LIKE '4.%'";
        assert_eq!(bench.meddle(sealed_anew).await, 1);
    })
    .await;
}

/// attacks.md TP-02; spec.md G-43: nothing of an erased person opens, in no copy of the database.
#[tokio::test]
async fn an_erased_person_opens_nowhere_and_everybody_else_does() {
    each(async |bench| {
        let place = Place::new();
        let file = place.keys(1);
        let keys = file.open(None).await.unwrap();
        let here = desk(bench, sealer(&keys, 2), None).await;
        here.furnish("ann").await;
        here.furnish("bob").await;
        let tables = ["person_keys", "grants", "refresh_tokens", "upstream_grants", "browsers", "consents"];
        for table in tables {
            bench.meddle(&format!("CREATE TABLE copy_{table} AS SELECT * FROM {table}")).await;
        }

        let ids = erase::keys_of(&here.database, ISSUER, "ann").await.unwrap();
        assert_eq!(ids.len(), 1);
        let holed = file.change(at(5), |keys, _| keys.puncture(&ids)).await.unwrap();
        let erased = erase::erase(&here.database, ISSUER, "ann", at(5), DAY).await.unwrap();
        assert_eq!(
            (erased.keys.len(), erased.grants, erased.links, erased.browsers, erased.other),
            (1, 1, 1, 1, 1)
        );
        // At once in a process that has not read the key file again, for the rows are gone.
        assert_eq!((here.opens("ann").await, here.opens("bob").await), ([false; 5], [true; 5]));
        let revoked = here.grants.revocations(at(0), at(6)).await.unwrap();
        assert!(
            revoked.iter().any(|r| r.kind == RevokedKind::Subject && r.name == "ann" && r.issuer == ISSUER)
        );
        assert!(revoked.iter().any(|r| r.kind == RevokedKind::Grant && r.name == "grant of ann"));
        assert!(!revoked.iter().any(|r| r.name.contains("bob")));

        // Somebody puts the copy of yesterday back.
        for table in tables {
            bench.meddle(&format!("DELETE FROM {table}")).await;
        }
        for table in tables {
            bench.meddle(&format!("INSERT INTO {table} SELECT * FROM copy_{table}")).await;
        }
        let later = desk(bench, sealer(&holed, 3), None).await;
        let [grant, token, link, browser, _] = later.opens("ann").await;
        assert_eq!([grant, token, link, browser], [false; 4], "it is as good as random");
        assert_eq!(later.opens("bob").await, [true; 5], "nobody else's copy is worth less");
        // With the key file of yesterday it would open: that is why it is kept apart.
        let before = desk(bench, sealer(&keys, 4), None).await;
        assert_eq!(before.opens("ann").await, [true; 5]);

        // Once more is no error, and who comes back begins anew.
        erase::erase(&later.database, ISSUER, "ann", at(7), DAY).await.unwrap();
        assert!(erase::erase(&later.database, ISSUER, "ann", at(7), DAY).await.unwrap().is_nothing());
        later.furnish("ann").await;
        assert_eq!(later.opens("ann").await, [true; 5]);
    })
    .await;
}

/// Tokens of issuers of the operator's may live for weeks: whoever was revoked for as long as that is not let in sooner by being
/// erased, nor keeps a role.
#[tokio::test]
async fn an_erasure_makes_no_revocation_shorter_and_leaves_no_role() {
    each(async |bench| {
        let keys = Place::new().keys(1).open(None).await.unwrap();
        let desk = desk(bench, sealer(&keys, 2), None).await;
        let revoked = |at, until| Revocation {
            kind: RevokedKind::Subject,
            issuer: ISSUER.to_owned(),
            name: "ann".to_owned(),
            at,
            until,
        };
        desk.grants.revoke(&revoked(at(3), at(2_592_000))).await.unwrap();
        let (issuer, by) = (ISSUER.to_owned(), "ada".to_owned());
        let held = |subject: &str| Held {
            role: "operator".to_owned(),
            issuer: issuer.clone(),
            subject: subject.to_owned(),
            by: by.clone(),
            at: at(0),
            until: at(9000),
        };
        desk.admins.grant(&held("ann")).await.unwrap();
        desk.admins.grant(&held("bob")).await.unwrap();
        let erased = erase::erase(&desk.database, ISSUER, "ann", at(5), DAY).await.unwrap();
        assert_eq!(erased.other, 1, "the role");
        let days_later = at(3 * 86_400);
        let known = desk.grants.revocations(at(0), days_later).await.unwrap();
        assert_eq!(
            known,
            [revoked(at(5), at(2_592_000))],
            "what was issued until now, for as long as before"
        );
        assert!(desk.admins.of(ISSUER, "ann", at(6)).await.unwrap().is_empty());
        assert_eq!(desk.admins.of(ISSUER, "bob", at(6)).await.unwrap(), ["operator"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn keys_change_while_another_process_goes_on_and_a_stopped_change_is_finished() {
    each(async |bench| {
        let place = Place::new();
        let file = place.keys(1);
        let keys = file.open(None).await.unwrap();
        let gate = desk(bench, sealer(&keys, 2), None).await;
        for n in 0..5 {
            gate.furnish(&format!("person {n}")).await;
        }
        let signing = SigningKey {
            id: "k".to_owned(),
            private: Secret::new("private".to_owned()),
            public: "public".to_owned(),
            signs_from: at(0),
            signs_until: at(1000),
            verifies_until: at(2000),
        };
        assert!(gate.signing.add(&signing).await.unwrap());
        gate.vault.add("API_KEY", &Secret::new("s3cret".to_owned()), at(0)).await.unwrap();
        let admins = StoredAdmins::new(gate.database.clone(), Arc::clone(&gate.sealer), None);
        let (issuer, subject, by) = (ISSUER.to_owned(), "ann".to_owned(), "ada".to_owned());
        let held = Held { role: "viewer".to_owned(), issuer, subject, by, at: at(0), until: at(9000) };
        admins.grant(&held).await.unwrap();
        let tool = tool("read", "Reads.");
        gate.pins.observe(&look([&tool]), at(0)).await.unwrap();
        approve(&gate.pins, &tool, 1).await;
        let cursor = gate.sealer.seal(&[b"cursor"], b"page 2");
        let old_keys = fs::read(place.path("keys.json")).unwrap();
        let old_root = fs::read(place.path("seal.key")).unwrap();

        // Stopped when new keys were published, as by a crash.
        let published = file.change(at(10), |_, _| {}).await.unwrap();
        assert!(published.rotating().is_none());
        let operator = desk(bench, sealer(&published, 3), Some(place.path("pins.seen"))).await;
        operator.pins.observe(&look([&tool]), at(2)).await.unwrap();
        let (acme, bundle) = (["acme".to_owned()], Taken { version: 3, digest: Digest::of(b"three") });
        assert!(operator.bundles.advance(&acme, bundle, Some(("root", bundle, "[]")), at(2)).await.unwrap());
        let role = Held { role: "approver".to_owned(), ..held };
        operator.admins.grant(&role).await.unwrap();
        assert!(operator.admins.take("approver", ISSUER, "ann", at(3)).await.unwrap());
        let mut seen = Vec::new();
        {
            let rotation = operator.rotation(&file, false);
            let mut note = |progress| seen.push(progress);
            let only = only(&file);
            let running = rotation.run(&only, at(11), &mut note);
            let mut running = std::pin::pin!(running);
            // Dropped after a few steps, wherever it is then.
            for _ in 0..3 {
                if futures_step(running.as_mut()).await {
                    break;
                }
            }
        }
        // The gate goes on: it reads what is in the file, and writes.
        gate.sealer.adopt(&place.keys(9).read().await.unwrap()).unwrap();
        gate.furnish("late").await;
        assert_eq!(gate.opens("person 0").await, [true; 5]);
        let mut again = Vec::new();
        operator
            .rotation(&file, false)
            .run(&only(&file), at(12), &mut |progress| again.push(progress))
            .await
            .unwrap();
        assert_eq!(again.first(), Some(&Progress::Published));
        assert_eq!(again.last(), Some(&Progress::Ended));

        let ended = file.read().await.unwrap();
        assert!(ended.rotating().is_none() && ended.older() >= 1);
        gate.sealer.adopt(&ended).unwrap();
        for subject in ["person 0", "person 4", "late"] {
            assert_eq!(gate.opens(subject).await, [true; 5], "{subject}");
        }
        assert_eq!(gate.signing.all(at(5)).await.unwrap()[0].private.reveal(), "private");
        assert_eq!(gate.vault.read("API_KEY").await.unwrap().reveal(), "s3cret");
        assert_eq!(gate.pins.list(None).await.unwrap().len(), 1);
        assert_eq!(admins.of(ISSUER, "ann", at(5)).await.unwrap(), ["viewer"]);
        for bundles in [&gate.bundles, &operator.bundles] {
            assert_eq!(bundles.newest(&acme).await.unwrap(), Some(bundle));
            assert_eq!(bundles.followed("root").await.unwrap().unwrap().last, bundle);
        }
        assert_eq!(gate.sealer.open(&[b"cursor"], &cursor).unwrap(), b"page 2", "for a day");
        // Nothing is left under the old keys: they open nothing of what is in the database.
        let sealed = ended.ids().unwrap().0;
        let stale = |table: &str, column: &str| {
            format!("UPDATE {table} SET {column} = {column} WHERE {column} NOT LIKE '_.{sealed}.%'")
        };
        for (table, column) in [
            ("signing_keys", "private"),
            ("vault_secrets", "sealed"),
            ("consents", "seal"),
            ("admin_roles", "seal"),
            ("refresh_tokens", "seal"),
            ("pins", "seal"),
            ("bundle_versions", "mark"),
            ("bundle_chains", "mark"),
        ] {
            assert_eq!(bench.meddle(&stale(table, column)).await, 0, "{table}");
        }
        assert_ne!(fs::read(place.path("seal.key")).unwrap(), old_root);
        let (then, root) = (place.path("then.json"), place.path("then.key"));
        fs::write(&then, old_keys).unwrap();
        fs::write(&root, old_root).unwrap();
        for path in [&then, &root] {
            fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        }
        let thief = crate::keys::file(&then, &root, 5).read().await.unwrap();
        let thief = desk(bench, sealer(&thief, 6), None).await;
        assert!(!matches!(thief.grants.find("grant of person 0", at(2)).await, Ok(Some(_))));
        assert!(matches!(thief.vault.read("API_KEY").await, Err(VaultError::Unsealed(_))));

        // A key that got out opens nothing at once.
        operator.rotation(&file, true).run(&only(&file), at(13), &mut |_| {}).await.unwrap();
        assert_eq!(operator.bundles.newest(&acme).await.unwrap(), Some(bundle), "the file beside too");
        assert_eq!(operator.admins.all(at(5)).await.unwrap().len(), 1, "and that of roles");
        gate.sealer.adopt(&file.read().await.unwrap()).unwrap();
        assert!(gate.sealer.open(&[b"cursor"], &cursor).is_none());
        assert_eq!(gate.opens("late").await, [true; 5]);
    })
    .await;
}

/// Stopped after the new keys seal and before the rows are sealed again: gates and commands that change the key file meanwhile
/// must not destroy the key that most rows are under, were it retired a day ago.
#[tokio::test]
async fn a_rotation_that_was_stopped_is_finished_days_later_and_nothing_is_lost() {
    each(async |bench| {
        let place = Place::new();
        let file = place.keys(1);
        let keys = file.open(None).await.unwrap();
        let desk = desk(bench, sealer(&keys, 2), None).await;
        desk.furnish("ann").await;
        desk.vault.add("API_KEY", &Secret::new("s3cret".to_owned()), at(0)).await.unwrap();
        let seen = RefCell::new(Vec::new());
        {
            let rotation = desk.rotation(&file, false);
            let (only, mut note) = (only(&file), |progress| seen.borrow_mut().push(progress));
            let mut running = std::pin::pin!(rotation.run(&only, at(10), &mut note));
            while !seen.borrow().contains(&Progress::Promoted) {
                assert!(!futures_step(running.as_mut()).await);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        let days_later = at(10 + 3 * 24 * 60 * 60);
        let left = file.read().await.unwrap();
        assert!(left.rotating().is_some() && !left.has_expired(days_later), "no gate tidies up after it");
        // Somebody is erased, say.
        let changed = file.change(days_later, |_, _| {}).await.unwrap();
        assert_eq!(changed.older(), 1);
        desk.sealer.adopt(&changed).unwrap();
        assert_eq!(desk.opens("ann").await, [true; 5]);

        desk.rotation(&file, false).run(&only(&file), days_later, &mut |_| {}).await.unwrap();
        assert_eq!(desk.opens("ann").await, [true; 5]);
        assert_eq!(desk.vault.read("API_KEY").await.unwrap().reveal(), "s3cret");
        let ended = file.read().await.unwrap();
        assert!(ended.has_expired(days_later), "now it can go");
        let tidied = file.change(days_later, |_, _| {}).await.unwrap();
        assert_eq!(tidied.older(), 0);
        desk.sealer.adopt(&tidied).unwrap();
        assert_eq!(desk.opens("ann").await, [true; 5]);
        assert_eq!(desk.vault.read("API_KEY").await.unwrap().reveal(), "s3cret");
    })
    .await;
}

#[tokio::test]
async fn of_two_rotations_at_once_the_second_is_refused() {
    each(async |bench| {
        let place = Place::new();
        let (file, other) = (place.keys(1), place.keys(2));
        let keys = file.open(None).await.unwrap();
        let desk = desk(bench, sealer(&keys, 3), None).await;
        desk.furnish("ann").await;
        let first = only(&file);
        let second = Only::of(&other);
        assert!(matches!(second, Err(RotationError::Busy)), "{second:?}");
        desk.rotation(&file, false).run(&first, at(10), &mut |_| {}).await.unwrap();
        assert!(Only::of(&other).is_err(), "as long as it lives");
        drop(first);
        desk.rotation(&other, false).run(&only(&other), at(11), &mut |_| {}).await.unwrap();
        assert_eq!(desk.opens("ann").await, [true; 5]);
    })
    .await;
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_named_and_keeps_no_other_under_the_old_key() {
    each(async |bench| {
        let place = Place::new();
        let file = place.keys(1);
        let keys = file.open(None).await.unwrap();
        let desk = desk(bench, sealer(&keys, 2), None).await;
        for subject in ["ann", "bob", "eve"] {
            desk.furnish(subject).await;
        }
        bench.meddle("UPDATE upstream_grants SET server = 'No Name' WHERE subject = 'bob'").await;
        bench.meddle("UPDATE refresh_tokens SET until = -1 WHERE grant_id = 'grant of bob'").await;
        let mut seen = Vec::new();
        desk.rotation(&file, true)
            .run(&only(&file), at(10), &mut |progress| seen.push(progress))
            .await
            .unwrap();

        let malformed = |what, row: &str| Progress::Malformed { what, row: row.to_owned() };
        let token = format!("hash \"{}\"", refresh("bob"));
        assert!(seen.contains(&malformed("refresh tokens", &token)), "{seen:?}");
        let link = format!("issuer \"{ISSUER}\", subject \"bob\", server \"No Name\"");
        assert!(seen.contains(&malformed("linked accounts", &link)), "{seen:?}");
        let named = seen.iter().filter(|progress| matches!(progress, Progress::Malformed { .. }));
        assert_eq!(named.count(), 2);
        assert!(seen.contains(&Progress::Resealed { what: "linked accounts", done: 2, lost: 1 }), "{seen:?}");
        for subject in ["ann", "eve"] {
            assert_eq!(desk.opens(subject).await, [true; 5], "{subject}");
        }
    })
    .await;
}

/// Rows that do not open may be deleted while a rotation goes on, as what was withheld is when it expires: no other row stays under
/// a key that is destroyed for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_go_while_keys_change_hide_no_other() {
    each(async |bench| {
        let place = Place::new();
        let file = place.keys(1);
        let keys = file.open(None).await.unwrap();
        let desk = desk(bench, sealer(&keys, 2), None).await;
        let name = |n: u32| format!("s{n:03}");
        for n in 0..300 {
            desk.vault.add(&name(n), &Secret::new(format!("value {n}")), at(0)).await.unwrap();
        }
        // Somebody spoilt some of them, all over the table.
        let spoilt = "name LIKE 's__0'";
        assert_eq!(bench.meddle(&format!("UPDATE vault_secrets SET sealed = 'x' WHERE {spoilt}")).await, 30);
        let mut seen = Vec::new();
        let mut say = |progress| {
            if let Progress::Resealed { what: "secrets", .. } = progress {
                let gone = format!("DELETE FROM vault_secrets WHERE {spoilt}");
                tokio::task::block_in_place(|| Handle::current().block_on(bench.meddle(&gone)));
                seen.push(progress);
            }
        };
        desk.rotation(&file, true).run(&only(&file), at(10), &mut say).await.unwrap();
        assert!(matches!(seen.first(), Some(Progress::Resealed { done: 180, lost: 20, .. })), "{seen:?}");
        for n in (0..300).filter(|n| n % 10 != 0) {
            let value = desk.vault.read(&name(n)).await.unwrap();
            assert_eq!(value.reveal(), format!("value {n}"));
        }
    })
    .await;
}

/// Polls once; whether it is over.
async fn futures_step<F: Future>(mut future: std::pin::Pin<&mut F>) -> bool {
    let once =
        std::future::poll_fn(|context| std::task::Poll::Ready(future.as_mut().poll(context).is_ready()));
    let over = once.await;
    // What it waits for has time to happen.
    tokio::task::yield_now().await;
    over
}

#[tokio::test]
async fn without_a_key_nothing_is_sealed_and_nothing_is_lost() {
    each(async |bench| {
        let place = Place::new();
        let keys = place.keys(1).open(None).await.unwrap();
        let desk = desk(bench, sealer(&keys, 2), None).await;
        desk.furnish("ann").await;
        desk.vault.add("K", &Secret::new("v".to_owned()), at(0)).await.unwrap();
        desk.sealer.lock();
        assert!(desk.links.grant(&account("ann")).await.is_err());
        assert!(desk.grants.find("grant of ann", at(2)).await.is_err());
        assert!(matches!(desk.vault.read("K").await, Err(VaultError::Database(DatabaseError::Locked))));
        assert_eq!(desk.sealer.seal(&[], b"x"), "");
        assert!(!desk.sealer.is_marked(&[], &desk.sealer.mark(&[])));
        desk.sealer.adopt(&keys).unwrap();
        assert_eq!(desk.opens("ann").await, [true; 5]);
    })
    .await;
}

#[tokio::test]
async fn the_key_file_opens_under_its_own_root_alone() {
    let place = Place::new();
    let ids = place.keys(1).open(None).await.unwrap().ids();
    assert_eq!(place.keys(2).open(None).await.unwrap().ids(), ids, "it is made once");
    let other = file(&place.path("keys.json"), &place.path("other.key"), 3);
    assert!(matches!(other.read().await, Err(KeysError::Root(RootError::File(_)))), "there is no root key");
    file(&place.path("other.json"), &place.path("other.key"), 3).open(None).await.unwrap();
    assert!(matches!(other.read().await, Err(KeysError::Root(RootError::Wrong(_)))));
    let text = fs::read_to_string(place.path("keys.json")).unwrap();
    fs::write(place.path("keys.json"), text.replace("\"provider\": \"file\"", "\"provider\": \"keyring\""))
        .unwrap();
    assert!(matches!(place.keys(4).read().await, Err(KeysError::Provider { .. })));
    fs::write(place.path("keys.json"), "{}").unwrap();
    assert!(matches!(place.keys(4).read().await, Err(KeysError::Malformed(_))));
}

#[tokio::test]
async fn a_secret_is_set_replaced_listed_and_removed() {
    each(async |bench| {
        let vault = Vault::new(bench.open().await, crate::bench::sealer());
        let secret = |text: &str| Secret::new(text.to_owned());
        vault.add("API_KEY", &secret("one"), at(1)).await.unwrap();
        assert!(matches!(vault.add("API_KEY", &secret("two"), at(2)).await, Err(VaultError::Known(_))));
        bench.meddle("CREATE TABLE was AS SELECT * FROM vault_secrets").await;
        assert_eq!(vault.replace("API_KEY", &secret("two"), at(3)).await.unwrap(), 2);
        assert_eq!(vault.read("API_KEY").await.unwrap().reveal(), "two");
        let listed = vault.list().await.unwrap();
        assert_eq!(
            (listed[0].name.as_str(), listed[0].revision, listed[0].changed_at),
            ("API_KEY", 2, at(3))
        );
        // An older value that somebody puts back, or another's, opens nowhere.
        bench.meddle("UPDATE vault_secrets SET sealed = (SELECT sealed FROM was)").await;
        assert!(matches!(vault.read("API_KEY").await, Err(VaultError::Unsealed(_))));
        assert!(matches!(vault.replace("OTHER", &secret("x"), at(4)).await, Err(VaultError::Unknown(_))));
        for name in ["", "a b", "../x", &"x".repeat(65)] {
            assert!(matches!(vault.add(name, &secret("x"), at(4)).await, Err(VaultError::Name(_))), "{name}");
        }
        assert!(matches!(vault.add("EMPTY", &secret(""), at(4)).await, Err(VaultError::Length)));
        assert!(vault.remove("API_KEY").await.unwrap() && !vault.remove("API_KEY").await.unwrap());
        assert!(matches!(vault.read("API_KEY").await, Err(VaultError::Unknown(_))));
    })
    .await;
}
