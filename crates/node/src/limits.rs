//! The bounds that only a node has, each with its reason; what both ends of a session share is in
//! [`reachback_wire::limits`].

use std::time::Duration;

/// How much earlier than the opener's deadline a node gives up on a service: the refusal says why, the opener's own
/// timeout could not, so the refusal should be there first. A slow link's round trip.
pub(crate) const DEADLINE_GRACE: Duration = Duration::from_millis(250);

/// How long a handler that has returned waits for its visitor's half to end. What the kernel gives an orphaned
/// socket (`tcp_fin_timeout`), because it is the same situation.
pub(crate) const HANDLER_LINGER: Duration = Duration::from_secs(60);

/// The longest pause between two tries at a Unix socket whose accept queue is full: short beside the deadline of
/// 10 s, long beside a connect.
pub(crate) const FULL_QUEUE_PAUSE: Duration = Duration::from_millis(100);

/// Characters of the reason announced with a failing service: one line of a table.
pub(crate) const HEALTH_REASON_MAX: usize = 160;

/// Characters of a label's key and of its value: as long as a node id, which stands in the same places.
pub(crate) const LABEL_MAX: usize = 63;

/// How long a node's shutdown may take: a second for the goodbye, a second for what ran on the session, a second for
/// visits to close their services' sockets, and one to spare.
pub(crate) const SHUTDOWN: Duration = Duration::from_secs(4);
