//! The context: what an operation knows of where it runs, and what it may ask of its host.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use flowline_model::{ExecutionId, Expression, Fault, FlowName, MessageId, QueueName, Reply, StepId, Timestamp};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::Attachments;

/// What runs operations: the engine, or a test.
#[async_trait]
pub trait Host: Send + Sync + 'static {
    /// The time now.
    fn now(&self) -> Timestamp;

    /// What a step remembers under a key.
    async fn state(&self, step: &QueueName, key: &str) -> Result<Option<Value>, Fault>;

    /// At most `max` entries whose keys begin with `prefix` and are greater than `after`, by key.
    async fn states(
        &self,
        step: &QueueName,
        prefix: &str,
        after: &str,
        max: usize,
    ) -> Result<Vec<(String, Value)>, Fault>;

    /// Evaluates an expression on a value, within limits and without blocking.
    async fn evaluate(&self, expression: &Expression, input: Value) -> Result<Option<Value>, Fault>;

    /// Where attachments are kept.
    fn attachments(&self) -> &dyn Attachments;

    /// Writes a line into the step's log.
    fn log(&self, place: &Place, line: &str);
}

/// Where an operation runs, and for which message.
#[derive(Debug, Clone, PartialEq)]
pub struct Place {
    /// The flow's name.
    pub flow: FlowName,
    /// The flow's version.
    pub version: u32,
    /// The step's name.
    pub step: StepId,
    /// The execution; for triggers that of what they emit first.
    pub execution: ExecutionId,
    /// The message that is processed.
    pub message: MessageId,
    /// Which attempt, from 1.
    pub attempt: u32,
}

impl Place {
    /// The step's queue.
    pub fn queue(&self) -> QueueName {
        QueueName::new(self.flow.clone(), self.step.clone())
    }
}

/// What an operation asked for while it ran; applied together with its outcome.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Effects {
    /// Changes to what the step remembers, in order; none removes the entry.
    pub state: Vec<(String, Option<Value>)>,
    /// The answer to the webhook's caller.
    pub reply: Option<Reply>,
}

/// What an operation knows of where it runs, and what it may ask for.
pub struct Context {
    place: Place,
    host: Arc<dyn Host>,
    effects: Mutex<Effects>,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Context {
    /// A context for one run.
    pub fn new(place: Place, host: Arc<dyn Host>) -> Self {
        Self { place, host, effects: Mutex::default() }
    }

    /// Where this runs, and for which message.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        self.host.now()
    }

    /// Identifies what this run does outside: the same for every attempt with this message.
    pub fn idempotency_key(&self) -> String {
        self.place.message.to_string()
    }

    /// What the step remembers under `key`: as it was before this run, which alone may change it
    /// if the operation is ordered by that key.
    pub async fn state<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Fault> {
        let Some(value) = self.host.state(&self.place.queue(), key).await? else { return Ok(None) };
        serde_json::from_value(value)
            .map(Some)
            .map_err(|error| Fault::reject("state_unreadable", format!("what the step remembers as `{key}`: {error}")))
    }

    /// At most `max` entries whose keys begin with `prefix` and are greater than `after`, by key.
    pub async fn states(&self, prefix: &str, after: &str, max: usize) -> Result<Vec<(String, Value)>, Fault> {
        self.host.states(&self.place.queue(), prefix, after, max).await
    }

    /// Remembers a value; durable together with the outcome of this run, or not at all.
    pub fn remember(&self, key: impl Into<String>, value: impl Serialize) -> Result<(), Fault> {
        let value =
            serde_json::to_value(value).map_err(|error| Fault::reject("state_unwritable", error.to_string()))?;
        self.with_effects(|effects| effects.state.push((key.into(), Some(value))));
        Ok(())
    }

    /// Forgets what is remembered under `key`, together with the outcome of this run.
    pub fn forget(&self, key: impl Into<String>) {
        self.with_effects(|effects| effects.state.push((key.into(), None)));
    }

    /// Answers the caller of the webhook that began this execution, once this run is settled.
    pub fn reply(&self, reply: Reply) {
        self.with_effects(|effects| effects.reply = Some(reply));
    }

    /// Evaluates an expression on a value.
    pub async fn evaluate(&self, expression: &Expression, input: Value) -> Result<Option<Value>, Fault> {
        self.host.evaluate(expression, input).await
    }

    /// Where attachments are kept.
    pub fn attachments(&self) -> &dyn Attachments {
        self.host.attachments()
    }

    /// Writes a line into the step's log.
    pub fn log(&self, line: &str) {
        self.host.log(&self.place, line);
    }

    /// What was asked for so far; leaves nothing behind.
    pub fn take_effects(&self) -> Effects {
        self.with_effects(std::mem::take)
    }

    fn with_effects<T>(&self, change: impl FnOnce(&mut Effects) -> T) -> T {
        change(&mut self.effects.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
