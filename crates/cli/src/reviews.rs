//! Reviews of rights nobody uses: what was used, out of the audit log; the review that a running gate makes by itself
//! (`[policy.review]`).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwapOption;
use bartizan_audit::{
    Details, Entry, Event, Kind, Person, Persons, Text,
    event::{Finding as Noted, Pseudonym, Severity},
    search::{Filter, Term, walk},
};
use bartizan_gateway::{Gate, permit::attributes::Attributes};
use bartizan_model::{Clock, SystemClock, Timestamp};
use bartizan_policy::{
    Bundle, Era, ReviewConfig,
    record::{RecordedAction, RecordedPrompt, RecordedQuery},
    review::{Options, Review, Reviewer, Use},
};
use bartizan_store::{Reviews, StoredReviews};

/// How often it is looked whether a review is due, at most; sooner if they are to be more frequent.
const LOOK: Duration = Duration::from_secs(600);
/// Distinct queries that are kept for the replay.
const MOST_QUERIES: usize = 100_000;
/// Findings that one entry of the log names.
const NAMED: usize = 64;
/// Caller's actions that the audit log does not tell: nothing may be concluded from their absence.
const UNRECORDED: [&str; 1] = ["notify"];

/// What a review of the audit log looks at.
pub fn options(since: u64) -> Options {
    Options {
        since,
        most_queries: MOST_QUERIES,
        people: BTreeSet::new(),
        credentials: BTreeMap::new(),
        unrecorded: UNRECORDED.map(str::to_owned).into(),
    }
}

/// Calls `each` with every use that the logs in `folder` recorded since `since`. Groups and roles of a person are sealed in the log:
/// whoever was erased, and so has no key, has a role by neither.
///
/// # Errors
/// What the system says.
pub fn uses(folder: &Path, since: Timestamp, bundle: &Bundle, mut each: impl FnMut(&Use)) -> io::Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    // Whoever was erased goes by his pseudonym.
    let people = Persons::in_folder(&folder.join("people")).unwrap_or_default();
    let filter = Filter {
        terms: vec![Term::new("kind", Kind::CallOpened.to_string())],
        since: Some(since),
        until: None,
    };
    walk(folder, &filter, |_, line| {
        if let Some(used) = serde_json::from_str(line).ok().and_then(|entry| used(entry, &people, bundle)) {
            each(&used);
        }
        Ok(true)
    })
}

/// The use that an opened call is.
fn used(entry: Entry, people: &HashMap<Pseudonym, Arc<Person>>, bundle: &Bundle) -> Option<Use> {
    let pseudonym = entry.person?;
    let person = people.get(&pseudonym);
    let sealed = entry.details.attributes.as_ref().zip(person);
    let opened = sealed.and_then(|(sealed, person)| serde_json::from_slice(&person.open(sealed)?).ok());
    let Attributes { mut claims, approved } = opened.unwrap_or_default();
    match person {
        Some(person) => {
            let identity = person.identity();
            (claims.issuer, claims.subject) = (identity.issuer.clone(), identity.subject.clone());
        }
        None => claims.subject = pseudonym.to_string(),
    }
    if !bundle.reads_time() {
        // Each sign-in would be another person to the review.
        claims.auth_time = None;
    }
    let Details { server, method, tool, resource, protocol, policies, .. } = *entry.details;
    let server = server?.to_string();
    let name = tool.map(|tool| tool.to_string()).unwrap_or_default();
    let uri = resource.map(|uri| uri.to_string()).unwrap_or_default();
    let action = match method?.to_string().as_str() {
        "tools/call" => RecordedAction::Call { tool: at_server(&name, &server, bundle), arguments: None },
        "prompts/get" => RecordedAction::Get(RecordedPrompt::Named(name)),
        "resources/read" => RecordedAction::Read(uri),
        "resources/subscribe" | "resources/unsubscribe" => RecordedAction::SubscribeResource(uri),
        "subscriptions/listen" => RecordedAction::SubscribeServer,
        "completion/complete" => RecordedAction::CompletePrompt(name),
        tasks if tasks.starts_with("tasks/") => RecordedAction::Task,
        _ => RecordedAction::List,
    };
    let is_modern = protocol.is_some_and(|protocol| protocol.to_string() == "2026-07-28");
    let query = RecordedQuery {
        claims,
        client: entry.client.map(|client| client.to_string()).unwrap_or_default(),
        server,
        action,
        address: None,
        time: entry.time.timestamp().as_unix(),
        era: if is_modern { Era::Modern } else { Era::Legacy },
        flow: Default::default(),
        approved,
    };
    Some(Use {
        query,
        policies: policies.into_iter().map(|policy| policy.to_string()).collect(),
        credential_scopes: BTreeSet::new(),
    })
}

