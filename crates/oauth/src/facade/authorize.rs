//! The authorization request and its two ends (RFC 6749 §4.1, RFC 7636, RFC 8707, RFC 9207; spec.md F-08 to F-16).
//!
//! What happens between [`Facade::begin`] and [`Facade::complete`] is the other half's: the person, their consent and
//! their sign-in.

use std::{sync::Arc, time::Duration};

use bartizan_store::{Digest, grants::Grant};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use url::form_urlencoded;

use super::{
    Asked, AuthorizationRequest, Facade, FacadeResource, GrantType, Person, client::Client, form::Parameters,
};
use crate::{Deed, Report, json::Object, scope};

/// How long a code is good.
const CODE_GOOD: Duration = Duration::from_secs(60);
/// Bytes of `state`, and of `claims`.
const MAX_STATE: usize = 2 * 1024;
const MAX_CLAIMS: usize = 4 * 1024;

/// An authorization request that leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unanswerable {
    /// The client or its redirect URI is not known, so that nobody may be sent there: a page says so (spec.md F-12).
    Page {
        /// The HTTP status.
        status: u16,
        /// What is wrong, for the person and whoever wrote the client.
        words: &'static str,
        /// For the audit trail; it never changes its meaning.
        reason: &'static str,
    },
    /// The client is told: the `Location` to send the browser to.
    Redirect {
        /// The client's redirect URI with `error`, `state` and `iss`.
        location: String,
        /// What the client calls itself, unless the operator wrote it down. A browser does not go to a stranger's address by
        /// itself only because they sent it here with a mistake (RFC 9700 §4.11.2; spec.md F-13).
        stranger: Option<String>,
        /// What is wrong, for whoever wrote the client; the `error_description` of the redirect too.
        words: &'static str,
        /// For the audit trail; it never changes its meaning.
        reason: &'static str,
    },
}

/// Why no code was made for a person who consented.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Incomplete {
    /// The client, or what is known of it, has changed since it asked: what the person consented to is gone.
    #[error("the application has changed since it asked; start again from it")]
    ClientChanged,
    /// The store is out of reach.
    #[error("the authorization server cannot answer at the moment; try again")]
    Unavailable,
}

/// What a person granted, as it is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Granted {
    pub person: Person,
    pub redirect_uri: String,
    pub code_challenge: String,
    pub resource: String,
    pub scopes: Vec<String>,
    pub dpop_jkt: Option<String>,
}

/// The person who gave a grant.
pub(crate) fn person_of(content: &str) -> Option<Person> {
    serde_json::from_str::<Granted>(content).ok().map(|granted| granted.person)
}

impl Facade {
    /// Checks a request to the authorization endpoint: a GET of `/oauth/authorize`.
    ///
    /// # Errors
    /// [`Unanswerable`]; nothing has happened then, and no cookie is needed for saying so.
    pub async fn begin(&self, asked: &Asked<'_>) -> Result<AuthorizationRequest, Unanswerable> {
        let mut known = None;
        let begun = self.examine(asked, &mut known).await;
        if let Err(Unanswerable::Page { reason, .. } | Unanswerable::Redirect { reason, .. }) = &begun
            // A document that cannot be used is on record already.
            && *reason != "client.document"
        {
            let refused = Report::new(Deed::ClientRefused, reason).at(asked.peer);
            self.ledger.mention(Report { client: known, ..refused });
        }
        begun
    }

    async fn examine(
        &self,
        asked: &Asked<'_>,
        known: &mut Option<String>,
    ) -> Result<AuthorizationRequest, Unanswerable> {
        let parameters = Parameters::parse(asked.query.unwrap_or_default().as_bytes());
        let page = |status, words, reason| Unanswerable::Page { status, words, reason };
        let id = parameters.get("client_id").ok_or(page(
            400,
            "The application does not say which it is, or says it twice.",
            "client.missing",
        ))?;
        let client = self.clients.find(id, Some(asked.peer)).await.map_err(|lost| lost.page())?;
        *known = Some(client.id().to_owned());
        let unknown_uri = page(
            400,
            "The application asks to send you to an address that is none of its own.",
            "client.redirect-uri",
        );
        let redirect_uri = parameters.get("redirect_uri").ok_or(unknown_uri.clone())?;
        let strict = self.config.strict_loopback_port;
        if !client.may(GrantType::AuthorizationCode) || !client.may_be_sent_to(redirect_uri, strict) {
            return Err(unknown_uri);
        }
        if parameters.get("state").is_some_and(|state| state.len() > MAX_STATE)
            || parameters.is_broken("state")
        {
            return Err(page(
                400,
                "The application sends a state that is too long, or twice.",
                "request.state",
            ));
        }
        let state = parameters.get("state");
        self.check(&parameters, &client, redirect_uri).map_err(|(error, reason)| {
            let application = client.application();
            let words = words_of(reason);
            let told = [("error", Some(error)), ("error_description", Some(words)), ("state", state)];
            Unanswerable::Redirect {
                location: self.back(redirect_uri, &told),
                stranger: (!application.is_preregistered).then_some(application.name),
                words,
                reason,
            }
        })
    }

