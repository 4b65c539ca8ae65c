//! A Unix socket to listen on: made so that nobody else can use it, not even for a moment, and nothing else is
//! destroyed.
//!
//! Whoever may write to the socket file may use what listens there. So the socket is born in a private directory, gets
//! its permission bits there and only then moves to its place, in one step; a live socket of somebody else, a file
//! or a symlink in that place is left alone. The directory is locked meanwhile: of two processes that start at once,
//! one sees the other.

use std::{
    fmt,
    fs::{self, DirBuilder, File, Metadata, Permissions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    time::Duration,
};

use reachback_wire::limits::SOCKET_PROBE;
use tokio::{
    net::{UnixListener, UnixStream},
    time::{sleep, timeout},
};

/// A socket that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketPlace {
    /// An absolute path. Its directory is made if it is missing, for its owner alone.
    pub path: PathBuf,
    /// Permission bits.
    pub mode: u32,
    /// The group it belongs to, by number; without one, that of the process.
    pub group: Option<u32>,
    /// What whoever asked for it calls it.
    pub words: SocketWords,
}

/// How a refusal speaks of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketWords {
    /// As in "socket".
    pub what: &'static str,
    /// Who listens there, as in "explorer".
    pub owner: &'static str,
    /// What chooses another place, as in "--socket".
    pub flag: &'static str,
}

/// Why the socket can't be made.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody answers there.
    #[error("{0}: another {owner} is running there; stop it, or choose another {flag}", owner = .0.words.owner, flag = .0.words.flag)]
    InUse(SocketPlace),
    /// Something that is no socket.
    #[error("{place}: {what} is in its place and was left untouched; remove it, or choose another {flag}", flag = .place.words.flag)]
    Occupied {
        /// Where.
        place: SocketPlace,
        /// What is there.
        what: &'static str,
    },
    /// A directory in which anyone could swap the socket.
    #[error(
        "{place}: every user may write to its directory, so anyone could put another socket in its place; \
         use a directory of your own, or: chmod o-w {directory:?}"
    )]
    OpenDirectory {
        /// The socket.
        place: SocketPlace,
        /// Its directory.
        directory: PathBuf,
    },
    /// The kernel's limit.
    #[error(
        "{place}: the path has {length} bytes and the kernel takes at most {limit}; choose a shorter {flag}", flag = .place.words.flag
    )]
    TooLong {
        /// The socket.
        place: SocketPlace,
        /// Its length.
        length: usize,
        /// What would do.
        limit: usize,
    },
    /// A system call failed.
    #[error("{place}: {doing}: {source}; choose a place for it that this user may use: {flag} PATH", flag = .place.words.flag)]
    Io {
        /// The socket.
        place: SocketPlace,
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// The socket file; removed on drop, if it is still ours.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode: somebody else may have put another one in place since.
    identity: (u64, u64),
}

impl fmt::Display for SocketPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.words.what, self.path)
    }
}

impl SocketPlace {
    /// Makes the socket and listens on it.
    ///
    /// # Errors
    /// The place is taken or unsafe, or a system call failed; nothing is left behind.
    pub async fn bind(&self) -> Result<(UnixListener, SocketFile), SocketError> {
        let path = &self.path;
        let failed = |doing| move |source| SocketError::Io { place: self.clone(), doing, source };
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(SocketError::Occupied { place: self.clone(), what: "a directory" });
        };
        let length = path.as_os_str().len().max(directory.as_os_str().len() + NURSERY_LENGTH);
        if length > SUN_PATH_MAX {
            return Err(SocketError::TooLong { place: self.clone(), length, limit: SUN_PATH_MAX });
        }
        let mut private = DirBuilder::new();
        private.recursive(true).mode(0o700).create(directory).map_err(failed("making its directory"))?;
        let about = fs::metadata(directory).map_err(failed("looking at its directory"))?;
        if about.mode() & 0o1002 == 0o002 {
            return Err(SocketError::OpenDirectory { place: self.clone(), directory: directory.to_owned() });
        }
        let lock = File::open(directory).map_err(failed("opening its directory"))?;
        let locking = timeout(SOCKET_PROBE, hold(&lock)).await;
        let held_by_another = || Err(io::Error::other("another process holds the lock"));
        locking.unwrap_or_else(|_| held_by_another()).map_err(failed("locking its directory"))?;
        self.check().await?;

