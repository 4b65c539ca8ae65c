//! How the plain tunnels are started.

use std::{fs, io, path::Path, process::Command};

use serde_json::Value;

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

/// What rathole puts around its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encryption {
    None,
    Tls,
    Noise,
}

/// Default options but for the encryption.
pub(super) fn rathole(
    tools: &Tools,
    hub: &Side,
    edge: &Side,
    directory: &Path,
    encryption: Encryption,
) -> io::Result<Vec<Command>> {
    let [of_server, of_client] = match encryption {
        Encryption::None => [String::new(), String::new()],
        Encryption::Tls => rathole_tls(tools, directory)?,
        Encryption::Noise => rathole_noise(tools)?,
    };
    let (server, client) = (directory.join("server.toml"), directory.join("client.toml"));
    fs::write(
        &server,
        format!(
            "[server]\nbind_addr = \"{}\"\ndefault_token = \"t\"\n[server.services.s]\nbind_addr = \"127.0.0.1:{VISITORS}\"\n\
             {of_server}",
            hub.at(TUNNEL)
        ),
    )?;
    fs::write(
        &client,
        format!(
            "[client]\nremote_addr = \"{}\"\ndefault_token = \"t\"\n[client.services.s]\nlocal_addr = \"127.0.0.1:{SERVICE}\"\n\
             {of_client}",
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

/// A certificate that signs itself, which the client is told to trust.
fn rathole_tls(tools: &Tools, directory: &Path) -> io::Result<[String; 2]> {
    let [key, certificate, identity] =
        ["key.pem", "cert.pem", "identity.pfx"].map(|name| directory.join(name).display().to_string());
    let openssl = |arguments: &[&str]| said(tools.command(&Side::loopback(), "openssl")?.args(arguments));
    openssl(&[
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=hub",
        "-addext",
        "subjectAltName=DNS:hub",
        "-keyout",
        &key,
        "-out",
        &certificate,
    ])?;
    openssl(&[
        "pkcs12",
        "-export",
        "-inkey",
        &key,
        "-in",
        &certificate,
        "-passout",
        "pass:t",
        "-out",
        &identity,
    ])?;
    Ok([
        format!(
            "[server.transport]\ntype = \"tls\"\n[server.transport.tls]\npkcs12 = \"{identity}\"\npkcs12_password = \"t\"\n"
        ),
        format!(
            "[client.transport]\ntype = \"tls\"\n[client.transport.tls]\ntrusted_root = \"{certificate}\"\nhostname = \"hub\"\n"
        ),
    ])
}

/// The client knows the server's key (`Noise_NK`, rathole's default).
fn rathole_noise(tools: &Tools) -> io::Result<[String; 2]> {
    let text = said(tools.command(&Side::loopback(), "rathole")?.arg("--genkey"))?;
    let keys: Vec<&str> = text.lines().map(str::trim).filter(|line| line.ends_with('=')).collect();
    let [private, public] = keys[..] else {
        return Err(io::Error::other(format!("rathole --genkey said something else than two keys: {text}")));
    };
    let table = |role: &str, key: &str, value: &str| {
        format!("[{role}.transport]\ntype = \"noise\"\n[{role}.transport.noise]\n{key} = \"{value}\"\n")
    };
    Ok([table("server", "local_private_key", private), table("client", "remote_public_key", public)])
}

/// What a command printed.
fn said(command: &mut Command) -> io::Result<String> {
    let output = command.output()?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!("{command:?}: {}: {why}", output.status)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A published port of an explorer, and a node beside the service.
pub(super) fn reachback(
    tools: &Tools,
    hub: &Side,
    edge: &Side,
    directory: &Path,
) -> io::Result<Vec<Command>> {
    let mut explorer = explorer(tools, hub, directory)?;
    if !hub.address.is_loopback() {
        explorer.arg("--insecure-plaintext");
    }
    let mut node = tools.command(edge, "reachback")?;
    node.args(["node", "--explorer", &hub.at(TUNNEL).to_string()]).args(node_arguments());
    if !hub.address.is_loopback() {
        node.arg("--insecure-plaintext");
    }
    Ok(vec![explorer, node])
}

/// The same as it is set up for other machines: an authority of its own, and a node that joins with a token.
pub(super) fn reachback_tls(
    tools: &Tools,
    hub: &Side,
    edge: &Side,
    directory: &Path,
) -> io::Result<Vec<Command>> {
    let mut explorer = explorer(tools, hub, directory)?;
    explorer.args(["--mode", "strict", "--advertise", &hub.at(TUNNEL).to_string()]);
    explorer.arg("--state-dir").arg(directory.join("explorer"));
    // The token can be had only when the explorer is up.
    const JOINING: &str = r#"
        for attempt in $(seq 100); do
            join=$("$0" token create --role register --node bench --explorer "unix://$1" --json |
                sed -n 's/.*"join": *"\([^"]*\)".*/\1/p')
            if [ -n "$join" ]; then break; fi
            sleep 0.1
        done
        state=$2; shift 2
        exec "$0" node --join "$join" --state-dir "$state" "$@""#;
    let mut node = edge.command("sh");
    node.args(["-c", JOINING]).arg(tools.find("reachback")?);
    node.args([directory.join("explorer.sock"), directory.join("node")]).args(node_arguments());
    Ok(vec![explorer, node])
}

/// A join string for a caller of the explorer whose files are in `directory`.
pub(super) fn join_string(tools: &Tools, directory: &Path) -> io::Result<String> {
    let socket = format!("unix://{}", directory.join("explorer.sock").display());
    let mut command = tools.command(&Side::loopback(), "reachback")?;
    command.args(["token", "create", "--role", "user", "--name", "bench", "--allow", "bench/tcp", "--json"]);
    let text = said(command.args(["--explorer", &socket]))?;
    let made: Value = serde_json::from_str(&text)?;
    made["join"]
        .as_str()
        .map(str::to_owned)
        .ok_or_else(|| io::Error::other(format!("no join string in {text}")))
}

fn explorer(tools: &Tools, hub: &Side, directory: &Path) -> io::Result<Command> {
    let mut explorer = tools.command(hub, "reachback")?;
    explorer.args(["explorer", "--id", "hub", "--listen", &hub.at(TUNNEL).to_string()]);
    explorer.arg("--socket").arg(directory.join("explorer.sock"));
    explorer.args(["--publish", &format!("{VISITORS}=bench/tcp")]);
    Ok(explorer)
}

fn node_arguments() -> [String; 8] {
    let (tcp, rpc) = (format!("tcp={SERVICE}"), format!("rpc={SERVICE},framing=http"));
    ["--id", "bench", "--control-socket", "off", "--service", &tcp, "--service", &rpc].map(str::to_owned)
}
