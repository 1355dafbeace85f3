//! Whom a request is made for.

use std::sync::Arc;

use bartizan_model::Caller;

use crate::VerifiedToken;

/// A caller, and the access token they came with, as it was verified. It holds nothing of the token itself.
#[derive(Clone, Debug)]
pub struct Asking {
    caller: Arc<Caller>,
    token: Option<Arc<VerifiedToken>>,
}

impl Asking {
    /// Somebody who came in by `token`, or without one. A token speaks for nobody but whom it names.
    pub fn new(caller: Arc<Caller>, token: Option<Arc<VerifiedToken>>) -> Self {
        let token = token.filter(|token| *token.caller() == *caller);
        Self { caller, token }
    }

    /// Who it is.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    pub(super) fn token(&self) -> Option<&Arc<VerifiedToken>> {
        self.token.as_ref()
    }
}

impl From<Caller> for Asking {
    fn from(caller: Caller) -> Self {
        Self::new(Arc::new(caller), None)
    }
}
