//! A code for tokens (RFC 6749 §4.1.3, RFC 7636 §4.6; spec.md F-34; attacks.md AA-15, AA-16).

use aws_lc_rs::constant_time::verify_slices_are_equal;
use bartizan_store::{
    Digest,
    grants::{FreshToken, Which},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::Response;
use serde_json::json;

use crate::facade::{
    Facade, GrantType,
    authorize::Granted,
    mint::{Mint, Who},
    refusal::Refusal,
    token::Request,
};

impl Facade {
    /// Redeems a code: once. A second time ends the grant and everything that came of the first.
    pub(crate) async fn redeem(&self, request: Request<'_>) -> Result<Response<Bytes>, Refusal> {
        let Request { form, client, proof, peer, known } = request;
        let jkt = proof.as_ref().map(|proof| proof.jkt.clone());
        let code = form.get("code").ok_or(Refusal::Request("`code` is missing"))?;
        let verifier = form.get("code_verifier").ok_or(Refusal::Grant("code.verifier"))?;
        let hash = Digest::of(code.as_bytes());
        let coded = self.grants.of_code(hash).await?.ok_or(Refusal::Grant("code.unknown"))?;
        // Nothing about a code that is another client's is said or done: whoever shows it only guesses.
        if coded.grant.client != client.id() {
            return Err(Refusal::Grant("code.client"));
        }
        known.grant(&coded.grant);
        if coded.is_redeemed {
            self.end(&Which::Grant(&coded.grant.id)).await?;
            tracing::warn!(
                client = client.id(),
                grant = coded.grant.id,
                "a code was used twice; its grant has ended"
            );
            return Err(Refusal::Grant("code.replayed"));
        }
        let now = self.clock.now();
        if coded.is_ended || now > coded.until {
            return Err(Refusal::Grant("code.expired"));
        }
        if coded.grant.issuer != self.people_of {
            return Err(Refusal::Grant("code.issuer"));
        }
        let granted: Granted =
            serde_json::from_str(&coded.grant.content).map_err(|_| Refusal::Grant("code.unreadable"))?;
        if form.get("redirect_uri").is_some_and(|uri| uri != granted.redirect_uri)
            || form.is_broken("redirect_uri")
        {
            return Err(Refusal::Grant("code.redirect-uri"));
        }
        if !is_answered(&granted.code_challenge, verifier) {
            return Err(Refusal::Grant("code.verifier"));
        }
        if form.has("resource") && form.get("resource") != Some(&granted.resource) {
            return Err(Refusal::Target);
        }
        // Scopes were asked for at the authorization endpoint; here they are only repeated, if at all (AA-22).
        if let Some(asked) = form.get("scope")
            && !asked
                .split(' ')
                .all(|word| granted.scopes.iter().any(|scope| scope == word) || word == "offline_access")
        {
            return Err(Refusal::Scope);
        }
        if granted.dpop_jkt.is_some() && granted.dpop_jkt != jkt {
            return Err(Refusal::Grant("code.dpop"));
        }
        let key = self.use_up(proof).await?;
        let refresh = client.may(GrantType::RefreshToken).then(|| self.secret());
        let kept = refresh.as_ref().map(|token| FreshToken {
            token: Digest::of(token.reveal().as_bytes()),
            // RFC 9449 §5: a client that proves who it is may change its key.
            binding: jkt.filter(|_| client.is_public()),
            until: self.refresh_until(now, coded.grant.expires_at),
        });
        if !self.grants.redeem(hash, kept.as_ref(), now).await? {
            // Somebody else was first, this very moment.
            self.end(&Which::Grant(&coded.grant.id)).await?;
            return Err(Refusal::Grant("code.replayed"));
        }
        self.clients.used(&client).await;
        let beside = match &refresh {
            Some(token) => json!({ "refresh_token": token.reveal() }),
            None => json!({}),
        };
        let mint = Mint {
            who: Who::Person(&granted.person),
            client: client.id(),
            resource: &granted.resource,
            scopes: &granted.scopes,
            grant: Some(&coded.grant.id),
            key: &key,
            until: Some(coded.grant.expires_at),
            reason: "code.redeemed",
            peer,
        };
        self.give(&mint, beside).await
    }
}

/// Whether `verifier` is the one whose S256 challenge this is (RFC 7636 §4.1, §4.6).
fn is_answered(challenge: &str, verifier: &str) -> bool {
    let is_verifier = (43..=128).contains(&verifier.len())
        && verifier.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b));
    let hash = URL_SAFE_NO_PAD.encode(Digest::of(verifier.as_bytes()).0);
    is_verifier && verify_slices_are_equal(hash.as_bytes(), challenge.as_bytes()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verifier_of_rfc_7636_answers_its_challenge() {
        // RFC 7636, appendix B.
        let (verifier, challenge) =
            ("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
        assert!(is_answered(challenge, verifier));
        assert!(!is_answered(challenge, &verifier.to_lowercase()));
        assert!(!is_answered(verifier, verifier), "plain");
        for length in [42, 129] {
            let verifier = "a".repeat(length);
            let challenge = URL_SAFE_NO_PAD.encode(Digest::of(verifier.as_bytes()).0);
            assert!(!is_answered(&challenge, &verifier), "{length}");
        }
    }
}
