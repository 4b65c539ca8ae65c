//! The bounds that only a node has, each with its reason; what both ends of a session share is in
//! [`reachback_wire::limits`].

use std::time::Duration;

use reachback_wire::limits;

/// How much earlier than the opener's deadline a node gives up on a service: the refusal says why, the opener's own
/// timeout could not, so the refusal should be there first. A slow link's round trip.
pub(crate) const DEADLINE_GRACE: Duration = Duration::from_millis(250);

/// The longest deadline of a call: what an explorer grants, so that an explorer that lies can't make calls stay.
pub(crate) const CALL_DEADLINE_MAX: Duration = Duration::from_secs(600);

/// How long a caller whose call failed may take for what was sent before, and the reason behind it: 4 MiB, which is all
/// that can be under way, over 10 Mbit/s.
pub(crate) const LAST_WORD: Duration = Duration::from_secs(4);

/// Bytes of all requests together that wait to be written to services, of all answers of shared connections that wait
/// to be read by callers, and of all that services said of their own accord: four of the largest each, or thousands of
/// ordinary ones.
pub(crate) const CALL_BODIES: usize = 4 * limits::CALL_BODY_MAX;

/// One read from a service during a call: what one record holds.
pub(crate) const CALL_READ: usize = limits::RECORD_MAX;

/// How long a service may keep the connection of a notification that it has been sent whole: it needs no longer to
/// read what lies in its socket, and nobody waits.
pub(crate) const NOTIFICATION_LINGER: Duration = Duration::from_secs(1);

/// Bytes of a method's name that are repeated to whoever asked for one that is not there.
pub(crate) const METHOD_SHOWN: usize = 64;

/// Requests in one batch. Each costs some words of bookkeeping, whatever its size; a longer batch is a file.
pub(crate) const BATCH_MAX: usize = 10_000;

/// Requests queued for one shared connection. Whoever finds it full waits within its deadline.
pub(crate) const LINES_WRITES: usize = 64;

/// Messages of a service's own accord that one caller may leave unread before its call is ended: a burst passes, and
/// who is further behind does not catch up.
pub(crate) const LINES_ITEMS: usize = 256;

/// Bytes of the same: as much as one answer may have, items included, so that nobody who keeps up is ended by a single
/// message, and nobody keeps what it could not be given anyway.
pub(crate) const LINES_UNREAD: usize = limits::CALL_BODY_MAX;

/// New connections tried for one call when the shared one closes before the call was put on it.
pub(crate) const LINES_DIALS: usize = 3;

/// How much of both ends of an overlong line is kept to find whose it is: the id stands at one of them.
pub(crate) const LINES_TAIL: usize = 4096;

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

/// How often a service's health is usually probed, where it is: a failure is known within half a minute, and a service's
/// log gets two lines a minute.
pub const PROBE_EVERY: Duration = Duration::from_secs(30);

/// The shortest time between two probes, whatever was asked for: without it a mistyped `0s` is a busy loop.
pub(crate) const PROBE_EVERY_MIN: Duration = Duration::from_millis(50);

/// How long a probe waits for the connection: local services answer in microseconds, and one that takes two seconds is
/// not well.
pub(crate) const PROBE_LIMIT: Duration = Duration::from_secs(2);

/// Probes of one node at a time: hundreds of services that hang would otherwise cost as many sockets at once.
pub(crate) const PROBES_AT_ONCE: usize = 8;

/// One request on the control socket: a service entry is a few hundred bytes.
pub(crate) const CONTROL_LINE_MAX: usize = 64 * 1024;

/// Programs connected to the control socket at a time: they ask and go. Whoever comes next waits in the kernel's queue.
pub(crate) const CONTROL_VISITORS: usize = 16;

/// How long a program on the control socket may say nothing, or not read: its place is needed by the next one.
pub(crate) const CONTROL_IDLE: Duration = Duration::from_secs(60);

/// Grants in force at a time: each is an exception that somebody remembers, and all of them fit an announcement beside
/// the services.
pub(crate) const GRANTS_MAX: usize = 64;

/// The longest grant: what is needed for more than a month is a right.
pub(crate) const GRANT_LONGEST: Duration = Duration::from_secs(30 * 86_400);

/// Characters of the reason of a grant: one line.
pub(crate) const GRANT_REASON_MAX: usize = 200;

/// A difference between two clocks that is not just the way between them.
pub(crate) const CLOCKS_DIFFER: Duration = Duration::from_secs(60);
