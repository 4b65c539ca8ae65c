//! A directory for what must survive a restart and be read by nobody else.
//!
//! A key that others could read is no key any more, so a file that was open to them is refused instead of used. A file
//! is replaced as a whole or not at all: a machine that loses power while a certificate is renewed still has the old
//! one. And there may be no disk: containers are started read-only, and then memory has to do.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use crate::limits::STATE_FILE_MAX;

/// A private directory: 0700, its files 0600. All methods are system calls that can block.
#[derive(Debug, Clone)]
pub struct StateDir {
    path: PathBuf,
}

/// Why what is kept can't be used or changed.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Others could have read or changed it: using it would hide that.
    #[error("{} {what} (mode {mode:04o}): {remedy}", path.display())]
    Unsafe {
        /// The file or directory.
        path: PathBuf,
        /// What others can do to it.
        what: &'static str,
        /// Its permissions.
        mode: u32,
        /// What to do.
        remedy: String,
    },
    /// There is something, and it is not what belongs there.
    #[error("{} {what}; {remedy}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A system call failed.
    #[error("{doing} {} failed: {source}{}", path.display(), remedy(path, source))]
    Io {
        /// What was being done, as the beginning of a sentence.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl StateError {
    /// Whether there is nowhere to write: a disk that is absent, read-only or full, or not this user's.
    pub fn is_no_disk(&self) -> bool {
        use io::ErrorKind as K;
        matches!(self, Self::Io { source, .. } if matches!(
            source.kind(),
            K::ReadOnlyFilesystem | K::PermissionDenied | K::NotFound | K::StorageFull | K::QuotaExceeded | K::NotADirectory
        ))
    }
}

impl StateDir {
    /// A directory at this place; it is made when something is first written.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A directory inside, as private as this one.
    pub fn inside(&self, name: &str) -> Self {
        Self { path: self.path.join(name) }
    }

    /// What a file says; nothing if there is no such file.
    ///
    /// # Errors
    /// It is there and can't be read, others can read it, or it is longer than anything that is kept here.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StateError> {
        let path = self.path.join(name);
        let file = match OpenOptions::new().read(true).open(&path) {
            Ok(file) => file,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(source) => return Err(StateError::Io { doing: "reading", path, source }),
        };
        let failed = |source| StateError::Io { doing: "reading", path: path.clone(), source };
        let about = file.metadata().map_err(failed)?;
        let mode = about.mode() & 0o7777;
        if mode & 0o077 != 0 {
            let remedy = format!(
                "if nobody has read it, run: chmod 600 {0}; otherwise remove it and enrol again with a new join string",
                path.display()
            );
            return Err(StateError::Unsafe { path, what: "can be read or changed by others", mode, remedy });
        }
        let mut bytes = Vec::new();
        file.take(STATE_FILE_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > STATE_FILE_MAX {
            let what = format!("is longer than {STATE_FILE_MAX} bytes");
            return Err(StateError::Damaged { path, what, remedy: "remove it, or restore it from a backup" });
        }
        Ok(Some(bytes))
    }

    /// Replaces a file: whoever reads it, even after a loss of power, finds the old one or the new one, whole.
    ///
    /// # Errors
    /// Others can write to the directory, or a system call failed; the old file is still there.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StateError> {
        let failed = |doing| move |source| StateError::Io { doing, path: self.path.clone(), source };
        let mut private = DirBuilder::new();
        private.recursive(true).mode(0o700).create(&self.path).map_err(failed("making"))?;
        let directory = File::open(&self.path).map_err(failed("opening"))?;
        let mode = directory.metadata().map_err(failed("looking at"))?.mode() & 0o7777;
        if mode & 0o022 != 0 {
            let remedy = format!("run: chmod 700 {}", self.path.display());
            let path = self.path.clone();
            return Err(StateError::Unsafe { path, what: "can be written to by others", mode, remedy });
        }
        let target = self.path.join(name);
        let failed = |doing| move |source| StateError::Io { doing, path: target.clone(), source };
        let born = self.path.join(format!(".{name}.new"));
        let written = write_new(&born, bytes).and_then(|()| fs::rename(&born, self.path.join(name)));
        if let Err(error) = written {
            // What is left of the attempt is of no use; that it may stay is no second error.
            let _ = fs::remove_file(&born);
            return Err(failed("writing")(error));
        }
        directory.sync_all().map_err(failed("syncing"))
    }

    /// Whether something could be kept here, tried out.
    ///
    /// # Errors
    /// As [`StateDir::write`].
    pub fn probe(&self) -> Result<(), StateError> {
        self.write("probe", b"")?;
        self.remove("probe")
    }

    /// Removes a file. One that is not there is removed already.
    ///
    /// # Errors
    /// The system call failed.
    pub fn remove(&self, name: &str) -> Result<(), StateError> {
        let path = self.path.join(name);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(StateError::Io { doing: "removing", path, source })
            }
            _ => Ok(()),
        }
    }

    /// The directories inside, in order.
    ///
    /// # Errors
    /// The directory is there and can't be read.
    pub fn directories(&self) -> Result<Vec<String>, StateError> {
        let failed = |source| StateError::Io { doing: "reading", path: self.path.clone(), source };
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed)?;
            if entry.file_type().map_err(failed)?.is_dir()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }
}

