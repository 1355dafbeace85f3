//! Consent, browsers, and what happens once.

use std::{sync::Arc, time::Duration};

use bartizan_store::{
    Browsers, Consents, Digest, Pending, PendingKind, Sealer, StoredBrowsers, StoredConsents, StoredPending,
    browsers::Browser,
    consents::{Consent, Given},
};

use crate::bench::{at, each, sealer};

fn consent() -> Consent {
    Consent {
        issuer: "https://idp.example".into(),
        subject: "ann".into(),
        client: "https://app.example/client".into(),
        redirect_uri: "https://app.example/callback".into(),
        scopes: ["mcp:read", "mcp:write"].map(String::from).into(),
        resource: "https://mcp.example/mcp/files".into(),
        metadata: "m1".into(),
    }
}

fn given(consent: Consent, seconds: u64) -> Given {
    Given { consent, client_name: "Notes".into(), at: at(seconds) }
}

#[tokio::test]
async fn cd_13_consent_is_for_one_exact_combination() {
    each(async |bench| {
        let consents = StoredConsents::new(bench.open().await, sealer());
        assert!(!consents.is_given(&consent()).await.unwrap());
        consents.remember(&given(consent(), 1)).await.unwrap();
        assert!(consents.is_given(&consent()).await.unwrap());
        let changes: [fn(&mut Consent); 9] = [
            |c| c.issuer.push('/'),
            |c| c.subject = "bob".into(),
            |c| c.client.push('2'),
            |c| c.redirect_uri.push('?'),
            |c| {
                c.scopes.insert("mcp:admin".into());
            },
            |c| {
                c.scopes.remove("mcp:read");
            },
            |c| c.scopes.clear(),
            |c| c.resource = "https://mcp.example/mcp".into(),
            |c| c.metadata = "m2".into(),
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let mut changed = consent();
            change(&mut changed);
            assert!(!consents.is_given(&changed).await.unwrap(), "change {number}");
        }
        // The changed client is consented to anew; its former self is forgotten with it.
        let changed = Consent { metadata: "m2".into(), ..consent() };
        consents.remember(&given(changed.clone(), 2)).await.unwrap();
        assert!(consents.is_given(&changed).await.unwrap());
        assert!(!consents.is_given(&consent()).await.unwrap());
        let elsewhere = Consent { resource: "https://mcp.example/mcp".into(), ..consent() };
        consents.remember(&given(elsewhere.clone(), 3)).await.unwrap();
        let all = consents.of("https://idp.example", "ann").await.unwrap();
        assert_eq!(all, [given(elsewhere, 3), given(changed.clone(), 2)]);
        assert_eq!(consents.of("https://idp.example", "bob").await.unwrap(), []);

        assert_eq!(consents.withdraw("https://idp.example", "bob", &changed.client).await.unwrap(), 0);
        assert_eq!(consents.withdraw("https://idp.example", "ann", &changed.client).await.unwrap(), 2);
        assert!(!consents.is_given(&changed).await.unwrap());
    })
    .await;
}

#[tokio::test]
async fn whoever_writes_to_the_database_cannot_consent() {
    each(async |bench| {
        let consents = StoredConsents::new(bench.open().await, sealer());
        consents.remember(&given(consent(), 1)).await.unwrap();
        assert_eq!(bench.meddle("UPDATE consents SET client = 'https://evil.example/client'").await, 1);
        let forged = Consent { client: "https://evil.example/client".into(), ..consent() };
        assert!(!consents.is_given(&forged).await.unwrap());
    })
    .await;
}

fn browser(name: &str, id: &str) -> Browser {
    Browser {
        id: Digest::of(id.as_bytes()),
        issuer: "https://idp.example".into(),
        subject: name.into(),
        person: format!("{name} by name").into_bytes(),
        opened_at: at(0),
        expires_at: at(86_400),
    }
}

