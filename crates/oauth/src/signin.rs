//! The half of the facade that speaks to the person's browser: consent, sign-in, and one's own page (spec.md F.4).
//!
//! Start from [`SignIn`]. A client's authorization request comes to `/oauth/authorize`; the half that speaks OAuth
//! checks it ([`Desk::begin`]), and then, read downwards in `consent.rs`:
//!
//! 1. **`authorize`** shows who asks, for what, and where the answer goes. Nothing is kept, and the identity provider
//!    hears of nothing, before the person allows it.
//! 2. **`decide`** takes the form, once, from the browser that was shown the page. Only now is there a `state`, and a
//!    cookie that says which browser may come back with it.
//! 3. **`provider.rs`** is a whole OpenID Connect client of its own: PKCE, nonce, issuer, signed ID token.
//! 4. **`callback`** takes the state, once, from that browser, learns who the person is, remembers what they allowed,
//!    and hands them to [`Desk::complete`].
//!
//! In local mode there is no provider: a link, printed where only the owner of the machine reads it, signs a browser
//! in (`local.rs`).
//!
//! The pages need no scripts, and a policy forbids any. What it leaves to others: OAuth itself, sockets (`egress`,
//! behind [`Fetch`]), and limits on connections and what is read from them (the listener).

mod account;
mod browser;
mod config;
mod consent;
mod crowd;
mod decisions;
mod desk;
mod fields;
mod local;
mod pages;
pub(crate) mod provider;
mod refusal;
mod reply;
mod seen;
#[cfg(test)]
mod tests;
mod withheld;

use std::{path::Path, sync::Arc, time::Duration};

use bartizan_model::{Clock, Entropy, Secret, SecretRef};
use bartizan_store::{Browsers, Consents, DatabaseError, Pending, Sealer};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{Method, Response};
use url::Url;

use crate::{
    Fetch, GroupSource, Ledger,
    config::problems::check_url,
    facade::{Asked, Person},
    outbound::{Assertions, Linking},
};

pub use config::{
    AssertionKey, BrowserConfig, CredentialConfig, EntraProviderConfig, OidcProviderConfig, ProviderConfig,
    RecheckBy, RecheckConfig,
};
pub use decisions::{Decisions, Entered, Held, Standing, Undecided};
pub use desk::{Desk, Unanswerable};
pub use local::mint_link;
pub use provider::Recheck;
pub use reply::Noted;
pub use withheld::Withheld;

use browser::Jar;
use crowd::Crowd;
use decisions::Matter;
use provider::Provider;
use refusal::Refusal;
use reply::Reply;

/// How long a page can be looked at, a sign-in can take, and a link works (spec.md F-31).
const PATIENCE: Duration = Duration::from_secs(600);

/// What the person is told about a resource that a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// The resource: the URL of one of our endpoints, as `AuthorizationRequest::resource` has it.
    pub url: String,
    /// The servers behind it, by name; for the merged endpoint all of them.
    pub servers: Vec<String>,
    /// What each scope allows, in words that stand after "It may": `read your files`.
    pub scopes: std::collections::BTreeMap<String, String>,
    /// Whether consent is asked for each time, whatever was given before.
    pub asks_each_time: bool,
}

/// What is configured.
#[derive(Clone, Debug)]
pub struct SignInSettings {
    /// What browsers know us by: an origin, https or http on loopback.
    pub public_url: Url,
    /// Who signs people in; `None` for local mode.
    pub provider: Option<ProviderConfig>,
    /// How long browsers stay signed in.
    pub browsers: BrowserConfig,
    /// Every resource there is.
    pub resources: Vec<Described>,
}

/// Reads a secret each time it is needed, so that a new one is picked up; the error says why it cannot be read.
pub type ReadSecret = Arc<dyn Fn(&SecretRef) -> Result<Secret, String> + Send + Sync>;

