//! Opaque tokens (RFC 7662).

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    task::yield_now,
    time::{Instant, timeout},
};

use super::scene::{CONFIG, HANGS, ISSUER, NOW, RESOURCE, Scene, merge};
use crate::{Error, VerifiedToken};

const ENDPOINT: &str = "https://idp.example/introspect";

fn scene() -> Scene {
    let introspection = r#"[[issuers]]
introspection = { url = "https://idp.example/introspect", client_id = "gate:1", client_secret = { env = "X" } }"#;
    Scene::configured(&CONFIG.replacen("[[issuers]]", introspection, 1))
}

fn active() -> Value {
    json!({ "active": true, "sub": "alice", "client_id": "agent", "aud": RESOURCE, "scope": "mcp:read", "exp": NOW + 300 })
}

#[tokio::test]
async fn an_opaque_token_means_what_its_issuer_says() {
    let scene = scene();
    scene.net.says(ENDPOINT, 200, active());
    let token = scene.show("opaque+/0123=").await.unwrap();
    assert_eq!((token.caller().issuer(), token.caller().subject()), (ISSUER, "alice"));
    let posted = scene.net.posted.lock().unwrap().clone();
    // `gate%3A1:s3cret+%26+more`, as RFC 6749 §2.3.1 and RFC 7617 have it.
    assert_eq!(
        posted,
        [(
            "Basic Z2F0ZSUzQTE6czNjcmV0KyUyNittb3Jl".into(),
            "token=opaque%2B%2F0123%3D&token_type_hint=access_token".into()
        )]
    );
}

#[tokio::test]
async fn whatever_is_not_exactly_active_for_this_resource_is_refused() {
    let cases = [
        (json!({ "active": false }), Error::Inactive),
        (json!({ "active": "true" }), Error::IntrospectionUnavailable),
        (json!({ "active": null }), Error::IntrospectionUnavailable),
        (json!({ "aud": null }), Error::ClaimMissing("aud")),
        (json!({ "exp": null }), Error::ClaimMissing("exp")),
        (json!({ "exp": NOW - 60 }), Error::Expired),
        (json!({ "exp": NOW + 90_000 }), Error::LifetimeTooLong),
        (json!({ "iss": "https://other.example/tenant" }), Error::IssuerUnknown),
        (json!({ "sub": null }), Error::ClaimMissing("sub")),
        (json!({ "cnf": { "kid": "x" } }), Error::BindingUnknown),
        (json!({ "nbf": NOW + 61 }), Error::NotYetValid),
        (
            json!({ "aud": "https://mcp.example.com/mcp/ab" }),
            Error::AudienceWrong { resource: RESOURCE.into() },
        ),
    ];
    for (more, expected) in cases {
        let scene = scene();
        scene.net.says(ENDPOINT, 200, merge(active(), more.clone()));
        assert_eq!(scene.show("opaque").await.unwrap_err(), expected, "{more}");
    }
    for (status, body) in
        [(401, String::new()), (500, String::new()), (200, "<html>".into()), (204, active().to_string())]
    {
        let scene = scene();
        scene.net.says(ENDPOINT, status, body);
        let error = scene.show("opaque").await.unwrap_err();
        assert_eq!((error.verdict().status, error), (503, Error::IntrospectionUnavailable));
    }
    assert_eq!(scene().show("opaque").await.unwrap_err(), Error::IntrospectionUnavailable, "nobody answers");
}

#[tokio::test]
async fn a_revocation_is_seen_within_seconds() {
    let scene = scene();
    scene.net.says(ENDPOINT, 200, active());
    for _ in 0..10 {
        assert!(scene.show("opaque").await.is_ok());
    }
    assert_eq!(scene.net.count(ENDPOINT), 1);
    scene.net.says(ENDPOINT, 200, json!({ "active": false }));
    scene.clock.advance(Duration::from_secs(5));
    assert_eq!(scene.show("opaque").await.unwrap_err(), Error::Inactive);
}

