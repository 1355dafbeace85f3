//! The identity provider, to which the gate is a client like any other: one that trusts little (spec.md F-32; OpenID
//! Connect Core §3.1).
//!
//! Nothing of the provider's tokens leaves this module: the ID token becomes a [`Person`], the access token is dropped
//! unread, and a refresh token is not asked for. The exceptions are a tenant at which the gate acts in people's names
//! (`kind = "entra-obo"`), and a provider that is asked whether somebody is still there ([`Recheck`]): then both are kept,
//! sealed to the person and their sign-in, in [`Assertions`].

pub(crate) mod credential;
mod id_token;
mod lost;
mod metadata;
mod recheck;

use std::{collections::BTreeMap, path::Path, sync::Arc};

use bartizan_model::{Caller, Clock, Entropy, Secret};
use bartizan_store::provider_tokens::SignIn;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use url::{Url, form_urlencoded};

use super::{
    CredentialConfig, EntraProviderConfig, OidcProviderConfig, ProviderConfig, RecheckBy, RecheckConfig,
    SignInSurroundings, random,
};
use crate::{
    Error, Fetch, GroupSource,
    discovery::{Fault, KeyPlace},
    entra::{self, Entra, TokenVersion},
    facade::Person,
    json::Object,
    jwks::IssuerKeys,
    key::Algorithm,
    outbound::{
        Assertions, own_scope,
        token::{self, Tokens},
    },
};

use credential::{Credential, Proof};
use id_token::Reading;
pub(super) use id_token::SKEW;
pub(super) use lost::Lost;
use metadata::{Metadata, Places};
pub use recheck::Recheck;

/// Bytes of the longest code that is taken to the token endpoint; Entra's have about 2 KiB.
const LONGEST_CODE: usize = 8 * 1024;

/// One identity provider.
pub(super) struct Provider {
    issuer: String,
    host: String,
    client_id: String,
    callback: String,
    scope: String,
    places: Places,
    keys: IssuerKeys,
    algorithms: Vec<Algorithm>,
    credential: Credential,
    reading: Reading,
    fetch: Arc<dyn Fetch>,
    clock: Arc<dyn Clock>,
    groups: Option<Arc<dyn GroupSource>>,
    /// Where it goes what a sign-in leaves, if somebody uses it.
    assertions: Option<Assertions>,
    /// Whether the person is asked about by a refresh token.
    rechecks: bool,
    /// Whether the provider is to have the person agree to that (OpenID Connect Core §11).
    asks_consent: bool,
    entropy: Arc<dyn Entropy>,
}

/// What differs from one kind of provider to another.
struct Kind<'a> {
    issuer: String,
    host: String,
    metadata_url: Url,
    token_endpoint: Option<&'a Url>,
    client_id: &'a str,
    credential: &'a CredentialConfig,
    scope: String,
    algorithms: Vec<Algorithm>,
    reading: Reading,
    ca: Option<&'a Path>,
    recheck: Option<&'a RecheckConfig>,
}

impl<'a> Kind<'a> {
    /// `None` for what is among the problems already.
    fn of_entra(config: &'a EntraProviderConfig) -> Option<Self> {
        let issuer = |version| entra::issuer(&config.authority, &config.sts, &config.tenant, version);
        Some(Self {
            issuer: issuer(TokenVersion::V2),
            host: config.authority.host_str().unwrap_or_default().to_owned(),
            metadata_url: entra::metadata(&config.authority, &config.tenant, TokenVersion::V2)?,
            token_endpoint: None,
            client_id: &config.client_id,
            credential: &config.credential,
            // `oid` comes with `profile`.
            scope: "openid profile".to_owned(),
            // The only one Entra signs with.
            algorithms: vec![Algorithm::Rs256],
            reading: Reading::Entra(Entra {
                tenant: config.tenant.clone(),
                version: TokenVersion::V2,
                issuer: issuer(TokenVersion::V2),
                v1_issuer: issuer(TokenVersion::V1),
                allow_guests: config.allow_guests,
            }),
            ca: config.ca.as_deref(),
            recheck: None,
        })
    }

