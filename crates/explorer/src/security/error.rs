//! Why an explorer can't be secured, so that it must not start.
//!
//! What is configured and can't be used is never passed over, and what is gone is never made anew: either would look like
//! safety. So each of these ends the start, and says what to do.

use std::path::PathBuf;

use super::{files::FileError, store::StoreError};

/// Why an explorer can't be secured, so that it must not start. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum SecurityError {
    /// A file or directory.
    #[error(transparent)]
    File(#[from] FileError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Another explorer has the directory.
    #[error(
        "{}: another explorer uses this state directory; stop it, or give this one another: --state-dir DIR",
        path.display()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// Keys without the database that goes with them.
    #[error(
        "{0}: the keys of this explorer are there and its database is not, so nobody knows what was revoked. Restore the directory \
         from a backup. Without one, and if it may be forgotten what was revoked and what users may do, make an empty one: \
         touch {0}",
        path.display()
    )]
    DatabaseMissing {
        /// Where it should be.
        path: PathBuf,
    },
    /// A database without the keys that go with it.
    #[error(
        "{}: the database of this explorer is there and this key is not, so none of its nodes would believe it. Restore the \
         directory from a backup. Without one everybody has to join again: move {} away and start once more",
        path.display(),
        database.display()
    )]
    KeysMissing {
        /// Where it should be.
        path: PathBuf,
        /// The database.
        database: PathBuf,
    },
    /// A certificate authority or certificate that is no good.
    #[error("{}: {problem}", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The key that signs tokens is no good.
    #[error("{}: {problem}; restore it from a backup", path.display())]
    TokenKey {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A certificate can't be made.
    #[error("a certificate can't be made: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The system gives no random numbers.
    #[error("the system gives no random numbers, so no key can be made")]
    Random,
}
