//! See `bartizan_fuzz::sse`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bartizan_fuzz::sse(bytes));

#[cfg(not(fuzzing))]
fn main() {}