#[tokio::test]
async fn a_jwt_that_fails_here_gets_no_second_chance_there() {
    let scene = scene();
    scene.net.says(ENDPOINT, 200, active());
    let expired = scene.token(json!({}), json!({ "iat": NOW - 900, "exp": NOW - 600 }));
    assert_eq!(scene.show(&expired).await.unwrap_err(), Error::Expired);
    for token in ["eyJhbGciOiJub25lIn0", "a.b.c"] {
        assert_eq!(scene.show(token).await.unwrap_err(), Error::TokenMalformed);
    }
    assert_eq!(scene.net.count(ENDPOINT), 0);
}

/// What goes on under it is told, without asking more often than requests would.
#[tokio::test(start_paused = true)]
async fn what_goes_on_under_a_token_ends_soon_after_its_issuer_took_it_back() {
    let seconds = Duration::from_secs;
    for (what, after) in [
        ("taken back", json!({ "active": false })),
        ("another's by now", merge(active(), json!({ "sub": "bob" }))),
        ("for another resource", merge(active(), json!({ "aud": "https://mcp.example.com/mcp/ab" }))),
        ("bound by now", merge(active(), json!({ "cnf": { "jkt": "x" } }))),
    ] {
        let scene = scene();
        scene.net.says(ENDPOINT, 200, active());
        let token = scene.show("opaque").await.unwrap();
        let (mut one, mut other) =
            (pin!(scene.server.until_inactive(&token)), pin!(scene.server.until_inactive(&token)));
        for _ in 0..4 {
            scene.clock.advance(seconds(5));
            assert!(timeout(seconds(5), async { tokio::join!(one.as_mut(), other.as_mut()) }).await.is_err());
        }
        let asked = scene.net.count(ENDPOINT);
        assert!((4..=5).contains(&asked), "{asked} for two streams in 20 s");
        scene.net.says(ENDPOINT, 200, after);
        scene.clock.advance(seconds(5));
        assert!(timeout(seconds(6), one).await.is_ok(), "{what}");
    }
    let scene = scene();
    let jwt = scene.token(json!({}), json!({}));
    let token = scene.show(&jwt).await.unwrap();
    let waiting = scene.server.until_inactive(&token);
    assert!(timeout(seconds(3600), waiting).await.is_err(), "nobody can be asked about a JWT");
}

#[tokio::test(start_paused = true)]
async fn what_goes_on_under_a_token_that_nobody_vouches_for_goes_on_for_a_minute() {
    let scene = scene();
    scene.net.says(ENDPOINT, 200, active());
    let token = scene.show("opaque").await.unwrap();
    scene.net.says(ENDPOINT, 503, "");
    scene.clock.advance(Duration::from_secs(5));
    let began = Instant::now();
    scene.server.until_inactive(&token).await;
    let lasted = began.elapsed().as_secs();
    assert!((55..=65).contains(&lasted), "{lasted} s");
}

/// Whoever has the turn may be held up by a client that does not read. Those behind it wait, ask for themselves in the end, and
/// what their issuer says then counts.
#[tokio::test(start_paused = true)]
async fn waiting_for_a_turn_is_no_silence_of_the_issuers() {
    let (scene, seconds) = (scene(), Duration::from_secs);
    scene.net.says(ENDPOINT, 200, active());
    let token = scene.show("opaque").await.unwrap();
    scene.clock.advance(seconds(5));
    // It is polled until it asks, and then no more: the turn is its own.
    let mut first = pin!(scene.server.until_inactive(&token));
    for wait in [seconds(5), Duration::ZERO] {
        assert!(poll_fn(|context| Poll::Ready(first.as_mut().poll(context).is_pending())).await);
        tokio::time::advance(wait).await;
    }
    assert_eq!(scene.net.count(ENDPOINT), 2, "it asks");
    let mut second = pin!(scene.server.until_inactive(&token));
    assert!(timeout(seconds(65), second.as_mut()).await.is_err());
    assert_eq!(scene.net.count(ENDPOINT), 2, "it waits for its turn");
    assert!(timeout(seconds(10), second.as_mut()).await.is_err(), "its issuer has vouched for it");
    assert_eq!(scene.net.count(ENDPOINT), 3);
    // That the issuer says nothing counts all the same, from the first question that got no answer.
    scene.net.says(ENDPOINT, 503, "");
    scene.clock.advance(seconds(5));
    assert!(timeout(seconds(140), second).await.is_ok());
    assert!((4..=5).contains(&scene.net.count(ENDPOINT)), "{}", scene.net.count(ENDPOINT));
}

