//! One suite for both databases: SQLite always, Postgres where `BARTIZAN_TEST_POSTGRES` holds a URL.

#![expect(clippy::unwrap_used, reason = "the helpers of tests may fail like tests")]

mod admins;
mod approvals;
mod bench;
mod bundles;
mod clients;
mod flows;
mod grants;
mod keys;
mod links;
mod migrations;
mod pins;
mod plans;
mod provider_tokens;
mod quarantine;
mod responses;
mod reviews;
mod sessions;
mod signin;
mod signing;
mod watching;
