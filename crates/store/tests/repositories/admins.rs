//! Admin roles for a time.

use bartizan_store::{Admins, StoredAdmins, admins::Held};

use crate::bench::{at, each, sealer};

#[tokio::test]
async fn a_role_is_one_persons_until_it_ends_or_is_taken_back() {
    each(async |bench| {
        let at_a_desk = async || StoredAdmins::new(bench.open().await, sealer(), None);
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
        let admins = StoredAdmins::new(bench.open().await, sealer(), None);
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

/// Rows that were honest once, put back by whoever writes to the database.
#[tokio::test]
async fn what_was_taken_back_or_replaced_counts_no_more() {
    each(async |bench| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("roles.ended");
        let at_a_desk = async || StoredAdmins::new(bench.open().await, sealer(), Some(file.clone()));
        let (here, there) = (at_a_desk().await, at_a_desk().await);
        let held = |begun, until| Held {
            role: "operator".to_owned(),
            issuer: "https://id.example".to_owned(),
            subject: "ann".to_owned(),
            by: "ada".to_owned(),
            at: at(begun),
            until: at(until),
        };
        let of = async |now| there.of("https://id.example", "ann", at(now)).await.unwrap();
        let put_back = async || {
            bench.meddle("DELETE FROM admin_roles").await;
            assert_eq!(bench.meddle("INSERT INTO admin_roles SELECT * FROM earlier").await, 1);
        };
        let take = async |now| here.take("operator", "https://id.example", "ann", at(now)).await.unwrap();
        here.grant(&held(0, 900)).await.unwrap();
        assert_eq!(of(1).await, ["operator"]);
        bench.meddle("CREATE TABLE earlier AS SELECT * FROM admin_roles").await;

        here.grant(&held(2, 10)).await.unwrap();
        put_back().await;
        assert!(of(3).await.is_empty() && there.all(at(3)).await.unwrap().is_empty(), "it was replaced");
        assert!(!take(4).await, "it was none");

        // What is granted anew counts, were it the very same.
        here.grant(&held(0, 900)).await.unwrap();
        assert_eq!(of(5).await, ["operator"]);
        assert!(take(6).await);
        put_back().await;
        assert!(of(7).await.is_empty(), "it was taken back");
        let without = StoredAdmins::new(bench.open().await, sealer(), None);
        assert_eq!(without.all(at(7)).await.unwrap().len(), 1, "by the row alone nobody can tell");

        // A file that somebody wrote to is no reason to believe the rows.
        let text = std::fs::read_to_string(&file).unwrap();
        let later = at(900).as_unix().to_string();
        assert!(text.contains(&later), "{text}");
        std::fs::write(&file, text.replace(&later, "1")).unwrap();
        assert!(there.of("https://id.example", "ann", at(8)).await.is_err());
        std::fs::write(&file, text).unwrap();

        // Of grants that have ended by themselves nothing is kept; of the role, up to when everything is over.
        bench.meddle("DELETE FROM admin_roles").await;
        here.grant(&held(1000, 2000)).await.unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.lines().count() == 1 && !text.contains(&later), "{text}");
        assert_eq!(of(1001).await, ["operator"]);
    })
    .await;
}

/// Whoever writes to the database hides a row while its role is taken back or shortened, and puts it in again.
#[tokio::test]
async fn what_was_hidden_when_it_was_taken_back_counts_no_more() {
    each(async |bench| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("roles.ended");
        let admins = StoredAdmins::new(bench.open().await, sealer(), Some(file));
        let held = |subject: &str, begun, until| Held {
            role: "operator".to_owned(),
            issuer: "https://id.example".to_owned(),
            subject: subject.to_owned(),
            by: "ada".to_owned(),
            at: at(begun),
            until: at(until),
        };
        let of = async |subject: &str, now| admins.of("https://id.example", subject, at(now)).await.unwrap();
        let take = async |subject: &str, now| {
            admins.take("operator", "https://id.example", subject, at(now)).await.unwrap()
        };
        let hide = async || bench.meddle("DELETE FROM admin_roles WHERE subject = 'ann'").await;
        let put_back = async || {
            hide().await;
            let copy = "INSERT INTO admin_roles SELECT * FROM earlier WHERE subject = 'ann'";
            assert_eq!(bench.meddle(copy).await, 1);
        };
        admins.grant(&held("ann", 0, 900)).await.unwrap();
        admins.grant(&held("bob", 0, 900)).await.unwrap();
        bench.meddle("CREATE TABLE earlier AS SELECT * FROM admin_roles").await;

        assert_eq!(hide().await, 1);
        assert!(!take("ann", 5).await, "nothing is there to be taken");
        put_back().await;
        assert!(of("ann", 6).await.is_empty(), "it was taken back all the same");
        assert_eq!(of("bob", 6).await, ["operator"], "of nobody else");

        hide().await;
        admins.grant(&held("ann", 7, 20)).await.unwrap();
        assert_eq!(of("ann", 8).await, ["operator"], "what is granted anew counts");
        put_back().await;
        assert!(of("ann", 8).await.is_empty(), "what it was shortened from does not");

        // Within the second of taking it back, and by a clock that was set back.
        hide().await;
        take("ann", 9).await;
        for begun in [9, 3] {
            admins.grant(&held("ann", begun, 30)).await.unwrap();
            assert_eq!(of("ann", 10).await, ["operator"]);
        }
        put_back().await;
        assert!(of("ann", 10).await.is_empty());
    })
    .await;
}

/// Somebody is erased, and a copy of the database is put back in which they had a role.
#[tokio::test]
async fn the_role_of_somebody_who_was_erased_counts_no_more() {
    each(async |bench| {
        let folder = tempfile::tempdir().unwrap();
        let admins = StoredAdmins::new(bench.open().await, sealer(), Some(folder.path().join("roles.ended")));
        for (role, subject) in [("operator", "ann"), ("viewer", "ann"), ("viewer", "bob")] {
            let (issuer, by) = ("https://id.example".to_owned(), "ada".to_owned());
            let (role, subject) = (role.to_owned(), subject.to_owned());
            admins.grant(&Held { role, issuer, subject, by, at: at(0), until: at(900) }).await.unwrap();
        }
        bench.meddle("CREATE TABLE earlier AS SELECT * FROM admin_roles").await;
        assert_eq!(admins.take_all("https://id.example", "ann", at(5)).await.unwrap(), 2);
        bench.meddle("DELETE FROM admin_roles").await;
        assert_eq!(bench.meddle("INSERT INTO admin_roles SELECT * FROM earlier").await, 3);
        let of = async |subject: &str| admins.of("https://id.example", subject, at(6)).await.unwrap();
        assert_eq!((of("ann").await, of("bob").await), (Vec::new(), vec!["viewer".to_owned()]));
    })
    .await;
}
