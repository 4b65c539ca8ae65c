//! The bounds that only dialers have, each with its reason; what both ends of a session share is in
//! [`reachback_wire::limits`].

use std::time::Duration;

use reachback_wire::limits;

/// The longest an explorer can make a line wait: an operator who lifts a ban should not have to restart nodes.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// How long a session that is over may take to say so and let go: what the link gives the last bytes, and a moment.
pub(crate) const GOODBYE: Duration = limits::CLOSE_FLUSH.saturating_add(Duration::from_millis(250));

/// Visitors that one forwarded port serves at a time: its session carries no more streams. The kernel queues the rest.
pub(crate) const FORWARD_VISITORS: usize = limits::SUBSTREAMS_FROM_CLIENT as usize;

/// Bytes that peers may make a process hold when its program doesn't say: two sessions at the link's own limit. The
/// command line gives a share of the machine's memory instead.
pub const DEFAULT_BUDGET: usize = 2 * limits::SESSION_UNREAD_MAX;
