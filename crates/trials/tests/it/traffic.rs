//! What must be carried: both eras, unharmed, through changes and stops.

mod alerts;
mod doctor;
mod eras;
mod exports;
mod life;
mod lossless;
mod merged;
mod metrics;
mod records;
mod recovery;
mod reports;
mod responses;
mod words;
mod wrapped;
