//! What the claims of an issuer mean: RFC 9068 and what the common products make of it.

use std::{collections::BTreeSet, sync::Arc};

use bartizan_model::{Caller, Clock};
use bartizan_store::Grants;

use crate::{
    Error, GroupSource,
    json::{Object, Value},
    scope,
    token::{Authentication, Identity, Ours, Principal},
};

/// How to read the tokens of an issuer.
pub(crate) enum Profile {
    Entra(crate::entra::Entra),
    Oidc(Oidc),
    /// Our own authorization server.
    Ours(Facade),
}

/// The tokens that our own authorization server issues. They speak for the person whom the identity provider vouched
/// for, so that one person is one caller whichever way they came in.
pub(crate) struct Facade {
    pub issuer: String,
    pub grants: Arc<dyn Grants>,
    pub clock: Arc<dyn Clock>,
}

/// The claims of a token of ours that name the person: the identity provider, and their subject there.
pub(crate) const PERSON: [&str; 2] = ["idp", "idp_sub"];
/// The claim of a token of ours that names the grant it stands on.
pub(crate) const GRANT: &str = "grant_id";
/// The claim of a token of ours that says, by `true`, that roles and groups are too many for it and stand in the grant.
pub(crate) const GROUPS_IN_GRANT: &str = "groups_in_grant";

/// The claim of a token of ours that names the sign-in it goes back to (OpenID Connect Front-Channel Logout §3), where
/// something of it is kept.
pub(crate) const SIGN_IN: &str = "sid";

/// An issuer that follows RFC 9068, more or less.
pub(crate) struct Oidc {
    pub issuer: String,
    /// `scope` (RFC 9068) or `scp`.
    pub scope_claim: &'static str,
    pub roles_claim: Vec<String>,
    pub groups_claim: Vec<String>,
    /// Take tokens whose header does not say that they are access tokens.
    pub dangerous_untyped: bool,
}

/// Claims of ID tokens (`nonce`, `at_hash`, `c_hash`, `s_hash`), security events (`events`) and DPoP proofs (`htm`, `htu`).
/// An access token has none of them (attacks.md AA-04).
const OF_OTHER_KINDS: [&str; 7] = ["at_hash", "c_hash", "events", "htm", "htu", "nonce", "s_hash"];

impl Profile {
    /// Checks that a token is an access token; `kind` is its header's `typ`.
    pub fn check_kind(&self, kind: Option<&str>, claims: &Object) -> Result<(), Error> {
        let is_typed = kind == Some("at+jwt");
        let is_plain = matches!(kind, None | Some("jwt"));
        let is_access_token = match self {
            // Entra types every token `JWT`; `identify` insists on what only access tokens have.
            Self::Entra(_) => is_typed || is_plain,
            Self::Ours(_) => is_typed,
            Self::Oidc(oidc) => {
                is_typed || (oidc.dangerous_untyped && is_plain && oidc.looks_like_access(claims))
            }
        };
        if is_access_token && !OF_OTHER_KINDS.iter().any(|name| claims.has(name)) {
            Ok(())
        } else {
            Err(Error::TokenTypeWrong)
        }
    }

    /// Who the token speaks for and what they may.
    pub fn identify(&self, claims: &Object) -> Result<Identity, Error> {
        match self {
            Self::Entra(entra) => entra.identify(claims),
            Self::Oidc(oidc) => oidc.identify(claims),
            Self::Ours(facade) => facade.identify(claims),
        }
    }

    /// Looks up the groups that the token leaves out.
    ///
    /// # Errors
    /// [`Error::GroupsUnknown`]: nobody is let in whose groups are not all known.
    pub async fn look_up(
        &self,
        identity: &mut Identity,
        source: Option<&dyn GroupSource>,
    ) -> Result<(), Error> {
        if !identity.groups_elsewhere {
            return Ok(());
        }
        match self {
            Self::Entra(_) | Self::Oidc(_) => {
                let source = source.ok_or(Error::GroupsUnknown)?;
                identity.groups = source.groups_of(&identity.caller).await.ok_or(Error::GroupsUnknown)?;
            }
            Self::Ours(facade) => {
                let grant = identity.ours.as_ref().and_then(|ours| ours.grant.as_deref());
                let found = facade.grants.find(grant.ok_or(Error::GroupsUnknown)?, facade.clock.now()).await;
                let found = found.map_err(|error| {
                    tracing::error!(%error, "the groups of a caller cannot be read");
                    Error::GroupsUnknown
                })?;
                let person = found.and_then(|grant| crate::facade::person_of(&grant.content));
                let person = person.ok_or(Error::GroupsUnknown)?;
                (identity.roles, identity.groups) = (person.roles, person.groups);
            }
        }
        identity.groups_elsewhere = false;
        Ok(())
    }
}

