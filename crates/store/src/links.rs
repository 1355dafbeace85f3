//! Accounts that people linked at the servers behind the gate, and who the gate is at their authorization servers.
//!
//! Contents are sealed, each to its own row: one that is copied to another person, server or authorization server opens
//! nowhere (attacks.md TP-02). Which tokens a content holds, and when they are renewed, is `oauth`'s business; here one
//! promise is kept: of several processes that want to renew one grant, one may.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bartizan_model::{Secret, ServerName, Timestamp};
use sqlx::{Row, any::AnyRow};

use crate::{
    Database, DatabaseError, Digest, Sealer,
    columns::{seconds, server, time},
    persons::{self, Person},
};

/// Whose account at which server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Account {
    /// Who vouches for the person at the gate.
    pub issuer: String,
    /// The person, unique within the issuer.
    pub subject: String,
    /// The server behind the gate.
    pub server: ServerName,
}

impl Account {
    pub(crate) fn person(&self) -> Person<'_> {
        Person { issuer: &self.issuer, subject: &self.subject }
    }
}

/// What an account lets the gate do.
#[derive(Clone)]
pub struct Grant {
    /// The authorization server that granted it, by its exact issuer.
    pub upstream: String,
    /// What was granted, in order.
    pub scopes: Vec<String>,
    /// The tokens, and what belongs to them: a text of the owner's choice.
    pub content: Secret,
    /// When the person agreed.
    pub granted_at: Timestamp,
    /// Counts the changes of this row.
    pub revision: u64,
}

/// A grant as its person sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Linked {
    /// The server.
    pub server: ServerName,
    /// The authorization server that granted it.
    pub upstream: String,
    /// What was granted.
    pub scopes: Vec<String>,
    /// When the person agreed.
    pub granted_at: Timestamp,
}

/// Why links cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The database failed.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// A content is not ours, or not that row's.
    #[error("a sealed value of `{0}` does not open: it was changed, moved, or sealed under another key")]
    Unsealed(&'static str),
}

impl From<sqlx::Error> for LinkError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

/// Where linked accounts are kept.
#[async_trait]
pub trait Links: Send + Sync {
    /// What `account` lets the gate do, if it is linked.
    ///
    /// # Errors
    /// [`LinkError`].
    async fn grant(&self, account: &Account) -> Result<Option<Grant>, LinkError>;

    /// Links `account`, or links it anew; `grant.revision` does not matter. The answer is the new revision.
    ///
    /// # Errors
    /// [`LinkError`]; nothing changed then.
    async fn link(&self, account: &Account, grant: &Grant) -> Result<u64, LinkError>;

    /// Lets the caller alone renew revision `revision` until `until`. Whether it may: not while somebody else does, nor
    /// after the row changed.
    ///
    /// # Errors
    /// [`LinkError`].
    async fn claim(
        &self,
        account: &Account,
        revision: u64,
        now: Timestamp,
        within: Duration,
    ) -> Result<bool, LinkError>;

    /// Puts `grant` in the place of the revision it carries, and ends the claim. Whether it was still there; the
    /// revision that follows is one higher.
    ///
    /// # Errors
    /// [`LinkError`]; nothing changed then.
    async fn renew(&self, account: &Account, grant: &Grant) -> Result<bool, LinkError>;

    /// Ends a claim without a change.
    ///
    /// # Errors
    /// [`LinkError`].
    async fn release(&self, account: &Account, revision: u64) -> Result<(), LinkError>;

    /// Unlinks `account`. Whether it was linked.
    ///
    /// # Errors
    /// [`LinkError`]; nothing changed then.
    async fn unlink(&self, account: &Account) -> Result<bool, LinkError>;

    /// What a person linked, by server.
    ///
    /// # Errors
    /// [`LinkError`].
    async fn of_person(&self, issuer: &str, subject: &str) -> Result<Vec<Linked>, LinkError>;

