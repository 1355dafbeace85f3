//! Grants, their codes and refresh tokens, and revocation.

use bartizan_store::{
    Digest, Grants, StoredGrants,
    grants::{FreshToken, Grant, Revocation, RevokedKind, Which},
};

use crate::bench::{Bench, at, each, sealer};

fn grant(id: &str, subject: &str, client: &str) -> Grant {
    Grant {
        id: id.to_owned(),
        client: client.to_owned(),
        issuer: "https://id.example".to_owned(),
        subject: subject.to_owned(),
        content: format!("what {subject} granted"),
        made_at: at(0),
        expires_at: at(1000),
    }
}

fn digest(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}

fn fresh(token: &str) -> FreshToken {
    FreshToken { token: digest(token), binding: Some("thumbprint".to_owned()), until: at(500) }
}

async fn grants(bench: &Bench) -> StoredGrants {
    StoredGrants::new(bench.open().await, sealer())
}

/// A grant whose code was used for the refresh token `r1`.
async fn redeemed(grants: &StoredGrants, id: &str) -> Grant {
    let grant = grant(id, "ann", "editor");
    grants.begin(&grant, digest("code"), at(60)).await.unwrap();
    assert!(grants.redeem(digest("code"), Some(&fresh("r1")), at(1)).await.unwrap());
    grant
}

