//! Opening and closing an embedded store.
//!
//! Opening never scans what waits, and never replaces what it does not understand.

use std::{
    collections::{VecDeque, hash_map::RandomState},
    fmt,
    fs::File,
    hash::{BuildHasher, Hasher},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
        mpsc::channel,
    },
    thread::JoinHandle,
};

use rusqlite::{Connection, params};
use tokio::sync::Semaphore;

use super::{
    CAPACITY_KIB, Counters, EmbeddedOptions, EmbeddedStats, Memory, Shared,
    batch::Numbers,
    command::Order,
    folder::Folder,
    heads::{Head, Heads, Tally},
    lease_log::{self, LeaseLog},
    mark::{self, CommitMark, Marked},
    reader::Reader,
    schema::{self, explain},
    wal,
    writer::Writer,
};
use crate::{Limits, QueueError};

/// Durable queues in one SQLite file.
pub struct EmbeddedQueue {
    pub(super) shared: Arc<Shared>,
    /// Answers what workers ask for while they run.
    pub(super) states: Arc<Reader>,
    /// Answers what people ask for.
    pub(super) listings: Arc<Reader>,
    folder: Folder,
    threads: Mutex<Vec<JoinHandle<()>>>,
    lock: Mutex<Option<File>>,
}

impl fmt::Debug for EmbeddedQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedQueue").field("folder", &self.folder.root).finish_non_exhaustive()
    }
}

impl EmbeddedQueue {
    /// Opens the store in a folder, which is made if it is not there. Blocks while the write-ahead
    /// log of a crashed process is checked and taken over.
    pub fn open(folder: &Path, options: EmbeddedOptions) -> Result<Self, QueueError> {
        let folder = Folder::new(folder);
        let lock = folder.lock()?;
        let database = folder.database();
        let marked = check_files(&folder)?;
        let connection = schema::open_writer(&database)?;
        let opened = Opened::read(&connection).map_err(|error| explain(&database, &error))?;
        check_mark(&folder, &opened, marked)?;
        let now = (options.clock)().as_millis();
        count_interrupted(&folder, &connection, now)?;
        let rolled_back = tidy(&connection, &folder);
        let start = Marked { commit: opened.numbers.commit, rolled_back };
        let mark = CommitMark::open(&folder.mark(), folder.wal(), start).map_err(|error| disk(&folder, &error))?;
        let leases = LeaseLog::start(&folder.leases()).map_err(|error| disk(&folder, &error))?;
        let states = Arc::new(Reader::start(&database, "queue-states")?);
        let listings = Arc::new(Reader::start(&database, "queue-listings")?);
        let (sender, orders) = channel();
        let shared = Arc::new(Shared {
            heads: opened.heads,
            clock: options.clock,
            longest_sleep: options.longest_sleep,
            orders: sender,
            capacity: Arc::new(Semaphore::new(CAPACITY_KIB as usize)),
            leases,
            counters: Counters::default(),
            alarm: AtomicI64::new(i64::MIN),
            // Not a number that an earlier process gave.
            next_token: AtomicU64::new(RandomState::new().build_hasher().finish()),
        });
        let writer = Writer {
            shared: shared.clone(),
            connection,
            path: database,
            orders,
            numbers: opened.numbers,
            mark,
            unfinished: VecDeque::new(),
            carried: 0,
        };
        let writer_thread = std::thread::Builder::new()
            .name("queue-writer".into())
            .spawn(move || writer.run())
            .map_err(|error| disk(&folder, &error))?;
        let threads = Mutex::new(vec![writer_thread]);
        Ok(Self { shared, states, listings, folder, threads, lock: Mutex::new(Some(lock)) })
    }

    /// Finishes what was asked for, moves everything into the main file and gives the folder
    /// free. Leases end without counting as an attempt. Whatever is asked afterwards is `Closed`.
    pub async fn close(&self) {
        let stop = self.stopping();
        drop(tokio::task::spawn_blocking(stop).await);
        self.unlock();
    }

    /// What the store has done and what it takes.
    pub fn stats(&self) -> EmbeddedStats {
        let length = |path| std::fs::metadata(path).map(|file| file.len()).unwrap_or(0);
        let counters = &self.shared.counters;
        EmbeddedStats {
            commits: counters.commits.load(Relaxed),
            commands: counters.commands.load(Relaxed),
            failures: counters.failures.load(Relaxed),
            window_messages: self.shared.heads.all().iter().map(|head| head.state().known() as u64).sum(),
            window_bytes: self.shared.heads.memory.used() as u64,
            file_bytes: length(self.folder.database()),
            wal_bytes: length(self.folder.wal()),
        }
    }

