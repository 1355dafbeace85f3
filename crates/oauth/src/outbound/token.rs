//! Asking a token endpoint (RFC 6749 §5).

use std::time::Duration;

use bartizan_model::{Clock, Entropy, Secret, Timestamp};
use http::{HeaderMap, HeaderValue, header};

use super::{
    client::{Client, Form},
    metadata::AuthorizationServer,
    sensitive,
};
use crate::{
    fetch::{Fetch, Sent},
    json::{Object, Value},
};

/// How long before its end a token counts as over: a request takes its time.
const EARLY: Duration = Duration::from_secs(30);
/// The life of a token that does not say how long it lives; a refusal may end it sooner.
const UNSAID: Duration = Duration::from_secs(300);
/// Bytes of the longest `claims` that are relayed: they go into a header line, as Base64.
const MAX_CLAIMS: usize = 3 * 1024;

/// What a token endpoint gave.
#[derive(Clone)]
pub(crate) struct Tokens {
    pub access: Secret,
    pub refresh: Option<Secret>,
    /// When the access token is as good as over.
    pub until: Timestamp,
    /// What was granted, if it is not what was asked for (RFC 6749 §5.1).
    pub scopes: Option<Vec<String>>,
    /// `issued_token_type` (RFC 8693 §2.2.1).
    pub issued: Option<String>,
}

/// Why there are no tokens.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Denied {
    /// The authorization server will not: the code of RFC 6749 §5.2, or what stands for it.
    #[error("the authorization server refuses: {0}")]
    Refused(String),
    /// It wants to see the person, as this says: the value of Entra's `claims` parameter.
    #[error("the authorization server wants the person to sign in again")]
    Interaction(Option<String>),
    /// Nobody has consented to what is asked for.
    #[error("the authorization server refuses for want of consent")]
    Consent,
    /// It cannot be asked, or its answer is none. The same may succeed later.
    #[error("the token endpoint: {0}")]
    Failed(String),
}

impl Denied {
    /// Whether the grant itself is over, so that only its person can renew it.
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Consent) || matches!(self, Self::Refused(code) if code == "invalid_grant")
    }

    /// Whether the server no longer knows who we are.
    pub fn is_stranger(&self) -> bool {
        matches!(self, Self::Refused(code) if code == "invalid_client")
    }
}

/// POSTs `form` as `client`.
pub(super) async fn request(
    server: &AuthorizationServer,
    client: &Client,
    form: Form,
    fetch: &dyn Fetch,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
) -> Result<Tokens, Denied> {
    let (form, authorization) = client.sign(form, &server.issuer, clock, entropy).map_err(Denied::Failed)?;
    let mut headers = HeaderMap::new();
    let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
    headers.insert(header::CONTENT_TYPE, kind);
    if let Some(authorization) = authorization {
        let line = sensitive(&authorization).map_err(|why| Denied::Failed(why.to_string()))?;
        headers.insert(header::AUTHORIZATION, line);
    }
    // From before the question: a slow answer must not make a token live longer.
    let now = clock.now();
    let sent = Sent { headers, body: form.encode() };
    let answer = fetch
        .send(&server.token_endpoint, server.token_named_by, sent)
        .await
        .map_err(|error| Denied::Failed(error.to_string()))?;
    read(answer.status, &answer.body, now)
}

pub(crate) fn read(status: u16, body: &[u8], now: Timestamp) -> Result<Tokens, Denied> {
    let failed = |what: &str| Denied::Failed(format!("{what} (HTTP {status})"));
    let answer = Object::parse(body).map_err(|_| failed("its answer is no JSON object"))?;
    if let Ok(Some(code)) = answer.text("error") {
        match (code, answer.text("suberror")) {
            ("consent_required", _) | ("invalid_grant", Ok(Some("consent_required"))) => {
                return Err(Denied::Consent);
            }
            ("interaction_required" | "login_required", _) => {
                return Err(Denied::Interaction(claims_of(&answer)));
            }
            _ => {}
        }
        // One of a list, or a URL: no prose of a stranger in our log.
        let is_code =
            code.len() <= 100 && code.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-:/.".contains(&b));
        return Err(Denied::Refused(if is_code { code } else { "for a reason it does not name" }.to_owned()));
    }
    if status != 200 {
        return Err(failed("it answered no token"));
    }
    let text = |name| answer.text(name).ok().flatten().map(|text| Secret::new(text.to_owned()));
    let access = text("access_token").ok_or_else(|| failed("its answer has no `access_token`"))?;
    // A token of another type would be worth nothing, or the wrong thing, behind `Bearer` (RFC 6749 §7.1).
    if !matches!(answer.text("token_type"), Ok(Some(kind)) if kind.eq_ignore_ascii_case("bearer")) {
        return Err(failed("its token is no bearer token"));
    }
    let life = match answer.value("expires_in") {
        Some(Value::Unsigned(seconds)) => Duration::from_secs(*seconds),
        Some(Value::String(text)) => text.parse().map_or(UNSAID, Duration::from_secs),
        _ => UNSAID,
    };
    let early = EARLY.min(life / 2);
    let scopes = answer.text("scope").ok().flatten();
    Ok(Tokens {
        access,
        refresh: text("refresh_token"),
        until: now.plus(life.saturating_sub(early)),
        scopes: scopes.map(|s| s.split_ascii_whitespace().map(str::to_owned).collect()),
        issued: answer.text("issued_token_type").ok().flatten().map(str::to_owned),
    })
}

/// The `claims` of an answer, if they are what a client could hand over: a JSON object of a few kilobytes.
fn claims_of(answer: &Object) -> Option<String> {
    let text = answer.text("claims").ok().flatten()?;
    is_claims(text).then(|| text.to_owned())
}

/// Whether a text can be the value of a `claims` parameter (OpenID Connect Core §5.5).
pub(super) fn is_claims(text: &str) -> bool {
    text.len() <= MAX_CLAIMS && Object::parse(text.as_bytes()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_unix(1000);

    #[test]
    fn only_a_bearer_token_is_a_token() {
        let read = |status, body: &str| read(status, body.as_bytes(), NOW);
        let good =
            read(200, r#"{"access_token":"a","token_type":"bearer","expires_in":600,"scope":"x y"}"#).ok();
        let good = good.unwrap();
        assert_eq!((good.access.reveal(), good.until), ("a", Timestamp::from_unix(1570)));
        assert_eq!(good.scopes.unwrap(), ["x", "y"]);
        let short = read(200, r#"{"access_token":"a","token_type":"Bearer","expires_in":10}"#).ok().unwrap();
        assert_eq!(short.until, Timestamp::from_unix(1005));
        for bad in [
            r#"{"access_token":"a"}"#,
            r#"{"access_token":"a","token_type":"DPoP"}"#,
            r#"{"access_token":"","token_type":"Bearer"}"#,
            r#"{"access_token":"a\n","token_type":"Bearer"}"#,
            r#"{"access_token":"a","access_token":"b","token_type":"Bearer"}"#,
            "[]",
            "<html>",
        ] {
            assert!(matches!(read(200, bad), Err(Denied::Failed(_))), "{bad}");
        }
        assert!(read(400, r#"{"access_token":"a","token_type":"Bearer"}"#).is_err());
        let over = read(400, r#"{"error":"invalid_grant","error_description":"\u001b[2J"}"#).err().unwrap();
        assert!(over.is_over() && over.to_string().ends_with("invalid_grant"));
        let odd = read(400, r#"{"error":"ERROR forged line"}"#).err().unwrap();
        assert!(!odd.is_over() && !odd.to_string().contains("forged"));
    }
}
