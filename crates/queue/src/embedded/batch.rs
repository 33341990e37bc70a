//! One commit: rows written through one transaction, and what memory learns when it succeeded.
//!
//! Nothing in memory changes while the transaction runs; all of it is noted here and applied
//! after the commit, or thrown away with the transaction.

use std::{collections::HashMap, sync::Arc};

use flowline_model::{EventKind, MessageId, QueueName};
use rusqlite::{Connection, OptionalExtension, params};

use super::{
    codec::{Columns, EventRow, Incoming, StateChange, kind_number},
    heads::{Head, Heads, State, Tally},
    lane::{Content, Entry, Position, Row},
};
use crate::{Limits, QueueError};

/// Why a command could not be applied.
pub(crate) enum Failure {
    /// It alone is refused; it has written nothing.
    Refused(QueueError),
    /// The store failed: the whole transaction goes.
    Store(rusqlite::Error),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Failure::Store(error)
    }
}

/// The next numbers to give. They are kept only when the commit succeeds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Numbers {
    pub(crate) seq: i64,
    pub(crate) event: i64,
    pub(crate) queue: i64,
    pub(crate) commit: i64,
}

/// What memory learns about one queue.
enum Effect {
    LeaseOver(u64),
    LeaseGoesOn(u64),
    Waits(Position, Option<Box<Entry>>),
    Returns(Position),
    Left(Position),
    Limits(Limits),
}

struct Change {
    head: Arc<Head>,
    tally: Tally,
    effects: Vec<Effect>,
}

/// One commit in the making.
pub(crate) struct Batch<'a> {
    pub(crate) connection: &'a Connection,
    pub(crate) heads: &'a Heads,
    pub(crate) now: i64,
    pub(crate) numbers: Numbers,
    changes: HashMap<i64, Change>,
    created: HashMap<QueueName, Arc<Head>>,
}

impl<'a> Batch<'a> {
    pub(crate) fn new(connection: &'a Connection, heads: &'a Heads, now: i64, numbers: Numbers) -> Self {
        Self { connection, heads, now, numbers, changes: HashMap::new(), created: HashMap::new() }
    }

    /// A queue that exists, be it only since this commit.
    pub(crate) fn find(&self, name: &QueueName) -> Option<Arc<Head>> {
        self.heads.named(name).or_else(|| self.created.get(name).cloned())
    }

    /// A queue that is made if it does not exist: what was accepted finds a place.
    pub(crate) fn find_or_create(&mut self, name: &QueueName) -> rusqlite::Result<Arc<Head>> {
        match self.find(name) {
            Some(head) => Ok(head),
            None => self.create(name, Limits::default()),
        }
    }

