//! Every bound of the system in one place, because a bound without a reason is either a guess or a trap.
//!
//! A peer chooses what it sends; these numbers decide what that can cost the receiver in memory, time and
//! descriptors. Whoever changes one reads its reason first; the relations between them are checked by
//! the compiler at the end of this file. Sizes are bytes unless the comment says otherwise.

use std::time::Duration;

const KIB: usize = 1024;
const MIB: usize = 1024 * 1024;

// ---- From the first byte to an admitted session -------------------------------------------------------

/// How long a new connection may stay silent before its first bytes say which protocol it speaks. Every
/// protocol on the port has the caller speak first, so one round trip is enough; 5 s forgives a lossy link.
pub const SNIFF_TIMEOUT: Duration = Duration::from_secs(5);

/// One deadline over TCP, TLS and the handshake together, so that no peer can spend a little in each. Ten
/// seconds holds three retransmitted SYNs (1 + 2 + 4 s) and the round trips after them.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// All bytes accepted from a peer that has not yet been admitted: strangers must stay cheap. A `Hello` with
/// a token and features is under 2 KiB; 8 KiB leaves room for a certificate request.
pub const HANDSHAKE_BYTES_MAX: usize = 8 * KIB;

/// TLS handshakes that one runtime works on at a time: each costs a third of a millisecond of signatures, so that live
/// sessions wait ten at most, and a fleet that comes back at once stands in line.
pub const TLS_HANDSHAKES: usize = 32;

/// How long a handshake keeps its place among those: two slow round trips. One that stops in the middle goes on without.
pub const TLS_PLACE: Duration = Duration::from_secs(1);

/// Ciphertext read ahead in one call: four records of TLS, which hold a frame of the mux.
pub const TLS_READ_AHEAD: usize = 68 * KIB;

/// What may be sealed and unsent of one connection: what one write of the mux can hand over at most, a batch
/// ([`WRITE_BATCH`]) and a record behind it. Nothing is sealed while something waits, so it is not a queue.
pub const TLS_SEALED_MAX: usize = 2 * WRITE_BATCH;

/// A `Challenge` or a `Proof`: a nonce and a proof are 128 digits, and there is little to add to them.
pub const PROOF_MAX: usize = KIB;

/// A chain of certificates with the authorities behind it (`Enrolled`, `Renewed`), in hex: a dozen of the size that openssl
/// makes with RSA keys. Only who asked for a certificate reads it.
pub const CERTIFICATES_MAX: usize = 64 * KIB;

/// How long one whole dial (name lookup, all addresses, connect) may take before the attempt has failed.
/// Equal to [`HANDSHAKE_TIMEOUT`]: a dialer that waits longer than its peer gains nothing.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// How long connecting to the last address of a name may take, unless an operator says otherwise: two retransmitted
/// SYNs (1 + 2 s), and half of [`DIAL_TIMEOUT`] left for the lookup before and the handshake after.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// When an address has not answered for this long, the next one of the same name is tried beside it. Longer
/// than a satellite round trip with one retransmission in it, shorter than anyone's patience.
pub const CONNECT_NEXT_ADDRESS: Duration = Duration::from_secs(1);

/// The head of an HTTP proxy's answer to `CONNECT`: what common HTTP servers take for a head, and kept whole in
/// memory until its end is found.
pub const PROXY_HEAD_MAX: usize = 8 * KIB;

/// Queue of the kernel for connections not yet accepted: a whole fleet dials at once after a restart.
pub const LISTEN_BACKLOG: u32 = 1024;

/// How long a socket file that is already there may take to accept a connection before it counts as alive, and a
/// lock on its directory before it counts as stuck. Both take microseconds on a machine that is well.
pub const SOCKET_PROBE: Duration = Duration::from_secs(1);

/// Pause of the accept loop after an error that will not go away at once (out of descriptors): without it
/// the loop spins at full speed exactly when the machine is short of everything.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Descriptors that accepting leaves to those who are in, though at most a quarter of those there are: a node that dials
/// its services, a database, a log that is opened anew. As many as one thread needs at a time, several times over.
pub const DESCRIPTORS_RESERVED: u64 = 64;

// ---- Opening substreams -------------------------------------------------------------------------------