/// What the outside world lends.
pub struct SignInSurroundings<'a> {
    /// The half that speaks OAuth.
    pub desk: Arc<dyn Desk>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// Seals forms; one for all replicas.
    pub sealer: Arc<Sealer>,
    /// Where consent is kept.
    pub consents: Arc<dyn Consents>,
    /// Where browsers are kept.
    pub browsers: Arc<dyn Browsers>,
    /// Where what is pending is kept.
    pub pending: Arc<dyn Pending>,
    /// A way to the identity provider that is trusted by these authorities (a PEM file), or by the platform's.
    pub fetch: &'a dyn Fn(Option<&Path>) -> Arc<dyn Fetch>,
    /// Reads secrets.
    pub secret: ReadSecret,
    /// Who knows groups that ID tokens leave out; without one, such people are refused.
    pub groups: Option<Arc<dyn GroupSource>>,
    /// Who keeps the record. Nobody is signed in, and no consent counts, that is not in it.
    pub ledger: Arc<dyn Ledger>,
    /// Who knows which calls wait for a decision; without, there are no pages for them.
    pub decisions: Option<Arc<dyn Decisions>>,
    /// Where it is kept what a sign-in at an Entra tenant leaves, if a server is used in people's names there.
    pub assertions: Option<Assertions>,
}

/// The pages for people. One is shared by all connections.
pub struct SignIn {
    public_url: Url,
    way: Way,
    jar: Jar,
    resources: Vec<Described>,
    desk: Arc<dyn Desk>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    sealer: Arc<Sealer>,
    consents: Arc<dyn Consents>,
    browsers: Arc<dyn Browsers>,
    pending: Arc<dyn Pending>,
    session: BrowserConfig,
    /// Decisions, by address.
    crowd: Crowd,
    /// Authorization requests, by address.
    visits: Crowd,
    ledger: Arc<dyn Ledger>,
    linking: Option<Arc<Linking>>,
    decisions: Option<Arc<dyn Decisions>>,
}

/// Who vouches for the owner of a laptop.
pub const LOCAL: &str = "local";

/// How people sign in.
enum Way {
    /// By a link that only the owner of this machine can print.
    Local,
    /// At an identity provider.
    Provider(Box<Provider>),
}

impl Way {
    /// Who vouches for people who sign in.
    fn issuer(&self) -> &str {
        match self {
            Self::Local => LOCAL,
            Self::Provider(provider) => provider.issuer(),
        }
    }
}

impl SignIn {
    /// The pages of one gate.
    ///
    /// # Errors
    /// Everything that is wrong with the settings, and secrets that cannot be read, at once.
    pub fn new(settings: SignInSettings, surroundings: SignInSurroundings<'_>) -> Result<Self, Vec<String>> {
        let mut problems = Vec::new();
        check_url(&settings.public_url, "[server] public_url", &mut problems);
        if settings.public_url.path() != "/" {
            problems.push("[server] public_url has a path; sign-in needs an origin of its own".to_owned());
        }
        problems.extend(settings.browsers.problems(settings.provider.is_some()));
        let way = match settings.provider {
            None => Some(Way::Local),
            Some(config) => {
                problems.extend(config.problems());
                Provider::new(&config, &settings.public_url, &surroundings, &mut problems)
                    .map(|provider| Way::Provider(Box::new(provider)))
            }
        };
        match way {
            Some(way) if problems.is_empty() => Ok(Self {
                jar: Jar::new(&settings.public_url),
                public_url: settings.public_url,
                way,
                resources: settings.resources,
                desk: surroundings.desk,
                clock: surroundings.clock,
                entropy: surroundings.entropy,
                sealer: surroundings.sealer,
                consents: surroundings.consents,
                browsers: surroundings.browsers,
                pending: surroundings.pending,
                session: settings.browsers,
                crowd: Crowd::new(crowd::DECISIONS),
                visits: Crowd::new(crowd::VISITS),
                ledger: surroundings.ledger,
                linking: None,
                decisions: surroundings.decisions,
            }),
            _ => Err(problems),
        }
    }

    /// Shows people the accounts they linked at servers, too, on their own page.
    pub fn with_accounts(mut self, linking: Arc<Linking>) -> Self {
        self.linking = Some(linking);
        self
    }

