//! The resource server: all the resources of a gate, all the issuers it trusts.

use std::{collections::HashMap, sync::Arc};

use bartizan_model::Clock;
use bytes::Bytes;
use http::{HeaderMap, Method};

use crate::{
    DenyList, DpopNonces, Error, GroupSource, Principal, SubjectTokens, VerifiedToken,
    cache::Cache,
    challenge,
    credentials::Credentials,
    dpop::{self, Replays},
    mtls,
    resource::{Resource, WELL_KNOWN},
    scope::Hierarchy,
    standing::Standing,
    verify::{Issuer, OpaqueIssuer},
};

/// Verifies who comes in, for every resource of a gate. One is made for each configuration.
pub struct ResourceServer {
    pub(crate) resources: Vec<Resource>,
    /// By the exact string of `iss`.
    pub(crate) issuers: HashMap<String, Issuer>,
    pub(crate) opaque: Option<OpaqueIssuer>,
    pub(crate) hierarchy: Hierarchy,
    pub(crate) rules: Rules,
    pub(crate) cache: Cache,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) replays: Arc<dyn Replays>,
    pub(crate) groups: Option<Arc<dyn GroupSource>>,
    pub(crate) denied: Arc<DenyList>,
    pub(crate) subjects: Option<Arc<SubjectTokens>>,
    pub(crate) nonces: Option<DpopNonces>,
    pub(crate) standing: Standing,
}

/// What every token must be.
#[derive(Clone, Copy)]
pub(crate) struct Rules {
    pub allow_applications: bool,
    pub needs_dpop: bool,
    pub needs_certificate: bool,
}

/// What a request shows of its sender.
#[derive(Clone, Copy)]
pub struct Presented<'a> {
    /// The HTTP method.
    pub method: &'a Method,
    /// The header lines.
    pub headers: &'a HeaderMap,
    /// The client certificate (DER) that the TLS handshake verified, or a declared proxy passed on.
    pub certificate: Option<&'a [u8]>,
}

impl ResourceServer {
    /// The resource whose URL has this path, compared as it was sent.
    pub fn resource(&self, path: &str) -> Option<&Resource> {
        self.resources.iter().find(|resource| resource.url.path() == path)
    }

    /// Verifies who sent a request to `resource`, which is one of [`Self::resource`]'s.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::verdict`] and [`Self::challenge`] make the answer of it.
    pub async fn authenticate(
        &self,
        resource: &Resource,
        presented: Presented<'_>,
    ) -> Result<Arc<VerifiedToken>, Error> {
        let credentials = Credentials::read(presented.headers)?;
        let token = self.verify(credentials.token, resource).await?;
        self.check_binding(&token, resource, &credentials, presented).await?;
        if token.principal() == Principal::Application && !self.rules.allow_applications {
            return Err(Error::ApplicationRefused);
        }
        token.require_scopes(&resource.required_scopes, &[])?;
        token.require_authentication(&resource.authentication, self.clock.now())?;
        // Nobody's who might not come in.
        if let Some(subjects) = &self.subjects {
            subjects.keep(credentials.token, &token);
        }
        Ok(token)
    }

    async fn check_binding(
        &self,
        token: &VerifiedToken,
        resource: &Resource,
        credentials: &Credentials<'_>,
        presented: Presented<'_>,
    ) -> Result<(), Error> {
        let binding = &token.binding;
        if self.rules.needs_certificate && binding.certificate.is_none() {
            return Err(Error::BindingMissing("mtls"));
        }
        if let Some(certificate) = &binding.certificate {
            mtls::check(certificate, presented.certificate)?;
        }
        match (&binding.jkt, credentials.proof) {
            (Some(jkt), Some(proof)) => {
                let bound = dpop::Bound {
                    method: presented.method,
                    url: &resource.url,
                    token: credentials.token,
                    jkt,
                    caller: token.caller(),
                };
                dpop::check(proof, &bound, self.nonces.as_ref(), &*self.replays, self.clock.now()).await
            }
            // RFC 9449 §7.2: a bound token is never taken as a bearer token.
            (Some(_), None) => Err(Error::ProofMissing),
            // RFC 9449 §7.1: the scheme is for bound tokens only.
            (None, Some(_)) => Err(Error::BindingMissing("the DPoP scheme")),
            (None, None) if self.rules.needs_dpop => Err(Error::BindingMissing("dpop")),
            (None, None) => Ok(()),
        }
    }

    /// The `WWW-Authenticate` lines that go with a refusal at `resource`.
    pub fn challenge(&self, resource: &Resource, error: &Error) -> Vec<String> {
        challenge::lines(resource, error, self.rules.needs_dpop)
    }

    /// The nonce that goes with a refusal as `DPoP-Nonce` (RFC 9449 §9); none where it is not about a proof.
    pub fn nonce(&self, error: &Error) -> Option<String> {
        let is_about_proof = matches!(
            error,
            Error::NonceNeeded | Error::ProofInvalid(_) | Error::ProofMissing | Error::ProofReplayed
        );
        self.nonces.as_ref().filter(|_| is_about_proof).map(DpopNonces::fresh)
    }

    /// The same for the resource that `token` was verified for, when an operation there needs more than the token allows.
    /// A lack of scope becomes a challenge for everything the resource and the operation need (spec.md E-08).
    pub fn challenge_again(&self, token: &VerifiedToken, error: &Error) -> Vec<String> {
        let Some(resource) = self.resources.iter().find(|r| r.identifier() == token.resource()) else {
            return Vec::new();
        };
        match error {
            Error::ScopeInsufficient { needed } => {
                let missing = token.require_scopes(&resource.required_scopes, needed);
                self.challenge(resource, missing.as_ref().err().unwrap_or(error))
            }
            _ => self.challenge(resource, error),
        }
    }

    /// The metadata document served at `path`, if one is (RFC 9728 §3; spec.md E-02, E-03). A gate of one resource
    /// serves it at the root too, for clients that look only there.
    pub fn metadata(&self, path: &str) -> Option<Bytes> {
        let rest = path.strip_prefix(WELL_KNOWN)?;
        match (rest, self.resources.as_slice()) {
            ("", [only]) => Some(only.metadata()),
            _ => {
                let of_path = |resource: &&Resource| resource.url.path().trim_end_matches('/') == rest;
                self.resources.iter().find(of_path).map(Resource::metadata)
            }
        }
    }

    /// What is denied before its time; entries take effect at once.
    pub fn denied(&self) -> &Arc<DenyList> {
        &self.denied
    }
}
