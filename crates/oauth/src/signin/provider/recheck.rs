//! Whether somebody who signed in is still somebody at an OpenID provider: asked at each refresh of a token of ours, by what
//! the sign-in left (spec.md F-37, B-51).
//!
//! A provider that does not answer has not said no, and not yes: without a grace that the operator sets, nothing is refreshed
//! meanwhile, and the client may ask again.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bartizan_model::{Clock, Secret};
use bartizan_store::provider_tokens::SignIn;
use url::form_urlencoded;

use super::{
    OidcProviderConfig, RecheckBy,
    credential::{Credential, Proof},
    id_token::{self, Parties},
    metadata::Places,
};
use crate::{
    Fetch,
    discovery::KeyPlace,
    facade::{Directory, DirectoryUnavailable, Person, Standing},
    json::Object,
    jwks::IssuerKeys,
    key::Algorithm,
    outbound::{
        Assertions, EntraMeans, Renews, Unobtainable,
        token::{self, Denied, Tokens},
    },
};

/// An OpenID provider, as the directory of the people it signed in.
pub struct Recheck {
    provider: Arc<AtProvider>,
    by: RecheckBy,
    grace: Duration,
    assertions: Assertions,
    clock: Arc<dyn Clock>,
}

/// The provider itself.
struct AtProvider {
    issuer: String,
    client_id: String,
    algorithms: Vec<Algorithm>,
    places: Places,
    keys: IssuerKeys,
    credential: Credential,
    fetch: Arc<dyn Fetch>,
    clock: Arc<dyn Clock>,
}

impl Recheck {
    /// The directory that `config` describes; `None` if it says nobody is to be asked, or is not usable, which the sign-in says
    /// of the same configuration.
    pub fn new(config: &OidcProviderConfig, assertions: Assertions, means: EntraMeans) -> Option<Self> {
        let (recheck, place) = (config.recheck.as_ref()?, config.metadata()?);
        let EntraMeans { fetch, secret, clock, entropy } = means;
        let (issuer, client_id) = (config.issuer.clone(), config.client_id.clone());
        let provider = AtProvider {
            places: Places::new(
                issuer.clone(),
                place.clone(),
                config.token_endpoint.clone(),
                Arc::clone(&fetch),
                Arc::clone(&clock),
            ),
            keys: IssuerKeys::new(
                issuer.clone(),
                KeyPlace::Metadata(vec![place]),
                Arc::clone(&fetch),
                Arc::clone(&clock),
            ),
            credential: Credential::new(&config.credential, &client_id, secret, entropy, Arc::clone(&clock)),
            issuer,
            client_id,
            algorithms: config.algorithms.iter().copied().collect(),
            fetch,
            clock: Arc::clone(&clock),
        };
        let (by, grace) = (recheck.by, Duration::from_secs(recheck.grace_s));
        Some(Self { provider: Arc::new(provider), by, grace, assertions, clock })
    }

    /// What the provider says; the error says why it says nothing.
    async fn ask(&self, sign_in: &SignIn) -> Result<Standing, String> {
        match self.by {
            RecheckBy::RefreshToken => {
                match self.assertions.renewed(&self.provider, sign_in.clone()).await {
                    Ok(_) => Ok(Standing::Active),
                    // It wants to see the person, or has taken back what it gave.
                    Err(Unobtainable::StepUp(_) | Unobtainable::NotForCaller(_)) => Ok(Standing::SignInOver),
                    Err(other) => Err(other.to_string()),
                }
            }
            RecheckBy::Userinfo => {
                let held = self.assertions.held(sign_in).await.map_err(|error| error.to_string())?;
                let Some((access, _)) = held else { return Ok(Standing::SignInOver) };
                let standing = self.provider.tells_of(&sign_in.subject, &access).await?;
                if standing == Standing::Active {
                    self.assertions.confirm(sign_in).await.map_err(|error| error.to_string())?;
                }
                Ok(standing)
            }
        }
    }

    /// Whether the provider stood by the sign-in so lately that its silence is borne with.
    async fn is_in_grace(&self, sign_in: &SignIn) -> bool {
        match self.assertions.held(sign_in).await {
            Ok(Some((_, confirmed))) => {
                !self.grace.is_zero() && self.clock.now().since(confirmed) <= self.grace
            }
            _ => false,
        }
    }
}

