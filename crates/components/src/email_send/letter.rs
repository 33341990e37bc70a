//! The letter: addresses, texts and files as a MIME message. What a field holds can never become
//! a header or another recipient: the library encodes it.

use std::time::{Duration, SystemTime};

use flowline_sdk::{Attachment, Context, Fault, Size};
use futures::TryStreamExt;
use lettre::{
    Message,
    message::{Attachment as Part, Mailbox, Mailboxes, MessageBuilder, MultiPart, SinglePart, header::ContentType},
};

use super::{Addresses, EmailSendConfig};

/// The most that attachments of one mail may have together.
const ATTACHMENTS: Size = Size::mib(25);

/// The `Message-ID` of what this run sends.
pub(super) fn message_id(cx: &Context) -> String {
    format!("<{}@flowline>", cx.idempotency_key())
}

/// The mail as it is sent.
pub(super) async fn write(cx: &Context, config: &EmailSendConfig, files: &[Attachment]) -> Result<Message, Fault> {
    let head = head(cx, config)?;
    let (text, html) = (config.text.clone(), config.html.clone());
    let written = if files.is_empty() {
        match (text, html) {
            (Some(text), Some(html)) => head.multipart(MultiPart::alternative_plain_html(text, html)),
            (None, Some(html)) => head.singlepart(SinglePart::html(html)),
            (text, None) => head.singlepart(SinglePart::plain(text.unwrap_or_default())),
        }
    } else {
        let mixed = MultiPart::mixed();
        let mut parts = match (text, html) {
            (Some(text), Some(html)) => mixed.multipart(MultiPart::alternative_plain_html(text, html)),
            (None, Some(html)) => mixed.singlepart(SinglePart::html(html)),
            (text, None) => mixed.singlepart(SinglePart::plain(text.unwrap_or_default())),
        };
        for part in attached(cx, files).await? {
            parts = parts.singlepart(part);
        }
        head.multipart(parts)
    };
    written.map_err(|error| Fault::reject("mail_invalid", format!("the mail cannot be written: {error}")))
}

fn head(cx: &Context, config: &EmailSendConfig) -> Result<MessageBuilder, Fault> {
    let from = config.from.parse::<Mailbox>().map_err(|error| invalid("from", &config.from, &error))?;
    let to = mailboxes("to", &config.to)?;
    let (cc, bcc) = (mailboxes("cc", &config.cc)?, mailboxes("bcc", &config.bcc)?);
    if to.is_empty() && cc.is_empty() && bcc.is_empty() {
        return Err(Fault::reject("mail_invalid", "nobody receives the mail: `to`, `cc` and `bcc` are empty"));
    }
    let sent = SystemTime::UNIX_EPOCH + Duration::from_millis(cx.now().as_millis().max(0).unsigned_abs());
    let mut head = Message::builder().from(from).subject(&config.subject).date(sent).message_id(Some(message_id(cx)));
    for mailbox in to {
        head = head.to(mailbox);
    }
    for mailbox in cc {
        head = head.cc(mailbox);
    }
    for mailbox in bcc {
        head = head.bcc(mailbox);
    }
    for mailbox in mailboxes("reply_to", &config.reply_to)? {
        head = head.reply_to(mailbox);
    }
    Ok(head)
}

fn mailboxes(field: &str, addresses: &Addresses) -> Result<Vec<Mailbox>, Fault> {
    let texts = match addresses {
        Addresses::One(text) => std::slice::from_ref(text),
        Addresses::Several(texts) => texts,
    };
    let mut found = Vec::new();
    for text in texts.iter().filter(|text| !text.trim().is_empty()) {
        let parsed: Mailboxes = text.parse().map_err(|error| invalid(field, text, &error))?;
        found.extend(parsed);
    }
    Ok(found)
}

fn invalid(field: &str, text: &str, error: &lettre::address::AddressError) -> Fault {
    let shown: String = text.chars().take(100).collect();
    Fault::reject("address_invalid", format!("`{shown}` in `{field}` is not a mail address: {error}"))
}

async fn attached(cx: &Context, files: &[Attachment]) -> Result<Vec<SinglePart>, Fault> {
    let mut left = ATTACHMENTS.0;
    let mut parts = Vec::with_capacity(files.len());
    for file in files {
        let content = read(cx, file, left).await?;
        left -= content.len() as u64;
        let media = ContentType::parse(&file.content_type)
            .or_else(|_| ContentType::parse("application/octet-stream"))
            .map_err(|error| Fault::reject("attachment_type", error.to_string()))?;
        parts.push(Part::new(file.name.clone()).body(content, media));
    }
    Ok(parts)
}

async fn read(cx: &Context, file: &Attachment, limit: u64) -> Result<Vec<u8>, Fault> {
    let too_large = || Fault::reject("attachments_too_large", format!("the attachments have more than {ATTACHMENTS}"));
    if file.size > limit {
        return Err(too_large());
    }
    let unreadable =
        |error: &dyn std::error::Error| Fault::reject("attachment_unreadable", format!("`{}`: {error}", file.name));
    let mut stream = cx.attachments().open(file).await.map_err(|error| unreadable(&error))?;
    let mut content = Vec::new();
    while let Some(chunk) = stream.try_next().await.map_err(|error| unreadable(&error))? {
        content.extend_from_slice(&chunk);
        if content.len() as u64 > limit {
            return Err(too_large());
        }
    }
    Ok(content)
}
