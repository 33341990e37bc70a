//! Durable queues: the trait every backend implements, and the embedded store.
//!
//! A queue belongs to one step of one flow. A message waits on it (*ready*, or *delayed* until
//! an instant), is handed to a worker for a limited time (*leased*), and leaves it by a
//! settlement: one durable operation that also puts what came of it onto other queues, moves the
//! step's state and writes its events. A lease that nobody settles ends and the message returns.
#![warn(missing_docs)]

pub mod conformance;
pub mod embedded;

pub use embedded::{EmbeddedOptions, EmbeddedQueue, EmbeddedStats};

use std::time::Duration;

use async_trait::async_trait;
use flowline_model::{
    Delivery, Enqueue, Event, ExecutionId, Fault, Message, MessageId, QueueName, Settlement, StateWrite, Timestamp,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Why a queue could not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QueueError {
    /// A queue has reached its limit of messages or bytes.
    #[error("queue {queue} is full: {limit}")]
    Full {
        /// Which queue.
        queue: QueueName,
        /// Which limit, as a sentence.
        limit: String,
    },
    /// There is no such queue: it was never declared.
    #[error("there is no queue {0}")]
    Unknown(QueueName),
    /// The lease ended before its settlement came; the message was or will be delivered again.
    #[error("the lease of message {0} has ended")]
    LeaseEnded(MessageId),
    /// The disk has no room or cannot be written; nothing was changed. Worth repeating later.
    #[error("the data folder cannot be written: {0}")]
    Disk(String),
    /// The store is closing or its writer has stopped.
    #[error("the queue store is closed")]
    Closed,
    /// The data folder belongs to another running process.
    #[error("{0}")]
    InUse(String),
    /// The file cannot be used as it is: damaged, or written by a newer version.
    #[error("{0}")]
    Unusable(String),
    /// A dead letter, message or execution that is not there.
    #[error("{0} is not there")]
    NotFound(String),
}

/// Which queues there are.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Topology {
    /// Every queue that should exist; declaring never removes one.
    pub queues: Vec<QueueDeclaration>,
}

/// One queue that should exist.
#[derive(Debug, Clone, PartialEq)]
pub struct QueueDeclaration {
    /// Its name.
    pub name: QueueName,
    /// How much it may hold.
    pub limits: Limits,
}

/// How much a queue may hold, dead letters included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Messages that are ready, leased, delayed or dead.
    pub messages: u64,
    /// Their bytes as stored.
    pub bytes: u64,
}

impl Default for Limits {
    /// Twenty million messages, 64 GiB.
    fn default() -> Self {
        Self { messages: 20_000_000, bytes: 64 << 30 }
    }
}

/// Something from outside, made durable as one operation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Publication {
    /// What goes onto queues: all of it or nothing.
    pub messages: Vec<Enqueue>,
    /// What steps remember from now on.
    pub state: Vec<StateWrite>,
    /// What is told about it.
    pub events: Vec<Event>,
    /// Accept this publication only once.
    pub once: Option<Once>,
}

/// A key under which a publication is accepted only once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Once {
    /// Whose key: the queue of the trigger.
    pub queue: QueueName,
    /// The sender's name for what it delivers, such as a delivery id.
    pub key: String,
    /// What a repeated delivery is told: the message id of the first.
    pub message: MessageId,
    /// How long the key is remembered at least.
    pub remember: Duration,
}

/// What became of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// It is durable.
    Accepted,
    /// It had been accepted before under the same key; nothing was changed.
    Duplicate {
        /// The message id that was remembered with the key.
        first: MessageId,
    },
}

/// How much to lease, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseRequest {
    /// At most this many messages.
    pub messages: usize,
    /// No further message once this many bytes are reached; at least one message is given.
    pub bytes: usize,
    /// How long the leases last unless they are renewed.
    pub duration: Duration,
    /// How long to wait for the first message; zero does not wait.
    pub wait: Duration,
}

/// A delivery that ends in a settlement, or returns to its queue when its time is up.
#[derive(Debug, Clone, PartialEq)]
pub struct Lease {
    /// Identifies this lease; a later lease of the same message has another token.
    pub token: u64,
    /// What is leased.
    pub delivery: Delivery,
    /// The message's bytes as stored.
    pub bytes: usize,
}

/// What stands on one queue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QueueDepth {
    /// Which queue.
    pub queue: QueueName,
    /// Waiting, deliverable now.
    pub ready: u64,
    /// With a worker.
    pub leased: u64,
    /// Waiting for their time.
    pub delayed: u64,
    /// In the dead letters of this queue.
    pub dead: u64,
    /// Bytes of all of them as stored.
    pub bytes: u64,
    /// When the oldest ready or leased message came; none if there is none.
    pub oldest: Option<Timestamp>,
}

/// A message that was rejected or ran out of retries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Identifies the dead letter, in the order they came.
    pub id: u64,
    /// The queue it stood on.
    pub queue: QueueName,
    /// The message as it was delivered.
    pub message: Message,
    /// Why it died.
    pub fault: Fault,
    /// How often it was attempted.
    pub attempts: u32,
    /// When it died.
    pub died_at: Timestamp,
}

