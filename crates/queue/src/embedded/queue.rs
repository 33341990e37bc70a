//! The two traits as the embedded store fulfils them: each call prepares on the caller's side
//! what can be prepared there, and leaves the rest to the store's threads.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use flowline_model::{Delivery, ExecutionId, Fault, QueueName, Settlement, Timestamp, Verdict};
use rusqlite::{OptionalExtension, params};
use serde_json::Value;
use tokio::{
    sync::{OwnedSemaphorePermit, oneshot},
    time::Instant,
};

use super::{
    CAPACITY_KIB, EmbeddedQueue,
    codec::{EventRow, Incoming, StateChange, decode_value, encode_fault},
    command::{Answer, Command, Order, Publish, Settle, Work},
    dead_letters::{self, DeadLetterJob, Verb},
    heads::{Head, Taken, Tally},
    history,
    job::{Clear, Fate, Job},
    lane::{Content, Entry},
};
use crate::{
    DeadLetter, DeadLetterFilter, History, Lease, LeaseRequest, Publication, Published, Queue, QueueDepth, QueueError,
    Replay, Retention, Topology, Trace,
};

/// A queue is near its limit with so many further messages.
const NEAR_MESSAGES: i64 = 1_024;
/// And with so many further bytes.
const NEAR_BYTES: i64 = 16 << 20;

/// The answer to a command that was handed over.
type Pending = oneshot::Receiver<Result<Answer, QueueError>>;

impl EmbeddedQueue {
    fn head(&self, name: &QueueName) -> Result<Arc<Head>, QueueError> {
        self.shared.heads.named(name).ok_or_else(|| QueueError::Unknown(name.clone()))
    }

    async fn depth_of(&self, head: &Arc<Head>) -> Result<QueueDepth, QueueError> {
        let (mut depth, unread) = depth(head);
        if unread {
            depth.oldest = depth.oldest.into_iter().chain(self.oldest_on_disk(head).await?).min();
        }
        Ok(depth)
    }

    fn send(&self, order: Order) -> Result<(), QueueError> {
        self.shared.orders.send(order).map_err(|_| QueueError::Closed)
    }

    /// Asks the writer for something once there is room before it.
    async fn command(&self, work: Work) -> Result<Answer, QueueError> {
        let permit = self.room_for(work.weight()).await?;
        self.hand_over(work, permit)?.await.map_err(|_| QueueError::Closed)?
    }

    async fn room_for(&self, bytes: usize) -> Result<OwnedSemaphorePermit, QueueError> {
        let kib = u32::try_from(bytes / 1024 + 1).unwrap_or(u32::MAX).min(CAPACITY_KIB);
        self.shared.capacity.clone().acquire_many_owned(kib).await.map_err(|_| QueueError::Closed)
    }

    /// Once it is handed over, it is done even if the caller goes away.
    fn hand_over(&self, work: Work, permit: OwnedSemaphorePermit) -> Result<Pending, QueueError> {
        let (reply, answer) = oneshot::channel();
        self.send(Order::Write(Command { work, reply: Some(reply), permit: Some(permit) }))?;
        Ok(answer)
    }

    async fn count(&self, work: Work) -> Result<u64, QueueError> {
        match self.command(work).await? {
            Answer::Count(count) => Ok(count),
            Answer::Done | Answer::Published(_) | Answer::More => Ok(0),
        }
    }

    /// Whether a queue reaches a limit with so much more.
    fn would_be_full(&self, queue: &QueueName, more: Tally) -> bool {
        let head = self.shared.heads.named(queue);
        head.is_some_and(|head| head.state().limit_reached(more, 0, 0).is_some())
    }

    /// Takes messages without waiting for any to arrive.
    async fn take(&self, head: &Arc<Head>, request: &LeaseRequest) -> Result<Vec<Lease>, QueueError> {
        loop {
            let now = self.shared.now();
            let taken = head.state().take(request, now, || self.shared.token());
            match taken {
                Taken::Nothing => return Ok(Vec::new()),
                Taken::Unread => self.read_now(head).await?,
                Taken::Messages { messages, read_ahead } => {
                    self.note_leases(head, &messages, now);
                    if read_ahead {
                        head.state().reading = true;
                        self.send(Order::Read { head: head.clone(), reply: None })?;
                    }
                    return decode(head, messages);
                }
            }
        }
    }

