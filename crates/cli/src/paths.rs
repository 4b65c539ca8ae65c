//! Where the local Unix socket lives when nobody says, the same on the explorer's and the client's side.
//!
//! systemd's `RUNTIME_DIRECTORY` wins; root uses `/run/reachback`; others `$XDG_RUNTIME_DIR/reachback`, and where
//! there is none `$XDG_STATE_HOME/reachback` or `~/.local/state/reachback`.

use std::path::PathBuf;

use crate::{environment::Environment, exit::Failure};

/// The explorer's local socket.
pub(crate) fn explorer_socket(environment: &Environment, root: bool) -> Result<PathBuf, Failure> {
    let directory = runtime_directory(environment, root).ok_or_else(|| {
        Failure::config(
            "neither XDG_RUNTIME_DIR nor HOME is set, so there is no place for the local socket; name one: explorer \
             --socket /path/explorer.sock, and --explorer unix:///path/explorer.sock on the other side",
        )
    })?;
    Ok(directory.join("explorer.sock"))
}

/// The local node's control socket.
pub(crate) fn node_socket(environment: &Environment, root: bool) -> Result<PathBuf, Failure> {
    let directory = runtime_directory(environment, root).ok_or_else(|| {
        Failure::config(
            "neither XDG_RUNTIME_DIR nor HOME is set, so there is no place for the node's control socket; name one: \
             --control-socket /path/node.sock",
        )
    })?;
    Ok(directory.join("node.sock"))
}

/// Whether this process runs as root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// This machine's name, from which ids come when none is given.
pub(crate) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn runtime_directory(environment: &Environment, root: bool) -> Option<PathBuf> {
    // systemd joins several directories with colons; the first is the unit's own.
    if let Some(given) = environment.list("RUNTIME_DIRECTORY", &[':']).next() {
        return Some(PathBuf::from(given));
    }
    if root {
        return Some(PathBuf::from("/run/reachback"));
    }
    environment
        .path("XDG_RUNTIME_DIR")
        .or_else(|| environment.path("XDG_STATE_HOME"))
        .or_else(|| environment.path("HOME").map(|home| home.join(".local/state")))
        .map(|directory| directory.join("reachback"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_place_that_exists_wins() {
        let all = [
            ("RUNTIME_DIRECTORY", "/run/hub:/run/other"),
            ("XDG_RUNTIME_DIR", "/run/user/1"),
            ("XDG_STATE_HOME", "/s"),
            ("HOME", "/home/a"),
        ];
        for (skip, root, expected) in [
            (0, false, "/run/hub/explorer.sock"),
            (0, true, "/run/hub/explorer.sock"),
            (1, true, "/run/reachback/explorer.sock"),
            (1, false, "/run/user/1/reachback/explorer.sock"),
            (2, false, "/s/reachback/explorer.sock"),
            (3, false, "/home/a/.local/state/reachback/explorer.sock"),
        ] {
            let environment: Environment =
                all[skip..].iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            assert_eq!(
                explorer_socket(&environment, root).unwrap(),
                PathBuf::from(expected),
                "{skip} {root}"
            );
        }
    }

    #[test]
    fn no_place_is_said() {
        let failure = explorer_socket(&Environment::default(), false).unwrap_err();
        assert!(failure.to_string().contains("--socket"), "{failure}");
    }
}