const IDLE: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn a_browser_is_signed_in_until_it_idles_expires_or_signs_out() {
    each(async |bench| {
        let browsers = StoredBrowsers::new(bench.open().await, sealer());
        let (ann, too, bob) = (browser("ann", "1"), browser("ann", "2"), browser("bob", "3"));
        for browser in [&ann, &too, &bob] {
            browsers.open(browser).await.unwrap();
        }
        assert_eq!(browsers.find(&ann.id, IDLE, at(10)).await.unwrap(), Some(ann.clone()));
        assert_eq!(browsers.find(&Digest::of(b"4"), IDLE, at(10)).await.unwrap(), None);
        // Each visit within the hour buys another one, up to the day.
        let mut now = 10;
        while now < 86_400 {
            assert!(browsers.find(&ann.id, IDLE, at(now)).await.unwrap().is_some(), "at {now}");
            now += 3500;
        }
        assert_eq!(browsers.find(&ann.id, IDLE, at(86_400)).await.unwrap(), None, "expired");
        assert_eq!(browsers.find(&too.id, IDLE, at(3600)).await.unwrap(), None, "idled");

        browsers.open(&browser("ann", "5")).await.unwrap();
        browsers.close(&Digest::of(b"5")).await.unwrap();
        assert_eq!(browsers.find(&Digest::of(b"5"), IDLE, at(1)).await.unwrap(), None);
        assert_eq!(browsers.close_all("https://idp.example", "ann").await.unwrap(), 2);
        assert_eq!(browsers.find(&bob.id, IDLE, at(1)).await.unwrap(), Some(bob));
        assert_eq!(browsers.forget(at(86_401)).await.unwrap(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_row_cannot_be_moved_to_another_person_or_browser() {
    each(async |bench| {
        let browsers = StoredBrowsers::new(bench.open().await, sealer());
        browsers.open(&browser("ann", "1")).await.unwrap();
        bench.meddle("UPDATE browsers SET subject = 'root'").await;
        assert!(browsers.find(&Digest::of(b"1"), IDLE, at(1)).await.is_err());
        bench.meddle("UPDATE browsers SET subject = 'ann'").await;
        assert!(browsers.find(&Digest::of(b"1"), IDLE, at(1)).await.is_ok());
        let other = Arc::new(Sealer::new(&[8; 32]).unwrap());
        assert!(
            StoredBrowsers::new(bench.open().await, other)
                .find(&Digest::of(b"1"), IDLE, at(1))
                .await
                .is_err()
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_pending_is_taken_once_and_in_time() {
    each(async |bench| {
        let pending = StoredPending::new(bench.open().await, sealer());
        let id = Digest::of(b"state");
        assert!(pending.keep(PendingKind::SignIn, &id, b"one", at(600)).await.unwrap());
        assert!(!pending.keep(PendingKind::SignIn, &id, b"two", at(900)).await.unwrap());
        assert_eq!(pending.peek(PendingKind::SignIn, &id, at(1)).await.unwrap().unwrap(), b"one");
        assert_eq!(pending.take(PendingKind::Link, &id, at(1)).await.unwrap(), None, "another kind");

        let takers = (0..8).map(|_| {
            let pending = pending.clone();
            tokio::spawn(async move { pending.take(PendingKind::SignIn, &id, at(1)).await.unwrap() })
        });
        let mut got = Vec::new();
        for taker in takers.collect::<Vec<_>>() {
            got.extend(taker.await.unwrap());
        }
        assert_eq!(got, [b"one"]);

        pending.keep(PendingKind::SignIn, &id, b"late", at(600)).await.unwrap();
        assert_eq!(pending.peek(PendingKind::SignIn, &id, at(600)).await.unwrap(), None);
        assert_eq!(pending.take(PendingKind::SignIn, &id, at(600)).await.unwrap(), None);
        assert_eq!(pending.take(PendingKind::SignIn, &id, at(1)).await.unwrap(), None, "late once is gone");

        pending.replace(PendingKind::Waiting, &id, b"one", at(600)).await.unwrap();
        pending.replace(PendingKind::Waiting, &id, b"two", at(700)).await.unwrap();
        assert_eq!(pending.peek(PendingKind::Waiting, &id, at(650)).await.unwrap().unwrap(), b"two");
        assert_eq!(pending.forget(at(700)).await.unwrap(), 0);
        assert_eq!(pending.forget(at(701)).await.unwrap(), 1);
    })
    .await;
}
