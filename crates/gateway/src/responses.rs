//! Who and what is cut off: quarantines and revocations, in force within seconds on every gate of a database.
//!
//! They are read every second, and asked for anew by a request that finds them older than [`RESPONSES_AGE`]: what cannot be
//! read is not known to be harmless, so nothing is served then.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::{ArcSwap, ArcSwapOption};
use bartizan_audit::{
    Details, Event, Kind, Text,
    event::{Change, Decision},
};
use bartizan_mcp::{
    Message, Refusal, code,
    json::{Value, quote},
};
use bartizan_model::{Caller, Clock, ServerName, Timestamp};
use bartizan_store::{
    DatabaseError,
    responses::{Response, Responses as Stored, Target},
};

use crate::{
    Asker, limits::RESPONSES_AGE, merged::split_name, record::Recorder, server::Server, upstream::Failure,
};

/// The responses in force.
pub struct Responses {
    stored: Arc<dyn Stored>,
    clock: Arc<dyn Clock>,
    recorder: Arc<Recorder>,
    now: ArcSwap<Snapshot>,
    /// The gate's own authorization server, if there is one.
    own_issuer: ArcSwapOption<String>,
    /// One reads, the others wait for it.
    reading: tokio::sync::Mutex<()>,
    /// How often they were other ones than before.
    changes: AtomicU64,
}

/// What was in force when it was read.
#[derive(Default)]
struct Snapshot {
    read: Option<Timestamp>,
    all: Vec<Response>,
    servers: BTreeSet<ServerName>,
    tools: BTreeMap<ServerName, BTreeSet<String>>,
    /// Revocations, of which there are few.
    callers: Vec<Target>,
}

impl Snapshot {
    /// Of `own` issuer, a client is one whoever vouches for the people who use it: they are known by their identity provider's
    /// name, not by ours.
    fn of(all: Vec<Response>, read: Option<Timestamp>, own: Option<&String>) -> Self {
        let mut snapshot = Self { read, ..Self::default() };
        for response in &all {
            match &response.target {
                Target::Server(server) => {
                    snapshot.servers.insert(server.clone());
                }
                Target::Tool { server, tool } => {
                    snapshot.tools.entry(server.clone()).or_default().insert(tool.clone());
                }
                Target::Client { issuer, client } if own == Some(issuer) => {
                    let (issuer, client) = (String::new(), client.clone());
                    snapshot.callers.push(Target::Client { issuer, client });
                }
                caller @ (Target::Person { .. } | Target::Client { .. }) => {
                    snapshot.callers.push(caller.clone())
                }
            }
        }
        Self { all, ..snapshot }
    }
}

impl Responses {
    /// Those in `stored`; what comes into force or ends is told to `recorder`.
    pub fn new(stored: Arc<dyn Stored>, clock: Arc<dyn Clock>, recorder: Arc<Recorder>) -> Self {
        let (now, reading) = (ArcSwap::default(), tokio::sync::Mutex::default());
        let (own_issuer, changes) = (ArcSwapOption::empty(), AtomicU64::new(0));
        Self { stored, clock, recorder, now, own_issuer, reading, changes }
    }

    /// Says what the gate's own authorization server is called, from now on.
    pub fn issue_as(&self, issuer: Option<&str>) {
        self.own_issuer.store(issuer.map(|issuer| Arc::new(issuer.to_owned())));
        self.now.rcu(|now| Snapshot::of(now.all.clone(), now.read, self.own_issuer.load().as_deref()));
    }

    /// Where they are kept.
    pub fn stored(&self) -> &Arc<dyn Stored> {
        &self.stored
    }

    /// Reads them anew. Whether anything changed.
    ///
    /// # Errors
    /// [`DatabaseError`]; what was known goes on for a moment.
    pub async fn refresh(&self) -> Result<bool, DatabaseError> {
        let _one_at_a_time = self.reading.lock().await;
        self.read().await
    }

    async fn read(&self) -> Result<bool, DatabaseError> {
        // Before the question: what is written while it is answered is read the next time.
        let now = self.clock.now();
        let all = self.stored.all().await?;
        let before = self.now.load_full();
        let has_changed = before.all != all;
        if has_changed {
            for response in all.iter().filter(|r| !before.all.contains(r)) {
                self.record(response, true);
            }
            for response in before.all.iter().filter(|r| !all.contains(r)) {
                self.record(response, false);
            }
        }
        self.now.store(Arc::new(Snapshot::of(all, Some(now), self.own_issuer.load().as_deref())));
        self.changes.fetch_add(u64::from(has_changed), Ordering::Release);
        Ok(has_changed)
    }

