//! Running code inside a network namespace. A namespace belongs to a thread, not to a process, so the code gets a
//! thread of its own: whatever it opens (sockets, TUN devices) stays in that namespace for ever, wherever it is used
//! afterwards.

use std::{fs::File, io, path::Path, thread};

use crate::sys;

/// Where `ip netns` keeps its handles.
const NAMESPACES: &str = "/run/netns";

/// Runs `work` on a new thread inside the namespace `name` (as made by `ip netns add`) and returns its result.
///
/// A panic of `work` goes on in the caller.
///
/// # Errors
/// When there is no such namespace, or the process may not enter it (`CAP_SYS_ADMIN`).
pub fn within<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let path = Path::new(NAMESPACES).join(name);
    let handle = File::open(&path).map_err(|error| {
        io::Error::new(error.kind(), format!("network namespace {}: {error}", path.display()))
    })?;
    thread::scope(|scope| {
        let inside = thread::Builder::new().name(format!("netns {name}")).spawn_scoped(scope, || {
            sys::enter_network_namespace(&handle)?;
            Ok(work())
        })?;
        inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
