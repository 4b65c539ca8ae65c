//! Records of one direction: see `reachback_fuzz::record`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    reachback_fuzz::record::check(input);
});
