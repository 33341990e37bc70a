//! What one delivery has brought so far, gathered until its worker acknowledges it.
//!
//! Memory is bounded: emits beyond the limit go to a spool, of errors the first is kept, of
//! snapshots what they come to.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use flowline_model::{Fault, MessageId, QueueName, Reply};
use serde_json::{Map, Value};
use tokio::sync::Notify;

use crate::{
    spool::{Spool, SpoolError, Spools},
    stored::Stored,
};

/// Bytes of state that one delivery may change.
const LARGEST_STATE: usize = 64 << 20;

/// One thing that a worker published, understood.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Published {
    /// For the next steps; about so many bytes.
    Data(Box<Stored>, usize),
    /// Something went wrong.
    Failure(Failure),
    /// The answer to the webhook's caller.
    Reply(Reply),
    /// The answer to the webhook's caller, if nothing better comes.
    ErrorReply(Reply),
    /// The message is to come again.
    Rebound { reason: String, after: Duration },
    /// The snapshot as a whole.
    Snapshot(Value),
    /// Parts of the snapshot.
    UpdateSnapshot(Map<String, Value>),
    /// What the step remembers, by key; about so many bytes.
    State(Vec<(String, Option<Value>)>, usize),
}

/// What a worker says went wrong.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Failure {
    /// For people.
    pub(crate) text: String,
    /// What it is, if the worker knows our words for it.
    pub(crate) fault: Option<Fault>,
}

/// Bytes of emits in memory, of all deliveries together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gauge {
    now: Arc<AtomicU64>,
    peak: Arc<AtomicU64>,
}

impl Gauge {
    fn set(&self, before: usize, after: usize) {
        if after >= before {
            let now = self.now.fetch_add((after - before) as u64, Ordering::AcqRel) + (after - before) as u64;
            self.peak.fetch_max(now, Ordering::AcqRel);
        } else {
            self.now.fetch_sub((before - after) as u64, Ordering::AcqRel);
        }
    }

    /// Now, and at most so far.
    pub(crate) fn read(&self) -> (u64, u64) {
        (self.now.load(Ordering::Acquire), self.peak.load(Ordering::Acquire))
    }
}

/// Why something cannot be taken now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotTaken {
    #[error(transparent)]
    Spool(#[from] SpoolError),
    #[error("one message may not change more than {LARGEST_STATE} bytes of state")]
    State,
}

/// What one delivery has brought so far.
pub(crate) struct Gathered {
    pub(crate) emits: Vec<Stored>,
    pub(crate) spool: Option<Spool>,
    pub(crate) failure: Option<Failure>,
    pub(crate) rebound: Option<(String, Duration)>,
    pub(crate) reply: Option<Reply>,
    pub(crate) error_reply: Option<Reply>,
    snapshot: Option<Value>,
    update: Map<String, Value>,
    state: BTreeMap<String, Option<Value>>,
    state_bytes: usize,
    bytes: usize,
    counted: usize,
    gauge: Gauge,
    most: (usize, usize),
    failed: Arc<Notify>,
}

impl Gathered {
    /// Nothing yet; `most` emits and bytes stay in memory.
    pub(crate) fn new(gauge: Gauge, most: (usize, usize)) -> Self {
        Self {
            emits: Vec::new(),
            spool: None,
            failure: None,
            rebound: None,
            reply: None,
            error_reply: None,
            snapshot: None,
            update: Map::new(),
            state: BTreeMap::new(),
            state_bytes: 0,
            bytes: 0,
            counted: 0,
            gauge,
            most,
            failed: Arc::default(),
        }
    }

    /// Told when a failure comes.
    pub(crate) fn failed(&self) -> Arc<Notify> {
        Arc::clone(&self.failed)
    }