/// Shows all of `bearers` to an issuer that answers none of them; the questions go on while what is returned is kept.
async fn flood<'s>(scene: &'s Scene, bearers: &'s [String]) -> Vec<impl Future + 's> {
    scene.net.says(ENDPOINT, HANGS, "");
    // An earlier one ends.
    for _ in 0..3 {
        yield_now().await;
    }
    let mut flood: Vec<_> = bearers.iter().map(|bearer| Box::pin(scene.show(bearer))).collect();
    for _ in 0..3 {
        for question in &mut flood {
            assert!(poll_fn(|context| Poll::Ready(question.as_mut().poll(context).is_pending())).await);
        }
        // The questions are tasks of their own.
        yield_now().await;
    }
    flood
}

/// A flood of made-up tokens keeps every question busy that strangers can have asked. What goes on under good ones goes on.
#[tokio::test(start_paused = true)]
async fn aa_29_made_up_tokens_end_nobodys_streams() {
    let (scene, seconds) = (scene(), Duration::from_secs);
    scene.net.says(ENDPOINT, 200, active());
    let token = scene.show("opaque").await.unwrap();
    let mut stream = pin!(scene.server.until_inactive(&token));
    assert!(timeout(seconds(2), stream.as_mut()).await.is_err());
    for round in 0..13 {
        // No answer is waited for longer than five seconds. Then strangers try again, before the stream's next question.
        let made_up: Vec<_> = (0..32).map(|n| format!("made-up-{round}-{n}")).collect();
        let _flood = flood(&scene, &made_up).await;
        scene.net.says(ENDPOINT, 200, active());
        let one_more = scene.show("one-more").await;
        assert_eq!(one_more.unwrap_err(), Error::IntrospectionUnavailable, "none is left");
        scene.clock.advance(seconds(5));
        assert!(timeout(seconds(5), stream.as_mut()).await.is_err(), "its issuer vouches for it");
    }
    scene.net.says(ENDPOINT, 200, json!({ "active": false }));
    scene.clock.advance(seconds(5));
    assert!(timeout(seconds(6), stream).await.is_ok(), "and is heard when it does so no more");
}

/// Shows `bearer` fifty times at once.
async fn all_at_once(scene: &Scene, bearer: &str) -> Vec<Result<Arc<VerifiedToken>, Error>> {
    let mut shown: Vec<_> = (0..50).map(|_| Box::pin(scene.show(bearer))).collect();
    for request in &mut shown {
        assert!(poll_fn(|context| Poll::Ready(request.as_mut().poll(context).is_pending())).await);
    }
    let mut answers = Vec::new();
    for request in shown {
        answers.push(request.await);
    }
    answers
}

