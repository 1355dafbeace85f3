//! What a person has linked, and can link: for their own page.

use std::net::IpAddr;

use bartizan_model::ServerName;
use bartizan_store::links::{Account, LinkError, Linked};

use super::Linking;
use crate::{Deed, Report, facade::Person, outbound::Revoked};

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

/// What became of an account that a person unlinked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unlinked {
    /// Its authorization server took back what it had granted, and the gate has forgotten it.
    Revoked,
    /// The gate has forgotten it; what was granted ends by itself, or where the person takes it back.
    Forgotten,
    /// There was none.
    Nothing,
}

impl Unlinked {
    /// For the person.
    pub fn words(self) -> &'static str {
        match self {
            Self::Revoked => {
                "The server has taken back what you allowed, and the gate has forgotten your account there."
            }
            Self::Forgotten => {
                "The gate has forgotten your account there. The server did not confirm that it takes back what you allowed: if it \
                 lists the applications you let in, remove this gate from that list."
            }
            Self::Nothing => "You have no account linked there.",
        }
    }
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

    /// Has what the account of `person` at `server` stands on revoked where it was granted (RFC 7009), and forgets it, asked
    /// for from `peer`. It is forgotten even where nobody revokes it: here it is worth nothing from then on.
    ///
    /// # Errors
    /// [`LinkError`]; the account is linked still.
    pub async fn unlink(
        &self,
        person: &Person,
        server: &ServerName,
        peer: IpAddr,
    ) -> Result<Unlinked, LinkError> {
        let (issuer, subject) = (person.issuer.clone(), person.subject.clone());
        let account = Account { issuer, subject, server: server.clone() };
        let revoked = match self.servers.get(server) {
            Some(credential) => credential.revoke(&account.issuer, &account.subject).await,
            None => Err("the server takes linked accounts no more".to_owned()),
        };
        let unlinked = match revoked {
            Ok(Revoked::Nothing) => return Ok(Unlinked::Nothing),
            Ok(Revoked::Yes { left: None, .. }) => Unlinked::Revoked,
            Ok(Revoked::Yes { left: Some(_), .. } | Revoked::NoWay { .. }) => Unlinked::Forgotten,
            Err(why) => {
                let was_linked = self.means.links.unlink(&account).await?;
                if let Some(credential) = self.servers.get(server) {
                    credential.0.forget(&account);
                }
                if !was_linked {
                    return Ok(Unlinked::Nothing);
                }
                tracing::warn!(%server, why, "an account was unlinked, and not revoked where it was granted");
                Unlinked::Forgotten
            }
        };
        let reason = match unlinked {
            Unlinked::Revoked => "link.taken-back",
            Unlinked::Forgotten | Unlinked::Nothing => "link.forgotten",
        };
        let report = Report::new(Deed::AccountUnlinked, reason).by(person).at(peer);
        self.ledger.mention(Report { server: Some(server.clone()), ..report });
        Ok(unlinked)
    }
}
