//! Who is asking? The bearer string ends here.

use std::sync::Arc;

use bartizan_mcp::{Refusal, code};
use bartizan_model::{Caller, Secret};
use bartizan_oauth::{Blame, Error, Presented, Resource, ResourceServer};
use bytes::Bytes;
use http::{HeaderMap, Method, header};

use crate::{Asker, Target, asker::Access};

/// How callers are known.
pub enum Authenticator {
    /// As the owner of this machine: by the local token, or by an access token of our own.
    Owner {
        /// The local token, for scripts.
        token: Secret,
        /// Access tokens, for clients that sign in.
        tokens: Tokens,
    },
    /// Not at all: everybody is the local owner (`dangerous_open`; loopback only).
    Open,
    /// By access tokens of external authorization servers, each issued for the endpoint it is used at (spec.md E).
    Tokens(Tokens),
}

/// The resources that endpoints are, and whose tokens are taken there.
pub struct Tokens {
    server: Arc<ResourceServer>,
    /// What the public URL has in front of `/mcp`, where a proxy leaves it out.
    prefix: String,
}

/// What a request shows of who sent it.
#[derive(Clone, Copy)]
pub struct Shown<'a> {
    /// Where it wants to go.
    pub target: &'a Target,
    /// The HTTP method.
    pub method: &'a Method,
    /// The header lines.
    pub headers: &'a HeaderMap,
    /// The client certificate (DER), if there is a verified one.
    pub certificate: Option<&'a [u8]>,
}

impl Authenticator {
    /// Who sent a request.
    ///
    /// Nothing else in the request says who: not forwarded-user headers, not `_meta`, not arguments (attacks.md AA-28).
    ///
    /// # Errors
    /// 401 without exactly one good `Authorization` (RFC 6750 §2.1; attacks.md AA-01, AA-23), or as
    /// [`bartizan_oauth::Error`] says.
    pub async fn identify(&self, shown: Shown<'_>) -> Result<Asker, Refusal> {
        match self {
            Self::Open => Ok(Asker::new(Caller::local_owner())),
            Self::Owner { token, .. } if is_holder(token, shown.headers) => {
                Ok(Asker::new(Caller::local_owner()))
            }
            Self::Owner { tokens, .. } => tokens.identify(shown).await,
            Self::Tokens(tokens) => tokens.identify(shown).await,
        }
    }

    /// The document of the path, if one is published there to whoever asks (RFC 9728 §3).
    pub fn document(&self, path: &str) -> Option<Bytes> {
        match self {
            Self::Open => None,
            Self::Owner { tokens, .. } | Self::Tokens(tokens) => tokens.server.metadata(path),
        }
    }
}

impl Tokens {
    /// Takes the tokens that `server` verifies. Its resources are `{prefix}/mcp` and `{prefix}/mcp/{server}`.
    pub fn new(server: Arc<ResourceServer>, prefix: &str) -> Self {
        Self { server, prefix: prefix.trim_end_matches('/').to_owned() }
    }

    async fn identify(&self, shown: Shown<'_>) -> Result<Asker, Refusal> {
        let path = match shown.target {
            Target::Merged => format!("{}/mcp", self.prefix),
            Target::Server(name) => format!("{}/mcp/{name}", self.prefix),
        };
        let Some(resource) = self.server.resource(&path) else {
            // No token can be good at an endpoint that is not there, and a stranger learns no more than that.
            let everything = self.server.resource(&format!("{}/mcp", self.prefix));
            return Err(everything.map_or_else(
                || Refusal::new(404, code::NOT_FOUND, "there is no such endpoint"),
                |resource| self.refusal(resource, &Error::CredentialsMissing),
            ));
        };
        let presented =
            Presented { method: shown.method, headers: shown.headers, certificate: shown.certificate };
        match self.server.authenticate(resource, presented).await {
            Ok(token) => Ok(Asker::with_token(Access::new(token, Arc::clone(&self.server)))),
            Err(error) => Err(self.refusal(resource, &error)),
        }
    }

    fn refusal(&self, resource: &Resource, error: &Error) -> Refusal {
        let verdict = error.verdict();
        match verdict.blame {
            Blame::Client => tracing::info!(%error, "a token was refused"),
            Blame::Issuer | Blame::Internal => tracing::error!(%error, "a token could not be checked"),
        }
        let data = format!(r#"{{"source":"bartizan","reason":"{}"}}"#, verdict.reason);
        let code = if verdict.status == 403 { code::FORBIDDEN } else { code::UNAUTHENTICATED };
        let refusal = Refusal::new(verdict.status, code, verdict.description)
            .with_data(data)
            .with_challenges(self.server.challenge(resource, error));
        Refusal { dpop_nonce: self.server.nonce(error).map(Into::into), ..refusal }
    }
}

/// Whether the local token is in the one place for it, once.
fn is_holder(token: &Secret, headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return false };
    let given =
        line.as_bytes().split_at_checked(7).filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "));
    given.is_some_and(|(_, given)| token.matches(given))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_one_good_bearer_token_and_nothing_else() {
        let token = Secret::new("good-token".into());
        let ask = |lines: &[&[u8]]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(header::AUTHORIZATION, http::HeaderValue::from_bytes(line).unwrap());
            }
            is_holder(&token, &headers)
        };
        assert!(ask(&[b"Bearer good-token"]) && ask(&[b"bearer good-token"]) && ask(&[b"BEARER good-token"]));
        let bad: [&[&[u8]]; 11] = [
            &[],
            &[b""],
            &[b"Bearer"],
            &[b"Bearer "],
            &[b"Bearer\tgood-token"],
            &[b"Basic good-token"],
            &[b"Bearer good-token, Bearer x"],
            &[b"Bearer good-token "],
            &[b"Bearer good-toke"],
            &[b"Bearer good-token", b"Bearer bad"],
            &[b"Bearer bad", b"Bearer good-token"],
        ];
        for lines in bad {
            assert!(!ask(lines), "{lines:?}");
        }
    }
}
