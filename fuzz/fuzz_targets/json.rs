//! See `bartizan_fuzz::json`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bartizan_fuzz::json(bytes));

#[cfg(not(fuzzing))]
fn main() {}
