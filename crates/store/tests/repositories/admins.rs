//! Admin roles for a time.

use bartizan_store::{Admins, StoredAdmins, admins::Held};

use crate::bench::{at, each, sealer};

#[tokio::test]
async fn a_role_is_one_persons_until_it_ends_or_is_taken_back() {
    each(async |bench| {
        let at_a_desk = async || StoredAdmins::new(bench.open().await, sealer());
        let (here, there) = (at_a_desk().await, at_a_desk().await);
        let held = |role: &str, subject: &str, until| Held {
            role: role.to_owned(),
            issuer: "https://id.example".to_owned(),
            subject: subject.to_owned(),
            by: "ada".to_owned(),
            at: at(0),
            until: at(until),
        };
        let of = async |subject: &str, now| there.of("https://id.example", subject, at(now)).await.unwrap();
        for one in [held("responder", "ann", 10), held("approver", "ann", 20), held("responder", "bob", 30)] {
            here.grant(&one).await.unwrap();
        }
        assert_eq!(of("ann", 0).await, ["approver", "responder"]);
        assert_eq!(of("ann", 10).await, ["approver"], "it ends at that very second");
        assert!(there.of("https://other.example", "ann", at(0)).await.unwrap().is_empty());
        here.grant(&held("responder", "ann", 15)).await.unwrap();
        assert_eq!(
            there.all(at(12)).await.unwrap(),
            [held("approver", "ann", 20), held("responder", "ann", 15), held("responder", "bob", 30),]
        );
        let take =
            async |role: &str, now| here.take(role, "https://id.example", "ann", at(now)).await.unwrap();
        assert!(take("responder", 12).await && !take("responder", 12).await);
        assert!(!take("approver", 20).await, "it had ended");
        assert!(of("ann", 0).await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn whoever_writes_to_the_database_grants_nothing() {
    each(async |bench| {
        let admins = StoredAdmins::new(bench.open().await, sealer());
        let held = Held {
            role: "viewer".to_owned(),
            issuer: "https://id.example".to_owned(),
            subject: "ann".to_owned(),
            by: "ada".to_owned(),
            at: at(0),
            until: at(10),
        };
        let of = async |subject: &str, now| admins.of("https://id.example", subject, at(now)).await.unwrap();
        for (column, value) in [
            ("role", "'responder'"),
            ("subject", "'eve'"),
            ("issuer", "'https://other.example'"),
            ("good_until", "4000000000"),
            ("granted_by", "'nobody'"),
            ("seal", "''"),
        ] {
            admins.grant(&held).await.unwrap();
            assert_eq!(of("ann", 1).await, ["viewer"]);
            assert_eq!(bench.meddle(&format!("UPDATE admin_roles SET {column} = {value}")).await, 1);
            assert!(admins.all(at(1)).await.unwrap().is_empty(), "{column}");
            assert!(of("ann", 1).await.is_empty() && of("eve", 1).await.is_empty(), "{column}");
            bench.meddle("DELETE FROM admin_roles").await;
        }
        // Nor by what is copied from an honest row.
        admins.grant(&held).await.unwrap();
        let copied = "INSERT INTO admin_roles SELECT 'approver', issuer, 'eve', granted_by, granted_at, good_until, seal FROM admin_roles";
        assert_eq!(bench.meddle(copied).await, 1);
        assert_eq!((of("ann", 1).await, of("eve", 1).await), (vec!["viewer".to_owned()], Vec::new()));
        let took = admins.take("approver", "https://id.example", "eve", at(1)).await.unwrap();
        assert!(!took, "it was none");
    })
    .await;
}
