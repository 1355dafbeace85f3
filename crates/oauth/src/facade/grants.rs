//! What the token endpoint gives tokens for, one file each.

mod assertion;
mod code;
mod exchange;
mod itself;
mod refresh;

pub(crate) use assertion::Trusted;
pub(crate) use exchange::Exchanged;
