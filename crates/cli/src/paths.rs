//! Where sockets, keys and profiles live when nobody says, the same for whoever writes them and whoever looks.
//!
//! Sockets: systemd's `RUNTIME_DIRECTORY` wins; root uses `/run/reachback`; others `$XDG_RUNTIME_DIR/reachback`, and
//! where there is none `$XDG_STATE_HOME/reachback` or `~/.local/state/reachback`. What has to outlive the process:
//! systemd's `STATE_DIRECTORY` wins; root uses `/var/lib/reachback/explorer` and `…/node`; others the same two names
//! under `$XDG_STATE_HOME/reachback` or `~/.local/state/reachback`. Profiles of people: `$XDG_CONFIG_HOME/reachback`
//! or `~/.config/reachback`.

use std::path::{Path, PathBuf};

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

/// Where the local node can be asked: where it puts its socket by itself or, for root, where examples/deploy's unit does,
/// whose directory is not the explorer's. `exists` looks at a file.
pub(crate) fn local_node(
    environment: &Environment,
    root: bool,
    exists: impl Fn(&Path) -> bool,
) -> Result<PathBuf, Failure> {
    let own = node_socket(environment, root)?;
    let units = Path::new("/run/reachback-node/node.sock");
    match root && !exists(&own) && exists(units) {
        true => Ok(units.to_owned()),
        false => Ok(own),
    }
}

/// Where a program keeps what has to outlive it; `role` is `explorer` or `node`. None if this user has no such place.
pub(crate) fn state_directory(environment: &Environment, root: bool, role: &str) -> Option<PathBuf> {
    if let Some(given) = environment.list("STATE_DIRECTORY", &[':']).next() {
        return Some(PathBuf::from(given));
    }
    if root {
        return Some(PathBuf::from("/var/lib/reachback").join(role));
    }
    Some(state_home(environment)?.join("reachback").join(role))
}

/// Where a person's profiles are. None if this user has no home.
pub(crate) fn profiles(environment: &Environment) -> Option<PathBuf> {
    let config = environment
        .path("XDG_CONFIG_HOME")
        .or_else(|| environment.path("HOME").map(|home| home.join(".config")))?;
    Some(config.join("reachback/profiles"))
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
        .or_else(|| state_home(environment))
        .map(|directory| directory.join("reachback"))
}

fn state_home(environment: &Environment) -> Option<PathBuf> {
    environment
        .path("XDG_STATE_HOME")
        .or_else(|| environment.path("HOME").map(|home| home.join(".local/state")))
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
    fn the_units_node_is_found_where_no_other_is() {
        let (own, units) = ("/run/reachback/node.sock", "/run/reachback-node/node.sock");
        let variable = [("RUNTIME_DIRECTORY".to_owned(), "/run/x".to_owned())].into_iter().collect();
        for (environment, root, there, expected) in [
            (&Environment::default(), true, &[units][..], units),
            (&Environment::default(), true, &[own, units], own),
            (&Environment::default(), true, &[], own),
            (&variable, true, &["/run/x/node.sock", units], "/run/x/node.sock"),
            (&variable, false, &[units], "/run/x/node.sock"),
        ] {
            let exists = |path: &Path| there.iter().any(|known| Path::new(known) == path);
            assert_eq!(
                local_node(environment, root, exists).unwrap(),
                PathBuf::from(expected),
                "{root} {there:?}"
            );
        }
    }

    #[test]
    fn what_outlives_a_process_has_its_place() {
        let all = [("STATE_DIRECTORY", "/var/lib/x:/y"), ("XDG_STATE_HOME", "/s"), ("HOME", "/home/a")];
        for (skip, root, expected) in [
            (0, true, Some("/var/lib/x")),
            (1, true, Some("/var/lib/reachback/node")),
            (1, false, Some("/s/reachback/node")),
            (2, false, Some("/home/a/.local/state/reachback/node")),
            (3, false, None),
        ] {
            let environment: Environment =
                all[skip..].iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let place = state_directory(&environment, root, "node");
            assert_eq!(place, expected.map(PathBuf::from), "{skip} {root}");
        }
        let environment: Environment = [("HOME".to_owned(), "/home/a".to_owned())].into_iter().collect();
        assert_eq!(profiles(&environment), Some("/home/a/.config/reachback/profiles".into()));
    }

    #[test]
    fn no_place_is_said() {
        let failure = explorer_socket(&Environment::default(), false).unwrap_err();
        assert!(failure.to_string().contains("--socket"), "{failure}");
    }
}
