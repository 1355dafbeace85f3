//! Who asks, as policies know them.

use std::sync::{Arc, Weak};

use bartizan_model::Timestamp;
use bartizan_oauth::VerifiedToken;
use bartizan_policy::{Bundle, Claims, Principal};

use super::Policy;
use crate::{Access, Asker, upstream::stdio::lock};

/// An identity made ready, and the token it was made from.
pub(super) struct Known {
    token: Option<Weak<VerifiedToken>>,
    principal: Arc<Principal>,
}

impl Policy {
    pub(super) fn principal(&self, asker: &Asker, bundle: &Bundle) -> Arc<Principal> {
        let mut known = lock(&self.principals);
        if known.len() > 4096 {
            known.clear();
        }
        let token = asker.access.as_ref().map(Access::token);
        // The same person comes with another token after a step-up, and may then do more.
        let is_same = |known: &&Known| match (&known.token, token) {
            (None, None) => true,
            (Some(then), Some(now)) => std::ptr::eq(then.as_ptr(), Arc::as_ptr(now)),
            _ => false,
        };
        if let Some(known) = known.get(&asker.key).filter(is_same) {
            return Arc::clone(&known.principal);
        }
        let principal = Arc::new(bundle.identify(claims_of(asker)));
        let fresh = Known { token: token.map(Arc::downgrade), principal: Arc::clone(&principal) };
        known.insert(asker.key.clone(), fresh);
        principal
    }
}

/// What is known of who asks.
fn claims_of(asker: &Asker) -> Claims {
    match asker.access.as_ref().map(Access::token) {
        Some(token) => claims_of_token(token),
        None => Claims::of_caller(&asker.caller),
    }
}

/// What an access token says of whom it speaks for.
pub fn claims_of_token(token: &VerifiedToken) -> Claims {
    Claims {
        app: token.principal() == bartizan_oauth::Principal::Application,
        groups: token.groups().clone(),
        roles: token.roles().clone(),
        scopes: token.scopes().clone(),
        amr: token.authentication_methods().iter().cloned().collect(),
        acr: token.authentication_contexts().first().cloned(),
        auth_time: token.authenticated_at().map(Timestamp::as_unix),
        ..Claims::of_caller(token.caller())
    }
}
