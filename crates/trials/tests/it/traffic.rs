//! What must be carried: both eras, unharmed, through changes and stops.

mod alerts;
mod announcements;
mod compromise;
mod doctor;
mod eras;
mod exports;
mod first_revision;
mod identities;
mod kills;
mod life;
mod lossless;
mod many;
mod merged;
mod metrics;
mod nodes;
mod partings;
pub mod records;
mod recovery;
mod refusals;
mod reopenings;
mod reports;
pub mod responses;
mod reviews;
mod upgrades;
mod witness;
mod words;
mod wrapped;
