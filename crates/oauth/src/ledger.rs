//! What is told of identity to whoever keeps the record: evidence before the act.
//!
//! This crate knows no log. It says what happens through [`Ledger`], which others give it. What gives somebody something
//! (a token, a sign-in, a consent, a linked account, a registration) is [entered](Ledger::enter) first, and does not happen
//! if that fails. What takes something away, refuses or only shows is [mentioned](Ledger::mention): nobody keeps an
//! access because a disk is full.
//!
//! A report never holds a code, token, assertion, secret, state, nonce or cookie.

use std::net::IpAddr;

use async_trait::async_trait;
use bartizan_model::ServerName;

use crate::facade::{AuthorizationRequest, Person};

/// What happens, or happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Deed {
    /// A person's browser is signed in.
    SignedIn,
    /// A person, or somebody who pretends to be one, gets no further on our pages.
    SignInRefused,
    /// A person signed out.
    SignedOut,
    /// A client gets a token.
    TokenIssued,
    /// A client gets the next token of a grant.
    TokenRefreshed,
    /// A client gets no token, or nothing about one.
    TokenRefused,
    /// Something that is good for one use was used again.
    TokenReplayed,
    /// A client gave a token back.
    TokenRevoked,
    /// A person is shown what a client asks for.
    ConsentAsked,
    /// A person allows it.
    ConsentGranted,
    /// A person does not allow it.
    ConsentDenied,
    /// A person takes back what they allowed.
    ConsentWithdrawn,
    /// A person links an account of theirs.
    AccountLinked,
    /// A person unlinks an account of theirs.
    AccountUnlinked,
    /// An account is not linked.
    AccountRefused,
    /// A client registers itself.
    ClientRegistered,
    /// A client's metadata document was fetched, and is good.
    ClientFetched,
    /// A client is refused: its registration, its document, or what it asks a person for.
    ClientRefused,
}

/// A deed, and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What happens.
    pub deed: Deed,
    /// A stable code, such as `refresh.replayed`.
    pub reason: &'static str,
    /// Issuer and subject of the person it is about, as the identity provider vouches for them; a client that acts for
    /// itself is one, by our own issuer.
    pub person: Option<(String, String)>,
    /// The client, by an id that is known here.
    pub client: Option<String>,
    /// The resource: the URL of one of our endpoints.
    pub resource: Option<String>,
    /// What is asked for or given.
    pub scopes: Vec<String>,
    /// Where the client has its answer sent.
    pub redirect_uri: Option<String>,
    /// The grant: all that came of one consent.
    pub grant: Option<String>,
    /// The server whose account is linked.
    pub server: Option<ServerName>,
    /// The digests of the client's metadata before and after.
    pub metadata: Option<(Option<String>, String)>,
    /// More, in words for the operator.
    pub words: Option<String>,
    /// Where the request comes from.
    pub address: Option<IpAddr>,
}

impl Report {
    /// Nothing is known yet but what happens.
    pub fn new(deed: Deed, reason: &'static str) -> Self {
        Self {
            deed,
            reason,
            person: None,
            client: None,
            resource: None,
            scopes: Vec::new(),
            redirect_uri: None,
            grant: None,
            server: None,
            metadata: None,
            words: None,
            address: None,
        }
    }

    /// Of a request that comes from `address`.
    #[must_use]
    pub fn at(mut self, address: IpAddr) -> Self {
        self.address = Some(address);
        self
    }

    /// By or about `person`.
    #[must_use]
    pub fn by(mut self, person: &Person) -> Self {
        self.person = Some((person.issuer.clone(), person.subject.clone()));
        self
    }

    /// What a client asks for.
    #[must_use]
    pub fn about(mut self, request: &AuthorizationRequest) -> Self {
        self.client = Some(request.client.id.clone());
        self.resource = Some(request.resource.clone());
        self.scopes.clone_from(&request.scopes);
        self.redirect_uri = Some(request.redirect_uri.clone());
        self
    }
}

/// It is not on record, so it must not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it cannot be recorded")]
pub struct Unrecorded;

/// Keeps the record.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// Writes down what is about to happen: durable when this returns.
    ///
    /// # Errors
    /// [`Unrecorded`]: it must not happen.
    async fn enter(&self, report: Report) -> Result<(), Unrecorded>;

    /// Writes down what happened, without waiting. What is refused too often may be counted instead.
    fn mention(&self, report: Report);
}
