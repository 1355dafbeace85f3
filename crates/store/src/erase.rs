//! Forgetting a person.
//!
//! Rows are deleted here; what makes the person unreadable in every copy of the database is that the key file loses what
//! their keys were wrapped under ([`crate::keyfile::Contents::puncture`]). The order is: numbers of the keys, key file, rows.

use std::time::Duration;

use bartizan_model::{Caller, Timestamp};

use crate::{
    Database, DatabaseError,
    grants::{self, Revocation, RevokedKind},
    persons::TENANT,
    sessions,
};

/// How much there was of a person.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Erased {
    /// The numbers of the data keys.
    pub keys: Vec<String>,
    /// Grants to clients, with their tokens.
    pub grants: u64,
    /// Accounts at servers.
    pub links: u64,
    /// Browsers in which the person was signed in.
    pub browsers: u64,
    /// What else there was: consents, withheld results, requests that waited, labels of what was read, what clients were offered,
    /// admin roles, sessions.
    pub other: u64,
}

impl Erased {
    /// Whether nothing was there.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// The numbers of a person's data keys.
///
/// # Errors
/// [`DatabaseError`].
pub async fn keys_of(database: &Database, issuer: &str, subject: &str) -> Result<Vec<String>, DatabaseError> {
    let ids =
        sqlx::query_scalar("SELECT id FROM person_keys WHERE tenant = $1 AND issuer = $2 AND subject = $3");
    Ok(ids.bind(TENANT).bind(issuer).bind(subject).fetch_all(database.pool()).await?)
}

/// Deletes every row of a person (a session's stays without them until its node has closed it), and revokes every token that speaks
/// for them and was issued until `now`, for as long as `remembered`, or as long as it was revoked already: gates that run know within
/// seconds.
///
/// # Errors
/// [`DatabaseError`]; nothing changed then.
pub async fn erase(
    database: &Database,
    issuer: &str,
    subject: &str,
    now: Timestamp,
    remembered: Duration,
) -> Result<Erased, DatabaseError> {
    let mut transaction = database.write().await?;
    let until = now.plus(remembered);
    let grants: Vec<String> =
        sqlx::query_scalar("SELECT id FROM grants WHERE issuer = $1 AND subject = $2 AND ended_at IS NULL")
            .bind(issuer)
            .bind(subject)
            .fetch_all(&mut *transaction)
            .await?;
    let person = (RevokedKind::Subject, issuer, subject);
    for (kind, issuer, name) in grants.iter().map(|id| (RevokedKind::Grant, "", id.as_str())).chain([person])
    {
        let (issuer, name) = (issuer.to_owned(), name.to_owned());
        grants::revoke(&mut transaction, &Revocation { kind, issuer, name, at: now, until }).await?;
    }
    let mut erased = Erased::default();
    for (statement, count) in [
        ("DELETE FROM upstream_grants WHERE issuer = $1 AND subject = $2", &mut erased.links),
        ("DELETE FROM browsers WHERE issuer = $1 AND subject = $2", &mut erased.browsers),
        // Their refresh tokens go with them.
        ("DELETE FROM grants WHERE issuer = $1 AND subject = $2", &mut erased.grants),
    ] {
        let gone = sqlx::query(statement).bind(issuer).bind(subject).execute(&mut *transaction).await?;
        *count += gone.rows_affected();
    }
    for statement in [
        "DELETE FROM provider_tokens WHERE issuer = $1 AND subject = $2",
        "DELETE FROM consents WHERE issuer = $1 AND subject = $2",
        "DELETE FROM quarantine WHERE issuer = $1 AND subject = $2",
        "DELETE FROM approvals WHERE issuer = $1 AND subject = $2",
        "DELETE FROM flows WHERE issuer = $1 AND subject = $2",
        "DELETE FROM flow_owners WHERE issuer = $1 AND subject = $2",
        // Whoever comes by this name later is somebody else.
        "DELETE FROM admin_roles WHERE issuer = $1 AND subject = $2",
    ] {
        let gone = sqlx::query(statement).bind(issuer).bind(subject).execute(&mut *transaction).await?;
        erased.other += gone.rows_affected();
    }
    // What each of their clients was offered: a caller is one text there.
    let callers = "DELETE FROM pin_inventories WHERE substr(caller, 1, CAST($2 AS INTEGER)) = $1";
    let key = beginning(issuer, subject);
    let length = i64::try_from(key.chars().count()).unwrap_or(i64::MAX);
    let gone = sqlx::query(callers).bind(key).bind(length).execute(&mut *transaction).await?;
    erased.other += gone.rows_affected();
    // Whoever remembers what of theirs was on record must look again.
    sqlx::query("UPDATE flow_resets SET resets = resets + 1").execute(&mut *transaction).await?;
    erased.other += sessions::erase(&mut transaction, issuer, subject, now).await?;
    let keys = sqlx::query_scalar(
        "DELETE FROM person_keys WHERE tenant = $1 AND issuer = $2 AND subject = $3 RETURNING id",
    );
    erased.keys = keys.bind(TENANT).bind(issuer).bind(subject).fetch_all(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(erased)
}

/// What the keys of all callers begin with that this person is, whichever the client: [`Caller::key`] says it last.
fn beginning(issuer: &str, subject: &str) -> String {
    let key = Caller::new(issuer, subject, "").key();
    let key = String::from_utf8_lossy(key.as_bytes());
    key.strip_suffix("0:").unwrap_or(&key).to_owned()
}
