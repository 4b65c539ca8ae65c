//! What a run leaves behind: results as JSON, from which everything else is made again at any time.
//!
//! ```text
//! results.rs   the JSON            bars.rs      what must be reached, and whether it was
//! tables.rs    rows of figures     document.rs  docs/performance.md        regress.rs   beside the last results
//! ```
//!
//! `json.rs` reads and writes the files.

pub mod bars;
pub mod document;
pub mod json;
pub mod regress;
pub mod results;
pub mod tables;

pub use results::{Link, Results};
