//! Pins as rows.

use bartizan_model::{ServerName, Timestamp};
use sqlx::{AnyConnection, Row, any::AnyRow};

use super::{Event, FORMS, Finding, Form, Key, Kind, Pin, Sighting, State, Step};
use crate::{
    DatabaseError, Digest, Sealer,
    columns::{digest, maybe_digest, maybe_time, seconds, server, time},
};

/// A pin as it was read.
pub struct Kept {
    pub pin: Pin,
    /// Whether its seal is ours: nobody but us wrote what may be shown and called of it (attacks.md PO-13).
    pub is_ours: bool,
}

pub fn kind(row: &AnyRow) -> Result<Kind, DatabaseError> {
    Kind::named(row.try_get::<&str, _>("kind")?).ok_or(DatabaseError::Value("kind"))
}

fn key(row: &AnyRow) -> Result<Key, DatabaseError> {
    Ok(Key { server: server(row)?, kind: kind(row)?, name: row.try_get("name")? })
}

fn shown(digest: Option<Digest>) -> Option<String> {
    digest.map(|d| d.to_string())
}

/// The columns of a pin, for `SELECT`.
pub const COLUMNS: &str = "server, kind, name, state, approved, waiting, refused, offered, turns, first_seen, last_seen, \
                           decided_by, decided_at, version, seal";

pub fn pin(row: &AnyRow, sealer: &Sealer) -> Result<Kept, DatabaseError> {
    let pin = Pin {
        key: key(row)?,
        state: State::named(row.try_get::<&str, _>("state")?).ok_or(DatabaseError::Value("state"))?,
        approved: maybe_digest(row, "approved")?,
        waiting: maybe_digest(row, "waiting")?,
        refused: maybe_digest(row, "refused")?,
        offered: maybe_digest(row, "offered")?,
        turns: u32::try_from(row.try_get::<i64, _>("turns")?).map_err(|_| DatabaseError::Value("turns"))?,
        first_seen: time(row, "first_seen")?,
        last_seen: time(row, "last_seen")?,
        decided_by: row.try_get("decided_by")?,
        decided_at: maybe_time(row, "decided_at")?,
        version: row.try_get::<i64, _>("version")?.try_into().map_err(|_| DatabaseError::Value("version"))?,
    };
    let is_ours = with_seal(&pin, |parts| sealer.is_marked(parts, row.try_get("seal").unwrap_or_default()));
    Ok(Kept { pin, is_ours })
}

/// Hands `use_parts` everything that decides what may be shown and called of `pin`, and who said so.
fn with_seal<T>(pin: &Pin, use_parts: impl FnOnce(&[&[u8]]) -> T) -> T {
    let bytes = |digest: &Option<Digest>| digest.map(|d| d.0.to_vec()).unwrap_or_default();
    use_parts(&[
        b"pin",
        pin.key.server.as_str().as_bytes(),
        pin.key.kind.as_str().as_bytes(),
        pin.key.name.as_bytes(),
        pin.state.as_str().as_bytes(),
        &bytes(&pin.approved),
        &bytes(&pin.waiting),
        pin.decided_by.as_deref().unwrap_or_default().as_bytes(),
        &pin.decided_at.map(|at| at.as_unix().to_be_bytes().to_vec()).unwrap_or_default(),
        &pin.version.to_be_bytes(),
    ])
}

/// A fresh seal of `pin`.
pub fn seal(pin: &Pin, sealer: &Sealer) -> String {
    with_seal(pin, |parts| sealer.mark(parts))
}

/// Writes `pin`, new or not, with a fresh seal.
pub async fn write(database: &mut AnyConnection, sealer: &Sealer, pin: &Pin) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO pins (server, kind, name, state, approved, waiting, refused, offered, first_seen, last_seen, \
         decided_by, decided_at, version, seal, turns) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15) \
         ON CONFLICT (server, kind, name) DO UPDATE SET state = excluded.state, approved = excluded.approved, \
         waiting = excluded.waiting, refused = excluded.refused, offered = excluded.offered, \
         last_seen = excluded.last_seen, decided_by = excluded.decided_by, decided_at = excluded.decided_at, \
         version = excluded.version, seal = excluded.seal, turns = excluded.turns",
    )
    .bind(pin.key.server.as_str())
    .bind(pin.key.kind.as_str())
    .bind(&pin.key.name)
    .bind(pin.state.as_str())
    .bind(shown(pin.approved))
    .bind(shown(pin.waiting))
    .bind(shown(pin.refused))
    .bind(shown(pin.offered))
    .bind(seconds(pin.first_seen))
    .bind(seconds(pin.last_seen))
    .bind(&pin.decided_by)
    .bind(pin.decided_at.map(seconds))
    .bind(i64::try_from(pin.version).unwrap_or(i64::MAX))
    .bind(seal(pin, sealer))
    .bind(i64::from(pin.turns))
    .execute(database)
    .await?;
    Ok(())
}

