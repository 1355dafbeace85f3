//! May this caller do this to that?
//!
//! Start from [`Bundle::load`], which reads Cedar policies, and [`Bundle::authorize`], which answers a [`Query`] with a
//! [`Decision`]:
//!
//! ```text
//! let Loaded { bundle, warnings } = Bundle::load(&sources, &catalog, &roles)?;
//! let ann = bundle.identify(claims);                       // once per token
//! match bundle.authorize(&Query { principal: &ann, … }) {
//!     Decision::Permit(permit) => …                        // cannot be made in any other way
//!     Decision::Deny(denial) => …                          // reason, policies, what would turn it
//! }
//! ```
//!
//! Promised: whatever is in doubt is denied; what a list hides cannot be called; the index changes no decision. Pure: no
//! sockets, no clock, no state but what is handed in. Left to others: verifying who calls, comparing a tool with its pin,
//! keeping [`flow::State`], asking people for approvals.

mod arguments;
mod bundle;
mod canonical;
mod catalog;
mod cedar;
mod claims;
mod compile;
mod config;
mod decision;
mod decisions;
mod engine;
pub mod explain;
pub mod flow;
mod index;
pub mod limits;
pub mod lint;
mod names;
#[cfg(feature = "prove")]
pub mod prove;
mod query;
mod reads;
pub mod record;
pub mod review;
mod schema;
mod shape;
mod sightings;
pub mod suggest;

#[cfg(test)]
mod scene;

pub use arguments::BadArguments;
pub use bundle::{Bundle, Changes, Loaded, Problems, Sources, Version};
pub use canonical::Ambiguous;
pub use catalog::{Catalog, FlowLabels, Hints, Prompt, Server, Tool, Trust};
pub use claims::{Claims, Members, OWNER, Principal, Roles};
pub use compile::{Grant, Source};
pub use config::{FlowConfig, NoSpan, PolicyConfig, ReviewConfig, Span, ToolLabels};
pub use decision::{Decision, Denial, Obligation, Permit, Reason};
pub use decisions::Decisions;
pub use query::{Action, Era, Query, ServerAction, ServerQuery, Surroundings};
pub use schema::{SchemaError, publish as publish_schema};
pub use sightings::Sightings;
