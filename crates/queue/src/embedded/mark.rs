//! The commit mark: the number of the last commit, kept outside SQLite's files.
//!
//! SQLite silently drops everything in its write-ahead log that stands behind a damaged or
//! missing piece. The mark is how the store notices: it is written after each commit has been
//! flushed, so the store may be newer than its mark, but never older. It is not flushed itself.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

const MAGIC: &[u8; 8] = b"flowmark";
const LENGTH: usize = 32;

/// What the mark says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Marked {
    /// The number of the last commit.
    pub(crate) commit: i64,
    /// The salts of a generation of the write-ahead log in which a commit failed: frames that
    /// were rolled back may stand in it and mean nothing.
    pub(crate) rolled_back: Option<[u8; 8]>,
}

/// The file.
#[derive(Debug)]
pub(crate) struct CommitMark {
    file: File,
    wal: PathBuf,
    marked: Marked,
}

impl CommitMark {
    pub(crate) fn open(path: &Path, wal: PathBuf, marked: Marked) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path)?;
        let mut mark = Self { file, wal, marked };
        mark.write()?;
        Ok(mark)
    }

    /// A commit has been flushed.
    pub(crate) fn committed(&mut self, number: i64) {
        self.marked.commit = number;
        self.write_or_warn();
    }

    /// A commit failed half-way: what it left in the write-ahead log means nothing.
    pub(crate) fn rolled_back(&mut self) {
        self.marked.rolled_back = read_salts(&self.wal);
        self.write_or_warn();
    }

    /// The store is closed in good order.
    pub(crate) fn close(&mut self) {
        self.write_or_warn();
        drop(self.file.sync_data());
    }

    fn write_or_warn(&mut self) {
        if let Err(error) = self.write() {
            tracing::warn!(%error, "the commit mark could not be written: damage would be noticed less surely");
        }
    }

    fn write(&mut self) -> io::Result<()> {
        let mut bytes = [0; LENGTH];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..16].copy_from_slice(&self.marked.commit.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.marked.rolled_back.unwrap_or_default());
        let sum = checksum(&bytes[..24]);
        bytes[24..].copy_from_slice(&sum.to_le_bytes());
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&bytes)
    }
}

/// Reads the mark; none if there is no file or it is not whole.
pub(crate) fn read(path: &Path) -> io::Result<Option<Marked>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let Ok(bytes) = <[u8; LENGTH]>::try_from(bytes.as_slice()) else { return Ok(None) };
    let number = |at: usize| -> [u8; 8] { std::array::from_fn(|index| bytes[at + index]) };
    if &bytes[..8] != MAGIC || checksum(&bytes[..24]) != u64::from_le_bytes(number(24)) {
        return Ok(None);
    }
    let salts = number(16);
    let rolled_back = (salts != [0; 8]).then_some(salts);
    Ok(Some(Marked { commit: i64::from_le_bytes(number(8)), rolled_back }))
}

/// FNV-1a: enough to recognise a record that was written by halves.
fn checksum(bytes: &[u8]) -> u64 {
    let step = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

/// The salts of the generation that a write-ahead log is in.
pub(crate) fn read_salts(wal: &Path) -> Option<[u8; 8]> {
    let mut header = [0; 24];
    File::open(wal).ok()?.read_exact(&mut header).ok()?;
    Some(std::array::from_fn(|index| header[16 + index]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_reads_back_and_a_torn_one_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("commit");
        assert_eq!(read(&path).unwrap(), None);
        let marked = Marked { commit: 41, rolled_back: Some([1; 8]) };
        let mut mark = CommitMark::open(&path, folder.path().join("wal"), marked).unwrap();
        mark.committed(42);
        assert_eq!(read(&path).unwrap(), Some(Marked { commit: 42, ..marked }));
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[9] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(read(&path).unwrap(), None);
    }
}