/// Keeps a form, unless it is kept already, and drops the oldest ones nobody approved.
pub async fn keep_form(database: &mut AnyConnection, key: &Key, form: &Form) -> Result<(), sqlx::Error> {
    let (server, kind) = (key.server.as_str(), key.kind.as_str());
    let added = sqlx::query(
        "INSERT INTO pin_forms (server, kind, name, hash, body, text, first_seen) \
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (server, kind, name, hash) DO NOTHING",
    )
    .bind(server)
    .bind(kind)
    .bind(&key.name)
    .bind(form.hash.to_string())
    .bind(form.body.to_string())
    .bind(&form.text)
    .bind(seconds(form.first_seen))
    .execute(&mut *database)
    .await?
    .rows_affected();
    if added == 0 {
        return Ok(());
    }
    // A server that offers a new form each time must not fill the disk.
    let surplus = "FROM pin_forms f WHERE f.server = $1 AND f.kind = $2 AND f.name = $3 AND f.approved_at IS NULL \
                   AND NOT EXISTS (SELECT 1 FROM pins p WHERE p.server = $1 AND p.kind = $2 AND p.name = $3 \
                   AND f.hash IN (p.approved, p.waiting, p.refused, p.offered)) \
                   ORDER BY f.first_seen DESC, f.hash LIMIT 1000 OFFSET $4";
    for table in ["pin_findings", "pin_forms"] {
        let statement = format!(
            "DELETE FROM {table} WHERE server = $1 AND kind = $2 AND name = $3 AND hash IN (SELECT f.hash {surplus})"
        );
        // INVARIANT: the statement is put together from the constants above alone.
        sqlx::query(sqlx::AssertSqlSafe(statement))
            .bind(server)
            .bind(kind)
            .bind(&key.name)
            .bind(FORMS)
            .execute(&mut *database)
            .await?;
    }
    Ok(())
}

/// The words of a finding as they are kept: Postgres keeps no NUL.
pub fn words(finding: &Finding) -> String {
    finding.words.replace('\0', "\u{fffd}")
}

pub async fn keep_findings(
    database: &mut AnyConnection,
    key: &Key,
    hash: Digest,
    findings: &[Finding],
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    for finding in findings {
        sqlx::query(
            "INSERT INTO pin_findings (server, kind, name, hash, rule, severity, words, blocks, at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) \
             ON CONFLICT (server, kind, name, hash, rule, words) DO NOTHING",
        )
        .bind(key.server.as_str())
        .bind(key.kind.as_str())
        .bind(&key.name)
        .bind(hash.to_string())
        .bind(&finding.rule)
        .bind(&finding.severity)
        .bind(words(finding))
        .bind(i64::from(finding.blocks))
        .bind(seconds(now))
        .execute(&mut *database)
        .await?;
    }
    Ok(())
}

/// Adds a step, and drops the oldest ones that a server alone caused.
pub async fn add_step(database: &mut AnyConnection, key: &Key, step: &Step) -> Result<(), sqlx::Error> {
    let (server, kind) = (key.server.as_str(), key.kind.as_str());
    sqlx::query(
        "INSERT INTO pin_history (server, kind, name, at, event, hash, by_whom) VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(server)
    .bind(kind)
    .bind(&key.name)
    .bind(seconds(step.at))
    .bind(step.event.as_str())
    .bind(shown(step.hash))
    .bind(&step.by)
    .execute(&mut *database)
    .await?;
    if step.by.is_empty() {
        sqlx::query(
            "DELETE FROM pin_history WHERE id IN (SELECT id FROM pin_history WHERE server = $1 AND kind = $2 \
             AND name = $3 AND by_whom = '' ORDER BY id DESC LIMIT 1000 OFFSET $4)",
        )
        .bind(server)
        .bind(kind)
        .bind(&key.name)
        .bind(FORMS * 8)
        .execute(&mut *database)
        .await?;
    }
    Ok(())
}

pub fn form(row: &AnyRow) -> Result<Form, DatabaseError> {
    Ok(Form {
        hash: digest(row, "hash")?,
        body: digest(row, "body")?,
        text: row.try_get("text")?,
        first_seen: time(row, "first_seen")?,
        approved_at: maybe_time(row, "approved_at")?,
        findings: Vec::new(),
    })
}

pub fn finding(row: &AnyRow) -> Result<(Digest, Finding), DatabaseError> {
    let finding = Finding {
        rule: row.try_get("rule")?,
        severity: row.try_get("severity")?,
        words: row.try_get("words")?,
        blocks: row.try_get::<i64, _>("blocks")? != 0,
    };
    Ok((digest(row, "hash")?, finding))
}

pub fn step(row: &AnyRow) -> Result<Step, DatabaseError> {
    Ok(Step {
        at: time(row, "at")?,
        event: Event::named(row.try_get::<&str, _>("event")?).ok_or(DatabaseError::Value("event"))?,
        hash: maybe_digest(row, "hash")?,
        by: row.try_get("by_whom")?,
    })
}

pub fn sighting(row: &AnyRow) -> Result<Sighting, DatabaseError> {
    Ok(Sighting {
        caller: row.try_get("caller")?,
        hash: digest(row, "hash")?,
        last_seen: time(row, "last_seen")?,
    })
}

/// Whoever looks at or decides about a server waits here for whoever does already.
pub async fn lock(
    database: &mut AnyConnection,
    server: &ServerName,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO pin_servers (server, first_seen, last_seen) VALUES ($1, $2, $2) \
         ON CONFLICT (server) DO UPDATE SET last_seen = excluded.last_seen",
    )
    .bind(server.as_str())
    .bind(seconds(now))
    .execute(database)
    .await?;
    Ok(())
}

/// Notes that a form was approved.
pub async fn mark_approved(
    database: &mut AnyConnection,
    key: &Key,
    hash: Digest,
    by: &str,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE pin_forms SET approved_by = $5, approved_at = $6 \
         WHERE server = $1 AND kind = $2 AND name = $3 AND hash = $4",
    )
    .bind(key.server.as_str())
    .bind(key.kind.as_str())
    .bind(&key.name)
    .bind(hash.to_string())
    .bind(by)
    .bind(seconds(now))
    .execute(database)
    .await?;
    Ok(())
}
