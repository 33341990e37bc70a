//! What has left the queues: events and messages, read in order or by execution, and forgotten
//! when their time is over.
//!
//! A finished message goes together with the event that told of its end. The newest event and
//! the newest message never go, so that no number is ever given twice.

use flowline_model::{ExecutionId, MessageId, QueueName, Timestamp};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    batch::Batch,
    codec::{EventRow, Stored, kind_of},
    command::Answer,
    heads::{Heads, Tally},
    window::read_stored,
};
use crate::{QueueError, Retention, StoredMessage};

/// So many events are forgotten by one call.
const EVENTS_PER_CALL: i64 = 500;
/// Free pages up to this many stay in the file for what comes next: 16 MiB.
const FREE_PAGES_KEPT: i64 = 4_096;
/// At most so many pages are given back to the file system by one call.
const PAGES_GIVEN_BACK: i64 = 1_024;

const EVENT_COLUMNS: &str =
    "id, execution, queue, message, kind, version, attempt, started_at, ended_at, emitted, outputs, fault";

/// An event as it was read, with its number.
type NumberedRow = (u64, EventRow);

/// At most `max` events after a number, in order.
pub(crate) fn events(
    connection: &Connection,
    heads: &Heads,
    after: u64,
    max: usize,
) -> rusqlite::Result<Vec<NumberedRow>> {
    connection
        .prepare_cached(&format!("SELECT {EVENT_COLUMNS} FROM event WHERE id > ?1 ORDER BY id LIMIT ?2"))?
        .query_map(params![limit(after), limit(max as u64)], |row| read_event(row, heads))?
        .collect()
}

/// The events of one execution, in order.
pub(crate) fn events_of(
    connection: &Connection,
    heads: &Heads,
    execution: ExecutionId,
    max: usize,
) -> rusqlite::Result<Vec<NumberedRow>> {
    connection
        .prepare_cached(&format!("SELECT {EVENT_COLUMNS} FROM event WHERE execution = ?1 ORDER BY id LIMIT ?2"))?
        .query_map(params![execution.as_bytes(), limit(max as u64)], |row| read_event(row, heads))?
        .collect()
}

/// The messages of one execution, in the order they came.
pub(crate) fn messages_of(
    connection: &Connection,
    execution: ExecutionId,
    max: usize,
) -> rusqlite::Result<Vec<(i64, Stored)>> {
    connection
        .prepare_cached(
            "SELECT queue, id, parent, execution, version, enqueued_at, payload FROM message
             WHERE execution = ?1 ORDER BY seq LIMIT ?2",
        )?
        .query_map(params![execution.as_bytes(), limit(max as u64)], |row| Ok((row.get(0)?, read_stored(row, 1)?)))?
        .collect()
}

/// Parses a message of the history.
pub(crate) fn decode_message(heads: &Heads, queue: i64, stored: &Stored) -> Result<StoredMessage, QueueError> {
    Ok(StoredMessage {
        queue: name_of(heads, queue).ok_or_else(|| QueueError::NotFound(format!("queue {queue}")))?,
        message: stored.decode()?,
        enqueued_at: Timestamp::from_millis(stored.enqueued_at),
    })
}

fn name_of(heads: &Heads, queue: i64) -> Option<QueueName> {
    heads.numbered(queue).map(|head| head.name.clone())
}

fn limit(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn read_event(row: &Row<'_>, heads: &Heads) -> rusqlite::Result<NumberedRow> {
    let (queue, kind): (i64, i64) = (row.get(2)?, row.get(4)?);
    let event = EventRow {
        queue: name_of(heads, queue).ok_or(rusqlite::Error::IntegralValueOutOfRange(2, queue))?,
        execution: MessageId::from_bytes(row.get(1)?),
        message: MessageId::from_bytes(row.get(3)?),
        kind: kind_of(kind).ok_or(rusqlite::Error::IntegralValueOutOfRange(4, kind))?,
        version: row.get(5)?,
        attempt: row.get(6)?,
        started_at: row.get(7)?,
        ended_at: row.get(8)?,
        emitted: row.get(9)?,
        outputs: row.get(10)?,
        fault: row.get(11)?,
    };
    Ok((row.get::<_, i64>(0)?.unsigned_abs(), event))
}

/// An event that may be forgotten.
struct Past {
    id: i64,
    seq: Option<i64>,
    ended_at: i64,
}

impl Batch<'_> {
    /// Removes the oldest of what has outlived its retention.
    pub(crate) fn forget(&mut self, retention: &Retention) -> rusqlite::Result<Answer> {
        let finished: i64 = self.heads.all().iter().map(|head| head.state().tally.finished_bytes).sum();
        let mut surplus = finished.saturating_sub(limit(retention.bytes));
        let mut count = 0;
        for past in self.oldest_events(limit(retention.recorded))? {
            if past.ended_at >= retention.before.as_millis() && surplus <= 0 {
                continue;
            }
            if past.seq == Some(self.numbers.seq - 1) {
                continue;
            }
            if let Some(seq) = past.seq {
                surplus -= self.forget_message(seq)?;
            }
            self.connection.prepare_cached("DELETE FROM event WHERE id = ?1")?.execute([past.id])?;
            count += 1;
        }
        Ok(Answer::Count(count))
    }

    fn oldest_events(&self, recorded: i64) -> rusqlite::Result<Vec<Past>> {
        let newest = self.numbers.event - 1;
        self.connection
            .prepare_cached("SELECT id, seq, ended_at FROM event WHERE id <= ?1 ORDER BY id LIMIT ?2")?
            .query_map(params![recorded.min(newest - 1), EVENTS_PER_CALL], |row| {
                Ok(Past { id: row.get(0)?, seq: row.get(1)?, ended_at: row.get(2)? })
            })?
            .collect()
    }

    /// Removes a finished message; returns how many bytes went.
    fn forget_message(&mut self, seq: i64) -> rusqlite::Result<i64> {
        let found = self
            .connection
            .prepare_cached("SELECT queue, length(payload) FROM message WHERE seq = ?1")?
            .query_row([seq], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))
            .optional()?;
        let Some((queue, size)) = found else { return Ok(0) };
        if let Some(head) = self.heads.numbered(queue) {
            self.count(&head, Tally { finished_bytes: -size, ..Tally::default() });
        }
        self.connection.prepare_cached("DELETE FROM message WHERE seq = ?1")?.execute([seq])?;
        Ok(size)
    }
}

/// Gives a bounded number of free pages back to the file system when very many are free.
pub(crate) fn give_back_pages(connection: &Connection) -> rusqlite::Result<()> {
    let free: i64 = connection.pragma_query_value(None, "freelist_count", |row| row.get(0))?;
    let all: i64 = connection.pragma_query_value(None, "page_count", |row| row.get(0))?;
    if free > FREE_PAGES_KEPT && free > all / 4 {
        let mut statement = connection.prepare(&format!("PRAGMA incremental_vacuum({PAGES_GIVEN_BACK})"))?;
        let mut rows = statement.query([])?;
        while rows.next()?.is_some() {}
    }
    Ok(())
}
