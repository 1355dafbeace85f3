//! Who and what is cut off.

use bartizan_model::Caller;
use bartizan_store::{
    Responses, StoredResponses,
    responses::{Response, Target},
};

use crate::bench::{at, caller, each, server};

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
