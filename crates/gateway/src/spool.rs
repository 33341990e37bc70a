//! Spools: what one delivery emits beyond what is kept in memory, in a file of its own.
//!
//! A spool is written while its worker works, sealed and flushed when the worker is done, and
//! then read in chunks. Where reading stands is part of the step's durable state, never of the
//! file. A spool that was not sealed is thrown away: its message is still on its queue.

use std::{
    collections::{HashMap, HashSet},
    io::{self, SeekFrom},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use flowline_model::{Fault, MessageId, QueueName};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::{
    fs::{self, File},
    io::{AsyncBufReadExt, AsyncSeekExt, AsyncWriteExt, BufReader},
};
use uuid::Uuid;

use crate::stored::Stored;

/// Bytes that are collected before they are written.
const BUFFER: usize = 256 * 1024;

/// Why something cannot be spooled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpoolError {
    #[error("all spools together have reached their limit of {0} bytes")]
    Full(u64),
    #[error("the spool cannot be written or read: {0}")]
    Io(#[from] io::Error),
}

/// A line of a spool.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Emit(Stored),
    End(End),
}

/// The same, to be written.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Written<'a> {
    Emit(&'a Stored),
    End(&'a End),
}

/// What a delivery came to besides its emits: the last line of a sealed spool.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct End {
    /// Changes to what the step remembers.
    #[serde(default)]
    pub(crate) state: Vec<(String, Option<Value>)>,
    /// Why the message becomes a dead letter after all.
    #[serde(default)]
    pub(crate) fault: Option<Fault>,
}

/// How far a sealed spool was handed out: remembered with the step's state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// The file, within the folder of the step's spools.
    pub(crate) file: String,
    /// Where the next chunk begins.
    pub(crate) at: u64,
}

/// A part of a spool.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Chunk {
    pub(crate) emits: Vec<Stored>,
    /// Where the next chunk begins.
    pub(crate) next: u64,
    /// The end, if this chunk reaches it.
    pub(crate) end: Option<End>,
}

/// All spools.
pub(crate) struct Spools {
    root: PathBuf,
    limit: u64,
    used: Arc<AtomicU64>,
}

impl Spools {
    /// Opens the folder and counts what is in it.
    pub(crate) async fn open(root: PathBuf, limit: u64) -> io::Result<Self> {
        fs::create_dir_all(&root).await?;
        let mut used = 0;
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            let mut entries = fs::read_dir(&folder).await?;
            while let Some(entry) = entries.next_entry().await? {
                let metadata = entry.metadata().await?;
                if metadata.is_dir() { folders.push(entry.path()) } else { used += metadata.len() }
            }
        }
        Ok(Self { root, limit, used: Arc::new(AtomicU64::new(used)) })
    }

    fn folder(&self, queue: &QueueName) -> PathBuf {
        self.root.join(queue.flow.as_str()).join(queue.step.as_str())
    }

    /// Begins a spool.
    pub(crate) async fn begin(&self, queue: &QueueName, message: MessageId) -> Result<Spool, SpoolError> {
        let folder = self.folder(queue);
        if !fs::try_exists(&folder).await? {
            fs::create_dir_all(&folder).await?;
            self.keep_folder(&folder).await?;
        }
        let name = format!("{message}-{}.jsonl", Uuid::from_bytes(rand::random()).simple());
        let path = folder.join(&name);
        let file = File::options().read(true).write(true).create_new(true).open(&path).await?;
        let (limit, used) = (self.limit, Arc::clone(&self.used));
        Ok(Spool { name, path, file, buffer: Vec::new(), written: 0, limit, used, sealed: false })
    }

    /// Makes it durable that a folder is there.
    async fn keep_folder(&self, folder: &Path) -> io::Result<()> {
        for above in folder.ancestors().skip(1) {
            File::open(above).await?.sync_all().await?;
            if above == self.root {
                break;
            }
        }
        Ok(())
    }

    /// Reads a chunk of a sealed spool: at most so many emits and about so many bytes.
    pub(crate) async fn read(
        &self,
        queue: &QueueName,
        mark: &Mark,
        emits: usize,
        bytes: usize,
    ) -> Result<Chunk, SpoolError> {
        let mut file = File::open(self.folder(queue).join(plain(&mark.file)?)).await?;
        file.seek(SeekFrom::Start(mark.at)).await?;
        let mut lines = BufReader::with_capacity(64 * 1024, file);
        let mut chunk = Chunk { next: mark.at, ..Chunk::default() };
        let mut line = Vec::new();
        while chunk.emits.len() < emits && (chunk.next - mark.at) < bytes as u64 {
            line.clear();
            let length = lines.read_until(b'\n', &mut line).await?;
            match serde_json::from_slice(&line).map_err(io::Error::from)? {
                Line::Emit(emit) => chunk.emits.push(emit),
                Line::End(end) => {
                    chunk.end = Some(end);
                    break;
                }
            }
            chunk.next += length as u64;
        }
        Ok(chunk)
    }

    /// Removes a spool that nothing refers to any more.
    pub(crate) async fn remove(&self, queue: &QueueName, name: &str) -> io::Result<()> {
        let path = self.folder(queue).join(plain(name)?);
        let length = fs::metadata(&path).await?.len();
        fs::remove_file(&path).await?;
        self.used.fetch_sub(length, Ordering::AcqRel);
        Ok(())
    }

    /// All spools that are there, by step: to be asked before any is begun.
    pub(crate) async fn left(&self) -> io::Result<HashMap<QueueName, HashSet<String>>> {
        let mut left = HashMap::new();
        let mut flows = fs::read_dir(&self.root).await?;
        while let Some(flow) = flows.next_entry().await? {
            let mut steps = fs::read_dir(flow.path()).await?;
            while let Some(step) = steps.next_entry().await? {
                let name = format!("{}/{}", flow.file_name().to_string_lossy(), step.file_name().to_string_lossy());
                let Ok(queue) = name.parse::<QueueName>() else { continue };
                let names = self.names(&queue).await?.into_iter().collect();
                left.insert(queue, names);
            }
        }
        Ok(left)
    }

    /// The names of all spools of a step.
    async fn names(&self, queue: &QueueName) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        let mut entries = match fs::read_dir(self.folder(queue)).await {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(names),
            Err(error) => return Err(error),
        };
        while let Some(entry) = entries.next_entry().await? {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
        Ok(names)
    }

    /// Bytes in all spools.
    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Acquire)
    }
}