/// From `Open` to `Opened` or `Refused` when the opener names no deadline of its own: the node's dial to a
/// local service plus one slow link. Whoever waits longer than this waits for something that is down.
pub const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an accepted substream may take to show its whole `Open` frame. The opener writes it at once, so
/// only a broken or hostile peer gets here; its slot is needed by others.
pub const OPEN_HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// An acceptor that cannot answer an `Open` within this time sends `Accepted` first. The mux holds at most
/// [`MUX_ACK_BACKLOG`] opens without any answer and then stalls silently, so a slow service must not count.
/// Twenty milliseconds spare the extra frame for every local service that is up.
pub const ACCEPTED_AFTER: Duration = Duration::from_millis(20);

/// What an opener may send behind its `Open` before the reply has come: it saves a round trip, and the
/// relaying explorer has to keep it until then, so it is small. One full record fits.
pub const EARLY_BYTES_MAX: usize = 64 * KIB;

/// What an explorer or a client sends early of what a visitor says: most first requests fit, and an explorer that
/// keeps it for another try keeps no more than this of each.
pub const EARLY_READ: usize = 16 * KIB;

/// Opens of one service of one node that wait for a reply at the same time: a service that hangs takes at
/// most half of the mux's backlog of unanswered opens with it and leaves the rest to its neighbours.
pub const SERVICE_OPENS_IN_FLIGHT: usize = 128;

/// Opens of one service that wait in order behind those in flight, their visitors unread. A burst passes; a
/// longer queue would only turn into timeouts, so it is refused as `saturated`.
pub const SERVICE_OPENS_WAITING: usize = 1024;

/// What a saturated process, service or session asks its caller to wait: long enough for a queue of this size to
/// move, short enough that nobody notices.
pub const SATURATED_RETRY: Duration = Duration::from_secs(1);

/// Requests (opens, control messages, probes) that a session's handles may have queued for its task. Each waits for
/// its turn when this is full; the task takes all of them every time it runs, so the number only smooths bursts.
pub const SESSION_REQUESTS: usize = 64;

/// Substreams a client or a peer explorer, and an explorer towards a node, may hold open at once in one
/// session: the default of `Welcome.limits.max_substreams`. Held until the substream is gone on both sides.
pub const SUBSTREAMS_FROM_CLIENT: u32 = 8192;

/// Substreams a node may hold open towards its explorer: a node calls others rarely, and a fleet of them
/// shares the explorer's memory.
pub const SUBSTREAMS_FROM_NODE: u32 = 1024;

/// After this many opens the opener asks for a new session. Stream ids are 32 bits with one bit for the
/// side, so 2^31 exist; half of them leaves all the time in the world for the change.
pub const STREAM_IDS_BEFORE_ROLL: u64 = 1 << 30;

/// Opens after which a session ends even with substreams alive: a few short of the last id, which the mux would
/// answer by ending without a reason.
pub const STREAM_IDS_MAX: u64 = (1 << 31) - 1024;

// ---- The mux ------------------------------------------------------------------------------------------

/// Streams the mux itself allows in one session. The agreed permits never reach it: both sides' permits,
/// the unanswered backlog of both, and a margin for streams dropped while writes are blocked, which stay in
/// the mux's map. A peer that gets here has broken the agreement and loses its own session.
pub const MUX_STREAMS_MAX: usize = 12_288;

/// Sum of receive windows of one session: the first window (256 KiB) of every stream, and 64 MiB for
/// windows that grow with the bandwidth of the line. What is really held in memory is bounded by the
/// ledger ([`SESSION_UNREAD_MAX`]), not by this.
pub const MUX_WINDOW_SUM: usize = 12_288 * 256 * KIB + 64 * MIB;

/// Opens without any answer that the mux allows; the next one would hang in silence. A fact of the yamux
/// crate, which we stay below (see [`ACCEPTED_AFTER`], [`SERVICE_OPENS_IN_FLIGHT`]).
pub const MUX_ACK_BACKLOG: usize = 256;

// ---- Frames and records -------------------------------------------------------------------------------

/// A record with its header: exactly one 64 KiB frame of the mux, so that a record is one write and costs
/// no copy.
pub const RECORD_MAX: usize = 65_536;

/// Payload of one record: [`RECORD_MAX`] less the four bytes of its header. It also holds the largest UDP
/// datagram (65,507).
pub const MAX_RECORD_PAYLOAD: usize = 65_532;

/// Payloads from this size on are compressed where that was asked for: below it the size in front and the time it
/// takes are seldom won back.
pub const LZ4_MIN_SIZE: usize = 256;

/// How many bytes one byte of an LZ4 block can stand for: a match grows by 255 with each byte of its length. Whoever
/// claims more is lying, and known to be before there is room for it.
pub const LZ4_RATIO_MAX: usize = 255;

