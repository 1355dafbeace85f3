//! What a person has linked, and can link: for their own page.

use std::net::IpAddr;

use bartizan_model::ServerName;
use bartizan_store::links::{Account, LinkError, Linked};

use super::Linking;
use crate::{Deed, Report, facade::Person};

/// An account that a person has at a server, or could have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Linkable {
    /// The server.
    pub server: ServerName,
    /// The server's host; `None` if the gate has no such server any more, or no accounts there.
    pub host: Option<String>,
    /// What the gate may do there for the person, if they linked an account.
    pub linked: Option<Linked>,
}

impl Linking {
    /// The accounts that `person` has linked or can link, by the server's name. What was linked at a server that is gone is
    /// among them: it can still be taken back.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn accounts(&self, person: &Person) -> Result<Vec<Linkable>, LinkError> {
        let mut linked = self.means.links.of_person(&person.issuer, &person.subject).await?;
        let mut accounts: Vec<Linkable> = Vec::new();
        for (server, credential) in &self.servers {
            let at = linked.iter().position(|linked| linked.server == *server);
            accounts.push(Linkable {
                server: server.clone(),
                host: Some(credential.0.url.host_str().unwrap_or_default().to_owned()),
                linked: at.map(|at| linked.remove(at)),
            });
        }
        accounts.extend(linked.into_iter().map(|linked| Linkable {
            server: linked.server.clone(),
            host: None,
            linked: Some(linked),
        }));
        accounts.sort_by(|a, b| a.server.cmp(&b.server));
        Ok(accounts)
    }

    /// Forgets the account of `person` at `server`, asked for from `peer`. Whether there was one.
    ///
    /// # Errors
    /// [`LinkError`]; nothing changed then.
    pub async fn unlink(
        &self,
        person: &Person,
        server: &ServerName,
        peer: IpAddr,
    ) -> Result<bool, LinkError> {
        let (issuer, subject) = (person.issuer.clone(), person.subject.clone());
        let account = Account { issuer, subject, server: server.clone() };
        let was_linked = self.means.links.unlink(&account).await?;
        if let Some(credential) = self.servers.get(server) {
            credential.0.forget(&account);
        }
        if was_linked {
            let report = Report::new(Deed::AccountUnlinked, "link.taken-back").by(person).at(peer);
            self.ledger.mention(Report { server: Some(server.clone()), ..report });
        }
        Ok(was_linked)
    }
}
