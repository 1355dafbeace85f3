//! Every way to say no, and the one place that says how it is said to the client, the operator and the audit trail.

/// Why what a request showed was not enough. The text is for the operator; no variant holds a token or a piece of one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The token's algorithm is not one the issuer may use, or not its key's (attacks.md AA-03, AA-10).
    #[error("the token's algorithm is not one its issuer may use with that key")]
    AlgorithmRefused,
    /// A workload where only people may come in (AA-32).
    #[error("the token names an application, not a person; see `allow_applications`")]
    ApplicationRefused,
    /// The token was issued for something else (spec.md E-12; AA-05, TP-03, TP-04).
    #[error("the token was not issued for `{resource}`")]
    AudienceWrong {
        /// The identifier of the resource that was asked for.
        resource: String,
    },
    /// The person must sign in again, or in another way (RFC 9470; Entra's authentication context).
    #[error("the sign-in behind the token is not strong or recent enough")]
    AuthenticationInsufficient(crate::StepUp),
    /// The resource or the gate takes only sender-constrained tokens, and this one is not.
    #[error("the token is not bound to a key of its sender, as `{0}` demands")]
    BindingMissing(&'static str),
    /// The token is bound in a way that cannot be checked here.
    #[error("the token is bound to its sender in a way that is not known here")]
    BindingUnknown,
    /// The client certificate is not the one the token is bound to, or there is none (RFC 8705 §3).
    #[error("the client certificate is not the one the token is bound to")]
    CertificateWrong,
    /// A claim that must be there is not.
    #[error("the token has no `{0}`")]
    ClaimMissing(&'static str),
    /// A claim is not of its type (AA-19).
    #[error("the token's `{0}` is not what it must be")]
    ClaimMalformed(&'static str),
    /// `Authorization` is there twice, or is no credential (spec.md E-11; AA-23).
    #[error("the `Authorization` or `DPoP` header cannot be read")]
    CredentialsMalformed,
    /// Nobody says who asks.
    #[error("the request has no bearer token")]
    CredentialsMissing,
    /// The token, its subject or its client was denied here before the token's time was up.
    #[error("the token, its subject or its client is on the deny list")]
    Denied,
    /// The token's time is up.
    #[error("the token has expired")]
    Expired,
    /// The issuer leaves the caller's groups to another question, and nobody here can ask it. Never "no groups".
    #[error("the token leaves out its subject's groups or roles, and they cannot be looked up")]
    GroupsUnknown,
    /// A guest of the tenant where only members may come in (AA-13).
    #[error("the token names a guest of the tenant; see `allow_guests`")]
    GuestRefused,
    /// A header parameter that would choose the key, change what is signed, or is critical (AA-11).
    #[error("the token's header holds `{0}`, which is never taken from a token")]
    HeaderRefused(&'static str),
    /// The introspection endpoint says the token is not active (RFC 7662 §2.2).
    #[error("its issuer says that the token is not active")]
    Inactive,
    /// The introspection endpoint does not answer as RFC 7662 says it does, or too much is being asked.
    #[error("the introspection endpoint cannot be asked")]
    IntrospectionUnavailable,
    /// No key of the issuer can be had, or all are too old to be believed (AA-20).
    #[error("the keys of `{0}` cannot be had")]
    IssuerUnavailable(String),
    /// Nobody we know issued the token (AA-12).
    #[error("the token's issuer is not one of `[[identity.issuers]]`")]
    IssuerUnknown,
    /// The issuer has no such key (AA-18, AA-31).
    #[error("the token's issuer has no key of that id")]
    KeyUnknown,
    /// The token lives longer than tokens may (AA-38).
    #[error("the token lives longer than `max_token_lifetime_s`")]
    LifetimeTooLong,
    /// The DPoP proof holds no nonce of ours that is still good (RFC 9449 §9).
    #[error("the DPoP proof holds no current nonce")]
    NonceNeeded,
    /// The token's time has not come.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// The DPoP proof is wrong (RFC 9449 §4.3).
    #[error("the DPoP proof is wrong: {0}")]
    ProofInvalid(&'static str),
    /// A DPoP-bound token without a proof (RFC 9449 §7.1).
    #[error("the token is bound to a DPoP key and comes without a proof")]
    ProofMissing,
    /// The proof was used before (RFC 9449 §11.1).
    #[error("the DPoP proof was used before")]
    ProofReplayed,
    /// More proofs are remembered than there is room for; forgetting one would let it be used again.
    #[error("no more DPoP proofs can be remembered")]
    ProofsFull,
    /// What other gates remember of proofs cannot be read.
    #[error("used DPoP proofs are out of reach")]
    ProofsUnavailable,
    /// The token is good and allows less than the operation needs (RFC 6750 §3.1).
    #[error("the token lacks a scope; the operation needs `{}`", .needed.join(" "))]
    ScopeInsufficient {
        /// Everything the operation needs, what the token already allows included (spec.md E-08).
        needed: Vec<String>,
    },
    /// The signature is wrong.
    #[error("the token's signature is wrong")]
    SignatureWrong,
    /// The token's tenant is not its issuer's (AA-13).
    #[error("the token's tenant is not its issuer's")]
    TenantWrong,
    /// No token of a form we know (AA-30).
    #[error("the token is neither a signed JWT nor, here, an opaque token")]
    TokenMalformed,
    /// Longer than any honest token.
    #[error("the token is longer than {} bytes", crate::jws::MAX_BYTES)]
    TokenTooLong,
    /// A token of another kind: an ID token, a logout token, an assertion (AA-04).
    #[error("the token is not an access token")]
    TokenTypeWrong,
}

/// Whose doing a refusal is; it chooses the log level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The client's, or of whoever holds its token.
    Client,
    /// The issuer's, or of the network towards it.
    Issuer,
    /// Ours.
    Internal,
}

/// How a refusal is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The HTTP status.
    pub status: u16,
    /// The `error` of `WWW-Authenticate`; `None` where RFC 6750 §3.1 wants none, or has none.
    pub error: Option<&'static str>,
    /// `error_description`, in the characters RFC 6750 §3 allows; it tells nothing that the token's holder may not know.
    pub description: &'static str,
    /// For the audit trail; it never changes its meaning.
    pub reason: &'static str,
    /// Whose doing it is.
    pub blame: Blame,
}

impl Error {
    /// How this refusal is said: to the client by status and OAuth error, to the audit trail by its reason.
    pub fn verdict(&self) -> Verdict {
        let bad = |reason, description| Verdict {
            status: 401,
            error: Some("invalid_token"),
            description,
            reason,
            blame: Blame::Client,
        };
        let foreign = |reason| bad(reason, "the access token is not good here");
        let forbidden =
            |reason, description| Verdict { status: 403, error: None, ..bad(reason, description) };
        let proof =
            |reason, description| Verdict { error: Some("invalid_dpop_proof"), ..bad(reason, description) };
        let later = |reason, blame| Verdict {
            status: 503,
            error: None,
            blame,
            ..bad(reason, "the access token cannot be checked at the moment")
        };
        match self {
            Self::AlgorithmRefused => foreign("token.algorithm"),
            Self::ApplicationRefused => forbidden("token.application", "applications may not call here"),
            Self::AudienceWrong { .. } => {
                bad("token.audience", "the access token was issued for another resource")
            }
            Self::AuthenticationInsufficient(step_up) => {
                Verdict { error: Some(step_up.error()), ..bad("token.authentication", "sign in again") }
            }
            Self::BindingMissing(_) => {
                bad("token.unbound", "only sender-constrained access tokens are taken here")
            }
            Self::BindingUnknown => foreign("token.binding"),
            Self::CertificateWrong => {
                bad("token.certificate", "the access token is bound to another client certificate")
            }
            Self::ClaimMissing(_) => foreign("token.claim-missing"),
            Self::ClaimMalformed(_) => foreign("token.claim-malformed"),
            Self::CredentialsMalformed => Verdict {
                status: 400,
                error: Some("invalid_request"),
                ..bad("credentials.malformed", "send one access token, in one Authorization header")
            },
            Self::CredentialsMissing => {
                Verdict { error: None, ..bad("credentials.missing", "send an access token") }
            }
            Self::Denied => bad("token.denied", "the access token was revoked"),
            Self::Expired => bad("token.expired", "the access token expired"),
            Self::GroupsUnknown => {
                forbidden("token.groups-unknown", "the groups of the caller cannot be determined")
            }
            Self::GuestRefused => forbidden("token.guest", "guests may not call here"),
            Self::HeaderRefused(_) => foreign("token.header"),
            Self::Inactive => bad("token.inactive", "the access token expired or was revoked"),
            Self::IntrospectionUnavailable => later("introspection.unavailable", Blame::Issuer),
            Self::IssuerUnavailable(_) => later("issuer.unavailable", Blame::Issuer),
            Self::IssuerUnknown => foreign("token.issuer"),
            Self::KeyUnknown => foreign("token.key"),
            Self::LifetimeTooLong => foreign("token.lifetime"),
            Self::NonceNeeded => Verdict {
                error: Some("use_dpop_nonce"),
                ..bad("proof.nonce", "the DPoP proof needs the nonce of the DPoP-Nonce header")
            },
            Self::NotYetValid => foreign("token.not-yet-valid"),
            Self::ProofInvalid(_) => proof("proof.invalid", "the DPoP proof is wrong"),
            Self::ProofMissing => proof("proof.missing", "the access token needs a DPoP proof"),
            Self::ProofReplayed => proof("proof.replayed", "the DPoP proof was used before"),
            Self::ProofsFull => later("proof.full", Blame::Internal),
            Self::ProofsUnavailable => later("proof.unavailable", Blame::Internal),
            Self::ScopeInsufficient { .. } => Verdict {
                status: 403,
                error: Some("insufficient_scope"),
                ..bad("token.scope", "the access token lacks a scope this needs")
            },
            Self::SignatureWrong => foreign("token.signature"),
            Self::TenantWrong => foreign("token.tenant"),
            Self::TokenMalformed => foreign("token.malformed"),
            Self::TokenTooLong => foreign("token.too-long"),
            Self::TokenTypeWrong => foreign("token.type"),
        }
    }
}

impl From<crate::json::Fault> for Error {
    fn from(fault: crate::json::Fault) -> Self {
        match fault {
            crate::json::Fault::Syntax => Self::TokenMalformed,
            crate::json::Fault::Missing(claim) => Self::ClaimMissing(claim),
            crate::json::Fault::Mistyped(claim) => Self::ClaimMalformed(claim),
        }
    }
}
