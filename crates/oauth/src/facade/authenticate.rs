//! Which client asks, and whether it is it (RFC 6749 §2.3, RFC 7523 §3; spec.md F-42, F-43; attacks.md AA-35).

use std::{sync::Arc, time::Duration};

use bartizan_store::Digest;
use base64::{Engine, engine::general_purpose::STANDARD};
use http::header;
use url::form_urlencoded;

use super::{
    Asked, Facade,
    client::{Client, Method},
    form::Parameters,
    known::Known,
    metadata::ASSERTION_ALGORITHMS,
    refusal::Refusal,
};
use crate::{
    json::Object,
    jws::{KeyFrom, Unverified},
};

const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// How far ahead an assertion may expire: it is used at once.
const ASSERTION_LIFE: Duration = Duration::from_secs(10 * 60);
/// How far clocks may be apart.
const SKEW: Duration = Duration::from_secs(60);

/// A client that is who it says, or one that cannot prove it and says so: [`Client::is_public`].
pub(crate) struct Proven(Arc<Client>);

impl std::ops::Deref for Proven {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.0
    }
}

/// What a request shows for its client.
enum Shown<'a> {
    Assertion(&'a str),
    Nothing,
    Secret(String),
}

impl Facade {
    /// The client that asks, by the one credential its metadata names.
    ///
    /// # Errors
    /// [`Refusal::Client`] for no credential, a wrong one, two at once, or another kind than the client has.
    pub(crate) async fn authenticate(
        &self,
        asked: &Asked<'_>,
        form: &Parameters,
        known: &mut Known,
    ) -> Result<Proven, Refusal> {
        let by_header = asked.headers.contains_key(header::AUTHORIZATION);
        let unproven = Refusal::Client { by_header };
        let (id, shown) = read(asked, form).ok_or(unproven)?;
        let client = match self.clients.find(&id, Some(asked.peer)).await.map_err(Refusal::from) {
            Err(Refusal::Client { .. }) => return Err(unproven),
            found => found?,
        };
        known.named(&client);
        match (&client.metadata.method, shown) {
            (Method::Public, Shown::Nothing) => {}
            // Both are digests, so that a comparison tells nothing of the secret.
            (Method::Secret(digest), Shown::Secret(secret))
                if Digest::of(secret.as_bytes()).to_string() == *digest => {}
            (Method::PrivateKey, Shown::Assertion(assertion)) => {
                self.check_assertion(&client, assertion).await.map_err(|refusal| match refusal {
                    Refusal::Client { .. } => unproven,
                    other => other,
                })?;
            }
            _ => return Err(unproven),
        }
        known.authenticated(&client);
        Ok(Proven(client))
    }

