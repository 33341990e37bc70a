//! Dead letters: listed, replayed and thrown away, by filter.
//!
//! A dead letter is a small row; its message stays where it was written. A replay puts the small
//! row back, so the message keeps its id, its place by age and its idempotency key.

use flowline_model::{EventKind, Message, Timestamp};
use rusqlite::{Connection, OptionalExtension, ToSql, params};

use super::{
    batch::Batch,
    codec::{Columns, Stored, decode_fault, encode_payload},
    command::Answer,
    heads::{Heads, Tally},
    job::CHUNK,
    lane::{Position, Row},
    window::{load_message, read_stored},
};
use crate::{DeadLetter, DeadLetterFilter, QueueError, Replay};

/// What becomes of the dead letters.
pub(crate) enum Verb {
    Replayed(Replay),
    Discarded,
}

/// Replays or throws away every dead letter that fits.
pub(crate) struct DeadLetterJob {
    filter: DeadLetterFilter,
    verb: Verb,
    after: i64,
    /// The newest that is meant: one that dies again meanwhile is not taken twice.
    newest: Option<i64>,
    count: u64,
}

/// One dead letter's small row.
struct Dead {
    id: i64,
    seq: i64,
    queue: i64,
    group: Option<String>,
    size: i64,
}

/// A filter as SQL: only the conditions that are given, so that each can use its index.
struct Terms {
    conditions: String,
    ids: Option<String>,
    code: Option<String>,
    queues: Option<String>,
}

impl Terms {
    fn new(filter: &DeadLetterFilter, heads: &Heads) -> Self {
        let list = |numbers: Vec<String>| format!("[{}]", numbers.join(","));
        let named = filter.flow.is_some() || filter.step.is_some();
        let queues = heads.all().into_iter().filter(|head| {
            filter.flow.as_ref().is_none_or(|flow| *flow == head.name.flow)
                && filter.step.as_ref().is_none_or(|step| *step == head.name.step)
        });
        let ids = (!filter.ids.is_empty()).then(|| list(filter.ids.iter().map(u64::to_string).collect()));
        let code = filter.code.clone();
        let queues = named.then(|| list(queues.map(|head| head.id.to_string()).collect()));
        let mut conditions = "id > :after".to_owned();
        for (given, condition) in [
            (ids.is_some(), " AND id IN (SELECT value FROM json_each(:ids))"),
            (code.is_some(), " AND code = :code"),
            (queues.is_some(), " AND queue IN (SELECT value FROM json_each(:queues))"),
        ] {
            conditions.push_str(if given { condition } else { "" });
        }
        Self { conditions, ids, code, queues }
    }

    /// The values of the conditions, with the bounds that every query has.
    fn bind<'a>(&'a self, bounds: [(&'static str, &'a dyn ToSql); 3]) -> Vec<(&'static str, &'a dyn ToSql)> {
        let given = [(":ids", &self.ids), (":code", &self.code), (":queues", &self.queues)];
        let given = given.into_iter().filter(|(_, value)| value.is_some());
        bounds.into_iter().chain(given.map(|(name, value)| (name, value as &dyn ToSql))).collect()
    }
}

impl DeadLetterJob {
    pub(crate) fn new(filter: DeadLetterFilter, verb: Verb) -> Self {
        let after = filter.after.map_or(0, |after| i64::try_from(after).unwrap_or(i64::MAX));
        Self { filter, verb, after, newest: None, count: 0 }
    }

    pub(crate) fn run_chunk(&mut self, batch: &mut Batch<'_>) -> rusqlite::Result<Answer> {
        let newest = match self.newest {
            Some(newest) => newest,
            None => newest_id(batch.connection)?,
        };
        self.newest = Some(newest);
        let letters = self.next_letters(batch, newest)?;
        let finished = letters.len() < CHUNK.unsigned_abs() as usize;
        let (mut after, mut count) = (self.after, self.count);
        for letter in letters {
            after = letter.id;
            count += u64::from(self.handle(batch, &letter)?);
        }
        (self.after, self.count) = (after, count);
        Ok(if finished { Answer::Count(self.count) } else { Answer::More })
    }

    fn next_letters(&self, batch: &Batch<'_>, newest: i64) -> rusqlite::Result<Vec<Dead>> {
        let terms = Terms::new(&self.filter, batch.heads);
        let conditions = &terms.conditions;
        let sql = format!(
            "SELECT id, seq, queue, grp, size FROM dead_letter WHERE {conditions} AND id <= :newest
             ORDER BY id LIMIT :max"
        );
        let bound = terms.bind([(":after", &self.after), (":newest", &newest), (":max", &CHUNK)]);
        batch
            .connection
            .prepare_cached(&sql)?
            .query_map(bound.as_slice(), |row| {
                Ok(Dead {
                    id: row.get(0)?,
                    seq: row.get(1)?,
                    queue: row.get(2)?,
                    group: row.get(3)?,
                    size: row.get(4)?,
                })
            })?
            .collect()
    }

