//! The tables, the settings of every connection, and the steps from older formats to this one.
//!
//! A format is never changed in place: a change is a new entry in [`MIGRATIONS`]. A file of a
//! newer format is never opened.

use std::path::Path;

use rusqlite::{Connection, ErrorCode, OpenFlags, config::DbConfig};

use crate::QueueError;

/// Marks the file as a Flowline queue store ("FLOW").
pub(crate) const APPLICATION_ID: i64 = 0x464c_4f57;

/// Frames after which SQLite moves the write-ahead log into the main file: 64 MiB of 4 KiB pages.
const CHECKPOINT_FRAMES: i64 = 16_384;

/// The steps from one format to the next: entry `n` makes format `n + 1` out of format `n`.
pub(crate) const MIGRATIONS: &[&str] = &[FORMAT_1];

const FORMAT_1: &str = "
CREATE TABLE queue(
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    max_messages INTEGER NOT NULL,
    max_bytes INTEGER NOT NULL,
    last_commit INTEGER NOT NULL DEFAULT 0,
    messages INTEGER NOT NULL DEFAULT 0,
    delayed INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0,
    dead INTEGER NOT NULL DEFAULT 0,
    finished_bytes INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE message(
    seq INTEGER PRIMARY KEY,
    queue INTEGER NOT NULL,
    id BLOB NOT NULL,
    parent BLOB,
    execution BLOB NOT NULL,
    version INTEGER NOT NULL,
    enqueued_at INTEGER NOT NULL,
    payload BLOB NOT NULL
) STRICT;
CREATE INDEX message_execution ON message(execution);
CREATE TABLE waiting(
    queue INTEGER NOT NULL,
    due INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    first_failed_at INTEGER,
    grp TEXT,
    size INTEGER NOT NULL,
    PRIMARY KEY(queue, due, seq)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX waiting_group ON waiting(queue, grp) WHERE grp IS NOT NULL;
CREATE TABLE held(
    queue INTEGER NOT NULL,
    grp TEXT NOT NULL,
    seq INTEGER NOT NULL,
    due INTEGER NOT NULL,
    size INTEGER NOT NULL,
    PRIMARY KEY(queue, grp, seq)
) STRICT, WITHOUT ROWID;
CREATE TABLE dead_letter(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    seq INTEGER NOT NULL,
    queue INTEGER NOT NULL,
    code TEXT NOT NULL,
    fault TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    died_at INTEGER NOT NULL,
    grp TEXT,
    size INTEGER NOT NULL
) STRICT;
CREATE INDEX dead_letter_queue ON dead_letter(queue, id);
CREATE TABLE event(
    id INTEGER PRIMARY KEY,
    execution BLOB NOT NULL,
    queue INTEGER NOT NULL,
    message BLOB NOT NULL,
    seq INTEGER,
    kind INTEGER NOT NULL,
    version INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    started_at INTEGER NOT NULL,
    ended_at INTEGER NOT NULL,
    emitted INTEGER NOT NULL,
    outputs TEXT,
    fault TEXT
) STRICT;
CREATE INDEX event_execution ON event(execution);
CREATE TABLE state(
    queue INTEGER NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY(queue, key)
) STRICT, WITHOUT ROWID;
CREATE TABLE once(
    queue INTEGER NOT NULL,
    key TEXT NOT NULL,
    message BLOB NOT NULL,
    forget_at INTEGER NOT NULL,
    PRIMARY KEY(queue, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX once_forget ON once(forget_at);
";

/// Opens the file for writing and brings it to the current format.
pub(crate) fn open_writer(path: &Path) -> Result<Connection, QueueError> {
    let connection = open_guarded(path)?;
    prepare_writer(&connection).map_err(|error| explain(path, &error))?;
    migrate(path, &connection, MIGRATIONS)?;
    Ok(connection)
}

/// Opens the file such that closing it again leaves the write-ahead log as it was: nothing is
/// judged yet, so nothing may be tidied away.
pub(crate) fn open_guarded(path: &Path) -> Result<Connection, QueueError> {
    let open = || {
        let connection = Connection::open(path)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection.set_prepared_statement_cache_capacity(128);
        Ok(connection)
    };
    open().map_err(|error| explain(path, &error))
}

/// Opens the file for reading beside the writer.
pub(crate) fn open_reader(path: &Path) -> Result<Connection, QueueError> {
    let open = || {
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        connection.set_prepared_statement_cache_capacity(64);
        connection.pragma_update(None, "query_only", true)?;
        Ok(connection)
    };
    open().map_err(|error| explain(path, &error))
}

/// Moves everything into the main file, so that nothing is left to recover.
pub(crate) fn close_writer(connection: Connection) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
    connection.close().map_err(|(_, error)| error)
}

/// The settings that durability rests on. Frames are written only by a commit (`cache_spill`
/// off), which the damage check relies on; the caller's cache is bounded by its batches.
fn prepare_writer(connection: &Connection) -> rusqlite::Result<()> {
    let fresh: i64 = connection.pragma_query_value(None, "page_count", |row| row.get(0))?;
    if fresh == 0 {
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    }
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update_and_check(None, "wal_autocheckpoint", CHECKPOINT_FRAMES, |_| Ok(()))?;
    connection.pragma_update(None, "cache_spill", false)?;
    connection.pragma_update(None, "cache_size", -16_384)?;
    connection.pragma_update(None, "temp_store", "MEMORY")
}

/// Takes the file through every step that it has not seen yet, each as one transaction.
pub(crate) fn migrate(path: &Path, connection: &Connection, migrations: &[&str]) -> Result<(), QueueError> {
    let failed = |error| explain(path, &error);
    let newest = i64::try_from(migrations.len()).unwrap_or(i64::MAX);
    let found = format_of(connection).map_err(failed)?;
    let Some(found) = found else {
        return Err(QueueError::Unusable(format!(
            "{} is not a Flowline queue store: it belongs to another program",
            path.display()
        )));
    };
    if found > newest {
        return Err(QueueError::Unusable(format!(
            "{} has format {found}; this program knows formats up to {newest}: start a newer version of Flowline",
            path.display()
        )));
    }
    let seen = usize::try_from(found).unwrap_or(0);
    for (step, statements) in migrations.iter().enumerate().skip(seen) {
        take_step(connection, step, statements).map_err(failed)?;
    }
    Ok(())
}

fn take_step(connection: &Connection, step: usize, statements: &str) -> rusqlite::Result<()> {
    let transaction = connection.unchecked_transaction()?;
    transaction.execute_batch(statements)?;
    transaction.pragma_update(None, "user_version", i64::try_from(step + 1).unwrap_or(i64::MAX))?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.commit()
}

/// The format of a file, zero if nothing is in it; none if it is not one of ours.
fn format_of(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    let application: i64 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let format: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let ours = application == APPLICATION_ID && format > 0;
    let empty = application == 0 && format == 0 && tables == 0;
    Ok((ours || empty).then_some(format))
}

/// Says what a SQLite error means for whoever asked.
pub(crate) fn explain(path: &Path, error: &rusqlite::Error) -> QueueError {
    let file = path.display();
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => QueueError::Unusable(format!(
            "{file} is damaged ({error}): nothing was changed; run `flowline doctor` on its folder"
        )),
        Some(
            ErrorCode::DiskFull
            | ErrorCode::SystemIoFailure
            | ErrorCode::ReadOnly
            | ErrorCode::CannotOpen
            | ErrorCode::PermissionDenied
            | ErrorCode::OutOfMemory,
        ) => QueueError::Disk(format!("{file}: {error}")),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            QueueError::InUse(format!("{file} is locked by another program"))
        }
        _ => QueueError::Unusable(format!("{file}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_file_is_taken_to_the_newest_format_and_keeps_its_rows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("queue.db");
        let later = "ALTER TABLE queue ADD COLUMN note TEXT NOT NULL DEFAULT 'none'";
        let connection = Connection::open(&path).unwrap();
        migrate(&path, &connection, &[FORMAT_1]).unwrap();
        connection.execute("INSERT INTO queue(name, max_messages, max_bytes) VALUES ('a/b', 1, 1)", []).unwrap();
        drop(connection);

        let connection = Connection::open(&path).unwrap();
        migrate(&path, &connection, &[FORMAT_1, later]).unwrap();
        let note: String = connection.query_row("SELECT note FROM queue", [], |row| row.get(0)).unwrap();
        assert_eq!((format_of(&connection).unwrap(), note.as_str()), (Some(2), "none"));
        migrate(&path, &connection, &[FORMAT_1, later]).unwrap();
        let older = migrate(&path, &connection, &[FORMAT_1]).unwrap_err().to_string();
        assert!(older.contains("has format 2; this program knows formats up to 1"), "{older}");
    }

    #[test]
    fn a_step_that_fails_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("queue.db");
        let connection = Connection::open(&path).unwrap();
        let broken = "CREATE TABLE half(a); CREATE TABLE half(a)";
        migrate(&path, &connection, &[FORMAT_1, broken]).unwrap_err();
        assert_eq!(format_of(&connection).unwrap(), Some(1));
        migrate(&path, &connection, &[FORMAT_1, "CREATE TABLE half(a)"]).unwrap();
    }
}