impl Facade {
    fn identify(&self, claims: &Object) -> Result<Identity, Error> {
        let (subject, client) = (claims.needed_text("sub")?, claims.needed_text("client_id")?);
        let [idp, idp_sub] = PERSON;
        let (caller, principal) = match (claims.text(idp)?, claims.text(idp_sub)?) {
            (Some(issuer), Some(person)) => (Caller::new(issuer, person, client), Principal::User),
            // A client that acts for itself (RFC 9068 §5).
            (None, None) if subject == client => {
                (Caller::new(&self.issuer, client, client), Principal::Application)
            }
            _ => return Err(Error::ClaimMissing(idp)),
        };
        let set = |name: &'static str| claims.value(name).map_or(Ok(BTreeSet::new()), |v| words(v, name));
        Ok(Identity {
            caller,
            principal,
            scopes: claims.text("scope")?.map(scope::parse).unwrap_or_default(),
            roles: set("roles")?,
            groups: set("groups")?,
            groups_elsewhere: match claims.value(GROUPS_IN_GRANT) {
                None => false,
                Some(Value::Boolean(true)) => true,
                Some(_) => return Err(Error::ClaimMalformed(GROUPS_IN_GRANT)),
            },
            reads_claims_challenges: false,
            ours: Some(Ours {
                issuer: self.issuer.clone(),
                grant: claims.text(GRANT)?.map(str::to_owned),
                sign_in: claims.text(SIGN_IN)?.map(str::to_owned),
            }),
        })
    }
}

impl Oidc {
    /// Without a type there must at least be something granted, and no other type in Keycloak's `typ` claim.
    fn looks_like_access(&self, claims: &Object) -> bool {
        let grants = claims.has(self.scope_claim) || claims.value_at(&self.roles_claim).is_some();
        let other_kind = match claims.value("typ") {
            None => false,
            Some(Value::String(kind)) => !matches!(kind.as_str(), "Bearer" | "DPoP"),
            Some(_) => true,
        };
        grants && !other_kind
    }

    pub fn identify(&self, claims: &Object) -> Result<Identity, Error> {
        let subject = claims.needed_text("sub")?;
        // RFC 9068 §2.2 says `client_id`; before it there were `azp` (OpenID Connect) and `cid` (Okta).
        let client = match (claims.text("client_id")?, claims.text("azp")?, claims.text("cid")?) {
            (Some(client), ..) | (None, Some(client), _) | (None, None, Some(client)) => client,
            (None, None, None) => return Err(Error::ClaimMissing("client_id")),
        };
        let is_application = subject == client
            || subject.strip_suffix("@clients") == Some(client)
            || claims.text("gty")? == Some("client-credentials")
            || claims.text("preferred_username")?.is_some_and(|name| name.starts_with("service-account-"));
        let scopes = self.scopes(claims);
        let roles = words_at(claims, &self.roles_claim, "roles")?;
        let groups = words_at(claims, &self.groups_claim, "groups")?;
        if is_elsewhere(claims, &self.roles_claim)? {
            return Err(Error::GroupsUnknown);
        }
        Ok(Identity {
            caller: Caller::new(&self.issuer, subject, client),
            principal: if is_application { Principal::Application } else { Principal::User },
            scopes,
            roles,
            groups,
            groups_elsewhere: is_elsewhere(claims, &self.groups_claim)?,
            reads_claims_challenges: false,
            ours: None,
        })
    }

    /// What was granted. Where `scope` and `scp` are both there and differ, only what both name (attacks.md AA-21).
    fn scopes(&self, claims: &Object) -> BTreeSet<String> {
        let read = |name: &str| match claims.value(name)? {
            Value::String(text) => Some(scope::parse(text)),
            // Okta's `scp` is an array; a `scope` that is one is malformed (RFC 9068 §2.2.3).
            value if name == "scp" => {
                let words = value.texts().filter(|words| words.iter().all(|word| scope::is_scope(word)));
                Some(words.unwrap_or_default().into_iter().map(str::to_owned).collect())
            }
            _ => Some(BTreeSet::new()),
        };
        let other = if self.scope_claim == "scope" { "scp" } else { "scope" };
        match (read(self.scope_claim).unwrap_or_default(), read(other)) {
            (scopes, None) => scopes,
            (scopes, Some(other)) => scopes.intersection(&other).cloned().collect(),
        }
    }
}

/// The strings of the array at `path`; none if there is nothing.
pub(crate) fn words_at(
    claims: &Object,
    path: &[String],
    name: &'static str,
) -> Result<BTreeSet<String>, Error> {
    match claims.value_at(path) {
        None => Ok(BTreeSet::new()),
        Some(value) => words(value, name),
    }
}

pub(crate) fn words(value: &Value, name: &'static str) -> Result<BTreeSet<String>, Error> {
    let texts = value.texts().ok_or(Error::ClaimMalformed(name))?;
    Ok(texts.into_iter().map(str::to_owned).collect())
}

/// Whether a claim is kept elsewhere: a distributed claim (OpenID Connect Core §5.6.2).
pub(crate) fn is_elsewhere(claims: &Object, path: &[String]) -> Result<bool, Error> {
    let names = claims.object("_claim_names")?;
    Ok(names.is_some_and(|names| path.first().is_some_and(|first| names.has(first))))
}

/// How the person signed in.
pub(crate) fn authentication(claims: &Object) -> Result<Authentication, Error> {
    let methods = match claims.value("amr") {
        None => Vec::new(),
        Some(value) => words(value, "amr")?.into_iter().collect(),
    };
    let mut contexts: Vec<String> = claims.text("acr")?.map(str::to_owned).into_iter().collect();
    // Entra: the authentication contexts of conditional access that this token satisfies.
    contexts.extend(claims.one_or_more("acrs")?.unwrap_or_default().into_iter().map(str::to_owned));
    Ok(Authentication { methods, contexts, at: claims.time("auth_time")? })
}
