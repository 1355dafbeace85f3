//! A fresh database for each test, and what the tests say to it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bartizan_model::{Caller, CallerKey, ServerName, Timestamp};
use bartizan_store::{
    Database, Digest, Pins, Sealer, StoredPins,
    pins::{Decision, Event, Extent, Finding, Key, Kind, Look, Observation, Offered, Policy, Ruling},
};
use sqlx::{Any, AnyPool, AssertSqlSafe, Executor, Transaction};

/// A database of its own, which any number of processes could open.
pub struct Bench {
    url: String,
    file: Option<std::path::PathBuf>,
}

impl Bench {
    /// Opens it once more, as another process would.
    pub async fn open(&self) -> Database {
        match &self.file {
            Some(file) => Database::sqlite(file).await.unwrap(),
            None => Database::postgres(&self.url).await.unwrap(),
        }
    }

    /// The file of a SQLite database.
    pub fn file(&self) -> &std::path::Path {
        self.file.as_deref().unwrap()
    }

    pub fn is_postgres(&self) -> bool {
        self.file.is_none()
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub async fn pins(&self) -> StoredPins {
        StoredPins::new(self.open().await, sealer(), None)
    }

    /// What somebody does behind our back.
    pub async fn meddle(&self, statement: &str) -> u64 {
        sqlx::any::install_default_drivers();
        let pool = AnyPool::connect(&self.url).await.unwrap();
        let done = pool.execute(AssertSqlSafe(statement.to_owned())).await.unwrap().rows_affected();
        pool.close().await;
        done
    }

    /// Another process writes to the pins until it is closed.
    pub async fn hold(&self) -> Writing {
        sqlx::any::install_default_drivers();
        let pool = AnyPool::connect(&self.url).await.unwrap();
        let begin = if self.is_postgres() { "BEGIN" } else { "BEGIN IMMEDIATE" };
        let mut transaction = pool.begin_with(begin).await.unwrap();
        transaction.execute("UPDATE pin_servers SET last_seen = last_seen + 1").await.unwrap();
        Writing(pool, transaction)
    }
}

/// Somebody else who writes, and takes long.
pub struct Writing(AnyPool, Transaction<'static, Any>);

impl Writing {
    pub async fn close(self) {
        self.1.rollback().await.unwrap();
        self.0.close().await;
    }
}

/// Runs `test` on each database there is.
pub async fn each(test: impl AsyncFn(&Bench)) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("store.db");
    let url = format!("sqlite:{}", file.display());
    test(&Bench { url, file: Some(file) }).await;
    #[expect(clippy::disallowed_methods, reason = "the environment says where Postgres is")]
    let Ok(server) = std::env::var("BARTIZAN_TEST_POSTGRES") else { return };
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let schema = format!("t{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst));
    let outside = Bench { url: server.clone(), file: None };
    outside.meddle(&format!("CREATE SCHEMA {schema}")).await;
    let mark = if server.contains('?') { '&' } else { '?' };
    let bench = Bench { url: format!("{server}{mark}options[search_path]={schema}"), file: None };
    // A test that fails leaves its schema behind, to be looked at.
    test(&bench).await;
    outside.meddle(&format!("DROP SCHEMA {schema} CASCADE")).await;
}

pub fn sealer() -> Arc<Sealer> {
    Arc::new(Sealer::new(&[7; 32]).unwrap())
}

pub fn at(seconds: u64) -> Timestamp {
    Timestamp::from_unix(1_800_000_000 + seconds)
}

pub fn server(name: &str) -> ServerName {
    name.parse().unwrap()
}

pub fn caller(name: &str) -> Caller {
    Caller::new("https://id.example", name, "editor")
}

pub fn key(name: &str) -> Key {
    Key { server: server("files"), kind: Kind::Tool, name: name.to_owned() }
}

/// A tool as a server would offer it.
pub fn tool(name: &str, description: &str) -> Offered {
    let text = format!(r#"{{"description":"{description}","name":"{name}"}}"#);
    Offered {
        kind: Kind::Tool,
        name: name.to_owned(),
        hash: Digest::of(text.as_bytes()),
        body: Digest::of(format!(r#"{{"description":"{description}"}}"#).as_bytes()),
        text,
        findings: Vec::new(),
    }
}

pub fn suspicious(offered: Offered) -> Offered {
    let finding = Finding {
        rule: "poisoning.covert".to_owned(),
        severity: "high".to_owned(),
        words: "asks the model not to tell the user".to_owned(),
        blocks: true,
    };
    Offered { findings: vec![finding], ..offered }
}

/// Our own whole look at the tools of `files`.
pub fn look<'a>(offered: impl IntoIterator<Item = &'a Offered>) -> Look {
    Look {
        server: server("files"),
        caller: CallerKey::nobody(),
        policy: Policy::ApproveByHand,
        extent: Extent::Whole(vec![Kind::Tool]),
        offered: offered.into_iter().cloned().collect(),
    }
}

/// A whole look of somebody's.
pub fn look_of<'a>(name: &str, offered: impl IntoIterator<Item = &'a Offered>) -> Look {
    Look { caller: caller(name).key(), ..look(offered) }
}

/// The decisions of an observation, in order.
pub fn decisions(observation: &Observation) -> Vec<Decision> {
    observation.sights.iter().map(|sight| sight.decision).collect()
}

/// The news of an observation, in order.
pub fn news(observation: &Observation) -> Vec<Option<Event>> {
    observation.sights.iter().map(|sight| sight.news).collect()
}

/// Approves the form of `offered`.
pub async fn approve(pins: &dyn Pins, offered: &Offered, seconds: u64) {
    let ruling = Ruling::Approve { key: key(&offered.name), hash: offered.hash };
    pins.decide(&[ruling], "ada", at(seconds)).await.unwrap();
}