    /// What is told to the client by redirect: everything but who it is and where it is.
    fn check(
        &self,
        parameters: &Parameters,
        client: &Arc<Client>,
        redirect_uri: &str,
    ) -> Result<AuthorizationRequest, (&'static str, &'static str)> {
        let malformed = |reason| ("invalid_request", reason);
        if parameters.is_broken("resource") {
            return Err(("invalid_target", "request.resource"));
        }
        if parameters.is_repeating() {
            return Err(malformed("request.repeated"));
        }
        match parameters.get("response_type") {
            Some("code") => {}
            Some(_) => return Err(("unsupported_response_type", "request.response-type")),
            None => return Err(malformed("request.response-type")),
        }
        if parameters.has("request") {
            return Err(("request_not_supported", "request.object"));
        }
        if parameters.has("request_uri") {
            return Err(("request_uri_not_supported", "request.object"));
        }
        if parameters.get("response_mode").is_some_and(|mode| mode != "query") {
            return Err(malformed("request.response-mode"));
        }
        let challenge = parameters.get("code_challenge").filter(|text| is_digest(text));
        let code_challenge = challenge.ok_or(malformed("request.pkce"))?.to_owned();
        // Without a method it would be `plain` (RFC 7636 §4.3; attacks.md AA-06).
        if parameters.get("code_challenge_method") != Some("S256") {
            return Err(malformed("request.pkce"));
        }
        let resource =
            self.resource(parameters.get("resource")).ok_or(("invalid_target", "request.resource"))?;
        let scopes = self
            .scopes(parameters.get("scope"), resource, client)
            .ok_or(("invalid_scope", "request.scope"))?;
        let dpop_jkt = parameters.get("dpop_jkt");
        if dpop_jkt.is_some_and(|jkt| !is_digest(jkt)) {
            return Err(malformed("request.dpop"));
        }
        let mut max_age_s = match parameters.get("max_age") {
            None => None,
            Some(text) => Some(text.parse::<u64>().map_err(|_| malformed("request.max-age"))?),
        };
        for prompt in parameters.get("prompt").unwrap_or_default().split(' ').filter(|word| !word.is_empty())
        {
            match prompt {
                // There is always a page: nobody is sent on to a client unseen (spec.md F-13).
                "none" => return Err(("interaction_required", "request.prompt")),
                "login" | "select_account" => max_age_s = Some(0),
                "consent" => {}
                _ => return Err(malformed("request.prompt")),
            }
        }
        let claims = parameters.get("claims");
        if claims.is_some_and(|text| text.len() > MAX_CLAIMS || Object::parse(text.as_bytes()).is_err()) {
            return Err(malformed("request.claims"));
        }
        let contexts = parameters.get("acr_values").unwrap_or_default();
        Ok(AuthorizationRequest {
            client: client.application(),
            redirect_uri: redirect_uri.to_owned(),
            scopes,
            resource: resource.url.to_string(),
            state: parameters.get("state").map(str::to_owned),
            code_challenge,
            dpop_jkt: dpop_jkt.map(str::to_owned),
            max_age_s,
            contexts: contexts.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect(),
            claims: claims.map(str::to_owned),
        })
    }

    /// The resource of this URL, byte for byte; without one the only resource there is (RFC 8707 §2; spec.md F-14).
    pub(crate) fn resource(&self, url: Option<&str>) -> Option<&FacadeResource> {
        match (url, self.resources.as_slice()) {
            (None, [only]) => Some(only),
            (None, _) => None,
            (Some(url), resources) => resources.iter().find(|resource| resource.url.as_str() == url),
        }
    }

    /// The same for a grant at which nobody is asked.
    pub(crate) fn resource_unasked(&self, url: Option<&str>) -> Option<&FacadeResource> {
        self.resource(url).filter(|resource| !resource.by_consent_only)
    }

    /// The scopes that are asked for, in order, without repetition; `None` if the resource does not know one of them, or
    /// the client may not have it. Without any, the resource's usual ones.
    pub(crate) fn scopes(
        &self,
        asked: Option<&str>,
        resource: &FacadeResource,
        client: &Client,
    ) -> Option<Vec<String>> {
        let mut scopes: Vec<String> = Vec::new();
        for word in asked.unwrap_or_default().split(' ').filter(|word| !word.is_empty()) {
            if !scope::is_scope(word) {
                return None;
            }
            // It asks for a refresh token. Whether there is one is for the client's metadata to say (spec.md F-37).
            if word == "offline_access" || scopes.iter().any(|scope| scope == word) {
                continue;
            }
            if !resource.scopes.contains_key(word) || !client.may_have(word) {
                return None;
            }
            scopes.push(word.to_owned());
        }
        if scopes.is_empty() {
            scopes = resource.default_scopes.iter().filter(|scope| client.may_have(scope)).cloned().collect();
        }
        (!scopes.is_empty() || resource.scopes.is_empty()).then_some(scopes)
    }