    fn create(&mut self, name: &QueueName, limits: Limits) -> rusqlite::Result<Arc<Head>> {
        let id = self.numbers.queue;
        self.connection
            .prepare_cached("INSERT INTO queue(id, name, max_messages, max_bytes) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![id, name.to_string(), stored_limit(limits.messages), stored_limit(limits.bytes)])?;
        self.numbers.queue += 1;
        let head = Head::new(id, name.clone(), limits, Tally::default(), self.heads.memory.clone());
        self.created.insert(name.clone(), head.clone());
        Ok(head)
    }

    pub(crate) fn declare(&mut self, name: &QueueName, limits: Limits) -> rusqlite::Result<()> {
        let Some(head) = self.find(name) else {
            self.create(name, limits)?;
            return Ok(());
        };
        if head.state().limits != limits {
            self.connection
                .prepare_cached("UPDATE queue SET max_messages = ?2, max_bytes = ?3 WHERE id = ?1")?
                .execute(params![head.id, stored_limit(limits.messages), stored_limit(limits.bytes)])?;
            self.note(&head, Effect::Limits(limits));
        }
        Ok(())
    }

    fn change(&mut self, head: &Arc<Head>) -> &mut Change {
        self.changes.entry(head.id).or_insert_with(|| Change {
            head: head.clone(),
            tally: Tally::default(),
            effects: Vec::new(),
        })
    }

    fn note(&mut self, head: &Arc<Head>, effect: Effect) {
        self.change(head).effects.push(effect);
    }

    /// What this commit adds to a queue's counters so far.
    pub(crate) fn pending(&self, head: &Head) -> Tally {
        self.changes.get(&head.id).map(|change| change.tally).unwrap_or_default()
    }

    pub(crate) fn count(&mut self, head: &Arc<Head>, tally: Tally) {
        self.change(head).tally.add(tally);
    }

    pub(crate) fn lease_over(&mut self, head: &Arc<Head>, token: u64) {
        self.note(head, Effect::LeaseOver(token));
    }

    pub(crate) fn lease_goes_on(&mut self, head: &Arc<Head>, token: u64) {
        self.note(head, Effect::LeaseGoesOn(token));
    }

    pub(crate) fn returns(&mut self, head: &Arc<Head>, position: Position) {
        self.note(head, Effect::Returns(position));
    }

    /// Writes a message and puts it onto its queue; returns its number.
    pub(crate) fn enqueue(&mut self, head: &Arc<Head>, incoming: &mut Incoming) -> rusqlite::Result<i64> {
        let seq = self.insert_message(head, &incoming.columns, &incoming.payload)?;
        let due = incoming.ready_at.filter(|at| *at > self.now).map_or(0, |at| at.max(1));
        let row = Row {
            position: Position { due, seq },
            attempt: 0,
            first_failed_at: None,
            group: incoming.group.as_deref().map(Box::from),
            size: incoming.payload.len() as u64,
            enqueued_at: self.now,
        };
        let content = incoming.fresh.take().filter(|_| due == 0).map(Content::Fresh);
        self.place(head, row, content)?;
        Ok(seq)
    }

    pub(crate) fn insert_message(&mut self, head: &Head, columns: &Columns, payload: &[u8]) -> rusqlite::Result<i64> {
        let seq = self.numbers.seq;
        self.connection
            .prepare_cached(
                "INSERT INTO message(seq, queue, id, parent, execution, version, enqueued_at, payload)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?
            .execute(params![
                seq,
                head.id,
                columns.id.as_bytes(),
                columns.parent.as_ref().map(MessageId::as_bytes),
                columns.execution.as_bytes(),
                columns.version,
                self.now,
                payload
            ])?;
        self.numbers.seq += 1;
        Ok(seq)
    }

    /// Puts a message onto a queue, behind the others of its group if there are any.
    pub(crate) fn place(&mut self, head: &Arc<Head>, row: Row, content: Option<Content>) -> rusqlite::Result<()> {
        let size = signed(row.size);
        self.count(head, Tally { messages: 1, bytes: size, ..Tally::default() });
        if let Some(group) = row.group.as_deref()
            && self.group_waits(head, group)?
        {
            self.connection
                .prepare_cached("INSERT INTO held(queue, grp, seq, due, size) VALUES (?1, ?2, ?3, ?4, ?5)")?
                .execute(params![head.id, group, row.position.seq, row.position.due, size])?;
            return Ok(());
        }
        self.insert_waiting(head, row, content)
    }

    fn group_waits(&self, head: &Head, group: &str) -> rusqlite::Result<bool> {
        self.connection
            .prepare_cached("SELECT 1 FROM waiting WHERE queue = ?1 AND grp = ?2")?
            .exists(params![head.id, group])
    }

    fn insert_waiting(&mut self, head: &Arc<Head>, row: Row, content: Option<Content>) -> rusqlite::Result<()> {
        let position = row.position;
        self.connection
            .prepare_cached(
                "INSERT INTO waiting(queue, due, seq, attempt, first_failed_at, grp, size)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute(params![
                head.id,
                position.due,
                position.seq,
                row.attempt,
                row.first_failed_at,
                row.group,
                signed(row.size)
            ])?;
        if position.is_delayed() {
            self.count(head, Tally { delayed: 1, ..Tally::default() });
        }
        let entry = content.map(|content| Box::new(Entry { row, content }));
        self.note(head, Effect::Waits(position, entry));
        Ok(())
    }

    /// Takes a waiting message off its queue and lets the next of its group follow.
    pub(crate) fn remove(&mut self, head: &Arc<Head>, row: &Row) -> rusqlite::Result<()> {
        self.delete_waiting(head, row.position)?;
        self.count(head, Tally { messages: -1, bytes: -signed(row.size), ..Tally::default() });
        match row.group.as_deref() {
            Some(group) => self.promote(head, group),
            None => Ok(()),
        }
    }

    /// Moves a waiting message to another time; its group stays behind it.
    pub(crate) fn postpone(&mut self, head: &Arc<Head>, row: Row, due: i64) -> rusqlite::Result<()> {
        self.delete_waiting(head, row.position)?;
        let position = Position { due: due.max(1), seq: row.position.seq };
        self.insert_waiting(head, Row { position, ..row }, None)
    }

    fn delete_waiting(&mut self, head: &Arc<Head>, position: Position) -> rusqlite::Result<()> {
        self.connection
            .prepare_cached("DELETE FROM waiting WHERE queue = ?1 AND due = ?2 AND seq = ?3")?
            .execute(params![head.id, position.due, position.seq])?;
        if position.is_delayed() {
            self.count(head, Tally { delayed: -1, ..Tally::default() });
        }
        self.note(head, Effect::Left(position));
        Ok(())
    }

    fn promote(&mut self, head: &Arc<Head>, group: &str) -> rusqlite::Result<()> {
        let next = self
            .connection
            .prepare_cached("SELECT seq, due, size FROM held WHERE queue = ?1 AND grp = ?2 ORDER BY seq LIMIT 1")?
            .query_row(params![head.id, group], |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
            })
            .optional()?;
        let Some((seq, due, size)) = next else { return Ok(()) };
        self.connection
            .prepare_cached("DELETE FROM held WHERE queue = ?1 AND grp = ?2 AND seq = ?3")?
            .execute(params![head.id, group, seq])?;
        let row = Row {
            position: Position { due: if due > self.now { due } else { 0 }, seq },
            attempt: 0,
            first_failed_at: None,
            group: Some(group.into()),
            size: size.unsigned_abs(),
            enqueued_at: 0,
        };
        self.insert_waiting(head, row, None)
    }

