//! Tokens of the identity that Azure manages for the machine we run on: no secret of ours is kept anywhere.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use bartizan_egress::{Egress, Endpoint};
use bartizan_model::{Clock, Secret, Timestamp};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::Value;
use tokio::{sync::Mutex, time::Instant};
use url::Url;

/// How long the platform may take.
const WITHIN: Duration = Duration::from_secs(5);
/// The longest answer, in bytes.
const LONGEST: usize = 64 << 10;
/// A token is not used in the last minutes of its life.
const MARGIN: Duration = Duration::from_secs(300);
/// How long is waited before the platform is asked again that is not ready or has too much to do; the instance metadata service
/// says so of a machine that has just started ("Retry guidance" of its documentation).
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(2)];
/// How long a failure is told to whoever asks: those who waited for the same answer get it too, and do not each ask once more.
const FAILURE_KEPT: Duration = Duration::from_secs(3);

/// What the platform said last.
#[derive(Default)]
struct Last {
    token: Option<(Secret, Timestamp)>,
    /// Why there was none, and when that was found out.
    failure: Option<(String, Instant)>,
}

/// Why a question came to nothing.
struct Failed {
    words: String,
    /// Nobody answered, as where the platform is not ready; it may be asked again.
    is_passing: bool,
}

impl From<bartizan_egress::Error> for Failed {
    fn from(error: bartizan_egress::Error) -> Self {
        use bartizan_egress::Error::{Broken, Connect, ConnectTimeout, Timeout};
        let is_passing = matches!(error, Broken(_) | Connect(_) | ConnectTimeout | Timeout);
        Self { words: error.to_string(), is_passing }
    }
}

/// The identity, and the last token it got for one resource.
pub struct ManagedIdentity {
    endpoint: Endpoint,
    /// What shows that we are meant: a mark, or what the environment holds.
    proof: (HeaderName, Secret),
    clock: Arc<dyn Clock>,
    /// Whoever holds the lock asks; the others wait for the answer.
    last: Mutex<Last>,
}

impl ManagedIdentity {
    /// The machine's identity towards `resource`; `client_id` says which, where there are several.
    ///
    /// On App Service and Container Apps the environment says whom to ask (`IDENTITY_ENDPOINT`, `IDENTITY_HEADER`); on
    /// virtual machines it is the instance metadata service.
    ///
    /// # Errors
    /// An environment that cannot be used.
    #[expect(clippy::disallowed_methods, reason = "the command line reads the environment")]
    pub fn new(
        egress: &Egress,
        resource: &str,
        client_id: Option<&str>,
        clock: Arc<dyn Clock>,
    ) -> anyhow::Result<Self> {
        let (named, proof) = match (std::env::var("IDENTITY_ENDPOINT"), std::env::var("IDENTITY_HEADER")) {
            (Ok(place), Ok(header)) => {
                let url =
                    Url::parse(&place).context("the environment variable IDENTITY_ENDPOINT is no URL")?;
                (Some(url), (HeaderName::from_static("x-identity-header"), Secret::new(header)))
            }
            _ => (None, (HeaderName::from_static("metadata"), Secret::new("true".to_owned()))),
        };
        let asked = bartizan_egress::ManagedIdentity { named: named.as_ref(), resource, client_id };
        let endpoint = egress.managed_identity(&asked).context("the managed identity's endpoint")?;
        Ok(Self { endpoint, proof, clock, last: Mutex::default() })
    }

    /// A token: the last one while it lasts.
    ///
    /// # Errors
    /// What went wrong, in words that repeat no secret.
    pub async fn token(&self) -> Result<Secret, String> {
        let mut last = self.last.lock().await;
        let now = self.clock.now();
        if let Some((token, until)) = &last.token
            && now < *until
        {
            return Ok(token.clone());
        }
        if let Some((why, at)) = &last.failure
            && at.elapsed() < FAILURE_KEPT
        {
            return Err(why.clone());
        }
        match self.ask(now).await {
            Ok((given, until)) => {
                *last = Last { token: Some((given.clone(), until)), failure: None };
                Ok(given)
            }
            Err(why) => {
                let why = format!("the managed identity: {why}");
                *last = Last { token: None, failure: Some((why.clone(), Instant::now())) };
                Err(why)
            }
        }
    }

    /// Forgets the token: it was not taken.
    pub async fn forget(&self) {
        self.last.lock().await.token = None;
    }

    async fn ask(&self, now: Timestamp) -> Result<(Secret, Timestamp), String> {
        let mut pauses = PAUSES.into_iter();
        loop {
            match (self.ask_once().await, pauses.next()) {
                (Ok((200, body)), _) => return read(&body, now),
                (Ok((404 | 410 | 429 | 500..=599, _)), Some(pause))
                | (Err(Failed { is_passing: true, .. }), Some(pause)) => tokio::time::sleep(pause).await,
                (Ok((status, _)), _) => return Err(format!("the platform answered {status}")),
                (Err(Failed { words, .. }), _) => return Err(words),
            }
        }
    }

    async fn ask_once(&self) -> Result<(u16, Vec<u8>), Failed> {
        let (name, proof) = &self.proof;
        let mut proof = HeaderValue::from_str(proof.reveal())
            .map_err(|_| Failed { words: "IDENTITY_HEADER fits no header".into(), is_passing: false })?;
        proof.set_sensitive(true);
        let headers = HeaderMap::from_iter([(name.clone(), proof)]);
        let response = self.endpoint.send(Method::GET, headers, Default::default(), WITHIN).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect_within(LONGEST, WITHIN).await?;
        Ok((status, body.to_vec()))
    }
}

/// The token in an answer, and until when it is used.
fn read(body: &[u8], now: Timestamp) -> Result<(Secret, Timestamp), String> {
    let answer: Value = serde_json::from_slice(body).map_err(|_| "the platform gave no token")?;
    let token = answer.get("access_token").and_then(Value::as_str).filter(|token| !token.is_empty());
    let token = token.ok_or("the platform gave no token")?;
    // Numbers as texts, as Azure writes them, or as numbers.
    let number = |name: &str| match answer.get(name)? {
        Value::String(text) => text.parse().ok(),
        value => value.as_u64(),
    };
    let end = match (number("expires_on"), number("expires_in")) {
        (Some(at), _) => Timestamp::from_unix(at),
        (None, Some(seconds)) => now.plus(Duration::from_secs(seconds)),
        (None, None) => now,
    };
    let left = end.since(now).saturating_sub(MARGIN);
    Ok((Secret::new(token.to_owned()), now.plus(left)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_azure_writes() {
        let now = Timestamp::from_unix(1_000_000);
        let until = |text: &str| read(text.as_bytes(), now).map(|(_, until)| until.as_unix()).ok();
        assert_eq!(
            until(r#"{"access_token":"t","expires_in":"3600","expires_on":"1003600"}"#),
            Some(1_003_300)
        );
        assert_eq!(until(r#"{"access_token":"t","expires_in":3600}"#), Some(1_003_300));
        assert_eq!(until(r#"{"access_token":"t"}"#), Some(1_000_000), "used once");
        for bad in ["", "[]", "{}", r#"{"access_token":""}"#, r#"{"error":"invalid_request"}"#] {
            assert_eq!(until(bad), None, "{bad}");
        }
    }
}