/// Which dead letters are meant: those that fit everything given.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DeadLetterFilter {
    /// Only these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<u64>,
    /// Only of this flow.
    pub flow: Option<flowline_model::FlowName>,
    /// Only of this step.
    pub step: Option<flowline_model::StepId>,
    /// Only with this fault code.
    pub code: Option<String>,
    /// Only with a higher id: for paging.
    pub after: Option<u64>,
}

/// How dead letters are replayed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Replay {
    /// The body to use instead: then the message gets a new id, since it is another request to
    /// the target. Without it the message keeps its id and with it its idempotency key.
    pub body: Option<Value>,
    /// The version of the flow to go on with; none keeps the message's own.
    pub version: Option<u32>,
}

/// Durable queues.
#[async_trait]
pub trait Queue: Send + Sync + 'static {
    /// Makes sure that these queues exist and sets their limits. Idempotent.
    async fn declare(&self, topology: &Topology) -> Result<(), QueueError>;

    /// Puts messages onto queues; returns when they are durable. Refused as a whole if one of
    /// the queues is full.
    async fn publish(&self, publication: Publication) -> Result<Published, QueueError>;

    /// Takes messages for a limited time, oldest first; those whose delay is over come first.
    /// Returns no message if none came in time.
    async fn lease(&self, queue: &QueueName, request: LeaseRequest) -> Result<Vec<Lease>, QueueError>;

    /// Lets a lease last for `duration` from now.
    async fn renew(&self, lease: &Lease, duration: Duration) -> Result<(), QueueError>;

    /// Applies the outcome of a lease as one durable operation; returns when it is durable.
    /// Limits do not apply: what was accepted finds a place.
    async fn settle(&self, lease: &Lease, settlement: Settlement) -> Result<(), QueueError>;

    /// Whether a queue has reached a limit. Answers from memory.
    fn is_full(&self, queue: &QueueName) -> bool;

    /// Whether a queue is so near a limit that what is under way to it may reach it: about a
    /// thousand messages or 16 MiB. Answers from memory.
    fn is_nearly_full(&self, queue: &QueueName) -> bool {
        self.is_full(queue)
    }

    /// What stands on every queue, by name. Answers from memory.
    async fn depths(&self) -> Result<Vec<QueueDepth>, QueueError>;

    /// What stands on one queue; none if there is no such queue. Answers from memory.
    async fn depth(&self, queue: &QueueName) -> Result<Option<QueueDepth>, QueueError> {
        Ok(self.depths().await?.into_iter().find(|depth| depth.queue == *queue))
    }

    /// Throws away everything that is ready or delayed on a queue, with an event for each;
    /// returns how many.
    async fn discard(&self, queue: &QueueName) -> Result<u64, QueueError>;

    /// Moves everything that is ready or delayed on a queue to its dead letters; returns how many.
    async fn dead_letter_all(&self, queue: &QueueName, fault: Fault) -> Result<u64, QueueError>;

    /// What a step remembers under a key.
    async fn state(&self, queue: &QueueName, key: &str) -> Result<Option<Value>, QueueError>;

    /// At most `max` entries of what a step remembers whose keys begin with `prefix` and are
    /// greater than `after`, by key.
    async fn states(
        &self,
        queue: &QueueName,
        prefix: &str,
        after: &str,
        max: usize,
    ) -> Result<Vec<(String, Value)>, QueueError>;

    /// At most `max` dead letters, oldest first.
    async fn dead_letters(&self, filter: &DeadLetterFilter, max: usize) -> Result<Vec<DeadLetter>, QueueError>;

    /// Puts dead letters back onto their queues, each as one durable operation; returns how many.
    async fn replay(&self, filter: &DeadLetterFilter, replay: &Replay) -> Result<u64, QueueError>;

    /// Throws dead letters away; returns how many.
    async fn discard_dead_letters(&self, filter: &DeadLetterFilter) -> Result<u64, QueueError>;
}

/// A message as the history shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredMessage {
    /// The queue it came onto.
    pub queue: QueueName,
    /// The message.
    pub message: Message,
    /// When it came.
    pub enqueued_at: Timestamp,
}

/// Everything known about one execution.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Trace {
    /// What happened, in order.
    pub events: Vec<Event>,
    /// The messages, in the order they came onto queues.
    pub messages: Vec<StoredMessage>,
}

/// How long what is finished is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Events that ended before this instant go.
    pub before: Timestamp,
    /// The oldest go until no more than this many bytes of finished messages are kept.
    pub bytes: u64,
    /// Nothing after this event goes, whatever its age: the recorder has not read it yet.
    pub recorded: u64,
}

/// What the queues remember of what has left them.
#[async_trait]
pub trait History: Send + Sync + 'static {
    /// At most `max` events with a number greater than `after`, in order.
    async fn events(&self, after: u64, max: usize) -> Result<Vec<(u64, Event)>, QueueError>;

    /// The events and messages of one execution, at most `max` of each.
    async fn trace(&self, execution: ExecutionId, max: usize) -> Result<Trace, QueueError>;

    /// Removes some of what has outlived its retention; returns how many events went, zero when
    /// nothing is left to remove.
    async fn forget(&self, retention: Retention) -> Result<u64, QueueError>;
}