    /// Everybody who linked an account at `server`, in order.
    ///
    /// # Errors
    /// [`LinkError`].
    async fn of_server(&self, server: &ServerName) -> Result<Vec<Account>, LinkError>;

    /// Who the gate is at the authorization server `upstream`, with this redirect URI.
    ///
    /// # Errors
    /// [`LinkError`].
    async fn registration(&self, upstream: &str, redirect_uri: &str) -> Result<Option<Secret>, LinkError>;

    /// Remembers who the gate is there now.
    ///
    /// # Errors
    /// [`LinkError`]; nothing changed then.
    async fn register(
        &self,
        upstream: &str,
        redirect_uri: &str,
        content: &Secret,
        now: Timestamp,
    ) -> Result<(), LinkError>;

    /// Remembers a person who goes to an authorization server with a `state` of this digest, until `until`.
    ///
    /// # Errors
    /// [`LinkError`]; the person must not be sent then.
    async fn send(&self, state: Digest, content: &Secret, until: Timestamp) -> Result<(), LinkError>;

    /// What was remembered of a person who comes back; only once, and only in time.
    ///
    /// # Errors
    /// [`LinkError`].
    async fn take(&self, state: Digest, now: Timestamp) -> Result<Option<Secret>, LinkError>;
}

/// [`Links`] in a [`Database`].
#[derive(Clone, Debug)]
pub struct StoredLinks {
    database: Database,
    sealer: Arc<Sealer>,
}

impl StoredLinks {
    /// Links in `database`, sealed by `sealer`.
    pub fn new(database: Database, sealer: Arc<Sealer>) -> Self {
        Self { database, sealer }
    }

    fn open(&self, context: &[&[u8]], row: &AnyRow, table: &'static str) -> Result<Secret, LinkError> {
        let sealed: String = row.try_get("sealed")?;
        let opened = self.sealer.open(context, &sealed).and_then(|bytes| String::from_utf8(bytes).ok());
        opened.map(Secret::new).ok_or(LinkError::Unsealed(table))
    }

    async fn seal_grant(&self, account: &Account, grant: &Grant) -> Result<String, DatabaseError> {
        let context = of_grant(account, &grant.upstream);
        let content = grant.content.reveal().as_bytes();
        persons::seal(&self.database, &self.sealer, account.person(), grant.granted_at, &context, content)
            .await
    }
}

const GRANTS: &str = "upstream_grants";
pub(crate) const REGISTRATIONS: &str = "upstream_registrations";
const ERRANDS: &str = "upstream_errands";

/// What a grant's content is bound to.
pub(crate) fn of_grant<'a>(account: &'a Account, upstream: &'a str) -> [&'a [u8]; 5] {
    [
        GRANTS.as_bytes(),
        account.server.as_str().as_bytes(),
        account.issuer.as_bytes(),
        account.subject.as_bytes(),
        upstream.as_bytes(),
    ]
}

fn words(row: &AnyRow) -> Result<Vec<String>, sqlx::Error> {
    let text: String = row.try_get("scopes")?;
    Ok(text.split_ascii_whitespace().map(str::to_owned).collect())
}

fn number(revision: u64) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

fn revision(row: &AnyRow) -> Result<u64, LinkError> {
    let stored: i64 = row.try_get("revision")?;
    u64::try_from(stored).map_err(|_| DatabaseError::Value("revision").into())
}

#[async_trait]
impl Links for StoredLinks {
    async fn grant(&self, account: &Account) -> Result<Option<Grant>, LinkError> {
        let found = sqlx::query(
            "SELECT upstream, scopes, sealed, revision, granted_at FROM upstream_grants \
             WHERE issuer = $1 AND subject = $2 AND server = $3",
        )
        .bind(&account.issuer)
        .bind(&account.subject)
        .bind(account.server.as_str())
        .fetch_optional(self.database.pool())
        .await?;
        let Some(row) = found else { return Ok(None) };
        let upstream: String = row.try_get("upstream")?;
        let sealed: String = row.try_get("sealed")?;
        let context = of_grant(account, &upstream);
        let opened = persons::open(&self.database, &self.sealer, account.person(), &context, &sealed).await?;
        let content = opened.and_then(|bytes| String::from_utf8(bytes).ok()).map(Secret::new);
        let content = content.ok_or(LinkError::Unsealed(GRANTS))?;
        let (scopes, granted_at) = (words(&row)?, time(&row, "granted_at")?);
        Ok(Some(Grant { upstream, scopes, content, granted_at, revision: revision(&row)? }))
    }

