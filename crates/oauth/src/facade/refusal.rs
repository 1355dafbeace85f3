//! Every way in which the endpoints that clients call say no (RFC 6749 §5.2; spec.md F-40), and the one place that says
//! how.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::json;

use super::answer;
use crate::Unrecorded;

/// Why a client gets no token, or no answer. What is said to it is no oracle: of a code, token or assertion that fails
/// it learns that it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The client did not prove who it is; whether it tried by `Authorization`.
    Client { by_header: bool },
    /// The code, refresh token or assertion is not good; the reason is for the log.
    Grant(&'static str),
    /// A request that cannot be read.
    Request(&'static str),
    /// A registration without a usable redirect URI (RFC 7591 §3.2.2).
    RedirectUri(&'static str),
    /// Metadata of a registration that cannot be used.
    Metadata(&'static str),
    /// The DPoP proof holds no nonce of ours that is still good (RFC 9449 §8).
    Nonce,
    /// The DPoP proof is missing or wrong (RFC 9449 §5).
    Proof(&'static str),
    /// The DPoP proof was used before (RFC 9449 §11.1).
    ProofReplayed,
    /// More than was granted, or nothing that is known.
    Scope,
    /// A resource that is none of ours, or not the granted one (RFC 8707 §2).
    Target,
    /// Too often; the seconds to wait.
    TooOften(u64),
    /// It cannot be recorded, so it is not done.
    Unrecorded,
    /// The client may not use this grant.
    UnauthorizedClient,
    /// The store is out of reach, or there is no key.
    Unavailable,
    /// A grant that is not offered.
    UnsupportedGrant,
}

impl Refusal {
    /// Status, OAuth error, what is said to the client, and the reason for the audit trail.
    fn said(self) -> (StatusCode, &'static str, &'static str, &'static str) {
        let bad = StatusCode::BAD_REQUEST;
        match self {
            Self::Client { .. } => (
                StatusCode::UNAUTHORIZED,
                "invalid_client",
                "client authentication failed",
                "client.unproven",
            ),
            Self::Grant(why) => (bad, "invalid_grant", "the grant is not valid", why),
            Self::Request(why) => (bad, "invalid_request", why, "request.malformed"),
            Self::RedirectUri(why) => (bad, "invalid_redirect_uri", why, "registration.redirect-uri"),
            Self::Metadata(why) => (bad, "invalid_client_metadata", why, "registration.metadata"),
            Self::Nonce => (
                bad,
                "use_dpop_nonce",
                "the DPoP proof needs the nonce of the DPoP-Nonce header",
                "proof.nonce",
            ),
            Self::Proof(why) => (bad, "invalid_dpop_proof", why, "proof.invalid"),
            Self::ProofReplayed => {
                (bad, "invalid_dpop_proof", "the DPoP proof was used before", "proof.replayed")
            }
            Self::Scope => {
                (bad, "invalid_scope", "the scope is unknown or more than was granted", "grant.scope")
            }
            Self::Target => {
                (bad, "invalid_target", "the resource is not the granted one, or unknown", "grant.target")
            }
            Self::TooOften(_) => (
                StatusCode::TOO_MANY_REQUESTS,
                "temporarily_unavailable",
                "too many requests",
                "rate.exceeded",
            ),
            Self::UnauthorizedClient => {
                (bad, "unauthorized_client", "the client may not use this grant type", "client.unauthorized")
            }
            Self::Unavailable => (
                StatusCode::SERVICE_UNAVAILABLE,
                "temporarily_unavailable",
                "the authorization server cannot answer at the moment",
                "facade.unavailable",
            ),
            Self::Unrecorded => (
                StatusCode::SERVICE_UNAVAILABLE,
                "temporarily_unavailable",
                "the authorization server cannot answer at the moment",
                "audit.unavailable",
            ),
            Self::UnsupportedGrant => {
                (bad, "unsupported_grant_type", "the grant type is not offered", "grant.unsupported")
            }
        }
    }

    /// Whether the client is to blame, who could have known better.
    pub fn is_the_clients(self) -> bool {
        match self {
            Self::Client { .. }
            | Self::Grant(_)
            | Self::Request(_)
            | Self::RedirectUri(_)
            | Self::Metadata(_)
            | Self::Proof(_)
            | Self::ProofReplayed
            | Self::Scope
            | Self::Target
            | Self::UnauthorizedClient
            | Self::UnsupportedGrant => true,
            // It is how a client comes by its first nonce.
            Self::Nonce => false,
            Self::TooOften(_) | Self::Unrecorded | Self::Unavailable => false,
        }
    }

    /// The reason, for the audit trail; it never changes its meaning.
    pub fn reason(self) -> &'static str {
        self.said().3
    }

    pub fn response(self) -> Response<Bytes> {
        let (status, error, description, _) = self.said();
        let body = json!({ "error": error, "error_description": description });
        let mut response = answer::json(status, &body);
        let headers = response.headers_mut();
        match self {
            // RFC 6749 §5.2.
            Self::Client { by_header: true } => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"oauth\""));
            }
            Self::TooOften(seconds) => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            }
            _ => {}
        }
        response
    }
}

impl From<Unrecorded> for Refusal {
    fn from(_: Unrecorded) -> Self {
        Self::Unrecorded
    }
}

impl From<bartizan_store::DatabaseError> for Refusal {
    fn from(error: bartizan_store::DatabaseError) -> Self {
        tracing::error!(%error, "the store failed the authorization server");
        Self::Unavailable
    }
}
