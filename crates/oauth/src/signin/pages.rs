//! What every page shows. The templates are in `templates/`; they escape all they are given.

use askama::Template;
use bartizan_model::Timestamp;
use bartizan_store::consents::Given;
use time::OffsetDateTime;
use url::Url;

use super::{
    Described,
    config::Lacking,
    consent::is_loopback,
    decisions::{Entered, Held, Matter, Standing},
    seen,
    withheld::Withheld,
};
use crate::{
    facade::{AuthorizationRequest, Person},
    outbound::Linkable,
};

/// Where the stylesheet is.
pub(super) const STYLE_PATH: &str = "/oauth/style.css";
/// The stylesheet.
pub(super) const STYLE: &str = include_str!("../../templates/style.css");

/// Who asks for what, and the decision.
#[derive(Template)]
#[template(path = "consent.html")]
pub(super) struct Consent {
    name: String,
    verified_host: Option<String>,
    is_preregistered: bool,
    redirect_host: String,
    redirect_uri: String,
    is_loopback: bool,
    /// It answers elsewhere than where it was published.
    is_elsewhere: bool,
    servers: Vec<String>,
    resource: String,
    scopes: Vec<Scope>,
    person: Option<String>,
    next: Option<String>,
    form: String,
}

/// A scope and what it allows.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Scope {
    code: String,
    words: Option<String>,
}

impl Consent {
    pub fn new(
        request: &AuthorizationRequest,
        described: Option<&Described>,
        person: Option<&Person>,
        next: Option<String>,
        form: String,
    ) -> Self {
        let uri = Url::parse(&request.redirect_uri).ok();
        let host = uri.as_ref().and_then(|uri| uri.host_str()).unwrap_or_default();
        let is_loopback = request.client.only_loopback || uri.as_ref().is_some_and(is_loopback);
        let publisher = request.client.verified_host.as_deref();
        Self {
            name: seen::name(&request.client),
            is_elsewhere: !is_loopback && publisher.is_some_and(|publisher| publisher != host),
            verified_host: publisher.map(seen::address),
            is_preregistered: request.client.is_preregistered,
            redirect_host: seen::address(host),
            redirect_uri: seen::address(&request.redirect_uri),
            is_loopback,
            servers: described.map(|described| described.servers.clone()).unwrap_or_default(),
            resource: seen::address(&request.resource),
            scopes: request.scopes.iter().map(|code| Scope::new(code, described)).collect(),
            person: person.map(called),
            next,
            form,
        }
    }
}

impl Scope {
    fn new(code: &str, described: Option<&Described>) -> Self {
        let words = described.and_then(|described| described.scopes.get(code)).cloned();
        Self { code: seen::address(code), words }
    }
}

/// What the person is called on their own pages.
fn called(person: &Person) -> String {
    match &person.name {
        Some(name) => seen::line(name, 80),
        None if person.issuer == "local" => "the owner of this machine".to_owned(),
        None => seen::line(&person.subject, 80),
    }
}

/// On to another address.
#[derive(Template)]
#[template(path = "onward.html")]
pub(super) struct Onward<'a> {
    address: &'a str,
    host: String,
    name: &'a str,
}

impl<'a> Onward<'a> {
    pub fn new(address: &'a str, name: &'a str) -> Self {
        let host = Url::parse(address).ok().and_then(|url| url.host_str().map(seen::address));
        Self { address, host: host.unwrap_or_default(), name }
    }
}

/// A few words.
#[derive(Template)]
#[template(path = "message.html")]
pub(super) struct Message<'a> {
    pub title: &'a str,
    pub words: &'a str,
    /// An address to go on to, and what it is called.
    pub onward: Option<(&'a str, &'a str)>,
}

/// The owner must sign in first.
#[derive(Template)]
#[template(path = "wait.html")]
pub(super) struct Wait<'a> {
    pub name: &'a str,
    pub again: &'a str,
}

/// The button behind a link.
#[derive(Template)]
#[template(path = "link.html")]
pub(super) struct Link<'a> {
    pub link: &'a str,
}

/// The owner is signed in.
#[derive(Template)]
#[template(path = "signed_in.html")]
pub(super) struct SignedIn<'a> {
    /// The client that waits, and where it goes on.
    pub waiting: Option<(&'a str, &'a str)>,
    /// The page of ours that the browser came from.
    pub onward: Option<&'a str>,
}

