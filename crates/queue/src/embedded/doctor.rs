//! The doctor: says how a store is, and brings a damaged one back.
//!
//! Looking changes nothing. A repair first puts the files as they are into a folder of their own,
//! then builds a new store beside the old one from everything that can be read on both sides of
//! the damage, and only then takes it into use.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use flowline_model::QueueName;
use rusqlite::Connection;
use serde::Serialize;

use super::{
    folder::Folder,
    mark::{self, CommitMark, Marked},
    mend::mend,
    salvage::{Salvaged, salvage},
    schema::{self, explain},
    system_time, wal,
};
use crate::QueueError;

/// How a store is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DoctorReport {
    /// What is wrong, one sentence each; empty if nothing is.
    pub problems: Vec<String>,
    /// What stands on each queue, as far as it can be read.
    pub queues: Vec<QueueReport>,
    /// What a repair did; none if there was nothing to repair or nobody asked for it.
    pub repair: Option<RepairReport>,
}

impl DoctorReport {
    /// Whether nothing is wrong.
    pub fn is_healthy(&self) -> bool {
        self.problems.is_empty()
    }
}

/// What stands on one queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QueueReport {
    /// Which queue.
    pub queue: QueueName,
    /// Ready, delayed, or behind others of their group.
    pub waiting: u64,
    /// In the dead letters.
    pub dead: u64,
    /// Bytes of all of them.
    pub bytes: u64,
}

/// What a repair did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RepairReport {
    /// Where the files are as they were found.
    pub kept_aside: PathBuf,
    /// Pages of the write-ahead log in which one wrong byte was found and set right.
    pub pages_corrected: u64,
    /// Pages of the write-ahead log that could not be used.
    pub pages_lost: u64,
    /// Places in the main file that could not be read.
    pub places_unreadable: u64,
    /// Messages whose place on their queue was lost and that wait there again; they may have been
    /// delivered before.
    pub messages_put_back: u64,
    /// Messages that are known to be lost.
    pub messages_lost: u64,
}

/// Looks at the store in a folder that no process uses, and repairs it if asked to.
pub fn doctor(folder: &Path, repair: bool) -> Result<DoctorReport, QueueError> {
    let folder = Folder::new(folder);
    if !folder.root.is_dir() {
        return Err(QueueError::NotFound(format!("the folder {}", folder.root.display())));
    }
    let _lock = folder.lock()?;
    let mut report = DoctorReport::default();
    examine(&folder, &mut report)?;
    if repair && !report.is_healthy() {
        let done = rebuild(&folder)?;
        let mut repaired = DoctorReport::default();
        examine(&folder, &mut repaired)?;
        report.queues = repaired.queues;
        report.problems.extend(repaired.problems.into_iter().map(|problem| format!("after the repair: {problem}")));
        report.repair = Some(done);
    }
    Ok(report)
}

/// Finds what is wrong without changing anything.
fn examine(folder: &Folder, report: &mut DoctorReport) -> Result<(), QueueError> {
    let database = folder.database();
    let failed = |error: io::Error| disk(folder, &error);
    let marked = mark::read(&folder.mark()).map_err(failed)?;
    if !database.exists() {
        let used = folder.wal().exists() || marked.is_some_and(|marked| marked.commit > 0);
        report.problems.extend(used.then(|| format!("{} is missing", database.display())));
        return Ok(());
    }
    if let Some(damage) = wal::find_damage(&folder.wal()).map_err(failed)? {
        report.problems.push(format!(
            "{} is damaged at byte {}; {} frames stand behind it",
            folder.wal().display(),
            damage.offset,
            damage.behind
        ));
        // SQLite would only see what stands before the damage.
        return Ok(());
    }
    let found = schema::open_guarded(&database).and_then(|connection| {
        check_pages(&connection, report).map_err(|error| explain(&database, &error))?;
        read_queues(&connection, report).map_err(|error| explain(&database, &error))
    });
    match found {
        Ok(commit) => check_commit(folder, commit, marked, report),
        Err(QueueError::Unusable(problem)) => report.problems.push(problem),
        Err(error) => return Err(error),
    }
    Ok(())
}

fn check_commit(folder: &Folder, commit: i64, marked: Option<Marked>, report: &mut DoctorReport) {
    let expected = marked.unwrap_or_default().commit;
    if commit < expected {
        report.problems.push(format!(
            "{} ends with commit {commit}, but commit {expected} had been made durable",
            folder.database().display()
        ));
    }
}

fn check_pages(connection: &Connection, report: &mut DoctorReport) -> rusqlite::Result<()> {
    let mut statement = connection.prepare("PRAGMA quick_check(20)")?;
    let findings: Vec<String> = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    report.problems.extend(findings.into_iter().filter(|finding| finding != "ok"));
    Ok(())
}

