//! What is written and read, encoded before it goes to the writer and decoded after it came
//! from the store: the one writer thread never parses or prints JSON.

use std::{borrow::Cow, collections::BTreeMap};

use flowline_model::{
    Attachment, Enqueue, Event, EventKind, Fault, Message, MessageId, QueueName, StateWrite, StepId, Timestamp,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::QueueError;

/// The part of a message that is stored as JSON; the rest has columns.
#[derive(Serialize, Deserialize)]
struct Payload<'a> {
    body: Cow<'a, Value>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    headers: Cow<'a, BTreeMap<String, String>>,
    #[serde(default, skip_serializing_if = "<[Attachment]>::is_empty")]
    attachments: Cow<'a, [Attachment]>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    steps: Cow<'a, BTreeMap<StepId, Value>>,
}

/// A message on its way into the store.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) queue: QueueName,
    pub(crate) columns: Columns,
    pub(crate) payload: Vec<u8>,
    pub(crate) ready_at: Option<i64>,
    pub(crate) group: Option<String>,
    /// The message itself, to be handed to a worker without being read back.
    pub(crate) fresh: Option<Box<Message>>,
}

impl Incoming {
    pub(crate) fn encode(enqueue: Enqueue) -> Result<Self, QueueError> {
        Ok(Self {
            columns: Columns::of(&enqueue.message),
            payload: encode_payload(&enqueue.message)?,
            queue: enqueue.queue,
            ready_at: enqueue.ready_at.map(Timestamp::as_millis),
            group: enqueue.group,
            fresh: Some(Box::new(enqueue.message)),
        })
    }
}

/// The parts of a message that have columns.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Columns {
    pub(crate) id: MessageId,
    pub(crate) parent: Option<MessageId>,
    pub(crate) execution: MessageId,
    pub(crate) version: u32,
}

impl Columns {
    pub(crate) fn of(message: &Message) -> Self {
        let Message { id, parent, execution, version, .. } = *message;
        Self { id, parent, execution, version }
    }
}

/// A message as it stands in the store.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Stored {
    pub(crate) columns: Columns,
    pub(crate) enqueued_at: i64,
    pub(crate) payload: Vec<u8>,
}

impl Stored {
    pub(crate) fn decode(&self) -> Result<Message, QueueError> {
        let payload: Payload<'_> = serde_json::from_slice(&self.payload)
            .map_err(|error| damaged(format!("message {}: {error}", self.columns.id)))?;
        Ok(Message {
            id: self.columns.id,
            execution: self.columns.execution,
            parent: self.columns.parent,
            version: self.columns.version,
            body: payload.body.into_owned(),
            headers: payload.headers.into_owned(),
            attachments: payload.attachments.into_owned(),
            steps: payload.steps.into_owned(),
        })
    }
}

pub(crate) fn encode_payload(message: &Message) -> Result<Vec<u8>, QueueError> {
    let payload = Payload {
        body: Cow::Borrowed(&message.body),
        headers: Cow::Borrowed(&message.headers),
        attachments: Cow::Borrowed(&message.attachments),
        steps: Cow::Borrowed(&message.steps),
    };
    serde_json::to_vec(&payload).map_err(unprintable)
}

/// A change of a step's memory on its way into the store.
#[derive(Debug)]
pub(crate) struct StateChange {
    pub(crate) queue: QueueName,
    pub(crate) key: String,
    pub(crate) value: Option<String>,
}

impl StateChange {
    pub(crate) fn encode(write: StateWrite) -> Result<Self, QueueError> {
        let value = write.value.map(|value| serde_json::to_string(&value)).transpose().map_err(unprintable)?;
        Ok(Self { queue: write.queue, key: write.key, value })
    }
}

/// An event on its way into the store or out of it.
#[derive(Debug, Clone)]
pub(crate) struct EventRow {
    pub(crate) queue: QueueName,
    pub(crate) execution: MessageId,
    pub(crate) message: MessageId,
    pub(crate) kind: EventKind,
    pub(crate) version: u32,
    pub(crate) attempt: u32,
    pub(crate) started_at: i64,
    pub(crate) ended_at: i64,
    pub(crate) emitted: u32,
    pub(crate) outputs: Option<String>,
    pub(crate) fault: Option<String>,
}

impl EventRow {
    pub(crate) fn encode(event: Event) -> Result<Self, QueueError> {
        let outputs = (!event.outputs.is_empty()).then(|| serde_json::to_string(&event.outputs));
        let fault = event.fault.as_ref().map(serde_json::to_string);
        Ok(Self {
            queue: event.queue,
            execution: event.execution,
            message: event.message,
            kind: event.kind,
            version: event.version,
            attempt: event.attempt,
            started_at: event.started_at.as_millis(),
            ended_at: event.ended_at.as_millis(),
            emitted: event.emitted,
            outputs: outputs.transpose().map_err(unprintable)?,
            fault: fault.transpose().map_err(unprintable)?,
        })
    }

    /// What the store itself did with a message, at once and without a step.
    pub(crate) fn told(queue: &QueueName, columns: Columns, kind: EventKind, now: i64) -> Self {
        Self {
            queue: queue.clone(),
            execution: columns.execution,
            message: columns.id,
            kind,
            version: columns.version,
            attempt: 0,
            started_at: now,
            ended_at: now,
            emitted: 0,
            outputs: None,
            fault: None,
        }
    }

    pub(crate) fn decode(self) -> Result<Event, QueueError> {
        let outputs = self.outputs.map(|text| serde_json::from_str(&text)).transpose();
        Ok(Event {
            execution: self.execution,
            queue: self.queue,
            message: self.message,
            kind: self.kind,
            version: self.version,
            attempt: self.attempt,
            started_at: Timestamp::from_millis(self.started_at),
            ended_at: Timestamp::from_millis(self.ended_at),
            emitted: self.emitted,
            outputs: outputs.map_err(|error| damaged(format!("an event's outputs: {error}")))?.unwrap_or_default(),
            fault: self.fault.as_deref().map(decode_fault).transpose()?,
        })
    }
}

pub(crate) fn encode_fault(fault: &Fault) -> Result<String, QueueError> {
    serde_json::to_string(fault).map_err(unprintable)
}

pub(crate) fn decode_fault(text: &str) -> Result<Fault, QueueError> {
    serde_json::from_str(text).map_err(|error| damaged(format!("a fault: {error}")))
}

pub(crate) fn decode_value(text: &str) -> Result<Value, QueueError> {
    serde_json::from_str(text).map_err(|error| damaged(format!("a step's state: {error}")))
}

/// The number that stands for a kind of event in the store; numbers are never given twice.
pub(crate) fn kind_number(kind: EventKind) -> i64 {
    match kind {
        EventKind::Accepted => 1,
        EventKind::Done => 2,
        EventKind::Retried => 3,
        EventKind::DeadLettered => 4,
        EventKind::Replayed => 5,
        EventKind::Discarded => 6,
    }
}

pub(crate) fn kind_of(number: i64) -> Option<EventKind> {
    use EventKind::{Accepted, DeadLettered, Discarded, Done, Replayed, Retried};
    [Accepted, Done, Retried, DeadLettered, Replayed, Discarded].into_iter().find(|kind| kind_number(*kind) == number)
}

fn unprintable(error: serde_json::Error) -> QueueError {
    QueueError::Unusable(format!("it cannot be written as JSON: {error}"))
}

fn damaged(what: String) -> QueueError {
    QueueError::Unusable(format!("the store holds something unreadable: {what}; run `flowline doctor`"))
}
