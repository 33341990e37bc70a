//! Reading waiting messages from the file into the heads, in bounded portions.
//!
//! Runs on the writer thread between commits, so that what it reads is what is durable.

use std::sync::Arc;

use flowline_model::MessageId;
use rusqlite::{Connection, OptionalExtension, params};

use super::{
    codec::{Columns, Stored},
    heads::{ALL_WINDOWS_BYTES, Head, WINDOW_MESSAGES},
    lane::{Content, Entry, Lane, Position, Row},
    schema::explain,
    writer::{PAUSE_AFTER_FAILURE_MS, Writer},
};
use crate::QueueError;

/// At most so many rows are looked at in one go.
const ROWS_PER_READ: usize = WINDOW_MESSAGES * 2;

impl Writer {
    /// Reads the next messages of a queue that are due.
    pub(crate) fn read_window(&mut self, head: &Arc<Head>) -> Result<(), QueueError> {
        let now = self.now();
        self.ripen(head, now);
        if self.shared.heads.memory.used() >= ALL_WINDOWS_BYTES {
            self.forget_idle(head);
        }
        let read = read_lanes(&self.connection, head, now);
        let mut state = head.state();
        state.reading = false;
        let deliverable = state.is_deliverable(now);
        drop(state);
        match read {
            Ok(()) if deliverable => head.arrived.notify_one(),
            Ok(()) => {}
            Err(error) => {
                tracing::error!(%error, queue = %head.name, "waiting messages could not be read");
                return Err(explain(&self.path, &error));
            }
        }
        Ok(())
    }

    /// Counts the delayed messages whose time has come since the last look.
    pub(crate) fn ripen(&mut self, head: &Arc<Head>, now: i64) {
        let (from, next) = {
            let state = head.state();
            (state.ripened_until, state.next_ripe)
        };
        if next.is_none_or(|next| next > now) {
            return;
        }
        match count_ripe(&self.connection, head.id, from, now) {
            Ok((count, next)) => {
                let mut state = head.state();
                state.ripe += count;
                state.ripened_until = now;
                state.next_ripe = next;
                drop(state);
                for _ in 0..count.clamp(0, 64) {
                    head.arrived.notify_one();
                }
            }
            Err(error) => {
                tracing::error!(%error, queue = %head.name, "delayed messages could not be counted");
                head.state().next_ripe = Some(now.saturating_add(PAUSE_AFTER_FAILURE_MS));
            }
        }
    }

    /// Gives up the memory of queues that nobody took from since the last time.
    fn forget_idle(&self, wanted: &Head) {
        for head in self.shared.heads.all() {
            let mut state = head.state();
            if head.id != wanted.id && !std::mem::take(&mut state.used) {
                state.forget_windows();
            }
        }
    }
}

fn count_ripe(connection: &Connection, queue: i64, from: i64, now: i64) -> rusqlite::Result<(i64, Option<i64>)> {
    let count = connection
        .prepare_cached("SELECT count(*) FROM waiting WHERE queue = ?1 AND due > ?2 AND due <= ?3")?
        .query_row(params![queue, from.max(0), now], |row| row.get(0))?;
    let next = connection
        .prepare_cached("SELECT due FROM waiting WHERE queue = ?1 AND due > ?2 ORDER BY due LIMIT 1")?
        .query_row(params![queue, now.max(0)], |row| row.get(0))
        .optional()?;
    Ok((count, next))
}

/// Reads both lanes as one transaction: each of its own would lock and unlock the file.
fn read_lanes(connection: &Connection, head: &Head, now: i64) -> rusqlite::Result<()> {
    let transaction = connection.unchecked_transaction()?;
    [true, false].into_iter().try_for_each(|delayed| read_lane(&transaction, head, delayed, now))?;
    transaction.commit()
}

