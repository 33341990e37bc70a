//! The heads of the queues: counters, leases and the first messages of each, in memory.
//!
//! The file is the truth; a head only ever says less than the file, never something else. Only
//! the writer thread adds to a head or ends a lease; callers take messages and renew leases.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use flowline_model::{MessageId, QueueName};
use tokio::sync::Notify;

use super::lane::{Entry, Lane, Position, Row};
use crate::{LeaseRequest, Limits};

/// How much of one queue is kept in memory at most.
pub(crate) const WINDOW_MESSAGES: usize = 512;
/// About how many bytes of memory the known part of one queue takes at most.
pub(crate) const WINDOW_BYTES: usize = 1 << 20;
/// About how many bytes of memory the known parts of all queues take at most.
pub(crate) const ALL_WINDOWS_BYTES: usize = 32 << 20;
/// Below this many known messages the next ones are read ahead.
const READ_AHEAD: usize = WINDOW_MESSAGES / 4;

/// What one queue holds, as the store counts it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Ready, leased, delayed, or held behind another of its group.
    pub(crate) messages: i64,
    /// Those of them that have a time.
    pub(crate) delayed: i64,
    /// Bytes of all messages, the dead included.
    pub(crate) bytes: i64,
    pub(crate) dead: i64,
    /// Bytes of messages that have left the queue and are remembered.
    pub(crate) finished_bytes: i64,
}

impl Tally {
    pub(crate) fn add(&mut self, other: Tally) {
        self.messages += other.messages;
        self.delayed += other.delayed;
        self.bytes += other.bytes;
        self.dead += other.dead;
        self.finished_bytes += other.finished_bytes;
    }
}

/// A message with a worker.
#[derive(Debug, Clone)]
pub(crate) struct Leased {
    pub(crate) row: Row,
    pub(crate) message: MessageId,
    pub(crate) expires_at: i64,
    /// Its end is with the writer: nobody else may end or renew it.
    pub(crate) ending: bool,
}

/// One queue in memory.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) id: i64,
    pub(crate) name: QueueName,
    pub(crate) arrived: Notify,
    state: Mutex<State>,
}

impl Head {
    pub(crate) fn new(id: i64, name: QueueName, limits: Limits, tally: Tally, memory: Arc<Memory>) -> Arc<Self> {
        let state = State {
            limits,
            tally,
            ripe: 0,
            ripened_until: 0,
            next_ripe: (tally.delayed > 0).then_some(1),
            ready: Lane::ready(tally.messages > 0),
            delayed: Lane::delayed(tally.delayed > 0),
            leases: HashMap::new(),
            away: HashSet::new(),
            earliest_expiry: i64::MAX,
            reading: false,
            used: true,
            memory,
        };
        Arc::new(Self { id, name, arrived: Notify::new(), state: Mutex::new(state) })
    }

    /// The state, for a moment: never held over an await or a disk access.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The memory that all windows take together.
#[derive(Debug, Default)]
pub(crate) struct Memory(AtomicUsize);

impl Memory {
    pub(crate) fn used(&self) -> usize {
        self.0.load(Relaxed)
    }
}

/// What is known of one queue.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) limits: Limits,
    pub(crate) tally: Tally,
    /// How many of the delayed are due, counted up to `ripened_until`.
    pub(crate) ripe: i64,
    pub(crate) ripened_until: i64,
    /// At the earliest when the next delayed message is due.
    pub(crate) next_ripe: Option<i64>,
    ready: Lane,
    delayed: Lane,
    pub(crate) leases: HashMap<u64, Leased>,
    /// Messages that are leased or in the hands of the writer.
    away: HashSet<i64>,
    pub(crate) earliest_expiry: i64,
    /// The writer has been asked to read further messages.
    pub(crate) reading: bool,
    /// Something was taken since the memory was last looked through.
    pub(crate) used: bool,
    memory: Arc<Memory>,
}

/// What a worker gets when it asks.
pub(crate) enum Taken {
    /// Messages with their tokens; `read_ahead` says that more should be read.
    Messages { messages: Vec<(u64, Entry)>, read_ahead: bool },
    /// There are messages, but the writer must read them first.
    Unread,
    /// There is nothing to deliver.
    Nothing,
}

enum Next {
    Delayed,
    Ready,
    Unread,
    Nothing,
}