    fn handle(&self, batch: &mut Batch<'_>, letter: &Dead) -> rusqlite::Result<bool> {
        let Some(head) = batch.heads.numbered(letter.queue) else { return Ok(false) };
        let Some(stored) = load_message(batch.connection, letter.seq)? else { return Ok(false) };
        batch.connection.prepare_cached("DELETE FROM dead_letter WHERE id = ?1")?.execute([letter.id])?;
        batch.count(&head, Tally { dead: -1, bytes: -letter.size, ..Tally::default() });
        match &self.verb {
            Verb::Discarded => {
                batch.tell_own(&head.name, stored.columns, EventKind::Discarded, Some(letter.seq))?;
                batch.finish(&head, letter.seq, letter.size.unsigned_abs(), true)?;
            }
            Verb::Replayed(replay) => {
                let (seq, size, columns, edited) = replayed(batch, &head, letter, &stored, replay)?;
                if edited {
                    batch.finish(&head, letter.seq, letter.size.unsigned_abs(), true)?;
                }
                batch.tell_own(&head.name, columns, EventKind::Replayed, edited.then_some(letter.seq))?;
                let row = Row {
                    position: Position { due: 0, seq },
                    attempt: 0,
                    first_failed_at: None,
                    group: letter.group.as_deref().map(Box::from),
                    size,
                    enqueued_at: stored.enqueued_at,
                };
                batch.place(&head, row, None)?;
            }
        }
        Ok(true)
    }
}

/// The message that goes back: the same row, or a new one if its body was changed.
fn replayed(
    batch: &mut Batch<'_>,
    head: &super::heads::Head,
    letter: &Dead,
    stored: &Stored,
    replay: &Replay,
) -> rusqlite::Result<(i64, u64, Columns, bool)> {
    let columns = Columns { version: replay.version.unwrap_or(stored.columns.version), ..stored.columns };
    let edited = replay.body.as_ref().and_then(|body| {
        let message = Message { body: body.clone(), ..stored.decode().ok()? };
        encode_payload(&message).ok()
    });
    if let Some(payload) = edited {
        let id = columns.id.derive(&[b"edit", &letter.id.to_be_bytes(), &payload]);
        let columns = Columns { id, ..columns };
        let seq = batch.insert_message(head, &columns, &payload)?;
        return Ok((seq, payload.len() as u64, columns, true));
    }
    if columns.version != stored.columns.version {
        batch
            .connection
            .prepare_cached("UPDATE message SET version = ?2 WHERE seq = ?1")?
            .execute(params![letter.seq, columns.version])?;
    }
    Ok((letter.seq, letter.size.unsigned_abs(), columns, false))
}

fn newest_id(connection: &Connection) -> rusqlite::Result<i64> {
    let newest = connection
        .prepare_cached("SELECT id FROM dead_letter ORDER BY id DESC LIMIT 1")?
        .query_row([], |row| row.get(0))
        .optional()?;
    Ok(newest.unwrap_or(0))
}

/// A dead letter as it was read, its payload not yet parsed.
pub(crate) struct RawDeadLetter {
    id: i64,
    queue: i64,
    fault: String,
    attempts: u32,
    died_at: i64,
    stored: Stored,
}

impl RawDeadLetter {
    pub(crate) fn decode(self, heads: &Heads) -> Result<DeadLetter, QueueError> {
        let head = heads.numbered(self.queue).ok_or_else(|| QueueError::NotFound(format!("queue {}", self.queue)))?;
        Ok(DeadLetter {
            id: self.id.unsigned_abs(),
            queue: head.name.clone(),
            message: self.stored.decode()?,
            fault: decode_fault(&self.fault)?,
            attempts: self.attempts,
            died_at: Timestamp::from_millis(self.died_at),
        })
    }
}

/// At most `max` dead letters that fit, oldest first.
pub(crate) fn list(
    connection: &Connection,
    heads: &Heads,
    filter: &DeadLetterFilter,
    max: usize,
) -> rusqlite::Result<Vec<RawDeadLetter>> {
    let terms = Terms::new(filter, heads);
    let conditions = &terms.conditions;
    let after = filter.after.map_or(0, |after| i64::try_from(after).unwrap_or(i64::MAX));
    let max = i64::try_from(max).unwrap_or(i64::MAX);
    let sql = format!(
        "SELECT d.id, d.queue, d.fault, d.attempts, d.died_at,
                m.id, m.parent, m.execution, m.version, m.enqueued_at, m.payload
         FROM (SELECT * FROM dead_letter WHERE {conditions} AND id <= :newest ORDER BY id LIMIT :max) d
         JOIN message m ON m.seq = d.seq ORDER BY d.id"
    );
    let bound = terms.bind([(":after", &after), (":newest", &i64::MAX), (":max", &max)]);
    connection
        .prepare_cached(&sql)?
        .query_map(bound.as_slice(), |row| {
            Ok(RawDeadLetter {
                id: row.get(0)?,
                queue: row.get(1)?,
                fault: row.get(2)?,
                attempts: row.get(3)?,
                died_at: row.get(4)?,
                stored: read_stored(row, 5)?,
            })
        })?
        .collect()
}
