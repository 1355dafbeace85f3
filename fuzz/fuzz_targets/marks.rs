//! See `bartizan_fuzz::marks`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bartizan_fuzz::marks(bytes));

#[cfg(not(fuzzing))]
fn main() {}
