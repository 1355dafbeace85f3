//! The admin API: one URL, which tokens are issued for. `GET` tells the state, `POST` does one thing.
//!
//! Whoever asks shows an access token of an issuer that the gate trusts, itself among them, issued for this URL alone; what
//! clients show at MCP endpoints is worth nothing here. A role says what he may do, and ends. Whatever changes anything needs a
//! sign-in with a second factor, not long ago (RFC 9470). All of it, refusals too, is in the audit log under his pseudonym.
//!
//! On a laptop the owner of the machine has every role. What takes the place of a second factor there is the link that
//! `bartizan login` prints to whoever can read the state folder, opened not long ago.

mod acts;
mod policies;
mod vault;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::anyhow;
use bartizan_audit::{
    Details, Event, Kind, Text,
    event::{Change, Decision},
};
use bartizan_model::{Caller, Clock, SystemClock, Timestamp};
use bartizan_oauth::{AuthenticationRequired, Error, Presented, Principal, ResourceServer, VerifiedToken};
use bartizan_store::{Admins, Database, Sealer, StoredAdmins};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::Admin;
use crate::{
    config::{
        Config,
        admin::{AdminConfig, Role},
    },
    doorman::{Admission, Doorman},
    identity::Mode,
    state::State,
};
use acts::Act;

/// The longest body that is read, in bytes.
const LONGEST: usize = 16 << 10;
/// Refusals that are recorded in one second; whoever is turned away must not be able to fill the disk.
const REFUSALS_A_SECOND: u64 = 20;

/// Who may ask, and what for.
pub struct Api {
    server: ResourceServer,
    settings: AdminConfig,
    roles: StoredAdmins,
    database: Database,
    sealer: Arc<Sealer>,
    state: State,
    /// Whether the gate is its owner's alone.
    is_local: bool,
    config: Config,
    base: PathBuf,
    refusals: Mutex<(u64, u64)>,
}

/// An administrator who may do what he asks for.
struct Admitted {
    caller: Caller,
    token: Arc<VerifiedToken>,
    roles: Vec<Role>,
}

/// Why something is not done.
struct Refused {
    status: u16,
    /// A stable code, for the log and the answer.
    reason: String,
    words: String,
    challenges: Vec<String>,
    /// The nonce for the next DPoP proof, where it is the proof that is wrong.
    nonce: Option<String>,
}

impl Refused {
    fn new(status: u16, reason: &str, words: impl Into<String>) -> Self {
        Self { status, reason: reason.to_owned(), words: words.into(), challenges: Vec::new(), nonce: None }
    }
}

impl Api {
    /// The API of a configuration, if it has one. Relative paths start at `base`.
    ///
    /// # Errors
    /// What is wrong with `[admin]`.
    pub fn of(
        config: &Config,
        base: &Path,
        state: &State,
        doorman: &Doorman,
        admission: &Admission,
    ) -> anyhow::Result<Option<Arc<Self>>> {
        let Some(resource) = config.admin.resource() else { return Ok(None) };
        let server = doorman
            .resource_server(config, base, vec![resource], admission.facade())
            .map_err(|problems| anyhow!("[admin]: {}", problems.join("; ")))?;
        let database = doorman.database().clone();
        Ok(Some(Arc::new(Self {
            server,
            settings: config.admin.clone(),
            roles: StoredAdmins::new(
                database.clone(),
                Arc::clone(doorman.sealer()),
                Some(state.ended_roles()),
            ),
            database,
            sealer: Arc::clone(doorman.sealer()),
            state: state.clone(),
            is_local: config.identity.mode == Mode::Local,
            config: config.clone(),
            base: base.to_owned(),
            refusals: Mutex::default(),
        })))
    }

    /// Whether a request for this path is for the API.
    pub fn is_at(&self, path: &str) -> bool {
        self.server.resource(path).is_some()
    }

    /// Its metadata (RFC 9728), for clients that look for who issues tokens.
    pub fn metadata(&self, path: &str) -> Option<Bytes> {
        self.server.metadata(path)
    }

    /// Whether a request shows somebody who may look at things here.
    pub async fn is_viewer(&self, request: &Request<Incoming>, admin: &Admin) -> bool {
        let path = self.settings.url.as_ref().map_or("", |url| url.path()).to_owned();
        self.admit(&path, request, admin).await.is_ok_and(|admitted| !admitted.roles.is_empty())
    }

