//! Grants as rows.

use std::sync::Arc;

use async_trait::async_trait;
use bartizan_model::Timestamp;
use sqlx::{AnyConnection, AssertSqlSafe, Row, any::AnyRow};

use super::{Coded, FreshToken, Grant, Grants, Refreshable, Revocation, RevokedKind, Which};
use crate::{
    Database, DatabaseError, Digest, Sealer,
    columns::{digest, maybe_time, seconds, time},
    persons::{self, Person},
};

/// [`Grants`] in a [`Database`].
#[derive(Clone, Debug)]
pub struct StoredGrants {
    database: Database,
    sealer: Arc<Sealer>,
}

const COLUMNS: &str =
    "g.id, g.code, g.client, g.issuer, g.subject, g.content, g.made_at, g.expires_at, g.ended_at";

impl StoredGrants {
    /// Grants in `database`. A row that `sealer` did not seal is none.
    pub fn new(database: Database, sealer: Arc<Sealer>) -> Self {
        Self { database, sealer }
    }

    /// `None` for a row that we did not write.
    async fn grant(&self, row: &AnyRow) -> Result<Option<Grant>, DatabaseError> {
        let text = |column: &str| row.try_get::<String, _>(column);
        let mut grant = Grant {
            id: text("id")?,
            client: text("client")?,
            issuer: text("issuer")?,
            subject: text("subject")?,
            content: String::new(),
            made_at: time(row, "made_at")?,
            expires_at: time(row, "expires_at")?,
        };
        let sealed = text("content")?;
        let code = digest(row, "code")?;
        let parts = parts(&grant, code);
        let context = parts.each_ref().map(Vec::as_slice);
        let opened = persons::open(&self.database, &self.sealer, whose(&grant), &context, &sealed).await?;
        let Some(content) = opened.and_then(|bytes| String::from_utf8(bytes).ok()) else {
            tracing::error!(id = grant.id, "a grant is not as it was written; it counts for nothing");
            return Ok(None);
        };
        grant.content = content;
        Ok(Some(grant))
    }

    async fn add_refresh(
        &self,
        database: &mut AnyConnection,
        grant: &str,
        refresh: &FreshToken,
    ) -> Result<(), sqlx::Error> {
        let binding = refresh.binding.as_deref().unwrap_or_default();
        let mark = with_mark(refresh.token, grant, binding, refresh.until, |parts| self.sealer.mark(parts));
        sqlx::query(
            "INSERT INTO refresh_tokens (hash, grant_id, binding, until, seal) VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(refresh.token.to_string())
        .bind(grant)
        .bind(binding)
        .bind(seconds(refresh.until))
        .bind(mark)
        .execute(database)
        .await?;
        Ok(())
    }
}

/// Everything about a grant that must be as we wrote it, its code included.
pub(crate) fn parts(grant: &Grant, code: Digest) -> [Vec<u8>; 8] {
    [
        b"grant".to_vec(),
        grant.id.clone().into_bytes(),
        code.0.to_vec(),
        grant.client.clone().into_bytes(),
        grant.issuer.clone().into_bytes(),
        grant.subject.clone().into_bytes(),
        grant.made_at.as_unix().to_be_bytes().to_vec(),
        grant.expires_at.as_unix().to_be_bytes().to_vec(),
    ]
}

fn whose(grant: &Grant) -> Person<'_> {
    Person { issuer: &grant.issuer, subject: &grant.subject }
}

pub(crate) fn with_mark<T>(
    token: Digest,
    grant: &str,
    binding: &str,
    until: Timestamp,
    use_parts: impl FnOnce(&[&[u8]]) -> T,
) -> T {
    use_parts(&[
        b"refresh token",
        &token.0,
        grant.as_bytes(),
        binding.as_bytes(),
        &until.as_unix().to_be_bytes(),
    ])
}

