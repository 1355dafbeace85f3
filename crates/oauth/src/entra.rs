//! Microsoft Entra ID's access tokens, versions 1.0 and 2.0 (attacks.md §2.2; AA-12 to AA-14, AA-32).
//!
//! They are no RFC 9068 tokens: always typed `JWT`, with `scp` for what a person delegated and `roles` for what an
//! application was given. A person is (`tid`, `oid`): `sub` differs from application to application, and everything
//! that looks like a name can be changed by whoever bears it.

use std::{collections::BTreeSet, future::Future, pin::Pin};

use bartizan_model::Caller;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::{
    Error,
    json::{Object, Value},
    profile::words,
    scope,
    token::{Identity, Principal},
};

/// The tenant of personal Microsoft accounts: everybody's, so nobody's.
pub(crate) const PERSONAL_ACCOUNTS: &str = "9188040d-6c67-4c5b-b112-36a304b66dad";

/// The version of a token: the API's registration chooses it (`requestedAccessTokenVersion`), not the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TokenVersion {
    /// `iss` is `https://sts.windows.net/{tenant}/`.
    V1,
    /// `iss` is `https://login.microsoftonline.com/{tenant}/v2.0`.
    V2,
}

/// How to read the tokens of one tenant in one version.
pub(crate) struct Entra {
    pub tenant: String,
    pub version: TokenVersion,
    /// The tenant's version 2.0 issuer, under which its callers are known whichever version their tokens have.
    pub issuer: String,
    /// Its version 1.0 issuer, by which tokens of both versions name the directory a person signed in at.
    pub v1_issuer: String,
    pub allow_guests: bool,
}

impl Entra {
    pub fn identify(&self, claims: &Object) -> Result<Identity, Error> {
        let tenant = claims.needed_text("tid")?;
        let version = match claims.needed_text("ver")? {
            "1.0" => TokenVersion::V1,
            "2.0" => TokenVersion::V2,
            _ => return Err(Error::ClaimMalformed("ver")),
        };
        // The issuer's string held the tenant already; a token that names another one is not to be understood.
        if tenant != self.tenant || version != self.version {
            return Err(Error::TenantWrong);
        }
        let object = claims.needed_text("oid")?;
        let client = match self.version {
            TokenVersion::V1 => claims.needed_text("appid")?,
            TokenVersion::V2 => claims.needed_text("azp")?,
        };
        let roles = match claims.value("roles") {
            None => BTreeSet::new(),
            Some(value) => words(value, "roles")?,
        };
        let delegated = claims.text("scp")?;
        let principal = match (delegated, claims.text("idtyp")?) {
            (Some(_), None | Some("user")) => Principal::User,
            // `sub` is pairwise for people and the object's own id for applications.
            (None, Some("app")) => Principal::Application,
            (None, None) if claims.needed_text("sub")? == object => Principal::Application,
            // An ID token can have `roles`, and so could whatever else has neither `scp` nor `idtyp`.
            _ => return Err(Error::TokenTypeWrong),
        };
        if principal == Principal::Application && roles.is_empty() {
            return Err(Error::TokenTypeWrong);
        }
        if principal == Principal::User && !self.allow_guests && self.is_guest(claims)? {
            return Err(Error::GuestRefused);
        }
        let scopes = match principal {
            Principal::User => delegated.map(scope::parse).unwrap_or_default(),
            Principal::Application => roles.iter().filter(|role| scope::is_scope(role)).cloned().collect(),
        };
        Ok(Identity {
            caller: Caller::new(&self.issuer, object, client),
            principal,
            scopes,
            roles,
            groups: match claims.value("groups") {
                None => BTreeSet::new(),
                Some(value) => words(value, "groups")?,
            },
            groups_elsewhere: groups_elsewhere(claims)?,
            reads_claims_challenges: true,
            ours: None,
        })
    }

    /// A guest signs in at another directory (`idp`), or is marked (`acct` 1).
    pub fn is_guest(&self, claims: &Object) -> Result<bool, Error> {
        let home = claims.text("idp")?;
        let is_foreign = home.is_some_and(|home| home != self.issuer && home != self.v1_issuer);
        let is_marked = match claims.value("acct") {
            None | Some(Value::Unsigned(0)) => false,
            // 1 is a guest; whatever else it may once mean, it is not "member".
            Some(_) => true,
        };
        Ok(is_foreign || is_marked)
    }
}

/// Whether there were too many groups for the token: over 200 they are left to a question at Microsoft Graph. Tokens
/// that came through a redirect say so in a short form.
///
/// # Errors
/// [`Error::GroupsUnknown`] for roles that are kept elsewhere (groups, where the tenant has them written as roles): nobody
/// looks those up, and whoever is let in without them escapes what is forbidden by them.
pub(crate) fn groups_elsewhere(claims: &Object) -> Result<bool, Error> {
    let names = claims.object("_claim_names")?;
    if names.is_some_and(|names| names.has("roles")) {
        return Err(Error::GroupsUnknown);
    }
    Ok(names.is_some_and(|names| names.has("groups")) || claims.has("hasgroups"))
}

/// An answer that is under way.
pub type Resolving<'a> = Pin<Box<dyn Future<Output = Option<BTreeSet<String>>> + Send + 'a>>;

/// Looks up groups that a token leaves out, by the credential of the gate itself.
pub trait GroupSource: Send + Sync {
    /// All groups of a caller; `None` if they cannot be determined, and then the caller is refused.
    fn groups_of<'a>(&'a self, caller: &'a Caller) -> Resolving<'a>;
}

/// The issuer of a tenant's tokens of `version`. `authority` is `https://login.microsoftonline.com` or a national
/// cloud's; `sts` is the host of version 1.0 issuers.
pub(crate) fn issuer(authority: &Url, sts: &Url, tenant: &str, version: TokenVersion) -> String {
    match version {
        TokenVersion::V1 => format!("{}/{tenant}/", sts.as_str().trim_end_matches('/')),
        TokenVersion::V2 => format!("{}/{tenant}/v2.0", authority.as_str().trim_end_matches('/')),
    }
}

/// Where the metadata of that issuer is: always at the authority, which for version 1.0 is not the issuer's host.
pub(crate) fn metadata(authority: &Url, tenant: &str, version: TokenVersion) -> Option<Url> {
    let folder = match version {
        TokenVersion::V1 => "",
        TokenVersion::V2 => "/v2.0",
    };
    let base = authority.as_str().trim_end_matches('/');
    Url::parse(&format!("{base}/{tenant}{folder}/.well-known/openid-configuration")).ok()
}
