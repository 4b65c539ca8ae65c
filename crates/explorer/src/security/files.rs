//! Files that nobody else may read, and that are either there or not.
//!
//! A key that is half written after a power failure is a fleet that has to join again, and one that others can read is
//! nobody's secret. So every file of the state directory is written beside its place, made durable and moved there, with
//! the permission to read it given to its owner before the first byte.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use crate::limits;

/// Why a file of the state directory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system refuses.
    #[error("{}: {doing}: {source}", path.display())]
    Io {
        /// Which file or directory.
        path: PathBuf,
        /// What was tried, as in "can't be read".
        doing: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// There is no place for anything.
    #[error(
        "{}: the directory can't be made: {source}; the explorer keeps its authority and what it knows of nodes and users \
         there: let this user make it, or name another place: --state-dir PATH",
        path.display()
    )]
    NoPlace {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Others have rights to it that make it worthless.
    #[error("{}: {problem} (mode {mode:04o}); {remedy}", path.display())]
    Exposed {
        /// Which file or directory.
        path: PathBuf,
        /// What others may do.
        problem: &'static str,
        /// Its permission bits.
        mode: u32,
        /// The command that mends it.
        remedy: String,
    },
    /// Far too large to be what it should be.
    #[error("{}: larger than {} KiB, so it is no key or certificate; restore it from a backup", path.display(), limits::KEY_FILE_MAX / 1024)]
    Large {
        /// Which file.
        path: PathBuf,
    },
}

impl FileError {
    pub(crate) fn io(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), doing, source }
    }
}

/// Makes the directory and those above it, for the owner alone. One that is there already must not be open for everybody
/// to write; one that is `private` is closed to others again.
pub(crate) fn directory(path: &Path, private: bool) -> Result<(), FileError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| FileError::NoPlace { path: path.to_owned(), source })?;
    let found = fs::metadata(path).map_err(FileError::io(path, "can't be looked at"))?;
    let mode = found.permissions().mode() & 0o7777;
    if private {
        if mode & 0o077 != 0 {
            fs::set_permissions(path, fs::Permissions::from_mode(0o700))
                .map_err(FileError::io(path, "others may read it, and that can't be changed"))?;
        }
        return Ok(());
    }
    if mode & 0o002 != 0 {
        return Err(FileError::Exposed {
            path: path.to_owned(),
            problem: "everybody may write to this directory, and so exchange the keys in it",
            mode,
            remedy: format!("choose another one, or run: chmod 0700 {}", path.display()),
        });
    }
    Ok(())
}

/// The content of a file with a secret in it; `None` when there is no such file.
pub(crate) fn read_secret(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, FileError> {
    let Some(content) = read(path)? else { return Ok(None) };
    let found = fs::metadata(path).map_err(FileError::io(path, "can't be looked at"))?;
    let mode = found.permissions().mode() & 0o7777;
    // Files that the system or a container hands over belong to root and may be readable by our group.
    if mode & 0o007 != 0 || (mode & 0o070 != 0 && found.uid() != 0) {
        return Err(FileError::Exposed {
            path: path.to_owned(),
            problem: "other users can read this key",
            mode,
            remedy: format!("if that is a mistake, run: chmod 0600 {}", path.display()),
        });
    }
    Ok(Some(Zeroizing::new(content)))
}

/// The content of a file; `None` when there is no such file.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(FileError::io(path, "can't be read"))?,
    };
    let mut content = Vec::new();
    file.take(limits::KEY_FILE_MAX as u64 + 1)
        .read_to_end(&mut content)
        .map_err(FileError::io(path, "can't be read"))?;
    if content.len() > limits::KEY_FILE_MAX {
        return Err(FileError::Large { path: path.to_owned() });
    }
    Ok(Some(content))
}