    /// Counts one more attempt of a message that stays where it is.
    pub(crate) fn count_attempt(&mut self, head: &Head, position: Position, failed_at: i64) -> rusqlite::Result<()> {
        self.connection
            .prepare_cached(
                "UPDATE waiting SET attempt = attempt + 1, first_failed_at = coalesce(first_failed_at, ?4)
                 WHERE queue = ?1 AND due = ?2 AND seq = ?3",
            )?
            .execute(params![head.id, position.due, position.seq, failed_at])?;
        Ok(())
    }

    /// Writes an event; `seq` names the message that is forgotten with it.
    pub(crate) fn tell(&mut self, event: &EventRow, seq: Option<i64>) -> rusqlite::Result<()> {
        let queue = self.find_or_create(&event.queue)?;
        self.connection
            .prepare_cached(
                "INSERT INTO event(id, execution, queue, message, seq, kind, version, attempt, started_at, ended_at,
                                   emitted, outputs, fault)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
            )?
            .execute(params![
                self.numbers.event,
                event.execution.as_bytes(),
                queue.id,
                event.message.as_bytes(),
                seq,
                kind_number(event.kind),
                event.version,
                event.attempt,
                event.started_at,
                event.ended_at,
                event.emitted,
                event.outputs,
                event.fault
            ])?;
        self.numbers.event += 1;
        Ok(())
    }

    /// Tells what the store itself did with a message.
    pub(crate) fn tell_own(
        &mut self,
        queue: &QueueName,
        columns: Columns,
        kind: EventKind,
        seq: Option<i64>,
    ) -> rusqlite::Result<()> {
        let event = EventRow::told(queue, columns, kind, self.now);
        self.tell(&event, seq)
    }

    pub(crate) fn remember(&mut self, change: &StateChange) -> rusqlite::Result<()> {
        let head = self.find_or_create(&change.queue)?;
        match &change.value {
            Some(value) => self
                .connection
                .prepare_cached("INSERT OR REPLACE INTO state(queue, key, value) VALUES (?1, ?2, ?3)")?
                .execute(params![head.id, change.key, value])?,
            None => self
                .connection
                .prepare_cached("DELETE FROM state WHERE queue = ?1 AND key = ?2")?
                .execute(params![head.id, change.key])?,
        };
        self.count(&head, Tally::default());
        Ok(())
    }

    /// Writes the counters of every queue that changed, stamped with the number of this commit.
    pub(crate) fn write_tallies(&mut self) -> rusqlite::Result<()> {
        let mut statement = self.connection.prepare_cached(
            "UPDATE queue SET last_commit = ?2, messages = messages + ?3, delayed = delayed + ?4, bytes = bytes + ?5,
                              dead = dead + ?6, finished_bytes = finished_bytes + ?7
             WHERE id = ?1",
        )?;
        for (id, Change { tally, .. }) in &self.changes {
            statement.execute(params![
                id,
                self.numbers.commit,
                tally.messages,
                tally.delayed,
                tally.bytes,
                tally.dead,
                tally.finished_bytes
            ])?;
        }
        Ok(())
    }

    /// Whether the commit carries a number: it does when it changes any queue.
    pub(crate) fn is_numbered(&self) -> bool {
        !self.changes.is_empty()
    }

    /// Lets memory know what is durable now, and wakes whoever waits for it.
    pub(crate) fn publish_effects(self) -> Aftermath {
        let mut aftermath = Aftermath { alarm: i64::MAX, ended: Vec::new() };
        for head in self.created.into_values() {
            self.heads.insert(head);
        }
        for Change { head, tally, effects } in self.changes.into_values() {
            let mut arrivals = 0;
            let mut state = head.state();
            state.tally.add(tally);
            for effect in effects {
                arrivals += usize::from(matches!(effect, Effect::Waits(..) | Effect::Returns(_)));
                aftermath.ended.extend(state.learn(effect));
            }
            aftermath.alarm = aftermath.alarm.min(state.alarm());
            drop(state);
            for _ in 0..arrivals.min(64) {
                head.arrived.notify_one();
            }
        }
        aftermath
    }
}

