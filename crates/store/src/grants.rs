//! What people granted clients: one grant for each sign-in, whose tokens live and die together; and what was revoked.
//!
//! Codes and refresh tokens are kept as digests, and what a grant says is sealed: whoever reads the database can use
//! neither, whoever writes to it cannot make one. Each step of a grant's life happens once, whichever process asks
//! first: of any number of redemptions one succeeds, and so of refreshes (attacks.md AA-15, AA-25).

mod stored;

use async_trait::async_trait;
use bartizan_model::Timestamp;

pub use stored::StoredGrants;
pub(crate) use stored::{end, parts, revoke, with_mark};

use crate::{DatabaseError, Digest};

/// A grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Its id: unguessable.
    pub id: String,
    /// The client.
    pub client: String,
    /// Who vouches for the person.
    pub issuer: String,
    /// The person, unique within the issuer.
    pub subject: String,
    /// What was granted, as whoever grants writes it. It is sealed at rest.
    pub content: String,
    /// When it was made.
    pub made_at: Timestamp,
    /// When it ends, whatever happens.
    pub expires_at: Timestamp,
}

/// A code, and the grant it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coded {
    /// The grant.
    pub grant: Grant,
    /// Until when the code is good.
    pub until: Timestamp,
    /// Whether the code was used.
    pub is_redeemed: bool,
    /// Whether the grant was revoked.
    pub is_ended: bool,
}

/// A refresh token, and the grant it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refreshable {
    /// The grant.
    pub grant: Grant,
    /// The key the token is bound to, as [`Grants::redeem`] was told.
    pub binding: Option<String>,
    /// Until when the token is good.
    pub until: Timestamp,
    /// When the token was used; it was good for one use.
    pub used_at: Option<Timestamp>,
    /// Whether the grant was revoked.
    pub is_ended: bool,
}

/// A refresh token that is to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FreshToken {
    /// The token.
    pub token: Digest,
    /// The key that it and those that follow it are bound to: its thumbprint.
    pub binding: Option<String>,
    /// Until when it is good.
    pub until: Timestamp,
}

/// Which grants end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which<'a> {
    /// All of a client.
    Client(&'a str),
    /// All of a person to a client.
    Consent {
        /// Who vouches for the person.
        issuer: &'a str,
        /// The person.
        subject: &'a str,
        /// The client.
        client: &'a str,
    },
    /// This one.
    Grant(&'a str),
    /// All of a person.
    Person {
        /// Who vouches for the person.
        issuer: &'a str,
        /// The person.
        subject: &'a str,
    },
}

/// What a revocation is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RevokedKind {
    /// Everything an issuer granted to a client.
    Client,
    /// Everything that stands on one grant.
    Grant,
    /// Everything an issuer granted to a subject.
    Subject,
    /// One access token, by its id.
    Token,
}

/// Something that counts for nothing any more, though its time is not up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// What it is about.
    pub kind: RevokedKind,
    /// The issuer; empty for a grant.
    pub issuer: String,
    /// The id of the client, grant, subject or token.
    pub name: String,
    /// When: what was issued later counts again.
    pub at: Timestamp,
    /// When nothing it is about can be alive any more.
    pub until: Timestamp,
}

/// Where grants are kept.
#[async_trait]
pub trait Grants: Send + Sync {
    /// Adds a grant whose `code` is good until `until`.
    ///
    /// # Errors
    /// [`DatabaseError`]; nothing was added then.
    async fn begin(&self, grant: &Grant, code: Digest, until: Timestamp) -> Result<(), DatabaseError>;

    /// The grant of this id, if its code was used and it is alive.
    ///
    /// # Errors
    /// [`DatabaseError`].
    async fn find(&self, id: &str, now: Timestamp) -> Result<Option<Grant>, DatabaseError>;

    /// What a code stands for, used and revoked ones included.
    ///
    /// # Errors
    /// [`DatabaseError`].
    async fn of_code(&self, code: Digest) -> Result<Option<Coded>, DatabaseError>;

    /// Uses a code up, and adds the grant's first refresh token. The answer is whether this is the first use of a grant
    /// that is not revoked; else nothing has changed.
    ///
    /// # Errors
    /// [`DatabaseError`]; nothing has changed then.
    async fn redeem(
        &self,
        code: Digest,
        refresh: Option<&FreshToken>,
        now: Timestamp,
    ) -> Result<bool, DatabaseError>;

    /// What a refresh token stands for, used and revoked ones included.
    ///
    /// # Errors
    /// [`DatabaseError`].
    async fn of_refresh(&self, token: Digest) -> Result<Option<Refreshable>, DatabaseError>;

    /// Uses a refresh token up and puts `next`, good until `until`, in its place. The answer is whether this is the
    /// first use of a grant that is not revoked; else nothing has changed.
    ///
    /// # Errors
    /// [`DatabaseError`]; nothing has changed then.
    async fn rotate(
        &self,
        token: Digest,
        next: Digest,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<bool, DatabaseError>;

    /// Ends grants, and writes a [`Revocation`] that lasts until `until` for each. The answer is the ids of those that
    /// had not ended before.
    ///
    /// # Errors
    /// [`DatabaseError`]; nothing has ended then.
    async fn end(
        &self,
        which: &Which<'_>,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Vec<String>, DatabaseError>;

    /// The grants of a person whose code was used and that are alive, the oldest first.
    ///
    /// # Errors
    /// [`DatabaseError`].
    async fn of_person(
        &self,
        issuer: &str,
        subject: &str,
        now: Timestamp,
    ) -> Result<Vec<Grant>, DatabaseError>;

    /// Writes a revocation. One about the same thing lasts until the later of both ends.
    ///
    /// # Errors
    /// [`DatabaseError`]; nothing was revoked then.
    async fn revoke(&self, revocation: &Revocation) -> Result<(), DatabaseError>;

    /// What was revoked at `since` or later and may matter at `now`.
    ///
    /// # Errors
    /// [`DatabaseError`].
    async fn revocations(&self, since: Timestamp, now: Timestamp) -> Result<Vec<Revocation>, DatabaseError>;

    /// Notes the id of something that may be used once; the answer is whether it is the first time before `until`.
    ///
    /// # Errors
    /// [`DatabaseError`]; whatever it is about may not be used then.
    async fn first_use(&self, id: Digest, until: Timestamp, now: Timestamp) -> Result<bool, DatabaseError>;

    /// Forgets what was worth nothing before `before`; the answer is how many grants there were.
    ///
    /// # Errors
    /// [`DatabaseError`].
    async fn forget(&self, before: Timestamp) -> Result<u64, DatabaseError>;
}
