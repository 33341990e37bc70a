//! Copying a damaged store row by row into a fresh one, and making it whole again.
//!
//! Whatever can be read is kept. Where the small row of a message is lost, the message waits
//! again: delivering twice what may have been delivered is the lesser evil. What was told as
//! finished does not come back.

use rusqlite::{Connection, ToSql, params_from_iter, types::Value};

/// What came of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Salvaged {
    /// Places in the file that could not be read.
    pub(crate) unreadable: u64,
    /// Messages whose place was lost and that wait again.
    pub(crate) put_back: u64,
    /// Messages that should wait but whose content is lost.
    pub(crate) lost: u64,
}

/// A table, its columns, and the key by which it is read.
struct Table {
    name: &'static str,
    columns: &'static str,
    key: &'static str,
}

const TABLES: [Table; 8] = [
    Table {
        name: "queue",
        columns: "id, name, max_messages, max_bytes, last_commit, messages, delayed, bytes, dead, finished_bytes",
        key: "id",
    },
    Table { name: "message", columns: "seq, queue, id, parent, execution, version, enqueued_at, payload", key: "seq" },
    Table {
        name: "found_waiting",
        columns: "queue, due, seq, attempt, first_failed_at, grp, size",
        key: "queue, due, seq",
    },
    Table { name: "found_held", columns: "queue, grp, seq, due, size", key: "queue, grp, seq" },
    Table { name: "dead_letter", columns: "id, seq, queue, code, fault, attempts, died_at, grp, size", key: "id" },
    Table {
        name: "event",
        columns: "id, execution, queue, message, seq, kind, version, attempt, started_at, ended_at, emitted, outputs, \
                  fault",
        key: "id",
    },
    Table { name: "state", columns: "queue, key, value", key: "queue, key" },
    Table { name: "once", columns: "queue, key, message, forget_at", key: "queue, key" },
];

/// Copies everything readable from one store into a fresh one and restores what always holds.
pub(crate) fn salvage(from: &Connection, to: &Connection) -> rusqlite::Result<Salvaged> {
    let mut salvaged = Salvaged::default();
    let transaction = to.unchecked_transaction()?;
    to.execute_batch(
        "CREATE TEMP TABLE found_waiting(queue INTEGER NOT NULL, due INTEGER NOT NULL, seq INTEGER NOT NULL,
             attempt INTEGER NOT NULL, first_failed_at INTEGER, grp TEXT, size INTEGER NOT NULL) STRICT;
         CREATE TEMP TABLE found_held(queue INTEGER NOT NULL, grp TEXT NOT NULL, seq INTEGER NOT NULL,
             due INTEGER NOT NULL, size INTEGER NOT NULL) STRICT;
         CREATE INDEX temp.found_waiting_seq ON found_waiting(seq);
         CREATE INDEX temp.found_held_seq ON found_held(seq);",
    )?;
    for table in &TABLES {
        salvaged.unreadable += copy(from, to, table)?;
    }
    to.execute_batch(NAME_QUEUES)?;
    salvaged.lost = to.query_row(LOST, [], |row| row.get::<_, i64>(0))?.unsigned_abs();
    to.execute_batch(SETTLE_PLACES)?;
    salvaged.put_back = to.execute(PUT_BACK, [])? as u64;
    to.execute_batch(COUNT_AGAIN)?;
    transaction.commit()?;
    Ok(salvaged)
}

/// Reads a table from its beginning and, where that ends early, from its end; numbered tables
/// are also tried in between. Returns how many places could not be read.
fn copy(from: &Connection, to: &Connection, table: &Table) -> rusqlite::Result<u64> {
    let source = table.name.trim_start_matches("found_");
    let Table { name, columns, key } = table;
    let marks = vec!["?"; columns.split(',').count()].join(", ");
    let mut insert = to.prepare(&format!("INSERT OR IGNORE INTO {name}({columns}) VALUES ({marks})"))?;
    let mut last = None;
    let whole =
        copy_rows(from, &mut insert, &format!("SELECT {columns} FROM {source} ORDER BY {key}"), &[], &mut last)?;
    if whole {
        return Ok(0);
    }
    let descending = key.replace(',', " DESC,") + " DESC";
    let mut first = None;
    let backwards = format!("SELECT {columns} FROM {source} ORDER BY {descending}");
    copy_rows(from, &mut insert, &backwards, &[], &mut first)?;
    if key.contains(',') {
        return Ok(1);
    }
    // Between the two ends every further readable stretch is looked for.
    let (mut at, end) = (number(last.as_ref()).unwrap_or(0), number(first.as_ref()).unwrap_or(0));
    let mut places = 1;
    let between = format!("SELECT {columns} FROM {source} WHERE {key} > ?1 AND {key} < ?2 ORDER BY {key}");
    let mut step = 1;
    while at.saturating_add(step) < end {
        at += step;
        let mut reached = None;
        let whole = copy_rows(from, &mut insert, &between, &[&at, &end], &mut reached)?;
        match number(reached.as_ref()) {
            _ if whole => break,
            Some(reached) => (at, step, places) = (reached, 1, places + 1),
            None => step = (step * 2).min(64),
        }
    }
    Ok(places)
}

fn number(key: Option<&Value>) -> Option<i64> {
    match key {
        Some(Value::Integer(number)) => Some(*number),
        _ => None,
    }
}

