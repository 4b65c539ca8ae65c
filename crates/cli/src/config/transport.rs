//! `[transport]` and `[reconnect]`: how the connections that carry sessions behave, and when a lost one is dialled again.

use std::{fmt, sync::Arc, time::Duration};

use reachback_link::{Congestion, Net, RealNet, ReconnectRules, SessionRules, TimedNet};
use serde::{Deserialize, Deserializer, de};

use crate::{
    config::{
        duration::Span,
        file::Checked,
        origin::{Origin, Origins},
        size::Size,
    },
    exit::Failure,
};

/// `[transport]` of both files.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TransportTable {
    congestion: Option<Checked<Congestion>>,
    connect_timeout_ms: Option<u64>,
    io_timeout_ms: Option<u64>,
    keepalive: Option<bool>,
    keepalive_interval_secs: Option<u64>,
    max_message_size: Option<Bytes>,
    max_pending_messages: Option<usize>,
    pool_size: Option<u64>,
    recv_buffer_size: Option<u64>,
}

/// `[reconnect]` of a node.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ReconnectTable {
    initial_delay_ms: Option<u64>,
    max_delay_ms: Option<u64>,
    multiplier: Option<f64>,
    jitter: Option<f64>,
    max_attempts: Option<u32>,
}

/// What `[transport]` says, with what holds where it says nothing.
#[derive(Debug)]
pub(crate) struct Transport {
    /// Congestion control of the connections.
    pub(crate) congestion: Congestion,
    /// How long a connection may take to come about; the usual time without it.
    pub(crate) connect_timeout: Option<Duration>,
    /// How long a silent peer is kept, and what the kernel is asked to look for.
    pub(crate) rules: SessionRules,
    /// The largest body of a call, in bytes.
    pub(crate) max_message: Option<usize>,
    /// How many opens of one service may wait.
    pub(crate) max_pending: Option<usize>,
}

/// A number of bytes, as a number or with its unit.
#[derive(Debug, Clone, Copy)]
struct Bytes(usize);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of bytes, or a size such as \"16MiB\"")
            }

            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<Bytes, E> {
                usize::try_from(bytes)
                    .map(Bytes)
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(bytes), &self))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Bytes, E> {
                text.parse().map(|Size(bytes)| Bytes(bytes)).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// Everything about connections; the flag wins over the file.
///
/// # Errors
/// A number that no connection can live with.
pub(super) fn transport(
    typed: Option<Congestion>,
    table: TransportTable,
    origins: &mut Origins,
) -> Result<Transport, Failure> {
    let milliseconds = |given: Option<u64>| given.map(Duration::from_millis);
    let mut noted = |key, value: Option<String>| {
        if let Some(value) = value {
            origins.note(key, value, Origin::File);
        }
    };
    let span = |span: Duration| Span(span).to_string();
    let connect_timeout = milliseconds(table.connect_timeout_ms);
    noted("connect_timeout", connect_timeout.map(span));
    let mut rules = SessionRules::default();
    if let Some(timeout) = milliseconds(table.io_timeout_ms) {
        noted("io_timeout", Some(span(timeout)));
        rules.io_timeout = Some(timeout);
    }
    let interval = table.keepalive_interval_secs.map(Duration::from_secs);
    rules.keepalive = match (table.keepalive, interval) {
        (Some(false), _) => None,
        (_, Some(interval)) => Some(interval),
        (_, None) => rules.keepalive,
    };
    if table.keepalive.is_some() || interval.is_some() {
        noted("keepalive", Some(rules.keepalive.map_or("off".to_owned(), span)));
    }
    rules.check().map_err(Failure::config)?;
    if connect_timeout.is_some_and(|timeout| timeout.is_zero()) {
        return Err(Failure::config(
            "[transport] connect_timeout_ms = 0: nothing connects in no time; write 5000",
        ));
    }
    let max_message = table.max_message_size.map(|bytes| bytes.0);
    noted("max_message_size", max_message.map(|bytes| Size(bytes).to_string()));
    noted("max_pending_messages", table.max_pending_messages.map(|count| count.to_string()));
    for (key, given, why) in [
        ("pool_size", table.pool_size, "one connection carries everything between two peers"),
        (
            "recv_buffer_size",
            table.recv_buffer_size,
            "each stream's window says what may be unread, and memory_budget all of them",
        ),
    ] {
        if given.is_some() {
            origins.warn(format!("[transport] {key} has no effect here: {why}; take it out"));
        }
    }
    Ok(Transport {
        congestion: congestion(typed, table.congestion, origins),
        connect_timeout,
        rules,
        max_message,
        max_pending: table.max_pending_messages,
    })
}

/// The network of a program that stays up.
pub(crate) fn net(connect_timeout: Option<Duration>) -> Arc<dyn Net> {
    match connect_timeout {
        Some(timeout) => Arc::new(TimedNet::new(timeout)),
        None => Arc::new(RealNet),
    }
}

/// When a lost connection is dialled again.
///
/// # Errors
/// Delays that are none.
pub(super) fn reconnect(table: ReconnectTable, origins: &mut Origins) -> Result<ReconnectRules, Failure> {
    let usual = ReconnectRules::default();
    let milliseconds = |given: Option<u64>, usual| given.map_or(usual, Duration::from_millis);
    let rules = ReconnectRules {
        initial_delay: milliseconds(table.initial_delay_ms, usual.initial_delay),
        max_delay: milliseconds(table.max_delay_ms, usual.max_delay),
        multiplier: table.multiplier.unwrap_or(usual.multiplier),
        jitter: table.jitter.unwrap_or(usual.jitter),
        max_attempts: table.max_attempts.or(usual.max_attempts),
    };
    rules.check().map_err(Failure::config)?;
    if rules != usual {
        let attempts = rules.max_attempts.map(|most| format!(", {most} times")).unwrap_or_default();
        let said = format!(
            "{} times {} to {}, +-{} %{attempts}",
            Span(rules.initial_delay),
            rules.multiplier,
            Span(rules.max_delay),
            rules.jitter * 100.0
        );
        origins.note("reconnect", said, Origin::File);
    }
    Ok(rules)
}

/// The congestion control that was asked for, or the usual one.
fn congestion(
    typed: Option<Congestion>,
    file: Option<Checked<Congestion>>,
    origins: &mut Origins,
) -> Congestion {
    let sources = [(Origin::Typed, typed), (Origin::File, file.map(|name| name.0))];
    origins.pick("congestion", sources, ToString::to_string).unwrap_or_else(|| {
        let usual = Congestion::default();
        origins.note("congestion", &usual, Origin::Default);
        usual
    })
}