#[async_trait]
impl Directory for Recheck {
    async fn standing(&self, person: &Person) -> Result<Standing, DirectoryUnavailable> {
        // Somebody else's people: their own issuer answers for them.
        if person.issuer != self.provider.issuer {
            return Ok(Standing::Active);
        }
        // Signed in before anybody was to be asked, or nothing was kept.
        let Some(id) = person.sign_in.clone() else { return Ok(Standing::SignInOver) };
        let sign_in = SignIn { issuer: person.issuer.clone(), subject: person.subject.clone(), id };
        match self.ask(&sign_in).await {
            Ok(Standing::SignInOver) => {
                if let Err(error) = self.assertions.end(&sign_in).await {
                    tracing::warn!(%error, "a sign-in that is over was not forgotten");
                }
                Ok(Standing::SignInOver)
            }
            Ok(standing) => Ok(standing),
            Err(why) if self.is_in_grace(&sign_in).await => {
                tracing::warn!(
                    why,
                    "the identity provider does not say whether somebody is still there, who goes on within `grace_s`"
                );
                Ok(Standing::Active)
            }
            Err(why) => {
                tracing::warn!(why, "the identity provider does not say whether somebody is still there");
                Err(DirectoryUnavailable)
            }
        }
    }
}

impl AtProvider {
    /// What the userinfo endpoint says of `subject` to whoever holds `access` (OpenID Connect Core §5.3).
    async fn tells_of(&self, subject: &str, access: &Secret) -> Result<Standing, String> {
        let metadata = self.places.current().await.map_err(|fault| fault.to_string())?;
        let url = metadata
            .userinfo_endpoint
            .as_ref()
            .ok_or("its metadata has no `userinfo_endpoint` at the origin of the metadata")?;
        let line = Secret::new(format!("Bearer {}", access.reveal()));
        let answer = self.fetch.get_as(url, &line).await.map_err(|error| error.to_string())?;
        match answer.status {
            200 => {
                let claims = Object::parse(&answer.body)
                    .map_err(|_| "its userinfo is no JSON object (a signed one is not taken)".to_owned())?;
                // Whatever else it says is another person's (§5.3.2).
                match claims.text("sub") {
                    Ok(Some(named)) if named == subject => Ok(Standing::Active),
                    _ => Err("its userinfo is not about whom was asked".to_owned()),
                }
            }
            // The token has ended, or was taken back.
            401 => Ok(Standing::SignInOver),
            status => Err(format!("its userinfo endpoint answered HTTP {status}")),
        }
    }
}

fn form(refresh: &Secret, proof: &Proof) -> Secret {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", "refresh_token").append_pair("refresh_token", refresh.reveal());
    for (name, value) in &proof.members {
        form.append_pair(name, value.reveal());
    }
    Secret::new(form.finish())
}

#[async_trait]
impl Renews for AtProvider {
    async fn renew(&self, refresh: &Secret, sign_in: &SignIn) -> Result<Tokens, Denied> {
        let failed = |why: String| Denied::Failed(why);
        let metadata = self.places.current().await.map_err(|fault| failed(fault.to_string()))?;
        let url = &metadata.token_endpoint;
        let proof = self
            .credential
            .prove(url)
            .map_err(|why| failed(format!("the gate's credential at the identity provider {why}")))?;
        let asked = self.clock.now();
        let answer = self.fetch.post(url, proof.authorization.as_ref(), form(refresh, &proof)).await;
        let answer = answer.map_err(|error| failed(error.to_string()))?;
        let tokens = token::read(answer.status, &answer.body, asked)?;
        let answer =
            Object::parse(&answer.body).map_err(|_| failed("its answer is no JSON object".into()))?;
        // If there is a new ID token, it is about the same person (OpenID Connect Core §12.2).
        if let Ok(Some(text)) = answer.text("id_token") {
            let parties =
                Parties { issuer: &self.issuer, client_id: &self.client_id, algorithms: &self.algorithms };
            let signed = id_token::signed(text, parties, &self.keys).await;
            let claims = signed.map_err(|error| failed(format!("its ID token: {error}")))?;
            if claims.text("sub") != Ok(Some(&sign_in.subject)) {
                return Err(failed("its ID token is about somebody else".into()));
            }
        }
        Ok(tokens)
    }
}
