//! The bounds that only the explorer has, each with its reason.
//!
//! What both ends of a connection must agree on is in [`reachback_wire::limits`] and re-exported here, so that the
//! rest of the crate has one place to ask. Sizes are bytes unless the comment says otherwise.

use std::time::Duration;

pub(crate) use reachback_wire::limits::{
    CALL_BODY_MAX, ENDS_KEPT, GHOST_PING, HANDSHAKE_TIMEOUT, HEARTBEAT, HEARTBEAT_MAX, HEARTBEAT_MIN,
    OPEN_TIMEOUT, SATURATED_RETRY, SERVICE_OPENS_IN_FLIGHT, SERVICE_OPENS_WAITING, SUBSTREAMS_FROM_CLIENT,
    SUBSTREAMS_FROM_NODE,
};

// ---- Coming in ----------------------------------------------------------------------------------------

/// Accepted sockets on their way to the worker. The kernel's own queue is behind it, so it only has to cover the
/// time between two turns of a busy runtime.
pub(crate) const ARRIVALS: usize = 128;

/// Connections that have not finished their handshake: each may hold 8 KiB and ten seconds. A fleet that redials
/// needs hundreds at a time; strangers get no more than this, and those who are in don't notice.
pub(crate) const UNADMITTED: usize = 1024;

/// TLS handshakes at a time and runtime: each takes about a millisecond of its thread, so who waits for a place waits
/// some 30 ms, and sessions that stand have every other turn.
pub(crate) const TLS_HANDSHAKES: usize = 32;

/// How long to wait after an error of our own before the explorer's certificates are looked after again.
pub(crate) const KEEP_UP_AGAIN: Duration = Duration::from_secs(60);

/// How long what a cut-off peer has under way may take to end at both of its ends before the session itself ends.
pub(crate) const CUT_GRACE: Duration = Duration::from_secs(1);

/// How often that is looked at.
pub(crate) const CUT_LOOK: Duration = Duration::from_millis(20);

/// Handshakes that one source (a /24 or /56) may have begun and not finished, beyond [`SOURCE_EVERY`]: a fleet behind one
/// address dials together, and gets each of these back when it is through.
pub(crate) const SOURCE_BURST: u32 = 100;

/// How often it may leave another one unfinished: 20 a second, each of which keeps a place for at most ten seconds.
pub(crate) const SOURCE_EVERY: Duration = Duration::from_millis(50);

/// Sources that are told apart; who comes when there are more shares one allowance with all others who do. A few hundred
/// KiB.
pub(crate) const SOURCES: usize = 4096;

/// How long a source is remembered that has its whole allowance: no longer than needed, since it says nothing then.
pub(crate) const SOURCES_KEPT: Duration = Duration::ZERO;

/// Connections of strangers at once beyond [`STRANGERS_EVERY`]: one second's worth.
pub(crate) const STRANGERS_BURST: u32 = 500;

/// How often another one may come: 500 a second take half of a core for their handshakes, so those who are in keep the
/// other half.
pub(crate) const STRANGERS_EVERY: Duration = Duration::from_millis(2);

/// How often the log says that strangers are turned away: the counters say how many.
pub(crate) const FLOOD_SAID_EVERY: Duration = Duration::from_secs(10);

/// How long a balancer may take to say whom it connects for: it does so with its first packet.
pub(crate) const PROXY_HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a refused connection is read and thrown away after the refusal was written: closing with unread bytes
/// makes the kernel send a reset, which can overtake the refusal.
pub(crate) const LINGER: Duration = Duration::from_secs(1);

/// What is read and thrown away meanwhile: the rest of a request of ordinary size.
pub(crate) const LINGER_BYTES: usize = 64 * 1024;

// ---- The registry -------------------------------------------------------------------------------------

/// Changes a follower may be behind before it is told to read everything: a restart of a whole fleet passes through
/// in bursts of this size.
pub(crate) const REGISTRY_EVENTS: usize = 1024;

/// Nodes that are remembered after their last session, the longest gone forgotten first: a few KiB each, and more
/// than any fleet one explorer carries.
pub(crate) const OFFLINE_NODES: usize = 16_384;

/// Sessions of one node at a time: one that serves, one that is being set up, and older ones that still finish
/// streams. More means that a node dials in a loop.
pub(crate) const LINES_PER_NODE: usize = 8;

/// Peer-chosen text in messages, logs and the registry, in characters: a sentence, not a page.
pub(crate) const TEXT: usize = 256;

