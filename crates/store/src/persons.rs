//! Columns that belong to a person, under that person's own data key.
//!
//! The key is made at first need and kept in `person_keys`, wrapped under a root that is in the key file alone. Without its
//! row, or without the root's part for it, nothing of the person opens: that is how somebody is erased.

use std::sync::Arc;

use bartizan_model::Timestamp;
use sqlx::Row;

use crate::{
    Database, DatabaseError, Sealer,
    columns::seconds,
    ring::{DataKey, frame},
    seal::Stored,
};

/// Whose tenant of ours; there is one. An identity provider's tenants are told apart by their issuers.
pub const TENANT: &str = "";

/// Whose a column is.
#[derive(Clone, Copy, Debug)]
pub struct Person<'a> {
    /// Who vouches for the person.
    pub issuer: &'a str,
    /// The person, unique within the issuer.
    pub subject: &'a str,
}

/// A key, by its number.
struct Key {
    id: String,
    key: Arc<DataKey>,
}

/// Seals `plain` for a column of `person`'s. `context` names table, row and whatever else it is bound to. Not to be called
/// while a transaction writes: it may have to write a key.
///
/// # Errors
/// [`DatabaseError`].
pub async fn seal(
    database: &Database,
    sealer: &Sealer,
    person: Person<'_>,
    now: Timestamp,
    context: &[&[u8]],
    plain: &[u8],
) -> Result<String, DatabaseError> {
    let Key { id, key } = current(database, sealer, person, now).await?;
    let sealed = key.seal_row(&bound(person, context), plain, sealer.entropy());
    Ok(format!("4.{id}.{}", sealed.ok_or(DatabaseError::Locked)?))
}

/// What a column of `person`'s holds; `None` if it is not as it was written, or the person was erased. What earlier
/// versions sealed under the gate's key opens too.
///
/// # Errors
/// [`DatabaseError`].
pub async fn open(
    database: &Database,
    sealer: &Sealer,
    person: Person<'_>,
    context: &[&[u8]],
    sealed: &str,
) -> Result<Option<Vec<u8>>, DatabaseError> {
    let Some(Stored { form: '4', key: id, body }) = Stored::parse(sealed) else {
        // Without a key there is no telling whether it is as it was written.
        return if sealer.is_locked() {
            Err(DatabaseError::Locked)
        } else {
            Ok(sealer.open(context, sealed))
        };
    };
    let row = sqlx::query(
        "SELECT root, wrapped FROM person_keys WHERE tenant = $1 AND issuer = $2 AND subject = $3 AND id = $4",
    )
    .bind(TENANT)
    .bind(person.issuer)
    .bind(person.subject)
    .bind(id)
    .fetch_optional(database.pool())
    .await?;
    let Some(row) = row else { return Ok(None) };
    let (root, wrapped): (String, String) = (row.try_get("root")?, row.try_get("wrapped")?);
    let key = with_person(person, |parts| sealer.person(parts, (id, &root, &wrapped)))?;
    Ok(key.and_then(|key| key.open_row(&bound(person, context), body)))
}

/// The key that seals for `person`, made if there is none.
async fn current(
    database: &Database,
    sealer: &Sealer,
    person: Person<'_>,
    now: Timestamp,
) -> Result<Key, DatabaseError> {
    let root = sealer.persons_id().ok_or(DatabaseError::Locked)?;
    if let Some(key) = find(database, sealer, person, &root).await? {
        return Ok(key);
    }
    let (id, root, wrapped) = with_person(person, |parts| sealer.make_person(parts))?;
    // Of several processes at once one is first, and the others take its key.
    sqlx::query(
        "INSERT INTO person_keys (tenant, issuer, subject, root, id, wrapped, made_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (tenant, issuer, subject, root) DO NOTHING",
    )
    .bind(TENANT)
    .bind(person.issuer)
    .bind(person.subject)
    .bind(&root)
    .bind(&id)
    .bind(&wrapped)
    .bind(seconds(now))
    .execute(database.writer())
    .await?;
    find(database, sealer, person, &root).await?.ok_or(DatabaseError::Locked)
}

async fn find(
    database: &Database,
    sealer: &Sealer,
    person: Person<'_>,
    root: &str,
) -> Result<Option<Key>, DatabaseError> {
    let row = sqlx::query(
        "SELECT id, wrapped FROM person_keys WHERE tenant = $1 AND issuer = $2 AND subject = $3 AND root = $4",
    )
    .bind(TENANT)
    .bind(person.issuer)
    .bind(person.subject)
    .bind(root)
    .fetch_optional(database.pool())
    .await?;
    let Some(row) = row else { return Ok(None) };
    let (id, wrapped): (String, String) = (row.try_get("id")?, row.try_get("wrapped")?);
    let key = with_person(person, |parts| sealer.person(parts, (&id, root, &wrapped)))?;
    // A row that was put back from a copy, or changed: sealing under a key nobody has would lose what is sealed.
    let key = key.ok_or(DatabaseError::Value("person_keys.wrapped"))?;
    Ok(Some(Key { id, key }))
}

fn with_person<T>(person: Person<'_>, use_parts: impl FnOnce(&[&[u8]]) -> T) -> T {
    use_parts(&[b"person_keys", TENANT.as_bytes(), person.issuer.as_bytes(), person.subject.as_bytes()])
}

/// Table, row and the rest of a context, and whose it is.
fn bound(person: Person<'_>, context: &[&[u8]]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> =
        vec![b"person", TENANT.as_bytes(), person.issuer.as_bytes(), person.subject.as_bytes()];
    parts.extend_from_slice(context);
    frame(&parts)
}