        let nursery = Nursery::make(directory).map_err(failed("making a private directory beside it"))?;
        let born = nursery.path.join("s");
        let listener = UnixListener::bind(&born).map_err(failed("binding"))?;
        fs::set_permissions(&born, Permissions::from_mode(self.mode))
            .map_err(failed("setting its permissions"))?;
        if self.group.is_some() {
            chown(&born, None, self.group).map_err(failed("giving it to its group"))?;
        }
        let identity = identity(&fs::symlink_metadata(&born).map_err(failed("looking at it"))?);
        fs::rename(&born, directory.join(name)).map_err(failed("moving it to its place"))?;
        Ok((listener, SocketFile { path: path.clone(), identity }))
    }

    /// Whether the place is free, or has a socket that nobody listens on any more.
    async fn check(&self) -> Result<(), SocketError> {
        let failed = |doing| move |source| SocketError::Io { place: self.clone(), doing, source };
        let about = match fs::symlink_metadata(&self.path) {
            Ok(about) => about,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(failed("looking at its place")(source)),
        };
        if let Some(what) = obstacle(&about) {
            return Err(SocketError::Occupied { place: self.clone(), what });
        }
        match timeout(SOCKET_PROBE, UnixStream::connect(&self.path)).await {
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            // It was removed meanwhile.
            Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            // Somebody took the connection, or is too busy to: alive either way.
            Ok(Ok(_)) | Err(_) => Err(SocketError::InUse(self.clone())),
            Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(SocketError::InUse(self.clone()))
            }
            Ok(Err(source)) => Err(failed("asking who listens on the socket in its place")(source)),
        }
    }
}

impl SocketFile {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|about| identity(&about) == self.identity);
        if !ours {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the socket file could not be removed");
        }
    }
}

/// Waits for an advisory lock; whoever makes a socket holds it for moments.
async fn hold(directory: &File) -> io::Result<()> {
    loop {
        match directory.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) => sleep(Duration::from_millis(10)).await,
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

fn obstacle(about: &Metadata) -> Option<&'static str> {
    let kind = about.file_type();
    if kind.is_socket() {
        None
    } else if kind.is_symlink() {
        Some("a symbolic link")
    } else if kind.is_dir() {
        Some("a directory")
    } else if kind.is_file() {
        Some("a regular file")
    } else {
        Some("something that is no socket")
    }
}

fn identity(about: &Metadata) -> (u64, u64) {
    (about.dev(), about.ino())
}

/// A directory that only we can enter, gone on drop.
struct Nursery {
    path: PathBuf,
}

/// `/.rb-` and ten digits (a process id), `/s`.
const NURSERY_LENGTH: usize = 17;

/// `sockaddr_un.sun_path` holds 108 bytes on Linux and 104 on macOS, with a NUL at the end.
const SUN_PATH_MAX: usize = 103;

impl Nursery {
    fn make(beside: &Path) -> io::Result<Self> {
        let path = beside.join(format!(".rb-{}", std::process::id()));
        // A crash of an earlier process with our id may have left one behind; only empty ones can be removed.
        match fs::remove_file(path.join("s")).and_then(|()| fs::remove_dir(&path)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => drop(fs::remove_dir(&path)),
            Err(error) => return Err(error),
        }
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self { path })
    }
}

