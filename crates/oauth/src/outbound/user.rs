//! `kind = "user-oauth"`: each person's own account at a server, by the authorization specification of MCP, whose client
//! the gate is.
//!
//! What a person granted lies in the store, sealed; here it is turned into header lines, renewed before it ends, and given
//! up when its authorization server says so. Nobody gets anybody else's: an account that is not linked is an address at
//! which to link it. [`super::linking`] is what happens at that address.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bartizan_model::{Secret, ServerName, Timestamp};
use bartizan_store::links::{Account, Grant, LinkError};
use http::{HeaderMap, HeaderValue, header};
use serde::{Deserialize, Serialize};
use url::Url;

use super::{
    Asking, Credential, Means, Refused, Retry, Unobtainable, UserOauthConfig,
    challenge::Challenge,
    client::Form,
    metadata::{self, AuthorizationServer, Fault, Identity, Resource},
    register, sensitive,
    token::{self, Denied, Tokens},
};

/// How long a look at the store counts: an account that is unlinked is gone everywhere after this.
const LOOK: Duration = Duration::from_secs(3);
/// Accounts whose last look is remembered.
const REMEMBERED: usize = 10_000;
/// How long one process may take to renew a grant; then another may try.
pub(super) const RENEWING: Duration = Duration::from_secs(30);
/// How young a refused token may be without another one being worth a question.
const YOUNG: Duration = Duration::from_secs(10);

/// Each person's own account at one server.
#[derive(Clone)]
pub struct UserOauth(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub name: ServerName,
    pub url: Url,
    pub config: UserOauthConfig,
    pub means: Means,
    /// Where the server's metadata is, as it said when it last refused somebody.
    metadata: Mutex<Option<String>>,
    looks: Mutex<HashMap<Account, Look>>,
    /// Whoever renews in this process; the others wait and find it done.
    renewing: Mutex<HashMap<Account, Arc<tokio::sync::Mutex<()>>>>,
}

#[derive(Clone)]
struct Look {
    at: Timestamp,
    until: Timestamp,
    line: HeaderValue,
}

/// What the content of a grant is.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Held {
    pub access: String,
    pub refresh: Option<String>,
    /// Seconds since 1970.
    pub until: u64,
    /// When the access token came, in seconds since 1970.
    pub since: u64,
    /// The gate's client id when it was granted: tokens are that client's.
    pub client_id: String,
    pub resource: String,
    /// Every scope that was ever asked for.
    pub asked: Vec<String>,
    /// What to ask for when the person links again (spec.md C-63).
    pub wanted: Vec<String>,
}

impl Held {
    pub fn read(content: &Secret) -> Result<Self, Unobtainable> {
        serde_json::from_str(content.reveal())
            .map_err(|_| Unobtainable::Failed("a stored grant cannot be read".into()))
    }

    pub fn write(&self) -> Secret {
        Secret::new(serde_json::to_string(self).unwrap_or_default())
    }

    /// With other tokens. A refresh token that was not replaced stays (RFC 6749 §6).
    fn renewed(mut self, tokens: &Tokens, now: Timestamp) -> Self {
        tokens.access.reveal().clone_into(&mut self.access);
        if let Some(refresh) = &tokens.refresh {
            self.refresh = Some(refresh.reveal().to_owned());
        }
        self.until = tokens.until.as_unix();
        self.since = now.as_unix();
        self
    }

    /// Nothing is left of it but what was asked for.
    fn over(mut self) -> Self {
        self.access = String::new();
        self.refresh = None;
        self.until = 0;
        self
    }

    fn line(&self) -> Result<HeaderValue, Unobtainable> {
        sensitive(&Secret::new(format!("Bearer {}", self.access)))
    }
}

impl fmt::Debug for UserOauth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserOauth({})", self.0.name)
    }
}

impl UserOauth {
    /// A credential as configured, for the server `name` at `url`.
    pub(super) fn new(name: &ServerName, url: &Url, config: &UserOauthConfig, means: &Means) -> Self {
        Self(Arc::new(Inner {
            name: name.clone(),
            url: url.clone(),
            config: config.clone(),
            means: means.clone(),
            metadata: Mutex::default(),
            looks: Mutex::default(),
            renewing: Mutex::default(),
        }))
    }

