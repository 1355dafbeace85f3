//! What a verified token says, without the token.

use std::{collections::BTreeSet, sync::Arc};

use bartizan_model::{Caller, Timestamp};
use bartizan_store::provider_tokens::SignIn;

use crate::{Error, StepUp, binding::Binding, cache::CacheKey, introspect::Bearer};

/// Who an access token speaks for (attacks.md AA-32).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Principal {
    /// A workload that acts for itself. It is never taken for a person.
    Application,
    /// A person, through an application.
    User,
}

/// An access token that was verified for one resource. Only this crate makes one, and none gives the bearer string away:
/// behind it nothing can be passed on (spec.md G-03; attacks.md TP-01).
#[derive(Clone, Debug)]
pub struct VerifiedToken {
    pub(crate) resource: String,
    pub(crate) audience: Vec<String>,
    pub(crate) identity: Identity,
    pub(crate) authentication: Authentication,
    pub(crate) binding: Binding,
    pub(crate) token_id: Option<String>,
    pub(crate) issued_at: Timestamp,
    pub(crate) expires_at: Timestamp,
    /// What it is cached under: a digest of the token it was made of; nothing of the token can be had from it.
    pub(crate) shown: Option<CacheKey>,
    /// What its issuer can be asked by whether it is still good, if it is one to ask about.
    pub(crate) bearer: Option<Arc<Bearer>>,
}

/// Who a token speaks for, and what they may.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub caller: Caller,
    pub principal: Principal,
    pub scopes: BTreeSet<String>,
    pub roles: BTreeSet<String>,
    pub groups: BTreeSet<String>,
    /// The token leaves groups out: until they are looked up, nobody knows them.
    pub groups_elsewhere: bool,
    /// Whether clients of the issuer know what Entra's `claims` parameter is.
    pub reads_claims_challenges: bool,
    /// What only tokens of our own authorization server have.
    pub ours: Option<Ours>,
}

/// Where a token of our own comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ours {
    /// Our issuer.
    pub issuer: String,
    /// The grant it stands on, if a person gave one.
    pub grant: Option<String>,
    /// The sign-in it goes back to, if something of that is kept.
    pub sign_in: Option<String>,
}

/// How the person signed in (OpenID Connect Core §2; RFC 9068 §2.2.1).
#[derive(Clone, Debug, Default)]
pub(crate) struct Authentication {
    pub methods: Vec<String>,
    /// `acr`, and what of Entra's `acrs` was satisfied.
    pub contexts: Vec<String>,
    pub at: Option<Timestamp>,
}

/// How a person must have signed in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthenticationRequired {
    /// Authentication contexts, one of which the token must show: values of `acr`, or Entra's `c1` to `c99` of `acrs`.
    pub contexts: Vec<String>,
    /// Seconds since the sign-in; a token that does not say is too old.
    pub max_age_s: Option<u64>,
}

impl VerifiedToken {
    /// Who asks: issuer, subject and client. With Entra the subject is `oid` and the issuer the tenant's, whichever
    /// version the token has, so that one person is one caller; names and addresses never matter (AA-14).
    pub fn caller(&self) -> &Caller {
        &self.identity.caller
    }

    /// A person, or a workload.
    pub fn principal(&self) -> Principal {
        self.identity.principal
    }

    /// The identifier of the resource for which the token was verified: the endpoint's URL.
    pub fn resource(&self) -> &str {
        &self.resource
    }

    /// The token's `aud`, each member of which the resource accepts.
    pub fn audience(&self) -> &[String] {
        &self.audience
    }

    /// What was granted, and what that holds by `scope_implies`. For an Entra application, its app roles.
    pub fn scopes(&self) -> &BTreeSet<String> {
        &self.identity.scopes
    }

    /// The subject's roles at the issuer.
    pub fn roles(&self) -> &BTreeSet<String> {
        &self.identity.roles
    }

    /// The subject's groups at the issuer. They are all of them: a token that leaves some out is not verified.
    pub fn groups(&self) -> &BTreeSet<String> {
        &self.identity.groups
    }

