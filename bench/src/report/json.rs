//! JSON in files, with the file's name in what goes wrong.

use std::{fs, io, path::Path};

use serde::{Serialize, de::DeserializeOwned};

/// Reads a value.
///
/// # Errors
/// When there is no file at `path`, or something else is in it.
pub fn read<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    let text = fs::read_to_string(path)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    serde_json::from_str(&text).map_err(|error| io::Error::other(format!("{}: {error}", path.display())))
}

/// Writes a value, and the directories above it.
///
/// # Errors
/// When the file can't be written.
pub fn write(path: &Path, value: &impl Serialize) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, serde_json::to_string_pretty(value)? + "\n")
}
