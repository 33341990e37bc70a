//! The mailbox: shows the mails that came, on a page and as JSON.

use axum::{Json, Router, extract::State, response::Html, routing::get};
use mail_parser::{MessageParser, MimeHeaders};
use serde_json::{Value, json};

use crate::{Latest, page};

/// The most of a mail's text that is kept, in characters.
const KEPT_TEXT: usize = 10_000;

/// The mailbox.
#[derive(Clone)]
pub struct Mailbox {
    mails: Latest<Value>,
}

impl Mailbox {
    /// A mailbox that keeps so many mails, the latest.
    pub fn new(keep: usize) -> Self {
        Self { mails: Latest::new(keep) }
    }

    /// Its page and its API.
    pub fn routes(self) -> Router {
        Router::new().route("/", get(home)).route("/api/mails", get(mails)).with_state(self)
    }

    /// Takes a mail; one that comes again, by its `Message-ID`, is there once.
    pub(crate) fn take(&self, to: Vec<String>, content: &[u8]) {
        let Some(mail) = MessageParser::default().parse(content) else { return };
        let id = mail.message_id().unwrap_or_default().to_owned();
        let from = mail.from().and_then(|from| from.first()).and_then(|from| from.address()).unwrap_or_default();
        let text: String = mail.body_text(0).unwrap_or_default().chars().take(KEPT_TEXT).collect();
        let files: Vec<&str> = mail.attachments().filter_map(|file| file.attachment_name()).collect();
        let entry = json!({
            "id": id, "from": from, "to": to, "subject": mail.subject(), "text": text.trim_end(), "attachments": files,
        });
        let key = if id.is_empty() { entry.to_string() } else { id };
        self.mails.add(&key, entry);
    }
}

async fn mails(State(mailbox): State<Mailbox>) -> Json<Value> {
    Json(json!({ "mails": mailbox.mails.all() }))
}

async fn home(State(mailbox): State<Mailbox>) -> Html<String> {
    let mails = mailbox.mails.all();
    let text = |mail: &Value, field: &str| mail[field].as_str().unwrap_or_default().to_owned();
    let recipients = |mail: &Value| {
        mail["to"].as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
    };
    let rows: Vec<_> = mails
        .iter()
        .map(|mail| vec![text(mail, "from"), recipients(mail), text(mail, "subject"), text(mail, "text")])
        .collect();
    let remark = format!("{} mails, the newest first.", rows.len());
    page::table("Mailbox", &remark, &["From", "To", "Subject", "Text"], &rows)
}