impl Drop for Nursery {
    fn drop(&mut self) {
        // After the rename it is empty; after a failure it may hold the socket.
        drop(fs::remove_file(self.path.join("s")));
        if let Err(error) = fs::remove_dir(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a private directory could not be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn place(path: impl Into<PathBuf>) -> SocketPlace {
        let words = SocketWords { what: "socket", owner: "explorer", flag: "--socket" };
        SocketPlace { path: path.into(), mode: 0o600, group: None, words }
    }

    async fn refusal(path: &Path) -> String {
        place(path).bind().await.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn a_new_socket_and_its_directory_are_private_and_leave_nothing_behind() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("run/reachback/x.sock");
        let (listener, file) = place(&path).bind().await.unwrap();
        assert_eq!(fs::symlink_metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o7777, 0o700);
        assert_eq!(file.path(), path);
        UnixStream::connect(&path).await.unwrap();
        drop((listener, file));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn the_mode_is_the_one_asked_for() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("x.sock");
        let _socket = SocketPlace { mode: 0o660, ..place(&path) }.bind().await.unwrap();
        assert_eq!(fs::symlink_metadata(&path).unwrap().mode() & 0o7777, 0o660);
    }

    #[tokio::test]
    async fn it_belongs_to_the_group_asked_for() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("x.sock");
        let own = fs::metadata(root.path()).unwrap().gid();
        // Only root may give a file to any group; a user can be told that it may not.
        let wanted = own + 1;
        match (SocketPlace { group: Some(wanted), ..place(&path) }).bind().await {
            Ok(_socket) => assert_eq!(fs::symlink_metadata(&path).unwrap().gid(), wanted),
            Err(refusal) => {
                assert!(refusal.to_string().contains("giving it to its group"), "{refusal}");
                assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0, "nothing is left behind");
            }
        }
    }

    #[tokio::test]
    async fn a_live_socket_is_refused_and_a_stale_one_replaced() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("x.sock");
        let stale = UnixListener::bind(&path).unwrap();
        assert!(refusal(&path).await.contains("another explorer is running"));
        drop(stale);
        assert!(path.exists(), "a bound socket file stays when its owner dies");
        let (_listener, _file) = place(&path).bind().await.unwrap();
        assert!(refusal(&path).await.contains("another explorer is running"));
    }

    #[tokio::test]
    async fn files_links_and_directories_are_refused_and_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let (file, link, dir) = (root.path().join("file"), root.path().join("link"), root.path().join("dir"));
        fs::write(&file, "precious").unwrap();
        symlink(&file, &link).unwrap();
        fs::create_dir(&dir).unwrap();
        assert!(refusal(&file).await.contains("a regular file"));
        assert!(refusal(&link).await.contains("a symbolic link"));
        assert!(refusal(&dir).await.contains("a directory"));
        assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
        assert!(fs::symlink_metadata(&link).unwrap().file_type().is_symlink());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 3, "nothing is left behind");
    }

    #[tokio::test]
    async fn a_directory_that_everyone_may_write_to_needs_the_sticky_bit() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("x.sock");
        fs::set_permissions(root.path(), Permissions::from_mode(0o777)).unwrap();
        let refused = refusal(&path).await;
        assert!(refused.contains("chmod o-w"), "{refused}");
        assert!(!path.exists());
        fs::set_permissions(root.path(), Permissions::from_mode(0o1777)).unwrap();
        place(&path).bind().await.unwrap();
    }

    #[tokio::test]
    async fn the_socket_of_a_successor_is_not_removed() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("x.sock");
        let (listener, file) = place(&path).bind().await.unwrap();
        drop(listener);
        let (_successor, _file) = place(&path).bind().await.unwrap();
        drop(file);
        assert!(path.exists());
    }

    #[tokio::test]
    async fn a_path_too_long_for_the_kernel_says_so() {
        let root = tempfile::tempdir().unwrap();
        let refused = refusal(&root.path().join("d".repeat(60)).join("s".repeat(60))).await;
        assert!(refused.contains("shorter"), "{refused}");
    }
}
