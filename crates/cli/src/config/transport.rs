//! `[transport]`: how the connections that carry sessions behave.

use reachback_link::Congestion;
use serde::Deserialize;

use crate::config::{
    file::Checked,
    origin::{Origin, Origins},
};

/// The table of both files.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TransportTable {
    congestion: Option<Checked<Congestion>>,
}

/// The congestion control that was asked for, or the usual one.
pub(super) fn congestion(
    typed: Option<Congestion>,
    file: TransportTable,
    origins: &mut Origins,
) -> Congestion {
    let sources = [(Origin::Typed, typed), (Origin::File, file.congestion.map(|name| name.0))];
    origins.pick("congestion", sources, ToString::to_string).unwrap_or_else(|| {
        let usual = Congestion::default();
        origins.note("congestion", &usual, Origin::Default);
        usual
    })
}
