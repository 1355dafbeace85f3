//! See `bartizan_fuzz::redirect_uri`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bartizan_fuzz::redirect_uri(bytes));

#[cfg(not(fuzzing))]
fn main() {}