/// Copies rows until the end or the first that cannot be read; returns whether it was the end.
fn copy_rows(
    from: &Connection,
    insert: &mut rusqlite::Statement<'_>,
    sql: &str,
    bounds: &[&dyn ToSql],
    last: &mut Option<Value>,
) -> rusqlite::Result<bool> {
    let Ok(mut select) = from.prepare(sql) else { return Ok(false) };
    let width = select.column_count();
    let Ok(mut rows) = select.query(bounds) else { return Ok(false) };
    loop {
        let row = match rows.next() {
            Ok(Some(row)) => row,
            Ok(None) => return Ok(true),
            Err(_) => return Ok(false),
        };
        let values: rusqlite::Result<Vec<Value>> = (0..width).map(|index| row.get(index)).collect();
        if let Ok(values) = values {
            // A row of a wrong shape is not a row of this table.
            drop(insert.execute(params_from_iter(&values)));
            *last = values.into_iter().next();
        }
    }
}

/// Queues whose names are lost get one, so that what stands on them is not lost with it.
const NAME_QUEUES: &str = "
INSERT OR IGNORE INTO queue(id, name, max_messages, max_bytes)
SELECT DISTINCT queue, 'salvaged/queue-' || queue, 20000000, 68719476736 FROM
    (SELECT queue FROM message UNION SELECT queue FROM event UNION SELECT queue FROM state)
    WHERE queue NOT IN (SELECT id FROM queue);
";

/// Places of messages that are not there, and that nothing tells of as finished.
const LOST: &str = "
SELECT count(DISTINCT seq) FROM
    (SELECT seq FROM found_waiting UNION SELECT seq FROM found_held UNION SELECT seq FROM dead_letter)
    WHERE seq NOT IN (SELECT seq FROM message) AND seq NOT IN (SELECT seq FROM event WHERE seq IS NOT NULL)
";

/// Gives every message one place: finished, waiting, held, dead, in this order of trust.
const SETTLE_PLACES: &str = "
CREATE TEMP TABLE finished(seq INTEGER PRIMARY KEY);
INSERT OR IGNORE INTO finished SELECT seq FROM event WHERE seq IS NOT NULL;
DELETE FROM found_waiting WHERE seq IN (SELECT seq FROM finished) OR seq NOT IN (SELECT seq FROM message);
DELETE FROM found_held WHERE seq IN (SELECT seq FROM finished) OR seq NOT IN (SELECT seq FROM message);
DELETE FROM dead_letter WHERE seq IN (SELECT seq FROM finished) OR seq NOT IN (SELECT seq FROM message);
DELETE FROM found_waiting WHERE rowid NOT IN (SELECT max(rowid) FROM found_waiting GROUP BY seq);
DELETE FROM found_held WHERE seq IN (SELECT seq FROM found_waiting);
DELETE FROM dead_letter WHERE seq IN (SELECT seq FROM found_waiting UNION SELECT seq FROM found_held);
INSERT INTO waiting SELECT * FROM found_waiting WHERE grp IS NULL;
CREATE TEMP TABLE grouped AS
    SELECT queue, grp, seq, due, attempt, first_failed_at, size FROM found_waiting WHERE grp IS NOT NULL
    UNION ALL SELECT queue, grp, seq, due, 0, NULL, size FROM found_held;
INSERT INTO waiting(queue, due, seq, attempt, first_failed_at, grp, size)
    SELECT queue, due, seq, attempt, first_failed_at, grp, size FROM grouped
    WHERE seq IN (SELECT min(seq) FROM grouped GROUP BY queue, grp);
INSERT OR IGNORE INTO held(queue, grp, seq, due, size)
    SELECT queue, grp, seq, due, size FROM grouped
    WHERE seq NOT IN (SELECT min(seq) FROM grouped GROUP BY queue, grp);
";

/// Every message is waiting, held, dead, or told of as finished; one that is none of these lost
/// its place.
const PUT_BACK: &str = "
INSERT OR IGNORE INTO waiting(queue, due, seq, attempt, size)
SELECT queue, 0, seq, 0, length(payload) FROM message
    WHERE seq NOT IN (SELECT seq FROM finished) AND seq NOT IN (SELECT seq FROM waiting)
    AND seq NOT IN (SELECT seq FROM held) AND seq NOT IN (SELECT seq FROM dead_letter)
";

const COUNT_AGAIN: &str = "
UPDATE queue SET
    messages = (SELECT count(*) FROM waiting WHERE queue = queue.id) + (SELECT count(*) FROM held WHERE queue = queue.id),
    delayed = (SELECT count(*) FROM waiting WHERE queue = queue.id AND due > 0),
    dead = (SELECT count(*) FROM dead_letter WHERE queue = queue.id),
    bytes = (SELECT coalesce(sum(size), 0) FROM waiting WHERE queue = queue.id)
          + (SELECT coalesce(sum(size), 0) FROM held WHERE queue = queue.id)
          + (SELECT coalesce(sum(size), 0) FROM dead_letter WHERE queue = queue.id),
    finished_bytes = (SELECT coalesce(sum(length(payload)), 0) FROM message
                      WHERE message.queue = queue.id AND seq IN (SELECT seq FROM finished));
";