impl State {
    /// Leases what is first in line.
    pub(crate) fn take(&mut self, request: &LeaseRequest, now: i64, token: impl Fn() -> u64) -> Taken {
        self.used = true;
        let (mut messages, mut bytes) = (Vec::new(), 0);
        while messages.len() < request.messages && (messages.is_empty() || bytes < request.bytes) {
            let taken = match self.next(now) {
                Next::Delayed => self.change_lane(true, Lane::take_first),
                Next::Ready => self.change_lane(false, Lane::take_first),
                Next::Unread if messages.is_empty() => return Taken::Unread,
                Next::Unread | Next::Nothing => None,
            };
            let Some(entry) = taken else { break };
            bytes += usize::try_from(entry.row.size).unwrap_or(usize::MAX);
            let token = token();
            self.lease(token, &entry, now, request);
            messages.push((token, entry));
        }
        if messages.is_empty() {
            return Taken::Nothing;
        }
        Taken::Messages { messages, read_ahead: self.wants_reading(now) }
    }

    fn next(&self, now: i64) -> Next {
        if self.delayed.first().is_some() {
            Next::Delayed
        } else if self.delayed.is_unread(now) {
            Next::Unread
        } else if self.ready.first().is_some() {
            Next::Ready
        } else if self.ready.is_unread(now) {
            Next::Unread
        } else {
            Next::Nothing
        }
    }

    fn lease(&mut self, token: u64, entry: &Entry, now: i64, request: &LeaseRequest) {
        let millis = i64::try_from(request.duration.as_millis()).unwrap_or(i64::MAX);
        let expires_at = now.saturating_add(millis);
        let message = match &entry.content {
            super::lane::Content::Fresh(message) => message.id,
            super::lane::Content::Stored(stored) => stored.columns.id,
        };
        self.away.insert(entry.row.position.seq);
        self.leases.insert(token, Leased { row: entry.row.clone(), message, expires_at, ending: false });
        self.earliest_expiry = self.earliest_expiry.min(expires_at);
    }

    /// Whether the writer should be asked to read on, so that nobody has to wait for it.
    fn wants_reading(&self, now: i64) -> bool {
        let lane = |lane: &Lane| lane.is_unread(now) && lane.len() < READ_AHEAD;
        !self.reading && (lane(&self.ready) || lane(&self.delayed))
    }

    /// Whether something could be delivered now.
    pub(crate) fn is_deliverable(&self, now: i64) -> bool {
        !matches!(self.next(now), Next::Nothing)
    }

    /// Whether a message stands in memory or is away, so that it must not be read again.
    pub(crate) fn knows(&self, position: Position) -> bool {
        self.away.contains(&position.seq) || self.lane(position.is_delayed()).contains(position)
    }

    pub(crate) fn lane(&self, delayed: bool) -> &Lane {
        if delayed { &self.delayed } else { &self.ready }
    }

    /// Changes a lane and keeps the account of the memory that all of them take.
    pub(crate) fn change_lane<T>(&mut self, delayed: bool, change: impl FnOnce(&mut Lane) -> T) -> T {
        let lane = if delayed { &mut self.delayed } else { &mut self.ready };
        let before = lane.weight;
        let result = change(lane);
        match lane.weight.checked_sub(before) {
            Some(more) => self.memory.0.fetch_add(more, Relaxed),
            None => self.memory.0.fetch_sub(before - lane.weight, Relaxed),
        };
        result
    }

    /// Whether another message may be kept in memory.
    pub(crate) fn has_room(&self) -> bool {
        self.ready.len() + self.delayed.len() < WINDOW_MESSAGES
            && self.weight() < WINDOW_BYTES
            && self.memory.used() < ALL_WINDOWS_BYTES
    }

    pub(crate) fn weight(&self) -> usize {
        self.ready.weight + self.delayed.weight
    }

    pub(crate) fn known(&self) -> usize {
        self.ready.len() + self.delayed.len()
    }

    /// A message has come to wait at a position. It is kept in memory if it was handed over,
    /// nothing before it is still to be read, and there is room.
    pub(crate) fn waits(&mut self, position: Position, entry: Option<Entry>) {
        if position.is_delayed() {
            if position.due <= self.ripened_until {
                self.ripe += 1;
            } else {
                self.next_ripe = Some(self.next_ripe.map_or(position.due, |next| next.min(position.due)));
            }
        }
        self.away.remove(&position.seq);
        let room = self.has_room();
        self.change_lane(position.is_delayed(), |lane| match entry {
            Some(entry) if room && lane.next.is_none() && !position.is_delayed() && position > lane.cursor => {
                lane.cursor = position;
                lane.insert(entry);
            }
            _ => lane.stands_on_disk(position),
        });
    }

    /// A leased or claimed message stands where it stood before.
    pub(crate) fn returns(&mut self, position: Position) {
        self.away.remove(&position.seq);
        self.change_lane(position.is_delayed(), |lane| lane.stands_on_disk(position));
    }

    /// A waiting message's row is gone.
    pub(crate) fn left(&mut self, position: Position) {
        if position.is_delayed() && position.due <= self.ripened_until {
            self.ripe -= 1;
        }
        self.away.remove(&position.seq);
        self.change_lane(position.is_delayed(), |lane| lane.remove(position));
    }

