//! Local mode: the owner of the machine signs in by a link that is printed in the terminal.
//!
//! Opening the link changes nothing, since mail programs, terminals and prefetchers open links too: a button does, whose
//! form uses the link up. The link is kept as a digest, for ten minutes.

use bartizan_model::{Entropy, Secret, Timestamp};
use bartizan_store::{DatabaseError, Digest, Pending, PendingKind};
use http::Method;
use url::Url;

use super::{
    PATIENCE, SignIn, browser::Visitor, decisions::Matter, fields::Fields, owner, pages, random,
    refusal::Refusal, reply::Reply, seen,
};
use crate::facade::{Asked, AuthorizationRequest};

/// A link that signs the owner of this machine in at `public_url`, once, within ten minutes of `now`. Whoever may write
/// to the database may print one: `bartizan login` does, beside a running gate.
///
/// # Errors
/// [`DatabaseError`]; there is no link then.
pub async fn mint_link(
    public_url: &Url,
    pending: &dyn Pending,
    entropy: &dyn Entropy,
    now: Timestamp,
) -> Result<Secret, DatabaseError> {
    let link = random(entropy);
    pending.keep(PendingKind::Link, &link_id(&link), b"", now.plus(PATIENCE)).await?;
    let origin = public_url.origin().ascii_serialization();
    Ok(Secret::new(format!("{origin}/oauth/sign-in?link={link}")))
}

impl SignIn {
    /// The owner is not signed in in this browser: says how, and keeps the request until they are.
    pub(super) async fn wait_for_owner(
        &self,
        asked: &Asked<'_>,
        visitor: &Visitor,
        request: &AuthorizationRequest,
    ) -> Result<Reply, Refusal> {
        let query = asked.query.unwrap_or_default();
        self.wait_to_go_on(visitor, query).await?;
        let name = seen::name(&request.client);
        let page = pages::Wait { name: &name, again: &format!("/oauth/authorize?{query}") };
        Ok(Reply::page(&page, "signin.owner-needed").cookie(self.form_cookie(visitor)).about(request))
    }

    /// Keeps what this browser goes on with once its owner is signed in: the query of a client's request, or the page of a
    /// held call.
    pub(super) async fn wait_to_go_on(&self, visitor: &Visitor, with: &str) -> Result<(), Refusal> {
        let until = self.clock.now().plus(PATIENCE);
        let id = waiting_id(&visitor.form);
        Ok(self.pending.replace(PendingKind::Waiting, &id, with.as_bytes(), until).await?)
    }

    /// `GET /oauth/sign-in`: shows the button.
    pub(super) async fn show_link(&self, asked: &Asked<'_>) -> Result<Reply, Refusal> {
        let fields = Fields::of_query(asked)?;
        let link = fields.get("link").ok_or(Refusal::LinkUnknown)?;
        let known = self.pending.peek(PendingKind::Link, &link_id(link), self.clock.now()).await?;
        known.ok_or(Refusal::LinkUnknown)?;
        Ok(Reply::page(&pages::Link { link }, "signin.link-shown"))
    }

    /// `POST /oauth/sign-in`: uses the link up and signs the owner in.
    pub(super) async fn use_link(&self, asked: &Asked<'_>) -> Result<Reply, Refusal> {
        let fields = Fields::of_form(asked, &self.origin())?;
        let now = self.clock.now();
        let taken = self.pending.take(PendingKind::Link, &link_id(fields.needed("link")?), now).await?;
        taken.ok_or(Refusal::LinkUnknown)?;
        let person = owner(now);
        let session = self.open_session(asked, &person, now).await?;
        let waiting = self.waiting(asked, now).await?;
        // A client's request is a query, which begins with no slash.
        let onward = waiting.as_deref().filter(|waiting| Matter::of(waiting).is_some());
        let client = match &waiting {
            Some(query) if onward.is_none() => self.client_of(asked, query).await,
            _ => None,
        };
        let page = pages::SignedIn {
            waiting: client.as_ref().map(|(name, address)| (name.as_str(), address.as_str())),
            onward,
        };
        Ok(Reply::page(&page, "signin.done").cookie(self.session_cookie(&session)).about_person(&person))
    }

    /// What waited for this browser to sign in.
    async fn waiting(&self, asked: &Asked<'_>, now: Timestamp) -> Result<Option<String>, Refusal> {
        let Some(form) = self.jar.find(asked, "form") else { return Ok(None) };
        let taken = self.pending.take(PendingKind::Waiting, &waiting_id(form), now).await?;
        Ok(taken.and_then(|waiting| String::from_utf8(waiting).ok()))
    }

    /// The client's request of this query: the client's name, and where it goes on. It is checked again, for the client may
    /// have gone meanwhile.
    async fn client_of(&self, asked: &Asked<'_>, query: &str) -> Option<(String, String)> {
        let again =
            Asked { method: &Method::GET, path: "/oauth/authorize", query: Some(query), body: &[], ..*asked };
        let request = self.desk.begin(&again).await.ok()?;
        Some((seen::name(&request.client), format!("/oauth/authorize?{query}")))
    }
}

fn link_id(link: &str) -> Digest {
    Digest::of(format!("link {link}").as_bytes())
}

pub(super) fn waiting_id(form: &str) -> Digest {
    Digest::of(format!("waiting {form}").as_bytes())
}
