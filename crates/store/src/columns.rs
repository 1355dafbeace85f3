//! Times and digests as columns.

use bartizan_model::{ServerName, Timestamp};
use sqlx::{Row, any::AnyRow};

use crate::{DatabaseError, Digest};

pub fn seconds(time: Timestamp) -> i64 {
    i64::try_from(time.as_unix()).unwrap_or(i64::MAX)
}

pub fn time(row: &AnyRow, column: &'static str) -> Result<Timestamp, DatabaseError> {
    maybe_time(row, column)?.ok_or(DatabaseError::Value(column))
}

pub fn maybe_time(row: &AnyRow, column: &'static str) -> Result<Option<Timestamp>, DatabaseError> {
    let seconds: Option<i64> = row.try_get(column)?;
    let time = |s: i64| u64::try_from(s).map(Timestamp::from_unix).map_err(|_| DatabaseError::Value(column));
    seconds.map(time).transpose()
}

pub fn digest(row: &AnyRow, column: &'static str) -> Result<Digest, DatabaseError> {
    maybe_digest(row, column)?.ok_or(DatabaseError::Value(column))
}

pub fn maybe_digest(row: &AnyRow, column: &'static str) -> Result<Option<Digest>, DatabaseError> {
    let text: Option<String> = row.try_get(column)?;
    text.map(|t| t.parse().map_err(|_| DatabaseError::Value(column))).transpose()
}

pub fn server(row: &AnyRow) -> Result<ServerName, DatabaseError> {
    ServerName::try_from(row.try_get::<String, _>("server")?).map_err(|_| DatabaseError::Value("server"))
}