    /// Takes a message out of everybody's reach, unless somebody has it already.
    pub(crate) fn claim(&mut self, position: Position) -> bool {
        let claimed = self.away.insert(position.seq);
        if claimed {
            self.change_lane(position.is_delayed(), |lane| lane.remove(position));
        }
        claimed
    }

    /// Gives up the memory of this queue's messages.
    pub(crate) fn forget_windows(&mut self) {
        self.change_lane(false, Lane::forget);
        self.change_lane(true, Lane::forget);
    }

    /// Takes the leases whose time is up; they are the writer's to end from now on.
    pub(crate) fn take_expired(&mut self, now: i64) -> Vec<(u64, Leased)> {
        let mut expired = Vec::new();
        self.earliest_expiry = i64::MAX;
        for (token, leased) in self.leases.iter_mut().filter(|(_, leased)| !leased.ending) {
            if leased.expires_at <= now {
                leased.ending = true;
                expired.push((*token, leased.clone()));
            } else {
                self.earliest_expiry = self.earliest_expiry.min(leased.expires_at);
            }
        }
        expired
    }

    /// Hands a lease to the writer, to be settled; none if it has ended.
    pub(crate) fn begin_settling(&mut self, token: u64, now: i64) -> Option<Leased> {
        let leased = self.leases.get_mut(&token).filter(|leased| !leased.ending && leased.expires_at > now)?;
        leased.ending = true;
        Some(leased.clone())
    }

    /// Lets a lease last until an instant; none if it has ended.
    pub(crate) fn renew(&mut self, token: u64, now: i64, until: i64) -> Option<()> {
        let leased = self.leases.get_mut(&token).filter(|leased| !leased.ending && leased.expires_at > now)?;
        leased.expires_at = until;
        self.earliest_expiry = self.earliest_expiry.min(until);
        Some(())
    }

    /// When something happens here by itself: a lease ends, or a delay is over.
    pub(crate) fn alarm(&self) -> i64 {
        self.earliest_expiry.min(self.next_ripe.unwrap_or(i64::MAX))
    }

    pub(crate) fn oldest_known(&self) -> Option<i64> {
        let firsts = [&self.ready, &self.delayed].into_iter().filter_map(|lane| lane.first());
        let leased = self.leases.values().map(|leased| leased.row.enqueued_at);
        firsts.map(|entry| entry.row.enqueued_at).chain(leased).min()
    }

    /// Why nothing more may be published here; `more` is what waits to be committed.
    pub(crate) fn limit_reached(&self, more: Tally, messages: i64, bytes: i64) -> Option<String> {
        let held = self.tally.messages + self.tally.dead + more.messages + more.dead;
        let stored = self.tally.bytes + more.bytes;
        let most = |limit: u64| i64::try_from(limit).unwrap_or(i64::MAX);
        let over = |present: i64, extra: i64, limit: u64| {
            present >= most(limit) || (present > 0 && present.saturating_add(extra) > most(limit))
        };
        if over(held, messages, self.limits.messages) {
            Some(format!("it holds {held} of at most {} messages", self.limits.messages))
        } else if over(stored, bytes, self.limits.bytes) {
            Some(format!("it holds {stored} of at most {} bytes", self.limits.bytes))
        } else {
            None
        }
    }
}

/// All queues, by name and by number.
#[derive(Debug, Default)]
pub(crate) struct Heads {
    all: RwLock<Index>,
    pub(crate) memory: Arc<Memory>,
}

#[derive(Debug, Default)]
struct Index {
    by_name: HashMap<QueueName, Arc<Head>>,
    by_id: HashMap<i64, Arc<Head>>,
}

impl Heads {
    pub(crate) fn insert(&self, head: Arc<Head>) {
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        all.by_id.insert(head.id, head.clone());
        all.by_name.insert(head.name.clone(), head);
    }

    pub(crate) fn named(&self, name: &QueueName) -> Option<Arc<Head>> {
        self.all.read().unwrap_or_else(PoisonError::into_inner).by_name.get(name).cloned()
    }

    pub(crate) fn numbered(&self, id: i64) -> Option<Arc<Head>> {
        self.all.read().unwrap_or_else(PoisonError::into_inner).by_id.get(&id).cloned()
    }

    /// Every queue, by name.
    pub(crate) fn all(&self) -> Vec<Arc<Head>> {
        let mut heads: Vec<_> =
            self.all.read().unwrap_or_else(PoisonError::into_inner).by_id.values().cloned().collect();
        heads.sort_by(|one, other| one.name.cmp(&other.name));
        heads
    }
}
