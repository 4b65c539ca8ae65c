//! Notes when this was built: no certificate is judged by an earlier time.

use std::time::SystemTime;

#[allow(clippy::disallowed_methods, reason = "a build has no other clock and no other way to be told one")]
fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=SOURCE_DATE_EPOCH");
    // Builds that have to repeat themselves say when they were (reproducible-builds.org).
    let said = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|seconds| seconds.parse::<u64>().ok());
    let seconds = said
        .unwrap_or_else(|| SystemTime::UNIX_EPOCH.elapsed().map(|since| since.as_secs()).unwrap_or_default());
    println!("cargo:rustc-env=REACHBACK_BUILT_UNIX_S={seconds}");
}
