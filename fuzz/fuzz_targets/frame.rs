//! Frames of every stage: see `reachback_fuzz::frame`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    reachback_fuzz::frame::check(input);
});
