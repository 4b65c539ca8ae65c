//! How many files the process may have open: every connection is one, and the usual limit is 1,024.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit to the hard one, which needs no privilege, and says what it is.
pub(crate) fn raise() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: maximum, maximum };
    let now = match setrlimit(Resource::Nofile, wanted) {
        Ok(()) => maximum,
        Err(error) => {
            tracing::warn!(%error, "the limit of open files could not be raised; each connection needs one");
            current
        }
    };
    match now {
        Some(limit) => tracing::debug!(limit, "open files"),
        None => tracing::debug!("open files: no limit"),
    }
}
