//! From configuration to a resource server.

use std::{collections::HashMap, path::Path, sync::Arc, time::Duration};

use bartizan_model::{Clock, Secret, SecretRef};
use url::Url;

use crate::{
    DenyList, DpopNonces, Fetch, GroupSource, IssuerConfig, Replays, ResourceServer, ResourceServerConfig,
    ResourceSettings, SubjectTokens,
    cache::Cache,
    config::{Constraint, EntraConfig, OidcConfig},
    discovery::KeyPlace,
    entra::{self, Entra, TokenVersion},
    facade::Facade,
    introspect::Introspector,
    jwks::IssuerKeys,
    key::Algorithm,
    profile::{Oidc, Profile},
    resource::{Common, Resource},
    scope::Hierarchy,
    server::Rules,
    standing::Standing,
    verify::{Issuer, Keys, OpaqueIssuer},
};

/// Verified tokens that are kept.
const CACHE_ROOM: usize = 16 * 1024;

/// What the outside world lends a resource server.
pub struct Surroundings<'a> {
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// A way to an issuer that is trusted by these authorities (a PEM file), or by the platform's.
    pub fetch: &'a dyn Fn(Option<&Path>) -> Arc<dyn Fetch>,
    /// Reads a secret; the error says why it cannot be read.
    pub secret: &'a dyn Fn(&SecretRef) -> Result<Secret, String>,
    /// Which DPoP proofs were used. It outlives a change of configuration, as does `denied`.
    pub replays: Arc<dyn Replays>,
    /// Who knows groups that tokens leave out; without one, such tokens are refused.
    pub groups: Option<Arc<dyn GroupSource>>,
    /// What is denied before its time.
    pub denied: Arc<DenyList>,
    /// Where tokens are kept that are exchanged for others on their way to a server; only where one needs it.
    pub subjects: Option<Arc<SubjectTokens>>,
    /// Nonces that DPoP proofs must hold, if they must.
    pub nonces: Option<DpopNonces>,
    /// Our own authorization server, whose tokens are taken too. It denies in the same `denied`.
    pub facade: Option<&'a Facade>,
}

