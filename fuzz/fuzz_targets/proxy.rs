//! What balancers put in front of a connection: see `reachback_fuzz::explorer::proxy`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    reachback_fuzz::explorer::proxy::check(input);
});
