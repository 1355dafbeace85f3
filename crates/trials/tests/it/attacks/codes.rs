//! Codes: once, by whom they were given, for what they were given (RFC 6749 §4.1.2, RFC 9700 §4.5).

use bartizan_trials::{Answer, CHALLENGE, Facade, SECRET, VERIFIER, basic, change};

fn error(answer: &Answer) -> (u16, String) {
    (answer.status, answer.json()["error"].as_str().unwrap_or_default().to_owned())
}

fn invalid() -> (u16, String) {
    (400, "invalid_grant".to_owned())
}

#[test]
fn aa_15_a_code_that_is_used_twice_takes_its_tokens_with_it() {
    let facade = Facade::start();
    let code = facade.code("ann", &[]);
    let first = facade.redeem(&code, &[]).json();
    let (access, refresh) =
        (first["access_token"].as_str().unwrap(), first["refresh_token"].as_str().unwrap());
    assert_eq!(facade.shows("a", access), 200);
    assert_eq!(error(&facade.redeem(&code, &[])), invalid());
    let before = facade.executed();
    assert_eq!(facade.shows("a", access), 401, "what came of the first use has ended");
    assert_eq!(error(&facade.refresh(refresh, &[])), invalid());
    assert_eq!(facade.executed(), before);
    facade.serves();
}

#[test]
fn aa_15_of_fifty_redemptions_at_once_one_succeeds() {
    let facade = Facade::start();
    let code = facade.code("ann", &[]);
    let answers: Vec<_> = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..50).map(|_| scope.spawn(|| facade.redeem(&code, &[]))).collect();
        asking.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let good: Vec<_> = answers.iter().filter(|answer| answer.outcome() == 200).collect();
    assert_eq!(good.len(), 1);
    for answer in answers.iter().filter(|answer| answer.outcome() != 200) {
        assert_eq!(error(answer), invalid());
    }
    let access = good[0].json()["access_token"].as_str().unwrap().to_owned();
    assert_eq!(facade.shows("a", &access), 401, "one of the fifty was a thief, and nobody knows which");
    assert_eq!(facade.executed(), 0);
    facade.serves();
}

#[test]
fn aa_16_a_code_is_worth_nothing_to_another_client_place_resource_or_key() {
    let facade = Facade::start();
    let code = facade.code("ann", &[]);
    let stolen = [("client_id", "other")];
    assert_eq!(error(&facade.redeem(&code, &stolen)), invalid());
    let form =
        change(&[("grant_type", "authorization_code"), ("code", &code), ("code_verifier", VERIFIER)], &[]);
    let confidential = facade.post("/oauth/token", &[("Authorization", &basic("server", SECRET))], &form);
    assert_eq!(error(&confidential), invalid());
    assert_eq!(error(&facade.redeem(&code, &[("redirect_uri", "https://c.example/elsewhere")])), invalid());
    let target = facade.redeem(&code, &[("resource", &Facade::resource("b"))]);
    assert_eq!(error(&target), (400, "invalid_target".to_owned()));
    assert_eq!(facade.redeem(&code, &[]).outcome(), 200, "none of it spent the code of the honest client");

    // A code that is bound to a key is no good without a proof of it (RFC 9449 §10).
    let bound = facade.code("ann", &[("dpop_jkt", CHALLENGE)]);
    assert_eq!(error(&facade.redeem(&bound, &[])), invalid());

    // The provider's own code is the provider's.
    let address = facade.allow(&mut facade.browser(), &[]);
    let back = facade.idp.sign_in(&address, "ann");
    let theirs = back.split("code=").nth(1).unwrap().split('&').next().unwrap();
    assert_eq!(error(&facade.redeem(theirs, &[])), invalid());
    facade.serves();
}
