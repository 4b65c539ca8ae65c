//! Certificates and requests for them: see `reachback_fuzz::explorer::certificate`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    reachback_fuzz::explorer::certificate::check(input);
});