#[tokio::test]
async fn a_code_is_good_once_and_for_its_time() {
    each(async |bench| {
        let grants = grants(bench).await;
        let one = grant("g1", "ann", "editor");
        grants.begin(&one, digest("code"), at(60)).await.unwrap();
        let coded = grants.of_code(digest("code")).await.unwrap().unwrap();
        assert_eq!(
            (coded.grant, coded.until, coded.is_redeemed, coded.is_ended),
            (one, at(60), false, false)
        );
        assert_eq!(grants.of_code(digest("other")).await.unwrap(), None);
        assert!(!grants.redeem(digest("other"), None, at(1)).await.unwrap());
        assert!(!grants.redeem(digest("code"), None, at(61)).await.unwrap(), "too late");
        assert!(grants.redeem(digest("code"), None, at(60)).await.unwrap());
        assert!(!grants.redeem(digest("code"), None, at(60)).await.unwrap());
        assert!(grants.of_code(digest("code")).await.unwrap().unwrap().is_redeemed);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_redemptions_and_refreshes_at_once_one_succeeds() {
    each(async |bench| {
        let processes = [grants(bench).await, grants(bench).await];
        processes[0].begin(&grant("g1", "ann", "editor"), digest("code"), at(60)).await.unwrap();
        let redeeming = (0..16).map(|n| {
            let grants = processes[n % 2].clone();
            tokio::spawn(async move { grants.redeem(digest("code"), Some(&fresh("r1")), at(1)).await })
        });
        let mut first = 0;
        for one in redeeming.collect::<Vec<_>>() {
            first += usize::from(one.await.unwrap().unwrap());
        }
        assert_eq!(first, 1);
        let rotating = (0..16).map(|n| {
            let grants = processes[n % 2].clone();
            let next = digest(&format!("r2 of {n}"));
            tokio::spawn(async move { grants.rotate(digest("r1"), next, at(600), at(2)).await })
        });
        let mut first = 0;
        for one in rotating.collect::<Vec<_>>() {
            first += usize::from(one.await.unwrap().unwrap());
        }
        assert_eq!(first, 1);
    })
    .await;
}

#[tokio::test]
async fn a_refresh_token_is_followed_by_the_next() {
    each(async |bench| {
        let grants = grants(bench).await;
        let grant = redeemed(&grants, "g1").await;
        let found = grants.of_refresh(digest("r1")).await.unwrap().unwrap();
        assert_eq!((found.grant, found.until, found.used_at, found.is_ended), (grant, at(500), None, false));
        assert!(
            !grants.rotate(digest("r1"), digest("r2"), at(900), at(500)).await.unwrap(),
            "its time is up"
        );
        assert!(grants.rotate(digest("r1"), digest("r2"), at(600), at(10)).await.unwrap());
        assert!(!grants.rotate(digest("r1"), digest("r3"), at(600), at(11)).await.unwrap());
        assert_eq!(grants.of_refresh(digest("r1")).await.unwrap().unwrap().used_at, Some(at(10)));
        let next = grants.of_refresh(digest("r2")).await.unwrap().unwrap();
        assert_eq!((next.used_at, next.binding.as_deref()), (None, Some("thumbprint")));
        assert_eq!(grants.of_refresh(digest("r3")).await.unwrap(), None);
    })
    .await;
}

#[tokio::test]
async fn what_ends_takes_its_tokens_with_it_and_is_told_to_all() {
    each(async |bench| {
        let grants = grants(bench).await;
        redeemed(&grants, "g1").await;
        for (id, subject, client) in
            [("g2", "ann", "other"), ("g3", "bob", "editor"), ("g4", "ann", "editor"), ("g5", "cat", "x")]
        {
            grants.begin(&grant(id, subject, client), digest(id), at(60)).await.unwrap();
            assert!(grants.redeem(digest(id), None, at(1)).await.unwrap());
        }
        grants.begin(&grant("g6", "ann", "editor"), digest("unused"), at(60)).await.unwrap();
        let of_ann = || grants.of_person("https://id.example", "ann", at(2));
        let ids = |grants: Vec<Grant>| grants.into_iter().map(|g| g.id).collect::<Vec<_>>();
        assert_eq!(ids(of_ann().await.unwrap()), ["g1", "g2", "g4"]);

        let end = async |which: Which<'_>, seconds| {
            let mut ended = grants.end(&which, at(700), at(seconds)).await.unwrap();
            ended.sort();
            ended
        };
        assert_eq!(grants.find("g6", at(2)).await.unwrap(), None, "nobody has used its code");
        assert_eq!(grants.find("g4", at(2)).await.unwrap(), Some(grant("g4", "ann", "editor")));
        assert_eq!(grants.find("g4", at(1000)).await.unwrap(), None);
        assert_eq!(end(Which::Grant("g4"), 5).await, ["g4"]);
        assert_eq!(grants.find("g4", at(6)).await.unwrap(), None);
        assert_eq!(end(Which::Grant("g4"), 6).await, [""; 0], "it had ended");
        let consent = Which::Consent { issuer: "https://id.example", subject: "ann", client: "editor" };
        assert_eq!(end(consent, 7).await, ["g1", "g6"]);
        assert!(grants.of_refresh(digest("r1")).await.unwrap().unwrap().is_ended);
        assert!(!grants.rotate(digest("r1"), digest("r2"), at(600), at(8)).await.unwrap());
        assert!(!grants.redeem(digest("unused"), None, at(8)).await.unwrap());
        assert!(grants.of_code(digest("unused")).await.unwrap().unwrap().is_ended);
        assert_eq!(end(Which::Person { issuer: "https://id.example", subject: "ann" }, 9).await, ["g2"]);
        assert_eq!(end(Which::Person { issuer: "https://evil.example", subject: "bob" }, 9).await, [""; 0]);
        assert_eq!(end(Which::Client("editor"), 10).await, ["g3"]);
        assert_eq!(ids(of_ann().await.unwrap()), [""; 0]);

        let told = grants.revocations(at(7), at(20)).await.unwrap();
        let names: Vec<_> = told.iter().map(|r| (r.kind, r.name.as_str())).collect();
        assert_eq!(names.len(), 4, "{names:?}");
        assert!(names.contains(&(RevokedKind::Grant, "g1")) && !names.contains(&(RevokedKind::Grant, "g4")));
        assert_eq!(grants.revocations(at(0), at(701)).await.unwrap(), [], "nothing of it is alive");
    })
    .await;
}

#[tokio::test]
async fn a_revocation_lasts_until_the_later_end() {
    each(async |bench| {
        let grants = grants(bench).await;
        let revocation = |at_seconds, until| Revocation {
            kind: RevokedKind::Subject,
            issuer: "https://id.example".to_owned(),
            name: "ann".to_owned(),
            at: at(at_seconds),
            until: at(until),
        };
        grants.revoke(&revocation(5, 700)).await.unwrap();
        grants.revoke(&revocation(9, 600)).await.unwrap();
        grants.revoke(&revocation(7, 650)).await.unwrap();
        assert_eq!(grants.revocations(at(0), at(10)).await.unwrap(), [revocation(9, 700)]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_id_is_used_once_until_it_is_too_old() {
    each(async |bench| {
        let processes = [grants(bench).await, grants(bench).await];
        let using = (0..16).map(|n| {
            let grants = processes[n % 2].clone();
            tokio::spawn(async move { grants.first_use(digest("jti"), at(10), at(1)).await.unwrap() })
        });
        let mut first = 0;
        for one in using.collect::<Vec<_>>() {
            first += usize::from(one.await.unwrap());
        }
        assert_eq!(first, 1);
        assert!(!processes[0].first_use(digest("jti"), at(20), at(10)).await.unwrap());
        assert!(processes[0].first_use(digest("jti"), at(20), at(11)).await.unwrap());
        assert!(processes[0].first_use(digest("other"), at(20), at(11)).await.unwrap());
    })
    .await;
}

/// A gate that is behind the others, and one that has lost the database: the memory of used DPoP proofs is these ids.
#[tokio::test]
async fn an_id_is_forgotten_by_no_clock_that_is_behind_and_noted_by_nobody_who_cannot_say() {
    each(async |bench| {
        let (ahead, behind) = (grants(bench).await, grants(bench).await);
        assert!(ahead.first_use(digest("proof"), at(200), at(100)).await.unwrap());
        assert!(!behind.first_use(digest("proof"), at(200), at(40)).await.unwrap());
        assert!(!ahead.first_use(digest("proof"), at(300), at(200)).await.unwrap());
        let database = bench.open().await;
        let gone = StoredGrants::new(database.clone(), sealer());
        database.close().await;
        assert!(gone.first_use(digest("other"), at(200), at(100)).await.is_err());
        assert!(ahead.first_use(digest("other"), at(200), at(100)).await.unwrap(), "it was not noted");
    })
    .await;
}

#[tokio::test]
async fn whoever_writes_to_the_database_makes_no_grant() {
    each(async |bench| {
        let grants = grants(bench).await;
        redeemed(&grants, "g1").await;
        assert_eq!(bench.meddle("UPDATE grants SET made_at = made_at WHERE content LIKE '%ann%'").await, 0);
        // A refresh token of one's own on somebody's grant.
        let forged = digest("forged");
        bench
            .meddle(&format!(
                "INSERT INTO refresh_tokens (hash, grant_id, binding, until, seal) \
                 SELECT '{forged}', grant_id, binding, until, seal \
                 FROM refresh_tokens"
            ))
            .await;
        assert_eq!(grants.of_refresh(forged).await.unwrap(), None);
        assert!(grants.of_refresh(digest("r1")).await.unwrap().is_some());
        // A code of one's own.
        bench.meddle(&format!("UPDATE grants SET code = '{forged}', redeemed_at = NULL")).await;
        assert_eq!(grants.of_code(forged).await.unwrap(), None);
        // Another person's name on it.
        let code = digest("code");
        bench.meddle(&format!("UPDATE grants SET code = '{code}'")).await;
        assert!(grants.of_code(code).await.unwrap().is_some());
        bench.meddle("UPDATE grants SET subject = 'admin'").await;
        assert_eq!(grants.of_code(code).await.unwrap(), None);
        assert_eq!(grants.of_refresh(digest("r1")).await.unwrap(), None);
    })
    .await;
}

#[tokio::test]
async fn what_is_worth_nothing_is_forgotten() {
    each(async |bench| {
        let grants = grants(bench).await;
        redeemed(&grants, "g1").await;
        grants.begin(&grant("g2", "bob", "editor"), digest("unused"), at(60)).await.unwrap();
        assert_eq!(grants.forget(at(60)).await.unwrap(), 0);
        assert_eq!(grants.forget(at(61)).await.unwrap(), 1);
        assert!(grants.of_code(digest("code")).await.unwrap().is_some(), "a second use is still seen");
        assert_eq!(grants.forget(at(501)).await.unwrap(), 0);
        assert_eq!(grants.of_refresh(digest("r1")).await.unwrap(), None);
        assert_eq!(grants.forget(at(1001)).await.unwrap(), 1);
        assert_eq!(grants.of_code(digest("code")).await.unwrap(), None);
    })
    .await;
}
