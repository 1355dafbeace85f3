//! Who and what is cut off.

use std::time::Duration;

use bartizan_model::Caller;
use bartizan_store::{
    Browsers, Digest, Grants, Registrations, Responses, StoredBrowsers, StoredGrants, StoredRegistrations,
    StoredResponses,
    browsers::Browser,
    clients::Registration,
    grants::{Grant, RevokedKind},
    responses::{Response, Target},
};

use crate::bench::{at, caller, each, sealer, server};

fn response(target: Target, seconds: u64) -> Response {
    Response { target, why: "it poured tea".to_owned(), by: "ada".to_owned(), at: at(seconds) }
}

#[tokio::test]
async fn a_response_holds_for_every_process_until_it_is_taken_back() {
    each(async |bench| {
        let (here, there) =
            (StoredResponses::new(bench.open().await), StoredResponses::new(bench.open().await));
        let tool = Target::Tool { server: server("files"), tool: "read \u{1F375}/x'".to_owned() };
        let person = Target::Person { issuer: "https://id.example".to_owned(), subject: "ann".to_owned() };
        let client = Target::Client { issuer: String::new(), client: "editor".to_owned() };
        let all = [
            response(client, 1),
            response(person.clone(), 2),
            response(Target::Server(server("files")), 3),
            response(tool.clone(), 4),
        ];
        for one in &all {
            assert!(here.enforce(one).await.unwrap());
        }
        assert_eq!(there.all().await.unwrap(), all);
        assert!(!there.enforce(&response(tool.clone(), 9)).await.unwrap(), "the first one stays");
        assert_eq!(here.lift(&tool).await.unwrap(), Some(all[3].clone()));
        assert_eq!(there.lift(&tool).await.unwrap(), None);
        assert_eq!(there.lift(&person).await.unwrap(), Some(all[1].clone()));
        assert_eq!(here.all().await.unwrap().len(), 2, "a server's quarantine is not its tool's");
    })
    .await;
}

/// Also when nobody reads a response before it is lifted.
#[tokio::test]
async fn what_somebody_held_does_not_come_back_with_a_release() {
    each(async |bench| {
        let responses = StoredResponses::new(bench.open().await);
        let grants = StoredGrants::new(bench.open().await, sealer());
        let browsers = StoredBrowsers::new(bench.open().await, sealer());
        let clients = StoredRegistrations::new(bench.open().await, sealer());
        let id = "https://id.example";
        for (name, subject, client) in [("a", "ann", "editor"), ("b", "bob", "editor"), ("c", "cat", "other")]
        {
            let grant = Grant {
                id: name.to_owned(),
                client: client.to_owned(),
                issuer: id.to_owned(),
                subject: subject.to_owned(),
                content: String::new(),
                made_at: at(0),
                expires_at: at(1000),
            };
            grants.begin(&grant, Digest::of(name.as_bytes()), at(60)).await.unwrap();
            assert!(grants.redeem(Digest::of(name.as_bytes()), None, at(1)).await.unwrap());
            let browser = Browser {
                id: Digest::of(subject.as_bytes()),
                issuer: id.to_owned(),
                subject: subject.to_owned(),
                person: Vec::new(),
                opened_at: at(0),
                expires_at: at(1000),
            };
            browsers.open(&browser).await.unwrap();
        }
        for client in ["editor", "other"] {
            let made = Registration {
                id: client.to_owned(),
                content: String::new(),
                made_at: at(0),
                expires_at: at(1000),
            };
            assert!(clients.add(&made, 10, at(0)).await.unwrap());
        }
        let alive = async |name: &str| grants.find(name, at(20)).await.unwrap().is_some();
        let is_known = async |client: &str| clients.find(client, at(20)).await.unwrap().is_some();

        let person = Target::Person { issuer: id.to_owned(), subject: "ann".to_owned() };
        assert!(responses.enforce(&response(person.clone(), 10)).await.unwrap());
        assert!(responses.lift(&person).await.unwrap().is_some());
        assert!(!alive("a").await && alive("b").await && alive("c").await);
        let revoked = grants.revocations(at(0), at(20)).await.unwrap();
        let of_ann = revoked.iter().find(|one| one.kind == RevokedKind::Subject).unwrap();
        assert_eq!((of_ann.issuer.as_str(), of_ann.name.as_str(), of_ann.at), (id, "ann", at(10)));
        let a_month_later = at(30 * 24 * 3600 + 9);
        assert!(
            grants.revocations(at(0), a_month_later).await.unwrap().contains(of_ann),
            "a token may live that long"
        );

        let client = Target::Client { issuer: String::new(), client: "editor".to_owned() };
        assert!(responses.enforce(&response(client.clone(), 11)).await.unwrap());
        assert!(responses.lift(&client).await.unwrap().is_some());
        assert!(!alive("b").await && alive("c").await);
        assert!(!is_known("editor").await && is_known("other").await);
        let revoked = grants.revocations(at(0), at(20)).await.unwrap();
        assert!(revoked.iter().any(|one| one.kind == RevokedKind::Client && one.name == "editor"));
        for (subject, is_signed_in) in [("ann", false), ("bob", true)] {
            let found =
                browsers.find(&Digest::of(subject.as_bytes()), Duration::from_secs(1000), at(20)).await;
            assert_eq!(found.unwrap().is_some(), is_signed_in, "{subject}");
        }
    })
    .await;
}

#[test]
fn a_target_is_the_caller_it_names_and_nobody_else() {
    let ann = caller("ann");
    let person = |issuer: &str, subject: &str| Target::Person {
        issuer: issuer.to_owned(),
        subject: subject.to_owned(),
    };
    let client =
        |issuer: &str, client: &str| Target::Client { issuer: issuer.to_owned(), client: client.to_owned() };
    assert!(person("https://id.example", "ann").is(&ann));
    assert!(person("https://id.example", "ann").is(&Caller::new("https://id.example", "ann", "another")));
    assert!(client("", "editor").is(&ann) && client("https://id.example", "editor").is(&ann));
    for other in [
        person("https://id.example", "bob"),
        person("https://other.example", "ann"),
        person("", "ann"),
        client("https://other.example", "editor"),
        client("", "ann"),
        Target::Server(server("editor")),
    ] {
        assert!(!other.is(&ann), "{other}");
    }
}
