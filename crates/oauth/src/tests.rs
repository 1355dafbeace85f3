//! Scenes: two issuers, three resources, a clock that stands still, and tokens good and bad.

mod answers;
mod config;
mod egress;
mod entra;
mod forgery;
mod graph;
mod keys;
pub(crate) mod notebook;
mod opaque;
mod outbound;
pub(crate) mod scene;
mod sender;
mod tokens;
