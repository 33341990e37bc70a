//! Forms with files: fields go into the body, files are streamed into the attachment store.

use bytes::Bytes;
use flowline_sdk::{Attachment, ByteStream, prelude::*};
use futures::{StreamExt, stream};
use mime::Mime;
use multer::{Constraints, Field, Multipart, SizeLimit};
use serde_json::Map;

use super::{
    ReceiveConfig,
    body::{Content, File, add, broken, charset, decode},
};

/// The most fields of one form.
const MOST_FIELDS: usize = 1_000;
/// The longest name of a file that is kept, in characters.
const LONGEST_NAME: usize = 200;

/// Reads a form.
pub(super) async fn read(
    cx: &Context,
    config: &ReceiveConfig,
    content_type: &Mime,
    body: ByteStream,
) -> Result<Content, Refusal> {
    let boundary = multer::parse_boundary(content_type).map_err(|error| refusal(&error))?;
    let files = (config.files_limit as u64).saturating_mul(config.file_limit.0);
    let whole = SizeLimit::new().whole_stream(files.saturating_add(config.body_limit.0).saturating_add(64 << 10));
    let mut multipart = Multipart::with_constraints(body, boundary, Constraints::new().size_limit(whole));
    let mut form = Form { cx, config, fields: Map::new(), attachments: Vec::new(), text_left: config.body_limit.0 };
    let mut count = 0;
    while let Some(field) = multipart.next_field().await.map_err(|error| refusal(&error))? {
        count += 1;
        if count > MOST_FIELDS {
            return Err(Refusal::new(413, "too_many_fields", format!("the form has more than {MOST_FIELDS} fields")));
        }
        form.take(field).await?;
    }
    Ok(Content { body: Value::Object(form.fields), attachments: form.attachments })
}

/// What was read so far.
struct Form<'a> {
    cx: &'a Context,
    config: &'a ReceiveConfig,
    fields: Map<String, Value>,
    attachments: Vec<Attachment>,
    /// How many bytes of text may still come.
    text_left: u64,
}

impl Form<'_> {
    async fn take(&mut self, field: Field<'static>) -> Result<(), Refusal> {
        let name = field.name().unwrap_or_default().to_owned();
        self.spend(name.len())?;
        let value = match field.file_name().map(str::to_owned) {
            None => Some(Value::String(self.text(field).await?)),
            Some(file_name) => self.file(field, &file_name).await?,
        };
        if let Some(value) = value {
            add(&mut self.fields, name, value);
        }
        Ok(())
    }

    fn spend(&mut self, bytes: usize) -> Result<(), Refusal> {
        let limit = self.config.body_limit;
        self.text_left = self.text_left.checked_sub(bytes as u64).ok_or_else(|| {
            Refusal::new(413, "body_too_large", format!("the texts of the form are larger than {limit}"))
        })?;
        Ok(())
    }

    async fn text(&mut self, mut field: Field<'static>) -> Result<String, Refusal> {
        let charset = field.content_type().and_then(charset);
        let mut bytes = Vec::new();
        while let Some(part) = field.chunk().await.map_err(|error| refusal(&error))? {
            self.spend(part.len())?;
            bytes.extend_from_slice(&part);
        }
        decode(&bytes, charset.as_deref()).map(|text| text.into_owned())
    }

    /// Stores a file; none if no file was chosen in the form.
    async fn file(&mut self, mut field: Field<'static>, name: &str) -> Result<Option<Value>, Refusal> {
        let mut first = field.chunk().await.map_err(|error| refusal(&error))?;
        while first.as_ref().is_some_and(Bytes::is_empty) {
            first = field.chunk().await.map_err(|error| refusal(&error))?;
        }
        if first.is_none() && name.is_empty() {
            return Ok(None);
        }
        let most = self.config.files_limit;
        if self.attachments.len() >= most {
            return Err(Refusal::new(413, "too_many_files", format!("the form has more than {most} files")));
        }
        let name = file_name(name);
        let content_type = field.content_type().map_or("application/octet-stream", |mime| mime.as_ref()).to_owned();
        let content = stream::iter(first.map(Ok)).chain(field).map(|part| part.map_err(broken)).boxed();
        let file = File { execution: self.cx.place().execution, name: &name, content_type: &content_type };
        let attachment = file.store(self.cx, content, self.config.file_limit).await?;
        let value = json!(attachment);
        self.attachments.push(attachment);
        Ok(Some(value))
    }
}

/// The last part of what may be a path on the sender's machine.
fn file_name(given: &str) -> String {
    let last = given.rsplit(['/', '\\']).next().unwrap_or_default();
    let name: String = last.chars().filter(|c| !c.is_control()).take(LONGEST_NAME).collect();
    if name.trim_matches(['.', ' ']).is_empty() { "file".to_owned() } else { name }
}

fn refusal(error: &multer::Error) -> Refusal {
    match error {
        multer::Error::StreamSizeExceeded { .. } | multer::Error::FieldSizeExceeded { .. } => {
            Refusal::new(413, "body_too_large", "the form is larger than it may be")
        }
        multer::Error::StreamReadFailed(_) | multer::Error::IncompleteStream => {
            Refusal::new(400, "body_incomplete", "the body broke off")
        }
        other => Refusal::new(400, "invalid_form", format!("the form cannot be read: {other}")),
    }
}
