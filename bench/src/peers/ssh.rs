//! OpenSSH's remote forwarding, with keys made for this one run. It encrypts, as it always does.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::Path,
    process::{Command, Stdio},
};

use super::{SERVICE, Side, Tools, VISITORS};

/// Where sshd listens.
pub(super) const PORT: u16 = 7022;

/// Where sshd of Debian wants an empty directory before it starts.
const EMPTY: &str = "/run/sshd";

/// The server on the hub, and the client beside the service.
pub(super) fn commands(tools: &Tools, hub: &Side, edge: &Side, directory: &Path) -> io::Result<Vec<Command>> {
    let (host_key, user_key) = (directory.join("host_key"), directory.join("user_key"));
    for key in [&host_key, &user_key] {
        let made = tools
            .command(&Side::loopback(), "ssh-keygen")?
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(key)
            .stdin(Stdio::null())
            .status()?;
        if !made.success() {
            return Err(io::Error::other(format!("ssh-keygen: {made}")));
        }
    }
    let user = String::from_utf8_lossy(&Command::new("id").arg("-un").output()?.stdout).trim().to_owned();
    if user == "root" {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(EMPTY)?;
    }
    let config = directory.join("sshd_config");
    fs::write(
        &config,
        format!(
            "ListenAddress {}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nStrictModes no\nUsePAM no\n\
             PasswordAuthentication no\nPermitRootLogin prohibit-password\nAllowTcpForwarding yes\nUseDNS no\n\
             LogLevel ERROR\n",
            hub.at(PORT),
            host_key.display(),
            user_key.with_extension("pub").display(),
        ),
    )?;
    let mut server = tools.command(hub, "sshd")?;
    server.args(["-D", "-e", "-f"]).arg(&config);
    let mut client = tools.command(edge, "sh")?;
    // sshd may need a moment before it listens, and ssh tries once.
    client.args(["-c", "while :; do \"$@\"; sleep 0.1; done", "sh"]).arg(tools.find("ssh")?);
    client.args(["-F", "none", "-N", "-T", "-i"]).arg(&user_key);
    for option in [
        "IdentitiesOnly=yes",
        "StrictHostKeyChecking=no",
        "UserKnownHostsFile=/dev/null",
        "ExitOnForwardFailure=yes",
        "LogLevel=ERROR",
        "BatchMode=yes",
    ] {
        client.args(["-o", option]);
    }
    client.args(["-p", &PORT.to_string()]);
    client.args(["-R", &format!("127.0.0.1:{VISITORS}:127.0.0.1:{SERVICE}")]);
    client.arg(format!("{user}@{}", hub.address));
    Ok(vec![server, client])
}
