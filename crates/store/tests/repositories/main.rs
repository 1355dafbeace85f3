//! One suite for both databases: SQLite always, Postgres where `BARTIZAN_TEST_POSTGRES` holds a URL.

#![expect(clippy::unwrap_used, reason = "the helpers of tests may fail like tests")]

mod approvals;
mod bench;
mod clients;
mod flows;
mod grants;
mod links;
mod migrations;
mod pins;
mod provider_tokens;
mod quarantine;
mod responses;
mod signin;
mod signing;
mod watching;
