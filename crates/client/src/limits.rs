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

/// The pause before something is tried again that has just failed for a reason that passes: nobody notices it, and a
/// peer that fails at once is not asked more than a few times a second.
pub(crate) const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// When an explorer that does not tell about nodes is asked again: it may have been too busy, or be a newer one by then.
pub(crate) const WATCH_AGAIN: Duration = Duration::from_secs(5);

/// One text of `explorer.watch` about one node: what a node may declare, four times over, for its ends and the JSON
/// around it.
pub(crate) const WATCH_ITEM_MAX: usize = 4 * limits::SERVICES_MAX;

/// The pause between tries to listen again where somebody else has taken the port meanwhile.
pub(crate) const REBIND_PAUSE: Duration = Duration::from_millis(500);

/// The pause before a call that found its node away is tried again; it doubles. A node whose line was cut is often back
/// within a second, and a try costs the explorer next to nothing.
pub(crate) const RETRY_FIRST: Duration = Duration::from_millis(50);

/// The longest of these pauses: what people still take for at once.
pub(crate) const RETRY_MAX: Duration = Duration::from_secs(1);

/// The least that must be left of a budget for one more call to begin: with less it would only be cut off again, its
/// outcome unknown, where now it is certain that nothing was sent.
pub(crate) const FAN_OUT_LEAST: Duration = Duration::from_millis(20);

/// Calls of one fan-out under way at a time: enough to hide the round trips of a fleet, few enough that the answers,
/// which may be large, do not all wait in memory.
pub(crate) const FAN_OUT: usize = 16;

/// How long the explorer may take to say which nodes a selector means, at most.
pub(crate) const RESOLVE_LIMIT: Duration = Duration::from_secs(10);

/// Bytes of a file in a state directory: an identity with its chain takes a few thousand.
pub(crate) const STATE_FILE_MAX: u64 = 256 * 1024;

/// How much later than the kept time an explorer's has to be to be kept, in milliseconds: a machine that wakes without
/// an idea of the time is at most that much too early, and a line that comes and goes does not wear out its disk.
pub(crate) const CLOCK_KEPT_EVERY: u64 = 3_600_000;

/// How long an explorer may take to answer a request for a new certificate: it writes it down on a disk that may be busy.
pub(crate) const RENEWAL_ANSWER: Duration = Duration::from_secs(30);

/// The longest pause before a request that was refused is made again: an operator mends what is wrong within a day, and
/// there are weeks left.
pub(crate) const RENEWAL_PAUSE: Duration = Duration::from_secs(3600);

/// The shortest time between two requests, however short certificates live.
pub(crate) const RENEWAL_LEAST: Duration = Duration::from_secs(1);
