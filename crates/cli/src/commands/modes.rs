//! What the modes of an explorer's listeners mean, in the words of its banner and of `reachback check`.

use reachback_explorer::{ExplorerConfig, ListenerMode, Mode, NodeIdVerification};

use crate::table::Table;

/// One line for all listeners.
pub(crate) fn sentence(config: &ExplorerConfig) -> &'static str {
    let modes = config.modes();
    let Some(first) = modes.first() else { return "local socket only" };
    if modes.iter().any(|other| other.mode.is_encrypted() != first.mode.is_encrypted()) {
        return "a mode for each listener";
    }
    match first.mode {
        _ if !first.mode.is_encrypted() => match exposed(config) {
            true => "PLAINTEXT, reachable by other machines",
            false => "plaintext, loopback only",
        },
        Mode::Strict if modes.iter().all(|other| other.mode == Mode::Strict) => {
            "strict (mutual TLS, node ids checked)"
        }
        _ => "permissive (TLS, certificates or tokens)",
    }
}

/// Whether other machines can reach a listener that encrypts nothing.
pub(crate) fn exposed(config: &ExplorerConfig) -> bool {
    config.modes().iter().any(|one| !one.mode.is_encrypted() && !one.address.is_loopback())
}

/// Every listener, its mode, why it has that one, and who comes in.
pub(crate) fn table(config: &ExplorerConfig) -> String {
    let mut table = Table::new(["LISTENER", "MODE", "WHO COMES IN"], 2);
    for ListenerMode { address, mode, why } in config.modes() {
        let because = match why {
            "configured" => "the mode is configured".to_owned(),
            why => format!("the mode follows: {why}"),
        };
        table.row([address.to_string(), mode.to_string(), who(mode, config)], vec![because]);
    }
    if let Some(socket) = &config.socket {
        let others = match socket.mode & 0o066 {
            0 => "",
            _ => "; others whom its permissions let in: calls, and nothing an operator does",
        };
        let said = format!("this user and root: everything{others}");
        table.row([socket.path.display().to_string(), "socket".to_owned(), said], Vec::new());
    }
    table.render()
}

fn who(mode: Mode, config: &ExplorerConfig) -> String {
    let files = config.tls.as_ref();
    let brought = files.is_some_and(|files| files.cert_path.is_some());
    let way = files.and_then(|files| files.node_id_verification);
    let named = match (brought, way) {
        (true, Some(NodeIdVerification::None)) => "any certificate of [tls] ca_cert_path",
        (true, Some(NodeIdVerification::CommonName)) => {
            "a certificate of [tls] ca_cert_path whose common name is the node's id"
        }
        (true, _) => "a certificate of [tls] ca_cert_path that has the node's id as a DNS name",
        (false, _) => "the certificate that a node got when it joined",
    };
    let secret = config.secret.is_some();
    match mode {
        Mode::Strict => format!("nodes: {named}; people: the certificate of their login"),
        Mode::Permissive if secret => {
            format!(
                "nodes: {named}, a token or the shared secret; people: their login, a token or the secret"
            )
        }
        Mode::Permissive => format!("nodes: {named}, or a token; people: their login, or a token"),
        Mode::Development | Mode::Legacy if secret => {
            "everybody who knows the shared secret, as whatever they say they are; nothing is encrypted"
                .to_owned()
        }
        Mode::Development | Mode::Legacy => {
            "everybody who can connect, as whatever they say they are; nothing is encrypted".to_owned()
        }
    }
}