/// Something waits, and nobody is signed in who may decide now.
#[derive(Template)]
#[template(path = "arrive_to_decide.html")]
pub(super) struct ArriveToDecide<'a> {
    /// Where one signs in.
    pub host: Option<String>,
    /// The page of what waits.
    pub path: &'a str,
    pub csrf: &'a str,
    /// What waits: "A call".
    pub what: &'a str,
    /// What the sign-in that there is lacks.
    pub lacking: Option<Lacking>,
}

/// A held call, and the decision.
#[derive(Template)]
#[template(path = "decision.html")]
pub(super) struct Decision<'a> {
    title: &'static str,
    standing: String,
    is_open: bool,
    is_yours: bool,
    asker: &'a str,
    issuer: &'a str,
    client: &'a str,
    server: &'a str,
    tool: &'a str,
    arguments: &'a str,
    more_bytes: usize,
    labels: &'a [String],
    policies: &'a [String],
    found: &'a [String],
    because: &'a str,
    path: String,
    form: &'a str,
    whose: String,
    person: String,
}

impl<'a> Decision<'a> {
    pub fn new(held: &'a Held, person: &Person, now: Timestamp, form: &'a str) -> Self {
        let is_open = held.standing == Standing::Waiting;
        let standing = match held.standing {
            Standing::Approved => "Approved, and not made yet".to_owned(),
            Standing::Changed => "Void: the tool or the policy has changed since it was asked".to_owned(),
            Standing::Denied => "Denied".to_owned(),
            Standing::Expired => "Expired".to_owned(),
            Standing::Used => "Approved, and made".to_owned(),
            Standing::Waiting => format!("Waits {} more", left(held, now)),
        };
        let is_yours = is_open && held.is_yours;
        let whose = match (held.role.as_str(), is_yours) {
            ("", true) => "Your own application asks. Deny it unless you mean this very call.".to_owned(),
            ("", false) => String::new(),
            (role, true) => format!("It is for the role {role} to decide. If you are not sure, deny it."),
            (role, false) => {
                format!(
                    "It is for somebody else of the role {role} to decide: send them the address of this page."
                )
            }
        };
        Self {
            title: if is_yours { "Approve this call?" } else { "A call that is held" },
            standing,
            is_open,
            is_yours,
            asker: &held.asker,
            issuer: &held.issuer,
            client: &held.client,
            server: &held.server,
            tool: &held.tool,
            arguments: &held.arguments,
            more_bytes: held.more_bytes,
            labels: &held.labels,
            policies: &held.policies,
            found: &held.found,
            because: &held.because,
            path: Matter::Call(&held.id).path(),
            form,
            whose,
            person: called(person),
        }
    }
}

/// Every call that waits for somebody.
#[derive(Template)]
#[template(path = "waiting.html")]
pub(super) struct Waiting<'a> {
    calls: Vec<Waits<'a>>,
}

struct Waits<'a> {
    tool: &'a str,
    server: &'a str,
    asker: &'a str,
    left: String,
    path: String,
}

impl<'a> Waiting<'a> {
    pub fn new(held: &'a [Held], now: Timestamp) -> Self {
        let calls = held.iter().map(|held| Waits {
            tool: &held.tool,
            server: &held.server,
            asker: &held.asker,
            left: left(held, now),
            path: Matter::Call(&held.id).path(),
        });
        Self { calls: calls.collect() }
    }
}

/// Every result that was withheld and is somebody's to decide about.
#[derive(Template)]
#[template(path = "withheld.html")]
pub(super) struct AllWithheld<'a> {
    results: Vec<WithheldEntry<'a>>,
}

struct WithheldEntry<'a> {
    name: &'a str,
    server: &'a str,
    asker: &'a str,
    found: &'a [String],
    path: String,
}

impl<'a> AllWithheld<'a> {
    pub fn new(withheld: &'a [Withheld]) -> Self {
        let results = withheld.iter().filter(|one| !one.is_released).map(|one| WithheldEntry {
            name: if one.name.is_empty() { &one.method } else { &one.name },
            server: &one.server,
            asker: &one.asker,
            found: &one.found,
            path: Matter::Result(&one.id).path(),
        });
        Self { results: results.collect() }
    }
}

/// A result that was withheld, and the decision.
#[derive(Template)]
#[template(path = "release.html")]
pub(super) struct Release<'a> {
    title: &'static str,
    is_released: bool,
    asker: &'a str,
    issuer: &'a str,
    client: &'a str,
    server: &'a str,
    method: &'a str,
    name: &'a str,
    date: String,
    found: &'a [String],
    excerpt: &'a str,
    more_bytes: usize,
    path: String,
    form: &'a str,
    person: String,
}