/// Reads behind the lane's cursor until the window is full or nothing due is left.
fn read_lane(connection: &Connection, head: &Head, delayed: bool, now: i64) -> rusqlite::Result<()> {
    let (cursor, unread) = {
        let state = head.state();
        let lane = state.lane(delayed);
        (lane.cursor, lane.is_unread(now))
    };
    if !unread {
        return Ok(());
    }
    let rows = waiting_behind(connection, head.id, cursor, if delayed { now } else { 0 })?;
    let all_seen = rows.len() < ROWS_PER_READ;
    for row in rows {
        let position = row.position;
        {
            let mut state = head.state();
            if state.knows(position) {
                state.change_lane(delayed, |lane| lane.cursor = position);
                continue;
            }
            // At least one message must be deliverable, however large it is.
            if !state.has_room() && state.lane(delayed).first().is_some() {
                return Ok(());
            }
        }
        let entry = load(connection, row)?;
        head.state().change_lane(delayed, |lane| {
            lane.cursor = position;
            match entry {
                Some(entry) => lane.insert(entry),
                None => tracing::error!(seq = position.seq, queue = %head.name, "a waiting message has no payload"),
            }
        });
    }
    if all_seen {
        let next = if delayed { next_due(connection, head)? } else { None };
        head.state().change_lane(delayed, |lane: &mut Lane| lane.next = next);
    }
    Ok(())
}

fn waiting_behind(connection: &Connection, queue: i64, after: Position, until: i64) -> rusqlite::Result<Vec<Row>> {
    connection
        .prepare_cached(
            "SELECT due, seq, attempt, first_failed_at, grp, size FROM waiting
             WHERE queue = ?1 AND (due, seq) > (?2, ?3) AND due <= ?4 ORDER BY due, seq LIMIT ?5",
        )?
        .query_map(params![queue, after.due, after.seq, until, ROWS_PER_READ as i64], read_row)?
        .collect()
}

/// Reads the small row of a waiting message from the columns that the queries here name.
pub(crate) fn read_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    Ok(Row {
        position: Position { due: row.get(0)?, seq: row.get(1)? },
        attempt: row.get(2)?,
        first_failed_at: row.get(3)?,
        group: row.get::<_, Option<String>>(4)?.map(String::into_boxed_str),
        size: row.get::<_, i64>(5)?.unsigned_abs(),
        enqueued_at: 0,
    })
}

fn load(connection: &Connection, row: Row) -> rusqlite::Result<Option<Entry>> {
    Ok(load_message(connection, row.position.seq)?.map(|stored| Entry {
        row: Row { enqueued_at: stored.enqueued_at, ..row },
        content: Content::Stored(Box::new(stored)),
    }))
}

/// Reads one message by its number.
pub(crate) fn load_message(connection: &Connection, seq: i64) -> rusqlite::Result<Option<Stored>> {
    connection
        .prepare_cached("SELECT id, parent, execution, version, enqueued_at, payload FROM message WHERE seq = ?1")?
        .query_row([seq], |row| read_stored(row, 0))
        .optional()
}

/// Reads a message from six columns, the first of which is `from`.
pub(crate) fn read_stored(row: &rusqlite::Row<'_>, from: usize) -> rusqlite::Result<Stored> {
    let columns = Columns {
        id: MessageId::from_bytes(row.get(from)?),
        parent: row.get::<_, Option<[u8; 16]>>(from + 1)?.map(MessageId::from_bytes),
        execution: MessageId::from_bytes(row.get(from + 2)?),
        version: row.get(from + 3)?,
    };
    Ok(Stored { columns, enqueued_at: row.get(from + 4)?, payload: row.get(from + 5)? })
}

/// When the first delayed message behind the cursor is due.
fn next_due(connection: &Connection, head: &Head) -> rusqlite::Result<Option<i64>> {
    let cursor = head.state().lane(true).cursor;
    connection
        .prepare_cached("SELECT due FROM waiting WHERE queue = ?1 AND (due, seq) > (?2, ?3) ORDER BY due, seq LIMIT 1")?
        .query_row(params![head.id, cursor.due, cursor.seq], |row| row.get(0))
        .optional()
}