    /// Makes a code for a person who consented to `request` and signed in, and answers the `Location` that takes it to the
    /// client. The code is good once, for a minute, for this client, redirect URI, PKCE challenge and DPoP key.
    ///
    /// # Errors
    /// [`Incomplete`]; there is no code then.
    pub async fn complete(
        &self,
        request: AuthorizationRequest,
        person: &Person,
    ) -> Result<String, Incomplete> {
        let report = Report::new(Deed::TokenRefused, "client.changed").about(&request).by(person);
        let done = self.make_code(request, person).await;
        if let Err(lost) = done {
            let reason = match lost {
                Incomplete::ClientChanged => report.reason,
                Incomplete::Unavailable => "facade.unavailable",
            };
            self.ledger.mention(Report { reason, ..report });
        }
        done
    }

    async fn make_code(&self, request: AuthorizationRequest, person: &Person) -> Result<String, Incomplete> {
        let client =
            self.clients.find(&request.client.id, None).await.map_err(|_| Incomplete::ClientChanged)?;
        let strict = self.config.strict_loopback_port;
        let is_same = client.metadata.digest() == request.client.metadata
            && client.may(GrantType::AuthorizationCode)
            && client.may_be_sent_to(&request.redirect_uri, strict);
        let resource = self.resource(Some(&request.resource)).filter(|_| is_same);
        let resource = resource.ok_or(Incomplete::ClientChanged)?;
        let is_granted = |scope: &String| resource.scopes.contains_key(scope) && client.may_have(scope);
        if !request.scopes.iter().all(is_granted) {
            return Err(Incomplete::ClientChanged);
        }
        let now = self.clock.now();
        let code = self.secret();
        let granted = Granted {
            person: Person { name: None, ..person.clone() },
            redirect_uri: request.redirect_uri.clone(),
            code_challenge: request.code_challenge,
            resource: request.resource,
            scopes: request.scopes,
            dpop_jkt: request.dpop_jkt,
        };
        let grant = Grant {
            id: self.id(),
            client: request.client.id,
            issuer: person.issuer.clone(),
            subject: person.subject.clone(),
            // It is made of strings, numbers and lists.
            content: serde_json::to_string(&granted).unwrap_or_default(),
            made_at: now,
            expires_at: now.plus(Duration::from_secs(self.config.grant_s)),
        };
        let begun =
            self.grants.begin(&grant, Digest::of(code.reveal().as_bytes()), now.plus(CODE_GOOD)).await;
        begun.map_err(|error| {
            tracing::error!(%error, "a code could not be kept");
            Incomplete::Unavailable
        })?;
        let state = request.state.as_deref();
        Ok(self.back(&request.redirect_uri, &[("code", Some(code.reveal())), ("state", state)]))
    }

    /// The `Location` that tells the client of `request` why there is no code: an `error` of RFC 6749 §4.1.2.1, such as
    /// `access_denied`.
    pub fn deny(&self, request: &AuthorizationRequest, error: &str) -> String {
        self.back(&request.redirect_uri, &[("error", Some(error)), ("state", request.state.as_deref())])
    }

    /// A redirect URI with these parameters and `iss` (RFC 9207), beside those it has.
    fn back(&self, redirect_uri: &str, parameters: &[(&str, Option<&str>)]) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        for (name, value) in parameters {
            if let Some(value) = value {
                query.append_pair(name, value);
            }
        }
        query.append_pair("iss", &self.issuer);
        let mark = if redirect_uri.contains('?') { '&' } else { '?' };
        format!("{redirect_uri}{mark}{}", query.finish())
    }
}

/// What is wrong with a request that is refused for `reason`, in the characters of an `error_description` (RFC 6749 §4.1.2.1).
fn words_of(reason: &str) -> &'static str {
    match reason {
        "request.claims" => "`claims` is no JSON object, or too long",
        "request.dpop" => "`dpop_jkt` is no SHA-256 thumbprint in base64url",
        "request.max-age" => "`max_age` is no number of seconds",
        "request.object" => "request objects are not taken; send the parameters themselves",
        "request.pkce" => "PKCE is needed: `code_challenge`, and `code_challenge_method` S256",
        "request.prompt" => {
            "there is always a page, so `prompt` is login, consent, select_account or nothing"
        }
        "request.repeated" => "a parameter is sent twice",
        "request.resource" => {
            "`resource` must be the URL of one endpoint of this gate, as its metadata has it"
        }
        "request.response-mode" => "`response_mode` is query, or nothing",
        "request.response-type" => "`response_type` must be code",
        "request.scope" => "a scope is not one of that endpoint, or not one of this client",
        _ => "the request cannot be understood",
    }
}

/// Whether a text is a SHA-256 as base64url.
fn is_digest(text: &str) -> bool {
    text.len() == 43 && URL_SAFE_NO_PAD.decode(text).is_ok_and(|bytes| bytes.len() == 32)
}
