//! What is wrong with a configuration: all of it, at once.

use std::collections::{BTreeMap, BTreeSet};

use url::Url;

use super::{EntraConfig, IssuerConfig, OidcConfig, ResourceServerConfig};
use crate::{ResourceSettings, discovery::is_loopback, entra::PERSONAL_ACCOUNTS, scope::is_scope};

impl ResourceServerConfig {
    /// The relaxations in force, for the banner and `doctor`.
    pub fn dangers(&self) -> Vec<String> {
        let untyped = self.issuers.iter().filter_map(|issuer| match issuer {
            IssuerConfig::Oidc(oidc) if oidc.dangerous_untyped_tokens => {
                Some(format!("[[identity.issuers]] `{}`: dangerous_untyped_tokens", oidc.issuer))
            }
            IssuerConfig::Oidc(_) | IssuerConfig::Entra(_) => None,
        });
        let shared =
            self.dangerous_shared_audience.then(|| "[identity] dangerous_shared_audience".to_owned());
        shared.into_iter().chain(untyped).collect()
    }

    /// Everything that is wrong, together with the resources that these tokens are for.
    pub fn problems(&self, resources: &[ResourceSettings]) -> Vec<String> {
        self.problems_beside(None, resources)
    }

    /// The same where our own authorization server, of this name, is one of the issuers.
    pub(crate) fn problems_beside(&self, own: Option<&str>, resources: &[ResourceSettings]) -> Vec<String> {
        let mut found = Vec::new();
        if self.issuers.is_empty() && own.is_none() {
            found.push("[identity] mode = \"resource-server\" needs [[identity.issuers]]".into());
        }
        if !(60..=2_592_000).contains(&self.max_token_lifetime_s) {
            found.push("[identity] max_token_lifetime_s is from 60 to 2592000".into());
        }
        let mut names: BTreeSet<String> = own.map(str::to_owned).into_iter().collect();
        for issuer in &self.issuers {
            issuer.problems(&mut found);
            for name in issuer.issuers() {
                if !names.insert(name.clone()) {
                    found.push(format!("two [[identity.issuers]] are `{name}`"));
                }
            }
        }
        let is_introspecting =
            |issuer: &&IssuerConfig| matches!(issuer, IssuerConfig::Oidc(o) if o.introspection.is_some());
        if self.issuers.iter().filter(is_introspecting).count() > 1 {
            found.push(
                "only one of [[identity.issuers]] can have `introspection`: an opaque token does not say whose it is, and \
                 showing it to the wrong issuer would give it away"
                    .into(),
            );
        }
        let words = self.scope_implies.iter().flat_map(|(scope, held)| held.iter().chain([scope]));
        for bad in words.filter(|word| !is_scope(word)) {
            found.push(format!("[identity] scope_implies: `{}` is no scope", bad.escape_debug()));
        }
        self.resource_problems(resources, &mut found);
        found
    }

    fn resource_problems(&self, resources: &[ResourceSettings], found: &mut Vec<String>) {
        let mut audiences: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for resource in resources {
            let name = &resource.name;
            check_url(&resource.url, &format!("`{name}`: its URL"), found);
            if resource.audience.is_empty() {
                audiences.entry(resource.url.as_str()).or_default().push(name);
            }
            for audience in &resource.audience {
                if audience.is_empty() || audience.chars().any(char::is_control) || audience.contains('*') {
                    found.push(format!(
                        "`{name}`: `{}` is no audience; it is compared as it stands",
                        audience.escape_debug()
                    ));
                }
                let sharing = audiences.entry(audience).or_default();
                if !sharing.contains(&name.as_str()) {
                    sharing.push(name);
                }
            }
            for scope in &resource.required_scopes {
                let is_too_much = matches!(scope.as_str(), "*" | "all" | "offline_access" | "openid");
                if !is_scope(scope) || is_too_much {
                    found.push(format!("`{name}`: `{}` cannot be a required scope", scope.escape_debug()));
                }
            }
            if let Some(bad) = resource.authentication.contexts.iter().find(|c| !is_scope(c)) {
                found.push(format!("`{name}`: `{}` is no authentication context", bad.escape_debug()));
            }
        }
        if !self.dangerous_shared_audience {
            for (audience, names) in audiences.into_iter().filter(|(_, names)| names.len() > 1) {
                found.push(format!(
                    "{} have the audience `{audience}` in common, so a token for one is good at the others: give each its own \
                     (in Entra, one application for each), or set `dangerous_shared_audience = true` in [identity]",
                    names.join(", ")
                ));
            }
        }
    }
}

