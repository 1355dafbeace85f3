//! See `bartizan_fuzz::definition`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bartizan_fuzz::definition(bytes));

#[cfg(not(fuzzing))]
fn main() {}
