//! Join strings: see `reachback_fuzz::join`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    reachback_fuzz::join::check(input);
});
