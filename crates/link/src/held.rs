//! A Unix socket by what it is, not by what it is called.
//!
//! Between looking at a path and dialling it, whoever may write to its directory can put another file there. So the
//! file is held first, looked at through what is held, and dialled through it: what was judged is what is reached. Only
//! Linux can hold a socket without connecting to it; elsewhere the path is resolved, looked at and then dialled, and
//! who may write to its directories must be trusted.

use std::{
    fs::{self, File, Metadata},
    io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use tokio::net::UnixStream;

use crate::Address;

/// A socket file that is looked at before it is dialled. Keep it until the connection stands.
#[derive(Debug)]
pub struct HeldSocket {
    /// Where it is, without symbolic links.
    real: PathBuf,
    /// What to dial.
    dial: PathBuf,
    about: Metadata,
    _file: Option<File>,
}

impl HeldSocket {
    /// Finds the socket behind a path. Touches the file system, which may take as long as that takes.
    ///
    /// # Errors
    /// There is nothing, this process may not look there, or what is there is no socket (`InvalidInput`).
    pub fn hold(path: &Path) -> io::Result<Self> {
        let held = hold(path)?;
        if held.about.file_type().is_socket() {
            Ok(held)
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "what is there is no socket"))
        }
    }

    /// The user id of the file's owner.
    pub fn owner(&self) -> u32 {
        self.about.uid()
    }

    /// Where it is, whatever names and links led there.
    pub fn real_path(&self) -> &Path {
        &self.real
    }

    /// Whether this path leads to the same socket now.
    pub fn is(&self, path: &Path) -> bool {
        let identity = |about: &Metadata| (about.dev(), about.ino());
        fs::metadata(path).is_ok_and(|other| identity(&other) == identity(&self.about))
    }

    /// What to dial while this value lives.
    pub fn address(&self) -> Address {
        Address::Unix(self.dial.clone())
    }
}

#[cfg(target_os = "linux")]
fn hold(path: &Path) -> io::Result<HeldSocket> {
    use std::os::{fd::AsRawFd, unix::fs::OpenOptionsExt};

    let mut options = File::options();
    let file = options.read(true).custom_flags(libc::O_PATH).open(path)?;
    let dial = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let (real, about) = (fs::read_link(&dial)?, file.metadata()?);
    Ok(HeldSocket { real, dial, about, _file: Some(file) })
}

#[cfg(not(target_os = "linux"))]
fn hold(path: &Path) -> io::Result<HeldSocket> {
    let real = fs::canonicalize(path)?;
    let about = fs::metadata(&real)?;
    Ok(HeldSocket { dial: real.clone(), real, about, _file: None })
}

/// The user id under which this process reaches out, as a peer on a Unix socket would see it.
///
/// # Errors
/// The system makes no pair of sockets, or does not say who holds them.
pub fn own_uid() -> io::Result<u32> {
    let (near, _far) = UnixStream::pair()?;
    Ok(near.peer_cred()?.uid())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tokio::net::UnixListener;

    use super::*;
    use crate::{Net, RealNet};

    #[tokio::test]
    async fn what_was_looked_at_is_what_is_dialled() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        let good = UnixListener::bind(path("good.sock")).unwrap();
        let other = UnixListener::bind(path("other.sock")).unwrap();
        symlink(path("good.sock"), path("link")).unwrap();

        let held = HeldSocket::hold(&path("link")).unwrap();
        assert_eq!(held.real_path(), fs::canonicalize(path("good.sock")).unwrap());
        assert_eq!(held.owner(), own_uid().unwrap());
        assert!(held.is(&path("good.sock")) && held.is(&path("link")) && !held.is(&path("other.sock")));

        // Somebody puts another socket in its place before it is dialled.
        fs::rename(path("other.sock"), path("good.sock")).unwrap();
        assert!(!held.is(&path("good.sock")));
        if cfg!(target_os = "linux") {
            let _connection = RealNet.connect(&held.address()).await.unwrap();
            tokio::select! {
                biased;
                _ = good.accept() => {}
                _ = other.accept() => panic!("the other one was dialled"),
            }
        }
    }

    #[tokio::test]
    async fn what_is_no_socket_is_not_held() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("file"), "").unwrap();
        let kind = |name: &str| HeldSocket::hold(&root.path().join(name)).unwrap_err().kind();
        assert_eq!(kind("file"), io::ErrorKind::InvalidInput);
        assert_eq!(kind("none"), io::ErrorKind::NotFound);
    }
}
