//! Several gates on one store: a legacy session is held by one of them, and can be ended by all.

use bartizan_store::{
    Database, Responses, StoredResponses,
    responses::{Response, Target},
};
use bartizan_trials::{Answer, Gate, Session, Upstream};

use super::responses::{respond, soon};

/// POST, GET and DELETE of a session, as a client sees them.
fn tries(session: &Session) -> [(u16, String); 3] {
    let shown = |answer: Answer| (answer.status, answer.text());
    [session.call("1", "echo", "{}").send(), session.listen(None).send(), session.end()].map(shown)
}

fn serves(session: &Session) -> bool {
    session.call("1", "echo", r#"{"still":"here"}"#).send().said() == r#"{"still":"here"}"#
}

/// Puts a revocation in force and takes it back at once: sooner than any gate looks.
fn cut_off_for_a_moment(gate: &Gate, subject: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stored = StoredResponses::new(Database::sqlite(&gate.state().join("store.db")).await.unwrap());
        let target = Target::Person { issuer: "local".to_owned(), subject: subject.to_owned() };
        let at = bartizan_model::Clock::now(&bartizan_model::SystemClock);
        let response = Response { target, why: String::new(), by: "trial".to_owned(), at };
        stored.enforce(&response).await.unwrap();
        stored.lift(&response.target).await.unwrap();
    });
}

#[test]
fn a_session_of_another_gate_is_an_unknown_one_and_goes_on_where_it_is() {
    let up = Upstream::legacy(|_, _| false);
    let one = Gate::start(&up.config("up", ""));
    let two = one.beside();
    let mine = one.client().session("/mcp/up", "2025-11-25", "{}");
    let elsewhere = two.client().session("/mcp/up", "2025-11-25", "{}");
    let unknown = tries(&elsewhere.naming("no-such-session"));
    assert!(unknown.iter().all(|(status, _)| *status == 404), "{unknown:?}");
    assert_eq!(tries(&elsewhere.naming(&mine.id)), unknown, "the other gate does not tell that it lives");
    assert!(serves(&mine) && serves(&elsewhere), "nor was it ended there");
    assert_eq!(mine.end().status, 204);
    assert_eq!(tries(&mine), unknown);
    assert_eq!(tries(&elsewhere.naming(&mine.id)), unknown, "ended or alive, it looks the same");
}

#[test]
fn a_session_that_is_ended_in_the_store_is_closed_by_whichever_gate_has_it() {
    let up = Upstream::legacy(|_, _| false);
    let one = Gate::start(&up.config("up", ""));
    let two = one.beside();
    let sessions = [&one, &two].map(|gate| gate.client().session("/mcp/up", "2025-11-25", "{}"));
    let mut stream = sessions[0].stream();

    cut_off_for_a_moment(&one, "somebody-else");
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert!(sessions.iter().all(serves), "another person's sessions");

    cut_off_for_a_moment(&one, "owner");
    soon("the sessions are over", || {
        sessions.iter().all(|session| session.call("1", "echo", "{}").send().status == 404)
    });
    while stream.event().is_some() {}
    let again = one.client().session("/mcp/up", "2025-11-25", "{}");
    assert!(serves(&again), "who was let in again begins anew");

    // By command, which every gate hears of.
    let (code, said) = respond(&one, &["quarantine", "up"]);
    assert_eq!(code, Some(0), "{said}");
    soon("the session is over", || again.call("1", "echo", "{}").send().status == 404);
}

#[test]
fn what_a_gate_that_died_left_open_is_closed_when_it_comes_back() {
    let up = Upstream::legacy(|_, _| false);
    let mut one = Gate::start(&up.config("up", ""));
    let two = one.beside();
    let lost = one.client().session("/mcp/up", "2025-11-25", "{}");
    let kept = two.client().session("/mcp/up", "2025-11-25", "{}");
    one.restart();
    one.wait_for_log("sessions of an earlier process of this node are over left=1");
    let lost = one.client().session("/mcp/up", "2025-11-25", "{}").naming(&lost.id);
    assert_eq!(lost.call("1", "echo", "{}").send().status, 404);
    assert!(serves(&kept), "the other gate lives");
}

#[test]
fn what_ends_in_order_leaves_no_open_row() {
    let up = Upstream::legacy(|_, _| false);
    let mut gate = Gate::start(&up.config("up", ""));
    let (ended, stopped) = (
        gate.client().session("/mcp/up", "2025-11-25", "{}"),
        gate.client().session("/mcp/up", "2025-11-25", "{}"),
    );
    assert_eq!(ended.end().status, 204);
    assert!(serves(&stopped));
    gate.signal(rustix::process::Signal::TERM);
    assert!(gate.wait().success());
    gate.restart();
    assert!(serves(&gate.client().session("/mcp/up", "2025-11-25", "{}")));
    assert!(!gate.log().contains("sessions of an earlier process"), "{}", gate.log());
}