    async fn read_now(&self, head: &Arc<Head>) -> Result<(), QueueError> {
        let (reply, done) = oneshot::channel();
        self.send(Order::Read { head: head.clone(), reply: Some(reply) })?;
        done.await.map_err(|_| QueueError::Closed)?
    }

    /// Writes down who has what, and sees to it that the writer wakes when the leases end.
    fn note_leases(&self, head: &Arc<Head>, messages: &[(u64, Entry)], now: i64) {
        self.shared.leases.began(head.id, messages.iter().map(|(_, entry)| &entry.row));
        let (ends, more) = {
            let state = head.state();
            (state.earliest_expiry, state.is_deliverable(now))
        };
        let planned = self.shared.wake_by(ends);
        let sleeps_past =
            Duration::from_millis(ends.saturating_sub(now).max(0).unsigned_abs()) < self.shared.longest_sleep;
        if planned > ends && sleeps_past {
            drop(self.send(Order::Wake));
        }
        if more {
            head.arrived.notify_one();
        }
    }
}

/// Parses what was read and pairs every message with its lease.
fn decode(head: &Head, messages: Vec<(u64, Entry)>) -> Result<Vec<Lease>, QueueError> {
    let mut leases = Vec::with_capacity(messages.len());
    let mut unreadable = None;
    for (token, Entry { row, content }) in messages {
        let message = match content {
            Content::Fresh(message) => *message,
            Content::Stored(stored) => match stored.decode() {
                Ok(message) => message,
                Err(error) => {
                    tracing::error!(%error, queue = %head.name, "a message cannot be delivered");
                    unreadable = Some(error);
                    continue;
                }
            },
        };
        let delivery = Delivery {
            queue: head.name.clone(),
            message,
            attempt: row.attempt + 1,
            enqueued_at: Timestamp::from_millis(row.enqueued_at),
            first_failed_at: row.first_failed_at.map(Timestamp::from_millis),
            group: row.group.map(String::from),
        };
        leases.push(Lease { token, delivery, bytes: usize::try_from(row.size).unwrap_or(usize::MAX) });
    }
    match unreadable {
        Some(error) if leases.is_empty() => Err(error),
        _ => Ok(leases),
    }
}

fn encode_all<T, U>(all: Vec<T>, encode: impl Fn(T) -> Result<U, QueueError>) -> Result<Vec<U>, QueueError> {
    all.into_iter().map(encode).collect()
}

fn ended(lease: &Lease) -> QueueError {
    QueueError::LeaseEnded(lease.delivery.message.id)
}

#[async_trait]
impl Queue for EmbeddedQueue {
    async fn declare(&self, topology: &Topology) -> Result<(), QueueError> {
        self.command(Work::Declare(topology.queues.clone())).await.map(drop)
    }

    async fn publish(&self, publication: Publication) -> Result<Published, QueueError> {
        let publish = Publish {
            messages: encode_all(publication.messages, Incoming::encode)?,
            state: encode_all(publication.state, StateChange::encode)?,
            events: encode_all(publication.events, EventRow::encode)?,
            once: publication.once,
        };
        match self.command(Work::Publish(publish)).await? {
            Answer::Published(published) => Ok(published),
            Answer::Done | Answer::Count(_) | Answer::More => Ok(Published::Accepted),
        }
    }

    async fn lease(&self, queue: &QueueName, request: LeaseRequest) -> Result<Vec<Lease>, QueueError> {
        let head = self.head(queue)?;
        let deadline = Instant::now().checked_add(request.wait);
        loop {
            let mut arrival = std::pin::pin!(head.arrived.notified());
            arrival.as_mut().enable();
            let leases = self.take(&head, &request).await?;
            if !leases.is_empty() || request.messages == 0 || request.wait.is_zero() {
                return Ok(leases);
            }
            match deadline {
                Some(deadline) if tokio::time::timeout_at(deadline, arrival.as_mut()).await.is_err() => {
                    return Ok(Vec::new());
                }
                Some(_) => {}
                None => arrival.await,
            }
        }
    }

