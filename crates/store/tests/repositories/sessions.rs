//! Rows of live sessions.

use std::time::Duration;

use bartizan_store::{
    Database, Digest, Responses, Sessions, StoredResponses, StoredSessions, erase,
    responses::{Response, Target},
    sessions::{End, Session},
};

use sqlx::{AnyPool, Executor};

use crate::bench::{Bench, at, caller, each, server};

fn session(number: u8, who: &str, with: Option<&str>) -> Session {
    Session {
        id: Digest::of(&[number]),
        caller: caller(who),
        server: with.map(server),
        revision: "2025-11-25".to_owned(),
    }
}

async fn node(bench: &Bench, name: &str) -> StoredSessions {
    StoredSessions::new(bench.open().await, name)
}

async fn cut_off(database: Database, target: Target) {
    let response = Response { target, why: String::new(), by: "ada".to_owned(), at: at(10) };
    StoredResponses::new(database).enforce(&response).await.unwrap();
}

#[tokio::test]
async fn a_session_that_anybody_ends_is_closed_by_its_node_once() {
    each(async |bench| {
        let (one, two) = (node(bench, "one").await, node(bench, "two").await);
        let open = [
            session(0, "ann", Some("files")),
            session(1, "ann", None),
            session(2, "bob", Some("files")),
            session(3, "bob", Some("mail")),
        ];
        for (at_node, session) in [&one, &two, &one, &two].into_iter().zip(&open) {
            at_node.open(session, at(0)).await.unwrap();
        }
        assert!(one.open(&open[0], at(1)).await.is_err(), "an id is one session's");
        assert!(one.ended().await.unwrap().is_empty() && two.ended().await.unwrap().is_empty());
        let ids = open.each_ref().map(|s| s.id);
        assert!(one.seen(&[ids[0], ids[2]], at(2)).await.unwrap().is_empty(), "both are live");
        assert_eq!(one.seen(&[ids[1]], at(2)).await.unwrap(), [ids[1]], "it is another node's");

        let person = |subject: &str| Target::Person {
            issuer: "https://id.example".to_owned(),
            subject: subject.to_owned(),
        };
        cut_off(bench.open().await, person("nobody")).await;
        assert!(one.ended().await.unwrap().is_empty());
        cut_off(bench.open().await, person("ann")).await;
        assert_eq!((one.ended().await.unwrap(), two.ended().await.unwrap()), (vec![ids[0]], vec![ids[1]]));
        assert_eq!(one.seen(&[ids[0], ids[2]], at(11)).await.unwrap(), [ids[0]], "the other one is live");
        two.close(&[(ids[0], End::Idle)], at(11)).await.unwrap();
        assert_eq!(one.ended().await.unwrap(), [ids[0]], "nobody else closes it");
        one.close(&[(ids[0], End::Idle)], at(12)).await.unwrap();
        assert!(one.ended().await.unwrap().is_empty());

        cut_off(bench.open().await, Target::Tool { server: server("mail"), tool: "send".to_owned() }).await;
        assert_eq!(two.ended().await.unwrap(), [ids[1]], "a tool's quarantine ends no session");
        cut_off(bench.open().await, Target::Server(server("mail"))).await;
        assert_eq!(two.ended().await.unwrap().len(), 2);
        let client = |issuer: &str| Target::Client { issuer: issuer.to_owned(), client: "editor".to_owned() };
        cut_off(bench.open().await, client("https://other.example")).await;
        assert!(one.ended().await.unwrap().is_empty(), "another issuer's client of that id");
        cut_off(bench.open().await, client("")).await;
        assert_eq!(one.ended().await.unwrap(), [ids[2]]);
    })
    .await;
}

#[tokio::test]
async fn what_a_node_left_open_is_closed_when_it_begins_again() {
    each(async |bench| {
        let (one, two) = (node(bench, "one").await, node(bench, "two").await);
        let (mine, other) = (session(0, "ann", None), session(1, "ann", None));
        one.open(&mine, at(0)).await.unwrap();
        two.open(&other, at(0)).await.unwrap();
        let again = node(bench, "one").await;
        assert_eq!(again.begin(at(5)).await.unwrap(), 1);
        assert_eq!(again.begin(at(6)).await.unwrap(), 0);
        assert!(again.ended().await.unwrap().is_empty(), "there is no conversation left to close");
        assert_eq!(again.seen(&[mine.id], at(7)).await.unwrap(), [mine.id]);
        assert!(two.seen(&[other.id], at(7)).await.unwrap().is_empty(), "the other node lives");
        let why = "UPDATE sessions SET closed_at = 0 WHERE ended_by = 'lost'";
        assert_eq!(bench.meddle(why).await, 1);
    })
    .await;
}

