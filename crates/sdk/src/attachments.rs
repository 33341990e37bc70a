//! Attachments: files that belong to messages, stored outside them and always streamed.

use std::pin::Pin;

use async_trait::async_trait;
use bytes::Bytes;
use flowline_model::{Attachment, ExecutionId, Size};
use futures::Stream;

/// Bytes as they come.
pub type ByteStream = Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>>;

/// Why an attachment cannot be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum AttachmentError {
    /// It is longer than it may be.
    #[error("the file is larger than {0}")]
    TooLarge(Size),
    /// It was never stored or has outlived its time.
    #[error("the attachment `{0}` is not stored any more")]
    Missing(String),
    /// The sender stopped in the middle, or the disk did.
    #[error("the file could not be stored or read: {0}")]
    Io(#[from] std::io::Error),
}

/// Where attachments are kept.
#[async_trait]
pub trait Attachments: Send + Sync {
    /// Stores a file for an execution; returns when it is durable. `limit` bounds its length.
    async fn store(
        &self,
        execution: ExecutionId,
        name: &str,
        content_type: &str,
        content: ByteStream,
        limit: Size,
    ) -> Result<Attachment, AttachmentError>;

    /// Reads a file.
    async fn open(&self, attachment: &Attachment) -> Result<ByteStream, AttachmentError>;
}
