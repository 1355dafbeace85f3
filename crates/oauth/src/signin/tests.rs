//! Scenes: a gate, an identity provider, browsers, and a desk that grants whatever reaches it.

mod account;
mod consent;
mod credential;
mod decisions;
mod entra;
mod local;
mod pages;
mod provider;
mod recheck;
mod records;
pub(super) mod scene;
