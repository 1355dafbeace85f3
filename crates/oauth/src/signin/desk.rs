//! What the browser's half needs of the half that speaks OAuth.

use async_trait::async_trait;

use crate::facade::{Asked, AuthorizationRequest, Person};

/// The half of the facade that speaks OAuth to clients.
#[async_trait]
pub trait Desk: Send + Sync {
    /// Checks an authorization request (RFC 6749 §4.1.1).
    ///
    /// # Errors
    /// [`Unanswerable`].
    async fn begin(&self, asked: &Asked<'_>) -> Result<AuthorizationRequest, Unanswerable>;

    /// Grants a request that `person` has allowed; the answer is where their browser goes: the redirect URI with a code.
    ///
    /// # Errors
    /// [`Unanswerable`]; nothing was granted then.
    async fn complete(&self, request: AuthorizationRequest, person: &Person) -> Result<String, Unanswerable>;

    /// Where the browser goes with an error of RFC 6749 §4.1.2.1 or OpenID Connect Core §3.1.2.6.
    fn deny(&self, request: &AuthorizationRequest, error: &str) -> String;

    /// Ends what a person has granted a client: its codes and tokens stop working.
    ///
    /// # Errors
    /// [`Unanswerable`]; the grants may work still.
    async fn withdraw(&self, issuer: &str, subject: &str, client: &str) -> Result<(), Unanswerable>;
}

/// Why a request gets no code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unanswerable {
    /// A page, and no redirect: whoever asks is not known, or not where they say (spec.md F-12).
    Page {
        /// Its status.
        status: http::StatusCode,
        /// What the person reads: a sentence or two, in plain text.
        words: String,
    },
    /// The client is told.
    Redirect {
        /// Its redirect URI, with the error.
        location: String,
        /// What it calls itself, unless the operator wrote it down: then the person decides whether they go there.
        stranger: Option<String>,
        /// What is wrong, for whoever wrote it.
        words: &'static str,
    },
}
