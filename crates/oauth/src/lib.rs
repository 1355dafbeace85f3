//! Who comes in: access tokens of external authorization servers, verified for the one resource they were issued for.
//!
//! Start from [`ResourceServer`]. It is made from a [`ResourceServerConfig`], the [`ResourceSettings`] of every MCP
//! endpoint and the [`Surroundings`] it needs; for each request, [`ResourceServer::authenticate`] answers a
//! [`VerifiedToken`] or an [`Error`], and an error says by [`Error::verdict`] and [`ResourceServer::challenge`] how it
//! is said to the client and to the audit trail.
//!
//! ```text
//! let resource = server.resource("/mcp/files")?;
//! let token = server.authenticate(resource, Presented { method, headers, certificate }).await?;
//! token.require_scopes(resource.required_scopes(), &["files:write".into()])?;
//! token.caller()
//! ```
//!
//! People meet [`signin::SignIn`]: the pages of the facade on which they allow a client what it asks, sign in, and see
//! and revoke what they allowed.
//!
//! What it promises: a token counts only if one configured issuer signed it, or vouches for it, for exactly this
//! resource, now (RFC 9068, RFC 7662, RFC 8707); a sender-constrained token only in its sender's hands (RFC 9449,
//! RFC 8705); doubt is refusal; and the bearer string ends here, since nothing this crate gives out holds it.
//!
//! Behind [`facade`] is the other face: the authorization server that clients see, whose tokens [`ResourceServer`] takes
//! like any other issuer's.
//!
//! What it leaves to others: sockets (`egress`, behind [`Fetch`]), what a caller may do (`policy`), and writing down
//! what happens (`audit`, behind [`Ledger`], and by [`Verdict::reason`]).

mod assemble;
mod binding;
mod cache;
mod challenge;
mod config;
mod credentials;
mod deny;
mod discovery;
mod dpop;
mod entra;
mod error;
pub mod facade;
mod fetch;
mod graph;
mod introspect;
mod json;
mod jwks;
mod jws;
mod key;
mod ledger;
mod mtls;
mod nonce;
pub mod outbound;
mod profile;
mod resource;
mod scope;
mod server;
pub mod signin;
mod standing;
mod subjects;
#[cfg(test)]
mod tests;
mod times;
mod token;
mod verify;

pub use assemble::Surroundings;
pub use challenge::StepUp;
pub use config::{
    Constraint, EntraConfig, IntrospectionConfig, IssuerConfig, OidcConfig, ResourceServerConfig, ScopeClaim,
};
pub use deny::{Denied, DenyList};
pub use dpop::{MemoryReplays, Replays, SharedReplays, UsedProof};
pub use entra::{GroupSource, Resolving, TokenVersion};
pub use error::{Blame, Error, Verdict};
pub use facade::{Facade, FacadeConfig, FacadeResource, FacadeSurroundings};
pub use fetch::{Document, EgressFetch, Fetch, Fetching, NamedBy, Probing, Sent};
pub use graph::{Graph, GraphConfig};
pub use key::Algorithm;
pub use ledger::{Deed, Ledger, Report, Unrecorded};
pub use nonce::DpopNonces;
pub use resource::{Resource, ResourceSettings};
pub use server::{Presented, ResourceServer};
pub use subjects::SubjectTokens;
pub use token::{AuthenticationRequired, Principal, VerifiedToken};