    /// The server it is for.
    pub fn server(&self) -> &ServerName {
        &self.0.name
    }
}

fn stored(error: LinkError) -> Unobtainable {
    Unobtainable::Failed(error.to_string())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    pub fn account(&self, issuer: &str, subject: &str) -> Account {
        Account { issuer: issuer.to_owned(), subject: subject.to_owned(), server: self.name.clone() }
    }

    fn now(&self) -> Timestamp {
        self.means.clock.now()
    }

    /// Where `account` is linked. It says whose it is for to nobody but the gate (spec.md ).
    fn needs_linking(&self, account: &Account) -> Unobtainable {
        Unobtainable::NeedsLinking(self.means.connect_url(account))
    }

    /// What the server says to somebody without a credential. Where it lets anybody ask, it is known from an earlier refusal
    /// where its metadata is; what that refusal was short of was somebody else's need.
    pub async fn challenge(&self) -> Option<Challenge> {
        let said = self.means.ask.probe(&self.url).await.ok().and_then(|lines| Challenge::of(&lines));
        said.or_else(|| {
            let resource_metadata = lock(&self.metadata).clone();
            resource_metadata
                .map(|place| Challenge { resource_metadata: Some(place), ..Challenge::default() })
        })
    }

    /// Who grants access to the server now.
    pub async fn resource(&self, challenge: Option<&Challenge>) -> Result<Resource, Fault> {
        let wanted = self.config.issuer.as_deref();
        let identity = match self.config.dangerous_parent_resource {
            true => Identity::OrAbove,
            false => Identity::Exact,
        };
        metadata::resource(&self.url, challenge, wanted, identity, self.means.ask.as_ref()).await
    }

    /// What `issuer` says of itself. An issuer that the operator named may be anywhere, any other must be public.
    pub async fn authorization_server(&self, issuer: &str) -> Result<AuthorizationServer, Fault> {
        let named = self.config.issuer.as_deref().filter(|named| *named == issuer);
        let named = named.and_then(|named| Url::parse(named).ok());
        let operators: Vec<_> = named.iter().chain([&self.url]).collect();
        metadata::authorization_server(issuer, &operators, self.means.issuers.as_ref()).await
    }

    /// The line of a linked account, renewed if it must be.
    async fn line(self: &Arc<Self>, account: &Account) -> Result<HeaderValue, Unobtainable> {
        let now = self.now();
        if let Some(look) = lock(&self.looks).get(account)
            && now.since(look.at) < LOOK
            && now < look.until
        {
            return Ok(look.line.clone());
        }
        let found = self.means.links.grant(account).await.map_err(stored)?;
        let grant = found.ok_or_else(|| self.needs_linking(account))?;
        let held = Held::read(&grant.content)?;
        if now.as_unix() < held.until {
            return self.remember(account, &held);
        }
        self.renew(account, grant.revision).await
    }

    fn remember(&self, account: &Account, held: &Held) -> Result<HeaderValue, Unobtainable> {
        let (line, until) = (held.line()?, Timestamp::from_unix(held.until));
        let mut looks = lock(&self.looks);
        if looks.len() >= REMEMBERED {
            looks.clear();
        }
        looks.insert(account.clone(), Look { at: self.now(), until, line: line.clone() });
        Ok(line)
    }

    pub fn forget(&self, account: &Account) {
        lock(&self.looks).remove(account);
    }

    /// Renews the grant if it still is `revision`; else takes what somebody else made of it.
    ///
    /// In a task of its own: a client that hangs up must not lose a refresh token that was used up.
    async fn renew(self: &Arc<Self>, account: &Account, revision: u64) -> Result<HeaderValue, Unobtainable> {
        let (me, account) = (Arc::clone(self), account.clone());
        let renewing = tokio::spawn(async move { me.renew_alone(&account, revision).await });
        renewing.await.unwrap_or_else(|_| Err(Unobtainable::Failed("renewing a grant failed".into())))
    }

    async fn renew_alone(
        self: &Arc<Self>,
        account: &Account,
        revision: u64,
    ) -> Result<HeaderValue, Unobtainable> {
        self.forget(account);
        let turn = {
            let mut renewing = lock(&self.renewing);
            renewing.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(renewing.entry(account.clone()).or_default())
        };
        let _turn = turn.lock().await;
        // One process of several: the others look again until it is done, or its time is up.
        for _ in 0..60 {
            let found = self.means.links.grant(account).await.map_err(stored)?;
            let grant = found.ok_or_else(|| self.needs_linking(account))?;
            let held = Held::read(&grant.content)?;
            if grant.revision != revision && self.now().as_unix() < held.until {
                return self.remember(account, &held);
            }
            if held.refresh.is_none() {
                return Err(self.needs_linking(account));
            }
            let links = &self.means.links;
            if links.claim(account, grant.revision, self.now(), RENEWING).await.map_err(stored)? {
                return self.refresh(account, &grant, held).await;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        Err(Unobtainable::Failed("another process is renewing the grant and does not finish".into()))
    }

    /// Refreshes a grant that was claimed (RFC 6749 §6, RFC 9700 §4.14.2).
    async fn refresh(
        self: &Arc<Self>,
        account: &Account,
        grant: &Grant,
        held: Held,
    ) -> Result<HeaderValue, Unobtainable> {
        let links = &self.means.links;
        let next = match self.ask_for_refresh(grant, &held).await {
            Ok(tokens) => {
                let scopes = tokens.scopes.clone().unwrap_or_else(|| grant.scopes.clone());
                let held = held.renewed(&tokens, self.now());
                (Grant { scopes, content: held.write(), ..grant.clone() }, Ok(held))
            }
            Err(denied) if denied.is_over() || denied.is_stranger() => {
                tracing::info!(server = %self.name, %denied, "an account has to be linked again");
                (Grant { content: held.over().write(), ..grant.clone() }, Err(self.needs_linking(account)))
            }
            Err(denied) => {
                links.release(account, grant.revision).await.map_err(stored)?;
                return Err(Unobtainable::Failed(denied.to_string()));
            }
        };
        let (grant, answer) = next;
        if !links.renew(account, &grant).await.map_err(stored)? {
            // Linked anew, or unlinked, meanwhile: what its person did last counts.
            return Err(Unobtainable::Failed("the account was linked anew meanwhile; ask again".into()));
        }
        answer.and_then(|held| self.remember(account, &held))
    }

    async fn ask_for_refresh(&self, grant: &Grant, held: &Held) -> Result<Tokens, Denied> {
        let failed = |what: &dyn fmt::Display| Denied::Failed(what.to_string());
        // The authorization server that granted it, whatever the server names now (spec.md C-58).
        let server = self.authorization_server(&grant.upstream).await.map_err(|fault| failed(&fault))?;
        let client = register::known(self, &server, &held.client_id).await.map_err(|why| failed(&why))?;
        let client = client.ok_or_else(|| Denied::Refused("invalid_client".into()))?;
        let form = Form::new("refresh_token")
            .with("refresh_token", held.refresh.as_deref().unwrap_or_default())
            .with("resource", &held.resource);
        let Means { issuers, clock, entropy, .. } = &self.means;
        token::request(&server, &client, form, issuers.as_ref(), clock.as_ref(), entropy.as_ref()).await
    }

    /// What follows from a 401 for a token that its time has not ended.
    async fn unauthorized(
        self: &Arc<Self>,
        account: &Account,
        shown: Option<&HeaderValue>,
        challenge: Option<&Challenge>,
    ) -> Result<Retry, Unobtainable> {
        self.forget(account);
        let found = self.means.links.grant(account).await.map_err(stored)?;
        let grant = found.ok_or_else(|| self.needs_linking(account))?;
        let held = Held::read(&grant.content)?;
        if shown != Some(&held.line()?) && self.now().as_unix() < held.until {
            return Ok(Retry::Once);
        }
        let resource = self.resource(challenge).await;
        let resource = resource.map_err(|fault| Unobtainable::Failed(fault.to_string()))?;
        let is_young = self.now().since(Timestamp::from_unix(held.since)) < YOUNG;
        // Another authorization server now: what the old one granted is worth nothing, and is shown to nobody else.
        if resource.issuer != grant.upstream || held.refresh.is_none() {
            let over = Grant { content: held.over().write(), ..grant };
            self.means.links.renew(account, &over).await.map_err(stored)?;
            return Err(self.needs_linking(account));
        }
        if is_young {
            return Ok(Retry::No);
        }
        self.renew(account, grant.revision).await.map(|_| Retry::Once)
    }

    /// What follows from a 403 that asks for more (RFC 6750 §3.1; spec.md C-63).
    async fn insufficient(&self, account: &Account, challenge: &Challenge) -> Result<Retry, Unobtainable> {
        let found = self.means.links.grant(account).await.map_err(stored)?;
        let grant = found.ok_or_else(|| self.needs_linking(account))?;
        let mut held = Held::read(&grant.content)?;
        // It was asked for, and is not enough, or was not granted: asking again would go round in circles.
        if challenge.scopes.iter().all(|scope| held.asked.contains(scope)) {
            return Ok(Retry::No);
        }
        self.check_allowed(&challenge.scopes)?;
        for scope in &challenge.scopes {
            if !held.wanted.contains(scope) {
                held.wanted.push(scope.clone());
            }
        }
        let wanting = Grant { content: held.write(), ..grant };
        self.means.links.renew(account, &wanting).await.map_err(stored)?;
        self.forget(account);
        Err(self.needs_linking(account))
    }

    /// Whether the operator lets people be asked for these.
    pub fn check_allowed(&self, scopes: &[String]) -> Result<(), Unobtainable> {
        let beyond: Vec<_> = scopes.iter().filter(|s| !self.config.scopes.contains(s)).cloned().collect();
        if beyond.is_empty() {
            return Ok(());
        }
        let beyond = beyond.join("`, `");
        Err(Unobtainable::Failed(format!(
            "the server wants `{beyond}`, which its `credential.scopes` do not hold"
        )))
    }

    /// What was asked for and is wanted, of an account that was linked before.
    pub async fn past(&self, account: &Account) -> Result<Vec<String>, LinkError> {
        let grant = self.means.links.grant(account).await?;
        let held = grant.and_then(|grant| Held::read(&grant.content).ok());
        Ok(held.map(|held| [held.asked, held.wanted].concat()).unwrap_or_default())
    }
}

#[async_trait]
impl Credential for UserOauth {
    async fn headers(&self, asking: Option<&Asking>) -> Result<HeaderMap, Unobtainable> {
        let caller = asking.ok_or(Unobtainable::Nobody)?.caller();
        let account = self.0.account(caller.issuer(), caller.subject());
        Ok(HeaderMap::from_iter([(header::AUTHORIZATION, self.0.line(&account).await?)]))
    }

    async fn challenged(&self, asking: Option<&Asking>, refused: Refused<'_>) -> Result<Retry, Unobtainable> {
        let caller = asking.ok_or(Unobtainable::Nobody)?.caller();
        let account = self.0.account(caller.issuer(), caller.subject());
        let challenge = Challenge::of(refused.answer);
        if let Some(place) = challenge.as_ref().and_then(|c| c.resource_metadata.clone()) {
            *lock(&self.0.metadata) = Some(place);
        }
        match (refused.status, &challenge) {
            (401, challenge) => {
                let shown = refused.shown.get(header::AUTHORIZATION);
                self.0.unauthorized(&account, shown, challenge.as_ref()).await
            }
            (403, Some(challenge)) if !challenge.scopes.is_empty() => {
                self.0.insufficient(&account, challenge).await
            }
            _ => Ok(Retry::No),
        }
    }

    fn is_personal(&self) -> bool {
        true
    }
}