impl IssuerConfig {
    pub(crate) fn problems(&self, found: &mut Vec<String>) {
        match self {
            Self::Oidc(oidc) => oidc.problems(found),
            Self::Entra(entra) => entra.problems(found),
        }
    }
}

impl OidcConfig {
    fn problems(&self, found: &mut Vec<String>) {
        let name = format!("[[identity.issuers]] `{}`", self.issuer.escape_debug());
        match Url::parse(&self.issuer) {
            Ok(url) => check_url(&url, &format!("{name}: `issuer`"), found),
            Err(_) => found.push(format!("{name}: `issuer` is no URL")),
        }
        let endpoint = self.introspection.as_ref().map(|introspection| &introspection.url);
        let urls = [
            ("metadata_url", self.metadata_url.as_ref()),
            ("jwks_url", self.jwks_url.as_ref()),
            ("introspection.url", endpoint),
        ];
        for (field, url) in urls {
            if let Some(url) = url {
                check_scheme(url, &format!("{name}: `{field}`"), found);
            }
        }
        if self.metadata_url.is_some() && self.jwks_url.is_some() {
            found.push(format!(
                "{name}: with `jwks_url` no metadata is asked for; set it or `metadata_url`, not both"
            ));
        }
        if self.algorithms.is_empty() {
            found.push(format!("{name}: `algorithms` is empty"));
        }
        for (field, path) in [("roles_claim", &self.roles_claim), ("groups_claim", &self.groups_claim)] {
            if path.is_empty() || path.iter().any(String::is_empty) {
                found.push(format!("{name}: `{field}` is a path of one name or more"));
            }
        }
        if self.introspection.as_ref().is_some_and(|introspection| introspection.client_id.is_empty()) {
            found.push(format!("{name}: `introspection.client_id` is empty"));
        }
    }
}

impl EntraConfig {
    fn problems(&self, found: &mut Vec<String>) {
        let name = format!("[[identity.issuers]] Entra tenant `{}`", self.tenant.escape_debug());
        if !is_guid(&self.tenant) {
            found.push(format!(
                "{name}: `tenant` is the tenant's id, a GUID in lower case; `common`, `organizations` and domain names let in \
                 whoever they stand for"
            ));
        } else if self.tenant == PERSONAL_ACCOUNTS {
            found.push(format!("{name}: this is the tenant of all personal Microsoft accounts"));
        }
        if self.versions.is_empty() {
            found.push(format!("{name}: `versions` is empty"));
        }
        check_url(&self.authority, &format!("{name}: `authority`"), found);
        check_url(&self.sts, &format!("{name}: `sts`"), found);
    }
}

pub(crate) fn is_guid(text: &str) -> bool {
    let groups: Vec<_> = text.split('-').collect();
    let lengths: Vec<_> = groups.iter().map(|group| group.len()).collect();
    lengths == [8, 4, 4, 4, 12]
        && groups.iter().all(|group| group.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)))
}

/// An identifier: https (or http on loopback), no user, query or fragment (RFC 8414 §2, RFC 9728 §1.2).
pub(crate) fn check_url(url: &Url, what: &str, found: &mut Vec<String>) {
    check_scheme(url, what, found);
    if url.query().is_some() || url.fragment().is_some() {
        found.push(format!("{what} has a query or fragment"));
    }
}

pub(crate) fn check_scheme(url: &Url, what: &str, found: &mut Vec<String>) {
    if url.scheme() != "https" && !(url.scheme() == "http" && is_loopback(url)) {
        found.push(format!("{what} must be https (http only on loopback)"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        found.push(format!("{what} holds a user name or password"));
    }
}
