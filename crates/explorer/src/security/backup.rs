//! Everything an explorer has to be to be itself again elsewhere, in one file.
//!
//! Whoever restores a backup has a bad day and a new machine, on which perhaps nothing of ours runs yet, so the file is a tar
//! archive: `tar -xf FILE -C DIRECTORY` and the explorer starts. It is made while the explorer serves, and the database in it
//! is as it was at one moment.

use std::{fs, path::Path};

use reachback_wire::{Code, Refusal};
use zeroize::Zeroizing;

use super::{Actor, DATABASE, KEYS, Security, audit::Entry, files};

/// Blocks of a tar archive.
const BLOCK: usize = 512;

impl Security {
    /// Writes a backup to `path`, which must be absolute, with everything that is secret in it, for its owner alone. What is
    /// there already is replaced. Returns its size in bytes. Blocks.
    ///
    /// # Errors
    /// It can't be read or written; then what was at `path` is still there.
    pub fn backup(&self, path: &Path, by: &Actor) -> Result<u64, Refusal> {
        let entry = Entry::new("backup", &path.display().to_string()).actor(by);
        let outcome = self.write_backup(path);
        self.audit.record(&match &outcome {
            Ok(_) => entry,
            Err(refusal) => entry.refused(refusal),
        });
        outcome
    }

    fn write_backup(&self, path: &Path) -> Result<u64, Refusal> {
        let failed = |what: &dyn std::fmt::Display| {
            Refusal::new(
                Code::Internal,
                format!("no backup was made: {what}; choose a place that the explorer can write"),
            )
        };
        if !path.is_absolute() {
            return Err(Refusal::new(
                Code::BadFrame,
                "the backup needs an absolute path: the explorer writes it, from another directory",
            ));
        }
        // Nobody exchanges keys meanwhile.
        let _unchanged = self.changing.lock();
        let snapshot = files::beside(&self.directory.join(DATABASE));
        files::remove(&snapshot).map_err(|error| failed(&error))?;
        // SQLite would make it for others to read.
        files::for_owner_alone(&snapshot).map_err(|error| failed(&error))?;
        let taken = self.store.snapshot(&snapshot);
        let database = taken
            .map_err(|error| failed(&error))
            .and_then(|()| fs::read(&snapshot).map_err(|error| failed(&error)));
        files::remove(&snapshot).map_err(|error| failed(&error))?;
        let mut archive = Zeroizing::new(Vec::new());
        append(&mut archive, DATABASE, &database?).map_err(|error| failed(&error))?;
        append_directory(&mut archive, KEYS).map_err(|error| failed(&error))?;
        let keys = self.directory.join(KEYS);
        for found in fs::read_dir(&keys).map_err(|error| failed(&error))? {
            let found = found.map_err(|error| failed(&error))?;
            let name = found.file_name();
            let Some(name) = name.to_str().filter(|name| !name.ends_with(".new")) else { continue };
            let content = Zeroizing::new(fs::read(found.path()).map_err(|error| failed(&error))?);
            append(&mut archive, &format!("{KEYS}/{name}"), &content).map_err(|error| failed(&error))?;
        }
        // Two empty blocks are the end.
        archive.extend_from_slice(&[0; 2 * BLOCK]);
        files::write(path, &archive).map_err(|error| failed(&error))?;
        Ok(archive.len() as u64)
    }
}

fn append(archive: &mut Vec<u8>, name: &str, content: &[u8]) -> Result<(), TarError> {
    archive.extend_from_slice(&header(name, content.len(), b'0', 0o600)?);
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(BLOCK), 0);
    Ok(())
}

fn append_directory(archive: &mut Vec<u8>, name: &str) -> Result<(), TarError> {
    archive.extend_from_slice(&header(&format!("{name}/"), 0, b'5', 0o700)?);
    Ok(())
}

/// The header of one file (POSIX ustar): numbers are octal text, the checksum is the sum of all bytes with blanks in its
/// place. Owner and time are left to whoever unpacks it.
fn header(name: &str, size: usize, kind: u8, mode: u32) -> Result<[u8; BLOCK], TarError> {
    // Eleven octal digits.
    if name.len() > 100 || size >= 1 << 33 {
        return Err(TarError);
    }
    let mut header = [0; BLOCK];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, &format!("{mode:07o}"));
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{size:011o}"));
    put(136, "00000000000");
    put(148, "        ");
    put(257, "ustar\x0000");
    header[156] = kind;
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(header)
}

/// What does not fit into the archive.
#[derive(Debug, thiserror::Error)]
#[error("a file is too large for the archive")]
struct TarError;
