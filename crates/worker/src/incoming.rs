//! A delivery, read: what is to be run, on what, and what every publication about it carries.

use std::collections::HashMap;

use flowline_model::{ExecutionId, FlowName, Message, MessageId, StepId};
use flowline_sdk::Place;
use lapin::{
    message::Delivery,
    types::{AMQPValue, FieldTable, ShortString},
};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::cipher::Cipher;

/// Headers that every descendant of a message carries begin so.
const META: &str = "x-eio-meta-";

/// What Flowline asks a worker to do.
#[derive(Deserialize)]
pub(crate) struct Job {
    /// The operation's name, such as `http.request`.
    pub(crate) operation: String,
    /// Its configuration, every expression evaluated.
    #[serde(default)]
    pub(crate) config: Value,
    place: JobPlace,
    /// The message as the engine holds it.
    pub(crate) message: Message,
    /// How long the attempt may take.
    #[serde(default)]
    pub(crate) timeout_ms: Option<u64>,
}

#[derive(Deserialize)]
struct JobPlace {
    flow: FlowName,
    version: u32,
    step: StepId,
    execution: ExecutionId,
    message: MessageId,
    attempt: u32,
}

impl Job {
    /// Where it runs, and for which message.
    pub(crate) fn place(&self) -> Place {
        let JobPlace { flow, version, step, execution, message, attempt } = &self.place;
        let (version, execution, message, attempt) = (*version, *execution, *message, *attempt);
        Place { flow: flow.clone(), version, step: step.clone(), execution, message, attempt }
    }
}

#[derive(Deserialize)]
struct Inner {
    /// The message's files as components see them, in their order.
    #[serde(default)]
    attachments: Map<String, Value>,
    flowline: Job,
}

impl Inner {
    /// Where the files of the message can be read, by their ids.
    fn links(&self) -> HashMap<String, String> {
        let files = self.flowline.message.attachments.iter().map(|file| file.id.clone());
        let urls = self.attachments.values().filter_map(|link| link.get("url")?.as_str().map(str::to_owned));
        files.zip(urls).collect()
    }
}

/// A delivery that could be read.
pub(crate) struct Incoming {
    /// How the other side calls the message: what publications name as their parent.
    pub(crate) id: String,
    /// The execution, as the other side calls it.
    pub(crate) thread: Option<String>,
    /// Where an answer to the caller of the webhook goes.
    pub(crate) reply_to: Option<String>,
    /// What every descendant carries.
    pub(crate) meta: Vec<(ShortString, AMQPValue)>,
    /// Where the files of the message can be read, by their ids.
    pub(crate) links: HashMap<String, String>,
    /// What is to be done.
    pub(crate) job: Job,
}

/// Why a delivery cannot be read; never holds any of its content.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error("it has no headers")]
    NoHeaders,
    #[error("it is not encrypted with this step's key")]
    Sealed,
    #[error("it is not a message for a Flowline worker, at line {0} column {1}")]
    Json(usize, usize),
}

impl Incoming {
    /// Reads a delivery.
    pub(crate) fn read(cipher: &Cipher, delivery: &Delivery) -> Result<Self, Unreadable> {
        let headers = delivery.properties.headers().as_ref().ok_or(Unreadable::NoHeaders)?;
        let raw = number(headers, "protocolVersion").is_some_and(|version| version >= 2);
        let opened = if raw { cipher.open(&delivery.data) } else { cipher.open_text(&delivery.data) };
        let text = opened.ok_or(Unreadable::Sealed)?;
        let inner: Inner =
            serde_json::from_slice(&text).map_err(|error| Unreadable::Json(error.line(), error.column()))?;
        let links = inner.links();
        let job = inner.flowline;
        let id = text_of(headers, "messageId").unwrap_or_else(|| job.place.message.to_string());
        let meta = headers.inner().iter().filter(|(name, _)| name.as_str().to_ascii_lowercase().starts_with(META));
        Ok(Self {
            id,
            thread: text_of(headers, "threadId"),
            reply_to: text_of(headers, "reply_to").filter(|key| !key.is_empty()),
            meta: meta.map(|(name, value)| (name.clone(), value.clone())).collect(),
            links,
            job,
        })
    }
}

fn text_of(headers: &FieldTable, name: &str) -> Option<String> {
    match headers.inner().get(name)? {
        AMQPValue::LongString(text) => Some(String::from_utf8_lossy(text.as_bytes()).into_owned()),
        AMQPValue::ShortString(text) => Some(text.as_str().to_owned()),
        _ => None,
    }
}

fn number(headers: &FieldTable, name: &str) -> Option<i64> {
    match headers.inner().get(name)? {
        AMQPValue::ShortShortInt(number) => Some((*number).into()),
        AMQPValue::ShortShortUInt(number) => Some((*number).into()),
        AMQPValue::ShortInt(number) => Some((*number).into()),
        AMQPValue::ShortUInt(number) => Some((*number).into()),
        AMQPValue::LongInt(number) => Some((*number).into()),
        AMQPValue::LongUInt(number) => Some((*number).into()),
        AMQPValue::LongLongInt(number) => Some(*number),
        _ => None,
    }
}