    async fn renew(&self, lease: &Lease, duration: Duration) -> Result<(), QueueError> {
        let head = self.head(&lease.delivery.queue)?;
        let now = self.shared.now();
        let millis = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        let until = now.saturating_add(millis);
        head.state().renew(lease.token, now, until).ok_or_else(|| ended(lease))?;
        self.shared.wake_by(until);
        Ok(())
    }

    async fn settle(&self, lease: &Lease, settlement: Settlement) -> Result<(), QueueError> {
        let head = self.head(&lease.delivery.queue)?;
        let fault = match &settlement.verdict {
            Verdict::DeadLetter { fault } => Some(encode_fault(fault)?),
            _ => None,
        };
        let emits = encode_all(settlement.emits, Incoming::encode)?;
        let state = encode_all(settlement.state, StateChange::encode)?;
        let events = encode_all(settlement.events, EventRow::encode)?;
        let bytes: usize = emits.iter().map(|emit| emit.payload.len() + 256).sum();
        let permit = self.room_for(bytes).await?;
        // From here on nothing waits until it is handed over: the lease cannot end in between.
        let (token, now) = (lease.token, self.shared.now());
        let leased = head.state().begin_settling(token, now).ok_or_else(|| ended(lease))?;
        let verdict = settlement.verdict;
        let settle = Settle { head, token, leased, verdict, fault, emits, state, events };
        self.hand_over(Work::Settle(Box::new(settle)), permit)?.await.map_err(|_| QueueError::Closed)?.map(drop)
    }

    fn is_full(&self, queue: &QueueName) -> bool {
        self.would_be_full(queue, Tally::default())
    }

    fn is_nearly_full(&self, queue: &QueueName) -> bool {
        self.would_be_full(queue, Tally { messages: NEAR_MESSAGES, bytes: NEAR_BYTES, ..Tally::default() })
    }

    async fn depths(&self) -> Result<Vec<QueueDepth>, QueueError> {
        let mut depths = Vec::new();
        for head in self.shared.heads.all() {
            depths.push(self.depth_of(&head).await?);
        }
        Ok(depths)
    }

    async fn depth(&self, queue: &QueueName) -> Result<Option<QueueDepth>, QueueError> {
        match self.shared.heads.named(queue) {
            Some(head) => self.depth_of(&head).await.map(Some),
            None => Ok(None),
        }
    }

    async fn discard(&self, queue: &QueueName) -> Result<u64, QueueError> {
        let clear = Clear::new(self.head(queue)?, Fate::Discarded);
        self.count(Work::Job(Box::new(Job::Clear(clear)))).await
    }

    async fn dead_letter_all(&self, queue: &QueueName, fault: Fault) -> Result<u64, QueueError> {
        let fate = Fate::Dead { fault: encode_fault(&fault)?, code: fault.code };
        let clear = Clear::new(self.head(queue)?, fate);
        self.count(Work::Job(Box::new(Job::Clear(clear)))).await
    }

    async fn state(&self, queue: &QueueName, key: &str) -> Result<Option<Value>, QueueError> {
        let (id, key) = (self.head(queue)?.id, key.to_owned());
        let query = move |connection: &rusqlite::Connection| {
            connection
                .prepare_cached("SELECT value FROM state WHERE queue = ?1 AND key = ?2")?
                .query_row(params![id, key], |row| row.get::<_, String>(0))
                .optional()
        };
        self.states.read(query).await?.as_deref().map(decode_value).transpose()
    }

