//! What is wrong with this text? Fragments in, verdict with findings out; pure CPU, no sockets.
//!
//! Start from [`Shield`]. A caller turns a message into [`Fragment`]s, says whose text it is ([`Scene`]), and gets a
//! [`Verdict`]: what was found, where, and what becomes of the message. Streams go through an [`Inspector`], which sees
//! what is split over events.
//!
//! ```text
//! fragments → passages (neighbours joined) → views (normal form, decoded) → detectors → findings → verdict
//! ```
//!
//! [`drift`] is the other half: it gives every definition of a server one canonical form and hash, and says in words how
//! two forms differ (attacks.md PO-01, PO-13).
//!
//! It promises that all of a text is judged or the verdict says it was not, that work and memory are bounded, and that
//! every finding leads back to bytes of the original. It does not promise to see an instruction that has no mark of an
//! attack and is one only because the user asked for something else: information flow and approval answer that.

pub mod bundle;
mod bytes;
pub mod classifier;
mod config;
pub mod controls;
mod detector;
mod detectors;
pub mod document;
pub mod drift;
pub mod eval;
mod finding;
mod fragment;
pub mod json;
pub mod normalize;
pub mod opinion;
mod passage;
pub mod rules;
pub mod schema;
mod shield;
pub mod spotlight;
mod verdict;

pub use config::{
    ClientActions, CodeActions, Config, ControlActions, DefinitionActions, DocumentActions, Injection,
    PersonalDataActions, ResultActions, SecretActions, Spotlight, Trust,
};
pub use detector::{Detector, Hit, Lost, Scene};
pub use detectors::{Catalogue, Check, Learned, Model, Patterns};
pub use finding::{Category, Finding, Place, Severity};
pub use fragment::{Fragment, Kind, Role};
pub use opinion::{NoOpinion, Opinion, SecondOpinion, Text};
pub use passage::{Part, Passage, Sight};
pub use shield::{Inspector, Shield};
pub use verdict::{Action, ClientAction, Decision, Judged, Verdict};
