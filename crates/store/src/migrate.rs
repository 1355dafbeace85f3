//! Bringing the tables up to date: numbered scripts, applied once each, all or none.
//!
//! Several processes may start at once: the first holds the lock, the others find the work done. A database that a
//! newer program has used is left alone.

use sqlx::{AnyConnection, Executor, Row};

use crate::{Database, DatabaseError, Dialect, digest::Digest};

/// The scripts by number, in order, each in both dialects. Numbers may be left out; one that was given out stays.
const SCRIPTS: &[(i64, &str, &str)] = &[
    (
        1,
        include_str!("../migrations/sqlite/0001_pins.sql"),
        include_str!("../migrations/postgres/0001_pins.sql"),
    ),
    (
        2,
        include_str!("../migrations/sqlite/0002_flows.sql"),
        include_str!("../migrations/postgres/0002_flows.sql"),
    ),
    (
        3,
        include_str!("../migrations/sqlite/0003_approvals.sql"),
        include_str!("../migrations/postgres/0003_approvals.sql"),
    ),
    (
        10,
        include_str!("../migrations/sqlite/0010_facade.sql"),
        include_str!("../migrations/postgres/0010_facade.sql"),
    ),
    (
        11,
        include_str!("../migrations/sqlite/0011_signin.sql"),
        include_str!("../migrations/postgres/0011_signin.sql"),
    ),
    (
        12,
        include_str!("../migrations/sqlite/0012_links.sql"),
        include_str!("../migrations/postgres/0012_links.sql"),
    ),
    (
        13,
        include_str!("../migrations/sqlite/0013_quarantine.sql"),
        include_str!("../migrations/postgres/0013_quarantine.sql"),
    ),
    (
        14,
        include_str!("../migrations/sqlite/0014_responses.sql"),
        include_str!("../migrations/postgres/0014_responses.sql"),
    ),
    (
        15,
        include_str!("../migrations/sqlite/0015_keys.sql"),
        include_str!("../migrations/postgres/0015_keys.sql"),
    ),
    (
        16,
        include_str!("../migrations/sqlite/0016_sessions.sql"),
        include_str!("../migrations/postgres/0016_sessions.sql"),
    ),
    (
        17,
        include_str!("../migrations/sqlite/0017_provider_tokens.sql"),
        include_str!("../migrations/postgres/0017_provider_tokens.sql"),
    ),
    (
        18,
        include_str!("../migrations/sqlite/0018_flow_generations.sql"),
        include_str!("../migrations/postgres/0018_flow_generations.sql"),
    ),
    (
        19,
        include_str!("../migrations/sqlite/0019_reviews.sql"),
        include_str!("../migrations/postgres/0019_reviews.sql"),
    ),
    (
        20,
        include_str!("../migrations/sqlite/0020_bundles.sql"),
        include_str!("../migrations/postgres/0020_bundles.sql"),
    ),
    (
        22,
        include_str!("../migrations/sqlite/0022_plans.sql"),
        include_str!("../migrations/postgres/0022_plans.sql"),
    ),
    (
        23,
        include_str!("../migrations/sqlite/0023_admins.sql"),
        include_str!("../migrations/postgres/0023_admins.sql"),
    ),
    (
        24,
        include_str!("../migrations/sqlite/0024_sign_ins.sql"),
        include_str!("../migrations/postgres/0024_sign_ins.sql"),
    ),
    (
        28,
        include_str!("../migrations/sqlite/0028_bundle_marks.sql"),
        include_str!("../migrations/postgres/0028_bundle_marks.sql"),
    ),
    (
        29,
        include_str!("../migrations/sqlite/0029_bundle_chains.sql"),
        include_str!("../migrations/postgres/0029_bundle_chains.sql"),
    ),
    (
        30,
        include_str!("../migrations/sqlite/0030_admin_marks.sql"),
        include_str!("../migrations/postgres/0030_admin_marks.sql"),
    ),
    (
        32,
        include_str!("../migrations/sqlite/0032_flow_resets.sql"),
        include_str!("../migrations/postgres/0032_flow_resets.sql"),
    ),
    (
        34,
        include_str!("../migrations/sqlite/0034_pin_turns.sql"),
        include_str!("../migrations/postgres/0034_pin_turns.sql"),
    ),
];

/// Any number will do, as long as nobody else takes it.
const LOCK: &str = "SELECT pg_advisory_xact_lock(7308604897285497204)";

/// The scripts that were applied, and the digest of each.
async fn applied(database: &mut AnyConnection) -> Result<Vec<(i64, String)>, sqlx::Error> {
    let rows = sqlx::query("SELECT number, script FROM bartizan_migrations ORDER BY number")
        .fetch_all(database)
        .await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

/// Whether nothing is missing, nor otherwise than it was. Asked first: processes that begin at once would else wait in line, each to
/// write nothing.
async fn is_complete(database: &Database) -> Result<bool, DatabaseError> {
    let mut connection = database.pool().acquire().await?;
    let applied = applied(&mut connection).await?;
    let known = SCRIPTS.iter().map(|&(number, sqlite, postgres)| {
        let script = if database.dialect() == Dialect::Sqlite { sqlite } else { postgres };
        (number, Digest::of(script.as_bytes()).to_string())
    });
    Ok(known.eq(applied))
}

/// Applies what is missing.
pub async fn run(database: &Database) -> Result<(), DatabaseError> {
    // A database without tables has no such list.
    if is_complete(database).await.unwrap_or(false) {
        return Ok(());
    }
    let mut transaction = database.write().await?;
    if database.dialect() == Dialect::Postgres {
        transaction.execute(LOCK).await?;
    }
    transaction
        .execute(
            "CREATE TABLE IF NOT EXISTS bartizan_migrations (number BIGINT PRIMARY KEY, script TEXT NOT NULL)",
        )
        .await?;
    let applied = applied(&mut transaction).await?;
    let known = SCRIPTS.last().map_or(0, |(number, ..)| *number);
    if let Some((found, _)) = applied.last().filter(|(number, _)| *number > known) {
        return Err(DatabaseError::Newer { found: *found, known });
    }
    for &(number, sqlite, postgres) in SCRIPTS {
        let script = match database.dialect() {
            Dialect::Postgres => postgres,
            Dialect::Sqlite => sqlite,
        };
        let digest = Digest::of(script.as_bytes()).to_string();
        match applied.iter().find(|(n, _)| *n == number) {
            Some((_, was)) if *was == digest => {}
            Some(_) => return Err(DatabaseError::Migration(number)),
            None => {
                transaction.execute(sqlx::raw_sql(script)).await?;
                sqlx::query("INSERT INTO bartizan_migrations (number, script) VALUES ($1, $2)")
                    .bind(number)
                    .bind(digest)
                    .execute(&mut *transaction)
                    .await?;
            }
        }
    }
    transaction.commit().await?;
    Ok(())
}
