//! See `bartizan_fuzz::token`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bartizan_fuzz::token(bytes));

#[cfg(not(fuzzing))]
fn main() {}