/// A client that asks for much at once is no flood at its issuer, and takes no more than one place among the questions.
#[tokio::test(start_paused = true)]
async fn of_many_requests_with_one_token_one_asks_and_all_hear_the_same() {
    let (scene, seconds) = (scene(), Duration::from_secs);
    let mut asked = 0;
    let unavailable = Error::IntrospectionUnavailable;
    for (status, body, expected) in [
        (200, active(), None),
        (200, active(), None),
        (503, json!({}), Some(unavailable.clone())),
        (HANGS, json!({}), Some(unavailable)),
        // That it failed is not kept.
        (200, active(), None),
        (200, json!({ "active": false }), Some(Error::Inactive)),
    ] {
        scene.net.says(ENDPOINT, status, body);
        let began = Instant::now();
        let answers = all_at_once(&scene, "opaque").await;
        asked += 1;
        assert_eq!(scene.net.count(ENDPOINT), asked, "{status}");
        assert!(began.elapsed() <= seconds(6), "{:?}", began.elapsed());
        for answer in answers {
            assert_eq!(answer.err(), expected, "{status}");
        }
        scene.clock.advance(seconds(5));
    }
    // Another token's question is its own, at the same time.
    scene.net.says(ENDPOINT, HANGS, "");
    let mut one = Box::pin(scene.show("opaque"));
    assert!(timeout(seconds(1), one.as_mut()).await.is_err());
    scene.net.says(ENDPOINT, 200, active());
    assert!(scene.show("another").await.is_ok());
    // Whoever asked and went away keeps nobody waiting for good.
    drop(one);
    assert_eq!(
        scene.show("opaque").await.unwrap_err(),
        Error::IntrospectionUnavailable,
        "its answer is not there"
    );
    assert!(scene.show("opaque").await.is_ok());
}

/// What many wait for is believed from when it was asked for, not from when each of them heard it.
#[tokio::test(start_paused = true)]
async fn an_answer_that_is_shared_is_kept_no_longer_than_one_that_is_not() {
    let (scene, seconds) = (scene(), Duration::from_secs);
    scene.net.says(ENDPOINT, 200, active());
    let mut first = Box::pin(scene.show("opaque"));
    assert!(poll_fn(|context| Poll::Ready(first.as_mut().poll(context).is_pending())).await);
    scene.clock.advance(seconds(4));
    assert!(scene.show("opaque").await.is_ok() && first.await.is_ok());
    assert_eq!(scene.net.count(ENDPOINT), 1, "it was shared");
    scene.net.says(ENDPOINT, 200, json!({ "active": false }));
    scene.clock.advance(seconds(1));
    assert_eq!(scene.show("opaque").await.unwrap_err(), Error::Inactive);
}

/// Nor do they keep out whoever shows one that was good a moment ago.
#[tokio::test(start_paused = true)]
async fn made_up_tokens_keep_no_good_ones_out() {
    let scene = scene();
    scene.net.says(ENDPOINT, 200, active());
    scene.show("good").await.unwrap();
    let made_up: Vec<_> = (0..32).map(|n| format!("made-up-{n}")).collect();
    let _flood = flood(&scene, &made_up).await;
    scene.net.says(ENDPOINT, 200, active());
    let none_is_left = Error::IntrospectionUnavailable;
    for _ in 0..2 {
        scene.clock.advance(Duration::from_secs(60));
        let asked = scene.net.count(ENDPOINT);
        assert!(scene.show("good").await.is_ok(), "it is asked about");
        assert_eq!(scene.net.count(ENDPOINT), asked + 1);
        assert_eq!(scene.show("one-more").await.unwrap_err(), none_is_left);
    }
    scene.net.says(ENDPOINT, 200, json!({ "active": false }));
    scene.clock.advance(Duration::from_secs(5));
    assert_eq!(scene.show("good").await.unwrap_err(), Error::Inactive);
    assert_eq!(scene.show("good").await.unwrap_err(), none_is_left, "it is a stranger's by now");
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_in_one_line_do_not_each_find_out_for_a_minute() {
    let scene = scene();
    scene.net.says(ENDPOINT, 200, active());
    let token = scene.show("opaque").await.unwrap();
    scene.net.says(ENDPOINT, HANGS, "");
    scene.clock.advance(Duration::from_secs(5));
    let began = Instant::now();
    let wait = || scene.server.until_inactive(&token);
    tokio::join!(wait(), wait(), wait(), wait());
    let lasted = began.elapsed().as_secs();
    assert!((60..=75).contains(&lasted), "{lasted} s for all four");
}