    /// `None` for what is among the problems already.
    fn of_oidc(config: &'a OidcProviderConfig) -> Option<Self> {
        let mut scopes = vec!["openid"];
        scopes.extend(config.scopes.iter().map(String::as_str).filter(|scope| *scope != "openid"));
        Some(Self {
            issuer: config.issuer.clone(),
            host: Url::parse(&config.issuer).ok()?.host_str().unwrap_or_default().to_owned(),
            metadata_url: config.metadata()?,
            token_endpoint: config.token_endpoint.as_ref(),
            client_id: &config.client_id,
            credential: &config.credential,
            scope: scopes.join(" "),
            algorithms: config.algorithms.iter().copied().collect(),
            reading: Reading::Oidc {
                roles_claim: config.roles_claim.clone(),
                groups_claim: config.groups_claim.clone(),
            },
            ca: config.ca.as_deref(),
            recheck: config.recheck.as_ref(),
        })
    }
}

/// What one sign-in has that no other has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Asking {
    /// Ties the ID token to this sign-in.
    pub nonce: String,
    /// Ties the code to us (RFC 7636).
    pub verifier: String,
    /// How long ago the person may have signed in, where the client cares.
    pub max_age_s: Option<u64>,
    /// The person is to sign in anew, whatever the provider remembers of them.
    #[serde(default)]
    pub signs_in_anew: bool,
}

/// What a sign-in is to show.
#[derive(Clone, Copy, Default)]
pub(super) struct Wanted<'a> {
    /// `acr_values`, in order of preference; for Entra authentication contexts.
    pub contexts: &'a [String],
    /// A `claims` parameter to relay (OpenID Connect Core §5.5).
    pub claims: Option<&'a str>,
}

/// What the browser brings back.
#[derive(Clone, Copy)]
pub(super) struct Returned<'a> {
    pub issuer: Option<&'a str>,
    pub error: Option<&'a str>,
    pub code: Option<&'a str>,
}

impl Provider {
    /// The provider, or nothing; what is wrong goes to `problems`.
    pub fn new(
        config: &ProviderConfig,
        public_url: &Url,
        surroundings: &SignInSurroundings<'_>,
        problems: &mut Vec<String>,
    ) -> Option<Self> {
        let kind = match config {
            ProviderConfig::Entra(config) => Kind::of_entra(config)?,
            ProviderConfig::Oidc(config) => Kind::of_oidc(config)?,
        };
        let (secret, entropy) = (Arc::clone(&surroundings.secret), Arc::clone(&surroundings.entropy));
        let clock = Arc::clone(&surroundings.clock);
        let credential = Credential::new(kind.credential, kind.client_id, secret, entropy, clock);
        if let Err(why) = credential.check() {
            problems.push(format!("[identity.provider]: `credential` {why}"));
            return None;
        }
        let (fetch, clock) = ((surroundings.fetch)(kind.ca), Arc::clone(&surroundings.clock));
        let (issuer, place) = (kind.issuer, kind.metadata_url);
        let recheck = kind.recheck;
        // Only what somebody uses is kept: a tenant's tokens for the gate, or what the provider is to be asked by.
        let is_entra = matches!(kind.reading, Reading::Entra(_));
        let assertions = surroundings.assertions.clone().filter(|_| is_entra || recheck.is_some());
        let by_refreshing = recheck.filter(|recheck| recheck.by == RecheckBy::RefreshToken);
        let scope = match &assertions {
            Some(_) if is_entra => format!("{} offline_access {}", kind.scope, own_scope(kind.client_id)),
            Some(_) if by_refreshing.is_some() => format!("{} offline_access", kind.scope),
            _ => kind.scope,
        };
        let key_place = KeyPlace::Metadata(vec![place.clone()]);
        let token_endpoint = kind.token_endpoint.cloned();
        Some(Self {
            places: Places::new(
                issuer.clone(),
                place,
                token_endpoint,
                Arc::clone(&fetch),
                Arc::clone(&clock),
            ),
            keys: IssuerKeys::new(issuer.clone(), key_place, Arc::clone(&fetch), Arc::clone(&clock)),
            issuer,
            host: kind.host,
            client_id: kind.client_id.to_owned(),
            callback: format!("{}/oauth/callback", public_url.origin().ascii_serialization()),
            scope,
            algorithms: kind.algorithms,
            reading: kind.reading,
            credential,
            fetch,
            clock,
            groups: surroundings.groups.clone(),
            rechecks: assertions.is_some() && by_refreshing.is_some(),
            asks_consent: assertions.is_some() && by_refreshing.is_some_and(|recheck| recheck.prompt_consent),
            assertions,
            entropy: Arc::clone(&surroundings.entropy),
        })
    }

