//! What sign-ins at the identity provider left.

use std::time::Duration;

use bartizan_model::Secret;
use bartizan_store::{ProviderTokens, StoredProviderTokens, links::LinkError};

use crate::bench::{at, each, sealer};

const IDP: &str = "https://id.example";

#[tokio::test]
async fn what_a_sign_in_left_is_one_persons_and_sealed_to_them() {
    each(async |bench| {
        let tokens = StoredProviderTokens::new(bench.open().await, sealer());
        let content = |text: &str| Secret::new(text.to_owned());
        tokens.keep(IDP, "ann", &content("first"), at(1)).await.unwrap();
        tokens.keep(IDP, "ann", &content("second"), at(2)).await.unwrap();
        let kept = tokens.of(IDP, "ann").await.unwrap().unwrap();
        assert_eq!((kept.content.reveal(), kept.revision), ("second", 2));
        for (issuer, subject) in [(IDP, "bob"), ("https://other.example", "ann")] {
            assert!(tokens.of(issuer, subject).await.unwrap().is_none());
        }
        bench.meddle("UPDATE provider_tokens SET subject = 'bob'").await;
        assert!(matches!(tokens.of(IDP, "bob").await, Err(LinkError::Unsealed(_))), "attacks.md TP-02");
        tokens.forget(IDP, "bob").await.unwrap();
        assert!(tokens.of(IDP, "bob").await.unwrap().is_none());
    })
    .await;
}

#[tokio::test]
async fn of_several_who_want_to_renew_one_may() {
    each(async |bench| {
        let (one, two) = (
            StoredProviderTokens::new(bench.open().await, sealer()),
            StoredProviderTokens::new(bench.open().await, sealer()),
        );
        let content = |text: &str| Secret::new(text.to_owned());
        let within = Duration::from_secs(30);
        one.keep(IDP, "ann", &content("first"), at(1)).await.unwrap();
        assert!(one.claim(IDP, "ann", 1, at(10), within).await.unwrap());
        assert!(!two.claim(IDP, "ann", 1, at(11), within).await.unwrap());
        assert!(
            two.claim(IDP, "ann", 1, at(40), within).await.unwrap(),
            "whoever takes too long is passed over"
        );
        two.release(IDP, "ann", 1).await.unwrap();
        assert!(one.claim(IDP, "ann", 1, at(41), within).await.unwrap());
        assert!(one.renew(IDP, "ann", 1, &content("renewed"), at(42)).await.unwrap());
        assert!(!two.renew(IDP, "ann", 1, &content("late"), at(42)).await.unwrap());
        assert_eq!(two.of(IDP, "ann").await.unwrap().unwrap().content.reveal(), "renewed");
        // A sign-in meanwhile goes before a renewal.
        assert!(one.claim(IDP, "ann", 2, at(50), within).await.unwrap());
        two.keep(IDP, "ann", &content("signed in"), at(51)).await.unwrap();
        assert!(!one.renew(IDP, "ann", 2, &content("late"), at(52)).await.unwrap());
    })
    .await;
}