#[async_trait]
impl Grants for StoredGrants {
    async fn begin(&self, grant: &Grant, code: Digest, until: Timestamp) -> Result<(), DatabaseError> {
        let parts = parts(grant, code);
        let context = parts.each_ref().map(Vec::as_slice);
        let content = grant.content.as_bytes();
        let sealed =
            persons::seal(&self.database, &self.sealer, whose(grant), grant.made_at, &context, content)
                .await?;
        sqlx::query(
            "INSERT INTO grants (id, code, client, issuer, subject, content, made_at, code_until, expires_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        )
        .bind(&grant.id)
        .bind(code.to_string())
        .bind(&grant.client)
        .bind(&grant.issuer)
        .bind(&grant.subject)
        .bind(sealed)
        .bind(seconds(grant.made_at))
        .bind(seconds(until))
        .bind(seconds(grant.expires_at))
        .execute(self.database.writer())
        .await?;
        Ok(())
    }

    async fn find(&self, id: &str, now: Timestamp) -> Result<Option<Grant>, DatabaseError> {
        let statement = format!(
            "SELECT {COLUMNS} FROM grants g WHERE g.id = $1 AND g.expires_at > $2 \
             AND g.redeemed_at IS NOT NULL AND g.ended_at IS NULL"
        );
        let row = sqlx::query(AssertSqlSafe(statement))
            .bind(id)
            .bind(seconds(now))
            .fetch_optional(self.database.pool())
            .await?;
        match &row {
            Some(row) => self.grant(row).await,
            None => Ok(None),
        }
    }

    async fn of_code(&self, code: Digest) -> Result<Option<Coded>, DatabaseError> {
        let statement =
            format!("SELECT {COLUMNS}, g.code_until, g.redeemed_at FROM grants g WHERE g.code = $1");
        let row = sqlx::query(AssertSqlSafe(statement))
            .bind(code.to_string())
            .fetch_optional(self.database.pool())
            .await?;
        let Some(row) = row else { return Ok(None) };
        let Some(grant) = self.grant(&row).await? else { return Ok(None) };
        Ok(Some(Coded {
            grant,
            until: time(&row, "code_until")?,
            is_redeemed: maybe_time(&row, "redeemed_at")?.is_some(),
            is_ended: maybe_time(&row, "ended_at")?.is_some(),
        }))
    }

    async fn redeem(
        &self,
        code: Digest,
        refresh: Option<&FreshToken>,
        now: Timestamp,
    ) -> Result<bool, DatabaseError> {
        let mut transaction = self.database.write().await?;
        // Of several that come this far, the first has the row; the others wait for it and find it used.
        let redeemed: Option<String> = sqlx::query_scalar(
            "UPDATE grants SET redeemed_at = $2 \
             WHERE code = $1 AND redeemed_at IS NULL AND ended_at IS NULL AND code_until >= $2 RETURNING id",
        )
        .bind(code.to_string())
        .bind(seconds(now))
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(grant) = redeemed else { return Ok(false) };
        if let Some(refresh) = refresh {
            self.add_refresh(&mut transaction, &grant, refresh).await?;
        }
        transaction.commit().await?;
        Ok(true)
    }

    async fn of_refresh(&self, token: Digest) -> Result<Option<Refreshable>, DatabaseError> {
        let statement = format!(
            "SELECT {COLUMNS}, r.binding, r.until, r.used_at, r.seal FROM refresh_tokens r JOIN grants g ON g.id = r.grant_id \
             WHERE r.hash = $1"
        );
        let row = sqlx::query(AssertSqlSafe(statement))
            .bind(token.to_string())
            .fetch_optional(self.database.pool())
            .await?;
        let Some(row) = row else { return Ok(None) };
        let Some(grant) = self.grant(&row).await? else { return Ok(None) };
        let (binding, seal): (String, String) = (row.try_get("binding")?, row.try_get("seal")?);
        let until = time(&row, "until")?;
        if !with_mark(token, &grant.id, &binding, until, |parts| self.sealer.is_marked(parts, &seal)) {
            tracing::error!(
                grant = grant.id,
                "a refresh token is not as it was written; it counts for nothing"
            );
            return Ok(None);
        }
        Ok(Some(Refreshable {
            grant,
            binding: Some(binding).filter(|binding| !binding.is_empty()),
            until,
            used_at: maybe_time(&row, "used_at")?,
            is_ended: maybe_time(&row, "ended_at")?.is_some(),
        }))
    }

    async fn rotate(
        &self,
        token: Digest,
        next: Digest,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<bool, DatabaseError> {
        let mut transaction = self.database.write().await?;
        let used = sqlx::query(
            "UPDATE refresh_tokens SET used_at = $2 WHERE hash = $1 AND used_at IS NULL AND until > $2 \
             AND EXISTS (SELECT 1 FROM grants g WHERE g.id = grant_id AND g.ended_at IS NULL AND g.expires_at > $2) \
             RETURNING grant_id, binding",
        )
        .bind(token.to_string())
        .bind(seconds(now))
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(row) = used else { return Ok(false) };
        let binding = Some(row.try_get("binding")?).filter(|binding: &String| !binding.is_empty());
        let next = FreshToken { token: next, binding, until };
        self.add_refresh(&mut transaction, row.try_get("grant_id")?, &next).await?;
        transaction.commit().await?;
        Ok(true)
    }

    async fn end(
        &self,
        which: &Which<'_>,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Vec<String>, DatabaseError> {
        let mut transaction = self.database.write().await?;
        let ended = end(&mut transaction, which, until, now).await?;
        transaction.commit().await?;
        Ok(ended)
    }

    async fn of_person(
        &self,
        issuer: &str,
        subject: &str,
        now: Timestamp,
    ) -> Result<Vec<Grant>, DatabaseError> {
        let statement = format!(
            "SELECT {COLUMNS} FROM grants g WHERE g.issuer = $1 AND g.subject = $2 AND g.expires_at > $3 \
             AND g.redeemed_at IS NOT NULL AND g.ended_at IS NULL ORDER BY g.made_at, g.id"
        );
        let rows = sqlx::query(AssertSqlSafe(statement))
            .bind(issuer)
            .bind(subject)
            .bind(seconds(now))
            .fetch_all(self.database.pool())
            .await?;
        let mut found = Vec::with_capacity(rows.len());
        for row in &rows {
            found.extend(self.grant(row).await?);
        }
        Ok(found)
    }

    async fn revoke(&self, revocation: &Revocation) -> Result<(), DatabaseError> {
        let mut database = self.database.writer().acquire().await?;
        revoke(&mut database, revocation).await?;
        Ok(())
    }

    async fn revocations(&self, since: Timestamp, now: Timestamp) -> Result<Vec<Revocation>, DatabaseError> {
        let rows = sqlx::query(
            "SELECT kind, issuer, name, at, until FROM revocations WHERE at >= $1 AND until >= $2 ORDER BY at",
        )
        .bind(seconds(since))
        .bind(seconds(now))
        .fetch_all(self.database.pool())
        .await?;
        rows.iter().map(revocation).collect()
    }

    async fn first_use(&self, id: Digest, until: Timestamp, now: Timestamp) -> Result<bool, DatabaseError> {
        let noted = sqlx::query(
            "INSERT INTO used_ids (id, until) VALUES ($1, $2) \
             ON CONFLICT (id) DO UPDATE SET until = excluded.until WHERE used_ids.until < $3",
        )
        .bind(id.to_string())
        .bind(seconds(until))
        .bind(seconds(now))
        .execute(self.database.writer())
        .await?;
        Ok(noted.rows_affected() == 1)
    }

    async fn forget(&self, before: Timestamp) -> Result<u64, DatabaseError> {
        // A code that nobody redeemed leaves nothing worth keeping; one that was is remembered as long as its grant, so
        // that a second use is seen for what it is.
        let forgotten = sqlx::query(
            "DELETE FROM grants WHERE expires_at < $1 OR (redeemed_at IS NULL AND code_until < $1)",
        )
        .bind(seconds(before))
        .execute(self.database.writer())
        .await?
        .rows_affected();
        for statement in [
            "DELETE FROM refresh_tokens WHERE until < $1",
            "DELETE FROM revocations WHERE until < $1",
            "DELETE FROM used_ids WHERE until < $1",
        ] {
            sqlx::query(statement).bind(seconds(before)).execute(self.database.writer()).await?;
        }
        Ok(forgotten)
    }
}

/// Ends grants, of which the revocations are remembered until `until`; the answer is their ids.
pub(crate) async fn end(
    database: &mut AnyConnection,
    which: &Which<'_>,
    until: Timestamp,
    now: Timestamp,
) -> Result<Vec<String>, DatabaseError> {
    let (condition, names): (&str, Vec<&str>) = match which {
        Which::Client(client) => ("client = $2", vec![client]),
        Which::Consent { issuer, subject, client } => {
            ("issuer = $2 AND subject = $3 AND client = $4", vec![issuer, subject, client])
        }
        Which::Grant(id) => ("id = $2", vec![id]),
        Which::Person { issuer, subject } => ("issuer = $2 AND subject = $3", vec![issuer, subject]),
    };
    let statement =
        format!("UPDATE grants SET ended_at = $1 WHERE ended_at IS NULL AND {condition} RETURNING id");
    let mut query = sqlx::query_scalar(AssertSqlSafe(statement)).bind(seconds(now));
    for name in names {
        query = query.bind(name);
    }
    let ended: Vec<String> = query.fetch_all(&mut *database).await?;
    for id in &ended {
        let (kind, issuer) = (RevokedKind::Grant, String::new());
        let revocation = Revocation { kind, issuer, name: id.clone(), at: now, until };
        revoke(&mut *database, &revocation).await?;
    }
    Ok(ended)
}

/// Notes a revocation. One that is there already is made none the shorter by it.
pub(crate) async fn revoke(database: &mut AnyConnection, revocation: &Revocation) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO revocations (kind, issuer, name, at, until) VALUES ($1, $2, $3, $4, $5) \
         ON CONFLICT (kind, issuer, name) DO UPDATE SET \
         at = CASE WHEN excluded.at > revocations.at THEN excluded.at ELSE revocations.at END, \
         until = CASE WHEN excluded.until > revocations.until THEN excluded.until ELSE revocations.until END",
    )
    .bind(word(revocation.kind))
    .bind(&revocation.issuer)
    .bind(&revocation.name)
    .bind(seconds(revocation.at))
    .bind(seconds(revocation.until))
    .execute(database)
    .await?;
    Ok(())
}

fn word(kind: RevokedKind) -> &'static str {
    match kind {
        RevokedKind::Client => "client",
        RevokedKind::Grant => "grant",
        RevokedKind::Subject => "subject",
        RevokedKind::Token => "token",
    }
}

fn revocation(row: &AnyRow) -> Result<Revocation, DatabaseError> {
    let named: String = row.try_get("kind")?;
    let kinds = [RevokedKind::Client, RevokedKind::Grant, RevokedKind::Subject, RevokedKind::Token];
    let kind = kinds.into_iter().find(|kind| word(*kind) == named).ok_or(DatabaseError::Value("kind"))?;
    Ok(Revocation {
        kind,
        issuer: row.try_get("issuer")?,
        name: row.try_get("name")?,
        at: time(row, "at")?,
        until: time(row, "until")?,
    })
}
