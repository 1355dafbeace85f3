//! Giving back what a person granted (RFC 7009): for a server that cannot be trusted any more, or never again.

use std::time::Duration;

use bartizan_store::links::{Account, Grant};
use http::{HeaderMap, HeaderValue, header};

use super::{
    UserOauth,
    client::{Client, Form},
    metadata::AuthorizationServer,
    register, sensitive,
    user::{Held, Inner, RENEWING},
};
use crate::{
    fetch::{NamedBy, Sent},
    json::Object,
};

/// How long somebody else who renews the grant is waited for.
const PATIENCE: Duration = Duration::from_secs(35);
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// What became of a grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Revoked {
    /// Its authorization server, by issuer, took it back. What is still good of it, in words, or nothing.
    Yes {
        /// The issuer.
        upstream: String,
        /// What it would not take back.
        left: Option<String>,
    },
    /// Its authorization server, by issuer, has no way to take anything back: tokens end by themselves.
    NoWay {
        /// The issuer.
        upstream: String,
    },
    /// There was none.
    Nothing,
}

/// One of a grant's two tokens.
#[derive(Clone, Copy)]
enum Token {
    Refresh,
    Access,
}

impl Token {
    /// `token_type_hint` (RFC 7009 §2.1)
    fn hint(self) -> &'static str {
        match self {
            Self::Refresh => "refresh_token",
            Self::Access => "access_token",
        }
    }
}

impl UserOauth {
    /// Has the authorization server revoke what the person granted, and forgets the account. Harmless when it is repeated.
    ///
    /// The refresh token goes first: with it the server should end the access tokens of the same grant (RFC 7009 §2.1); the
    /// one at hand is revoked all the same.
    ///
    /// # Errors
    /// Why it could not be revoked, for the operator. The account is still linked then, so that it can be tried again.
    pub async fn revoke(&self, issuer: &str, subject: &str) -> Result<Revoked, String> {
        let at = &self.0;
        let account = at.account(issuer, subject);
        let Some(grant) = claim(at, &account).await? else { return Ok(Revoked::Nothing) };
        let done = match give_back(at, &grant).await {
            Ok(done) => done,
            Err(why) => {
                // It may be renewed again.
                let _ = at.means.links.release(&account, grant.revision).await;
                return Err(why);
            }
        };
        at.means.links.unlink(&account).await.map_err(|error| error.to_string())?;
        at.forget(&account);
        Ok(done)
    }
}

/// The grant, while nobody else can renew it: a token that is renewed meanwhile would outlive this.
async fn claim(at: &Inner, account: &Account) -> Result<Option<Grant>, String> {
    let links = &at.means.links;
    let tries = PATIENCE.as_millis() / LOOK_AGAIN.as_millis();
    for _ in 0..tries {
        let found = links.grant(account).await.map_err(|error| error.to_string())?;
        let Some(grant) = found else { return Ok(None) };
        let claimed = links.claim(account, grant.revision, at.means.clock.now(), RENEWING).await;
        if claimed.map_err(|error| error.to_string())? {
            return Ok(Some(grant));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Err("another process is renewing the grant and does not finish".into())
}

async fn give_back(at: &Inner, grant: &Grant) -> Result<Revoked, String> {
    let upstream = grant.upstream.clone();
    let held = Held::read(&grant.content).map_err(|why| why.to_string())?;
    let tokens = [(Token::Refresh, held.refresh.as_deref()), (Token::Access, Some(held.access.as_str()))];
    let tokens: Vec<_> = tokens
        .into_iter()
        .filter_map(|(kind, token)| Some((kind, token.filter(|t| !t.is_empty())?)))
        .collect();
    if tokens.is_empty() {
        return Ok(Revoked::Yes { upstream, left: None });
    }
    // The authorization server that granted it, whatever the server names now.
    let server = at.authorization_server(&upstream).await.map_err(|fault| fault.to_string())?;
    let Some((url, named_by)) = &server.revocation_endpoint else { return Ok(Revoked::NoWay { upstream }) };
    let client = register::known(at, &server, &held.client_id).await?;
    let client = client.ok_or("the gate is no longer the client that the grant is for")?;
    let mut left = None;
    for (kind, token) in tokens {
        let sent = sign(at, &server, &client, kind, token)?;
        match ask(at, (url, *named_by), sent).await? {
            Answer::Revoked => {}
            Answer::Unsupported => {
                left = Some(match kind {
                    Token::Refresh => "the refresh token, which it does not revoke".to_owned(),
                    Token::Access => format!("the access token, until {} (Unix time)", held.until),
                });
            }
        }
    }
    Ok(Revoked::Yes { upstream, left })
}

fn sign(
    at: &Inner,
    server: &AuthorizationServer,
    client: &Client,
    kind: Token,
    token: &str,
) -> Result<Sent, String> {
    let form = Form::bare().with("token", token).with("token_type_hint", kind.hint());
    let means = &at.means;
    let (form, authorization) =
        client.sign(form, &server.issuer, means.clock.as_ref(), means.entropy.as_ref())?;
    let mut headers = HeaderMap::new();
    let form_kind = HeaderValue::from_static("application/x-www-form-urlencoded");
    headers.insert(header::CONTENT_TYPE, form_kind);
    if let Some(authorization) = authorization {
        let line = sensitive(&authorization).map_err(|why| why.to_string())?;
        headers.insert(header::AUTHORIZATION, line);
    }
    Ok(Sent { headers, body: form.encode() })
}

enum Answer {
    Revoked,
    /// `unsupported_token_type` (RFC 7009 §2.2.1)
    Unsupported,
}

async fn ask(at: &Inner, (url, named_by): (&url::Url, NamedBy), sent: Sent) -> Result<Answer, String> {
    let answer = at.means.issuers.send(url, named_by, sent).await;
    let answer = answer.map_err(|error| format!("the revocation endpoint: {error}"))?;
    // A token that is invalid already is answered by 200 too (RFC 7009 §2.2).
    if matches!(answer.status, 200 | 204) {
        return Ok(Answer::Revoked);
    }
    let error = Object::parse(&answer.body).ok();
    let code = error.as_ref().and_then(|error| error.text("error").ok().flatten()).unwrap_or_default();
    if answer.status == 400 && code == "unsupported_token_type" {
        return Ok(Answer::Unsupported);
    }
    let is_code = code.len() <= 100 && code.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
    Err(format!(
        "the revocation endpoint refuses (HTTP {}{})",
        answer.status,
        if code.is_empty() || !is_code { String::new() } else { format!(", {code}") }
    ))
}
