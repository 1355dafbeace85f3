//! Consent, read downwards: who asks, what the person decides, and what becomes of it (spec.md F-26 to F-33, G-01;
//! attacks.md CD-01, CD-02, CD-04, CD-09, CD-13, CD-14).

use std::{collections::BTreeSet, net::IpAddr};

use bartizan_model::Timestamp;
use bartizan_store::{
    Digest, PendingKind,
    consents::{Consent, Given},
};
use serde::{Deserialize, Serialize};
use url::Url;

use super::{
    PATIENCE, SignIn, Way,
    browser::{Session, Visitor},
    fields::{Fields, is_visit},
    pages,
    provider::{Asking, Returned, Wanted},
    refusal::Refusal,
    reply::Reply,
    seen,
};
use crate::{
    Deed, Report,
    facade::{Asked, AuthorizationRequest, Person},
};

/// What a consent page carries: sealed, and bound to the browser and the session it is shown in, so that it is its own
/// proof against forgery by another site (attacks.md CD-02).
#[derive(Serialize, Deserialize)]
struct Form {
    id: String,
    until: u64,
    request: AuthorizationRequest,
}

/// A sign-in at the identity provider, kept until its browser is back.
#[derive(Serialize, Deserialize)]
struct Departed {
    /// The digest of the cookie that must come back.
    cookie: String,
    asking: Asking,
    errand: Errand,
}

/// What a person signs in for.
#[derive(Serialize, Deserialize)]
pub(super) enum Errand {
    /// To see their own page.
    Account,
    /// To decide about a held call or a withheld result.
    Decision {
        /// The path of its page.
        path: String,
    },
    /// To grant this.
    Grant {
        request: Box<AuthorizationRequest>,
        /// Who allowed it, by issuer and subject; `None` if nobody was signed in: then whoever comes back did.
        allowed_by: Option<(String, String)>,
        /// Whether it was allowed just now, and not some time before.
        was_asked: bool,
    },
}

impl SignIn {
    /// `GET /oauth/authorize`: asks for consent, unless the very same was allowed before.
    pub(super) async fn authorize(&self, asked: &Asked<'_>) -> Result<Reply, Refusal> {
        // A picture on some page is no visit: it must not have us fetch what it names, or write down that somebody waits.
        if !is_visit(asked) {
            return Err(Refusal::OtherSite);
        }
        self.visits.count(asked.peer, self.clock.now()).map_err(Refusal::Crowded)?;
        let request = self.desk.begin(asked).await?;
        let mut visitor = self.visitor(asked).await?;
        if matches!(self.way, Way::Local) {
            // Nobody, or somebody who signed in too long ago for this client.
            visitor.session = visitor.session.filter(|session| self.is_recent(session, &request));
            if visitor.session.is_none() {
                return self.wait_for_owner(asked, &visitor, &request).await;
            }
        }
        if let Some(session) = &visitor.session
            && may_be_silent(&request)
            && !self.asks_each_time(&request.resource)
            && self.consents.is_given(&consent(&request, &session.person)).await?
        {
            return self.proceed(request, visitor.session.as_ref(), false, asked.peer).await;
        }
        self.ask(&visitor, &request)
    }

    /// Whether no consent to this resource is remembered.
    fn asks_each_time(&self, resource: &str) -> bool {
        self.resources.iter().any(|described| described.url == resource && described.asks_each_time)
    }

    /// The consent page.
    fn ask(&self, visitor: &Visitor, request: &AuthorizationRequest) -> Result<Reply, Refusal> {
        let form = Form {
            id: self.random(),
            until: self.clock.now().plus(PATIENCE).as_unix(),
            request: request.clone(),
        };
        let plain = serde_json::to_vec(&form).map_err(|_| Refusal::Internal)?;
        let sealed = self.sealer.seal(&visitor.context(), &plain);
        let described = self.resources.iter().find(|resource| resource.url == request.resource);
        let next = match &self.way {
            Way::Local => None,
            Way::Provider(provider) => Some(provider.host()),
        };
        let person = visitor.session.as_ref().map(|session| &session.person);
        let page = pages::Consent::new(request, described, person, next, sealed);
        let reply = Reply::page(&page, "consent.asked").cookie(self.form_cookie(visitor)).about(request);
        Ok(match person {
            Some(person) => reply.about_person(person),
            None => reply,
        })
    }

