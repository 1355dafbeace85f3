//! Clients that registered themselves.

use bartizan_store::{Registrations, StoredRegistrations, clients::Registration};

use crate::bench::{at, each, sealer};

fn registration(id: &str, content: &str) -> Registration {
    Registration { id: id.to_owned(), content: content.to_owned(), made_at: at(0), expires_at: at(100) }
}

#[tokio::test]
async fn a_registration_lives_until_its_end_which_use_moves() {
    each(async |bench| {
        let clients = StoredRegistrations::new(bench.open().await, sealer());
        let (one, two) = (registration("a", "{\"x\":1}"), registration("b", "{}"));
        assert!(clients.add(&one, 2, at(0)).await.unwrap());
        assert!(clients.add(&two, 2, at(0)).await.unwrap());
        assert!(!clients.add(&registration("c", "{}"), 2, at(0)).await.unwrap(), "there are enough");
        assert_eq!(clients.find("a", at(99)).await.unwrap(), Some(one.clone()));
        assert_eq!(clients.find("c", at(0)).await.unwrap(), None);

        clients.extend("a", at(200)).await.unwrap();
        clients.extend("a", at(150)).await.unwrap();
        assert_eq!(clients.find("a", at(199)).await.unwrap().unwrap().expires_at, at(200));
        assert_eq!(clients.find("b", at(100)).await.unwrap(), None, "its time is up");
        assert_eq!(clients.list(at(150)).await.unwrap().len(), 1);
        assert!(clients.add(&registration("c", "{}"), 2, at(150)).await.unwrap(), "there is room again");

        assert_eq!(clients.forget(at(150)).await.unwrap(), 2);
        assert!(clients.remove("a").await.unwrap());
        assert!(!clients.remove("a").await.unwrap());
    })
    .await;
}

#[tokio::test]
async fn whoever_writes_to_the_database_cannot_change_a_client() {
    each(async |bench| {
        let clients = StoredRegistrations::new(bench.open().await, sealer());
        clients.add(&registration("good", "secret metadata"), 9, at(0)).await.unwrap();
        clients.add(&registration("evil", "{}"), 9, at(0)).await.unwrap();
        assert_eq!(
            bench.meddle("UPDATE registered_clients SET made_at = 0 WHERE content LIKE '%metadata%'").await,
            0,
            "it cannot be read either"
        );
        bench
            .meddle(
                "UPDATE registered_clients SET content = (SELECT content FROM registered_clients WHERE id = 'evil') \
                 WHERE id = 'good'",
            )
            .await;
        assert_eq!(clients.find("good", at(1)).await.unwrap(), None);
        assert!(clients.find("evil", at(1)).await.unwrap().is_some());
    })
    .await;
}