    async fn link(&self, account: &Account, grant: &Grant) -> Result<u64, LinkError> {
        let sealed = self.seal_grant(account, grant).await?;
        let row = sqlx::query(
            "INSERT INTO upstream_grants \
             (issuer, subject, server, upstream, scopes, sealed, revision, granted_at, renewing_until) \
             VALUES ($1, $2, $3, $4, $5, $6, 1, $7, 0) \
             ON CONFLICT (issuer, subject, server) DO UPDATE SET upstream = excluded.upstream, scopes = excluded.scopes, \
             sealed = excluded.sealed, revision = upstream_grants.revision + 1, granted_at = excluded.granted_at, \
             renewing_until = 0 RETURNING revision",
        )
        .bind(&account.issuer)
        .bind(&account.subject)
        .bind(account.server.as_str())
        .bind(&grant.upstream)
        .bind(grant.scopes.join(" "))
        .bind(sealed)
        .bind(seconds(grant.granted_at))
        .fetch_one(self.database.writer())
        .await?;
        revision(&row)
    }

    async fn claim(
        &self,
        account: &Account,
        revision: u64,
        now: Timestamp,
        within: Duration,
    ) -> Result<bool, LinkError> {
        let claimed = sqlx::query(
            "UPDATE upstream_grants SET renewing_until = $5 \
             WHERE issuer = $1 AND subject = $2 AND server = $3 AND revision = $4 AND renewing_until <= $6",
        )
        .bind(&account.issuer)
        .bind(&account.subject)
        .bind(account.server.as_str())
        .bind(number(revision))
        .bind(seconds(now.plus(within)))
        .bind(seconds(now))
        .execute(self.database.writer())
        .await?;
        Ok(claimed.rows_affected() == 1)
    }

    async fn renew(&self, account: &Account, grant: &Grant) -> Result<bool, LinkError> {
        let sealed = self.seal_grant(account, grant).await?;
        let renewed = sqlx::query(
            "UPDATE upstream_grants SET upstream = $5, scopes = $6, sealed = $7, revision = revision + 1, \
             granted_at = $8, renewing_until = 0 \
             WHERE issuer = $1 AND subject = $2 AND server = $3 AND revision = $4",
        )
        .bind(&account.issuer)
        .bind(&account.subject)
        .bind(account.server.as_str())
        .bind(number(grant.revision))
        .bind(&grant.upstream)
        .bind(grant.scopes.join(" "))
        .bind(sealed)
        .bind(seconds(grant.granted_at))
        .execute(self.database.writer())
        .await?;
        Ok(renewed.rows_affected() == 1)
    }

    async fn release(&self, account: &Account, revision: u64) -> Result<(), LinkError> {
        sqlx::query(
            "UPDATE upstream_grants SET renewing_until = 0 \
             WHERE issuer = $1 AND subject = $2 AND server = $3 AND revision = $4",
        )
        .bind(&account.issuer)
        .bind(&account.subject)
        .bind(account.server.as_str())
        .bind(number(revision))
        .execute(self.database.writer())
        .await?;
        Ok(())
    }

    async fn unlink(&self, account: &Account) -> Result<bool, LinkError> {
        let gone =
            sqlx::query("DELETE FROM upstream_grants WHERE issuer = $1 AND subject = $2 AND server = $3")
                .bind(&account.issuer)
                .bind(&account.subject)
                .bind(account.server.as_str())
                .execute(self.database.writer())
                .await?;
        Ok(gone.rows_affected() == 1)
    }