    /// `POST /oauth/consent`: takes the decision, once, from the browser and session that were asked.
    pub(super) async fn decide(&self, asked: &Asked<'_>) -> Result<Reply, Refusal> {
        let fields = Fields::of_form(asked, &self.origin())?;
        let visitor = self.sender(asked).await?;
        let plain =
            self.sealer.open(&visitor.context(), fields.needed("form")?).ok_or(Refusal::FormForeign)?;
        let form: Form = serde_json::from_slice(&plain).map_err(|_| Refusal::FormForeign)?;
        let until = Timestamp::from_unix(form.until);
        if self.clock.now() >= until {
            return Err(Refusal::FormForeign);
        }
        if matches!(self.way, Way::Local) && visitor.session.is_none() {
            return Err(Refusal::NotSignedIn);
        }
        let is_allowed = match fields.needed("decision")? {
            "allow" => true,
            "deny" => false,
            _ => return Err(Refusal::Malformed),
        };
        self.crowd.count(asked.peer, self.clock.now()).map_err(Refusal::Crowded)?;
        let spent = Digest::of(format!("form {}", form.id).as_bytes());
        if !self.pending.keep(PendingKind::Form, &spent, b"", until).await? {
            return Err(Refusal::FormSpent);
        }
        let request = form.request;
        if is_allowed {
            return self.proceed(request, visitor.session.as_ref(), true, asked.peer).await;
        }
        let location = self.desk.deny(&request, "access_denied");
        let reply = Reply::onward(&location, &seen::name(&request.client), "consent.denied");
        let reply = reply.about(&request);
        Ok(match &visitor.session {
            Some(session) => reply.about_person(&session.person),
            None => reply,
        })
    }

    /// A request that was allowed goes on: in local mode to its end, else to the identity provider.
    async fn proceed(
        &self,
        request: AuthorizationRequest,
        session: Option<&Session>,
        was_asked: bool,
        peer: IpAddr,
    ) -> Result<Reply, Refusal> {
        let leaving = if was_asked { Leaving::Form } else { Leaving::Page };
        match &self.way {
            Way::Local => {
                let session = session.ok_or(Refusal::NotSignedIn)?;
                let location = self.grant(&request, &session.person, was_asked, peer).await?;
                let reply = leaving.reply(&location, &seen::name(&request.client), "consent.granted");
                Ok(reply.about(&request).about_person(&session.person))
            }
            Way::Provider(_) => {
                let allowed_by =
                    session.map(|session| (session.person.issuer.clone(), session.person.subject.clone()));
                let errand = Errand::Grant { request: Box::new(request), allowed_by, was_asked };
                self.depart(errand, leaving).await
            }
        }
    }

    /// To the identity provider. Here, and not before, there are a state and the cookie that belongs to it (spec.md F-31).
    pub(super) async fn depart(&self, errand: Errand, leaving: Leaving) -> Result<Reply, Refusal> {
        let Way::Provider(provider) = &self.way else { return Err(Refusal::Internal) };
        let (state, cookie) = (self.random(), self.random());
        let request = match &errand {
            Errand::Account | Errand::Decision { .. } => None,
            Errand::Grant { request, .. } => Some(request.as_ref()),
        };
        let is_decision = matches!(errand, Errand::Decision { .. });
        let asking = Asking {
            nonce: self.random(),
            verifier: self.random(),
            max_age_s: match is_decision {
                true => Some(self.session.decision_max_age_s),
                false => request.and_then(|r| r.max_age_s),
            },
            signs_in_anew: is_decision,
        };
        let wanted = match request {
            Some(request) => Wanted { contexts: &request.contexts, claims: request.claims.as_deref() },
            None if is_decision => Wanted { contexts: &self.session.decision_contexts, claims: None },
            None => Wanted::default(),
        };
        let location = provider.address(&state, &asking, wanted).await?;
        let departed = Departed { cookie: cookie_digest(&cookie).to_string(), asking, errand };
        let body = serde_json::to_vec(&departed).map_err(|_| Refusal::Internal)?;
        let until = self.clock.now().plus(PATIENCE);
        if !self.pending.keep(PendingKind::SignIn, &state_id(&state), &body, until).await? {
            return Err(Refusal::Internal);
        }
        let cookie = self.jar.set(&state_cookie(&state), &cookie, PATIENCE);
        let reply = leaving.reply(location.as_str(), &provider.host(), "signin.begun").cookie(cookie);
        Ok(match &departed.errand {
            Errand::Account | Errand::Decision { .. } => reply,
            Errand::Grant { request, .. } => reply.about(request),
        })
    }