    /// How the person signed in: values of `amr` (RFC 8176).
    pub fn authentication_methods(&self) -> &[String] {
        &self.authentication.methods
    }

    /// The authentication contexts that hold: `acr`, and Entra's `acrs`.
    pub fn authentication_contexts(&self) -> &[String] {
        &self.authentication.contexts
    }

    /// When the person signed in, if the token says.
    pub fn authenticated_at(&self) -> Option<Timestamp> {
        self.authentication.at
    }

    /// When the token was issued; 1970 if its issuer does not say.
    pub fn issued_at(&self) -> Timestamp {
        self.issued_at
    }

    /// When the token expires. Streams end with it (AA-29).
    pub fn expires_at(&self) -> Timestamp {
        self.expires_at
    }

    /// The token's own id at its issuer, for the audit trail.
    pub fn token_id(&self) -> Option<&str> {
        self.token_id.as_deref()
    }

    /// Whose token it is: the issuer that signed it or vouched for it.
    pub(crate) fn signed_by(&self) -> &str {
        self.identity.ours.as_ref().map_or(self.identity.caller.issuer(), |ours| &ours.issuer)
    }

    /// The sign-in that the token goes back to, if something of that is kept: never another of the same person's, which may
    /// have shown more (attacks.md TP-02).
    pub(crate) fn sign_in(&self) -> Option<SignIn> {
        let id = self.identity.ours.as_ref()?.sign_in.clone()?;
        let caller = self.caller();
        Some(SignIn { issuer: caller.issuer().to_owned(), subject: caller.subject().to_owned(), id })
    }

    /// Whether our own authorization server issued it.
    pub(crate) fn is_ours(&self) -> bool {
        self.identity.ours.is_some()
    }

    /// Whether the token only works in the hands of whoever holds a key (RFC 9449, RFC 8705).
    pub fn is_sender_constrained(&self) -> bool {
        self.binding != Binding::default()
    }

    /// Checks that the token allows an operation which needs all of `scopes`.
    ///
    /// # Errors
    /// [`Error::ScopeInsufficient`] naming everything in `baseline` and `scopes`, so that one more sign-in is enough
    /// (spec.md E-07, E-08). `baseline` is what the resource itself needs.
    pub fn require_scopes(&self, baseline: &[String], scopes: &[String]) -> Result<(), Error> {
        let needed = || baseline.iter().chain(scopes);
        if needed().all(|scope| self.identity.scopes.contains(scope)) {
            return Ok(());
        }
        let mut all: Vec<String> = Vec::new();
        for scope in needed() {
            if !all.contains(scope) {
                all.push(scope.clone());
            }
        }
        Err(Error::ScopeInsufficient { needed: all })
    }

    /// Checks how and when the person signed in (RFC 9470).
    ///
    /// # Errors
    /// [`Error::AuthenticationInsufficient`], which tells the client what to ask for.
    pub fn require_authentication(
        &self,
        required: &AuthenticationRequired,
        now: Timestamp,
    ) -> Result<(), Error> {
        let is_recent = required
            .max_age_s
            .is_none_or(|max| self.authentication.at.is_some_and(|at| now.since(at).as_secs() <= max));
        let held = &self.authentication.contexts;
        let is_strong = required.contexts.is_empty() || required.contexts.iter().any(|c| held.contains(c));
        if is_recent && is_strong {
            return Ok(());
        }
        Err(self.lacking(required, is_strong))
    }

    /// The error that tells the client to have the person sign in as `required`; `is_strong` if only the time is wrong.
    pub fn lacking(&self, required: &AuthenticationRequired, is_strong: bool) -> Error {
        let reads_claims = self.identity.reads_claims_challenges && !is_strong;
        let step_up =
            if reads_claims { StepUp::entra(&required.contexts) } else { StepUp::rfc9470(required) };
        Error::AuthenticationInsufficient(step_up)
    }
}
