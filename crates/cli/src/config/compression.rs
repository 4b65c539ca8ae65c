//! `[compression]`: whether records of a session may be compressed, and from what size on.
//!
//! Which services are compressed is said at the services; the table of a node is their default.

use std::{fmt, str::FromStr};

use reachback_link::Compression;
use serde::Deserialize;

use crate::{
    config::{
        file::Checked,
        origin::{Origin, Origins},
        size::Size,
    },
    exit::Failure,
    limits,
};

/// The table of both files.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct CompressionTable {
    enabled: Option<bool>,
    method: Option<Checked<Method>>,
    min_size: Option<usize>,
}

/// The one method there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Method;

impl FromStr for Method {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.to_ascii_lowercase().as_str() {
            "lz4" => Ok(Self),
            _ => Err(format!(
                "compression \"{text}\": the one method here is \"Lz4\"; or write enabled = false"
            )),
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lz4")
    }
}

impl CompressionTable {
    /// Whether the table asks for it, rather than allowing it: the default of a node's services.
    pub(super) fn asks(&self) -> bool {
        self.enabled == Some(true)
    }
}

/// What sessions of this process can.
///
/// # Errors
/// A size below which compressing makes records larger.
pub(super) fn resolve(table: CompressionTable, origins: &mut Origins) -> Result<Compression, Failure> {
    let mut compression = Compression::default();
    if let Some(min_size) = table.min_size {
        if min_size < limits::COMPRESSION_MIN_SIZE {
            return Err(Failure::config(format_args!(
                "[compression] min_size = {min_size}: what is shorter than {} bytes only grows; write 256",
                limits::COMPRESSION_MIN_SIZE
            )));
        }
        compression.min_size = min_size;
    }
    let said = match (table.enabled, table.method) {
        (Some(false), _) => {
            compression = Compression::OFF;
            "off".to_owned()
        }
        (None, None) if table.min_size.is_none() => return Ok(compression),
        (_, method) => {
            format!("{} from {}", method.map_or(Method, |method| method.0), Size(compression.min_size))
        }
    };
    origins.note("compression", said, Origin::File);
    Ok(compression)
}
