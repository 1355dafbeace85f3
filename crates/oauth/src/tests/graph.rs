//! Microsoft Graph: groups that tokens leave out, and people who are gone (attacks.md §2.2).

use std::{sync::Arc, time::Duration};

use bartizan_model::{Caller, ManualClock, Secret, SeededEntropy, Timestamp};
use serde_json::{Value, json};

use super::scene::{NOW, Net, SharedNet};
use crate::{
    Graph, GroupSource,
    facade::{Directory, DirectoryUnavailable, Person, Standing},
    outbound::EntraMeans,
};

const TENANT: &str = "11111111-2222-3333-4444-555555555555";
const ISSUER: &str = "https://login.microsoftonline.com/11111111-2222-3333-4444-555555555555/v2.0";
const TOKENS: &str =
    "https://login.microsoftonline.com/11111111-2222-3333-4444-555555555555/oauth2/v2.0/token";
const BATCH: &str = "https://graph.microsoft.com/v1.0/$batch";
const ANN: &str = "aaaaaaaa-0000-0000-0000-000000000001";
const GROUP: &str = "bbbbbbbb-0000-0000-0000-000000000001";

struct Scene {
    net: Arc<Net>,
    clock: Arc<ManualClock>,
    graph: Arc<Graph>,
}

impl Scene {
    fn new() -> Self {
        let (net, clock) = (Arc::new(Net::default()), Arc::new(ManualClock::new(Timestamp::from_unix(NOW))));
        let config = format!(
            "app = {{ tenant = \"{TENANT}\", client_id = \"gate\", credential = {{ method = \"client_secret_post\", secret = {{ \
             env = \"S\" }} }} }}"
        );
        let means = EntraMeans {
            fetch: Arc::new(SharedNet(Arc::clone(&net))),
            secret: Arc::new(|_| Ok(Secret::new("s3cret".to_owned()))),
            clock: clock.clone(),
            entropy: Arc::new(SeededEntropy::new(1)),
        };
        net.says(TOKENS, 200, json!({ "access_token": "own", "token_type": "Bearer", "expires_in": 3600 }));
        let graph = Arc::new(Graph::new(&toml::from_str(&config).unwrap(), None, means).unwrap());
        Self { net, clock, graph }
    }

    fn answers(&self, status: u16, body: Value) {
        self.net.says(BATCH, 200, json!({ "responses": [{ "id": "1", "status": status, "body": body }] }));
    }

    async fn standing(&self, issuer: &str, subject: &str) -> Result<Standing, DirectoryUnavailable> {
        let person = Person {
            issuer: issuer.to_owned(),
            subject: subject.to_owned(),
            name: None,
            methods: Vec::new(),
            contexts: Vec::new(),
            at: Timestamp::from_unix(NOW),
            roles: Default::default(),
            groups: Default::default(),
            sign_in: None,
        };
        self.graph.standing(&person).await
    }

    async fn groups(&self, issuer: &str, subject: &str) -> Option<Vec<String>> {
        let caller = Caller::new(issuer, subject, "app");
        self.graph.groups_of(&caller).await.map(|groups| groups.into_iter().collect())
    }
}

#[tokio::test]
async fn groups_are_all_of_them_or_nobodys() {
    let scene = Scene::new();
    let refused = [
        (200, json!({ "value": [GROUP], "@odata.nextLink": "https://graph.microsoft.com/next" })),
        (200, json!({ "value": [GROUP, "not a group"] })),
        (200, json!({ "value": GROUP })),
        (200, json!({})),
        (403, json!({ "error": { "code": "Authorization_RequestDenied" } })),
        (404, json!({})),
        (429, json!({})),
    ];
    for (status, body) in refused {
        scene.answers(status, body.clone());
        assert_eq!(scene.groups(ISSUER, ANN).await, None, "{status} {body}");
        scene.clock.advance(Duration::from_secs(6));
    }
    for (status, body) in [(200, "<html>"), (503, ""), (200, "{\"responses\":[]}")] {
        scene.net.says(BATCH, status, body);
        assert_eq!(scene.groups(ISSUER, ANN).await, None, "{status} {body}");
        scene.clock.advance(Duration::from_secs(6));
    }
    scene.answers(200, json!({ "value": [GROUP] }));
    assert_eq!(scene.groups(ISSUER, ANN).await.unwrap(), [GROUP], "the honest neighbour");
    let posted = scene.net.posted.lock().unwrap().pop().unwrap();
    assert_eq!(posted.0, "Bearer own");
    assert!(posted.1.contains(&format!("/users/{ANN}/getMemberObjects")) && !posted.1.contains("s3cret"));
}

#[tokio::test]
async fn groups_are_asked_for_once_and_count_for_five_minutes() {
    let scene = Scene::new();
    scene.answers(200, json!({ "value": [GROUP] }));
    let (a, b) = tokio::join!(scene.groups(ISSUER, ANN), scene.groups(ISSUER, ANN));
    assert!(a.is_some() && a == b);
    assert_eq!((scene.net.count(BATCH), scene.net.count(TOKENS)), (1, 1), "one asks, the other waits");
    scene.answers(200, json!({ "value": [] }));
    scene.clock.advance(Duration::from_secs(299));
    assert_eq!(scene.groups(ISSUER, ANN).await.unwrap().len(), 1);
    scene.clock.advance(Duration::from_secs(1));
    assert!(scene.groups(ISSUER, ANN).await.unwrap().is_empty());
    // A failure rests, and is not "no groups".
    scene.answers(500, json!({}));
    scene.clock.advance(Duration::from_secs(300));
    assert_eq!(scene.groups(ISSUER, ANN).await, None);
    assert_eq!(scene.groups(ISSUER, ANN).await, None);
    assert_eq!(scene.net.count(BATCH), 3);
}

#[tokio::test]
async fn nobody_elses_people_are_asked_about() {
    let scene = Scene::new();
    scene.answers(200, json!({ "value": [GROUP] }));
    for (issuer, subject) in [
        ("https://other.example", ANN),
        (ISSUER, "ann"),
        (ISSUER, "aaaaaaaa-0000-0000-0000-000000000001/../x"),
        (ISSUER, ""),
    ] {
        assert_eq!(scene.groups(issuer, subject).await, None, "{subject}");
    }
    assert_eq!(scene.net.count(BATCH), 0);
}

#[tokio::test]
async fn somebody_whose_account_is_off_or_gone_is_nobody() {
    let scene = Scene::new();
    let of = |enabled: Value| json!({ "id": ANN, "accountEnabled": enabled });
    for (status, body, active) in [
        (200, of(json!(true)), Ok(Standing::Active)),
        (200, of(json!(false)), Ok(Standing::Gone)),
        (404, json!({ "error": { "code": "Request_ResourceNotFound" } }), Ok(Standing::Gone)),
        (200, of(json!("true")), Err(DirectoryUnavailable)),
        (200, json!({ "id": GROUP, "accountEnabled": true }), Err(DirectoryUnavailable)),
        (403, json!({}), Err(DirectoryUnavailable)),
    ] {
        scene.answers(status, body.clone());
        assert_eq!(scene.standing(ISSUER, ANN).await, active, "{body}");
    }
    scene.net.says(TOKENS, 401, json!({ "error": "invalid_client" }));
    scene.clock.advance(Duration::from_secs(4000));
    assert_eq!(scene.standing(ISSUER, ANN).await, Err(DirectoryUnavailable));
    assert_eq!(scene.standing("https://other.example", "bob").await, Ok(Standing::Active));
}
