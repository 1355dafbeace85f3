//! `/quarantine` and `/quarantine/{id}`: results that were withheld from whoever asked, until a person has looked (attacks.md
//! II-03).
//!
//! Whose decision it is, is for [`super::Decisions`] to say. What a result says is a stranger's text, and was withheld since it may
//! give orders: a bounded part of it is shown, escaped, every character of it visible, and nothing in it is followed or loaded.

use bartizan_model::Timestamp;

use super::{
    SignIn,
    browser::Session,
    decisions::{Matter, Taken, check_visit},
    pages,
    refusal::Refusal,
    reply::Reply,
};
use crate::facade::Asked;

/// A result that was withheld, for people: every text in it can be seen letter by letter, and none of it is trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Withheld {
    /// Its id: 32 hexadecimal digits.
    pub id: String,
    /// From whom it was withheld, and who vouches for them.
    pub asker: String,
    /// See `asker`.
    pub issuer: String,
    /// The application through which they asked.
    pub client: String,
    /// The server that gave it.
    pub server: String,
    /// The method that was called.
    pub method: String,
    /// The tool, prompt or address that was asked for.
    pub name: String,
    /// The rules that found something in it.
    pub found: Vec<String>,
    /// The beginning of it.
    pub excerpt: String,
    /// Bytes of it that are not in `excerpt`.
    pub more_bytes: usize,
    /// When it was kept.
    pub kept_at: Timestamp,
    /// When it is forgotten.
    pub expires_at: Timestamp,
    /// Whether somebody released it already.
    pub is_released: bool,
}

impl SignIn {
    /// `GET /quarantine`
    pub(super) async fn list_withheld(&self, asked: &Asked<'_>) -> Result<Reply, Refusal> {
        let decisions = self.decisions()?;
        check_visit(asked)?;
        let visitor = self.visitor(asked).await?;
        let Some(session) = self.deciding(&visitor) else {
            return self.sign_in_to_decide(&visitor, Matter::Results).await;
        };
        let withheld = decisions.withheld(&session.person).await?;
        let reply = Reply::page(&pages::AllWithheld::new(&withheld), "quarantine.listed");
        Ok(reply.about_person(&session.person))
    }

    /// `POST /quarantine`: to the identity provider, and back to the list.
    pub(super) async fn arrive_at_withheld(&self, asked: &Asked<'_>) -> Result<Reply, Refusal> {
        self.decisions()?;
        match self.take(asked, Matter::Results, ["", ""]).await? {
            Taken::Arrival(reply) => Ok(reply),
            Taken::Decision(..) => Err(Refusal::Malformed),
        }
    }

    /// `GET /quarantine/{id}`
    pub(super) async fn show_withheld(&self, asked: &Asked<'_>, id: &str) -> Result<Reply, Refusal> {
        let (decisions, matter) = (self.decisions()?, Matter::Result(id));
        check_visit(asked)?;
        let visitor = self.visitor(asked).await?;
        let Some(session) = self.deciding(&visitor) else {
            return self.sign_in_to_decide(&visitor, matter).await;
        };
        let withheld = decisions.show_withheld(id, &session.person).await?;
        let sealed = self.form_for(&visitor, matter)?;
        let page = pages::Release::new(&withheld, &session.person, &sealed);
        let reply = Reply::page(&page, "quarantine.shown").cookie(self.form_cookie(&visitor));
        Ok(reply.about_client(&withheld.client).about_person(&session.person))
    }

    /// `POST /quarantine/{id}`: takes the decision, once, from the browser and session that were asked.
    pub(super) async fn decide_withheld(&self, asked: &Asked<'_>, id: &str) -> Result<Reply, Refusal> {
        let decisions = self.decisions()?;
        let (session, release) = match self.take(asked, Matter::Result(id), ["release", "discard"]).await? {
            Taken::Decision(session, release) => (session, release),
            Taken::Arrival(reply) => return Ok(reply),
        };
        let withheld = decisions.decide_withheld(id, release, &session.person).await?;
        Ok(ruled(&withheld, &session, release))
    }
}

fn ruled(withheld: &Withheld, session: &Session, is_released: bool) -> Reply {
    let onward = Some(("/quarantine", "What else is withheld"));
    let (title, words, reason) = if is_released {
        let words = "The same person's next identical request gets it, once; the server is not asked again. You may close this page.";
        ("You released it", words, "quarantine.released")
    } else {
        ("You discarded it", "It is gone. You may close this page.", "quarantine.discarded")
    };
    let page = pages::Message { title, words, onward };
    Reply::page(&page, reason).about_client(&withheld.client).about_person(&session.person)
}