impl ResourceServer {
    /// A server of these resources.
    ///
    /// # Errors
    /// [`ResourceServerConfig::problems`], and secrets that cannot be read: everything at once.
    pub fn new(
        config: &ResourceServerConfig,
        resources: Vec<ResourceSettings>,
        surroundings: Surroundings<'_>,
    ) -> Result<Self, Vec<String>> {
        let mut problems = config.problems_beside(surroundings.facade.map(Facade::issuer), &resources);
        let max_lifetime = Duration::from_secs(config.max_token_lifetime_s);
        let mut issuers = HashMap::new();
        let mut opaque = None;
        for issuer in &config.issuers {
            let built = match issuer {
                IssuerConfig::Oidc(oidc) => {
                    if let Some(introspection) = &oidc.introspection {
                        match (surroundings.secret)(&introspection.client_secret) {
                            Ok(secret) => {
                                let introspector = Introspector::new(
                                    oidc.issuer.clone(),
                                    introspection.url.clone(),
                                    &introspection.client_id,
                                    &secret,
                                    (surroundings.fetch)(oidc.ca.as_deref()),
                                );
                                opaque = Some(OpaqueIssuer {
                                    introspector,
                                    profile: oidc.profile(),
                                    max_lifetime,
                                });
                            }
                            Err(why) => problems.push(format!(
                                "[[identity.issuers]] `{}`: `introspection.client_secret` {why}",
                                oidc.issuer
                            )),
                        }
                    }
                    let fetch = (surroundings.fetch)(oidc.ca.as_deref());
                    vec![oidc.issuer(fetch, &surroundings.clock, max_lifetime)]
                }
                IssuerConfig::Entra(entra) => {
                    let of_version = |version| {
                        let fetch = (surroundings.fetch)(entra.ca.as_deref());
                        entra.issuer_of(version, fetch, &surroundings.clock, max_lifetime)
                    };
                    entra.versions.iter().copied().map(of_version).collect()
                }
            };
            issuers.extend(built.into_iter().flatten().map(|issuer| (issuer.name.clone(), issuer)));
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        // Clients take the first they can use.
        let mut authorization_servers: Vec<_> =
            surroundings.facade.map(|facade| facade.issuer().to_owned()).into_iter().collect();
        authorization_servers.extend(config.issuers.iter().map(IssuerConfig::authorization_server));
        if let Some(facade) = surroundings.facade {
            issuers.insert(facade.issuer().to_owned(), facade.own_issuer());
        }
        let rules = Rules {
            allow_applications: config.allow_applications,
            needs_dpop: config.dpop == Constraint::Required,
            needs_certificate: config.mtls == Constraint::Required,
        };
        let common = Common {
            authorization_servers: &authorization_servers,
            needs_dpop: rules.needs_dpop,
            needs_certificate: rules.needs_certificate,
        };
        Ok(Self {
            resources: resources.into_iter().map(|settings| Resource::new(settings, &common)).collect(),
            issuers,
            opaque,
            hierarchy: Hierarchy::new(config.scope_implies.clone()),
            rules,
            cache: Cache::new(CACHE_ROOM),
            clock: surroundings.clock,
            replays: surroundings.replays,
            groups: surroundings.groups,
            denied: surroundings.denied,
            subjects: surroundings.subjects,
            nonces: surroundings.nonces,
            standing: Standing::default(),
        })
    }
}

impl OidcConfig {
    /// The issuer; `None` if its URL is none, which is one of the problems already.
    pub(crate) fn issuer(
        &self,
        fetch: Arc<dyn Fetch>,
        clock: &Arc<dyn Clock>,
        max_lifetime: Duration,
    ) -> Option<Issuer> {
        let place = match (&self.jwks_url, &self.metadata_url) {
            (Some(url), _) => KeyPlace::Keys(url.clone()),
            (None, Some(url)) => KeyPlace::Metadata(vec![url.clone()]),
            (None, None) => KeyPlace::of_issuer(&Url::parse(&self.issuer).ok()?),
        };
        Some(Issuer {
            name: self.issuer.clone(),
            keys: Keys::Fetched(IssuerKeys::new(self.issuer.clone(), place, fetch, Arc::clone(clock))),
            algorithms: self.algorithms.iter().copied().collect(),
            profile: self.profile(),
            needs_not_before: self.require_nbf,
            max_lifetime,
        })
    }

    fn profile(&self) -> Profile {
        Profile::Oidc(Oidc {
            issuer: self.issuer.clone(),
            scope_claim: self.scope_claim.name(),
            roles_claim: self.roles_claim.clone(),
            groups_claim: self.groups_claim.clone(),
            dangerous_untyped: self.dangerous_untyped_tokens,
        })
    }
}

impl EntraConfig {
    pub(crate) fn issuer_of(
        &self,
        version: TokenVersion,
        fetch: Arc<dyn Fetch>,
        clock: &Arc<dyn Clock>,
        max_lifetime: Duration,
    ) -> Option<Issuer> {
        let name = self.issuer(version);
        let place = KeyPlace::Metadata(vec![entra::metadata(&self.authority, &self.tenant, version)?]);
        Some(Issuer {
            keys: Keys::Fetched(IssuerKeys::new(name.clone(), place, fetch, Arc::clone(clock))),
            name,
            // The only one Entra signs with.
            algorithms: vec![Algorithm::Rs256],
            profile: Profile::Entra(Entra {
                tenant: self.tenant.clone(),
                version,
                issuer: self.issuer(TokenVersion::V2),
                v1_issuer: self.issuer(TokenVersion::V1),
                allow_guests: self.allow_guests,
            }),
            needs_not_before: true,
            max_lifetime,
        })
    }
}
