//! See `bartizan_fuzz::normal`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bartizan_fuzz::normal(bytes));

#[cfg(not(fuzzing))]
fn main() {}
