//! `reachback call` and `reachback socks`: services by name, without a port for each.

use clap::Args;
use reachback_client::Selector;
use reachback_link::ListenAddress;
use reachback_wire::NodeId;

use super::{ClientArguments, CompressArguments, everyday::some_time};
use crate::config::{duration::Span, port_spec::listen_address};

pub(super) const CALL_HELP: &str = "\
Examples:
  reachback call edge-7/rpc list_vms
  reachback call edge-7/rpc create_vm '{\"name\": \"a\", \"cpus\": 2}'
  cat params.json | reachback call edge-7/rpc create_vm -
  reachback call region=eu/rpc health --all --timeout 2s
  reachback call edge-7/rpc list_vms -H 'X-Hero-Context: 7' --wait 30s
  reachback call @explorer/api explorer.status

The result is printed as JSON. An error of the service ends with 1, everything
else with the code of its kind, and says whether the call can have happened:
node_offline means that nothing was sent, lost and timeout that nobody knows.
Nothing is sent twice.";

pub(super) const SOCKS_HELP: &str = "\
Examples:
  reachback socks                              127.0.0.1:1080
  curl -x socks5h://127.0.0.1:1080 http://web.edge-7/
  reachback socks 1081 --via edge-7           hosts behind edge-7 that it allows

A host is SERVICE.NODE, split at the first dot; the port does not matter.";

/// `reachback call`.
#[derive(Debug, Args)]
pub(crate) struct CallArguments {
    #[command(flatten)]
    pub(crate) client: ClientArguments,
    /// NODE/SERVICE; with --all also any/SERVICE and LABEL=VALUE,…/SERVICE.
    #[arg(value_name = "TARGET")]
    pub(crate) target: Selector,
    /// The service's method.
    #[arg(value_name = "METHOD")]
    pub(crate) method: String,
    /// Its parameters as JSON, an object or an array; - reads them from stdin.
    #[arg(value_name = "PARAMS")]
    pub(crate) params: Option<String>,
    /// A header for services that speak HTTP. Can be given several times.
    #[arg(short = 'H', long, value_name = "NAME: VALUE", value_parser = header)]
    pub(crate) header: Vec<(String, String)>,
    /// Call every node that the target means, and print the answers as they come.
    #[arg(long)]
    pub(crate) all: bool,
    /// Send it as a notification: there is no answer to wait for.
    #[arg(long, conflicts_with = "all")]
    pub(crate) notify: bool,
    /// How long the answer may take.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "30s",
        value_parser = some_time,
        env = "REACHBACK_TIMEOUT",
        hide_env_values = true
    )]
    pub(crate) timeout: Span,
    /// How long to wait for a node that is offline; not at all if absent.
    #[arg(long, value_name = "TIME", value_parser = some_time, env = "REACHBACK_WAIT", hide_env_values = true)]
    pub(crate) wait: Option<Span>,
    #[command(flatten)]
    pub(crate) compress: CompressArguments,
}

/// `reachback socks`.
#[derive(Debug, Args)]
pub(crate) struct SocksArguments {
    #[command(flatten)]
    pub(crate) client: ClientArguments,
    /// Where programs connect. BIND is 127.0.0.1 if absent, port 0 a free one.
    #[arg(value_name = "[BIND:]PORT", default_value = "1080", value_parser = listen_address)]
    pub(crate) listen: ListenAddress,
    /// Reach hosts behind this node instead of services by name.
    #[arg(long, value_name = "NODE", env = "REACHBACK_VIA", hide_env_values = true)]
    pub(crate) via: Option<NodeId>,
    #[command(flatten)]
    pub(crate) compress: CompressArguments,
}

fn header(text: &str) -> Result<(String, String), String> {
    let wrong = || format!("\"{text}\" is no header; write 'Name: value'");
    let (name, value) = text.split_once(':').ok_or_else(wrong)?;
    let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if name.is_empty() || !name.chars().all(token) || value.contains(['\r', '\n', '\0']) {
        return Err(wrong());
    }
    Ok((name.to_owned(), value.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers() {
        assert_eq!(header("X-Hero-Context: 7"), Ok(("X-Hero-Context".to_owned(), "7".to_owned())));
        assert_eq!(header("a:b:c"), Ok(("a".to_owned(), "b:c".to_owned())));
        for wrong in ["x", ": y", "a b: c", "a: b\r\nHost: c"] {
            assert!(header(wrong).unwrap_err().contains("Name: value"), "{wrong:?}");
        }
    }
}
