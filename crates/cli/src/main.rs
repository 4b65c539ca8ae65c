//! The one binary, `reachback`.
fn main() {}
