//! What sign-ins at the identity provider left.

use std::time::Duration;

use bartizan_model::Secret;
use bartizan_store::{ProviderTokens, StoredProviderTokens, links::LinkError, provider_tokens::SignIn};

use crate::bench::{Bench, at, each, sealer};

const IDP: &str = "https://id.example";

fn of(issuer: &str, subject: &str, id: &str) -> SignIn {
    SignIn { issuer: issuer.to_owned(), subject: subject.to_owned(), id: id.to_owned() }
}

fn content(text: &str) -> Secret {
    Secret::new(text.to_owned())
}

async fn tokens(bench: &Bench) -> StoredProviderTokens {
    StoredProviderTokens::new(bench.open().await, sealer())
}

#[tokio::test]
async fn what_a_sign_in_left_is_one_persons_and_sealed_to_them() {
    each(async |bench| {
        let tokens = tokens(bench).await;
        let ann = of(IDP, "ann", "one");
        tokens.keep(&ann, &content("first"), at(1)).await.unwrap();
        tokens.keep(&ann, &content("second"), at(2)).await.unwrap();
        let kept = tokens.of(&ann).await.unwrap().unwrap();
        assert_eq!((kept.content.reveal(), kept.revision, kept.confirmed_at), ("second", 2, at(2)));
        for other in [of(IDP, "bob", "one"), of("https://other.example", "ann", "one"), of(IDP, "ann", "two")]
        {
            assert!(tokens.of(&other).await.unwrap().is_none());
        }
        bench.meddle("UPDATE provider_tokens SET sign_in = 'two'").await;
        let moved = tokens.of(&of(IDP, "ann", "two")).await;
        assert!(matches!(moved, Err(LinkError::Unsealed(_))), "another sign-in of hers");
        bench.meddle("UPDATE provider_tokens SET sign_in = 'one', subject = 'bob'").await;
        let bob = of(IDP, "bob", "one");
        assert!(matches!(tokens.of(&bob).await, Err(LinkError::Unsealed(_))), "attacks.md TP-02");
        tokens.forget(IDP, "bob").await.unwrap();
        assert!(tokens.of(&bob).await.unwrap().is_none());
    })
    .await;
}

#[tokio::test]
async fn sign_ins_of_one_person_end_one_by_one_or_together() {
    each(async |bench| {
        let tokens = tokens(bench).await;
        let [one, two, three] = ["one", "two", "three"].map(|id| of(IDP, "ann", id));
        for (sign_in, seconds) in [(&one, 1), (&two, 2), (&three, 3)] {
            tokens.keep(sign_in, &content(&sign_in.id), at(seconds)).await.unwrap();
        }
        tokens.end(&one).await.unwrap();
        assert!(tokens.of(&one).await.unwrap().is_none());
        assert_eq!(tokens.of(&two).await.unwrap().unwrap().content.reveal(), "two");
        // One that the provider was asked about since stays.
        tokens.confirm(&two, at(10)).await.unwrap();
        tokens.confirm(&two, at(5)).await.unwrap();
        assert_eq!(tokens.of(&two).await.unwrap().unwrap().confirmed_at, at(10), "it never goes back");
        assert_eq!(tokens.sweep(at(4)).await.unwrap(), 1);
        assert!(tokens.of(&two).await.unwrap().is_some() && tokens.of(&three).await.unwrap().is_none());
        tokens.keep(&three, &content("three"), at(11)).await.unwrap();
        tokens.forget(IDP, "ann").await.unwrap();
        assert!(tokens.of(&two).await.unwrap().is_none() && tokens.of(&three).await.unwrap().is_none());
    })
    .await;
}

#[tokio::test]
async fn of_several_who_want_to_renew_one_may() {
    each(async |bench| {
        let (one, two) = (tokens(bench).await, tokens(bench).await);
        let (ann, within) = (of(IDP, "ann", "one"), Duration::from_secs(30));
        one.keep(&ann, &content("first"), at(1)).await.unwrap();
        assert!(one.claim(&ann, 1, at(10), within).await.unwrap());
        assert!(!two.claim(&ann, 1, at(11), within).await.unwrap());
        assert!(two.claim(&ann, 1, at(40), within).await.unwrap(), "whoever takes too long is passed over");
        two.release(&ann, 1).await.unwrap();
        assert!(one.claim(&ann, 1, at(41), within).await.unwrap());
        assert!(one.renew(&ann, 1, &content("renewed"), at(42)).await.unwrap());
        assert!(!two.renew(&ann, 1, &content("late"), at(42)).await.unwrap());
        let kept = two.of(&ann).await.unwrap().unwrap();
        assert_eq!((kept.content.reveal(), kept.confirmed_at), ("renewed", at(42)));
        // A sign-in meanwhile goes before a renewal.
        assert!(one.claim(&ann, 2, at(50), within).await.unwrap());
        two.keep(&ann, &content("signed in"), at(51)).await.unwrap();
        assert!(!one.renew(&ann, 2, &content("late"), at(52)).await.unwrap());
    })
    .await;
}
