//! The embedded store: durable queues in one SQLite file, written by one thread.
//!
//! # Files
//!
//! | File | Holds | Flushed |
//! |---|---|---|
//! | `queue.db`, `queue.db-wal` | everything: the truth | with every commit |
//! | `commit` | the number of the last commit, to notice a store that lost some | no |
//! | `leases` | what is with workers, so that a crash counts as an attempt | no |
//! | `lock` | keeps a second process out | no |
//!
//! # Tables
//!
//! `message` holds every message once, by a number that only grows; a transition never rewrites
//! it. What moves is a small row: in `waiting` while the message is ready, delayed or leased, in
//! `held` while another message of its group is before it, in `dead_letter` when it died.
//! `event` tells what happened; the event that tells of a message's end carries its number.
//!
//! # What always holds
//!
//! - A message row is in exactly one of `waiting`, `held` and `dead_letter`, or one event carries
//!   its number. A message that ends without an event is deleted with its small row.
//! - `waiting` has at most one message of each group of a queue: the one whose turn it is. Where
//!   `held` has messages of a group, `waiting` has the one before them.
//! - The counters in `queue` change in the same transaction as what they count.
//! - Leases are not in the file: after a restart everything that was leased waits again.
//! - Memory ([`heads`]) is bounded, whatever waits: see [`lane`].
//!
//! All that waits for a disk happens on the store's own threads, never on the async runtime.

mod apply;
mod batch;
mod codec;
mod command;
mod dead_letters;
mod doctor;
mod folder;
mod heads;
mod history;
mod job;
mod lane;
mod lease_log;
mod mark;
mod mend;
mod queue;
mod reader;
mod salvage;
mod schema;
mod store;
mod wal;
mod window;
mod writer;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed, Ordering::SeqCst},
        mpsc::Sender,
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use flowline_model::Timestamp;
use tokio::sync::Semaphore;

use self::{
    command::Order,
    heads::{Heads, Memory},
    lease_log::LeaseLog,
};

pub use self::{
    doctor::{DoctorReport, QueueReport, RepairReport, doctor},
    store::EmbeddedQueue,
};

/// Tells the time.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// How an embedded store is opened.
#[derive(Clone)]
pub struct EmbeddedOptions {
    /// Tells the time; the system's unless a test steers it.
    pub clock: Clock,
    /// How long the store sleeps at most before it looks at the clock again. It wakes at the
    /// right time by itself; this bounds what a jump of the clock can delay.
    pub longest_sleep: Duration,
}

impl Default for EmbeddedOptions {
    fn default() -> Self {
        Self { clock: Arc::new(system_time), longest_sleep: Duration::from_secs(1) }
    }
}

impl EmbeddedOptions {
    /// Options for a clock that is moved by hand: the store looks at it every few milliseconds.
    pub fn steered(clock: Clock) -> Self {
        Self { clock, longest_sleep: Duration::from_millis(5) }
    }
}

impl fmt::Debug for EmbeddedOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedOptions").field("longest_sleep", &self.longest_sleep).finish_non_exhaustive()
    }
}

fn system_time() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// What the store has done and what it takes, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EmbeddedStats {
    /// Transactions that were made durable.
    pub commits: u64,
    /// Commands that they carried; divided by `commits` it is how well commits are shared.
    pub commands: u64,
    /// Transactions that failed and were rolled back.
    pub failures: u64,
    /// Messages known in memory.
    pub window_messages: u64,
    /// About how many bytes of memory those take.
    pub window_bytes: u64,
    /// Length of the main file.
    pub file_bytes: u64,
    /// Length of the write-ahead log.
    pub wal_bytes: u64,
}

/// What all threads of one store share.
struct Shared {
    heads: Heads,
    clock: Clock,
    longest_sleep: Duration,
    orders: Sender<Order>,
    /// What may stand before the writer, in KiB.
    capacity: Arc<Semaphore>,
    leases: LeaseLog,
    counters: Counters,
    /// When the writer must look at the clock.
    alarm: AtomicI64,
    next_token: AtomicU64,
}

/// Before the writer may stand about 64 MiB.
const CAPACITY_KIB: u32 = 64 << 10;

impl Shared {
    fn now(&self) -> i64 {
        (self.clock)().as_millis()
    }

    fn alarm(&self) -> i64 {
        self.alarm.load(SeqCst)
    }

    fn silence_alarm(&self) {
        self.alarm.store(i64::MAX, SeqCst);
    }

    /// Makes the alarm go off no later than at an instant; returns when it would have.
    fn wake_by(&self, instant: i64) -> i64 {
        self.alarm.fetch_min(instant, SeqCst)
    }

    fn token(&self) -> u64 {
        self.next_token.fetch_add(1, Relaxed)
    }
}

#[derive(Debug, Default)]
struct Counters {
    commits: AtomicU64,
    commands: AtomicU64,
    failures: AtomicU64,
}

impl Counters {
    fn committed(&self, commands: usize) {
        self.commits.fetch_add(1, Relaxed);
        self.commands.fetch_add(commands as u64, Relaxed);
    }

    fn failed(&self) {
        self.failures.fetch_add(1, Relaxed);
    }
}