    /// `GET /oauth/callback`: the browser is back from the identity provider.
    pub(super) async fn callback(&self, asked: &Asked<'_>) -> Result<Reply, Refusal> {
        let Way::Provider(provider) = &self.way else { return Err(Refusal::Internal) };
        let fields = Fields::of_query(asked)?;
        let state = fields.needed("state")?;
        let now = self.clock.now();
        // Taken whoever comes with it: a state that was seen in the wrong browser is not good in the right one either.
        let taken = self.pending.take(PendingKind::SignIn, &state_id(state), now).await?;
        let departed: Departed =
            taken.and_then(|body| serde_json::from_slice(&body).ok()).ok_or(Refusal::StateUnknown)?;
        let role = state_cookie(state);
        let cookie = self.jar.find(asked, &role).ok_or(Refusal::StateForeign)?;
        if cookie_digest(cookie).to_string() != departed.cookie {
            return Err(Refusal::StateForeign);
        }
        let done = self.jar.clear(&role);
        let returned =
            Returned { issuer: fields.get("iss"), error: fields.get("error"), code: fields.get("code") };
        let code = match provider.code(&returned).await? {
            Ok(code) => code,
            // What the provider refuses the client hears of, where the person allowed its answer to go.
            Err(error) => {
                return Ok(match departed.errand {
                    Errand::Account | Errand::Decision { .. } => {
                        Reply::redirect("/account".to_owned(), "signin.refused")
                    }
                    Errand::Grant { request, .. } => {
                        let location = self.desk.deny(&request, error);
                        Reply::redirect(location, "signin.refused").about(&request)
                    }
                }
                .cookie(done));
            }
        };
        let person = provider.person(code, &departed.asking).await?;
        let session = self.open_session(asked, &person, now).await?;
        let signed_in = self.session_cookie(&session);
        let reply = match departed.errand {
            Errand::Account => Reply::redirect("/account".to_owned(), "signin.done"),
            Errand::Decision { path } => Reply::redirect(path, "signin.done"),
            Errand::Grant { request, allowed_by, was_asked } => {
                let is_another =
                    allowed_by.is_some_and(|by| by != (person.issuer.clone(), person.subject.clone()));
                let is_allowed = was_asked || self.consents.is_given(&consent(&request, &person)).await?;
                if is_another || !is_allowed {
                    // Somebody else allowed it, or it was revoked meanwhile. The one who signed in is asked.
                    let visitor = Visitor { form: self.form_of(asked), session: Some(session) };
                    self.ask(&visitor, &request)?
                } else {
                    let location = self.grant(&request, &person, was_asked, asked.peer).await?;
                    Reply::redirect(location, "consent.granted").about(&request)
                }
            }
        };
        Ok(reply.cookie(done).cookie(signed_in).about_person(&person))
    }

    /// Has granted what `person` allowed, and remembers it if that was just now.
    async fn grant(
        &self,
        request: &AuthorizationRequest,
        person: &Person,
        was_asked: bool,
        peer: IpAddr,
    ) -> Result<String, Refusal> {
        if was_asked {
            let report = Report::new(Deed::ConsentGranted, "consent.granted");
            self.ledger.enter(report.about(request).by(person).at(peer)).await?;
            let given = Given {
                consent: consent(request, person),
                client_name: request.client.name.clone(),
                at: self.clock.now(),
            };
            self.consents.remember(&given).await?;
        }
        Ok(self.desk.complete(request.clone(), person).await?)
    }

    /// Whether the owner signed in recently enough for this request. `max_age` counts as two minutes at least: a link
    /// takes a person that long to open.
    fn is_recent(&self, session: &Session, request: &AuthorizationRequest) -> bool {
        let age = self.clock.now().since(session.person.at).as_secs();
        request.max_age_s.is_none_or(|max| age <= max.max(120))
    }
}

/// How a browser is sent on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaving {
    /// From a form, by way of a page.
    Form,
    /// At once.
    Page,
}

impl Leaving {
    fn reply(self, location: &str, name: &str, reason: &'static str) -> Reply {
        match self {
            Self::Form => Reply::onward(location, name, reason),
            Self::Page => Reply::redirect(location.to_owned(), reason),
        }
    }
}

/// Whether consent can be remembered for this client at all. What comes back on loopback may be any program on that
/// machine, so a person looks each time (attacks.md CD-14; RFC 8252 §8.6).
fn may_be_silent(request: &AuthorizationRequest) -> bool {
    !request.client.only_loopback
        && Url::parse(&request.redirect_uri).is_ok_and(|uri| uri.scheme() == "https" && !is_loopback(&uri))
}

pub(super) fn is_loopback(uri: &Url) -> bool {
    match uri.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        None => false,
    }
}

fn consent(request: &AuthorizationRequest, person: &Person) -> Consent {
    let mut redirect_uri = request.redirect_uri.clone();
    // It is only for one's own list, where each start of a program, on a port of its own, would be another entry.
    if !may_be_silent(request)
        && let Ok(mut uri) = Url::parse(&redirect_uri)
        && uri.set_port(None).is_ok()
    {
        redirect_uri = uri.into();
    }
    Consent {
        issuer: person.issuer.clone(),
        subject: person.subject.clone(),
        client: request.client.id.clone(),
        redirect_uri,
        scopes: request.scopes.iter().cloned().collect::<BTreeSet<_>>(),
        resource: request.resource.clone(),
        metadata: request.client.metadata.clone(),
    }
}

fn state_id(state: &str) -> Digest {
    Digest::of(format!("state {state}").as_bytes())
}

/// Several sign-ins can be under way in one browser, each with a cookie of its own.
fn state_cookie(state: &str) -> String {
    let id = Digest::of(format!("cookie of {state}").as_bytes()).to_string();
    format!("state-{}", id.get(..12).unwrap_or_default())
}

fn cookie_digest(cookie: &str) -> Digest {
    Digest::of(format!("state cookie {cookie}").as_bytes())
}
