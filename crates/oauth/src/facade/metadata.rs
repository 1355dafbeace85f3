//! What clients read of us before they ask (RFC 8414 §2; spec.md F-02 to F-06). OpenID discovery gives the same document,
//! for clients that look there only: it claims no ID tokens, for there are none.

use serde::Serialize;

use super::{Facade, GrantType, Registration};
use crate::{dpop, key::Algorithm};

/// Algorithms of client assertions (RFC 7523 §2.2).
pub(crate) const ASSERTION_ALGORITHMS: [Algorithm; 6] = [
    Algorithm::Es256,
    Algorithm::EdDsa,
    Algorithm::Es384,
    Algorithm::Ps256,
    Algorithm::Rs256,
    Algorithm::Rs512,
];

#[derive(Serialize)]
pub(crate) struct Metadata {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    registration_endpoint: Option<String>,
    revocation_endpoint: String,
    introspection_endpoint: String,
    scopes_supported: Vec<String>,
    response_types_supported: [&'static str; 1],
    response_modes_supported: [&'static str; 1],
    grant_types_supported: Vec<&'static str>,
    token_endpoint_auth_methods_supported: [&'static str; 4],
    token_endpoint_auth_signing_alg_values_supported: Vec<&'static str>,
    revocation_endpoint_auth_methods_supported: [&'static str; 4],
    introspection_endpoint_auth_methods_supported: [&'static str; 3],
    code_challenge_methods_supported: [&'static str; 1],
    authorization_response_iss_parameter_supported: bool,
    client_id_metadata_document_supported: bool,
    dpop_signing_alg_values_supported: Vec<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    authorization_grant_profiles_supported: Vec<&'static str>,
}

impl Metadata {
    pub fn of(facade: &Facade) -> Self {
        let at = |path: &str| format!("{}{path}", facade.issuer);
        let names = |algorithms: &[Algorithm]| algorithms.iter().map(|a| a.name()).collect::<Vec<_>>();
        let mut scopes: Vec<_> =
            facade.resources.iter().flat_map(|resource| resource.scopes.keys().cloned()).collect();
        scopes.sort();
        scopes.dedup();
        let has_registration = facade.config.registration != Registration::Off;
        let takes_assertions = facade.offers(GrantType::JwtBearer);
        Self {
            issuer: facade.issuer.clone(),
            authorization_endpoint: at("/oauth/authorize"),
            token_endpoint: at("/oauth/token"),
            jwks_uri: at("/oauth/jwks"),
            registration_endpoint: has_registration.then(|| at("/oauth/register")),
            revocation_endpoint: at("/oauth/revoke"),
            introspection_endpoint: at("/oauth/introspect"),
            scopes_supported: scopes,
            response_types_supported: ["code"],
            response_modes_supported: ["query"],
            grant_types_supported: GrantType::ALL
                .into_iter()
                .filter(|grant| facade.offers(*grant))
                .map(GrantType::name)
                .collect(),
            token_endpoint_auth_methods_supported: [
                "none",
                "private_key_jwt",
                "client_secret_basic",
                "client_secret_post",
            ],
            token_endpoint_auth_signing_alg_values_supported: names(&ASSERTION_ALGORITHMS),
            revocation_endpoint_auth_methods_supported: [
                "none",
                "private_key_jwt",
                "client_secret_basic",
                "client_secret_post",
            ],
            introspection_endpoint_auth_methods_supported: [
                "private_key_jwt",
                "client_secret_basic",
                "client_secret_post",
            ],
            code_challenge_methods_supported: ["S256"],
            authorization_response_iss_parameter_supported: true,
            client_id_metadata_document_supported: facade.config.client_documents.enabled,
            dpop_signing_alg_values_supported: names(&dpop::ALGORITHMS),
            authorization_grant_profiles_supported: if takes_assertions {
                vec!["urn:ietf:params:oauth:grant-profile:id-jag"]
            } else {
                Vec::new()
            },
        }
    }
}
