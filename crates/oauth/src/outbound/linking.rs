//! `/connect/{server}`, `/connect/callback` and what is below it: a person links an account of theirs at a server.
//!
//! The gate has one client id for everybody, so it is a deputy that must not be confused (spec.md G-02, A-98;
//! attacks.md CD-01, CD-08): nothing is remembered and nobody sent away before the person at the browser said so in a form
//! of ours; what comes back counts once, in time, for that person, in that browser, from the authorization server they
//! were sent to.

mod accounts;
mod browser;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use askama::Template;
use aws_lc_rs::digest;
use bartizan_model::ServerName;
use bartizan_store::{
    Digest,
    links::{Account, Grant},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};
use serde::{Deserialize, Serialize};
use url::Url;

pub use self::accounts::{Linkable, Unlinked};
use self::browser::{Query, cookie, is_cross_site};
use super::{
    Means, UserOauth,
    client::{Form, random},
    register,
    token::{self, Tokens},
    user::Held,
};
use crate::{
    Deed, Ledger, Report,
    facade::{Asked, Person},
};

/// How long a person may take at the authorization server.
const ERRAND: Duration = Duration::from_secs(600);

/// What a person is told who could not link an account.
#[derive(Debug, thiserror::Error)]
enum Stuck {
    #[error(
        "This page was made for somebody else. Ask for the tool again, and open the address you get then."
    )]
    OtherPerson,
    #[error("This was not sent by a page of ours. Go back, reload the page and try again.")]
    Forged,
    #[error("This way back is over: it was used before, or took more than ten minutes. Start again.")]
    Over,
    #[error("This server is in quarantine. No account is linked until an operator releases it.")]
    Closed,
    #[error("You were sent away from another browser, or as somebody else. Start again in this one.")]
    OtherBrowser,
    #[error(
        "The answer did not come from where you were sent. Nothing was linked. Tell the operator of this gate."
    )]
    MixedUp,
    #[error("The server's sign-in did not allow it, and nothing was linked.")]
    NotAllowed,
    #[error("The server cannot be linked now. Its operator finds the reason in the gate's log.")]
    Failed(String),
    #[error("The gate cannot write down what it does, and nothing was linked. Try again later.")]
    Unrecorded,
}

impl Stuck {
    fn status(&self) -> StatusCode {
        match self {
            Self::OtherPerson | Self::Forged | Self::OtherBrowser | Self::Closed => StatusCode::FORBIDDEN,
            Self::Over | Self::MixedUp | Self::NotAllowed => StatusCode::BAD_REQUEST,
            Self::Failed(_) => StatusCode::BAD_GATEWAY,
            Self::Unrecorded => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// For the record; it never changes its meaning.
    fn reason(&self) -> &'static str {
        match self {
            Self::OtherPerson => "link.other-person",
            Self::Forged => "link.forged",
            Self::Over => "link.over",
            Self::Closed => "link.closed",
            Self::OtherBrowser => "link.other-browser",
            Self::MixedUp => "link.mixed-up",
            Self::NotAllowed => "link.not-allowed",
            Self::Failed(_) => "link.failed",
            Self::Unrecorded => "audit.unavailable",
        }
    }
}

/// A person who is away, at an authorization server.
#[derive(Serialize, Deserialize)]
struct Errand {
    server: String,
    issuer: String,
    subject: String,
    /// The digest of the browser's cookie.
    browser: String,
    /// The authorization server they were sent to (spec.md C-56).
    upstream: String,
    resource: String,
    client_id: String,
    /// Where they are to come back to, and nowhere else.
    callback: Url,
    verifier: String,
    asked: Vec<String>,
}

/// The pages of linking, for every server whose credential is `user-oauth`.
pub struct Linking {
    servers: BTreeMap<ServerName, UserOauth>,
    means: Means,
    ledger: Arc<dyn Ledger>,
}

impl Linking {
    /// Pages for `credentials`. No account is linked that `ledger` has not on record.
    pub fn new(
        credentials: impl IntoIterator<Item = UserOauth>,
        means: Means,
        ledger: Arc<dyn Ledger>,
    ) -> Self {
        let servers = credentials.into_iter().map(|c| (c.server().clone(), c)).collect();
        Self { servers, means, ledger }
    }

