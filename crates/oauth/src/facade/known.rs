//! What comes to be known of a request while it is answered, for the record of its refusal.

use bartizan_store::grants::Grant;

use super::{
    Asked,
    authorize::Granted,
    client::{Client, Origin},
    refusal::Refusal,
};
use crate::{Deed, Report};

/// Whose request it is, and what it is about, as far as it was found out and not merely said.
#[derive(Debug, Default)]
pub(crate) struct Known {
    client: Option<String>,
    /// Whether it is a client of the operator's that has proved so.
    is_proven: bool,
    person: Option<(String, String)>,
    grant: Option<String>,
    resource: Option<String>,
    scopes: Vec<String>,
}

impl Known {
    /// The client that the request names.
    pub fn named(&mut self, client: &Client) {
        self.client = Some(client.id().to_owned());
    }

    /// The client has shown what it has to show. Of those that the operator did not write down anybody can be one.
    pub fn authenticated(&mut self, client: &Client) {
        self.is_proven = !client.is_public() && client.origin == Origin::Configured;
    }

    /// Whether a refusal of the request tires us: not of a client of the operator's, nor of a code or token that we gave, which may have
    /// ended without its client's doing. That one is shown twice is its client's doing.
    pub fn tires(&self, refusal: Refusal) -> bool {
        let is_dead = self.grant.is_some() && !refusal.reason().ends_with(".replayed");
        refusal.is_the_clients() && !self.is_proven && !is_dead
    }

    /// The grant that a code or token stands on. Of one that is another client's, nothing is this client's.
    pub fn grant(&mut self, grant: &Grant) {
        self.person = Some((grant.issuer.clone(), grant.subject.clone()));
        self.grant = Some(grant.id.clone());
        if let Ok(granted) = serde_json::from_str::<Granted>(&grant.content) {
            self.resource = Some(granted.resource);
            self.scopes = granted.scopes;
        }
    }

    /// What becomes of the request, `deed`, for the record.
    pub fn report(self, deed: Deed, reason: &'static str, asked: &Asked<'_>) -> Report {
        Report {
            client: self.client,
            person: self.person,
            grant: self.grant,
            resource: self.resource,
            scopes: self.scopes,
            ..Report::new(deed, reason).at(asked.peer)
        }
    }

    /// The refusal of the request.
    pub fn refused(self, asked: &Asked<'_>, refusal: Refusal) -> Report {
        let reason = refusal.reason();
        let deed = match asked.path {
            "/oauth/register" => Deed::ClientRefused,
            _ if reason.ends_with(".replayed") => Deed::TokenReplayed,
            _ => Deed::TokenRefused,
        };
        let words = match refusal {
            Refusal::Request(why)
            | Refusal::RedirectUri(why)
            | Refusal::Metadata(why)
            | Refusal::Proof(why) => format!("{}: {why}", asked.path),
            _ => asked.path.to_owned(),
        };
        Report { words: Some(words), ..self.report(deed, reason, asked) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_ours_and_clients_that_prove_themselves_do_not_tire() {
        let (dead, made_up) = (Refusal::Grant("refresh.expired"), Refusal::Grant("refresh.unknown"));
        let found = Known { grant: Some("g".to_owned()), ..Known::default() };
        assert!(Known::default().tires(made_up) && !found.tires(dead));
        assert!(found.tires(Refusal::Grant("code.replayed")), "over and over");
        let proven = Known { is_proven: true, ..Known::default() };
        assert!(!proven.tires(made_up));
        assert!(!Known::default().tires(Refusal::Unavailable));
    }
}