/// A `Head` record (headers of a call): twice what common HTTP servers take (8-16 KiB), and it is kept
/// whole in memory because it is parsed as one JSON text.
pub const HEAD_MAX: usize = 32 * KIB;

/// Payload of an `End` or a `Reset`: a code and one sentence for a person. Anything longer belongs in a log.
pub const END_TEXT_MAX: usize = KIB;

/// The one record a substream may hold for sending while its session is above [`SESSION_SENDING_MAX`]:
/// small enough for thousands of substreams, large enough that interactive traffic moves on.
pub const SMALL_RECORD: usize = 4096;

/// A `Services` frame: some hundred services with labels and capabilities. It is the only large frame, and
/// only an admitted node may send it.
pub const SERVICES_MAX: usize = 256 * KIB;

/// All `Data` and `Item` payloads of one direction of a call, counted while streaming. JSON bodies beyond
/// this are files; files go over a `stream`, which has no such limit.
pub const CALL_BODY_MAX: usize = 16 * MIB;

// ---- Memory of a session ------------------------------------------------------------------------------

/// Unread bytes of one stream: a window can grow by 64 MiB, the first window (256 KiB) and one frame in
/// flight come on top. A stream above it has overrun its window and is reset.
pub const STREAM_UNREAD_MAX: usize = 66 * MIB;

/// Unread bytes of one session over all streams: one stream at full window and as much again for the
/// others. Above it the stream with most unread bytes is reset, because stopping to read would also stop
/// heartbeats and every other stream.
pub const SESSION_UNREAD_MAX: usize = 128 * MIB;

/// What the smallest frame is charged in the ledger: a frame of one byte costs its entry in a queue, an
/// allocation and bookkeeping, so a flood of tiny frames must not look like nothing.
pub const LEDGER_MIN_CHARGE: usize = 64;

/// What a session accepts for sending beyond what is written to the socket: the bandwidth-delay product of
/// 300 Mbit/s over 100 ms. More only adds delay for whoever comes last in the queue.
pub const SESSION_SENDING_MAX: usize = 4 * MIB;

/// Answers to pings owed to one peer, counted in pongs of 12 bytes (64 KiB in all): a peer that pings and
/// does not read loses its session instead of filling our memory.
pub const PONGS_OWED_MAX: usize = 64 * KIB / 12;

// ---- Reading and writing the transport ----------------------------------------------------------------

/// One read of headers from the transport: takes dozens of small frames in one system call. The buffer exists only
/// while bytes move, so an idle session does not hold it.
pub const READ_PREFETCH: usize = 4 * KIB;

/// What is read behind a body in the same system call: the next headers. More of it would be the beginning of the next
/// body, which is copied once more then.
pub const READ_BEHIND: usize = KIB;

/// What one stream may have handed over for sending and the transport has not taken: two records keep the line busy, and
/// streams take turns in front of the mux instead of queueing behind the one that was there first. Half of the first window
/// of a stream, so that streams whose windows have grown get no more than others.
pub const STREAM_SENDING_MAX: usize = 2 * RECORD_MAX;

/// What a session moves in each direction's turn before other tasks of its thread have theirs: a tenth of a millisecond of
/// a fast machine, so that who waits for a small answer does not wait for megabytes of somebody else.
pub const TURN_BYTES: usize = 256 * KIB;

/// Bytes gathered into one vectored write: one frame of the mux with its header, or hundreds of small ones.
pub const WRITE_BATCH: usize = 64 * KIB;

/// The batch kept while the transport takes nothing: what waits here can no longer be overtaken by a
/// heartbeat or by another stream, so it is small.
pub const WRITE_BATCH_BLOCKED: usize = 16 * KIB;

/// A payload of at least this size is written from where it lies; below it copying into the batch is
/// cheaper than another entry in the vector.
pub const WRITE_DIRECT_MIN: usize = 4 * KIB;

/// Unsent bytes the kernel may hold for one socket (`TCP_NOTSENT_LOWAT`) before its path has been measured: what
/// lies there is in order and delays everything behind it, heartbeats included; 128 KiB still fills 200 Mbit/s
/// between two wake-ups 5 ms apart.
pub const NOTSENT_LOWAT: usize = 128 * KIB;

/// The least of it, on the slowest path: a few packets, so that the line is never idle while we sleep.
pub const NOTSENT_LOWAT_MIN: usize = 16 * KIB;

/// The most of it, on the fastest path: four records; more buys no throughput.
pub const NOTSENT_LOWAT_MAX: usize = 256 * KIB;

