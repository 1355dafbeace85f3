//! Refresh tokens: one use each (RFC 9700 §4.14, OAuth 2.1 §4.3.1).

use bartizan_trials::{Answer, Facade, field};

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
    assert_eq!(facade.refresh(&refresh, &[]).status, 200, "its owner's is as good as before");
}

#[test]
fn aa_25_of_twenty_refreshes_at_once_one_succeeds() {
    let facade = Facade::start();
    let (_, refresh) = facade.tokens("ann");
    let answers: Vec<_> = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..20).map(|_| scope.spawn(|| facade.refresh(&refresh, &[]))).collect();
        asking.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 1);
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
    assert_eq!(facade.refresh(&other, &[]).status, 200);
    let page = browser.get(&Facade::query(&[]));
    assert!(field(&page, "form").is_some(), "and it is asked for again: {}", page.text());
}
