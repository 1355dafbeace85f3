//! Access tokens (RFC 9068): what they say, and how they are given out: [made](Facade::prepare), then
//! [recorded](Facade::record), then [shown](Recorded::answer), and in no other order.

use std::{net::IpAddr, time::Duration};

use bartizan_model::{Secret, Timestamp};
use bartizan_store::Digest;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{Response, StatusCode};
use serde::Serialize;
use serde_json::json;

use super::{Facade, Person, answer, refusal::Refusal, token::ShownKey};
use crate::{
    Deed, Report,
    profile::{GRANT, GROUPS_IN_GRANT, PERSON, SIGN_IN},
};

/// Bytes of the longest access token that is given out: it has to fit into a header line with others.
const MAX_BYTES: usize = 12 * 1024;
/// Bytes of roles and groups that stand in a token. If there are more, and the token stands on a grant, they stay there.
const MAX_LISTED: usize = 4 * 1024;

/// What a token is to say.
pub(crate) struct Mint<'a> {
    pub who: Who<'a>,
    pub client: &'a str,
    pub resource: &'a str,
    pub scopes: &'a [String],
    /// The grant it stands on.
    pub grant: Option<&'a str>,
    /// The DPoP key it is bound to, if one was shown.
    pub key: &'a ShownKey,
    /// It does not outlive this.
    pub until: Option<Timestamp>,
    /// What it is given for: a stable code.
    pub reason: &'static str,
    /// Where the request comes from.
    pub peer: IpAddr,
}

/// A token that nobody has yet.
pub(crate) struct Minted {
    token: Secret,
    lives: Duration,
    kind: &'static str,
    scope: String,
}

/// A token that is on record, and may be given out.
#[must_use = "a token that is on record is about to be given out"]
pub(crate) struct Recorded(Minted);

impl Recorded {
    /// The answer that carries the token, with `beside`.
    pub fn answer(self, beside: serde_json::Value) -> Response<Bytes> {
        let Minted { token, lives, kind, scope } = self.0;
        let mut answer = json!({
            "access_token": token.reveal(),
            "token_type": kind,
            "expires_in": lives.as_secs(),
            "scope": scope,
        });
        if let (Some(members), serde_json::Value::Object(beside)) = (answer.as_object_mut(), beside) {
            members.extend(beside);
        }
        answer::json(StatusCode::OK, &answer)
    }
}

/// Who it speaks for.
pub(crate) enum Who<'a> {
    /// The client itself.
    Client,
    Person(&'a Person),
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    client_id: &'a str,
    scope: String,
    jti: String,
    iat: u64,
    exp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    auth_time: Option<u64>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    amr: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    acr: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    acrs: &'a [String],
    #[serde(flatten)]
    more: serde_json::Map<String, serde_json::Value>,
}

impl Facade {
    /// Makes an access token, records it, and answers with it and `beside`.
    ///
    /// # Errors
    /// Those of [`Self::prepare`] and [`Self::record`]; nobody gets a token then.
    pub(crate) async fn give(
        &self,
        mint: &Mint<'_>,
        beside: serde_json::Value,
    ) -> Result<Response<Bytes>, Refusal> {
        let minted = self.prepare(mint)?;
        Ok(self.record(mint, minted, Deed::TokenIssued).await?.answer(beside))
    }

    /// Makes an access token, which stays here.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`] while there is no key, or for a person in so many groups that no header could carry it;
    /// [`Refusal::Grant`] for a grant that is over.
    pub(crate) fn prepare(&self, mint: &Mint<'_>) -> Result<Minted, Refusal> {
        let now = self.clock.now();
        let usual = now.plus(Duration::from_secs(self.config.access_token_s));
        let expires_at = mint.until.map_or(usual, |until| usual.min(until));
        if expires_at <= now {
            return Err(Refusal::Grant("grant.expired"));
        }
        Ok(Minted {
            token: self.mint(mint, now, expires_at)?,
            lives: expires_at.since(now),
            kind: if mint.key.thumbprint().is_some() { "DPoP" } else { "Bearer" },
            scope: mint.scopes.join(" "),
        })
    }