    /// Checks an assertion of the client's own (RFC 7523 §3), and that it is used for the first time.
    async fn check_assertion(&self, client: &Client, assertion: &str) -> Result<(), Refusal> {
        let unproven = |what: &'static str| {
            tracing::info!(
                client = client.id(),
                what,
                reason = "client.assertion",
                "a client assertion is refused"
            );
            Refusal::Client { by_header: false }
        };
        let unverified =
            Unverified::parse(assertion, KeyFrom::Issuer).map_err(|_| unproven("it is no signed JWT"))?;
        if !matches!(unverified.kind.as_deref(), None | Some("jwt" | "client-authentication+jwt")) {
            return Err(unproven("its `typ` is another kind's"));
        }
        if !ASSERTION_ALGORITHMS.contains(&unverified.algorithm) {
            return Err(unproven("its algorithm is not taken"));
        }
        let keys = client.keys.as_ref().ok_or(unproven("the client has no keys"))?;
        let key = keys.find(unverified.kid.as_deref()).await.map_err(|_| unproven("its key is not known"))?;
        let claims = unverified.verify(&key).map_err(|_| unproven("its signature is wrong"))?.into_claims();
        let text = |name| claims.text(name).ok().flatten();
        if text("iss") != Some(client.id()) || text("sub") != Some(client.id()) {
            return Err(unproven("`iss` and `sub` are not the client"));
        }
        if !self.is_for_us(&claims) {
            return Err(unproven("its `aud` is not this server"));
        }
        self.use_once(&claims, ASSERTION_LIFE).await.map_err(|refusal| match refusal {
            Refusal::Grant(what) => unproven(what),
            other => other,
        })
    }

    /// Whether the one audience of an assertion is this server: its issuer, or its token endpoint.
    fn is_for_us(&self, claims: &Object) -> bool {
        match claims.one_or_more("aud").ok().flatten().as_deref() {
            Some([audience]) => *audience == self.issuer || *audience == self.token_url.as_str(),
            _ => false,
        }
    }

    /// Checks the times of an assertion, which lives `at_most`, and uses its `jti` up (RFC 7523 §3).
    ///
    /// # Errors
    /// [`Refusal::Grant`] with what is wrong; [`Refusal::Unavailable`].
    pub(crate) async fn use_once(&self, claims: &Object, at_most: Duration) -> Result<(), Refusal> {
        let now = self.clock.now();
        let bad = Refusal::Grant;
        let expires_at = claims.needed_time("exp").map_err(|_| bad("assertion.expiry"))?;
        let not_before = claims.time("nbf").map_err(|_| bad("assertion.time"))?;
        let issued_at = claims.time("iat").map_err(|_| bad("assertion.time"))?;
        if now >= expires_at.plus(SKEW) || expires_at.since(now) > at_most + SKEW {
            return Err(bad("assertion.expiry"));
        }
        if [not_before, issued_at].into_iter().flatten().any(|time| time.since(now) > SKEW) {
            return Err(bad("assertion.time"));
        }
        let id = claims.needed_text("jti").map_err(|_| bad("assertion.id"))?;
        let issuer = claims.needed_text("iss").map_err(|_| bad("assertion.id"))?;
        let used = Digest::of(format!("assertion {}:{issuer}{id}", issuer.len()).as_bytes());
        if self.grants.first_use(used, expires_at.plus(SKEW), now).await? {
            Ok(())
        } else {
            Err(bad("assertion.replayed"))
        }
    }
}

/// Who a request says it comes from, and the one thing it shows for that.
fn read<'a>(asked: &Asked<'_>, form: &'a Parameters) -> Option<(String, Shown<'a>)> {
    let named = form.get("client_id");
    let names = ["client_id", "client_secret", "client_assertion", "client_assertion_type"];
    if names.iter().any(|name| form.is_broken(name)) {
        return None;
    }
    let mut lines = asked.headers.get_all(header::AUTHORIZATION).iter();
    let line = match (lines.next(), lines.next()) {
        (None, _) => None,
        (Some(line), None) => Some(line.to_str().ok()?),
        (Some(_), Some(_)) => return None,
    };
    match (line, form.get("client_secret"), form.get("client_assertion")) {
        (Some(line), None, None) => {
            let (id, secret) = basic(line)?;
            (named.is_none_or(|named| named == id)).then_some((id, Shown::Secret(secret)))
        }
        (None, Some(secret), None) => Some((named?.to_owned(), Shown::Secret(secret.to_owned()))),
        (None, None, Some(assertion)) => {
            if form.get("client_assertion_type") != Some(ASSERTION_TYPE) {
                return None;
            }
            // Whose keys to look for; believed only when one of them has signed.
            let id = Unverified::parse(assertion, KeyFrom::Issuer).ok()?.subject().ok()?.to_owned();
            (named.is_none_or(|named| named == id)).then_some((id, Shown::Assertion(assertion)))
        }
        (None, None, None) => Some((named?.to_owned(), Shown::Nothing)),
        // RFC 6749 §2.3: one method, not two.
        _ => None,
    }
}

/// The name and secret of `Authorization: Basic`, each form-encoded (RFC 6749 §2.3.1).
fn basic(line: &str) -> Option<(String, String)> {
    let (scheme, encoded) = line.split_once(' ')?;
    let decoded = STANDARD.decode(encoded).ok().filter(|_| scheme.eq_ignore_ascii_case("basic"))?;
    let text = String::from_utf8(decoded).ok()?;
    let (id, secret) = text.split_once(':')?;
    let decode = |part: &str| {
        // A part without `=` and `&` is one name with no value.
        let escaped = part.replace('=', "%3D").replace('&', "%26");
        form_urlencoded::parse(escaped.as_bytes())
            .next()
            .map(|(name, _)| name.into_owned())
            .unwrap_or_default()
    };
    Some((decode(id), decode(secret))).filter(|(id, _)| !id.is_empty())
}
