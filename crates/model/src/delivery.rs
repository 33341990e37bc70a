//! Deliveries and settlements: a message handed to a worker, and what becomes of it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Event, Fault, Message, QueueName, Timestamp};

/// A message handed to a worker.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// The queue it waited on.
    pub queue: QueueName,
    /// What was delivered.
    pub message: Message,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// When the message came onto the queue.
    pub enqueued_at: Timestamp,
    /// When the first of its attempts failed, if one did.
    pub first_failed_at: Option<Timestamp>,
    /// The group it was enqueued with.
    pub group: Option<String>,
}

/// A message to be put onto a queue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Enqueue {
    /// Where it will wait.
    pub queue: QueueName,
    /// What will wait.
    pub message: Message,
    /// Not to be delivered before this instant.
    pub ready_at: Option<Timestamp>,
    /// Messages of one group on one queue are delivered one at a time, in the order they came.
    pub group: Option<String>,
}

/// A change to what a step remembers between messages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StateWrite {
    /// Whose memory: the step's queue.
    pub queue: QueueName,
    /// Which entry.
    pub key: String,
    /// The new value; none removes the entry.
    pub value: Option<Value>,
}

/// What becomes of a delivered message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It is processed and leaves the queue.
    Done,
    /// It is not finished yet: what was emitted so far is made durable, the lease goes on.
    Continue,
    /// It failed and is delivered again, not before `at`; counts as an attempt.
    Retry {
        /// The earliest time of the next attempt.
        at: Timestamp,
    },
    /// It goes back to where it stood, as if it had never been delivered; no attempt counted.
    Release,
    /// It leaves the queue for the dead letters.
    DeadLetter {
        /// Why.
        fault: Fault,
    },
}

/// The outcome of one lease, applied as one durable operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settlement {
    /// What becomes of the message.
    pub verdict: Verdict,
    /// What is put onto other queues, or back onto its own.
    pub emits: Vec<Enqueue>,
    /// What the step remembers from now on.
    pub state: Vec<StateWrite>,
    /// What is told about it.
    pub events: Vec<Event>,
}