    /// The gate's client metadata document (spec.md C-60), for whoever asks for it; `None` for other requests.
    pub fn document(&self, asked: &Asked<'_>) -> Option<Response<Bytes>> {
        let url = self.means.document.as_ref().filter(|url| url.path() == asked.path)?;
        if asked.method != Method::GET {
            return None;
        }
        let mut document = self.means.self_description(&self.means.common_callback());
        document.insert("client_id".into(), url.as_str().into());
        document.insert("token_endpoint_auth_method".into(), "none".into());
        let mut response = Response::new(Bytes::from(serde_json::Value::Object(document).to_string()));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));
        Some(response)
    }

    /// Answers a browser in which `person` is signed in; `None` for requests that are not about linking. Nobody who comes back
    /// links an account at one of the servers that are `closed` by now.
    pub async fn answer(
        &self,
        asked: &Asked<'_>,
        person: &Person,
        closed: &BTreeSet<ServerName>,
    ) -> Option<Response<Bytes>> {
        let rest = asked.path.strip_prefix(self.means.base.path().trim_end_matches('/'))?;
        let name = rest.strip_prefix("/connect/")?;
        let is_callback = name == "callback" || name.starts_with("callback/");
        let answered = match (name, asked.method) {
            (_, &Method::GET) if is_callback => self.back(asked, person, closed).await,
            _ if is_callback => return None,
            (name, &Method::GET) => self.show(self.servers.get(name)?, asked, person).await,
            (name, &Method::POST) => self.act(self.servers.get(name)?, asked, person).await,
            _ => return None,
        };
        Some(answered.unwrap_or_else(|stuck| {
            if let Stuck::Failed(why) = &stuck {
                tracing::warn!(server = name, %why, "an account could not be linked");
            }
            let server = self.servers.get_key_value(name).map(|(server, _)| server.clone());
            let refused = Report::new(Deed::AccountRefused, stuck.reason()).by(person).at(asked.peer);
            self.ledger.mention(Report { server, ..refused });
            self.page(stuck.status(), "Nothing was linked", &stuck.to_string(), None)
        }))
    }

    /// What is about to happen, and a button.
    async fn show(
        &self,
        credential: &UserOauth,
        asked: &Asked<'_>,
        person: &Person,
    ) -> Result<Response<Bytes>, Stuck> {
        let account = credential.0.account(&person.issuer, &person.subject);
        let query = Query::read(asked.query.unwrap_or_default());
        if query.one("for").is_some_and(|mark| !self.means.is_for(&account, mark)) {
            return Err(Stuck::OtherPerson);
        }
        let linked = self.means.links.grant(&account).await.map_err(|e| Stuck::Failed(e.to_string()))?;
        let (title, words) = match linked {
            None => (
                format!("Link your account at {}", account.server),
                "The gate will then call this server's tools for you with your own account there. Nobody else uses it.",
            ),
            Some(_) => (
                format!("Your account at {}", account.server),
                "The gate calls this server's tools for you with your own account there. Nobody else uses it.",
            ),
        };
        let form = Shown {
            person: person.name.clone().unwrap_or_else(|| person.subject.clone()),
            server: account.server.to_string(),
            host: credential.0.url.host_str().unwrap_or_default().to_owned(),
            scopes: credential.0.config.scopes.clone(),
            action: asked.path.to_owned(),
            csrf: self.csrf(&account, person),
            is_linked: linked.is_some(),
        };
        Ok(self.page(StatusCode::OK, &title, words, Some(form)))
    }

    async fn act(
        &self,
        credential: &UserOauth,
        asked: &Asked<'_>,
        person: &Person,
    ) -> Result<Response<Bytes>, Stuck> {
        let account = credential.0.account(&person.issuer, &person.subject);
        let form = std::str::from_utf8(asked.body).map(Query::read).unwrap_or_default();
        let is_form = asked
            .headers
            .get(header::CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/x-www-form-urlencoded"));
        let is_ours = form.one("csrf").is_some_and(|given| self.is_csrf(&account, person, given));
        if !is_form || !is_ours || is_cross_site(asked.headers) {
            return Err(Stuck::Forged);
        }
        match form.one("do") {
            Some("link") => self.send_away(credential, &account).await,
            Some("unlink") => {
                let gone = self.unlink(person, &account.server, asked.peer).await;
                let gone = gone.map_err(|error| Stuck::Failed(error.to_string()))?;
                Ok(self.page(StatusCode::OK, "Unlinked", gone.words(), None))
            }
            _ => Err(Stuck::Forged),
        }
    }

    /// Sends the person to the server's authorization server (RFC 6749 §4.1.1, RFC 7636 §4.3, RFC 8707 §2.1).
    async fn send_away(&self, credential: &UserOauth, account: &Account) -> Result<Response<Bytes>, Stuck> {
        let at = &credential.0;
        let failed = |why: &dyn std::fmt::Display| Stuck::Failed(why.to_string());
        let challenge = at.challenge().await;
        let resource = at.resource(challenge.as_ref()).await.map_err(|fault| failed(&fault))?;
        let server = at.authorization_server(&resource.issuer).await.map_err(|fault| failed(&fault))?;
        let mut url = server.authorization_endpoint.clone().ok_or_else(|| failed(&"it signs nobody in"))?;
        if !server.has_s256 {
            return Err(failed(
                &"its authorization server does not say that it checks PKCE by S256 (spec.md C-54)",
            ));
        }
        let needed = challenge.map(|c| c.scopes).unwrap_or_default();
        at.check_allowed(&needed).map_err(|why| failed(&why))?;
        let mut asked = if needed.is_empty() { at.config.scopes.clone() } else { needed };
        for past in at.past(account).await.map_err(|error| failed(&error))? {
            if !asked.contains(&past) && at.config.scopes.contains(&past) {
                asked.push(past);
            }
        }
        let client = register::client(at, &server).await.map_err(|why| failed(&why))?;
        let callback = self.means.callback(&server);
        if at.config.client_id.is_some() && !server.says_iss {
            tracing::info!(
                server = %at.name, issuer = server.issuer, redirect_uri = %callback,
                "this authorization server does not name itself in its answers: the gate has to be registered there with a \
                 redirect URI of its own"
            );
        }
        let entropy = self.means.entropy.as_ref();
        let (state, verifier, browser) = (random(entropy), random(entropy), random(entropy));
        let mut scope = asked.clone();
        // For a refresh token where the server has it so; it is no access to anything (spec.md C-64).
        if server.scopes_supported.iter().any(|s| s == "offline_access") && !scope.is_empty() {
            scope.push("offline_access".to_owned());
        }
        let challenge = digest::digest(&digest::SHA256, verifier.as_bytes());
        {
            let mut query = url.query_pairs_mut();
            query.append_pair("response_type", "code").append_pair("client_id", &client.id);
            query.append_pair("redirect_uri", callback.as_str()).append_pair("state", &state);
            query.append_pair("code_challenge", &URL_SAFE_NO_PAD.encode(challenge));
            query.append_pair("code_challenge_method", "S256").append_pair("resource", &resource.identifier);
            if !scope.is_empty() {
                query.append_pair("scope", &scope.join(" "));
            }
            if scope.iter().any(|s| s == "offline_access") {
                // OpenID Connect Core 1.0 §11.
                query.append_pair("prompt", "consent");
            }
        }
        let errand = Errand {
            server: account.server.to_string(),
            issuer: account.issuer.clone(),
            subject: account.subject.clone(),
            browser: Digest::of(browser.as_bytes()).to_string(),
            upstream: server.issuer,
            resource: resource.identifier,
            client_id: client.id,
            callback,
            verifier,
            asked,
        };
        let content = bartizan_model::Secret::new(serde_json::to_string(&errand).unwrap_or_default());
        let until = self.means.clock.now().plus(ERRAND);
        let sent = self.means.links.send(Digest::of(state.as_bytes()), &content, until).await;
        sent.map_err(|error| failed(&error))?;
        let mut response = self.page(StatusCode::SEE_OTHER, "Go on", "", None);
        let location = HeaderValue::try_from(url.as_str()).map_err(|error| failed(&error))?;
        response.headers_mut().insert(header::LOCATION, location);
        self.set_cookie(&mut response, &browser, ERRAND.as_secs());
        Ok(response)
    }

    /// Takes a person back (RFC 6749 §4.1.2, RFC 9207).
    async fn back(
        &self,
        asked: &Asked<'_>,
        person: &Person,
        closed: &BTreeSet<ServerName>,
    ) -> Result<Response<Bytes>, Stuck> {
        let query = Query::read(asked.query.unwrap_or_default());
        let state = query.one("state").ok_or(Stuck::Over)?;
        let taken = self.means.links.take(Digest::of(state.as_bytes()), self.means.clock.now()).await;
        let taken = taken.map_err(|error| Stuck::Failed(error.to_string()))?.ok_or(Stuck::Over)?;
        let errand: Errand = serde_json::from_str(taken.reveal()).map_err(|_| Stuck::Over)?;
        let is_same_browser = cookie(asked.headers, &self.cookie_name())
            .is_some_and(|given| Digest::of(given.as_bytes()).to_string() == errand.browser);
        if !is_same_browser || (&errand.issuer, &errand.subject) != (&person.issuer, &person.subject) {
            return Err(Stuck::OtherBrowser);
        }
        if errand.callback.path() != asked.path {
            return Err(Stuck::MixedUp);
        }
        if closed.contains(errand.server.as_str()) {
            return Err(Stuck::Closed);
        }
        let credential = self.servers.get(errand.server.as_str()).ok_or(Stuck::Over)?;
        let tokens = self.redeem(credential, &errand, &query).await?;
        let account = credential.0.account(&person.issuer, &person.subject);
        let now = self.means.clock.now();
        let held = Held {
            access: tokens.access.reveal().to_owned(),
            refresh: tokens.refresh.as_ref().map(|t| t.reveal().to_owned()),
            until: tokens.until.as_unix(),
            since: now.as_unix(),
            client_id: errand.client_id.clone(),
            resource: errand.resource.clone(),
            asked: errand.asked.clone(),
            wanted: Vec::new(),
        };
        let scopes = tokens.scopes.unwrap_or_else(|| errand.asked.clone());
        let grant = Grant {
            upstream: errand.upstream.clone(),
            scopes,
            content: held.write(),
            granted_at: now,
            revision: 0,
        };
        let report = Report {
            server: Some(account.server.clone()),
            resource: Some(errand.resource.clone()),
            scopes: grant.scopes.clone(),
            ..Report::new(Deed::AccountLinked, "link.made").by(person).at(asked.peer)
        };
        self.ledger.enter(report).await.map_err(|_| Stuck::Unrecorded)?;
        let linked = self.means.links.link(&account, &grant).await;
        linked.map_err(|error| Stuck::Failed(error.to_string()))?;
        credential.0.forget(&account);
        let who = person.name.as_deref().unwrap_or(&person.subject);
        let words = format!(
            "{who}, the gate now calls the server “{}” for you. You may close this page.",
            account.server
        );
        let mut response = self.page(StatusCode::OK, "Your account is linked", &words, None);
        self.set_cookie(&mut response, "", 0);
        Ok(response)
    }

    /// Exchanges what came back for tokens, if it is from the authorization server the person was sent to.
    async fn redeem(&self, credential: &UserOauth, errand: &Errand, query: &Query) -> Result<Tokens, Stuck> {
        let at = &credential.0;
        let failed = |why: &dyn std::fmt::Display| Stuck::Failed(why.to_string());
        let server = at.authorization_server(&errand.upstream).await.map_err(|fault| failed(&fault))?;
        // As it stands, and before anything else is believed, an error included (spec.md C-56). Where everybody comes back to,
        // whatever the metadata says by now.
        let is_alone = errand.callback == self.means.own_callback(&errand.upstream);
        match query.one("iss") {
            Some(iss) if iss == errand.upstream => {}
            None if is_alone && !server.says_iss && !query.has("iss") => {}
            _ => return Err(Stuck::MixedUp),
        }
        if query.has("error") {
            return Err(Stuck::NotAllowed);
        }
        let code = query.one("code").ok_or(Stuck::Over)?;
        let client = register::known(at, &server, &errand.client_id).await.map_err(|why| failed(&why))?;
        let client = client.ok_or(Stuck::Over)?;
        let form = Form::new("authorization_code")
            .with("code", code)
            .with("redirect_uri", errand.callback.as_str())
            .with("code_verifier", &errand.verifier)
            .with("resource", &errand.resource);
        let Means { clock, entropy, .. } = &self.means;
        let fetch = at.means.issuers.as_ref();
        match token::request(&server, &client, form, fetch, clock.as_ref(), entropy.as_ref()).await {
            Ok(tokens) => Ok(tokens),
            Err(denied) => {
                if denied.is_stranger() {
                    register::forget(at, &server).await;
                }
                Err(failed(&denied))
            }
        }
    }

    fn csrf(&self, account: &Account, person: &Person) -> String {
        self.means.sealer.mark(&csrf_parts(account, &person.at.as_unix().to_be_bytes()))
    }

    fn is_csrf(&self, account: &Account, person: &Person, given: &str) -> bool {
        self.means.sealer.is_marked(&csrf_parts(account, &person.at.as_unix().to_be_bytes()), given)
    }

    /// `__Host-` where there is TLS; a name of this port's own where cookies of all ports lie in one jar.
    fn cookie_name(&self) -> String {
        match self.means.base.scheme() {
            "https" => "__Host-bartizan-connect".to_owned(),
            _ => format!("bartizan-connect-{}", self.means.base.port_or_known_default().unwrap_or_default()),
        }
    }

    fn set_cookie(&self, response: &mut Response<Bytes>, value: &str, age_s: u64) {
        let secure = if self.means.base.scheme() == "https" { "; Secure" } else { "" };
        let name = self.cookie_name();
        let line = format!("{name}={value}; Path=/; Max-Age={age_s}; HttpOnly; SameSite=Lax{secure}");
        if let Ok(mut line) = HeaderValue::try_from(line) {
            line.set_sensitive(true);
            response.headers_mut().insert(header::SET_COOKIE, line);
        }
    }

    fn page(&self, status: StatusCode, title: &str, words: &str, form: Option<Shown>) -> Response<Bytes> {
        // No `form-action`: browsers hold redirects after a form to it, and where they lead is not known yet.
        let policy = "default-src 'none'; style-src 'self'; base-uri 'none'; frame-ancestors 'none'";
        let html = Page { title, words, form }.render().unwrap_or_default();
        let mut response = Response::new(Bytes::from(html));
        *response.status_mut() = status;
        let lines = [
            (header::CONTENT_TYPE, "text/html; charset=utf-8"),
            (header::CONTENT_SECURITY_POLICY, policy),
            (header::X_FRAME_OPTIONS, "DENY"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::REFERRER_POLICY, "no-referrer"),
            (header::CACHE_CONTROL, "no-store"),
        ];
        for (name, value) in lines {
            if let Ok(value) = HeaderValue::from_str(value) {
                response.headers_mut().insert(name, value);
            }
        }
        response
    }
}

#[derive(Template)]
#[template(path = "connect.html")]
struct Page<'a> {
    title: &'a str,
    words: &'a str,
    form: Option<Shown>,
}

/// What is about to happen.
struct Shown {
    person: String,
    server: String,
    host: String,
    scopes: Vec<String>,
    action: String,
    csrf: String,
    is_linked: bool,
}

fn csrf_parts<'a>(account: &'a Account, at: &'a [u8]) -> [&'a [u8]; 5] {
    let (issuer, subject) = (account.issuer.as_bytes(), account.subject.as_bytes());
    [b"connect form", account.server.as_str().as_bytes(), issuer, subject, at]
}
