//! The data folder: its files by name, and the lock that keeps a second process out.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use crate::QueueError;

/// The files of one store.
#[derive(Debug, Clone)]
pub(crate) struct Folder {
    pub(crate) root: PathBuf,
}

impl Folder {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.root.join("queue.db")
    }

    pub(crate) fn wal(&self) -> PathBuf {
        self.root.join("queue.db-wal")
    }

    pub(crate) fn shared_memory(&self) -> PathBuf {
        self.root.join("queue.db-shm")
    }

    pub(crate) fn mark(&self) -> PathBuf {
        self.root.join("commit")
    }

    pub(crate) fn leases(&self) -> PathBuf {
        self.root.join("leases")
    }

    /// Makes the folder if it is not there and takes it for this process alone.
    pub(crate) fn lock(&self) -> Result<File, QueueError> {
        let failed = |error: std::io::Error| QueueError::Disk(format!("{}: {error}", self.root.display()));
        std::fs::create_dir_all(&self.root).map_err(failed)?;
        let path = self.root.join("lock");
        let mut file =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(self.in_use(&mut file)),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let note = |file: &mut File| {
            file.set_len(0)?;
            file.seek(SeekFrom::Start(0))?;
            write!(file, "{}", std::process::id())
        };
        note(&mut file).map_err(failed)?;
        Ok(file)
    }

    fn in_use(&self, file: &mut File) -> QueueError {
        let mut owner = String::new();
        let known = file.read_to_string(&mut owner).is_ok() && owner.trim().parse::<u32>().is_ok();
        let who = if known { format!("process {}", owner.trim()) } else { "another process".to_owned() };
        QueueError::InUse(format!(
            "the data folder {} is in use by {who}: stop it, or give this one a folder of its own",
            self.root.display()
        ))
    }
}