    async fn of_person(&self, issuer: &str, subject: &str) -> Result<Vec<Linked>, LinkError> {
        let found = sqlx::query(
            "SELECT server, upstream, scopes, granted_at FROM upstream_grants \
             WHERE issuer = $1 AND subject = $2 ORDER BY server",
        )
        .bind(issuer)
        .bind(subject)
        .fetch_all(self.database.pool())
        .await?;
        let linked = |row: &AnyRow| {
            Ok(Linked {
                server: server(row)?,
                upstream: row.try_get("upstream")?,
                scopes: words(row)?,
                granted_at: time(row, "granted_at")?,
            })
        };
        found.iter().map(linked).collect()
    }

    async fn of_server(&self, server: &ServerName) -> Result<Vec<Account>, LinkError> {
        let found = sqlx::query(
            "SELECT issuer, subject FROM upstream_grants WHERE server = $1 ORDER BY issuer, subject",
        )
        .bind(server.as_str())
        .fetch_all(self.database.pool())
        .await?;
        let account = |row: &AnyRow| {
            let (issuer, subject) = (row.try_get("issuer")?, row.try_get("subject")?);
            Ok(Account { issuer, subject, server: server.clone() })
        };
        found.iter().map(account).collect()
    }

    async fn registration(&self, upstream: &str, redirect_uri: &str) -> Result<Option<Secret>, LinkError> {
        let found = sqlx::query(
            "SELECT sealed FROM upstream_registrations WHERE upstream = $1 AND redirect_uri = $2",
        )
        .bind(upstream)
        .bind(redirect_uri)
        .fetch_optional(self.database.pool())
        .await?;
        let context = [REGISTRATIONS.as_bytes(), upstream.as_bytes(), redirect_uri.as_bytes()];
        found.map(|row| self.open(&context, &row, REGISTRATIONS)).transpose()
    }

    async fn register(
        &self,
        upstream: &str,
        redirect_uri: &str,
        content: &Secret,
        now: Timestamp,
    ) -> Result<(), LinkError> {
        let context = [REGISTRATIONS.as_bytes(), upstream.as_bytes(), redirect_uri.as_bytes()];
        sqlx::query(
            "INSERT INTO upstream_registrations (upstream, redirect_uri, sealed, made_at) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (upstream, redirect_uri) DO UPDATE SET sealed = excluded.sealed, made_at = excluded.made_at",
        )
        .bind(upstream)
        .bind(redirect_uri)
        .bind(self.sealer.seal_row(&context, content.reveal().as_bytes())?)
        .bind(seconds(now))
        .execute(self.database.writer())
        .await?;
        Ok(())
    }

    async fn send(&self, state: Digest, content: &Secret, until: Timestamp) -> Result<(), LinkError> {
        let state = state.to_string();
        sqlx::query("INSERT INTO upstream_errands (state, sealed, until) VALUES ($1, $2, $3)")
            .bind(&state)
            .bind(self.sealer.seal_row(&[ERRANDS.as_bytes(), state.as_bytes()], content.reveal().as_bytes())?)
            .bind(seconds(until))
            .execute(self.database.writer())
            .await?;
        Ok(())
    }

    async fn take(&self, state: Digest, now: Timestamp) -> Result<Option<Secret>, LinkError> {
        let state = state.to_string();
        // Whoever deletes the row has it: of two who come back with one `state`, one does.
        let found = sqlx::query("DELETE FROM upstream_errands WHERE state = $1 RETURNING sealed, until")
            .bind(&state)
            .fetch_optional(self.database.writer())
            .await?;
        sqlx::query("DELETE FROM upstream_errands WHERE until <= $1")
            .bind(seconds(now))
            .execute(self.database.writer())
            .await?;
        let Some(row) = found else { return Ok(None) };
        if time(&row, "until")? <= now {
            return Ok(None);
        }
        self.open(&[ERRANDS.as_bytes(), state.as_bytes()], &row, ERRANDS).map(Some)
    }
}