/// Grants of one node that are looked through at an open: people make them, one at a time.
pub(crate) const GRANTS_PER_NODE: usize = 64;

/// The longest time for which the word of a node goes before the rights of its caller: what nodes give at most.
pub(crate) const GRANT_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// How long an open waits for a node whose only session is being set up: a node says "online" half a round trip before
/// it is known here, and whoever acts on that must not hear that it is offline.
pub(crate) const ARRIVING_WAIT: Duration = Duration::from_secs(2);

// ---- Takeover -----------------------------------------------------------------------------------------

/// The time over which changes of a name between two living processes are counted.
pub(crate) const TAKEOVER_WINDOW: Duration = Duration::from_secs(60);

/// Changes within [`TAKEOVER_WINDOW`] that are granted; from the next one on the incumbent stays. A machine that was
/// replaced needs one, an operator who mixes them up perhaps three.
pub(crate) const TAKEOVERS_PER_WINDOW: usize = 3;

/// What a newcomer is told to wait when the incumbent stays: the window, so that its next attempt can succeed.
pub(crate) const TAKEOVER_PENALTY: Duration = Duration::from_secs(60);

/// How often a takeover is judged again because the incumbent changed while it was asked.
pub(crate) const TAKEOVER_ROUNDS: usize = 3;

/// How long an older session may go on finishing its streams beside the newer one. Streams have no idle limit of
/// their own; a day is more than any line keeps its address, and then the descriptor is wanted back.
pub(crate) const RETIRING_MAX: Duration = Duration::from_secs(24 * 3600);

/// How often a retiring session is looked at: it ends when its last stream has.
pub(crate) const RETIRING_LOOK: Duration = Duration::from_millis(500);

/// Fleets up to this size may all come back at once; above it their return is spread so that no more than
/// [`RETURNS_PER_SECOND`] arrive.
pub(crate) const SMALL_FLEET: usize = 50;

/// Returning nodes per second: TLS handshakes of about a millisecond of one core each, with half of it to spare.
pub(crate) const RETURNS_PER_SECOND: usize = 500;

// ---- Opens --------------------------------------------------------------------------------------------

/// The longest deadline an open can ask for: who waits longer holds a place that others need.
pub(crate) const OPEN_DEADLINE_MAX: Duration = Duration::from_secs(600);

/// The most opens of one service that an operator may let wait: each keeps a visitor and its first bytes.
pub(crate) const OPENS_WAITING_MAX: usize = 65_536;

/// Opens that an opener may take back before the reply within [`RAPID_RESET_WINDOW`]: each costs us and a node work
/// that its opener does not wait for. People and programs that give up do so seldom.
pub(crate) const RAPID_RESETS: usize = 2_000;

/// The time over which they are counted.
pub(crate) const RAPID_RESET_WINDOW: Duration = Duration::from_secs(10);

/// How much earlier than its opener an explorer stops waiting for a stream to be opened: only it knows why there is
/// none, and its word needs half a round trip. At most half of the time there is.
pub(crate) const OPEN_GRACE: Duration = Duration::from_millis(250);

/// Callers or services whose rate is kept at a time: a few hundred bytes each. Who comes when there are more shares one
/// bucket with all others who do.
pub(crate) const RATE_BUCKETS: usize = 16_384;

/// How long the counters of a caller are kept who has all its bucket again: for who looks at them after a burst.
pub(crate) const RATE_KEPT: Duration = Duration::from_secs(60);

/// How many of them `explorer.status` shows: a page, the most refused first.
pub(crate) const RATE_SHOWN: usize = 32;

// ---- The API ------------------------------------------------------------------------------------------

/// Bodies of all calls to the API together while they are being read, and answers that are whole before they are sent:
/// four of the largest, or thousands of ordinary ones. Beyond it a call is `saturated`.
pub(crate) const API_BODIES: usize = 4 * CALL_BODY_MAX;

/// An answer of the explorer's own that needs no room there: about what its connection's buffers hold anyway, so a
/// refusal is said, and a node found, however full it is.
pub(crate) const SMALL_ANSWER: usize = 16 * 1024;

/// How long a call may take when its caller gives no deadline.
pub(crate) const API_TIMEOUT: Duration = Duration::from_secs(30);

/// What an answer may take beyond the deadline that its node was given: the node knows best why there is none, and
/// its word needs half a round trip.
pub(crate) const CALL_GRACE: Duration = Duration::from_millis(250);