/// Reads what the queues count; returns the number of the last commit.
fn read_queues(connection: &Connection, report: &mut DoctorReport) -> rusqlite::Result<i64> {
    let mut statement =
        connection.prepare("SELECT name, messages, dead, bytes, last_commit FROM queue ORDER BY name")?;
    let mut rows = statement.query([])?;
    let mut commit = 0;
    while let Some(row) = rows.next()? {
        let name: String = row.get(0)?;
        let count = |index: usize| row.get::<_, i64>(index).map(i64::unsigned_abs);
        match name.parse() {
            Ok(queue) => {
                report.queues.push(QueueReport { queue, waiting: count(1)?, dead: count(2)?, bytes: count(3)? })
            }
            Err(error) => report.problems.push(format!("the name of a queue: {error}")),
        }
        commit = commit.max(row.get(4)?);
    }
    Ok(commit)
}

/// Builds a new store from what can be read of the old one and takes it into use.
fn rebuild(folder: &Folder) -> Result<RepairReport, QueueError> {
    let failed = |error: io::Error| disk(folder, &error);
    let kept_aside = keep_aside(folder).map_err(failed)?;
    let workshop = Folder::new(&folder.root.join("repair"));
    if workshop.root.exists() {
        fs::remove_dir_all(&workshop.root).map_err(failed)?;
    }
    fs::create_dir(&workshop.root).map_err(failed)?;
    let mended = mend(&folder.wal(), page_size(&folder.database())).map_err(failed)?;
    if folder.database().exists() {
        fs::copy(folder.database(), workshop.database()).map_err(failed)?;
    }
    if !mended.bytes.is_empty() {
        fs::write(workshop.wal(), &mended.bytes).map_err(failed)?;
    }
    let fresh = workshop.root.join("fresh.db");
    let salvaged = salvage_into(&workshop, &fresh)?;
    take_into_use(folder, &fresh)?;
    fs::remove_dir_all(&workshop.root).map_err(failed)?;
    Ok(RepairReport {
        kept_aside,
        pages_corrected: mended.corrected,
        pages_lost: mended.dropped,
        places_unreadable: salvaged.unreadable,
        messages_put_back: salvaged.put_back,
        messages_lost: salvaged.lost,
    })
}

/// The size of the main file's pages, as its first bytes say.
fn page_size(database: &Path) -> usize {
    let mut start = [0; 18];
    let read = File::open(database).and_then(|mut file| file.read_exact(&mut start));
    match usize::from(u16::from_be_bytes([start[16], start[17]])) {
        1 if read.is_ok() => 65_536,
        size if read.is_ok() && size.is_power_of_two() && size >= 512 => size,
        _ => wal::USUAL_PAGE,
    }
}

/// Copies the files as they are into a folder named after the time.
fn keep_aside(folder: &Folder) -> io::Result<PathBuf> {
    let time = system_time().to_string().replace([':', '.'], "-");
    let aside = folder.root.join(format!("damaged-{time}"));
    fs::create_dir(&aside)?;
    for path in [folder.database(), folder.wal(), folder.mark(), folder.leases()] {
        if let (true, Some(name)) = (path.exists(), path.file_name()) {
            fs::copy(&path, aside.join(name))?;
            File::open(aside.join(name))?.sync_all()?;
        }
    }
    File::open(&aside)?.sync_all()?;
    Ok(aside)
}

fn salvage_into(workshop: &Folder, fresh: &Path) -> Result<Salvaged, QueueError> {
    let from = schema::open_guarded(&workshop.database())?;
    let to = schema::open_writer(fresh)?;
    // All of it is one transaction, which need not fit into memory.
    let copied = to
        .execute_batch("PRAGMA cache_spill = on")
        .and_then(|()| salvage(&from, &to))
        .map_err(|error| explain(fresh, &error))?;
    schema::close_writer(to).map_err(|error| explain(fresh, &error))?;
    Ok(copied)
}

/// Puts the new store in the place of the old one. The old write-ahead log goes first, since it
/// must never be read into the new file; until the end the old mark refuses what is half done.
fn take_into_use(folder: &Folder, fresh: &Path) -> Result<(), QueueError> {
    let failed = |error: io::Error| disk(folder, &error);
    File::open(fresh).and_then(|file| file.sync_all()).map_err(failed)?;
    for old in [folder.wal(), folder.shared_memory(), folder.leases()] {
        match fs::remove_file(&old) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
    }
    fs::rename(fresh, folder.database()).map_err(failed)?;
    File::open(&folder.root).and_then(|root| root.sync_all()).map_err(failed)?;
    let mut mark = CommitMark::open(&folder.mark(), folder.wal(), Marked::default()).map_err(failed)?;
    mark.close();
    Ok(())
}

fn disk(folder: &Folder, error: &io::Error) -> QueueError {
    QueueError::Disk(format!("{}: {error}", folder.root.display()))
}
