//! Tokens: see `reachback_fuzz::explorer::token`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    reachback_fuzz::explorer::token::check(input);
});
