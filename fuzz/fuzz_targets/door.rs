//! A stranger at the port of a whole explorer: see `reachback_fuzz::explorer::door`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    reachback_fuzz::explorer::door::check(input);
});
