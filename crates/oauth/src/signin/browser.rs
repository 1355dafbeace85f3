//! Whose browser it is: cookies, and what they stand for (spec.md F-30).
//!
//! Three cookies, none of which means anything to whoever reads it. `form` ties a page to the browser it was shown in, and
//! is no sign-in; `session` is one; `state-…` comes with a sign-in that was allowed, and says which browser may finish it.

use std::time::Duration;

use bartizan_model::Timestamp;
use bartizan_store::{Digest, browsers::Browser};
use http::header;
use url::Url;

use super::{PATIENCE, SignIn, Way, refusal::Refusal};
use crate::{
    Deed, Report,
    facade::{Asked, Person},
};

/// How our cookies are called and set.
pub(super) struct Jar {
    prefix: String,
    attributes: &'static str,
}

impl Jar {
    /// Over TLS a name that a browser takes only with `Secure`, `Path=/` and no `Domain` (RFC 6265bis §4.1.3.2). Over plain
    /// http, which is loopback, the port is in the name: the ports of a host share their cookies.
    pub fn new(public_url: &Url) -> Self {
        match public_url.scheme() {
            "https" => Self {
                prefix: "__Host-bartizan-".to_owned(),
                attributes: "; Path=/; Secure; HttpOnly; SameSite=Lax",
            },
            _ => Self {
                prefix: format!("bartizan-{}-", public_url.port_or_known_default().unwrap_or(80)),
                attributes: "; Path=/; HttpOnly; SameSite=Lax",
            },
        }
    }

    /// The cookie of this role, if the browser sent exactly one, of a form that we set.
    pub fn find<'a>(&self, asked: &Asked<'a>, role: &str) -> Option<&'a str> {
        let name = format!("{}{role}", self.prefix);
        let lines = asked.headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
        let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
        let mut values = pairs.filter(|(named, _)| *named == name).map(|(_, value)| value);
        let is_ours = |value: &&str| {
            value.len() == 43 && value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        };
        values.next().filter(is_ours).filter(|_| values.next().is_none())
    }

    /// A `Set-Cookie` line.
    pub fn set(&self, role: &str, value: &str, lives: Duration) -> String {
        format!("{}{role}={value}; Max-Age={}{}", self.prefix, lives.as_secs(), self.attributes)
    }

    /// A `Set-Cookie` line that takes the cookie away.
    pub fn clear(&self, role: &str) -> String {
        self.set(role, "", Duration::ZERO)
    }
}

/// Who is in front of the page.
pub(super) struct Visitor {
    /// Ties forms to this browser.
    pub form: String,
    /// Who is signed in.
    pub session: Option<Session>,
}

/// A browser that is signed in.
pub(super) struct Session {
    pub cookie: String,
    pub browser: Browser,
    pub person: Person,
}

impl SignIn {
    /// Who is in front of the page that is about to be shown.
    pub(super) async fn visitor(&self, asked: &Asked<'_>) -> Result<Visitor, Refusal> {
        Ok(Visitor { form: self.form_of(asked), session: self.session(asked).await? })
    }

    /// Who sends a form that was shown before.
    pub(super) async fn sender(&self, asked: &Asked<'_>) -> Result<Visitor, Refusal> {
        let form = self.jar.find(asked, "form").ok_or(Refusal::FormForeign)?.to_owned();
        Ok(Visitor { form, session: self.session(asked).await? })
    }

    async fn session(&self, asked: &Asked<'_>) -> Result<Option<Session>, Refusal> {
        let Some(cookie) = self.jar.find(asked, "session") else { return Ok(None) };
        let found = self.browsers.find(&session_id(cookie), self.session.idle(), self.clock.now()).await?;
        let Some(browser) = found else { return Ok(None) };
        // A format of another version of ours is no session.
        let person = serde_json::from_slice::<Person>(&browser.person).ok();
        // Nor is one whose person signed in where nobody does any more.
        let person = person.filter(|person| person.issuer == self.way.issuer());
        Ok(person.map(|person| Session { cookie: cookie.to_owned(), browser, person }))
    }

    /// Signs `person` in, under a new id, and ends what the browser had before.
    pub(super) async fn open_session(
        &self,
        asked: &Asked<'_>,
        person: &Person,
        now: Timestamp,
    ) -> Result<Session, Refusal> {
        let reason = match self.way {
            Way::Local => "signin.link",
            Way::Provider(_) => "signin.provider",
        };
        self.ledger.enter(Report::new(Deed::SignedIn, reason).by(person).at(asked.peer)).await?;
        if let Some(old) = self.jar.find(asked, "session") {
            self.browsers.close(&session_id(old)).await?;
        }
        let cookie = self.random();
        let browser = Browser {
            id: session_id(&cookie),
            issuer: person.issuer.clone(),
            subject: person.subject.clone(),
            person: serde_json::to_vec(person).map_err(|_| Refusal::Internal)?,
            opened_at: now,
            expires_at: now.plus(self.session.lifetime()),
        };
        self.browsers.open(&browser).await?;
        Ok(Session { cookie, browser, person: person.clone() })
    }

    /// The line that makes a browser a session's.
    pub(super) fn session_cookie(&self, session: &Session) -> String {
        self.jar.set("session", &session.cookie, self.session.lifetime())
    }

    /// What ties this browser to its forms, if anything does.
    pub(super) fn form_of(&self, asked: &Asked<'_>) -> String {
        self.jar.find(asked, "form").map_or_else(|| self.random(), str::to_owned)
    }

    /// The line that keeps the form's cookie alive as long as the form.
    pub(super) fn form_cookie(&self, visitor: &Visitor) -> String {
        self.jar.set("form", &visitor.form, PATIENCE)
    }

    /// Our origin, as browsers write it.
    pub(super) fn origin(&self) -> String {
        self.public_url.origin().ascii_serialization()
    }
}

impl Visitor {
    /// What a form that is shown to this visitor is good for.
    pub fn context(&self) -> [&[u8]; 3] {
        let session = self.session.as_ref().map_or("", |session| session.cookie.as_str());
        [b"sign-in form", self.form.as_bytes(), session.as_bytes()]
    }
}

fn session_id(cookie: &str) -> Digest {
    Digest::of(format!("session {cookie}").as_bytes())
}
