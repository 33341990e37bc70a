//! Answers: read within limits, refused with a fault, parsed by what their media type says.

use bytes::{Bytes, BytesMut};
use encoding_rs::Encoding;
use flowline_sdk::{Attachment, AttachmentError, ByteStream, Context, Fault, Size};
use futures::{StreamExt, TryStreamExt, stream};
use mime::Mime;
use reqwest::{
    Response, StatusCode,
    header::{CONTENT_TYPE, HeaderMap},
};
use serde_json::{Map, Value, json};
use url::Url;

use super::{
    faults::{self, Refused},
    target,
};

/// As much of an answer as is read to say why it is not a success.
const EXCERPT: usize = 4 << 10;

/// How an answer is read.
pub(crate) struct Reading<'a> {
    /// Statuses that count as success besides 2xx.
    pub(crate) accept: &'a [u16],
    /// The longest body.
    pub(crate) limit: Size,
    /// Whether a credential was sent.
    pub(crate) with_credential: bool,
}

/// An answer that is a success.
pub(crate) struct Answer {
    /// The status.
    pub(crate) status: StatusCode,
    /// The headers.
    pub(crate) headers: HeaderMap,
    /// Where it came from, redirects followed.
    pub(crate) url: Url,
    /// JSON, a text, or what is known of the file that it was stored as.
    pub(crate) body: Value,
    /// The file, if it is neither JSON nor text.
    pub(crate) file: Option<Attachment>,
    /// The body's length in bytes.
    pub(crate) size: u64,
}

impl Answer {
    /// Takes a success and reads its body; makes a fault of anything else.
    pub(crate) async fn read(cx: &Context, response: Response, reading: &Reading<'_>) -> Result<Self, Fault> {
        let place = target::shown(response.url());
        let (status, headers, url) = (response.status(), response.headers().clone(), response.url().clone());
        if !status.is_success() && !reading.accept.contains(&status.as_u16()) {
            let excerpt = excerpt(response).await;
            let with_credential = reading.with_credential;
            return Err(Refused { status, headers: &headers, excerpt: &excerpt, with_credential }.fault(&place));
        }
        let name = url.path_segments().and_then(|mut parts| parts.next_back()).unwrap_or_default().to_owned();
        let answer = Self { status, headers, url, body: Value::Null, file: None, size: 0 };
        let kind = Kind::of(&answer.headers);
        if let Kind::Binary(content_type) = kind {
            let content = response.bytes_stream().map_err(std::io::Error::other).boxed();
            return answer.with_file(cx, File { name, content_type, content, limit: reading.limit }).await;
        }
        let bytes = bounded(response, reading.limit, &place).await?;
        if matches!(kind, Kind::Unnamed) && std::str::from_utf8(&bytes).is_err() {
            let content = stream::iter([Ok(bytes)]).boxed();
            let content_type = mime::APPLICATION_OCTET_STREAM.to_string();
            return answer.with_file(cx, File { name, content_type, content, limit: reading.limit }).await;
        }
        Ok(Self { size: bytes.len() as u64, body: kind.parse(&bytes, &place)?, ..answer })
    }

    async fn with_file(mut self, cx: &Context, file: File) -> Result<Self, Fault> {
        let name = if file.name.is_empty() { "download" } else { &file.name };
        let stored = cx
            .attachments()
            .store(cx.place().execution, name, &file.content_type, file.content, file.limit)
            .await
            .map_err(|error| match error {
                AttachmentError::TooLarge(limit) => too_large(&target::shown(&self.url), limit),
                other => Fault::outage("response_incomplete", other.to_string()),
            })?;
        self.size = stored.size;
        self.body = json!({ "name": stored.name, "content_type": stored.content_type, "size": stored.size });
        self.file = Some(stored);
        Ok(self)
    }

    /// Status, headers and body as one value; a header that comes several times has its values
    /// joined by commas.
    pub(crate) fn full(&self, body: Value) -> Value {
        let mut headers = Map::with_capacity(self.headers.len());
        for (name, value) in &self.headers {
            let text = String::from_utf8_lossy(value.as_bytes());
            match headers.get_mut(name.as_str()) {
                Some(Value::String(joined)) => {
                    joined.push_str(", ");
                    joined.push_str(&text);
                }
                _ => drop(headers.insert(name.as_str().to_owned(), Value::String(text.into_owned()))),
            }
        }
        json!({ "status": self.status.as_u16(), "headers": headers, "body": body })
    }
}

struct File {
    name: String,
    content_type: String,
    content: ByteStream,
    limit: Size,
}

/// What a media type says of a body.
enum Kind {
    Json,
    Text(&'static Encoding),
    Binary(String),
    /// There is none: text if it reads as text.
    Unnamed,
}

impl Kind {
    fn of(headers: &HeaderMap) -> Self {
        let Some(text) = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()) else { return Kind::Unnamed };
        let Ok(media) = text.parse::<Mime>() else { return Kind::Unnamed };
        let subtype = media.subtype();
        if subtype == mime::JSON || media.suffix() == Some(mime::JSON) {
            return Kind::Json;
        }
        let is_text = media.type_() == mime::TEXT
            || subtype == mime::XML
            || media.suffix() == Some(mime::XML)
            || matches!(subtype.as_str(), "javascript" | "x-www-form-urlencoded" | "yaml" | "x-ndjson" | "graphql");
        if !is_text {
            return Kind::Binary(text.to_owned());
        }
        let charset = media.get_param(mime::CHARSET);
        Kind::Text(charset.and_then(|name| Encoding::for_label(name.as_str().as_bytes())).unwrap_or(encoding_rs::UTF_8))
    }

    fn parse(&self, bytes: &[u8], place: &str) -> Result<Value, Fault> {
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        match self {
            Kind::Json => serde_json::from_slice(bytes).map_err(|error| {
                Fault::reject("response_invalid", format!("{place} answered with JSON that cannot be read: {error}"))
            }),
            Kind::Text(encoding) => Ok(encoding.decode(bytes).0.into_owned().into()),
            Kind::Binary(_) | Kind::Unnamed => Ok(String::from_utf8_lossy(bytes).into_owned().into()),
        }
    }
}

/// A whole body, if it is no longer than `limit`.
pub(crate) async fn bounded(mut response: Response, limit: Size, place: &str) -> Result<Bytes, Fault> {
    if response.content_length().is_some_and(|length| length > limit.0) {
        return Err(too_large(place, limit));
    }
    let mut first = None;
    let mut collected = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| faults::unanswered(&error, place))? {
        let held = first.as_ref().map_or(collected.len(), Bytes::len);
        if (held + chunk.len()) as u64 > limit.0 {
            return Err(too_large(place, limit));
        }
        // Most answers are one chunk, which then need not be copied.
        match first.take() {
            None if collected.is_empty() => first = Some(chunk),
            None => collected.extend_from_slice(&chunk),
            Some(earlier) => {
                collected.extend_from_slice(&earlier);
                collected.extend_from_slice(&chunk);
            }
        }
    }
    Ok(first.unwrap_or_else(|| collected.freeze()))
}

fn too_large(place: &str, limit: Size) -> Fault {
    Fault::reject("response_too_large", format!("the answer of {place} is larger than {limit} (`response_limit`)"))
}

/// The beginning of a body, as far as it comes.
async fn excerpt(mut response: Response) -> String {
    let mut bytes = Vec::new();
    while bytes.len() < EXCERPT
        && let Ok(Some(chunk)) = response.chunk().await
    {
        bytes.extend_from_slice(&chunk);
    }
    bytes.truncate(EXCERPT);
    String::from_utf8_lossy(&bytes).into_owned()
}