/// A gate that cuts a server off, or runs into a limit, closes thousands at once.
#[tokio::test]
async fn many_sessions_are_closed_together_each_for_its_reason() {
    each(async |bench| {
        let (one, two) = (node(bench, "one").await, node(bench, "two").await);
        let id = |number: u32| Digest::of(&number.to_be_bytes());
        let open = |number: u32| Session { id: id(number), ..session(0, "ann", None) };
        // Two of each reason, so that they come in no order.
        let mut over = Vec::new();
        for number in 0..60 {
            one.open(&open(number), at(0)).await.unwrap();
            over.push((id(number), if number % 3 == 0 { End::Idle } else { End::Client }));
        }
        two.open(&open(60), at(0)).await.unwrap();
        one.open(&open(61), at(0)).await.unwrap();
        one.close(&[(id(1), End::Server)], at(1)).await.unwrap();
        // Somebody else's, one that never was, and one twice, among them.
        over.extend([(id(60), End::Idle), (id(99), End::Idle), (id(0), End::Idle)]);
        one.close(&over, at(20)).await.unwrap();
        one.close(&over, at(30)).await.unwrap();
        assert!(one.ended().await.unwrap().is_empty());
        assert!(two.seen(&[id(60)], at(31)).await.unwrap().is_empty(), "nobody else closes it");
        assert!(one.seen(&[id(61)], at(31)).await.unwrap().is_empty(), "it was not named");
        if bench.is_postgres() {
            // A row names the transaction that wrote it: one for each reason, not one for each row.
            let count = "UPDATE sessions SET revision = (SELECT CAST(COUNT(DISTINCT CAST(xmin AS TEXT)) AS TEXT) \
                         FROM sessions WHERE closed_at = 1800000020) WHERE node = 'two'";
            assert_eq!(bench.meddle(count).await, 1);
            assert_eq!(bench.meddle("DELETE FROM sessions WHERE revision = '2'").await, 1);
        }
        let closed = |by: &str, at: u64| {
            format!("DELETE FROM sessions WHERE ended_by = '{by}' AND ended_at = {at} AND closed_at = {at}")
        };
        for (by, at, count) in [("idle", 1_800_000_020, 20), ("client", 1_800_000_020, 39), ("server", 1_800_000_001, 1)] {
            assert_eq!(bench.meddle(&closed(by, at)).await, count, "{by}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_session_that_somebody_is_changing_is_closed_all_the_same() {
    each(async |bench| {
        let one = node(bench, "one").await;
        let (ann, bob) = (session(0, "ann", None), session(1, "bob", None));
        one.open(&ann, at(0)).await.unwrap();
        one.open(&bob, at(0)).await.unwrap();
        let pool = AnyPool::connect(bench.url()).await.unwrap();
        let mut changing = pool.begin().await.unwrap();
        changing.execute("UPDATE sessions SET seen_at = seen_at WHERE subject = 'ann'").await.unwrap();
        let over = [(ann.id, End::Idle), (bob.id, End::Idle)];
        let closing = one.close(&over, at(1));
        let changed = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            changing.commit().await.unwrap();
        };
        let (closed, ()) = tokio::join!(closing, changed);
        closed.unwrap();
        pool.close().await;
        assert_eq!(
            bench.meddle("DELETE FROM sessions WHERE ended_by = 'idle' AND closed_at IS NOT NULL").await,
            2
        );
    })
    .await;
}

/// Adds `count` sessions that a node opened long ago, as they would be after a busy day.
async fn add_many(bench: &Bench, node: &str, count: u64) {
    let statement = format!(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) \
         INSERT INTO sessions (id, node, issuer, subject, client, server, revision, opened_at, seen_at) \
         SELECT '{node}' || CAST(i AS TEXT), '{node}', '', '', '', '', '', 0, 0 FROM n"
    );
    assert_eq!(bench.meddle(&statement).await, count);
}

#[tokio::test]
async fn rows_are_forgotten_an_hour_after_the_close_and_lost_nodes_end() {
    each(async |bench| {
        const HOUR: u64 = 60 * 60;
        const DAY: u64 = 24 * HOUR;
        let (one, two) = (node(bench, "one").await, node(bench, "two").await);
        let (mine, other, fresh) =
            (session(0, "ann", None), session(1, "bob", None), session(2, "eve", None));
        one.open(&mine, at(0)).await.unwrap();
        two.open(&other, at(0)).await.unwrap();
        two.open(&fresh, at(DAY)).await.unwrap();
        assert_eq!(one.tidy(at(DAY)).await.unwrap(), 0);
        assert!(two.ended().await.unwrap().is_empty());
        assert_eq!(one.tidy(at(DAY + 1)).await.unwrap(), 0);
        assert_eq!(two.ended().await.unwrap(), [other.id], "its node gave no sign for a day");
        assert!(one.ended().await.unwrap().is_empty(), "of its own a node knows more");
        one.close(&[(mine.id, End::Client)], at(DAY + 1)).await.unwrap();
        assert_eq!(one.tidy(at(DAY + HOUR + 1)).await.unwrap(), 0, "not yet an hour");
        assert_eq!(one.tidy(at(DAY + HOUR + 2)).await.unwrap(), 1);
        assert_eq!(one.tidy(at(2 * DAY + 1)).await.unwrap(), 0);
        assert!(two.ended().await.unwrap().contains(&other.id), "its node may still have to close it");
        assert_eq!(one.tidy(at(2 * DAY + 2)).await.unwrap(), 1);
        assert_eq!(bench.meddle("DELETE FROM sessions").await, 1);
    })
    .await;
}

#[tokio::test]
async fn more_rows_than_one_statement_changes_are_all_ended_and_forgotten() {
    each(async |bench| {
        let one = node(bench, "one").await;
        add_many(bench, "two", 2_500).await;
        assert_eq!(one.tidy(at(0)).await.unwrap(), 0);
        assert_eq!(bench.meddle("UPDATE sessions SET seen_at = 0 WHERE ended_by = 'lost'").await, 2_500);
        assert_eq!(one.tidy(at(24 * 60 * 60 + 1)).await.unwrap(), 2_500);
        assert_eq!(bench.meddle("DELETE FROM sessions").await, 0);
    })
    .await;
}

#[tokio::test]
async fn a_node_that_stops_closes_all_its_sessions_and_no_other_ones() {
    each(async |bench| {
        let (one, two) = (node(bench, "one").await, node(bench, "two").await);
        let (mine, other) = (session(0, "ann", None), session(1, "ann", None));
        one.open(&mine, at(0)).await.unwrap();
        two.open(&other, at(0)).await.unwrap();
        let person = Target::Person { issuer: "https://id.example".to_owned(), subject: "ann".to_owned() };
        cut_off(bench.open().await, person).await;
        add_many(bench, "one", 2_500).await;
        assert_eq!(one.close_all(End::Stopped, at(20)).await.unwrap(), 2_501);
        assert_eq!(one.close_all(End::Stopped, at(21)).await.unwrap(), 0);
        assert!(one.ended().await.unwrap().is_empty());
        assert_eq!(two.ended().await.unwrap(), [other.id], "its own node closes it");
        let stopped = "DELETE FROM sessions WHERE ended_by = 'stopped' AND closed_at = ended_at";
        assert_eq!(bench.meddle(stopped).await, 2_500);
        assert_eq!(bench.meddle("DELETE FROM sessions WHERE ended_by = 'revoked'").await, 2, "as it was");
    })
    .await;
}

#[tokio::test]
async fn more_sessions_than_one_statement_takes_are_noted_as_used() {
    each(async |bench| {
        let one = node(bench, "one").await;
        let live = session(0, "ann", None);
        one.open(&live, at(0)).await.unwrap();
        let mut ids: Vec<_> = (0..2_500_u32).map(|number| Digest::of(&number.to_be_bytes())).collect();
        let unknown = ids.clone();
        ids.insert(1_200, live.id);
        assert_eq!(one.seen(&ids, at(5)).await.unwrap(), unknown);
        assert_eq!(bench.meddle("DELETE FROM sessions WHERE seen_at = 1800000005").await, 1);
        assert_eq!(one.seen(&[live.id], at(6)).await.unwrap(), [live.id]);
        assert!(one.seen(&[], at(6)).await.unwrap().is_empty());
    })
    .await;
}

#[tokio::test]
async fn somebody_erased_has_no_session_and_is_in_no_row() {
    each(async |bench| {
        let one = node(bench, "one").await;
        let (ann, bob) = (session(0, "ann", None), session(1, "bob", None));
        one.open(&ann, at(0)).await.unwrap();
        one.open(&bob, at(0)).await.unwrap();
        let database = bench.open().await;
        let remembered = Duration::from_secs(60);
        let erased = erase::erase(&database, "https://id.example", "ann", at(1), remembered).await.unwrap();
        assert_eq!(erased.other, 1);
        assert_eq!(one.ended().await.unwrap(), [ann.id]);
        assert_eq!(bench.meddle("DELETE FROM sessions WHERE subject = 'ann'").await, 0);
        assert!(one.seen(&[bob.id], at(2)).await.unwrap().is_empty());
    })
    .await;
}