/// What a reader's kernel may hold for it on a path of no length: some turns of a session ([`TURN_BYTES`]), a quarter of a
/// millisecond of the fastest machines.
pub const SHORT_WINDOW: usize = 512 * KIB;

/// Below this round-trip time [`SHORT_WINDOW`] is enough for [`FAST_PATH`], even where the kernel gives less of it: this
/// machine, or the same rack.
pub const SHORT_PATH: Duration = Duration::from_micros(300);

/// The fastest path that is planned for, in bytes per second: 10 Gbit/s.
pub const FAST_PATH: u64 = 1_250_000_000;

/// Where the kernel's own limits decide: above what any gives.
pub const LONG_WINDOW: usize = 256 * MIB;

/// A record on the slowest path: 32 ms of one Mbit/s, and still a hundred times its headers.
pub const RECORD_SLOW: usize = 4 * KIB;

/// The least round-trip time of a path on which BBR is asked for: above any local network, where it only costs.
pub const LONG_PATH: Duration = Duration::from_millis(3);

/// How long the end of a session may wait for its last bytes (`Bye`, a refusal, a mux error) to leave: a
/// courtesy, and a dead link must not hold the slot.
pub const CLOSE_FLUSH: Duration = Duration::from_secs(1);

// ---- Control ------------------------------------------------------------------------------------------

/// Control messages waiting to be handled or sent, each way. Control carries a few messages a minute; one
/// that queues more than this has a peer that no longer reads.
pub const CONTROL_QUEUE: usize = 32;

/// Bytes of control frames waiting to be written. Heartbeats are some 60 bytes every ten seconds, so a peer
/// behind by this much has long been silent. One larger frame (`Services`) is taken when nothing waits.
pub const CONTROL_OUT_MAX: usize = 64 * KIB;

/// Control frames that a peer may send at once beyond [`CONTROL_FRAMES_EVERY`]: a node that announces hundreds of changes
/// of its services after it was cut off.
pub const CONTROL_FRAMES_BURST: u32 = 1_000;

/// How often it may send one in the long run: five times what heartbeats and their answers need at the shortest interval
/// ([`HEARTBEAT_MIN`]). A peer beyond that costs its session.
pub const CONTROL_FRAMES_EVERY: Duration = Duration::from_millis(10);

/// Ends a node remembers of its own sessions and reports in `Ends`: enough to see a pattern ("three times
/// in an hour"), little enough for one frame.
pub const ENDS_KEPT: usize = 10;

// ---- Liveness -----------------------------------------------------------------------------------------

/// Interval of heartbeats, both ways. The thresholds of [`crate::liveness`] are multiples of it (silent 2,
/// late 2, unanswered 6): a dead line is known within 20 s, and a fleet of 8,000 costs 800 frames a second.
pub const HEARTBEAT: Duration = Duration::from_secs(10);

/// When unacknowledged bytes end the connection in the kernel (`TCP_USER_TIMEOUT`): the backstop behind the
/// heartbeats, hence later than the 20 s they need.
pub const TCP_USER_TIMEOUT: Duration = Duration::from_secs(30);

/// Idle time before the kernel's first keepalive probe. Heartbeats keep a living session busy; this finds
/// connections that have none yet or whose process is stopped.
pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);

/// Unanswered keepalive probes after which the kernel ends the connection: one lost packet is not a verdict. They are
/// sent within as much time again as [`KEEPALIVE_IDLE`], so the kernel gives up after 30 s, together with
/// [`TCP_USER_TIMEOUT`].
pub const KEEPALIVE_RETRIES: u32 = 3;

/// The longest time a silent peer can be kept: after a day nobody waits for it any more.
pub const IO_TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);

/// The longest idle time before a keepalive probe: what Linux takes (`MAX_TCP_KEEPIDLE`, tcp(7)).
pub const KEEPALIVE_MAX: Duration = Duration::from_secs(32_767);

/// How long the explorer waits for an incumbent's answer when another instance claims its name. A living
/// node answers within a round trip; without an answer it is a ghost and the newcomer takes the name.
pub const GHOST_PING: Duration = Duration::from_secs(2);

// ---- Reconnecting -------------------------------------------------------------------------------------

/// Delay after the first failed attempt; it doubles from here. Short, because most failures are a restart.
pub const RECONNECT_FIRST: Duration = Duration::from_millis(100);

/// The longest delay between attempts: a node is back within half a minute after its line is, and a fleet
/// of 8,000 that cannot connect costs fewer than 300 attempts a second.
pub const RECONNECT_MAX: Duration = Duration::from_secs(30);

