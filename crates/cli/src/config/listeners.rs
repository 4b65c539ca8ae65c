//! `[[listener]]` and `[[caller]]`: further ports of an explorer, and what callers with foreign certificates may do.

use reachback_explorer::{ListenerConfig, Mode};
use reachback_link::{Cidr, ListenAddress};
use reachback_wire::rights::{NamePattern, Right};
use serde::Deserialize;

use crate::config::{
    file::Checked,
    origin::{Origin, Origins},
};

/// A port with rules of its own.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListenerTable {
    address: Checked<ListenAddress>,
    mode: Option<Checked<Mode>>,
    #[serde(default)]
    allow: Vec<Checked<Cidr>>,
    #[serde(default)]
    proxy_from: Vec<Checked<Cidr>>,
}

/// Who has a certificate of somebody else's authority, and what it may reach.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CallerTable {
    name: Checked<NamePattern>,
    allow: Vec<Checked<Right>>,
}

/// The listeners, each noted.
pub(super) fn listeners(tables: Vec<ListenerTable>, origins: &mut Origins) -> Vec<ListenerConfig> {
    tables.into_iter().map(|table| table.listener(origins)).collect()
}

/// The callers, each noted.
pub(super) fn callers(tables: Vec<CallerTable>, origins: &mut Origins) -> Vec<(NamePattern, Vec<Right>)> {
    let entry = |CallerTable { name: Checked(name), allow }| {
        let allow: Vec<Right> = allow.into_iter().map(|right| right.0).collect();
        origins.note("caller", format_args!("{name} may {}", joined(&allow)), Origin::File);
        (name, allow)
    };
    tables.into_iter().map(entry).collect()
}

impl ListenerTable {
    fn listener(self, origins: &mut Origins) -> ListenerConfig {
        let listener = ListenerConfig {
            address: self.address.0,
            mode: self.mode.map(|mode| mode.0),
            allow: self.allow.into_iter().map(|block| block.0).collect(),
            proxy_from: self.proxy_from.into_iter().map(|block| block.0).collect(),
        };
        let mode = listener.mode.map(|mode| format!(" {mode}")).unwrap_or_default();
        let allow = match listener.allow.as_slice() {
            [] => String::new(),
            blocks => format!(", for {}", joined(blocks)),
        };
        let proxies = match listener.proxy_from.as_slice() {
            [] => String::new(),
            blocks => format!(", PROXY from {}", joined(blocks)),
        };
        origins.note("listener", format_args!("{}{mode}{allow}{proxies}", listener.address), Origin::File);
        listener
    }
}

fn joined<T: ToString>(entries: &[T]) -> String {
    match entries {
        [] => "nothing".to_owned(),
        entries => entries.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}
