//! What a worker publishes about a delivery, in the form of the step contract. It builds
//! publications and sends none.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use flowline_model::{Attachment, Emit, Fault, Recipient, Reply};
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{incoming::Incoming, lines, objects::RemoteObjects, settings::Settings};

/// Something to be published.
pub(crate) struct Publication {
    pub(crate) key: String,
    pub(crate) headers: FieldTable,
    pub(crate) payload: Vec<u8>,
}

/// Builds what is published about one delivery.
pub(crate) struct Publications<'a> {
    settings: &'a Settings,
    incoming: &'a Incoming,
    started_at: i64,
    built: u64,
}

/// An emit as it travels; the part under `flowline` is what the contract has no word for.
#[derive(Serialize)]
struct Data<'a> {
    id: &'a str,
    body: &'a Value,
    headers: &'a BTreeMap<String, String>,
    attachments: Map<String, Value>,
    metadata: Map<String, Value>,
    flowline: Extra<'a>,
}

#[derive(Serialize)]
struct Extra<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<To<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay_ms: Option<u64>,
    headers: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attachments: Option<&'a [Attachment]>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum To<'a> {
    Output(&'a str),
    Myself,
}

fn millis(delay: Duration) -> u64 {
    u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)
}

/// Files by name, with where each can be read. Of several with one name all but the first get another.
fn links(files: &[Attachment], store: &RemoteObjects) -> Map<String, Value> {
    let mut links = Map::new();
    for file in files {
        let mut name = file.name.clone();
        for copy in 2.. {
            if !links.contains_key(&name) {
                break;
            }
            name = format!("{copy}-{}", file.name);
        }
        let url = store.link(file).unwrap_or(&file.id);
        links.insert(name, json!({ "url": url, "content-type": file.content_type, "size": file.size }));
    }
    links
}

fn insert(headers: &mut FieldTable, name: &'static str, value: &str) {
    headers.insert(ShortString::from(name), AMQPValue::LongString(LongString::from(value)));
}

impl<'a> Publications<'a> {
    pub(crate) fn new(settings: &'a Settings, incoming: &'a Incoming) -> Self {
        Self { settings, incoming, started_at: lines::now().as_millis(), built: 0 }
    }

    /// The id of the next publication: the same whenever the delivery is repeated.
    fn next_id(&mut self) -> String {
        self.built += 1;
        self.incoming.job.message.id.derive(&[b"publication", &self.built.to_be_bytes()]).to_string()
    }

    fn headers(&self, id: &str, protocol: Option<u32>) -> FieldTable {
        let mut headers = FieldTable::default();
        for (name, value) in &self.incoming.meta {
            headers.insert(name.clone(), value.clone());
        }
        for (name, value) in &self.settings.origin {
            insert(&mut headers, name, value);
        }
        insert(&mut headers, "messageId", id);
        insert(&mut headers, "parentMessageId", &self.incoming.id);
        if let Some(thread) = &self.incoming.thread {
            insert(&mut headers, "threadId", thread);
        }
        if let Some(key) = &self.incoming.reply_to {
            insert(&mut headers, "reply_to", key);
        }
        headers.insert("start".into(), AMQPValue::LongLongInt(self.started_at));
        headers.insert("end".into(), AMQPValue::LongLongInt(lines::now().as_millis()));
        if let Some(version) = protocol {
            headers.insert("protocolVersion".into(), AMQPValue::LongUInt(version));
        }
        headers
    }

    /// A message for the next steps; a fault if it is larger than it may be.
    pub(crate) fn data(&mut self, emit: &Emit, files: &RemoteObjects) -> Result<Publication, Fault> {
        let id = self.next_id();
        let to = match &emit.to {
            Recipient::Next => None,
            Recipient::Output(name) => Some(To::Output(name)),
            Recipient::Myself => Some(To::Myself),
        };
        // Files that Flowline knows are named as it names them; of new ones it is told where they lie.
        let any_new = emit.attachments.iter().any(|file| files.is_new(file));
        let attachments = if any_new { links(&emit.attachments, files) } else { Map::new() };
        let known = (!any_new).then_some(emit.attachments.as_slice());
        let extra = Extra { to, delay_ms: emit.delay.map(millis), headers: &emit.headers, attachments: known };
        let metadata = Map::new();
        let data = Data { id: &id, body: &emit.body, headers: &emit.headers, attachments, metadata, flowline: extra };
        let text = serde_json::to_vec(&data).map_err(|error| Fault::reject("emit_unwritable", error.to_string()))?;
        let cipher = &self.settings.cipher;
        let payload =
            if self.settings.protocol >= 2 { cipher.seal(&text) } else { cipher.seal_text(&text).into_bytes() };
        let (size, limit) = (payload.len(), self.settings.size_limit);
        if size > limit {
            let message = format!("an emitted message has {size} bytes encrypted, more than the {limit} it may have");
            return Err(Fault::reject("too_large", message));
        }
        let headers = self.headers(&id, Some(self.settings.protocol));
        Ok(Publication { key: self.settings.broker.data_key.clone(), headers, payload })
    }

    /// What the step remembers from now on.
    pub(crate) fn state(&mut self, changes: &[(String, Option<Value>)]) -> Publication {
        self.snapshot_event("state", &json!(changes))
    }

    /// How far a poll came.
    pub(crate) fn snapshot(&mut self, snapshot: &Value) -> Publication {
        self.snapshot_event("snapshot", snapshot)
    }

    fn snapshot_event(&mut self, event: &str, content: &Value) -> Publication {
        let id = self.next_id();
        let mut headers = self.headers(&id, None);
        insert(&mut headers, "snapshotEvent", event);
        let payload = content.to_string().into_bytes();
        Publication { key: self.settings.broker.snapshot_key.clone(), headers, payload }
    }

    /// The answer to the webhook's caller; none if nobody waits for one.
    pub(crate) fn reply(&mut self, reply: &Reply) -> Option<Publication> {
        let key = self.incoming.reply_to.clone()?;
        let id = self.next_id();
        let headers: Map<String, Value> =
            reply.headers.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        let mut text = json!({ "statusCode": reply.status, "headers": headers });
        // What is no text has a field of its own.
        match std::str::from_utf8(&reply.body) {
            Ok(body) => text["body"] = body.into(),
            Err(_) => text["body_base64"] = BASE64.encode(&reply.body).into(),
        }
        let payload = self.settings.cipher.seal_text(text.to_string().as_bytes()).into_bytes();
        Some(Publication { key, headers: self.headers(&id, Some(1)), payload })
    }

    /// Why the message could not be processed.
    pub(crate) fn fault(&mut self, fault: &Fault) -> Publication {
        let id = self.next_id();
        let error = json!({ "name": fault.code, "message": fault.message, "stack": "", "fault": fault });
        let payload = json!({ "error": self.settings.cipher.seal_text(error.to_string().as_bytes()) });
        let headers = self.headers(&id, None);
        Publication { key: self.settings.broker.error_key.clone(), headers, payload: payload.to_string().into_bytes() }
    }
}