/// The shortest delay that can be asked for: what dials more often than this takes a core of the machine it dials.
pub const RECONNECT_LEAST: Duration = Duration::from_millis(10);

/// The longest: an operator who has mended something should see it within the hour.
pub const RECONNECT_MOST: Duration = Duration::from_secs(3600);

/// A session that lasted this long was healthy: the delay starts again at [`RECONNECT_FIRST`]. Three
/// heartbeats; a session that ends sooner (accepted, then refused or cut) must not reset the delay.
pub const HEALTHY_AFTER: Duration = Duration::from_secs(30);

// ---- What a peer may ask for --------------------------------------------------------------------------

/// The payload of an open header, of its reply, and of the short control messages: a reason of
/// [`END_TEXT_MAX`] of which every byte has to be escaped (`\u0000`) still fits, and ids and a trace do anyway.
pub const OPEN_MAX: usize = 8 * KIB;

/// The shortest heartbeat interval. Below it a busy machine's own scheduling would end sessions; a fleet of
/// ten thousand nodes would already send a hundred thousand heartbeats a second.
pub const HEARTBEAT_MIN: Duration = Duration::from_millis(100);

/// The longest heartbeat interval. A dead node would go unnoticed for two of them, and many NATs forget a
/// silent connection after a few minutes.
pub const HEARTBEAT_MAX: Duration = Duration::from_secs(60);

// The relations the reasons above rely on. Whoever breaks one does not get past the compiler.
const _: () = {
    // A record is exactly one mux frame and holds any UDP datagram.
    assert!(RECORD_MAX == MAX_RECORD_PAYLOAD + 4 && RECORD_MAX == 64 * KIB && EARLY_BYTES_MAX >= RECORD_MAX);
    assert!(MAX_RECORD_PAYLOAD >= 65_507);
    assert!(HEAD_MAX <= MAX_RECORD_PAYLOAD && END_TEXT_MAX <= HEAD_MAX && SMALL_RECORD <= RECORD_MAX);
    // Agreed permits never reach the limit of the mux, and its windows cover the first window of every stream.
    assert!((SUBSTREAMS_FROM_CLIENT + SUBSTREAMS_FROM_NODE) as usize + 2 * MUX_ACK_BACKLOG < MUX_STREAMS_MAX);
    assert!(MUX_WINDOW_SUM >= MUX_STREAMS_MAX * 256 * KIB);
    // One hanging service leaves half of the backlog to the others.
    assert!(2 * SERVICE_OPENS_IN_FLIGHT <= MUX_ACK_BACKLOG);
    // The ledger allows what one grown window allows.
    assert!(STREAM_UNREAD_MAX > 64 * MIB + 256 * KIB + RECORD_MAX && SESSION_UNREAD_MAX > STREAM_UNREAD_MAX);
    assert!(SESSION_SENDING_MAX >= WRITE_BATCH && WRITE_BATCH >= WRITE_BATCH_BLOCKED);
    // Control has room for several of its short messages.
    assert!(CONTROL_OUT_MAX >= 4 * OPEN_MAX && SERVICES_MAX > OPEN_MAX);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_a_backstop_behind_the_heartbeats() {
        assert!(TCP_USER_TIMEOUT > 2 * HEARTBEAT);
        assert_eq!(2 * KEEPALIVE_IDLE, TCP_USER_TIMEOUT);
    }

    #[test]
    fn inner_times_end_before_outer_ones() {
        assert!(SNIFF_TIMEOUT < HANDSHAKE_TIMEOUT && DIAL_TIMEOUT <= HANDSHAKE_TIMEOUT);
        assert!(CONNECT_NEXT_ADDRESS < CONNECT_TIMEOUT && CONNECT_TIMEOUT < DIAL_TIMEOUT);
        assert!(GHOST_PING < HANDSHAKE_TIMEOUT);
        assert!(ACCEPTED_AFTER < OPEN_TIMEOUT && HEALTHY_AFTER > 2 * HEARTBEAT);
        assert!(RECONNECT_LEAST <= RECONNECT_FIRST && RECONNECT_FIRST < RECONNECT_MAX);
        assert!(RECONNECT_MAX <= RECONNECT_MOST && CONTROL_FRAMES_EVERY * 10 <= HEARTBEAT_MIN);
        assert!((HEARTBEAT_MIN..=HEARTBEAT_MAX).contains(&HEARTBEAT));
    }
}