/// A name that cannot lead out of its folder.
fn plain(name: &str) -> io::Result<&Path> {
    let path = Path::new(name);
    if path.file_name().is_some_and(|file| file == path.as_os_str()) {
        return Ok(path);
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "no name of a spool"))
}

/// A spool that is being written. Unless it is sealed it is removed when it is dropped.
pub(crate) struct Spool {
    name: String,
    path: PathBuf,
    file: File,
    buffer: Vec<u8>,
    written: u64,
    limit: u64,
    used: Arc<AtomicU64>,
    sealed: bool,
}

impl Spool {
    /// Adds an emit; if that fails nothing was added.
    pub(crate) async fn add(&mut self, emit: &Stored) -> Result<(), SpoolError> {
        if self.buffer.len() >= BUFFER {
            self.write().await?;
        }
        self.append(&Written::Emit(emit))
    }

    fn append(&mut self, line: &Written<'_>) -> Result<(), SpoolError> {
        let before = self.buffer.len();
        if let Err(error) = serde_json::to_writer(&mut self.buffer, line) {
            self.buffer.truncate(before);
            return Err(io::Error::from(error).into());
        }
        self.buffer.push(b'\n');
        let length = (self.buffer.len() - before) as u64;
        let used = self.used.fetch_add(length, Ordering::AcqRel);
        if used + length > self.limit && matches!(line, Written::Emit(_)) {
            self.used.fetch_sub(length, Ordering::AcqRel);
            self.buffer.truncate(before);
            return Err(SpoolError::Full(self.limit));
        }
        Ok(())
    }

    /// Writes what is collected; if that fails the file is as it was.
    async fn write(&mut self) -> Result<(), SpoolError> {
        let written = async {
            self.file.write_all(&self.buffer).await?;
            self.file.flush().await
        };
        if let Err(error) = written.await {
            self.file.set_len(self.written).await?;
            self.file.seek(SeekFrom::Start(self.written)).await?;
            return Err(error.into());
        }
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Adds the end.
    pub(crate) fn end(&mut self, end: &End) -> Result<(), SpoolError> {
        self.append(&Written::End(end))
    }

    /// Makes everything durable; may be tried again. Then the spool is there until it is removed.
    pub(crate) async fn seal(&mut self) -> Result<Mark, SpoolError> {
        self.write().await?;
        self.file.sync_all().await?;
        if let Some(folder) = self.path.parent() {
            File::open(folder).await?.sync_all().await?;
        }
        self.sealed = true;
        Ok(Mark { file: self.name.clone(), at: 0 })
    }

    /// Bytes in memory.
    pub(crate) fn in_memory(&self) -> usize {
        self.buffer.len()
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if self.sealed {
            return;
        }
        let length = self.written + self.buffer.len() as u64;
        let (path, used) = (std::mem::take(&mut self.path), Arc::clone(&self.used));
        let remove = move || {
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "a spool could not be removed");
            }
            used.fetch_sub(length, Ordering::AcqRel);
        };
        // Removing a large file takes its time.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

#[cfg(test)]
mod tests {
    use flowline_model::{Emit, Timestamp};

