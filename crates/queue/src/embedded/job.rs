//! Long work in chunks: discarding, burying and replaying whatever fits, some hundred messages
//! per commit, so that everything else goes on in between.
//!
//! A chunk claims its messages before it writes: what is leased stays with its worker, and what
//! is claimed cannot be leased. Messages that come after the work began are not touched.

use std::sync::Arc;

use flowline_model::EventKind;
use rusqlite::params;

use super::{
    batch::Batch,
    codec::EventRow,
    command::Answer,
    dead_letters::DeadLetterJob,
    heads::{Head, Tally},
    lane::{Position, Row},
    window::{load_message, read_row},
};

/// So many messages are handled by one commit.
pub(crate) const CHUNK: i64 = 500;

/// Work that takes many commits.
pub(crate) enum Job {
    Clear(Clear),
    DeadLetters(DeadLetterJob),
}

impl Job {
    pub(crate) fn run_chunk(&mut self, batch: &mut Batch<'_>) -> rusqlite::Result<Answer> {
        match self {
            Job::Clear(clear) => clear.run_chunk(batch),
            Job::DeadLetters(job) => job.run_chunk(batch),
        }
    }

    /// The commit failed: its messages are for everybody again.
    pub(crate) fn release_claims(&mut self) {
        if let Job::Clear(clear) = self {
            for position in clear.claimed.drain(..) {
                clear.head.state().returns(position);
            }
        }
    }
}

/// What becomes of everything that waits on a queue.
pub(crate) enum Fate {
    Discarded,
    /// It becomes a dead letter for this reason: the code, and the fault as JSON.
    Dead {
        code: String,
        fault: String,
    },
}

/// Takes everything that is ready or delayed off a queue.
pub(crate) struct Clear {
    head: Arc<Head>,
    fate: Fate,
    /// The newest message that is meant; known when the work begins.
    newest: Option<i64>,
    held_done: bool,
    after: Position,
    count: u64,
    claimed: Vec<Position>,
}

impl Clear {
    pub(crate) fn new(head: Arc<Head>, fate: Fate) -> Self {
        let after = Position { due: i64::MIN, seq: i64::MIN };
        Self { head, fate, newest: None, held_done: false, after, count: 0, claimed: Vec::new() }
    }

    fn run_chunk(&mut self, batch: &mut Batch<'_>) -> rusqlite::Result<Answer> {
        // Claims of the chunk before were settled by its commit.
        self.claimed.clear();
        let newest = *self.newest.get_or_insert(batch.numbers.seq - 1);
        if !self.held_done {
            let count = self.clear_held(batch, newest)?;
            self.count += count;
            self.held_done = count < CHUNK.unsigned_abs();
            return Ok(Answer::More);
        }
        let rows = self.next_rows(batch, newest)?;
        let finished = rows.len() < CHUNK.unsigned_abs() as usize;
        for row in rows {
            self.after = row.position;
            if row.position.seq <= newest && self.head.state().claim(row.position) {
                self.claimed.push(row.position);
                self.clear_one(batch, &row)?;
                self.count += 1;
            }
        }
        Ok(if finished { Answer::Count(self.count) } else { Answer::More })
    }

    fn next_rows(&self, batch: &Batch<'_>, newest: i64) -> rusqlite::Result<Vec<Row>> {
        batch
            .connection
            .prepare_cached(
                "SELECT due, seq, attempt, first_failed_at, grp, size FROM waiting
                 WHERE queue = ?1 AND (due, seq) > (?2, ?3) AND seq <= ?4 ORDER BY due, seq LIMIT ?5",
            )?
            .query_map(params![self.head.id, self.after.due, self.after.seq, newest, CHUNK], read_row)?
            .collect()
    }

    /// Messages behind others of their group leave first, so that none of them moves up meanwhile.
    fn clear_held(&self, batch: &mut Batch<'_>, newest: i64) -> rusqlite::Result<u64> {
        let rows: Vec<(String, i64, i64, i64)> = batch
            .connection
            .prepare_cached(
                "SELECT grp, seq, due, size FROM held WHERE queue = ?1 AND seq <= ?2 ORDER BY grp, seq LIMIT ?3",
            )?
            .query_map(params![self.head.id, newest, CHUNK], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
            })?
            .collect::<rusqlite::Result<_>>()?;
        for (group, seq, due, size) in &rows {
            batch
                .connection
                .prepare_cached("DELETE FROM held WHERE queue = ?1 AND grp = ?2 AND seq = ?3")?
                .execute(params![self.head.id, group, seq])?;
            let row = Row {
                position: Position { due: *due, seq: *seq },
                attempt: 0,
                first_failed_at: None,
                group: Some(group.as_str().into()),
                size: size.unsigned_abs(),
                enqueued_at: 0,
            };
            batch.count(&self.head, Tally { messages: -1, bytes: -size, ..Tally::default() });
            self.tell_fate(batch, &row)?;
        }
        Ok(rows.len() as u64)
    }

    fn clear_one(&self, batch: &mut Batch<'_>, row: &Row) -> rusqlite::Result<()> {
        batch.remove(&self.head, row)?;
        self.tell_fate(batch, row)
    }

    /// Writes what became of a message that has left the queue.
    fn tell_fate(&self, batch: &mut Batch<'_>, row: &Row) -> rusqlite::Result<()> {
        let seq = row.position.seq;
        let Some(stored) = load_message(batch.connection, seq)? else { return Ok(()) };
        match &self.fate {
            Fate::Discarded => {
                batch.tell_own(&self.head.name, stored.columns, EventKind::Discarded, Some(seq))?;
                batch.finish(&self.head, seq, row.size, true)
            }
            Fate::Dead { code, fault } => {
                batch.insert_dead_letter(&self.head, row, code, fault, row.attempt)?;
                let event = EventRow::told(&self.head.name, stored.columns, EventKind::DeadLettered, batch.now);
                batch.tell(&EventRow { fault: Some(fault.clone()), attempt: row.attempt, ..event }, None)
            }
        }
    }
}
