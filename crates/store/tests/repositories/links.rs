//! Accounts people linked.

use std::time::Duration;

use bartizan_model::Secret;
use bartizan_store::{
    Digest, Links, StoredLinks,
    links::{Account, Grant, LinkError},
};

use crate::bench::{Bench, at, each, sealer, server};

async fn links(bench: &Bench) -> StoredLinks {
    StoredLinks::new(bench.open().await, sealer())
}

fn account(issuer: &str, subject: &str, name: &str) -> Account {
    Account { issuer: issuer.to_owned(), subject: subject.to_owned(), server: server(name) }
}

fn grant(content: &str) -> Grant {
    Grant {
        upstream: "https://as.example".to_owned(),
        scopes: vec!["read".to_owned(), "write".to_owned()],
        content: Secret::new(content.to_owned()),
        granted_at: at(1),
        revision: 0,
    }
}

async fn content(links: &StoredLinks, of: &Account) -> Option<String> {
    links.grant(of).await.unwrap().map(|g| g.content.reveal().to_owned())
}

#[tokio::test]
async fn an_account_is_one_persons_at_one_server() {
    each(async |bench| {
        let links = links(bench).await;
        let ann = account("https://id.example", "ann", "files");
        assert_eq!(links.link(&ann, &grant("tokens of ann")).await.unwrap(), 1);
        assert_eq!(content(&links, &ann).await.as_deref(), Some("tokens of ann"));
        let others = [
            account("https://id.example", "bob", "files"),
            account("https://other.example", "ann", "files"),
            account("https://id.example", "ann", "mail"),
        ];
        for other in others {
            assert!(links.grant(&other).await.unwrap().is_none(), "{other:?}");
        }
        assert_eq!(links.link(&ann, &grant("newer tokens")).await.unwrap(), 2);
        assert_eq!(links.of_server(&server("files")).await.unwrap(), std::slice::from_ref(&ann));
        assert!(links.of_server(&server("mail")).await.unwrap().is_empty());
        let listed = links.of_person("https://id.example", "ann").await.unwrap();
        assert_eq!((listed.len(), listed[0].scopes.len()), (1, 2));
        assert!(links.unlink(&ann).await.unwrap() && !links.unlink(&ann).await.unwrap());
        assert_eq!(content(&links, &ann).await, None);
    })
    .await;
}

/// attacks.md TP-02: what is copied behind our back opens nowhere.
#[tokio::test]
async fn a_grant_that_is_moved_or_read_on_disk_is_worth_nothing() {
    each(async |bench| {
        let links = links(bench).await;
        let (ann, bob) = (account("i", "ann", "files"), account("i", "bob", "files"));
        for column in
            ["subject = 'bob'", "issuer = 'j'", "server = 'mail'", "upstream = 'https://evil.example'"]
        {
            links.link(&ann, &grant("super-secret-token")).await.unwrap();
            assert_eq!(bench.meddle(&format!("UPDATE upstream_grants SET {column}")).await, 1);
            for one in [&ann, &bob, &account("j", "ann", "files"), &account("i", "ann", "mail")] {
                let found = links.grant(one).await;
                assert!(matches!(found, Ok(None) | Err(LinkError::Unsealed(_))), "{column} {one:?}");
            }
            bench.meddle("DELETE FROM upstream_grants").await;
        }
        links.link(&ann, &grant("super-secret-token")).await.unwrap();
        let seen = bench.meddle("DELETE FROM upstream_grants WHERE sealed LIKE '%super-secret%'").await;
        assert_eq!(seen, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_who_want_to_renew_a_grant_one_may() {
    each(async |bench| {
        let processes = [links(bench).await, links(bench).await];
        let ann = account("i", "ann", "files");
        let revision = processes[0].link(&ann, &grant("old")).await.unwrap();
        let claims = (0..8).map(|n| {
            let (links, ann) = (processes[n % 2].clone(), ann.clone());
            tokio::spawn(async move {
                links.claim(&ann, revision, at(10), Duration::from_secs(30)).await.unwrap()
            })
        });
        let mut granted = 0;
        for claim in claims.collect::<Vec<_>>() {
            granted += usize::from(claim.await.unwrap());
        }
        assert_eq!(granted, 1);
        let links = &processes[0];
        assert!(!links.claim(&ann, revision, at(39), Duration::from_secs(30)).await.unwrap());
        let mut renewed = links.grant(&ann).await.unwrap().unwrap();
        renewed.content = Secret::new("new".to_owned());
        assert!(links.renew(&ann, &renewed).await.unwrap());
        assert!(!links.renew(&ann, &renewed).await.unwrap(), "that revision is gone");
        assert_eq!(content(&processes[1], &ann).await.as_deref(), Some("new"));

        // Whoever claimed and died holds nobody up for ever; whoever gave up, not at all.
        assert!(links.claim(&ann, revision + 1, at(50), Duration::from_secs(30)).await.unwrap());
        assert!(links.claim(&ann, revision + 1, at(80), Duration::from_secs(30)).await.unwrap());
        links.release(&ann, revision + 1).await.unwrap();
        assert!(links.claim(&ann, revision + 1, at(81), Duration::from_secs(30)).await.unwrap());
    })
    .await;
}

#[tokio::test]
async fn a_state_is_good_once_and_in_time() {
    each(async |bench| {
        let links = links(bench).await;
        let (first, second) = (Digest::of(b"first"), Digest::of(b"second"));
        links.send(first, &Secret::new("verifier".to_owned()), at(600)).await.unwrap();
        links.send(second, &Secret::new("late".to_owned()), at(600)).await.unwrap();
        assert!(links.send(first, &Secret::new("again".to_owned()), at(600)).await.is_err());
        let taken = links.take(first, at(10)).await.unwrap().unwrap();
        assert_eq!(taken.reveal(), "verifier");
        assert!(links.take(first, at(10)).await.unwrap().is_none());
        assert!(links.take(second, at(600)).await.unwrap().is_none());
        assert_eq!(bench.meddle("DELETE FROM upstream_errands").await, 0, "what is over is not kept");
    })
    .await;
}

#[tokio::test]
async fn a_registration_is_one_authorization_servers() {
    each(async |bench| {
        let links = links(bench).await;
        let redirect = "https://gate.example/connect/callback";
        for content in ["first", "second"] {
            let content = Secret::new(content.to_owned());
            links.register("https://as.example", redirect, &content, at(1)).await.unwrap();
        }
        let found = links.registration("https://as.example", redirect).await.unwrap().unwrap();
        assert_eq!(found.reveal(), "second");
        assert!(links.registration("https://other.example", redirect).await.unwrap().is_none());
        assert!(links.registration("https://as.example", "https://other/").await.unwrap().is_none());
        bench.meddle("UPDATE upstream_registrations SET upstream = 'https://other.example'").await;
        let moved = links.registration("https://other.example", redirect).await;
        assert!(matches!(moved, Err(LinkError::Unsealed(_))));
    })
    .await;
}
