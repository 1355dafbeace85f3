//! Tokens for the gate itself, from a token endpoint (RFC 6749 §4.4).

use std::time::Duration;

use bartizan_egress::Endpoint;
use bartizan_model::Secret;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use serde::Deserialize;

/// How long a token endpoint may take.
const WITHIN: Duration = Duration::from_secs(15);

/// The longest answer, in bytes.
const LONGEST: usize = 64 << 10;

/// A token is not used in the last minutes of its life: it must not expire on the way.
const MARGIN: Duration = Duration::from_secs(120);

#[derive(Deserialize)]
struct Granted {
    access_token: String,
    #[serde(default)]
    expires_in: u64,
}

#[derive(Deserialize)]
struct Refused {
    error: String,
}

/// Sends `form` to the token endpoint; the token, and for how long from now it is used.
///
/// # Errors
/// What went wrong, in words that repeat no secret.
pub async fn ask(endpoint: &Endpoint, form: Bytes) -> Result<(Secret, Duration), String> {
    let mut headers = HeaderMap::new();
    let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
    headers.insert(header::CONTENT_TYPE, kind);
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    let words = |error: bartizan_egress::Error| format!("the token endpoint: {error}");
    let response = endpoint.send(Method::POST, headers, form, WITHIN).await.map_err(words)?;
    let status = response.status();
    let body = response.into_body().collect_within(LONGEST, WITHIN).await.map_err(words)?;
    if !status.is_success() {
        // The description may quote what we sent; the code is one of a list.
        let code = serde_json::from_slice::<Refused>(&body).map(|refused| refused.error);
        let code = code.ok().filter(|c| c.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
        let code = code.map(|code| format!(" ({code})")).unwrap_or_default();
        return Err(format!("the token endpoint answered {}{code}", status.as_u16()));
    }
    let granted: Granted =
        serde_json::from_slice(&body).map_err(|_| "the token endpoint gave no token".to_owned())?;
    let lasts = Duration::from_secs(granted.expires_in).saturating_sub(MARGIN);
    Ok((Secret::new(granted.access_token), lasts))
}
