//! MCP on the wire.
//!
//! Nothing here opens a connection. [`message`] reads one JSON-RPC message strictly and keeps it as it was written,
//! [`splice`] changes what is ours in it, [`era`] owns every difference between the protocol's eras, [`headers`] and
//! [`tool`] the HTTP headers that mirror a body, [`sse`] event streams. "spec.md" names the requirements by id.

pub mod code;
pub mod era;
pub mod headers;
pub mod json;
pub mod message;
mod names;
mod refusal;
pub mod splice;
pub mod sse;
pub mod tool;
mod version;

pub use message::{Id, Kind, Message};
pub use refusal::{Aside, META_REFUSAL, Refusal, unknown_method};
pub use splice::Splice;
pub use version::{Era, Revision};
