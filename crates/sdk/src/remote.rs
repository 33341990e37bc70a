//! Steps whose code runs outside this process: what the engine asks of whoever reaches them.
//!
//! The engine owns queues, leases and decisions. A [`Remote`] only carries a message to one of
//! the step's workers and brings back what came of it; it never stores, retries or decides.

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use flowline_model::{Emit, Fault, Message, OperationKind, QueueName};
use serde_json::Value;
use tokio::{sync::watch, time::Instant};

use crate::{Context, Host};

/// The workers of one step, wherever they run.
#[async_trait]
pub trait Remote: Send + Sync + 'static {
    /// How many messages the workers that are there take at the same time; changes are told.
    fn room(&self) -> watch::Receiver<usize>;

    /// Hands a message to a worker, as soon as one is free, and waits for what comes of it.
    /// State and reply are left in the context, as an operation in this process leaves them.
    ///
    /// While the result says `more` it is called again with the same message and brings the next
    /// part: each part is durable before the next is asked for.
    ///
    /// If it ends in a fault, what was remembered does not count. What was forgotten does: it
    /// was about this message only.
    async fn run(&self, cx: &Context, config: Value, input: Message) -> Result<Produced, Fault>;
}

/// What a worker made of a message, or the next part of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Produced {
    /// What the next steps receive.
    pub emits: Vec<Emit>,
    /// There is more: ask again.
    pub more: bool,
}

/// How a container is talked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contract {
    /// As components for elastic.io are: configuration once, at the start of the container.
    Component,
    /// As `flowline worker` is: the same contract, configuration with each message.
    Worker,
}

/// What the gateway needs to know of a step in containers.
#[derive(Debug, Clone)]
pub struct RemoteStep {
    /// Its queue: flow and step.
    pub queue: QueueName,
    /// The version of the flow that the workers belong to.
    pub version: u32,
    /// How its containers are talked to.
    pub contract: Contract,
    /// What the operation is used for.
    pub kind: OperationKind,
    /// The component's name.
    pub component: String,
    /// The operation: its key in `component.json`, or its whole name for `flowline worker`.
    pub function: String,
    /// What a container is told when it starts: fields and credential of the component, secrets
    /// among them. Empty for `flowline worker`.
    pub config: Value,
    /// How many messages one worker takes at the same time.
    pub prefetch: u32,
    /// How long a worker may hold one message.
    pub timeout: Duration,
}

/// What containers talk to: the step gateway.
#[async_trait]
pub trait Gateway: Send + Sync + 'static {
    /// Listens on this address of the machine, where containers reach it; not anywhere else any
    /// more. The same address again changes nothing.
    async fn listen(&self, address: IpAddr) -> io::Result<()>;

    /// Opens a step for workers. It is closed when the last handle is dropped.
    fn open(&self, step: RemoteStep, host: Arc<dyn Host>) -> Arc<dyn GatewayStep>;
}

/// The face of one step to its containers.
#[async_trait]
pub trait GatewayStep: Remote {
    /// Lets one worker in, at the address where the gateway listens: the environment that its
    /// container needs, with credentials that reach this step and nothing else. The name is the
    /// container's, unique among all.
    fn admit(&self, worker: &str) -> Vec<(String, String)>;

    /// Whether the component's startup hook left something for its shutdown hook to undo.
    async fn awaits_shutdown(&self) -> bool;

    /// Lets one worker in that takes no messages but runs the shutdown hook and ends.
    fn admit_shutdown(&self, worker: &str) -> Vec<(String, String)>;

    /// Ends a worker's credentials and connections; what it holds is a fault of its lease.
    /// The reason is told to people.
    fn expel(&self, worker: &str, reason: Fault);

    /// How a worker stands; none if it was never admitted or was expelled.
    fn presence(&self, worker: &str) -> Option<Presence>;
}

/// How a worker stands with the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Presence {
    /// Whether it has a connection.
    pub connected: bool,
    /// Whether it takes messages.
    pub consuming: bool,
    /// How many messages it holds.
    pub holding: usize,
    /// Since when it has held the oldest of them.
    pub holding_since: Option<Instant>,
    /// When it was last heard of: connected, took, answered.
    pub heard: Instant,
}