/// Writes a file that is ours alone from its first moment, down to the disk.
fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // What an attempt before us left; `create_new` also refuses to follow a link that somebody put there.
    let _ = fs::remove_file(path);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// What can be done where only one thing helps.
fn remedy(path: &Path, source: &io::Error) -> String {
    match source.kind() {
        io::ErrorKind::PermissionDenied => format!(
            "; it belongs to another user: run this as that user, give it away with chown, or choose another directory \
             than {} with --state-dir",
            path.display()
        ),
        io::ErrorKind::ReadOnlyFilesystem => {
            "; choose a directory that can be written to with --state-dir".into()
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn what_is_written_is_read_and_nobody_elses() {
        let root = tempfile::tempdir().unwrap();
        let state = StateDir::at(root.path().join("a").join("b"));
        assert!(state.read("identity").unwrap().is_none());
        state.write("identity", b"one").unwrap();
        state.write("identity", b"two").unwrap();
        assert_eq!(state.read("identity").unwrap().unwrap(), b"two");
        assert_eq!(mode(state.path()), 0o700);
        assert_eq!(mode(&state.path().join("identity")), 0o600);
        assert_eq!(fs::read_dir(state.path()).unwrap().count(), 1, "nothing of the writing is left");
        state.remove("identity").unwrap();
        state.remove("identity").unwrap();
        assert!(state.read("identity").unwrap().is_none());
    }

    #[test]
    fn what_others_could_read_or_change_is_refused_with_the_remedy() {
        let root = tempfile::tempdir().unwrap();
        let state = StateDir::at(root.path().join("state"));
        state.write("identity", b"key").unwrap();
        for mode in [0o640, 0o604, 0o620, 0o602] {
            fs::set_permissions(state.path().join("identity"), Permissions::from_mode(mode)).unwrap();
            let error = state.read("identity").unwrap_err();
            let text = error.to_string();
            assert!(matches!(error, StateError::Unsafe { .. }) && text.contains("chmod 600"), "{text}");
            assert!(text.contains(&format!("{mode:04o}")), "{text}");
        }
        for mode in [0o770, 0o777, 0o1777] {
            fs::set_permissions(state.path(), Permissions::from_mode(mode)).unwrap();
            let error = state.write("identity", b"new").unwrap_err();
            assert!(error.to_string().contains("chmod 700"), "{error}");
        }
    }

    #[test]
    fn a_link_in_the_place_of_the_new_file_is_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let state = StateDir::at(root.path().join("state"));
        state.write("identity", b"one").unwrap();
        let elsewhere = root.path().join("elsewhere");
        fs::write(&elsewhere, b"precious").unwrap();
        symlink(&elsewhere, state.path().join(".identity.new")).unwrap();
        state.write("identity", b"two").unwrap();
        assert_eq!(fs::read(&elsewhere).unwrap(), b"precious");
        assert_eq!(state.read("identity").unwrap().unwrap(), b"two");
    }

    #[test]
    fn no_disk_is_told_from_damage() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("file"), b"").unwrap();
        let inside_a_file = StateDir::at(root.path().join("file").join("state"));
        assert!(inside_a_file.read("identity").unwrap().is_none());
        assert!(inside_a_file.write("identity", b"key").unwrap_err().is_no_disk());

        let state = StateDir::at(root.path().join("state"));
        state.write("identity", &vec![b'x'; usize::try_from(STATE_FILE_MAX).unwrap() + 1]).unwrap();
        let error = state.read("identity").unwrap_err();
        assert!(matches!(error, StateError::Damaged { .. }) && !error.is_no_disk(), "{error}");
    }

    #[test]
    fn directories_are_listed_in_order() {
        let root = tempfile::tempdir().unwrap();
        let state = StateDir::at(root.path().join("profiles"));
        assert!(state.directories().unwrap().is_empty());
        for name in ["b", "a"] {
            state.inside(name).write("identity", b"").unwrap();
        }
        state.write("current", b"a").unwrap();
        assert_eq!(state.directories().unwrap(), ["a", "b"]);
    }
}