/// A tool by its server's name for it: on the merged endpoint it carries the server's.
pub fn at_server(tool: &str, server: &str, bundle: &Bundle) -> String {
    match bare(tool, server) {
        Some(bare) if bundle.flow_labels(server, tool).is_none() => bare.to_owned(),
        _ => tool.to_owned(),
    }
}

/// Every tool that a name in the log may be: on its server's own endpoint a tool may be called as another is on the merged one.
/// What is pinned decides, if it can.
pub fn candidates(tool: &str, server: &str, bundle: Option<&Bundle>) -> Vec<String> {
    let Some(bare) = bare(tool, server) else { return vec![tool.to_owned()] };
    let is_pinned = |tool| bundle.is_some_and(|bundle| bundle.flow_labels(server, tool).is_some());
    match (is_pinned(tool), is_pinned(bare)) {
        (true, false) => vec![tool.to_owned()],
        (false, true) => vec![bare.to_owned()],
        _ => vec![bare.to_owned(), tool.to_owned()],
    }
}

/// The name without its server's in front.
fn bare<'t>(tool: &'t str, server: &str) -> Option<&'t str> {
    tool.strip_prefix(server)?.strip_prefix("__").filter(|bare| !bare.is_empty())
}

/// The reviews that a running gate makes.
pub struct Reviewing {
    gate: Arc<Gate>,
    stored: StoredReviews,
    /// The audit folder.
    folder: PathBuf,
    config: ArcSwapOption<ReviewConfig>,
}

impl Reviewing {
    /// Reviews of `gate`, whose logs are in `folder`.
    pub fn new(gate: Arc<Gate>, stored: StoredReviews, folder: PathBuf) -> Self {
        Self { gate, stored, folder, config: ArcSwapOption::empty() }
    }

    /// Reviews as `config` says from now on, or not at all.
    pub fn apply(&self, config: Option<ReviewConfig>) {
        self.config.store(config.map(Arc::new));
    }

    /// Reviews whenever it is due. To be spawned.
    pub async fn keep_up(self: Arc<Self>) {
        loop {
            let config = self.config.load_full();
            if let Some(config) = &config
                && let Err(error) = self.review_if_due(config).await
            {
                tracing::error!("the review of rights was not made: {error:#}");
            }
            let pause = config.map_or(LOOK, |config| config.every.0.min(LOOK));
            tokio::time::sleep(pause).await;
        }
    }

    async fn review_if_due(&self, config: &ReviewConfig) -> anyhow::Result<()> {
        let now = SystemClock.now();
        if !self.stored.begin(config.every.0, now).await? {
            return Ok(());
        }
        let Some(bundle) = self.gate.policy().bundle() else {
            anyhow::bail!("there are no policies that can be asked now");
        };
        let since = Timestamp::from_unix(now.as_unix().saturating_sub(config.since.0.as_secs()));
        let folder = self.folder.clone();
        // It reads everything that was recorded.
        let review = tokio::task::spawn_blocking(move || review(&folder, since, &bundle)).await??;
        let found = review.findings();
        let kept: Vec<_> = found.iter().map(|finding| (finding.id.clone(), finding.words.clone())).collect();
        let new = self.stored.finish(&kept, SystemClock.now()).await?;
        let open = self.stored.findings().await?;
        let open = open.iter().filter(|finding| finding.is_open(now)).count();
        tracing::info!(
            found = found.len(),
            new = new.len(),
            open,
            "rights were reviewed: `bartizan policy review list`"
        );
        let named = found.iter().take(NAMED).map(|finding| Noted {
            rule: Text::new(&finding.id),
            severity: if finding.is_unused { Severity::Medium } else { Severity::Low },
            place: Text::new("policy"),
            action: Text::new(if new.contains(&finding.id) { "note" } else { "remind" }),
        });
        self.gate.recorder().log().mention(Event::new(Kind::PolicyReviewed).with(Details {
            findings: named.collect(),
            count: Some(found.len() as u64),
            message: Some(Text::new(&format!(
                "{} rights give more than was used in the last {}; {open} wait for a decision",
                found.len(),
                config.since
            ))),
            ..Details::default()
        }));
        Ok(())
    }
}

/// What the logs in `folder` say since `since` of the rights that `bundle` gives.
///
/// # Errors
/// If they cannot be read.
pub fn review(folder: &Path, since: Timestamp, bundle: &Bundle) -> anyhow::Result<Review> {
    let mut reviewer = Reviewer::new(bundle, options(since.as_unix()));
    uses(folder, since, bundle, |used| reviewer.observe(used))?;
    reviewer.finish().map_err(anyhow::Error::new)
}