    /// Ends all threads: those that read first, so that the writer closes the file as the last.
    fn stopping(&self) -> impl FnOnce() + Send + 'static {
        let readers = [self.states.clone(), self.listings.clone()];
        let orders = self.shared.orders.clone();
        let threads: Vec<_> = self.threads.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect();
        move || {
            readers.iter().for_each(|reader| reader.stop());
            drop(orders.send(Order::Close));
            threads.into_iter().for_each(|thread| drop(thread.join()));
        }
    }

    fn unlock(&self) {
        drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

impl Drop for EmbeddedQueue {
    fn drop(&mut self) {
        self.stopping()();
        self.unlock();
    }
}

/// What is known of a store right after it was opened.
struct Opened {
    heads: Heads,
    numbers: Numbers,
}

impl Opened {
    fn read(connection: &Connection) -> rusqlite::Result<Self> {
        let heads = Heads::default();
        let mut numbers = Numbers { seq: 1, event: 1, queue: 1, commit: 0 };
        let mut statement = connection.prepare(
            "SELECT id, name, max_messages, max_bytes, last_commit, messages, delayed, bytes, dead, finished_bytes
             FROM queue",
        )?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let commit: i64 = row.get(4)?;
            numbers.commit = numbers.commit.max(commit);
            let head = read_head(row, heads.memory.clone())?;
            numbers.queue = numbers.queue.max(head.id + 1);
            heads.insert(head);
        }
        let newest = |table: &str, key: &str| {
            connection
                .query_row(&format!("SELECT coalesce(max({key}), 0) FROM {table}"), [], |row| row.get::<_, i64>(0))
        };
        numbers.seq = newest("message", "seq")? + 1;
        numbers.event = newest("event", "id")? + 1;
        Ok(Self { heads, numbers })
    }
}

fn read_head(row: &rusqlite::Row<'_>, memory: Arc<Memory>) -> rusqlite::Result<Arc<Head>> {
    let name: String = row.get(1)?;
    let name = name
        .parse()
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(1, rusqlite::types::Type::Text, Box::new(error)))?;
    let limit = |index: usize| row.get::<_, i64>(index).map(i64::unsigned_abs);
    let limits = Limits { messages: limit(2)?, bytes: limit(3)? };
    let tally = Tally {
        messages: row.get(5)?,
        delayed: row.get(6)?,
        bytes: row.get(7)?,
        dead: row.get(8)?,
        finished_bytes: row.get(9)?,
    };
    Ok(Head::new(row.get(0)?, name, limits, tally, memory))
}

/// Looks at the files before SQLite does.
fn check_files(folder: &Folder) -> Result<Option<Marked>, QueueError> {
    let marked = mark::read(&folder.mark()).map_err(|error| disk(folder, &error))?;
    let wanted = marked.is_some_and(|marked| marked.commit > 0) || folder.wal().exists();
    if wanted && !folder.database().exists() {
        return Err(QueueError::Unusable(format!(
            "{} is missing, but the files that belong to it are there: restore it, or run `flowline doctor`",
            folder.database().display()
        )));
    }
    let known = marked.and_then(|marked| marked.rolled_back);
    let damage = wal::find_damage(&folder.wal()).map_err(|error| disk(folder, &error))?;
    match damage {
        // A commit failed in this generation: what stands behind it need not mean anything, and
        // the number of the last commit tells whether something is lost.
        Some(_) if known.is_some() && known == mark::read_salts(&folder.wal()) => Ok(marked),
        Some(damage) => Err(QueueError::Unusable(format!(
            "{} is damaged at byte {}; {} frames behind it had been made durable and would be lost. Nothing was \
             changed; run `flowline doctor`",
            folder.wal().display(),
            damage.offset,
            damage.behind
        ))),
        None => Ok(marked),
    }
}

/// Refuses a store that has lost commits.
fn check_mark(folder: &Folder, opened: &Opened, marked: Option<Marked>) -> Result<(), QueueError> {
    let (found, expected) = (opened.numbers.commit, marked.unwrap_or_default().commit);
    if found >= expected {
        return Ok(());
    }
    Err(QueueError::Unusable(format!(
        "{} ends with commit {found}, but commit {expected} had been made durable: a part is lost or was replaced by \
         an older copy. Nothing was changed; run `flowline doctor`",
        folder.database().display()
    )))
}

/// Counts the attempts of messages that were with workers when the process before was killed.
fn count_interrupted(folder: &Folder, connection: &Connection, now: i64) -> Result<(), QueueError> {
    let interrupted = lease_log::read(&folder.leases()).map_err(|error| disk(folder, &error))?;
    if interrupted.is_empty() {
        return Ok(());
    }
    let count = || {
        let transaction = connection.unchecked_transaction()?;
        let mut statement = transaction.prepare(
            "UPDATE waiting SET attempt = attempt + 1, first_failed_at = coalesce(first_failed_at, ?5)
             WHERE queue = ?1 AND due = ?2 AND seq = ?3 AND attempt = ?4",
        )?;
        for lease in &interrupted {
            let position = lease.position;
            statement.execute(params![lease.queue, position.due, position.seq, lease.attempt, now])?;
        }
        drop(statement);
        transaction.commit()
    };
    count().map_err(|error| explain(&folder.database(), &error))
}

/// Starts a new generation of the write-ahead log, so that nothing a crash or a failed commit
/// left in it can be mistaken for damage. When that cannot be done, the mark keeps saying so.
fn tidy(connection: &Connection, folder: &Folder) -> Option<[u8; 8]> {
    let checkpoint = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
    if matches!(checkpoint, Ok(0)) { None } else { mark::read_salts(&folder.wal()) }
}

fn disk(folder: &Folder, error: &std::io::Error) -> QueueError {
    QueueError::Disk(format!("{}: {error}", folder.root.display()))
}
