//! HTTP requests as webhook triggers see them.

use bytes::{Bytes, BytesMut};
use flowline_model::{Emit, Size};
use futures::StreamExt;
use serde::{Deserialize, Serialize};

use crate::ByteStream;

/// Which requests a webhook trigger is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepts {
    /// Its path below `/hook/`, without a slash in front; none means the flow's name.
    pub path: Option<String>,
    /// The HTTP methods, in capitals.
    pub methods: Vec<String>,
    /// How long the caller is kept waiting for the reply of a `webhook.reply` step; none answers
    /// at once, as soon as the message is durable.
    pub reply_within: Option<std::time::Duration>,
}

/// A request to a webhook.
pub struct Request {
    /// The method, in capitals.
    pub method: String,
    /// The path as requested.
    pub path: String,
    /// The query string without `?`, as it came.
    pub query: String,
    /// Header names in lower case, with values; in the order they came.
    pub headers: Vec<(String, String)>,
    /// The body; read it only as far as it may be long.
    pub body: ByteStream,
}

impl Request {
    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The whole body, if it is no longer than `limit`.
    pub async fn bytes(&mut self, limit: Size) -> Result<Bytes, Refusal> {
        let mut collected = BytesMut::new();
        while let Some(part) = self.body.next().await {
            let part =
                part.map_err(|error| Refusal::new(400, "body_incomplete", format!("the body broke off: {error}")))?;
            if (collected.len() + part.len()) as u64 > limit.0 {
                return Err(Refusal::new(413, "body_too_large", format!("the body is larger than {limit}")));
            }
            collected.extend_from_slice(&part);
        }
        Ok(collected.freeze())
    }
}

/// What a webhook trigger made of a request.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Received {
    /// What it emits; each emit begins an execution.
    pub emits: Vec<Emit>,
    /// The sender's name for this delivery: the same again is accepted but not repeated.
    pub delivery_id: Option<String>,
}

/// Why a webhook trigger does not accept a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// HTTP status, 400 to 599.
    pub status: u16,
    /// A stable word for machines.
    pub code: String,
    /// One sentence for the sender; never holds a secret.
    pub message: String,
    /// Further headers of the answer, such as `www-authenticate`.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
}

impl Refusal {
    /// A refusal without further headers.
    pub fn new(status: u16, code: &str, message: impl Into<String>) -> Self {
        Self { status, code: code.to_owned(), message: message.into(), headers: Vec::new() }
    }

    /// With a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}