    /// Puts a token on record, as `deed`.
    ///
    /// # Errors
    /// [`Refusal::Unrecorded`]; the token is gone then.
    pub(crate) async fn record(
        &self,
        mint: &Mint<'_>,
        minted: Minted,
        deed: Deed,
    ) -> Result<Recorded, Refusal> {
        let person = match mint.who {
            // As its calls will name it.
            Who::Client => (self.issuer.clone(), mint.client.to_owned()),
            Who::Person(person) => (person.issuer.clone(), person.subject.clone()),
        };
        let report = Report {
            person: Some(person),
            client: Some(mint.client.to_owned()),
            resource: Some(mint.resource.to_owned()),
            scopes: mint.scopes.to_vec(),
            grant: mint.grant.map(str::to_owned),
            ..Report::new(deed, mint.reason).at(mint.peer)
        };
        self.ledger.enter(report).await?;
        Ok(Recorded(minted))
    }

    fn mint(&self, mint: &Mint<'_>, now: Timestamp, expires_at: Timestamp) -> Result<Secret, Refusal> {
        let mut more = serde_json::Map::new();
        let mut id = [0; 16];
        self.entropy.fill(&mut id);
        let opaque;
        let (sub, person) = match mint.who {
            Who::Client => (mint.client, None),
            Who::Person(person) => {
                opaque = subject(&person.issuer, &person.subject);
                let [idp, idp_sub] = PERSON;
                more.insert(idp.to_owned(), person.issuer.as_str().into());
                more.insert(idp_sub.to_owned(), person.subject.as_str().into());
                if let Some(sign_in) = &person.sign_in {
                    more.insert(SIGN_IN.to_owned(), sign_in.as_str().into());
                }
                let listed =
                    person.roles.iter().chain(&person.groups).map(|word| word.len() + 3).sum::<usize>();
                if mint.grant.is_some() && listed > MAX_LISTED {
                    more.insert(GROUPS_IN_GRANT.to_owned(), true.into());
                } else {
                    for (name, words) in [("roles", &person.roles), ("groups", &person.groups)] {
                        if !words.is_empty() {
                            more.insert(name.to_owned(), words.iter().cloned().collect());
                        }
                    }
                }
                (opaque.as_str(), Some(person))
            }
        };
        if let Some(grant) = mint.grant {
            more.insert(GRANT.to_owned(), grant.into());
        }
        if let Some(jkt) = mint.key.thumbprint() {
            more.insert("cnf".to_owned(), json!({ "jkt": jkt }));
        }
        let contexts = person.map(|person| person.contexts.as_slice()).unwrap_or_default();
        let claims = Claims {
            iss: &self.issuer,
            sub,
            aud: mint.resource,
            client_id: mint.client,
            scope: mint.scopes.join(" "),
            jti: URL_SAFE_NO_PAD.encode(id),
            iat: now.as_unix(),
            exp: expires_at.as_unix(),
            auth_time: person.map(|person| person.at.as_unix()),
            amr: person.map(|person| person.methods.as_slice()).unwrap_or_default(),
            acr: contexts.first().map(String::as_str),
            acrs: contexts.get(1..).unwrap_or_default(),
            more,
        };
        let token = self.keyring.sign(&claims, now).ok_or(Refusal::Unavailable)?;
        if token.reveal().len() > MAX_BYTES {
            tracing::error!(
                client = mint.client,
                "a person has more roles and groups than an access token can carry: have the identity provider leave \
                 out those that no policy names"
            );
            return Err(Refusal::Unavailable);
        }
        Ok(token)
    }
}

/// `sub`: one for each person whichever client asks, and no identity provider's own. Who the person is, for policy and
/// audit, stands in the claims [`PERSON`].
fn subject(issuer: &str, subject: &str) -> String {
    let digest = Digest::of(format!("subject {}:{issuer}{subject}", issuer.len()).as_bytes());
    URL_SAFE_NO_PAD.encode(digest.0)
}
