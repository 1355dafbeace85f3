//! `/account`: who one is here, what one has allowed and linked, and how to take it back.

use std::net::IpAddr;

use bartizan_model::ServerName;

use super::{
    SignIn, Way,
    browser::{Session, Visitor},
    consent::{Errand, Leaving},
    fields::Fields,
    pages,
    refusal::Refusal,
    reply::Reply,
};
use crate::{
    facade::{Asked, Person},
    outbound::Unlinked,
};

impl SignIn {
    /// `GET /account`
    pub(super) async fn account(&self, asked: &Asked<'_>) -> Result<Reply, Refusal> {
        let visitor = self.visitor(asked).await?;
        let csrf = self.mark(&visitor);
        let Some(session) = &visitor.session else {
            let page = pages::Arrive {
                host: match &self.way {
                    Way::Local => None,
                    Way::Provider(provider) => Some(provider.host()),
                },
                csrf: &csrf,
            };
            return Ok(Reply::page(&page, "account.arrive").cookie(self.form_cookie(&visitor)));
        };
        let given = self.consents.of(&session.person.issuer, &session.person.subject).await?;
        let accounts = match &self.linking {
            Some(linking) => linking.accounts(&session.person).await?,
            None => Vec::new(),
        };
        let standings = self.standings(&session.person).await;
        let page =
            pages::Account::new(&session.person, &given, &accounts, &self.resources, &standings, &csrf);
        let reply = Reply::page(&page, "account.shown").cookie(self.form_cookie(&visitor));
        Ok(reply.about_person(&session.person))
    }

    /// What waits for a person, and what has entered. One's own page is there without it, too.
    async fn standings(&self, person: &Person) -> pages::Standings {
        let Some(decisions) = &self.decisions else { return pages::Standings::default() };
        let withheld = decisions.withheld(person).await.unwrap_or_default();
        pages::Standings {
            calls: decisions.waiting(person).await.map_or(0, |held| held.len()),
            results: withheld.iter().filter(|one| !one.is_released).count(),
            entered: decisions.entered(person).await.unwrap_or_default(),
        }
    }

    /// `POST /account`
    pub(super) async fn act(&self, asked: &Asked<'_>) -> Result<Reply, Refusal> {
        let fields = Fields::of_form(asked, &self.origin())?;
        let visitor = self.sender(asked).await?;
        if !self.sealer.is_marked(&account_form(&visitor), fields.needed("csrf")?) {
            return Err(Refusal::FormForeign);
        }
        let action = fields.needed("action")?;
        let Some(session) = visitor.session else {
            return match (action, &self.way) {
                ("sign-in", Way::Provider(_)) => {
                    self.crowd.count(asked.peer, self.clock.now()).map_err(Refusal::Crowded)?;
                    self.depart(Errand::Account, Leaving::Form).await
                }
                _ => Err(Refusal::NotSignedIn),
            };
        };
        match action {
            "revoke" => self.revoke(&session.person, fields.needed("client")?).await,
            "reset-flow" => {
                let now = self.clock.now();
                match (self.session.lacking(&session.person, now), &self.way) {
                    (None, _) => self.reset_flow(&session.person, fields.needed("client")?).await,
                    // What lets private data out again is asked of the person who is there now.
                    (Some(_), Way::Provider(_)) => {
                        self.crowd.count(asked.peer, now).map_err(Refusal::Crowded)?;
                        self.depart(Errand::Decision { path: "/account".to_owned() }, Leaving::Form).await
                    }
                    (Some(_), Way::Local) => Err(Refusal::NotSignedIn),
                }
            }
            "unlink" => self.unlink(&session.person, fields.needed("server")?, asked.peer).await,
            "sign-out" => {
                self.browsers.close(&session.browser.id).await?;
                Ok(self.goodbye(&session))
            }
            "sign-out-everywhere" => {
                self.browsers.close_all(&session.person.issuer, &session.person.subject).await?;
                Ok(self.goodbye(&session))
            }
            _ => Err(Refusal::Malformed),
        }
    }

    /// First the grants, so that a failure between the two leaves nothing working that is not on the list.
    async fn revoke(&self, person: &Person, client: &str) -> Result<Reply, Refusal> {
        self.desk.withdraw(&person.issuer, &person.subject, client).await?;
        self.consents.withdraw(&person.issuer, &person.subject, client).await?;
        let reply = Reply::redirect("/account".to_owned(), "consent.withdrawn");
        Ok(reply.about_client(client).about_person(person))
    }

    /// Forgets what has entered one's own window at an application: for a new conversation.
    async fn reset_flow(&self, person: &Person, client: &str) -> Result<Reply, Refusal> {
        let decisions = self.decisions.as_ref().ok_or(Refusal::Malformed)?;
        decisions.reset_entered(client, person).await?;
        let reply = Reply::redirect("/account".to_owned(), "account.flow-reset");
        Ok(reply.about_client(client).about_person(person))
    }

    /// What the server's authorization server issued is revoked there, or the person is told that nobody did.
    async fn unlink(&self, person: &Person, server: &str, peer: IpAddr) -> Result<Reply, Refusal> {
        let server: ServerName = server.parse().map_err(|_| Refusal::Malformed)?;
        let linking = self.linking.as_ref().ok_or(Refusal::Malformed)?;
        let reply = match linking.unlink(person, &server, peer).await? {
            Unlinked::Revoked | Unlinked::Nothing => {
                Reply::redirect("/account".to_owned(), "account.unlinked")
            }
            forgotten @ Unlinked::Forgotten => {
                let onward = Some(("/account", "Your account"));
                let page = pages::Message { title: "Unlinked", words: forgotten.words(), onward };
                Reply::page(&page, "account.unlinked")
            }
        };
        Ok(reply.about_person(person))
    }

    fn goodbye(&self, session: &Session) -> Reply {
        let page = pages::Message {
            title: "You are signed out",
            words: "What you have allowed applications to do still holds, until you revoke it.",
            onward: Some(("/account", "Your account")),
        };
        Reply::page(&page, "signin.signed-out")
            .cookie(self.jar.clear("session"))
            .about_person(&session.person)
    }

    fn mark(&self, visitor: &Visitor) -> String {
        self.sealer.mark(&account_form(visitor))
    }
}

fn account_form(visitor: &Visitor) -> [&[u8]; 4] {
    let [_, form, session] = visitor.context();
    [b"sign-in form", b"account", form, session]
}
