//! How the plain tunnels are started.

use std::{fs, io, path::Path, process::Command};

use super::{SERVICE, Side, TUNNEL, Tools, VISITORS};

/// Two relays in a row: no protocol, a process per connection, 64 KiB at a time.
pub(super) fn socat2(tools: &Tools, hub: &Side, edge: &Side) -> io::Result<Vec<Command>> {
    let relay = |side: &Side, listen: u16, bind: &str, to: String| {
        let mut command = tools.command(side, "socat")?;
        command.args(["-b", "65536"]);
        command.arg(format!("TCP-LISTEN:{listen},bind={bind},reuseaddr,fork,nodelay,backlog=4096"));
        command.arg(format!("TCP:{to},nodelay"));
        Ok(command)
    };
    let here = edge.address.to_string();
    [
        relay(edge, TUNNEL, &here, format!("127.0.0.1:{SERVICE}")),
        relay(hub, VISITORS, "127.0.0.1", edge.at(TUNNEL).to_string()),
    ]
    .into_iter()
    .collect()
}

/// Plain TCP and default options.
pub(super) fn rathole(tools: &Tools, hub: &Side, edge: &Side, directory: &Path) -> io::Result<Vec<Command>> {
    let (server, client) = (directory.join("server.toml"), directory.join("client.toml"));
    fs::write(
        &server,
        format!(
            "[server]\nbind_addr = \"{}\"\ndefault_token = \"t\"\n[server.services.s]\nbind_addr = \"127.0.0.1:{VISITORS}\"\n",
            hub.at(TUNNEL)
        ),
    )?;
    fs::write(
        &client,
        format!(
            "[client]\nremote_addr = \"{}\"\ndefault_token = \"t\"\n[client.services.s]\nlocal_addr = \"127.0.0.1:{SERVICE}\"\n",
            hub.at(TUNNEL)
        ),
    )?;
    let run = |side: &Side, role: &str, config: &Path| {
        let mut command = tools.command(side, "rathole")?;
        command.arg(role).arg(config);
        Ok(command)
    };
    [run(hub, "--server", &server), run(edge, "--client", &client)].into_iter().collect()
}

/// A published port of an explorer, and a node beside the service.
pub(super) fn reachback(
    tools: &Tools,
    hub: &Side,
    edge: &Side,
    directory: &Path,
) -> io::Result<Vec<Command>> {
    let mut explorer = tools.command(hub, "reachback")?;
    explorer.args(["explorer", "--id", "hub", "--listen", &hub.at(TUNNEL).to_string()]);
    explorer.arg("--socket").arg(directory.join("explorer.sock"));
    explorer.args(["--publish", &format!("{VISITORS}=bench/tcp")]);
    if !hub.address.is_loopback() {
        explorer.arg("--insecure-plaintext");
    }
    let mut node = tools.command(edge, "reachback")?;
    node.args([
        "node",
        "--id",
        "bench",
        "--explorer",
        &hub.at(TUNNEL).to_string(),
        "--control-socket",
        "off",
    ]);
    node.args(["--service", &format!("tcp={SERVICE}"), "--service", &format!("rpc={SERVICE},framing=http")]);
    Ok(vec![explorer, node])
}
