//! See `bartizan_fuzz::message`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bartizan_fuzz::message(bytes));

#[cfg(not(fuzzing))]
fn main() {}