impl<'a> Release<'a> {
    pub fn new(withheld: &'a Withheld, person: &Person, form: &'a str) -> Self {
        Self {
            title: if withheld.is_released { "A result that was released" } else { "Release this result?" },
            is_released: withheld.is_released,
            asker: &withheld.asker,
            issuer: &withheld.issuer,
            client: &withheld.client,
            server: &withheld.server,
            method: &withheld.method,
            name: if withheld.name.is_empty() { &withheld.method } else { &withheld.name },
            date: date(withheld.kept_at),
            found: &withheld.found,
            excerpt: &withheld.excerpt,
            more_bytes: withheld.more_bytes,
            path: Matter::Result(&withheld.id).path(),
            form,
            person: called(person),
        }
    }
}

/// How long a call waits yet, in words.
fn left(held: &Held, now: Timestamp) -> String {
    let seconds = held.expires_at.since(now).as_secs();
    if seconds >= 120 { format!("{} minutes", seconds / 60) } else { format!("{seconds} seconds") }
}

/// One's own page, for somebody who is not signed in.
#[derive(Template)]
#[template(path = "arrive.html")]
pub(super) struct Arrive<'a> {
    /// Where one signs in.
    pub host: Option<String>,
    pub csrf: &'a str,
}

/// One's own page.
#[derive(Template)]
#[template(path = "account.html")]
pub(super) struct Account<'a> {
    called: String,
    issuer: String,
    subject: String,
    is_local: bool,
    /// Calls that wait for this person's decision.
    waiting: usize,
    /// Withheld results that do.
    withheld: usize,
    applications: Vec<Allowed>,
    accounts: Vec<AccountAt>,
    entered: &'a [Entered],
    csrf: &'a str,
}

/// What waits for a person, and what has entered their windows.
#[derive(Default)]
pub(super) struct Standings {
    /// Calls that wait for them.
    pub calls: usize,
    /// Withheld results that do.
    pub results: usize,
    /// What has entered their windows.
    pub entered: Vec<Entered>,
}

/// An application, and all it was allowed.
struct Allowed {
    name: String,
    client: String,
    shown_client: String,
    grants: Vec<Grant>,
}

struct Grant {
    servers: Vec<String>,
    resource: String,
    scopes: Vec<Scope>,
    redirect_uri: String,
    date: String,
}

/// An account at a server.
struct AccountAt {
    server: String,
    /// `None` if there is no such server any more.
    host: Option<String>,
    linked: Option<Since>,
}

struct Since {
    date: String,
    scopes: Vec<String>,
}

impl AccountAt {
    fn new(account: &Linkable) -> Self {
        Self {
            server: account.server.to_string(),
            host: account.host.as_deref().map(seen::address),
            linked: account.linked.as_ref().map(|linked| Since {
                date: date(linked.granted_at),
                scopes: linked.scopes.iter().map(|scope| seen::address(scope)).collect(),
            }),
        }
    }
}

/// The day, in UTC: `2026-07-28`.
fn date(at: Timestamp) -> String {
    let seconds = i64::try_from(at.as_unix()).unwrap_or_default();
    OffsetDateTime::from_unix_timestamp(seconds).map(|time| time.date().to_string()).unwrap_or_default()
}

impl<'a> Account<'a> {
    pub fn new(
        person: &Person,
        given: &[Given],
        accounts: &[Linkable],
        resources: &[Described],
        standings: &'a Standings,
        csrf: &'a str,
    ) -> Self {
        let mut applications: Vec<Allowed> = Vec::new();
        for Given { consent, client_name, at } in given {
            let described = resources.iter().find(|resource| resource.url == consent.resource);
            let grant = Grant {
                servers: described.map(|described| described.servers.clone()).unwrap_or_default(),
                resource: seen::address(&consent.resource),
                scopes: consent.scopes.iter().map(|code| Scope::new(code, described)).collect(),
                redirect_uri: seen::address(&consent.redirect_uri),
                date: date(*at),
            };
            match applications.iter_mut().find(|application| application.client == consent.client) {
                Some(application) => application.grants.push(grant),
                None => applications.push(Allowed {
                    name: seen::line(client_name, 60),
                    client: consent.client.clone(),
                    shown_client: seen::address(&consent.client),
                    grants: vec![grant],
                }),
            }
        }
        Self {
            called: called(person),
            issuer: seen::address(&person.issuer),
            subject: seen::address(&person.subject),
            is_local: person.issuer == "local",
            waiting: standings.calls,
            withheld: standings.results,
            applications,
            accounts: accounts.iter().map(AccountAt::new).collect(),
            entered: &standings.entered,
            csrf,
        }
    }
}
