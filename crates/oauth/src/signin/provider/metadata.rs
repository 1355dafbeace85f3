//! Where the identity provider's endpoints are (OpenID Connect Discovery 1.0 §4).

use std::{sync::Arc, time::Duration};

use bartizan_model::{Clock, Timestamp};
use tokio::{sync::Mutex, time::timeout};
use url::Url;

use crate::{
    config::problems::check_scheme,
    discovery::Fault,
    fetch::{Fetch, NamedBy},
    json::{Object, Value},
};

/// How old metadata may be before it is asked for again, and while the provider does not answer.
const FRESH: Duration = Duration::from_secs(15 * 60);
const MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);
/// Between two questions, the first of which failed.
const RETRY: Duration = Duration::from_secs(5);
/// For one question.
const WITHIN: Duration = Duration::from_secs(10);

/// What we need of it.
#[derive(Debug)]
pub(super) struct Metadata {
    pub authorization_endpoint: Url,
    pub token_endpoint: Url,
    /// Where it tells about people (OpenID Connect Core §5.3), if at the origin of its metadata: a person's token is sent only
    /// where the operator says.
    pub userinfo_endpoint: Option<Url>,
    /// Whether its answers name it (RFC 9207 §3).
    pub names_itself: bool,
}

/// The metadata, kept for a while. Whoever holds the lock asks; the others wait for the answer.
pub(super) struct Places {
    issuer: String,
    place: Url,
    token_endpoint: Option<Url>,
    fetch: Arc<dyn Fetch>,
    clock: Arc<dyn Clock>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    metadata: Option<(Arc<Metadata>, Timestamp)>,
    failed: Option<Timestamp>,
}

impl Places {
    /// `token_endpoint` is the operator's word, which goes before the provider's.
    pub fn new(
        issuer: String,
        place: Url,
        token_endpoint: Option<Url>,
        fetch: Arc<dyn Fetch>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { issuer, place, token_endpoint, fetch, clock, kept: Mutex::default() }
    }

    /// The metadata as it is now, or was within a day.
    ///
    /// # Errors
    /// [`Fault`], for the operator.
    pub async fn current(&self) -> Result<Arc<Metadata>, Fault> {
        let mut kept = self.kept.lock().await;
        let now = self.clock.now();
        let held = kept.metadata.clone().filter(|(_, since)| now.since(*since) <= MAX_AGE);
        if let Some((metadata, since)) = &held
            && now.since(*since) < FRESH
        {
            return Ok(Arc::clone(metadata));
        }
        let asked_just_now = kept.failed.is_some_and(|failed| now.since(failed) < RETRY);
        let asked = match asked_just_now {
            true => Err(Fault::Slow),
            false => timeout(WITHIN, self.ask()).await.unwrap_or(Err(Fault::Slow)),
        };
        match (asked, held) {
            (Ok(metadata), _) => {
                let metadata = Arc::new(metadata);
                *kept = Kept { metadata: Some((Arc::clone(&metadata), now)), failed: None };
                Ok(metadata)
            }
            (Err(fault), held) => {
                if !asked_just_now {
                    tracing::warn!(issuer = self.issuer, %fault, "an identity provider's metadata was not to be had");
                    kept.failed = Some(now);
                }
                held.map(|(metadata, _)| metadata).ok_or(fault)
            }
        }
    }

    async fn ask(&self) -> Result<Metadata, Fault> {
        let url = &self.place;
        let document = self.fetch.get(url, NamedBy::Operator).await;
        let document = document.map_err(|source| Fault::Fetch { url: url.clone(), source })?;
        if document.status != 200 {
            return Err(Fault::Status { url: url.clone(), status: document.status });
        }
        let bad = |what: &str| Fault::Document { url: url.clone(), what: what.to_owned() };
        let metadata = Object::parse(&document.body).map_err(|_| bad("it is no JSON object"))?;
        // Byte for byte (OpenID Connect Discovery §4.3; attacks.md AA-34).
        if metadata.text("issuer") != Ok(Some(&self.issuer)) {
            return Err(bad("its `issuer` is not the configured one"));
        }
        let endpoint = |name: &'static str| {
            let text = metadata.text(name).ok().flatten();
            let endpoint = text.and_then(|text| Url::parse(text).ok());
            // An address that a browser or our credential goes to: never `javascript:`, never in plain text over a
            // network (spec.md G-38; attacks.md CD-11).
            let usable = endpoint.filter(|url| {
                let mut problems = Vec::new();
                check_scheme(url, "", &mut problems);
                problems.is_empty() && url.fragment().is_none()
            });
            usable.ok_or_else(|| bad(&format!("it has no usable `{name}`")))
        };
        let token_endpoint = match &self.token_endpoint {
            Some(url) => url.clone(),
            None => endpoint("token_endpoint")?,
        };
        if self.token_endpoint.is_none() && token_endpoint.origin() != url.origin() {
            return Err(bad(
                "its `token_endpoint` is at another origin; set `token_endpoint` in [identity.provider]",
            ));
        }
        let names_itself = match metadata.value("authorization_response_iss_parameter_supported") {
            None | Some(Value::Boolean(false)) => false,
            Some(Value::Boolean(true)) => true,
            Some(_) => return Err(bad("its `authorization_response_iss_parameter_supported` is no boolean")),
        };
        Ok(Metadata {
            authorization_endpoint: endpoint("authorization_endpoint")?,
            userinfo_endpoint: endpoint("userinfo_endpoint")
                .ok()
                .filter(|endpoint| endpoint.origin() == url.origin()),
            token_endpoint,
            names_itself,
        })
    }
}

#[cfg(test)]
mod tests {
    use bartizan_model::ManualClock;

    use super::*;
    use crate::{
        signin::tests::scene::metadata,
        tests::scene::{HANGS, NOW, Net, SharedNet},
    };

    #[tokio::test(start_paused = true)]
    async fn a_provider_that_says_nothing_holds_nobody_up_for_long() {
        let (net, clock) = (Arc::new(Net::default()), Arc::new(ManualClock::new(Timestamp::from_unix(NOW))));
        let place: Url = "https://idp.example/metadata".parse().unwrap();
        let fetch = Arc::new(SharedNet(Arc::clone(&net)));
        let places = Places::new("https://idp.example".into(), place.clone(), None, fetch, clock.clone());
        net.says(place.as_str(), HANGS, "");
        // One asks; the others hear what became of it.
        let (a, b, c) = tokio::join!(places.current(), places.current(), places.current());
        assert!(a.is_err() && b.is_err() && c.is_err());
        assert_eq!(net.count(place.as_str()), 1);
        net.says(place.as_str(), 200, metadata());
        clock.advance(RETRY);
        assert!(places.current().await.is_ok());
    }
}