    use super::*;

    fn queue() -> QueueName {
        "orders/poll".parse().unwrap()
    }

    fn message() -> MessageId {
        MessageId::root(Timestamp::from_millis(1), [1; 10])
    }

    async fn filled(spools: &Spools, emits: u64) -> Spool {
        let mut spool = spools.begin(&queue(), message()).await.unwrap();
        for number in 0..emits {
            spool.add(&Stored::from(Emit::new(number))).await.unwrap();
        }
        spool
    }

    #[tokio::test]
    async fn a_sealed_spool_reads_back_in_chunks_after_a_crash() {
        let folder = tempfile::tempdir().unwrap();
        let spools = Spools::open(folder.path().into(), 1 << 30).await.unwrap();
        let mut spool = filled(&spools, 10_000).await;
        let end = End { state: vec![("snapshot".into(), Some(7.into()))], fault: None };
        spool.end(&end).unwrap();
        let mut mark = spool.seal().await.unwrap();
        drop((spool, spools));

        let spools = Spools::open(folder.path().into(), 1 << 30).await.unwrap();
        assert!(spools.used() > 10_000);
        let mut read = Vec::new();
        loop {
            let chunk = spools.read(&queue(), &mark, 999, 1 << 20).await.unwrap();
            read.extend(chunk.emits.into_iter().map(|emit| emit.body.as_u64().unwrap()));
            mark.at = chunk.next;
            if let Some(read_end) = chunk.end {
                assert_eq!(read_end, end);
                break;
            }
        }
        assert_eq!(read, (0..10_000).collect::<Vec<_>>());
        assert_eq!(spools.names(&queue()).await.unwrap(), [mark.file.clone()]);
        spools.remove(&queue(), &mark.file).await.unwrap();
        assert_eq!(spools.used(), 0);
    }

    #[tokio::test]
    async fn chunks_are_bounded_in_bytes_too() {
        let folder = tempfile::tempdir().unwrap();
        let spools = Spools::open(folder.path().into(), 1 << 30).await.unwrap();
        let mut spool = spools.begin(&queue(), message()).await.unwrap();
        for _ in 0..10 {
            spool.add(&Stored::from(Emit::new("x".repeat(1000)))).await.unwrap();
        }
        spool.end(&End::default()).unwrap();
        let mark = spool.seal().await.unwrap();
        assert_eq!(spools.read(&queue(), &mark, 1000, 2500).await.unwrap().emits.len(), 3);
    }

    #[tokio::test]
    async fn a_spool_that_is_not_sealed_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let spools = Spools::open(folder.path().into(), 1 << 30).await.unwrap();
        let spool = filled(&spools, 10).await;
        assert!(spools.used() > 0);
        std::thread::spawn(move || drop(spool)).join().unwrap();
        assert_eq!(spools.used(), 0);
        assert!(spools.names(&queue()).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn the_limit_holds_and_what_was_taken_stays() {
        let folder = tempfile::tempdir().unwrap();
        let spools = Spools::open(folder.path().into(), 100).await.unwrap();
        let mut spool = filled(&spools, 1).await;
        let large = Stored::from(Emit::new("x".repeat(100)));
        assert!(matches!(spool.add(&large).await, Err(SpoolError::Full(100))));
        spool.end(&End::default()).unwrap();
        let mark = spool.seal().await.unwrap();
        let chunk = spools.read(&queue(), &mark, 10, 1000).await.unwrap();
        assert_eq!((chunk.emits.len(), chunk.end), (1, Some(End::default())));
        let outside = Mark { file: "../../secret".into(), at: 0 };
        assert!(spools.read(&queue(), &outside, 10, 10).await.is_err());
    }
}
