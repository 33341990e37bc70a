//! Events: what happened to a message, written in the same operation as what it changed.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{ExecutionId, Fault, MessageId, QueueName, Timestamp};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A message was accepted from outside (or began an execution).
    Accepted,
    /// A step processed its message.
    Done,
    /// A step failed and will try again.
    Retried,
    /// The message became a dead letter.
    DeadLettered,
    /// A dead letter was put back on its queue.
    Replayed,
    /// A message was thrown away because somebody asked for it.
    Discarded,
}

/// One line of an execution's history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// The execution it belongs to.
    pub execution: ExecutionId,
    /// The step's queue: which flow, which step.
    pub queue: QueueName,
    /// The message it happened to.
    pub message: MessageId,
    /// What happened.
    pub kind: EventKind,
    /// The version of the flow that the message belongs to.
    pub version: u32,
    /// Which attempt, from 1; 0 where no step ran.
    pub attempt: u32,
    /// When the attempt began, or when it happened.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
    /// How many messages came of it that wait on a queue now.
    pub emitted: u32,
    /// What the step produced that no step receives, so that it stands nowhere else; bounded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<Value>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}