    /// What they are now, read anew if they are old.
    async fn fresh(&self) -> Result<Arc<Snapshot>, Refusal> {
        // Nor is it fresh what was read at a time that is still to come, after the clock was set back.
        let is_fresh = |snapshot: &Snapshot| {
            let now = self.clock.now();
            snapshot.read.is_some_and(|read| read <= now && now.since(read) < RESPONSES_AGE)
        };
        let now = self.now.load_full();
        if is_fresh(&now) {
            return Ok(now);
        }
        let _one_at_a_time = self.reading.lock().await;
        if !is_fresh(&self.now.load()) {
            self.read().await.map_err(|error| {
                tracing::error!(%error, "the responses in force cannot be read");
                Refusal::new(503, code::LIMIT, "the gate cannot find out what is cut off; try again later")
                    .with_data(r#"{"source":"bartizan","reason":"response.unreadable"}"#)
            })?;
        }
        Ok(self.now.load_full())
    }

    /// Lets a caller in.
    ///
    /// # Errors
    /// 403 if the person's or the client's access is revoked, 503 if that cannot be found out.
    pub async fn admit(&self, asker: &Asker) -> Result<(), Refusal> {
        if self.has_cut_off(&asker.caller).await? { Err(revoked()) } else { Ok(()) }
    }

    /// Whether somebody's access is revoked, whatever they came with.
    ///
    /// # Errors
    /// 503 if that cannot be found out.
    pub async fn has_cut_off(&self, caller: &Caller) -> Result<bool, Refusal> {
        Ok(self.fresh().await?.callers.iter().any(|target| target.is(caller)))
    }

    /// Lets a request through to `server`.
    ///
    /// # Errors
    /// As [`Self::admit`], and 403 if the server or the tool is in quarantine.
    pub async fn check(
        &self,
        asker: &Asker,
        server: &Server,
        is_merged: bool,
        message: &Message,
    ) -> Result<(), Refusal> {
        self.admit(asker).await?;
        let snapshot = self.fresh().await?;
        let name = server.name();
        if snapshot.servers.contains(name) {
            return Err(quarantined(&format!("the server `{name}` is in quarantine"), name));
        }
        if message.method() == "tools/call"
            && let Some(tools) = snapshot.tools.get(name)
            && let Some(named) = message.param("name").and_then(Value::as_str)
            && let tool = if is_merged { split_name(&named).map_or("", |(_, bare)| bare) } else { &named }
            && tools.contains(tool)
        {
            return Err(quarantined(
                &format!("the tool `{tool}` of the server `{name}` is in quarantine"),
                name,
            ));
        }
        Ok(())
    }

    /// Whether nothing of this server may be asked or shown, as far as is known now.
    pub fn is_quarantined(&self, server: &ServerName) -> bool {
        self.now.load().servers.contains(server)
    }

    /// Lets a message of `server` through to `caller`, who asked for it before.
    ///
    /// # Errors
    /// [`Failure::Withheld`] if either is cut off by now.
    pub fn pass(&self, server: &ServerName, caller: &Caller) -> Result<(), Failure> {
        let refusal = if self.is_quarantined(server) {
            quarantined("it is in quarantine", server)
        } else if self.is_revoked(caller) {
            revoked()
        } else {
            return Ok(());
        };
        Err(withheld(refusal))
    }

    /// Lets what came of a tool of `server` through that was called before.
    ///
    /// # Errors
    /// As [`Self::refusal_of_tool`], as [`Failure::Withheld`].
    pub fn pass_tool(&self, server: &ServerName, tool: Option<&str>) -> Result<(), Failure> {
        self.refusal_of_tool(server, tool).map_or(Ok(()), |refusal| Err(withheld(refusal)))
    }

    /// The refusal of whatever is about a tool of `server` that is in quarantine by now. A tool that nobody knows may be any of
    /// those that are.
    pub fn refusal_of_tool(&self, server: &ServerName, tool: Option<&str>) -> Option<Refusal> {
        let snapshot = self.now.load();
        let tools = snapshot.tools.get(server)?;
        let what = match tool {
            Some(tool) if tools.contains(tool) => format!("its tool `{tool}` is in quarantine"),
            Some(_) => return None,
            None => {
                "a tool of it is in quarantine, and it is not known any more which tool this is of".to_owned()
            }
        };
        Some(quarantined(&what, server))
    }

    /// How often others than before came into force, or ended.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// The tools of `server` that are in quarantine.
    pub fn tools_in_quarantine(&self, server: &ServerName) -> Vec<String> {
        self.now.load().tools.get(server).into_iter().flatten().cloned().collect()
    }

    /// Which of these tools of `server`, by place, are in quarantine.
    pub fn hidden(&self, server: &ServerName, tools: &[Option<String>]) -> Vec<usize> {
        let snapshot = self.now.load();
        let Some(hidden) = snapshot.tools.get(server) else { return Vec::new() };
        let is_hidden = |tool: &Option<String>| tool.as_ref().is_some_and(|tool| hidden.contains(tool));
        tools.iter().enumerate().filter(|(_, tool)| is_hidden(tool)).map(|(at, _)| at).collect()
    }

    /// Whether somebody's access is revoked, as far as is known now: his sessions end.
    pub fn is_revoked(&self, caller: &Caller) -> bool {
        self.now.load().callers.iter().any(|target| target.is(caller))
    }

    /// Every revocation in force, for whoever keeps tokens: those issued until its time are worth nothing.
    pub fn revocations(&self) -> Vec<Response> {
        let is_caller = |r: &&Response| matches!(r.target, Target::Person { .. } | Target::Client { .. });
        self.now.load().all.iter().filter(is_caller).cloned().collect()
    }

    fn record(&self, response: &Response, begins: bool) {
        let event = event_of(self.recorder.log().persons(), response, begins);
        self.recorder.log().mention(event);
    }
}

/// The event of a response that comes into force or ends. A person goes by his pseudonym.
pub fn event_of(persons: &bartizan_audit::Persons, response: &Response, begins: bool) -> Event {
    let (entity, name) = match &response.target {
        Target::Server(server) => ("server", server.to_string()),
        Target::Tool { server, tool } => ("tool", format!("{server}/{tool}")),
        Target::Client { client, .. } => ("client", client.clone()),
        Target::Person { issuer, subject } => {
            let person = persons.of(&Caller::new(issuer, subject, ""));
            ("person", person.map(|person| person.pseudonym().to_string()).unwrap_or_default())
        }
    };
    let cuts = match &response.target {
        Target::Server(_) | Target::Tool { .. } => "quarantined",
        Target::Person { .. } | Target::Client { .. } => "revoked",
    };
    let server = match &response.target {
        Target::Server(server) | Target::Tool { server, .. } => Some(server.clone()),
        Target::Person { .. } | Target::Client { .. } => None,
    };
    let (from, to) = if begins { (None, cuts) } else { (Some(Text::new(cuts)), "released") };
    Event::new(Kind::Responded).with(Details {
        server,
        decision: Some(if begins { Decision::Deny } else { Decision::Permit }),
        change: Some(Change {
            entity: Text::new(entity),
            name: Text::new(&name),
            from,
            to: Some(Text::new(to)),
        }),
        message: Some(Text::new(&format!("{}: {}", response.by, response.why))),
        ..Details::default()
    })
}

fn withheld(refusal: Refusal) -> Failure {
    Failure::Withheld { words: refusal.message, data: refusal.data.unwrap_or_default().into(), suspect: None }
}

fn revoked() -> Refusal {
    Refusal::new(403, code::FORBIDDEN, "your access to this gate is revoked; ask its operator")
        .with_data(r#"{"source":"bartizan","reason":"response.revoked"}"#)
}

fn quarantined(what: &str, server: &ServerName) -> Refusal {
    Refusal::new(
        403,
        code::FORBIDDEN,
        format!("{what}; its operator releases it by `bartizan respond release`"),
    )
    .with_data(format!(
        r#"{{"source":"bartizan","reason":"response.quarantined","server":{}}}"#,
        quote(server.as_str())
    ))
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, atomic::AtomicBool};

    use async_trait::async_trait;
    use bartizan_audit::{AuditFolder, Options};
    use bartizan_model::{ManualClock, SeededEntropy};

    use super::*;

    /// A store that can go away.
    #[derive(Default)]
    struct Double {
        all: Mutex<Vec<Response>>,
        is_gone: AtomicBool,
    }

    #[async_trait]
    impl Stored for Double {
        async fn enforce(&self, response: &Response) -> Result<bool, DatabaseError> {
            self.all.lock().unwrap().push(response.clone());
            Ok(true)
        }

        async fn lift(&self, _: &Target) -> Result<Option<Response>, DatabaseError> {
            Ok(self.all.lock().unwrap().pop())
        }

        async fn all(&self) -> Result<Vec<Response>, DatabaseError> {
            if self.is_gone.load(Ordering::Relaxed) {
                return Err(DatabaseError::Value("kind"));
            }
            Ok(self.all.lock().unwrap().clone())
        }
    }

    struct Scene {
        responses: Responses,
        stored: Arc<Double>,
        clock: Arc<ManualClock>,
        _folder: tempfile::TempDir,
    }

    fn scene() -> Scene {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(Timestamp::from_unix(1_800_000_000)));
        let audit = AuditFolder::open(folder.path(), Arc::new(SeededEntropy::new(1))).unwrap();
        let log = audit.start("gate", clock.clone(), Options::default()).unwrap();
        let recorder = Arc::new(Recorder::new(log, clock.clone()));
        let stored = Arc::new(Double::default());
        let responses = Responses::new(stored.clone(), clock.clone(), recorder);
        Scene { responses, stored, clock, _folder: folder }
    }