/// Writes a file that only its owner may read: wholly and durably, or not at all.
pub(crate) fn write(path: &Path, content: &[u8]) -> Result<(), FileError> {
    let beside = beside(path);
    let written = write_new(&beside, content).and_then(|()| {
        fs::rename(&beside, path).map_err(FileError::io(path, "can't be replaced"))?;
        sync_directory(path)
    });
    if written.is_err() {
        // What is left is of no use; that it can't be removed either changes nothing about the error.
        let _ = fs::remove_file(&beside);
    }
    written
}

/// Makes an empty file that only its owner may read, or closes the one that is there to others: for what others than us
/// write, with permissions of their own. On a file system that can't be written everything stays as it is.
pub(crate) fn for_owner_alone(path: &Path) -> Result<(), FileError> {
    let read_only = |error: &io::Error| error.kind() == io::ErrorKind::ReadOnlyFilesystem;
    let made = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = match made {
        Err(error) if read_only(&error) => return Ok(()),
        made => made.map_err(FileError::io(path, "can't be opened"))?,
    };
    let found = file.metadata().map_err(FileError::io(path, "can't be looked at"))?;
    if found.permissions().mode() & 0o077 != 0 {
        file.set_permissions(fs::Permissions::from_mode(0o600))
            .map_err(FileError::io(path, "others may read it, and that can't be changed"))?;
    }
    Ok(())
}

/// Removes a file, durably. One that is not there is removed already.
pub(crate) fn remove(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => {
            removed.map_err(FileError::io(path, "can't be removed"))?;
            sync_directory(path)
        }
    }
}

/// A name in the same directory, for what is to take the file's place.
pub(crate) fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

fn write_new(path: &Path, content: &[u8]) -> Result<(), FileError> {
    remove(path)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(FileError::io(path, "can't be made"))?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(FileError::io(path, "can't be written"))
}

fn sync_directory(path: &Path) -> Result<(), FileError> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(FileError::io(directory, "can't be made durable"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn what_is_written_is_for_its_owner_alone_and_replaced_whole() {
        let place = tempfile::tempdir().unwrap();
        let directory_path = place.path().join("a/keys");
        directory(&directory_path, true).unwrap();
        assert_eq!((mode(&directory_path), mode(&place.path().join("a"))), (0o700, 0o700));
        let path = directory_path.join("key.pem");
        assert!(read_secret(&path).unwrap().is_none());
        // What a crash has left beside it does not stand in the way.
        fs::write(beside(&path), "half").unwrap();
        for content in ["first", "second"] {
            write(&path, content.as_bytes()).unwrap();
            assert_eq!(read_secret(&path).unwrap().unwrap().as_slice(), content.as_bytes());
            assert_eq!(mode(&path), 0o600);
        }
        assert_eq!(fs::read_dir(&directory_path).unwrap().count(), 1);
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert!(read(&path).unwrap().is_none());
    }

    #[test]
    fn a_key_that_others_read_is_refused_with_the_command_that_mends_it() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("key.pem");
        write(&path, b"secret").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = read_secret(&path).unwrap_err().to_string();
        assert!(error.contains("other users can read") && error.contains("chmod 0600"), "{error}");
        assert!(read(&path).unwrap().is_some(), "a certificate may be read by everybody");
    }

    #[test]
    fn a_directory_that_everybody_writes_to_is_refused_and_a_private_one_closed() {
        let place = tempfile::tempdir().unwrap();
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
        directory(place.path(), false).unwrap();
        assert_eq!(mode(place.path()), 0o755, "it may be somebody else's, too");
        directory(place.path(), true).unwrap();
        assert_eq!(mode(place.path()), 0o700);
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let error = directory(place.path(), false).unwrap_err().to_string();
        assert!(error.contains("everybody may write") && error.contains("0777"), "{error}");
    }

    #[test]
    fn a_file_of_any_size_is_not_read_into_memory() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("ca.pem");
        fs::write(&path, vec![b'x'; limits::KEY_FILE_MAX + 1]).unwrap();
        assert!(matches!(read(&path), Err(FileError::Large { .. })));
    }
}