    /// Who vouches for the people it signs in.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Where people sign in, for their eyes.
    pub fn host(&self) -> String {
        self.host.clone()
    }

    /// Where the browser goes to sign in (OpenID Connect Core §3.1.2.1). Of a client's request only the demands on the
    /// sign-in go along; `resource` and `scope` are between the client and us.
    ///
    /// # Errors
    /// [`Lost::Unavailable`].
    pub async fn address(&self, state: &str, asking: &Asking, wanted: Wanted<'_>) -> Result<Url, Lost> {
        let metadata = self.metadata().await?;
        let mut url = metadata.authorization_endpoint.clone();
        let challenge = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, asking.verifier.as_bytes());
        let mut query = url.query_pairs_mut();
        query
            .append_pair("response_type", "code")
            .append_pair("client_id", &self.client_id)
            .append_pair("redirect_uri", &self.callback)
            .append_pair("scope", &self.scope)
            .append_pair("state", state)
            .append_pair("nonce", &asking.nonce)
            .append_pair("code_challenge", &URL_SAFE_NO_PAD.encode(challenge))
            .append_pair("code_challenge_method", "S256");
        if let Some(seconds) = asking.max_age_s {
            query.append_pair("max_age", &seconds.to_string());
        }
        // One parameter: it must not come twice (RFC 6749 §3.1).
        match (asking.signs_in_anew, self.asks_consent) {
            (true, true) => query.append_pair("prompt", "login consent"),
            (true, false) => query.append_pair("prompt", "login"),
            (false, true) => query.append_pair("prompt", "consent"),
            (false, false) => &mut query,
        };
        let (contexts, claims) = match &self.reading {
            Reading::Entra(_) => (None, entra_claims(wanted)),
            Reading::Oidc { .. } => (Some(wanted.contexts.join(" ")), wanted.claims.map(str::to_owned)),
        };
        if let Some(contexts) = contexts.filter(|contexts| !contexts.is_empty()) {
            query.append_pair("acr_values", &contexts);
        }
        if let Some(claims) = claims {
            query.append_pair("claims", &claims);
        }
        drop(query);
        Ok(url)
    }

    /// The code that came back, or the error the client is told of.
    ///
    /// # Errors
    /// [`Lost::MixedUp`], [`Lost::Answer`], [`Lost::Unavailable`].
    pub async fn code<'a>(&self, returned: &Returned<'a>) -> Result<Result<&'a str, &'static str>, Lost> {
        // Before anything is sent anywhere (RFC 9207 §2.4; spec.md G-41).
        let must_say = self.metadata().await?.names_itself;
        match returned.issuer {
            Some(issuer) if issuer != self.issuer => return Err(Lost::MixedUp),
            None if must_say => return Err(Lost::MixedUp),
            _ => {}
        }
        match (returned.error, returned.code) {
            (Some(error), None) => Ok(Err(known(error))),
            (None, Some(code)) if code.len() <= LONGEST_CODE => Ok(Ok(code)),
            _ => Err(Lost::Answer),
        }
    }

    /// Who signed in, by the code of their sign-in.
    ///
    /// # Errors
    /// [`Lost`]; the code is used up in any case.
    pub async fn person(&self, code: &str, asking: &Asking) -> Result<Person, Lost> {
        let metadata = self.metadata().await?;
        let (text, tokens) = self.redeem(&metadata, code, asking).await?;
        let parties = id_token::Parties {
            issuer: &self.issuer,
            client_id: &self.client_id,
            algorithms: &self.algorithms,
        };
        let claims = id_token::verify(text.reveal(), parties, asking, &self.keys, self.clock.now()).await?;
        let (mut person, groups_elsewhere) =
            self.reading.person(&claims, &self.issuer).map_err(Lost::IdToken)?;
        if groups_elsewhere {
            let source = self.groups.as_ref().ok_or(Lost::IdToken(Error::GroupsUnknown))?;
            let caller = Caller::new(&person.issuer, &person.subject, &self.client_id);
            person.groups = source.groups_of(&caller).await.ok_or(Lost::IdToken(Error::GroupsUnknown))?;
        }
        if let (Some(assertions), Some(tokens)) = (&self.assertions, tokens) {
            if self.rechecks && tokens.refresh.is_none() {
                tracing::warn!(
                    "the identity provider gives no refresh token: nobody can be asked about, and every sign-in ends with its \
                     first access token; see [identity.provider] recheck"
                );
            }
            let id = random(&*self.entropy);
            let sign_in = SignIn { issuer: person.issuer.clone(), subject: person.subject.clone(), id };
            // Without it the person is asked to sign in again when it would be needed.
            match assertions.keep(&sign_in, &tokens).await {
                Ok(()) => person.sign_in = Some(sign_in.id),
                Err(error) => tracing::error!(%error, "what a sign-in left was not kept"),
            }
        }
        Ok(person)
    }

    /// The ID token for a code (OpenID Connect Core §3.1.3), and what came beside it, where it is kept.
    async fn redeem(
        &self,
        metadata: &Metadata,
        code: &str,
        asking: &Asking,
    ) -> Result<(Secret, Option<Tokens>), Lost> {
        let asked = self.clock.now();
        let url = &metadata.token_endpoint;
        let proof = self.credential.prove(url).map_err(Lost::Credential)?;
        let form = self.form(code, asking, &proof);
        let answered = self.fetch.post(url, proof.authorization.as_ref(), form).await;
        let document =
            answered.map_err(|source| Lost::Unavailable(Fault::Fetch { url: url.clone(), source }))?;
        let answer = Object::parse(&document.body).ok();
        if document.status != 200 {
            // An error code is a word; whatever else stands there is nobody's business.
            let error = answer.as_ref().and_then(|answer| answer.text("error").ok().flatten());
            let is_word = |error: &&str| {
                error.len() <= 64 && error.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
            };
            let error = error.filter(is_word).unwrap_or("no error code").to_owned();
            return Err(Lost::Refused { status: document.status, error });
        }
        let missing = |_| Lost::IdToken(Error::TokenMalformed);
        let answer = answer.ok_or(Lost::IdToken(Error::TokenMalformed))?;
        let tokens = match &self.assertions {
            None => None,
            Some(_) => token::read(document.status, &document.body, asked).ok(),
        };
        Ok((Secret::new(answer.needed_text("id_token").map_err(missing)?.to_owned()), tokens))
    }

    fn form(&self, code: &str, asking: &Asking, proof: &Proof) -> Secret {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "authorization_code")
            .append_pair("code", code)
            .append_pair("redirect_uri", &self.callback)
            .append_pair("code_verifier", &asking.verifier);
        for (name, value) in &proof.members {
            form.append_pair(name, value.reveal());
        }
        Secret::new(form.finish())
    }

    async fn metadata(&self) -> Result<Arc<Metadata>, Lost> {
        self.places.current().await.map_err(Lost::Unavailable)
    }
}

