//! Sign-ins, tokens, consents, linked accounts and clients, as the audit log has them.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bartizan_audit::{
    Details, Event, Kind, Log, Text,
    event::{Change, Decision, Owasp},
};
use bartizan_model::{Caller, Clock, ServerName};
use bartizan_oauth::{Deed, Ledger, Report, Unrecorded};

use super::{REFUSALS_A_SECOND, Recorder, reason, voice::Cap};

/// Consent pages shown in one second that are recorded: whoever can reach the gate can have one made.
const PAGES_A_SECOND: u64 = 20;

/// Keeps the record of identity in the audit log.
pub struct IdentityLedger {
    log: Log,
    clock: std::sync::Arc<dyn Clock>,
    /// The server behind each resource that is one server's endpoint.
    servers: BTreeMap<String, ServerName>,
    refused: Cap,
    replayed: Cap,
    pages: Cap,
}

impl IdentityLedger {
    /// Writes where `recorder` does. `servers` are the servers behind resources that are one server's endpoint, by the
    /// resource's URL.
    pub fn new(recorder: &Recorder, servers: BTreeMap<String, ServerName>) -> Self {
        Self {
            log: recorder.log.clone(),
            clock: std::sync::Arc::clone(&recorder.clock),
            servers,
            refused: Cap::default(),
            replayed: Cap::default(),
            pages: Cap::default(),
        }
    }

    fn event(&self, report: Report, more: u64) -> Event {
        let (kind, decision) = kind_of(report.deed);
        let server = report.server.or_else(|| self.servers.get(report.resource.as_deref()?).cloned());
        let change = report.metadata.map(|(before, after)| Change {
            entity: Text::new("client"),
            name: Text::new(report.client.as_deref().unwrap_or_default()),
            from: before.as_deref().map(Text::new),
            to: Some(Text::new(&after)),
        });
        let details = Details {
            server,
            resource: report.resource.as_deref().map(bare),
            scopes: report.scopes.iter().map(|scope| Text::new(scope)).collect(),
            grant: report.grant.as_deref().map(Text::new),
            redirect_uri: report.redirect_uri.as_deref().map(bare),
            decision,
            reason: reason(report.reason),
            owasp: owasp(report.deed, report.reason),
            change,
            message: report.words.as_deref().map(Text::new),
            count: (more > 0).then_some(more),
            ..Details::default()
        };
        let mut event = Event::new(kind).at(report.address).of_client(report.client.as_deref()).with(details);
        if let Some((issuer, subject)) = report.person {
            event = event.by(&Caller::new(issuer, subject, report.client.unwrap_or_default()));
        }
        event
    }
}

#[async_trait]
impl Ledger for IdentityLedger {
    async fn enter(&self, report: Report) -> Result<(), Unrecorded> {
        match self.log.note(self.event(report, 0)).await {
            Ok(_) => Ok(()),
            Err(lost) => {
                tracing::error!(%lost, "the audit log cannot be written, so nobody is let in");
                Err(Unrecorded)
            }
        }
    }

    fn mention(&self, report: Report) {
        let now = self.clock.now().as_unix();
        let more = match report.deed {
            Deed::TokenReplayed => self.replayed.admit(now, REFUSALS_A_SECOND),
            Deed::SignInRefused | Deed::TokenRefused | Deed::AccountRefused | Deed::ClientRefused => {
                self.refused.admit(now, REFUSALS_A_SECOND)
            }
            Deed::ConsentAsked | Deed::ClientFetched => self.pages.admit(now, PAGES_A_SECOND),
            _ => Some(0),
        };
        if let Some(more) = more {
            self.log.mention(self.event(report, more));
        }
    }
}

/// A URI without its query.
fn bare(uri: &str) -> Text {
    Text::new(uri.split('?').next().unwrap_or_default())
}

fn kind_of(deed: Deed) -> (Kind, Option<Decision>) {
    let (permit, deny) = (Some(Decision::Permit), Some(Decision::Deny));
    match deed {
        Deed::SignedIn => (Kind::SignInSucceeded, permit),
        Deed::SignInRefused => (Kind::SignInFailed, deny),
        Deed::SignedOut => (Kind::SignedOut, None),
        Deed::TokenIssued => (Kind::TokenIssued, permit),
        Deed::TokenRefreshed => (Kind::TokenRefreshed, permit),
        Deed::TokenRefused => (Kind::TokenRefused, deny),
        Deed::TokenReplayed => (Kind::TokenReplayed, deny),
        Deed::TokenRevoked => (Kind::TokenRevoked, None),
        Deed::ConsentAsked => (Kind::ConsentAsked, None),
        Deed::ConsentGranted => (Kind::ConsentGranted, permit),
        Deed::ConsentDenied => (Kind::ConsentDenied, deny),
        Deed::ConsentWithdrawn => (Kind::ConsentWithdrawn, None),
        Deed::AccountLinked => (Kind::AccountLinked, permit),
        Deed::AccountUnlinked => (Kind::AccountUnlinked, None),
        Deed::AccountRefused => (Kind::AccountRefused, deny),
        Deed::ClientRegistered => (Kind::ClientChanged, permit),
        Deed::ClientFetched => (Kind::ClientFetched, permit),
        Deed::ClientRefused => (Kind::ClientRefused, deny),
    }
}

/// The risks that a refusal bears on; what went well bears on none.
fn owasp(deed: Deed, reason: &str) -> Vec<Owasp> {
    match (deed, reason) {
        (_, "audit.unavailable") => vec![Owasp::Mcp08],
        (Deed::TokenReplayed, _) => vec![Owasp::Mcp01, Owasp::Mcp07],
        // More than was granted, or may be.
        (_, "grant.scope" | "request.scope" | "refresh.scope") => vec![Owasp::Mcp02],
        // A token that is wanted for something else than it was granted for.
        (_, "grant.target" | "request.resource") => vec![Owasp::Mcp01],
        (Deed::ClientRefused, "client.document" | "registration.metadata" | "registration.redirect-uri") => {
            vec![Owasp::Mcp07, Owasp::Mcp09]
        }
        (Deed::SignInRefused | Deed::TokenRefused | Deed::AccountRefused | Deed::ClientRefused, _) => {
            vec![Owasp::Mcp07]
        }
        _ => Vec::new(),
    }
}
