//! Admin roles for a time.

use bartizan_store::{Admins, StoredAdmins, admins::Held};

use crate::bench::{at, each};

#[tokio::test]
async fn a_role_is_one_persons_until_it_ends_or_is_taken_back() {
    each(async |bench| {
        let (here, there) = (StoredAdmins::new(bench.open().await), StoredAdmins::new(bench.open().await));
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
