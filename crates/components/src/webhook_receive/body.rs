//! What a request carries, read as its content type says and within limits.

use std::borrow::Cow;

use encoding_rs::Encoding;
use flowline_sdk::ByteStream;
use flowline_sdk::{Attachment, AttachmentError, model::ExecutionId, prelude::*};
use futures::StreamExt;
use mime::Mime;
use serde_json::Map;

use super::{ReceiveConfig, multipart, xml};

/// The data and the files of a request.
#[derive(Default)]
pub(super) struct Content {
    pub(super) body: Value,
    pub(super) attachments: Vec<Attachment>,
}

impl From<Value> for Content {
    fn from(body: Value) -> Self {
        Self { body, attachments: Vec::new() }
    }
}

/// Ways to read a body.
enum Format {
    Json,
    Form,
    Multipart,
    Xml,
    Text,
    File,
}

impl Format {
    fn of(content_type: &Mime) -> Self {
        let suffix = content_type.suffix().map(|suffix| suffix.as_str());
        match (content_type.type_().as_str(), content_type.subtype().as_str(), suffix) {
            ("application", "json", _) | (_, _, Some("json")) => Self::Json,
            ("application", "x-www-form-urlencoded", _) => Self::Form,
            ("multipart", "form-data", _) => Self::Multipart,
            ("application" | "text", "xml", _) | (_, _, Some("xml")) => Self::Xml,
            ("text", _, _) => Self::Text,
            _ => Self::File,
        }
    }
}

/// Reads a request as its content type says.
pub(super) async fn read(cx: &Context, config: &ReceiveConfig, mut request: Request) -> Result<Content, Refusal> {
    let declared = content_type(&request)?;
    let may_be_empty = declared.is_none() || ["GET", "DELETE"].contains(&request.method.as_str());
    let (body, is_empty) = peek(request.body).await;
    request.body = body;
    if is_empty && may_be_empty {
        return Ok(query(&request.query).into());
    }
    let content_type = declared.unwrap_or(mime::APPLICATION_OCTET_STREAM);
    check_accepted(&content_type, &config.accept)?;
    match Format::of(&content_type) {
        Format::Multipart => multipart::read(cx, config, &content_type, request.body).await,
        Format::File => file(cx, config, &content_type, request.body).await,
        Format::Json => json(&text(&mut request, config, &content_type).await?),
        Format::Form => Ok(query(&text(&mut request, config, &content_type).await?).into()),
        Format::Xml => xml(&mut request, config, &content_type).await,
        Format::Text => Ok(Value::String(text(&mut request, config, &content_type).await?).into()),
    }
}

fn content_type(request: &Request) -> Result<Option<Mime>, Refusal> {
    let Some(written) = request.header("content-type") else { return Ok(None) };
    written.parse().map(Some).map_err(|_| Refusal::new(415, "invalid_content_type", "the content type cannot be read"))
}

/// The body, and whether nothing comes.
async fn peek(body: ByteStream) -> (ByteStream, bool) {
    let filled = body.filter(|part| std::future::ready(!part.as_ref().is_ok_and(bytes::Bytes::is_empty)));
    let mut peekable = Box::pin(filled.peekable());
    let is_empty = peekable.as_mut().peek().await.is_none();
    (peekable, is_empty)
}

fn check_accepted(content_type: &Mime, accept: &[String]) -> Result<(), Refusal> {
    let essence = content_type.essence_str();
    let fits = |accepted: &String| match accepted.strip_suffix("/*") {
        Some(kind) => content_type.type_().as_str().eq_ignore_ascii_case(kind) || kind == "*",
        None => accepted.eq_ignore_ascii_case(essence),
    };
    if accept.is_empty() || accept.iter().any(fits) {
        return Ok(());
    }
    let message = format!("the content type is not accepted; send one of: {}", accept.join(", "));
    Err(Refusal::new(415, "content_type_not_accepted", message).header("accept", &accept.join(", ")))
}

