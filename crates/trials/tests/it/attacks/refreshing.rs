//! Refresh tokens: one use each (RFC 9700 §4.14, OAuth 2.1 §4.3.1).

use bartizan_trials::{Answer, Facade, Idp, field};

fn error(answer: &Answer) -> (u16, String) {
    (answer.status, answer.json()["error"].as_str().unwrap_or_default().to_owned())
}

fn invalid() -> (u16, String) {
    (400, "invalid_grant".to_owned())
}

fn member(answer: &Answer, name: &str) -> String {
    answer.json()[name].as_str().unwrap_or_else(|| panic!("{}", answer.text())).to_owned()
}

#[test]
fn aa_25_a_stolen_refresh_token_is_worth_nothing_once_either_was_used() {
    let facade = Facade::start();
    let (first_access, first) = facade.tokens("ann");
    let second = facade.refresh(&first, &[]);
    let (second_access, second) = (member(&second, "access_token"), member(&second, "refresh_token"));
    assert_eq!(facade.shows("a", &second_access), 200);
    // The thief comes second, or the owner does.
    assert_eq!(error(&facade.refresh(&first, &[])), invalid());
    assert_eq!(error(&facade.refresh(&second, &[])), invalid(), "the family has ended");
    let before = facade.executed();
    for access in [&first_access, &second_access] {
        assert_eq!(facade.shows("a", access), 401);
    }
    assert_eq!(facade.executed(), before);
    facade.serves();
}

#[test]
fn aa_25_another_clients_refresh_token_is_an_unknown_one() {
    let facade = Facade::start();
    let (_, refresh) = facade.tokens("ann");
    let stolen = facade.refresh(&refresh, &[("client_id", "other")]);
    let made_up = facade.refresh("made-up", &[("client_id", "other")]);
    assert_eq!((error(&stolen), stolen.text()), (invalid(), made_up.text()));
    let confidential =
        facade.token_of_server(&[("grant_type", "refresh_token"), ("refresh_token", &refresh)]);
    assert_eq!(error(&confidential), invalid());
    assert_eq!(facade.refresh(&refresh, &[]).outcome(), 200, "its owner's is as good as before");
}

#[test]
fn aa_25_of_twenty_refreshes_at_once_one_succeeds() {
    let facade = Facade::start();
    let (_, refresh) = facade.tokens("ann");
    let answers: Vec<_> = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..20).map(|_| scope.spawn(|| facade.refresh(&refresh, &[]))).collect();
        asking.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert_eq!(answers.iter().filter(|answer| answer.outcome() == 200).count(), 1);
    facade.serves();
}

#[test]
fn aa_25_what_a_person_takes_back_is_over_at_once() {
    let facade = Facade::start();
    let mut browser = facade.browser();
    let location = facade.grant(&mut browser, "ann", &[]);
    let code = bartizan_trials::parameter(&location, "code").unwrap();
    let tokens = facade.redeem(&code, &[]);
    let (access, refresh) = (member(&tokens, "access_token"), member(&tokens, "refresh_token"));
    let (other_access, other) = facade.tokens("bob");
    assert_eq!(facade.shows("a", &access), 200);
    let page = browser.get("/account");
    let csrf = field(&page, "csrf").unwrap();
    let gone = browser.post("/account", &[("csrf", &csrf), ("action", "revoke"), ("client", "editor")]);
    assert_eq!(gone.status, 303, "{}", gone.text());
    assert_eq!(facade.shows("a", &access), 401);
    assert_eq!(error(&facade.refresh(&refresh, &[])), invalid());
    assert_eq!(facade.shows("a", &other_access), 200, "nobody else's");
    assert_eq!(facade.refresh(&other, &[]).outcome(), 200);
    let page = browser.get(&Facade::query(&[]));
    assert!(field(&page, "form").is_some(), "and it is asked for again: {}", page.text());
}

/// Somebody who is gone at the identity provider is spoken for no longer than the access token they hold (spec.md F-37).
#[test]
fn somebody_who_is_gone_at_the_provider_refreshes_nothing_and_is_signed_out() {
    for recheck in ["by = \"refresh-token\"", "by = \"userinfo\""] {
        let facade = Facade::on(Idp::start(7).rechecked(recheck), "", "", &[]);
        let mut browser = facade.browser();
        let location = facade.grant(&mut browser, "ann", &[]);
        let code = bartizan_trials::parameter(&location, "code").unwrap();
        let mut ann = member(&facade.redeem(&code, &[]), "refresh_token");
        let (_, mut bob) = facade.tokens("bob");
        for refresh in [&mut ann, &mut bob] {
            let next = facade.refresh(refresh, &[]);
            assert_eq!(next.outcome(), 200, "{recheck}: {}", next.text());
            *refresh = member(&next, "refresh_token");
        }

        facade.idp.be_down(true);
        let silent = facade.refresh(&ann, &[]);
        assert_eq!(error(&silent), (503, "temporarily_unavailable".to_owned()), "{recheck}");
        facade.idp.be_down(false);
        let next = facade.refresh(&ann, &[]);
        assert_eq!(next.outcome(), 200, "{recheck}: it may be asked again: {}", next.text());
        let (access, refresh) = (member(&next, "access_token"), member(&next, "refresh_token"));
        assert_eq!(facade.shows("a", &access), 200);

        facade.idp.dismiss("ann");
        assert_eq!(error(&facade.refresh(&refresh, &[])), invalid(), "{recheck}");
        assert_eq!(facade.shows("a", &access), 401, "{recheck}: what came of it has ended");
        assert_eq!(error(&facade.refresh(&refresh, &[])), invalid());
        let page = facade.allow(&mut browser, &[]);
        assert!(page.starts_with(&facade.idp.name()), "her browser is signed out here, too");
        assert_eq!(facade.refresh(&bob, &[]).outcome(), 200, "{recheck}: nobody else's");
    }
}

#[test]
fn a_provider_that_is_silent_is_borne_with_for_as_long_as_the_operator_says() {
    let idp = Idp::start(7).rechecked("by = \"refresh-token\", grace_s = 3600");
    let facade = Facade::on(idp, "", "", &[]);
    let (_, refresh) = facade.tokens("ann");
    facade.idp.be_down(true);
    let next = facade.refresh(&refresh, &[]);
    assert_eq!(next.outcome(), 200, "{}", next.text());
    facade.idp.be_down(false);
    facade.idp.dismiss("ann");
    assert_eq!(
        error(&facade.refresh(&member(&next, "refresh_token"), &[])),
        invalid(),
        "a no is a no at once"
    );
}