/// The errors of RFC 6749 §4.1.2.1 and OpenID Connect Core §3.1.2.6 that can be the client's too.
fn known(error: &str) -> &'static str {
    const KNOWN: [&str; 7] = [
        "access_denied",
        "account_selection_required",
        "consent_required",
        "interaction_required",
        "login_required",
        "temporarily_unavailable",
        "unmet_authentication_requirements",
    ];
    KNOWN.into_iter().find(|known| *known == error).unwrap_or("server_error")
}

/// What Entra is to put into the ID token: authentication contexts that the client was challenged for. Challenges are about
/// access tokens; ours comes from an ID token, so what they want is wanted there.
fn entra_claims(wanted: Wanted<'_>) -> Option<String> {
    let is_context = |value: &str| {
        let digits = value.strip_prefix('c').unwrap_or_default();
        matches!(digits.len(), 1..=2) && digits.bytes().all(|b| b.is_ascii_digit())
    };
    let mut all: BTreeMap<String, Value> = match wanted.claims {
        None => BTreeMap::new(),
        // What is no object says nothing that Entra would understand.
        Some(text) => serde_json::from_str(text).unwrap_or_default(),
    };
    let challenged = all.get("access_token").and_then(|claims| claims.get("acrs")).cloned();
    let asked: Vec<_> = wanted.contexts.iter().filter(|context| is_context(context)).collect();
    let essential = match (challenged, asked.is_empty()) {
        (Some(acrs), _) => Some(acrs),
        (None, false) => Some(json!({ "essential": true, "values": asked })),
        (None, true) => None,
    };
    if let Some(acrs) = essential
        && let Some(claims) = all.entry("id_token".to_owned()).or_insert_with(|| json!({})).as_object_mut()
    {
        claims.entry("acrs").or_insert(acrs);
    }
    if all.is_empty() { None } else { serde_json::to_string(&all).ok() }
}