/// The parameters of a query or of a form that is written like one.
pub(super) fn query(text: &str) -> Value {
    let mut fields = Map::new();
    for (name, value) in url::form_urlencoded::parse(text.as_bytes()) {
        add(&mut fields, name.into_owned(), Value::String(value.into_owned()));
    }
    Value::Object(fields)
}

/// Adds a field to an object; a repeated one becomes a list.
pub(super) fn add(fields: &mut Map<String, Value>, name: String, value: Value) {
    match fields.get_mut(&name) {
        None => drop(fields.insert(name, value)),
        Some(Value::Array(values)) => values.push(value),
        Some(first) => *first = Value::Array(vec![first.take(), value]),
    }
}

async fn text(request: &mut Request, config: &ReceiveConfig, content_type: &Mime) -> Result<String, Refusal> {
    let bytes = request.bytes(config.body_limit).await?;
    decode(&bytes, charset(content_type).as_deref()).map(Cow::into_owned)
}

pub(super) fn charset(content_type: &Mime) -> Option<String> {
    content_type.get_param(mime::CHARSET).map(|name| name.as_str().to_owned())
}

/// The text that bytes stand for: UTF-8 unless said or marked otherwise.
pub(super) fn decode<'a>(bytes: &'a [u8], charset: Option<&str>) -> Result<Cow<'a, str>, Refusal> {
    let encoding = match charset {
        None => encoding_rs::UTF_8,
        Some(label) => Encoding::for_label(label.as_bytes())
            .ok_or_else(|| Refusal::new(400, "unsupported_charset", "the charset is not known"))?,
    };
    let (text, used, malformed) = encoding.decode(bytes);
    if malformed {
        return Err(Refusal::new(400, "invalid_text", format!("the body is not {}", used.name())));
    }
    Ok(text)
}

fn json(text: &str) -> Result<Content, Refusal> {
    serde_json::from_str::<Value>(text)
        .map(Content::from)
        .map_err(|error| Refusal::new(400, "invalid_json", format!("the body is not JSON: {error}")))
}

async fn xml(request: &mut Request, config: &ReceiveConfig, content_type: &Mime) -> Result<Content, Refusal> {
    let bytes = request.bytes(config.body_limit).await?;
    let charset = charset(content_type).or_else(|| xml::declared_encoding(&bytes));
    xml::to_json(&decode(&bytes, charset.as_deref())?)
        .map(Content::from)
        .map_err(|why| Refusal::new(400, "invalid_xml", format!("the body is not XML that can be read: {why}")))
}

/// A body that is not looked into: kept as an attachment.
async fn file(cx: &Context, config: &ReceiveConfig, content_type: &Mime, body: ByteStream) -> Result<Content, Refusal> {
    let content = body.map(|part| part.map_err(broken)).boxed();
    let file = File { execution: cx.place().execution, name: "body", content_type: content_type.as_ref() };
    let attachment = file.store(cx, content, config.file_limit).await?;
    let body = json!({ "content_type": attachment.content_type, "size": attachment.size });
    Ok(Content { body, attachments: vec![attachment] })
}

/// A file about to be stored.
pub(super) struct File<'a> {
    pub(super) execution: ExecutionId,
    pub(super) name: &'a str,
    pub(super) content_type: &'a str,
}

impl File<'_> {
    pub(super) async fn store(self, cx: &Context, content: ByteStream, limit: Size) -> Result<Attachment, Refusal> {
        let stored = cx.attachments().store(self.execution, self.name, self.content_type, content, limit).await;
        stored.map_err(|error| match error {
            AttachmentError::TooLarge(limit) => {
                Refusal::new(413, "file_too_large", format!("the file `{}` is larger than {limit}", self.name))
            }
            AttachmentError::Io(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                Refusal::new(400, "body_incomplete", "the body broke off or cannot be read")
            }
            AttachmentError::Io(_) | AttachmentError::Missing(_) => {
                Refusal::new(503, "attachment_not_stored", "the file could not be stored; send it again later")
                    .header("retry-after", "10")
            }
        })
    }
}

/// Marks an error as one of the sender's, so that it is told apart from one of our disk.
pub(super) fn broken(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, error)
}
