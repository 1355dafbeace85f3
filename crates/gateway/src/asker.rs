//! Who asks, once it is known: what of them goes on along the path of a request.

use std::{net::IpAddr, sync::Arc, time::Duration};

use bartizan_model::{Caller, CallerKey, Clock};
use bartizan_oauth::{Error, ResourceServer, VerifiedToken, outbound::Asking};

/// Who asks, as the authenticator found out.
#[derive(Clone, Debug)]
pub struct Asker {
    /// Who it is.
    pub caller: Arc<Caller>,
    /// The key under which everything of theirs is kept.
    pub key: CallerKey,
    /// From where, if over the network.
    pub address: Option<IpAddr>,
    /// By which access token, if by one.
    pub access: Option<Access>,
}

/// The verified token behind a request, and who can take it back.
#[derive(Clone)]
pub struct Access {
    token: Arc<VerifiedToken>,
    server: Arc<ResourceServer>,
}

impl Asker {
    /// A caller who is known without a token.
    pub fn new(caller: Caller) -> Self {
        Self { key: caller.key(), caller: Arc::new(caller), address: None, access: None }
    }

    /// The caller that a token names.
    pub fn with_token(access: Access) -> Self {
        Self { access: Some(access.clone()), ..Self::new(access.token.caller().clone()) }
    }

    /// For whom a server's credential is asked.
    pub fn asking(&self) -> Asking {
        Asking::new(Arc::clone(&self.caller), self.access.as_ref().map(|access| Arc::clone(access.token())))
    }

    /// The same, asking from `address`.
    #[must_use]
    pub fn at(self, address: IpAddr) -> Self {
        Self { address: Some(address), ..self }
    }

    /// Waits until what the request came with is good no more: its token has expired, or was taken back, here or where it was
    /// issued. A caller without a token is waited for in vain.
    pub async fn until_expired(&self, clock: &dyn Clock) {
        let Some(access) = &self.access else { return std::future::pending().await };
        let left = access.token.expires_at().since(clock.now());
        // A clock of whole seconds may be short of one.
        let expired = tokio::time::sleep(left + Duration::from_secs(1));
        tokio::select! {
            () = expired => {}
            () = self.until_revoked() => {}
        }
    }

    /// Whether the token of the request has been taken back.
    pub fn is_revoked(&self) -> bool {
        self.access.as_ref().is_some_and(|access| access.server.denied().denies(&access.token))
    }

    /// Waits until the token of the request is taken back, here or where it was issued; what goes on under one that merely
    /// expires may finish.
    pub async fn until_revoked(&self) {
        let Some(Access { token, server }) = &self.access else { return std::future::pending().await };
        tokio::select! {
            () = server.denied().denied(token) => {}
            () = server.until_inactive(token) => {}
        }
    }
}

impl Access {
    /// A request by `token`, which `server` verified.
    pub fn new(token: Arc<VerifiedToken>, server: Arc<ResourceServer>) -> Self {
        Self { token, server }
    }

    /// The `WWW-Authenticate` lines by which the client learns what would repair `error`.
    pub fn challenge(&self, error: &Error) -> Vec<String> {
        self.server.challenge_again(&self.token, error)
    }

    /// The token, as it was verified.
    pub fn token(&self) -> &Arc<VerifiedToken> {
        &self.token
    }
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("token", &self.token.token_id()).finish_non_exhaustive()
    }
}
