//! The detectors that ship.

mod checks;
mod exfiltration;
mod hiding;
mod learned;
mod patterns;
mod shadowing;

pub use checks::Check;
pub use exfiltration::Exfiltration;
pub use hiding::Hiding;
pub use learned::{Learned, Model};
pub(crate) use patterns::PACKS;
pub use patterns::Patterns;
pub use shadowing::{Catalogue, Shadowing};