/// Requests in one batch: a page of a dashboard, not a load test. They are carried out one after the other.
pub(crate) const BATCH_MAX: usize = 100;

/// Changes of state that `explorer.events` remembers: what happened around an incident, a few hundred bytes each.
pub(crate) const EVENTS_KEPT: usize = 512;

/// The longest time for which a node can be kicked. Whoever wants it gone for good removes its credential.
pub(crate) const KICK_MAX: Duration = Duration::from_secs(24 * 3600);

/// Records of the audit that are shown when nobody says how many: two screens.
pub(crate) const AUDIT_SHOWN: usize = 100;

/// Records of the audit that one answer holds at most: some hundred bytes each, so a megabyte or two; the file itself has
/// more.
pub(crate) const AUDIT_SHOWN_MAX: usize = 10_000;

/// Substreams and connections that follow `explorer.watch` at a time: each costs a copy of every change.
pub(crate) const WATCHERS: usize = 1024;

// ---- HTTP and raw JSON --------------------------------------------------------------------------------

/// The request line and headers of one HTTP request: what browsers and proxies agree on, four times over.
pub(crate) const HTTP_HEAD_MAX: usize = 32 * 1024;

/// Headers of one request; more is an attack on whoever counts them.
pub(crate) const HTTP_HEADERS_MAX: usize = 100;

/// How long the head of a request may take from its first byte to its last: as long as a handshake.
pub(crate) const HTTP_HEAD_TIME: Duration = reachback_wire::limits::HANDSHAKE_TIMEOUT;

/// How long an HTTP connection may be idle between two requests: a pool of a client keeps its connections for about
/// that long.
pub(crate) const HTTP_IDLE: Duration = Duration::from_secs(60);

/// HTTP and raw connections at a time: each holds a descriptor and at most one body at a time.
pub(crate) const PLAIN_CONNECTIONS: usize = 4096;

/// How long a raw JSON connection may be silent between two requests, or in the middle of one.
pub(crate) const RAW_IDLE: Duration = Duration::from_secs(60);

/// How long the peer of an HTTP or raw JSON connection may take nothing of an answer that waits for it: slow links move
/// in that time, and whoever does not read at all keeps a place that others need.
pub(crate) const WRITE_STALL: Duration = Duration::from_secs(60);

// ---- Nodes with an address ----------------------------------------------------------------------------

/// A node that registers itself by heartbeats is offline when none came for this long: three of the usual 30 s, and
/// one that was late.
pub(crate) const DIRECT_TIMEOUT: Duration = Duration::from_secs(100);

/// Nodes with an address: more than one machine or site has.
pub(crate) const DIRECT_NODES: usize = 4096;

/// Calls of one of them at a time. Nobody can tell an address that leads back here through a bridge or a balancer; a
/// call that goes in circles ends here, and leaves most of [`PLAIN_CONNECTIONS`] to others.
pub(crate) const DIRECT_CALLS: usize = PLAIN_CONNECTIONS / 8;

/// Names of theirs that are looked up at a time: each keeps a thread busy, perhaps for seconds.
pub(crate) const DIRECT_LOOKUPS: usize = 16;

/// How often they are looked at for having fallen silent.
pub(crate) const DIRECT_LOOK: Duration = Duration::from_secs(1);

/// How long the explorer tries to connect to one of them.
pub(crate) const DIRECT_DIAL: Duration = Duration::from_secs(5);

// ---- Security -----------------------------------------------------------------------------------------

/// How long an authority is valid: longer than anybody wants to think about it, and rotated before.
pub(crate) const AUTHORITY: Duration = Duration::from_secs(3650 * 24 * 3600);

/// How long certificates of nodes and users are valid: a machine that is off for a quarter comes back without a word.
pub(crate) const CERTIFICATE: Duration = Duration::from_secs(90 * 24 * 3600);

/// How long those of nodes that come and go are valid.
pub(crate) const EPHEMERAL_CERTIFICATE: Duration = Duration::from_secs(24 * 3600);

/// How long the explorer's own certificate is valid; it is made anew at every start and at half of this.
pub(crate) const OWN_CERTIFICATE: Duration = Duration::from_secs(90 * 24 * 3600);

/// How much earlier than they were made certificates begin: clocks of small machines are hours late.
pub(crate) const BACKDATED: Duration = Duration::from_secs(24 * 3600);

/// For how long after its end a certificate whose key is on record is renewed: a machine that was in storage.
pub(crate) const RENEW_EXPIRED: Duration = Duration::from_secs(365 * 24 * 3600);

