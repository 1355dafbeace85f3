//! Stages: the facade on a real store, a gate that takes its tokens, clients good and bad, and a clock that stands still.

mod assertion;
mod authorize;
mod cast;
mod clients;
mod codes;
mod documents;
mod exchange;
mod metadata;
mod proofs;
mod records;
mod refresh;
mod register;
mod revoke;
mod stage;
