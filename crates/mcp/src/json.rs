//! JSON as it stands on the wire: a strict check, then views that never copy.
//!
//! [`check`] reads a text once and refuses whatever two parsers could read differently (attacks.md PH-03, PH-12,
//! PH-15): duplicate keys at any level (compared after unescaping), nesting over [`Limits::depth`], NUL in a key,
//! lone surrogates, and everything RFC 8259 does not allow. A [`Value`] is a piece of a text that passed, so its
//! readers only have to find where things end.

mod scan;
mod value;

pub use scan::{Fault, Limits, check};
pub(crate) use scan::{Outline, OutlineMember, Outlined, check_outlined};
pub use value::{Elements, Kind, Member, Members, Value, quote};