/// How soon a certificate can be renewed again, unless a tenth of its life is shorter: each renewal is a write that waits
/// for the disk.
pub(crate) const RENEW_PAUSE: Duration = Duration::from_secs(60);

/// What a node is told to wait whose ephemeral id is connected elsewhere: a session that is gone is noticed in 20 s.
pub(crate) const EPHEMERAL_RETRY: Duration = Duration::from_secs(5);

/// How long a node that comes and goes is remembered after its last session: long enough to ask what became of it.
pub(crate) const EPHEMERAL_FORGOTTEN: Duration = Duration::from_secs(600);

/// How often they are looked at.
pub(crate) const EPHEMERAL_LOOK: Duration = Duration::from_secs(10);

/// What whoever wants something new is told to wait while the database can't be written.
pub(crate) const UNWRITABLE_RETRY: Duration = Duration::from_secs(60);

/// How long SQLite waits for somebody else who has the file, such as an operator with a tool.
pub(crate) const DATABASE_WAIT: Duration = Duration::from_secs(1);

/// How often what has become due is done: renewals have weeks, and refusals that wait to be written down are those of a
/// minute.
pub(crate) const KEEP_UP: Duration = Duration::from_secs(60);

/// How far clocks may differ where tokens begin and end.
pub(crate) const TOKEN_LEEWAY: Duration = Duration::from_secs(60);

/// The least and the most a token can be valid. What is meant for ever has a name of its own: revocation.
pub(crate) const TOKEN_TTL_MIN: Duration = Duration::from_secs(1);
/// As long as an authority.
pub(crate) const TOKEN_TTL_MAX: Duration = AUTHORITY;

/// How long a token is listed after its end, so that somebody who asks what became of it gets an answer.
pub(crate) const TOKENS_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

/// Tokens on record: each is some hundred bytes and was made by a person or a script.
pub(crate) const TOKENS: usize = 10_000;

/// Nodes and users on record together: a kilobyte each, and ten times what one explorer carries.
pub(crate) const ENROLMENTS: usize = 200_000;

/// Hex digits in the number of a token, and how many of them are enough to name it.
pub(crate) const TOKEN_ID_DIGITS: usize = 24;
/// Eight digits are enough among ten thousand.
pub(crate) const TOKEN_ID_BEGIN: usize = 8;

/// A certificate request: a key and a name are a third of it.
pub(crate) const CSR_MAX: usize = 2048;

/// A file with keys or certificates: hundreds of authorities.
pub(crate) const KEY_FILE_MAX: usize = 1024 * 1024;

/// One file of the audit; it is read whole when somebody asks for its end.
pub(crate) const AUDIT_FILE_MAX: u64 = 4 * 1024 * 1024;

/// How many older ones are kept beside the newest: 20 MiB in all, some hundred thousand lines.
pub(crate) const AUDIT_FILES: u32 = 4;

/// Lines that one question gets.
pub(crate) const AUDIT_LISTED: usize = 1000;

/// The sentence in a line of the audit, in characters: a refusal with its remedy.
pub(crate) const AUDIT_TEXT: usize = 512;

/// Refusals that wait to be written: a disk that takes nothing for a quarter of an hour.
pub(crate) const AUDIT_DEFERRED: usize = 1024;

/// Refusals that are written in one minute: whoever knocks all the time must not push out what operators did.
pub(crate) const AUDIT_REFUSALS_PER_MINUTE: u32 = 60;

// ---- The rest -----------------------------------------------------------------------------------------

/// How long a shutdown waits for sessions to say goodbye; their last bytes have a second of their own.
pub(crate) const SHUTDOWN_GRACE: Duration = Duration::from_secs(3);

/// What all peers together may make the process hold, unless whoever embeds it says otherwise: four sessions at
/// their own limit.
pub(crate) const PROCESS_BUDGET: usize = 4 * reachback_wire::limits::SESSION_UNREAD_MAX;

/// How many of a node's services a refusal lists: what fits on three lines of a terminal.
pub(crate) const NAMES_LISTED: usize = 12;

/// Pause before a published port that could not be bound is tried again.
pub(crate) const REBIND: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_clone_may_succeed_when_it_obeys() {
        assert!(TAKEOVER_PENALTY >= TAKEOVER_WINDOW);
        assert!(GHOST_PING * u32::try_from(TAKEOVER_ROUNDS).unwrap() < HANDSHAKE_TIMEOUT);
    }
}
