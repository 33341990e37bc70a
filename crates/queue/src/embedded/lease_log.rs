//! The lease log: which messages are with workers, so that a crash counts as an attempt.
//!
//! A side file of fixed records, written without a flush: it has to outlive the process, not the
//! power, and so a write takes no longer than to copy a few bytes. A record names the attempt it
//! belongs to, so a record that is read twice, or that is out of date, counts nothing.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::lane::{Position, Row};

/// A log that has grown to this size is written anew with what is still leased.
const REWRITE_AT: u64 = 1 << 20;
const RECORD: usize = 32;
const LEASED: u32 = 0x4c45_4153;
const ENDED: u32 = 0x454e_4445;

/// A message that was leased when the process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Interrupted {
    pub(crate) queue: i64,
    pub(crate) position: Position,
    pub(crate) attempt: u32,
}

/// Keeps the file: each note is one short write, made before a message is handed out.
#[derive(Debug)]
pub(crate) struct LeaseLog {
    keeper: Mutex<Keeper>,
}

impl LeaseLog {
    /// Empties the file.
    pub(crate) fn start(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        file.set_len(0)?;
        let keeper = Keeper { path: path.to_owned(), file, size: 0, live: HashMap::new(), closed: false };
        Ok(Self { keeper: Mutex::new(keeper) })
    }

    pub(crate) fn began<'a>(&self, queue: i64, rows: impl Iterator<Item = &'a Row>) {
        self.keeper().note(|keeper, bytes| {
            for row in rows {
                let lease = Interrupted { queue, position: row.position, attempt: row.attempt };
                keeper.live.insert(lease.position.seq, lease);
                bytes.extend_from_slice(&record(LEASED, &lease));
            }
        });
    }

    pub(crate) fn ended(&self, seqs: &[i64]) {
        self.keeper().note(|keeper, bytes| {
            let ended = seqs.iter().filter_map(|seq| keeper.live.remove(seq));
            ended.for_each(|lease| bytes.extend_from_slice(&record(ENDED, &lease)));
        });
    }

    /// Forgets everything: an orderly end is no attempt.
    pub(crate) fn close(&self) {
        let mut keeper = self.keeper();
        keeper.closed = true;
        drop(keeper.file.set_len(0));
    }

    fn keeper(&self) -> MutexGuard<'_, Keeper> {
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Keeper {
    path: PathBuf,
    file: File,
    size: u64,
    live: HashMap<i64, Interrupted>,
    /// What is leased while the store closes returns with it, and nothing is noted any more.
    closed: bool,
}

impl Keeper {
    fn note(&mut self, change: impl FnOnce(&mut Self, &mut Vec<u8>)) {
        if self.closed {
            return;
        }
        let mut bytes = Vec::new();
        change(self, &mut bytes);
        if let Err(error) = self.write(&bytes) {
            tracing::warn!(%error, "the lease log could not be written: a crash now would not count as an attempt");
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.size + bytes.len() as u64 > REWRITE_AT {
            return self.rewrite();
        }
        self.file.write_all(bytes)?;
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// Puts a new file in the place of the old one, holding only what is leased now.
    fn rewrite(&mut self) -> io::Result<()> {
        let beside = self.path.with_extension("new");
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).open(&beside)?;
        let bytes: Vec<u8> = self.live.values().flat_map(|lease| record(LEASED, lease)).collect();
        file.write_all(&bytes)?;
        std::fs::rename(&beside, &self.path)?;
        // What comes next is written at the end, as by the handle in append mode it replaces.
        self.file = OpenOptions::new().append(true).open(&self.path)?;
        self.size = bytes.len() as u64;
        Ok(())
    }
}

fn record(kind: u32, lease: &Interrupted) -> [u8; RECORD] {
    let mut bytes = [0; RECORD];
    bytes[0..4].copy_from_slice(&kind.to_le_bytes());
    bytes[4..8].copy_from_slice(&lease.attempt.to_le_bytes());
    bytes[8..16].copy_from_slice(&lease.queue.to_le_bytes());
    bytes[16..24].copy_from_slice(&lease.position.due.to_le_bytes());
    bytes[24..32].copy_from_slice(&lease.position.seq.to_le_bytes());
    bytes
}

/// What was leased when the process ended; an incomplete or foreign record is passed over.
pub(crate) fn read(path: &Path) -> io::Result<Vec<Interrupted>> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(mut file) => file.read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut live = HashMap::new();
    for bytes in bytes.as_chunks::<RECORD>().0 {
        let number = |at: usize| i64::from_le_bytes(std::array::from_fn(|index| bytes[at + index]));
        let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|index| bytes[at + index]));
        let position = Position { due: number(16), seq: number(24) };
        match word(0) {
            LEASED => drop(live.insert(position.seq, Interrupted { queue: number(8), position, attempt: word(4) })),
            ENDED => drop(live.remove(&position.seq)),
            _ => {}
        }
    }
    Ok(live.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(seq: i64) -> Row {
        let position = Position { due: 0, seq };
        Row { position, attempt: 2, first_failed_at: None, group: None, size: 1, enqueued_at: 0 }
    }

    #[test]
    fn what_was_leased_and_not_ended_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("leases");
        let log = LeaseLog::start(&path).unwrap();
        log.began(7, [row(1), row(2), row(3)].iter());
        log.ended(&[2]);
        drop(log);
        let mut found: Vec<_> = read(&path).unwrap().iter().map(|lease| lease.position.seq).collect();
        found.sort_unstable();
        assert_eq!(found, [1, 3]);
    }

    #[test]
    fn the_file_stays_small_and_a_torn_record_does_no_harm() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("leases");
        let log = LeaseLog::start(&path).unwrap();
        for seq in 0..60_000 {
            log.began(7, [row(seq)].iter());
            log.ended(&[seq]);
        }
        log.began(7, [row(60_000)].iter());
        drop(log);
        let bytes = std::fs::read(&path).unwrap();
        assert!(bytes.len() as u64 <= REWRITE_AT, "{}", bytes.len());
        assert_eq!(read(&path).unwrap().len(), 1);
        std::fs::write(&path, [&bytes[..], &bytes[..9]].concat()).unwrap();
        assert_eq!(read(&path).unwrap().len(), 1);
    }

    #[test]
    fn an_orderly_end_forgets_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("leases");
        let log = LeaseLog::start(&path).unwrap();
        log.began(7, [row(1)].iter());
        log.close();
        log.began(7, [row(2)].iter());
        assert!(read(&path).unwrap().is_empty());
    }
}
