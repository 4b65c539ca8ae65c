//! Both ends of the handshake: see `reachback_fuzz::hello`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    reachback_fuzz::hello::check(input);
});
