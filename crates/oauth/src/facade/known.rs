//! What comes to be known of a request while it is answered, for the record of its refusal.

use bartizan_store::grants::Grant;

use super::{Asked, authorize::Granted, refusal::Refusal};
use crate::{Deed, Report};

/// Whose request it is, and what it is about, as far as it was found out and not merely said.
#[derive(Debug, Default)]
pub(crate) struct Known {
    pub client: Option<String>,
    person: Option<(String, String)>,
    grant: Option<String>,
    resource: Option<String>,
    scopes: Vec<String>,
}

impl Known {
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