    /// Answers what is asked of one of the pages; `None` for a path that is not one. Every answer has a [`Noted`]
    /// among its extensions.
    pub async fn answer(&self, asked: &Asked<'_>) -> Option<Response<Bytes>> {
        const GET: &str = "GET";
        const POST: &str = "POST";
        // A callback does something, so looking at its head is not looking at it.
        let is_look = asked.method == Method::HEAD && asked.path != "/oauth/callback";
        let method = if is_look { GET } else { asked.method.as_str() };
        let is_local = matches!(self.way, Way::Local);
        let replied = match (asked.path, method) {
            ("/oauth/authorize", GET) => self.authorize(asked).await,
            ("/oauth/consent", POST) => self.decide(asked).await,
            ("/oauth/callback", GET) if !is_local => self.callback(asked).await,
            ("/oauth/sign-in", GET) if is_local => self.show_link(asked).await,
            ("/oauth/sign-in", POST) if is_local => self.use_link(asked).await,
            ("/account", GET) => self.account(asked).await,
            ("/account", POST) => self.act(asked).await,
            (pages::STYLE_PATH, GET) => Ok(Reply::style()),
            ("/oauth/authorize" | pages::STYLE_PATH, _) => Err(Refusal::Method(GET)),
            ("/oauth/consent", _) => Err(Refusal::Method(POST)),
            ("/oauth/callback", _) if !is_local => Err(Refusal::Method(GET)),
            ("/oauth/sign-in", _) if is_local => Err(Refusal::Method("GET, POST")),
            ("/account", _) => Err(Refusal::Method("GET, POST")),
            ("/approvals", GET) => self.list_held(asked).await,
            ("/approvals", _) => Err(Refusal::Method(GET)),
            (path, method) => match (Matter::of(path), method) {
                (Some(Matter::Call(id)), GET) => self.show_held(asked, id).await,
                (Some(Matter::Call(id)), POST) => self.decide_held(asked, id).await,
                (Some(Matter::Result(id)), GET) => self.show_withheld(asked, id).await,
                (Some(Matter::Result(id)), POST) => self.decide_withheld(asked, id).await,
                (Some(Matter::Results), GET) => self.list_withheld(asked).await,
                (Some(Matter::Results), POST) => self.arrive_at_withheld(asked).await,
                (Some(_), _) => Err(Refusal::Method("GET, POST")),
                (None, _) => return None,
            },
        };
        let report = match &replied {
            Ok(reply) => reply.report(),
            Err(refusal) => refusal.report(),
        };
        if let Some(report) = report {
            self.ledger.mention(report.at(asked.peer));
        }
        Some(replied.unwrap_or_else(Reply::from).finish())
    }

    /// Who is signed in in the browser that asks, if anybody is.
    pub async fn person(&self, asked: &Asked<'_>) -> Option<Person> {
        let visitor = self.visitor(asked).await.ok()?;
        visitor.session.map(|session| session.person)
    }

    /// A link that signs the owner of this machine in, once, within ten minutes (local mode).
    ///
    /// # Errors
    /// [`DatabaseError`]; there is no link then.
    pub async fn mint_link(&self) -> Result<Secret, DatabaseError> {
        mint_link(&self.public_url, &*self.pending, &*self.entropy, self.clock.now()).await
    }

    /// Forgets what has expired. To be called every few minutes.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn sweep(&self) -> Result<(), DatabaseError> {
        let now = self.clock.now();
        self.pending.forget(now).await?;
        self.browsers.forget(now).await?;
        Ok(())
    }

    /// 256 unguessable bits.
    fn random(&self) -> String {
        random(&*self.entropy)
    }
}

fn random(entropy: &dyn Entropy) -> String {
    let mut bytes = [0; 32];
    entropy.fill(&mut bytes);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The owner of this machine, who signed in now.
fn owner(at: bartizan_model::Timestamp) -> Person {
    Person {
        issuer: LOCAL.to_owned(),
        subject: "owner".to_owned(),
        name: None,
        methods: Vec::new(),
        contexts: Vec::new(),
        at,
        roles: Default::default(),
        groups: Default::default(),
        sign_in: None,
    }
}
