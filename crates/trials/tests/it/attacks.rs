//! One file per family of attacks. A trial's name begins with the id of the attack (`ph_01_…`); a comment
//! `Also: AA-02.` above it names further ones. docs/attacks.md is made of both.

mod answers;
mod approvals;
mod authority;
mod bodies;
mod carriage;
mod channels;
mod credentials;
mod exchanges;
mod fronts;
mod handles;
mod identity;
mod injections;
mod json;
mod limits;
mod listeners;
mod metadata;
mod mirrors;
mod opinions;
mod origin;
mod permits;
mod pins;
mod processes;
mod quarantine;
mod questions;
mod reloads;
mod schemas;
mod secrets;
mod sessions;
mod streams;
mod tls;
mod tokens;
mod vault;