    /// Answers a request for the API.
    pub async fn answer(
        self: &Arc<Self>,
        request: Request<Incoming>,
        admin: &Arc<Admin>,
    ) -> Response<Full<Bytes>> {
        let path = request.uri().path().to_owned();
        let mut admitted = match self.admit(&path, &request, admin).await {
            Ok(admitted) => admitted,
            Err(refusal) => {
                let (refused, caller) = *refusal;
                return self.refuse(admin, caller.as_ref(), "", refused);
            }
        };
        let act = match self.read(request).await.and_then(Act::whole) {
            Ok(act) => act,
            Err(refused) => return self.refuse(admin, Some(&admitted.caller), "", refused),
        };
        // A body may be long in coming. What counts is who he is when it is there.
        admitted.roles = match self.standing(&admitted.token, admin).await {
            Ok(roles) => roles,
            Err(refused) => return self.refuse(admin, Some(&admitted.caller), act.name(), refused),
        };
        let (name, caller) = (act.name(), admitted.caller.clone());
        let (me, on) = (Arc::clone(self), Arc::clone(admin));
        // To its end, whether anybody waits for the answer or not: what is on record is done.
        let acting = tokio::spawn(async move { me.carry_out(&act, &admitted, &on).await });
        let broken = |_| Err(Refused::new(500, "admin.broken", "it was not done, or not all of it"));
        match acting.await.unwrap_or_else(broken) {
            Ok(done) => json_answer(200, &done),
            Err(refused) => self.refuse(admin, Some(&caller), name, refused),
        }
    }

    /// Who asks, and which roles he has now.
    async fn admit(
        &self,
        path: &str,
        request: &Request<Incoming>,
        admin: &Admin,
    ) -> Result<Admitted, Box<(Refused, Option<Caller>)>> {
        let Some(resource) = self.server.resource(path) else {
            return Err(Box::new((Refused::new(404, "admin.unknown", "there is no such page"), None)));
        };
        let presented = Presented { method: request.method(), headers: request.headers(), certificate: None };
        let token = self.server.authenticate(resource, presented).await.map_err(|error| {
            let refused = self.by_error(&error, self.server.challenge(resource, &error));
            Box::new((refused, None))
        })?;
        let caller = token.caller().clone();
        match self.standing(&token, admin).await {
            Ok(roles) => Ok(Admitted { caller, token, roles }),
            Err(refused) => Err(Box::new((refused, Some(caller)))),
        }
    }

    /// The roles that whoever `token` speaks for has now, if he may come in at all.
    async fn standing(&self, token: &VerifiedToken, admin: &Admin) -> Result<Vec<Role>, Refused> {
        let refuse = |status, reason: &str, words: &str| Err(Refused::new(status, reason, words));
        if token.principal() != Principal::User {
            return refuse(403, "admin.application", "only people administer this gate");
        }
        if self.server.denied().denies(token) {
            return Err(self.by_error(&Error::Denied, Vec::new()));
        }
        match admin.gate.responses().has_cut_off(token.caller()).await {
            Ok(false) => {}
            Ok(true) => return refuse(403, "response.revoked", "your access to this gate is revoked"),
            Err(refusal) => return refuse(503, "response.unreadable", &refusal.message),
        }
        self.roles_of(token, SystemClock.now()).await.or_else(|error| {
            tracing::error!(%error, "admin roles cannot be read");
            refuse(503, "admin.unreadable", "the roles cannot be read; try again later")
        })
    }

    /// The roles of whoever the token speaks for, that have not ended.
    async fn roles_of(
        &self,
        token: &VerifiedToken,
        now: Timestamp,
    ) -> Result<Vec<Role>, bartizan_store::DatabaseError> {
        let caller = token.caller();
        if self.is_owner(caller) {
            return Ok(Role::ALL.to_vec());
        }
        let granted = self.roles.of(caller.issuer(), caller.subject(), now).await?;
        let configured = self.settings.roles.iter().filter(|role| {
            let is_he = role.person.as_deref() == Some(caller.subject())
                || role.group.as_ref().is_some_and(|group| token.groups().contains(group));
            role.issuer == caller.issuer() && is_he && role.end().is_some_and(|end| now < end)
        });
        let mut roles: Vec<_> = configured.map(|role| role.role).collect();
        roles.extend(Role::ALL.into_iter().filter(|role| granted.iter().any(|name| name == role.as_str())));
        Ok(roles)
    }

    /// Whether this is the owner of the laptop that the gate is on.
    fn is_owner(&self, caller: &Caller) -> bool {
        let owner = Caller::local_owner();
        self.is_local && (caller.issuer(), caller.subject()) == (owner.issuer(), owner.subject())
    }

    async fn read(&self, request: Request<Incoming>) -> Result<Act, Refused> {
        match *request.method() {
            Method::GET => return Ok(Act::Status),
            Method::POST => {}
            _ => return Err(Refused::new(405, "admin.method", "GET tells the state, POST does one thing")),
        }
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let is_json =
            kind.is_some_and(|kind| kind.split(';').next().is_some_and(|k| k.trim() == "application/json"));
        if !is_json {
            return Err(Refused::new(415, "admin.body", "the body must be application/json"));
        }
        let body = Limited::new(request.into_body(), LONGEST).collect().await;
        let body =
            body.map_err(|_| Refused::new(413, "admin.body", "the body is too long, or did not come"))?;
        let body = body.to_bytes();
        serde_json::from_slice(&body).map_err(|error| {
            // What is wrong may be a value that belongs into the vault.
            let may_be_secret = body.windows(7).any(|piece| piece == b"-secret");
            let why = if may_be_secret { String::new() } else { format!(": {error}") };
            Refused::new(400, "admin.body", format!("the body cannot be read{why}"))
        })
    }

