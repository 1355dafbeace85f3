//! Egress against real peers on loopback.

#![expect(clippy::unwrap_used, clippy::panic, reason = "the helpers of tests may fail like tests")]

mod connection;
mod endpoint;
mod fetch;
mod peer;
mod proxy;
mod stream;
mod tls;
