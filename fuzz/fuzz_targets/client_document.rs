//! See `bartizan_fuzz::client_document`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bartizan_fuzz::client_document(bytes));

#[cfg(not(fuzzing))]
fn main() {}