    /// Does one thing, if this administrator may do it now: recorded first.
    async fn carry_out(&self, act: &Act, admitted: &Admitted, admin: &Admin) -> Result<Value, Refused> {
        let needed = act.role();
        let may = admitted.roles.iter().any(|role| *role == needed || needed == Role::Viewer);
        if !may {
            return Err(Refused::new(
                403,
                "admin.role",
                format!("this needs the role `{}`", needed.as_str()),
            ));
        }
        if act.changes_something() {
            self.require_fresh(&admitted.token)?;
        }
        let event = Event::new(Kind::AdminActed).by(&admitted.caller).with(Details {
            decision: Some(Decision::Permit),
            change: Some(Change {
                entity: Text::new("admin"),
                name: Text::new(act.name()),
                from: None,
                to: Some(Text::new(&act.about())),
            }),
            server: act.server(),
            ..Details::default()
        });
        if let Err(lost) = admin.gate.recorder().log().note(event).await {
            tracing::error!(%lost, "an administrator's act cannot be recorded");
            return Err(Refused::new(503, "audit.lost", "it is not done, for it cannot be recorded"));
        }
        self.act(act, admitted, admin).await
    }

    /// A sign-in with a second factor, not long ago; of the owner of a laptop, by a fresh link.
    fn require_fresh(&self, token: &VerifiedToken) -> Result<(), Refused> {
        let required = self.settings.fresh();
        if self.is_owner(token.caller()) {
            let by_link = AuthenticationRequired { contexts: Vec::new(), ..required };
            let checked = token.require_authentication(&by_link, SystemClock.now());
            return checked.map_err(|error| self.not_fresh(token, &error));
        }
        let by_method = token.authentication_methods().iter().any(|m| self.settings.methods.contains(m));
        let by_context = token.authentication_contexts().iter().any(|c| required.contexts.contains(c));
        let checked = if by_context || !by_method {
            // Names the contexts to ask for, where there are any.
            token.require_authentication(&required, SystemClock.now()).and_then(|()| match by_context {
                true => Ok(()),
                false => Err(token.lacking(&required, false)),
            })
        } else {
            let any_context = AuthenticationRequired { contexts: Vec::new(), ..required };
            token.require_authentication(&any_context, SystemClock.now())
        };
        checked.map_err(|error| self.not_fresh(token, &error))
    }

    fn not_fresh(&self, token: &VerifiedToken, error: &Error) -> Refused {
        let challenges = self.server.challenge_again(token, error);
        Refused { reason: "admin.not_fresh".to_owned(), ..self.by_error(error, challenges) }
    }

    fn by_error(&self, error: &Error, challenges: Vec<String>) -> Refused {
        let verdict = error.verdict();
        Refused {
            status: verdict.status,
            reason: verdict.reason.to_string(),
            words: verdict.description.to_string(),
            challenges,
            nonce: self.server.nonce(error),
        }
    }

    /// Says no, and records it.
    fn refuse(
        &self,
        admin: &Admin,
        caller: Option<&Caller>,
        act: &str,
        refused: Refused,
    ) -> Response<Full<Bytes>> {
        if let Some(more) = self.counts() {
            let mut event = Event::new(Kind::AdminActed).with(Details {
                decision: Some(Decision::Deny),
                reason: refused.reason.parse().ok(),
                code: Some(i64::from(refused.status)),
                count: (more > 0).then_some(more),
                change: (!act.is_empty()).then(|| Change {
                    entity: Text::new("admin"),
                    name: Text::new(act),
                    from: None,
                    to: None,
                }),
                ..Details::default()
            });
            event.caller = caller.cloned();
            admin.gate.recorder().log().mention(event);
        }
        let body = json!({ "error": refused.words, "reason": refused.reason });
        let mut response = json_answer(refused.status, &body);
        for line in &refused.challenges {
            if let Ok(line) = HeaderValue::from_str(line) {
                response.headers_mut().append(header::WWW_AUTHENTICATE, line);
            }
        }
        if let Some(Ok(nonce)) = refused.nonce.as_deref().map(HeaderValue::from_str) {
            response.headers_mut().insert("dpop-nonce", nonce);
        }
        response
    }

    /// How many refusals were not recorded before this one, if this one is.
    fn counts(&self) -> Option<u64> {
        let now = SystemClock.now().as_unix();
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        if refusals.0 != now {
            let more = refusals.1.saturating_sub(REFUSALS_A_SECOND);
            *refusals = (now, 1);
            return Some(more);
        }
        refusals.1 += 1;
        (refusals.1 <= REFUSALS_A_SECOND).then_some(0)
    }
}

fn json_answer(status: u16, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{body}\n"))));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
