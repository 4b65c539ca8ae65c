//! The bounds that only the command line has, each with its reason; what both ends of a session share is in
//! [`reachback_wire::limits`].

use std::time::Duration;

/// Threads of an explorer: beyond this they wait for the registry and for memory more than for each other's work.
pub(crate) const THREADS_MAX: usize = 8;

/// Tasks that a thread runs before it looks at its sockets again, while there is always one more. A pump's turn takes a tenth
/// of a millisecond: with the runtime's usual 61 a small answer waited six, and with 2 the asking costs nothing that shows.
pub(crate) const EVENT_INTERVAL: u32 = 2;

/// The smallest memory budget that can be asked for, in bytes: what one busy connection may have under way to each
/// side, twice.
pub(crate) const MEMORY_BUDGET_MIN: usize = 16 << 20;

/// The memory budget where the system does not say how much memory there is, in bytes: a small machine's quarter.
pub(crate) const MEMORY_BUDGET_UNKNOWN: usize = 256 << 20;

/// How long an orderly end may take: longer than the libraries give their goodbyes, less than the 10 s after which
/// container runtimes kill.
pub(crate) const ORDERLY_END: Duration = Duration::from_secs(8);

/// How long an explorer may take to answer a question that it answers from memory.
pub(crate) const ANSWER: Duration = Duration::from_secs(10);

/// Bytes of an answer of the local node: its control socket is not read without end.
pub(crate) const CONTROL_ANSWER: u64 = 1 << 20;

/// How long a step of the demo may take before the demo says that it failed: machines that build are slow.
pub(crate) const DEMO_STEP: Duration = Duration::from_secs(30);

/// Pause between two looks at what a step of the demo waits for: short beside what people notice.
pub(crate) const DEMO_LOOK: Duration = Duration::from_millis(20);

/// The demo's heartbeat: fast, so that nobody waits for round trips to be measured.
pub(crate) const DEMO_HEARTBEAT: Duration = Duration::from_secs(1);

/// What the demo sends through the tunnel, in bytes: enough to fill windows and buffers, quick enough to wait for.
pub(crate) const DEMO_PAYLOAD: usize = 1 << 20;

/// How long one `explorer.watch` is kept before it is asked for anew: the longest deadline that an open may have.
pub(crate) const WATCH: Duration = Duration::from_secs(600);

/// How long an explorer may take to say whether a node is there before its port is told to be closed.
pub(crate) const FIRST_WORD: Duration = Duration::from_secs(2);

/// How often `nodes --watch` looks whether the table on a terminal is still true: it shows whole seconds.
pub(crate) const REDRAW: Duration = Duration::from_secs(1);

/// How long a line for a node can be used when nobody says: it is pasted right after it was made.
pub(crate) const REGISTER_TOKEN: Duration = Duration::from_secs(15 * 60);

/// The same for people, who read their mail once a day.
pub(crate) const LOGIN_TOKEN: Duration = Duration::from_secs(24 * 3_600);

/// Bytes of a file that holds a secret: a join string has a few hundred, and a wrong file is not read to its end.
pub(crate) const SECRET_FILE: usize = 16 << 10;

/// The shortest shared secret, in bytes: a proof of a shorter one could be tried out against all of them.
pub(crate) const SHARED_SECRET_MIN: usize = 16;

/// The smallest `[compression] min_size`, in bytes: below this the header of a block alone eats what is saved.
pub(crate) const COMPRESSION_MIN_SIZE: usize = 32;
