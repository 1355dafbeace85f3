//! See `bartizan_fuzz::headers`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bartizan_fuzz::headers(bytes));

#[cfg(not(fuzzing))]
fn main() {}
