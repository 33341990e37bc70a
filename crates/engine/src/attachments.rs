//! Attachments in a folder: one folder for each execution, one file for each attachment.
//!
//! A file is complete and synced before anything refers to it. What an execution no longer in
//! the history left behind is removed by the janitor.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use flowline_sdk::Attachment;
use flowline_sdk::{AttachmentError, Attachments, ByteStream, Size, model::ExecutionId};
use futures::{StreamExt, TryStreamExt};
use tokio::{
    fs::{self, File},
    io::AsyncWriteExt,
};
use tokio_util::io::ReaderStream;
use uuid::Uuid;

/// The longest file name that is kept, in characters.
const LONGEST_NAME: usize = 200;

/// Attachments in a folder.
#[derive(Debug, Clone)]
pub(crate) struct AttachmentFolder {
    root: PathBuf,
}

impl AttachmentFolder {
    pub(crate) async fn open(root: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&root).await?;
        Ok(Self { root })
    }

    fn folder(&self, execution: ExecutionId) -> PathBuf {
        self.root.join(execution.to_string())
    }

    /// The executions that have attachments; at most `max` of them.
    pub(crate) async fn executions(&self, max: usize) -> io::Result<Vec<ExecutionId>> {
        let mut found = Vec::new();
        let mut entries = fs::read_dir(&self.root).await?;
        while let Some(entry) = entries.next_entry().await? {
            found.extend(entry.file_name().to_str().and_then(|name| name.parse::<ExecutionId>().ok()));
            if found.len() >= max {
                break;
            }
        }
        Ok(found)
    }

    /// How long ago the attachments of an execution last changed; none if that cannot be told.
    pub(crate) async fn age(&self, execution: ExecutionId) -> Option<Duration> {
        fs::metadata(self.folder(execution)).await.ok()?.modified().ok()?.elapsed().ok()
    }

    /// Removes what an execution left behind.
    pub(crate) async fn remove(&self, execution: ExecutionId) -> io::Result<()> {
        fs::remove_dir_all(self.folder(execution)).await
    }

    async fn write(&self, path: &Path, content: ByteStream, limit: Size) -> Result<u64, AttachmentError> {
        let mut file = File::create(path).await?;
        let mut content = content;
        let mut size = 0u64;
        while let Some(part) = content.next().await {
            let part = part?;
            size += part.len() as u64;
            if size > limit.0 {
                return Err(AttachmentError::TooLarge(limit));
            }
            file.write_all(&part).await?;
        }
        file.flush().await?;
        file.sync_all().await?;
        Ok(size)
    }
}

/// A name without folders and control characters, never empty.
fn plain_name(name: &str) -> String {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let plain: String = last.chars().filter(|c| !c.is_control()).take(LONGEST_NAME).collect();
    if plain.trim_matches('.').is_empty() { "file".to_owned() } else { plain }
}

#[async_trait]
impl Attachments for AttachmentFolder {
    async fn store(
        &self,
        execution: ExecutionId,
        name: &str,
        content_type: &str,
        content: ByteStream,
        limit: Size,
    ) -> Result<Attachment, AttachmentError> {
        let folder = self.folder(execution);
        fs::create_dir_all(&folder).await?;
        let id = format!("{execution}/{}", Uuid::from_bytes(rand::random()).simple());
        let path = self.root.join(&id);
        let size = match self.write(&path, content, limit).await {
            Ok(size) => size,
            Err(error) => {
                // What is not complete is of no use; that it is gone is best effort.
                let _ = fs::remove_file(&path).await;
                return Err(error);
            }
        };
        File::open(&folder).await?.sync_all().await?;
        File::open(&self.root).await?.sync_all().await?;
        Ok(Attachment { id, name: plain_name(name), content_type: content_type.to_owned(), size })
    }

    async fn open(&self, attachment: &Attachment) -> Result<ByteStream, AttachmentError> {
        let missing = || AttachmentError::Missing(attachment.name.clone());
        let (execution, file) = attachment.id.split_once('/').ok_or_else(missing)?;
        let execution: ExecutionId = execution.parse().map_err(|_| missing())?;
        let file: Uuid = file.parse().map_err(|_| missing())?;
        let path = self.folder(execution).join(file.simple().to_string());
        let file = File::open(path).await.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => missing(),
            _ => AttachmentError::Io(error),
        })?;
        Ok(Box::pin(ReaderStream::with_capacity(file, 64 * 1024).map_ok(Into::into)))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use flowline_model::{MessageId, Timestamp};
    use futures::stream;

    use super::*;

    fn content(parts: &[&'static str]) -> ByteStream {
        let parts: Vec<_> = parts.iter().map(|part| Ok(Bytes::from_static(part.as_bytes()))).collect();
        Box::pin(stream::iter(parts))
    }

    #[tokio::test]
    async fn a_file_reads_back_and_one_that_is_too_large_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let store = AttachmentFolder::open(folder.path().into()).await.unwrap();
        let execution = MessageId::root(Timestamp::from_millis(1), [1; 10]);
        let stored =
            store.store(execution, "../../etc/a.txt", "text/plain", content(&["ab", "cd"]), Size(4)).await.unwrap();
        assert_eq!((stored.name.as_str(), stored.size), ("a.txt", 4));
        let read: Vec<Bytes> = store.open(&stored).await.unwrap().try_collect().await.unwrap();
        assert_eq!(read.concat(), b"abcd");

        let refused = store.store(execution, "b", "text/plain", content(&["ab", "cde"]), Size(4)).await;
        assert!(matches!(refused, Err(AttachmentError::TooLarge(Size(4)))));
        let left = std::fs::read_dir(folder.path().join(execution.to_string())).unwrap().count();
        assert_eq!(left, 1);

        store.remove(execution).await.unwrap();
        assert!(matches!(store.open(&stored).await, Err(AttachmentError::Missing(_))));
        let outside = Attachment { id: "../../etc/passwd".into(), ..stored };
        assert!(matches!(store.open(&outside).await, Err(AttachmentError::Missing(_))));
    }
}