    fn revocation() -> Response {
        let target = Target::Person { issuer: "local".to_owned(), subject: "owner".to_owned() };
        Response { target, why: String::new(), by: "ada".to_owned(), at: Timestamp::from_unix(1_800_000_000) }
    }

    #[tokio::test]
    async fn what_is_cut_off_is_known_within_seconds_without_anybody_watching() {
        let Scene { responses, stored, clock, .. } = &scene();
        let owner = Asker::new(Caller::local_owner());
        assert!(responses.admit(&owner).await.is_ok());
        stored.enforce(&revocation()).await.unwrap();
        assert!(responses.admit(&owner).await.is_ok(), "read a moment ago");
        clock.advance(RESPONSES_AGE);
        assert_eq!(responses.admit(&owner).await.unwrap_err().status, 403);
        assert!(responses.is_revoked(&owner.caller) && responses.revocations().len() == 1);
        stored.lift(&revocation().target).await.unwrap();
        assert!(responses.refresh().await.unwrap(), "something changed");
        assert!(responses.admit(&owner).await.is_ok());
    }

    /// Whoever revokes a client of the gate's own authorization server may name that, though the people who use the client are
    /// known by their identity provider.
    #[tokio::test]
    async fn a_client_of_our_own_issuer_is_cut_off_whoever_uses_it() {
        let Scene { responses, stored, clock, .. } = &scene();
        let of = |issuer: &str, client: &str| Asker::new(Caller::new(issuer, "ann", client));
        let target = Target::Client { issuer: "https://gate".to_owned(), client: "editor".to_owned() };
        stored.enforce(&Response { target, ..revocation() }).await.unwrap();
        let is_in = async |asker: Asker| responses.admit(&asker).await.is_ok();
        assert!(is_in(of("https://idp", "editor")).await, "another issuer's client of that id");
        responses.issue_as(Some("https://gate"));
        for asker in [of("https://idp", "editor"), of("https://gate", "editor")] {
            assert!(responses.is_revoked(&asker.caller) && !is_in(asker).await);
        }
        assert!(is_in(of("https://idp", "other")).await);
        clock.advance(RESPONSES_AGE);
        assert!(!is_in(of("https://idp", "editor")).await, "read anew");
        responses.issue_as(None);
        assert!(is_in(of("https://idp", "editor")).await);
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_not_taken_for_harmless() {
        let Scene { responses, stored, clock, .. } = &scene();
        let owner = Asker::new(Caller::local_owner());
        stored.is_gone.store(true, Ordering::Relaxed);
        assert_eq!(responses.admit(&owner).await.unwrap_err().status, 503, "nothing is known yet");
        stored.is_gone.store(false, Ordering::Relaxed);
        assert!(responses.admit(&owner).await.is_ok());
        stored.is_gone.store(true, Ordering::Relaxed);
        assert!(responses.admit(&owner).await.is_ok(), "what was read a moment ago still holds");
        clock.advance(RESPONSES_AGE);
        assert_eq!(responses.admit(&owner).await.unwrap_err().status, 503);
    }

    /// A clock that was ahead when they were read, and is set right while the database is away.
    #[tokio::test]
    async fn what_was_read_does_not_count_for_longer_because_the_clock_was_set_back() {
        let Scene { responses, stored, clock, .. } = &scene();
        let owner = Asker::new(Caller::local_owner());
        let ahead = clock.now().plus(std::time::Duration::from_secs(3600));
        responses.now.store(Arc::new(Snapshot::of(Vec::new(), Some(ahead), None)));
        stored.is_gone.store(true, Ordering::Relaxed);
        assert_eq!(responses.admit(&owner).await.unwrap_err().status, 503);
        stored.is_gone.store(false, Ordering::Relaxed);
        assert!(responses.admit(&owner).await.is_ok(), "it is read anew");
    }
}
