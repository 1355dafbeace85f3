//! See `bartizan_fuzz::fragments`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bartizan_fuzz::fragments(bytes));

#[cfg(not(fuzzing))]
fn main() {}