    async fn states(
        &self,
        queue: &QueueName,
        prefix: &str,
        after: &str,
        max: usize,
    ) -> Result<Vec<(String, Value)>, QueueError> {
        let id = self.head(queue)?.id;
        let (prefix, after, max) = (prefix.to_owned(), after.to_owned(), i64::try_from(max).unwrap_or(i64::MAX));
        let query = move |connection: &rusqlite::Connection| {
            connection
                .prepare_cached(
                    "SELECT key, value FROM state WHERE queue = ?1 AND key > ?2 AND key >= ?3
                     AND substr(key, 1, length(?3)) = ?3 ORDER BY key LIMIT ?4",
                )?
                .query_map(params![id, after, prefix, max], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<rusqlite::Result<Vec<(String, String)>>>()
        };
        let found = self.states.read(query).await?;
        found.into_iter().map(|(key, value)| Ok((key, decode_value(&value)?))).collect()
    }

    async fn dead_letters(&self, filter: &DeadLetterFilter, max: usize) -> Result<Vec<DeadLetter>, QueueError> {
        let (shared, filter) = (self.shared.clone(), filter.clone());
        let query =
            move |connection: &rusqlite::Connection| dead_letters::list(connection, &shared.heads, &filter, max);
        let found = self.listings.read(query).await?;
        found.into_iter().map(|letter| letter.decode(&self.shared.heads)).collect()
    }

    async fn replay(&self, filter: &DeadLetterFilter, replay: &Replay) -> Result<u64, QueueError> {
        let job = DeadLetterJob::new(filter.clone(), Verb::Replayed(replay.clone()));
        self.count(Work::Job(Box::new(Job::DeadLetters(job)))).await
    }

    async fn discard_dead_letters(&self, filter: &DeadLetterFilter) -> Result<u64, QueueError> {
        let job = DeadLetterJob::new(filter.clone(), Verb::Discarded);
        self.count(Work::Job(Box::new(Job::DeadLetters(job)))).await
    }
}

impl EmbeddedQueue {
    /// When the first ready message came that is not known in memory.
    async fn oldest_on_disk(&self, head: &Head) -> Result<Option<Timestamp>, QueueError> {
        let id = head.id;
        let query = move |connection: &rusqlite::Connection| {
            connection
                .prepare_cached(
                    "SELECT message.enqueued_at FROM waiting JOIN message USING (seq)
                     WHERE waiting.queue = ?1 AND waiting.due = 0 ORDER BY waiting.seq LIMIT 1",
                )?
                .query_row([id], |row| row.get(0))
                .optional()
        };
        Ok(self.states.read(query).await?.map(Timestamp::from_millis))
    }
}

/// What memory knows of a queue, and whether older messages may stand on disk.
fn depth(head: &Head) -> (QueueDepth, bool) {
    let state = head.state();
    let tally = state.tally;
    let leased = state.leases.len() as u64;
    let delayed = (tally.delayed - state.ripe).max(0).unsigned_abs();
    let waiting = tally.messages.max(0).unsigned_abs();
    let depth = QueueDepth {
        queue: head.name.clone(),
        ready: waiting.saturating_sub(delayed).saturating_sub(leased),
        leased,
        delayed,
        dead: tally.dead.max(0).unsigned_abs(),
        bytes: tally.bytes.max(0).unsigned_abs(),
        oldest: state.oldest_known().map(Timestamp::from_millis),
    };
    let lane = state.lane(false);
    let unread = lane.first().is_none() && lane.next.is_some();
    (depth, unread)
}

#[async_trait]
impl History for EmbeddedQueue {
    async fn events(&self, after: u64, max: usize) -> Result<Vec<(u64, flowline_model::Event)>, QueueError> {
        let shared = self.shared.clone();
        let query = move |connection: &rusqlite::Connection| history::events(connection, &shared.heads, after, max);
        let rows = self.listings.read(query).await?;
        rows.into_iter().map(|(id, row)| Ok((id, row.decode()?))).collect()
    }

    async fn trace(&self, execution: ExecutionId, max: usize) -> Result<Trace, QueueError> {
        let shared = self.shared.clone();
        let query = move |connection: &rusqlite::Connection| {
            let events = history::events_of(connection, &shared.heads, execution, max)?;
            Ok((events, history::messages_of(connection, execution, max)?))
        };
        let (events, messages) = self.listings.read(query).await?;
        let message = |(queue, stored): &(i64, _)| history::decode_message(&self.shared.heads, *queue, stored);
        Ok(Trace {
            events: events.into_iter().map(|(_, row)| row.decode()).collect::<Result<_, _>>()?,
            messages: messages.iter().map(message).collect::<Result<_, _>>()?,
        })
    }

    async fn forget(&self, retention: Retention) -> Result<u64, QueueError> {
        self.count(Work::Forget(retention)).await
    }
}