    /// Takes what was published; on an error nothing was taken.
    pub(crate) async fn take(
        &mut self,
        published: Published,
        spools: &Spools,
        queue: &QueueName,
        message: MessageId,
    ) -> Result<(), NotTaken> {
        match published {
            Published::Data(emit, bytes) => self.emit(*emit, bytes, spools, queue, message).await?,
            Published::Failure(failure) => {
                self.failure.get_or_insert(failure);
                self.failed.notify_one();
            }
            Published::Reply(reply) => {
                self.reply.get_or_insert(reply);
            }
            Published::ErrorReply(reply) => {
                self.error_reply.get_or_insert(reply);
            }
            Published::Rebound { reason, after } => self.rebound = Some((reason, after)),
            Published::Snapshot(snapshot) => {
                self.snapshot = Some(snapshot);
                self.update.clear();
            }
            Published::UpdateSnapshot(update) => match &mut self.snapshot {
                Some(Value::Object(snapshot)) => snapshot.extend(update),
                _ => self.update.extend(update),
            },
            Published::State(entries, bytes) => {
                if self.state_bytes + bytes > LARGEST_STATE {
                    return Err(NotTaken::State);
                }
                self.state_bytes += bytes;
                self.state.extend(entries);
            }
        }
        Ok(())
    }

    async fn emit(
        &mut self,
        emit: Stored,
        bytes: usize,
        spools: &Spools,
        queue: &QueueName,
        message: MessageId,
    ) -> Result<(), NotTaken> {
        let fits = self.emits.len() < self.most.0 && self.bytes + bytes <= self.most.1;
        if self.spool.is_none() && (fits || self.emits.is_empty()) {
            self.emits.push(emit);
            self.bytes += bytes;
            self.count();
            return Ok(());
        }
        self.spill(spools, queue, message).await?;
        if let Some(spool) = &mut self.spool {
            spool.add(&emit).await?;
        }
        self.count();
        Ok(())
    }

    /// Moves what is in memory to a spool.
    pub(crate) async fn spill(
        &mut self,
        spools: &Spools,
        queue: &QueueName,
        message: MessageId,
    ) -> Result<(), SpoolError> {
        if self.spool.is_none() {
            let mut spool = spools.begin(queue, message).await?;
            for emit in &self.emits {
                spool.add(emit).await?;
            }
            self.spool = Some(spool);
            self.emits = Vec::new();
            self.bytes = 0;
            self.count();
        }
        Ok(())
    }

    fn count(&mut self) {
        let now = self.bytes + self.spool.as_ref().map_or(0, Spool::in_memory);
        self.gauge.set(self.counted, now);
        self.counted = now;
    }

    /// Whether anything was emitted.
    pub(crate) fn has_emits(&self) -> bool {
        self.spool.is_some() || !self.emits.is_empty()
    }

    /// Whether the snapshot as it was is needed to know the new one.
    pub(crate) fn updates_snapshot(&self) -> bool {
        !self.update.is_empty()
    }

    /// Changes to what the step remembers; `before` is the snapshot as it was.
    pub(crate) fn state(&mut self, before: Option<Value>) -> Vec<(String, Option<Value>)> {
        let mut state: Vec<_> = std::mem::take(&mut self.state).into_iter().collect();
        let update = std::mem::take(&mut self.update);
        let snapshot = match (self.snapshot.take().or(before), update) {
            (snapshot, update) if update.is_empty() => {
                snapshot.filter(|_| state.iter().all(|(key, _)| key != SNAPSHOT))
            }
            (Some(Value::Object(mut snapshot)), update) => {
                snapshot.extend(update);
                Some(Value::Object(snapshot))
            }
            (_, update) => Some(Value::Object(update)),
        };
        state.extend(snapshot.map(|snapshot| (SNAPSHOT.to_owned(), Some(snapshot))));
        state
    }
}

/// Under which key a step remembers its snapshot.
pub(crate) const SNAPSHOT: &str = "snapshot";

impl Drop for Gathered {
    fn drop(&mut self) {
        self.gauge.set(self.counted, 0);
    }
}
