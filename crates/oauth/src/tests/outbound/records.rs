//! Linked accounts on record (attacks.md CD-08).

use super::*;
use crate::Deed;

#[tokio::test]
async fn linking_is_told_with_whose_account_where_and_what_it_may() {
    let scene = Scene::personal().await;
    let (mut ann, bob) = (Browser::of("ann"), Browser::of("bob"));
    let away = ann.leave(&scene).await;
    assert_eq!(bob.back(&scene, &away, GOOD).await.status(), 403);
    let away = ann.leave(&scene).await;
    assert_eq!(ann.back(&scene, &away, "code=c0de&iss=https%3A%2F%2Fevil.example").await.status(), 400);
    ann.link(&scene).await;
    let form = format!("csrf={}&do=unlink", ann.csrf(&scene).await);
    ann.ask(&scene, Method::POST, "https://gate.example/connect/up", &form, &[]).await;
    let told = scene.notebook.read();
    let who = |report: &crate::Report| report.person.clone().unwrap().1;
    let seen: Vec<_> = told.iter().map(|report| (report.deed, report.reason, who(report))).collect();
    assert_eq!(
        seen,
        [
            (Deed::AccountRefused, "link.other-browser", "bob".to_owned()),
            (Deed::AccountRefused, "link.mixed-up", "ann".to_owned()),
            (Deed::AccountLinked, "link.made", "ann".to_owned()),
            (Deed::AccountUnlinked, "link.forgotten", "ann".to_owned()),
        ]
    );
    let linked = &told[2];
    assert_eq!((linked.server.clone(), linked.resource.as_deref()), (Some(name()), Some(UP)));
    assert_eq!(linked.scopes, ["read", "write"]);
    let all = format!("{told:?}");
    for secret in ["access-1", "refresh-1", "c0de", "s3cret", &parameter(&away, "state").unwrap()] {
        assert!(!all.contains(secret), "{all}");
    }
}

#[tokio::test]
async fn no_account_is_linked_that_is_not_on_record() {
    let scene = Scene::personal().await;
    let mut browser = Browser::of("ann");
    let away = browser.leave(&scene).await;
    scene.notebook.fill(true);
    assert_eq!(browser.back(&scene, &away, GOOD).await.status(), 503);
    assert!(matches!(scene.line(&ann()).await, Err(Unobtainable::NeedsLinking(_))));
    scene.notebook.fill(false);
    browser.link(&scene).await;
    assert_eq!(scene.line(&ann()).await.unwrap(), "Bearer access-1");
}
