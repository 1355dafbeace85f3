//! `WWW-Authenticate`: what a client must do to get in (RFC 6750 §3, RFC 9728 §5.1, RFC 9449 §7.1, RFC 9470).

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::{AuthenticationRequired, Error, dpop, resource::Resource};

/// What a client asks its authorization server for, so that the person signs in as the resource needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StepUp {
    /// An Entra claims challenge: a JSON text, which the client hands over as the `claims` parameter.
    Claims(String),
    /// RFC 9470 §3.
    Rfc9470 {
        /// `acr_values`, in order of preference.
        contexts: Vec<String>,
        /// `max_age`, in seconds.
        max_age_s: Option<u64>,
    },
}

impl StepUp {
    /// A challenge that came from Entra itself, when the gate asked it for a token on the caller's behalf: relayed.
    pub fn relay(claims: String) -> Self {
        Self::Claims(claims)
    }

    /// A sign-in that is fresh, whatever the last one was (RFC 9470 §3: `max_age` of zero).
    pub(crate) fn sign_in_again() -> Self {
        Self::Rfc9470 { contexts: Vec::new(), max_age_s: Some(0) }
    }

    pub(crate) fn rfc9470(required: &AuthenticationRequired) -> Self {
        Self::Rfc9470 { contexts: required.contexts.clone(), max_age_s: required.max_age_s }
    }

    /// Asks Entra for the first of these authentication contexts of conditional access.
    pub(crate) fn entra(contexts: &[String]) -> Self {
        let value = contexts.first().map_or("", String::as_str);
        Self::Claims(
            serde_json::json!({ "access_token": { "acrs": { "essential": true, "value": value } } })
                .to_string(),
        )
    }

    pub(crate) fn error(&self) -> &'static str {
        match self {
            Self::Claims(_) => "insufficient_claims",
            Self::Rfc9470 { .. } => "insufficient_user_authentication",
        }
    }
}

/// The `WWW-Authenticate` lines of a refusal at `resource`; none where no challenge would help.
///
/// `Bearer` comes always, for MCP clients look there for `resource_metadata`; `DPoP` where proofs are demanded or one
/// was wrong.
pub(crate) fn lines(resource: &Resource, error: &Error, needs_dpop: bool) -> Vec<String> {
    let verdict = error.verdict();
    let is_helpless = verdict.error.is_none() && *error != Error::CredentialsMissing;
    if is_helpless {
        return Vec::new();
    }
    let is_about_proof = matches!(
        error,
        Error::NonceNeeded | Error::ProofInvalid(_) | Error::ProofMissing | Error::ProofReplayed
    );
    let mut bearer = Line::new("Bearer");
    bearer.add("resource_metadata", &resource.metadata_url);
    let scopes = match error {
        Error::ScopeInsufficient { needed } => needed,
        _ => &resource.required_scopes,
    };
    if !scopes.is_empty() {
        bearer.add("scope", &scopes.join(" "));
    }
    if let Some(name) = verdict.error {
        // What DPoP clients know how to repair, Bearer clients call a bad token.
        bearer.add("error", if is_about_proof { "invalid_token" } else { name });
        bearer.add("error_description", verdict.description);
    }
    match error {
        Error::AuthenticationInsufficient(StepUp::Claims(claims)) => {
            bearer.add("claims", &STANDARD.encode(claims))
        }
        Error::AuthenticationInsufficient(StepUp::Rfc9470 { contexts, max_age_s }) => {
            if !contexts.is_empty() {
                bearer.add("acr_values", &contexts.join(" "));
            }
            if let Some(seconds) = max_age_s {
                bearer.add("max_age", &seconds.to_string());
            }
        }
        _ => {}
    }
    let mut lines = vec![bearer];
    if needs_dpop || is_about_proof {
        let mut line = Line::new("DPoP");
        line.add("resource_metadata", &resource.metadata_url);
        line.add("algs", &dpop::ALGORITHMS.map(|algorithm| algorithm.name()).join(" "));
        if let Some(name) = verdict.error {
            line.add("error", name);
            line.add("error_description", verdict.description);
        }
        // Whoever tried a proof reads the line about proofs first.
        lines.insert(if is_about_proof { 0 } else { 1 }, line);
    }
    lines.into_iter().map(|line| line.text).collect()
}

struct Line {
    text: String,
    has_parameters: bool,
}

impl Line {
    fn new(scheme: &str) -> Self {
        Self { text: scheme.to_owned(), has_parameters: false }
    }

    /// A parameter as quoted-string. Values are ours or the operator's; what could end the string early is left out.
    fn add(&mut self, name: &str, value: &str) {
        self.text.push_str(if self.has_parameters { ", " } else { " " });
        self.has_parameters = true;
        self.text.push_str(name);
        self.text.push_str("=\"");
        self.text.extend(value.chars().filter(|c| matches!(c, ' '..='~') && !matches!(c, '"' | '\\')));
        self.text.push('"');
    }
}
