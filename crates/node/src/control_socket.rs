//! The node's local Unix socket: what runs on this machine asks it how it is, and changes what it serves.
//!
//! Whoever may connect decides what others can reach on this machine, so the socket is its owner's alone. It is born in
//! a private directory, gets its permission bits there and only then moves to its place, in one step; a live socket of
//! another node, a file or a symlink in that place is left alone. One JSON-RPC text per line, both ways.

use std::{
    fs::{self, DirBuilder, File, Metadata, Permissions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    limits::{CONTROL_IDLE, CONTROL_LINE_MAX, CONTROL_LOCK, CONTROL_VISITORS},
    local::Local,
};

/// A bound control socket. The file is removed on drop, if it is still ours.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    file: SocketFile,
}

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum ControlSocketError {
    /// Somebody answers there.
    #[error(
        "control socket {0:?}: another node is running there; stop it, or choose another --control-socket"
    )]
    InUse(PathBuf),
    /// Something that is no socket.
    #[error(
        "control socket {0:?}: something that is no socket is in its place and was left untouched; remove it, or \
         choose another --control-socket"
    )]
    Occupied(PathBuf),
    /// A directory in which anyone could swap the socket.
    #[error(
        "control socket {path:?}: every user may write to its directory, so anyone could put another socket in its \
         place; use a directory of your own, or: chmod o-w {directory:?}"
    )]
    OpenDirectory {
        /// The socket.
        path: PathBuf,
        /// Its directory.
        directory: PathBuf,
    },
    /// A system call failed.
    #[error("control socket {path:?}: {doing}: {source}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl ControlSocket {
    /// Makes the socket, for its owner alone, and its directory if that is missing. What connects waits until a node
    /// serves it: [`Node::serve_control`](crate::Node::serve_control).
    ///
    /// # Errors
    /// The place is taken or unsafe, or a system call failed.
    pub async fn bind(path: &Path) -> Result<Self, ControlSocketError> {
        let failed = |doing| move |source| ControlSocketError::Io { path: path.to_owned(), doing, source };
        let (Some(directory), Some(_)) = (path.parent(), path.file_name()) else {
            return Err(ControlSocketError::Occupied(path.to_owned()));
        };
        let mut private = DirBuilder::new();
        private.recursive(true).mode(0o700).create(directory).map_err(failed("making its directory"))?;
        let about = fs::metadata(directory).map_err(failed("looking at its directory"))?;
        if about.mode() & 0o1002 == 0o002 {
            return Err(ControlSocketError::OpenDirectory {
                path: path.to_owned(),
                directory: directory.to_owned(),
            });
        }
        // Of two nodes that start at once, one sees the other.
        let lock = File::open(directory).map_err(failed("opening its directory"))?;
        let held = || Err(io::Error::other("another process holds the lock"));
        let locked = timeout(CONTROL_LOCK, hold(&lock)).await.unwrap_or_else(|_| held());
        locked.map_err(failed("locking its directory"))?;
        check_place(path).await?;

        let nursery = directory.join(format!(".node-{}", std::process::id()));
        let born = nursery.join("s");
        let made = make(&nursery, &born);
        let moved = made.and_then(|made| fs::rename(&born, path).map(|()| made));
        // What is left of it after an error is of no use to anyone.
        drop(fs::remove_file(&born));
        if let Err(error) = fs::remove_dir(&nursery) {
            tracing::debug!(%error, "the directory in which the control socket was made could not be removed");
        }
        let (listener, identity) = moved.map_err(failed("making it"))?;
        Ok(Self { listener, file: SocketFile { path: path.to_owned(), identity } })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// Answers everybody until told to stop.
    pub(crate) async fn serve(self, local: Local, stop: CancellationToken) {
        let mut visitors = JoinSet::new();
        loop {
            let room = visitors.len() < CONTROL_VISITORS;
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(finished) = visitors.join_next() => {
                    if let Err(error) = finished {
                        tracing::error!(%error, "a visitor of the control socket failed");
                    }
                }
                accepted = self.listener.accept(), if room => match accepted {
                    Ok((visitor, _)) => {
                        visitors.spawn(attend(visitor, local.clone()));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "accept on the control socket failed");
                        if let Some(pause) = reachback_link::accept::pause_after(&error) {
                            sleep(pause).await;
                        }
                    }
                },
            }
        }
    }
}

/// One visitor: a line in, a line out, in order.
async fn attend(visitor: UnixStream, local: Local) {
    let mut visitor = BufReader::new(visitor);
    loop {
        let mut line = Vec::new();
        let mut limited = (&mut visitor).take(CONTROL_LINE_MAX as u64);
        match timeout(CONTROL_IDLE, limited.read_until(b'\n', &mut line)).await {
            Ok(Ok(0)) | Err(_) => return,
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::debug!(%error, "a visitor of the control socket is gone");
                return;
            }
        }
        let too_long = line.len() == CONTROL_LINE_MAX && !line.ends_with(b"\n");
        let answer = if too_long { Some(local.too_long()) } else { local.answer(&line) };
        if let Some(answer) = answer {
            let written = async {
                visitor.write_all(&answer).await?;
                visitor.write_all(b"\n").await?;
                visitor.flush().await
            };
            match timeout(CONTROL_IDLE, written).await {
                Ok(Ok(())) if !too_long => {}
                _ => return,
            }
        }
    }
}

#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Device and inode: another node may have put its own in place since.
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|about| identity(&about) == self.identity);
        if !ours {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the control socket could not be removed");
        }
    }
}

fn make(nursery: &Path, born: &Path) -> io::Result<(UnixListener, (u64, u64))> {
    // One that is there was left behind by a process of our number, which is dead then.
    drop(fs::remove_file(born));
    drop(fs::remove_dir(nursery));
    DirBuilder::new().mode(0o700).create(nursery)?;
    let listener = UnixListener::bind(born)?;
    fs::set_permissions(born, Permissions::from_mode(0o600))?;
    Ok((listener, identity(&fs::symlink_metadata(born)?)))
}

/// Waits for an advisory lock; nodes hold it for moments.
async fn hold(directory: &File) -> io::Result<()> {
    loop {
        match directory.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) => sleep(Duration::from_millis(10)).await,
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

/// Whether the place is free, or holds a socket that nobody listens on any more.
async fn check_place(path: &Path) -> Result<(), ControlSocketError> {
    let failed =
        |source| ControlSocketError::Io { path: path.to_owned(), doing: "looking at its place", source };
    let about = match fs::symlink_metadata(path) {
        Ok(about) => about,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    if !about.file_type().is_socket() {
        return Err(ControlSocketError::Occupied(path.to_owned()));
    }
    match timeout(CONTROL_LOCK, UnixStream::connect(path)).await {
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // A full queue or silence: somebody has it.
        Ok(Err(error)) if error.kind() != io::ErrorKind::WouldBlock => Err(failed(error)),
        Ok(_) | Err(_) => Err(ControlSocketError::InUse(path.to_owned())),
    }
}

fn identity(about: &Metadata) -> (u64, u64) {
    (about.dev(), about.ino())
}
