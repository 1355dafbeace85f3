//! The log as its users, its disk and its enemies see it.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "the helpers of tests may fail like tests"
)]

mod cost;
mod crash;
mod detections;
mod double;
mod durability;
mod exporting;
mod room;
mod scene;
mod searching;
mod sigma;
mod tampering;
