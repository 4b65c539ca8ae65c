//! Rights, targets and methods: see `reachback_fuzz::rights`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    reachback_fuzz::rights::check(input);
});