/// What follows from a commit outside the heads.
pub(crate) struct Aftermath {
    /// When the next of the changed queues needs attention by itself.
    pub(crate) alarm: i64,
    /// The messages whose leases are over.
    pub(crate) ended: Vec<i64>,
}

impl State {
    /// Returns the message whose lease is over, if one is.
    fn learn(&mut self, effect: Effect) -> Option<i64> {
        match effect {
            Effect::LeaseOver(token) => return self.leases.remove(&token).map(|leased| leased.row.position.seq),
            Effect::LeaseGoesOn(token) => self.resume_lease(token, None),
            Effect::Waits(position, entry) => self.waits(position, entry.map(|entry| *entry)),
            Effect::Returns(position) => self.returns(position),
            Effect::Left(position) => self.left(position),
            Effect::Limits(limits) => self.limits = limits,
        }
        None
    }

    /// The end of a lease was not carried out: it goes on, and perhaps ends at another time.
    pub(crate) fn resume_lease(&mut self, token: u64, expires_at: Option<i64>) {
        if let Some(leased) = self.leases.get_mut(&token) {
            leased.ending = false;
            leased.expires_at = expires_at.unwrap_or(leased.expires_at);
            self.earliest_expiry = self.earliest_expiry.min(leased.expires_at);
        }
    }
}

fn stored_limit(limit: u64) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

pub(crate) fn signed(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}
