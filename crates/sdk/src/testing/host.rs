//! A host in memory: what operations remember, store and log is there to be looked at.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use flowline_model::{
    Attachment, Emit, ExecutionId, Expression, Fault, FlowName, Message, MessageId, QueueName, Size, StepId, Timestamp,
    expression::{Limits, Scope},
};
use futures::StreamExt;
use serde_json::Value;

use super::{Ran, in_parts};
use crate::{
    Action, AttachmentError, Attachments, ByteStream, Context, Effects, Host, Operation, Place, Polled, PolledValue,
    PollingTrigger, Received, Refusal, Request, Run, WebhookTrigger,
};

/// Where the clock of a new host stands: 2026-01-01T00:00:00Z.
const START: Timestamp = Timestamp::from_millis(1_767_225_600_000);

/// A host in memory, with one step on it: `test/step`.
pub struct TestHost {
    memory: Mutex<Memory>,
}

struct Memory {
    now: Timestamp,
    messages: u64,
    state: BTreeMap<String, Value>,
    files: BTreeMap<String, Bytes>,
    log: Vec<String>,
}

impl TestHost {
    /// A host that remembers nothing.
    pub fn new() -> Arc<Self> {
        let memory =
            Memory { now: START, messages: 0, state: BTreeMap::new(), files: BTreeMap::new(), log: Vec::new() };
        Arc::new(Self { memory: Mutex::new(memory) })
    }

    /// Lets time pass.
    pub fn advance(&self, time: Duration) {
        self.with(|memory| memory.now = memory.now + time);
    }

    /// Sets the clock.
    pub fn set_now(&self, now: Timestamp) {
        self.with(|memory| memory.now = now);
    }

    /// A message of an execution of its own, with an id that no other has.
    pub fn message(&self, body: impl Into<Value>) -> Message {
        let count = self.with(|memory| {
            memory.messages += 1;
            memory.messages
        });
        let mut random = [0; 10];
        random[2..].copy_from_slice(&count.to_be_bytes());
        let id = MessageId::root(self.now(), random);
        Message {
            id,
            execution: id,
            parent: None,
            version: 1,
            body: body.into(),
            headers: BTreeMap::new(),
            attachments: Vec::new(),
            steps: BTreeMap::new(),
        }
    }

    /// What the step remembers, by key.
    pub fn entries(&self) -> Vec<(String, Value)> {
        self.with(|memory| memory.state.clone().into_iter().collect())
    }

    /// What was logged.
    pub fn logged(&self) -> Vec<String> {
        self.with(|memory| memory.log.clone())
    }

    /// The content of a stored file.
    pub fn content(&self, attachment: &Attachment) -> Option<Bytes> {
        self.with(|memory| memory.files.get(&attachment.id).cloned())
    }

    /// A context for a run with this message.
    pub fn context(self: &Arc<Self>, message: &Message) -> Context {
        let place = Place {
            flow: FlowName::new("test").expect("a name"),
            version: message.version,
            step: StepId::new("step").expect("a name"),
            execution: message.execution,
            message: message.id,
            attempt: 1,
        };
        let host: Arc<dyn Host> = Arc::<Self>::clone(self);
        Context::new(place, host)
    }

    /// Makes durable what a run asked for, as the engine does when it settles.
    pub fn apply(&self, effects: &Effects) {
        self.with(|memory| {
            for (key, value) in &effects.state {
                match value {
                    Some(value) => memory.state.insert(key.clone(), value.clone()),
                    None => memory.state.remove(key),
                };
            }
        });
    }

    /// Runs an action as the engine does: with its configuration as JSON, settled if it succeeds.
    pub async fn run(self: &Arc<Self>, action: &Operation, config: Value, input: Message) -> Result<Ran, Fault> {
        let Run::Action(code) = &action.run else { return Err(other_kind(action, "an action")) };
        let cx = self.context(&input);
        let emits = code.run(&cx, config, input).await?;
        Ok(self.settle(&cx, emits))
    }

    /// Runs an action of a known type.
    pub async fn run_typed<A: Action>(
        self: &Arc<Self>,
        action: &A,
        config: A::Config,
        input: Message,
    ) -> Result<Ran, Fault> {
        let cx = self.context(&input);
        let emits = action.run(&cx, config, input).await?;
        Ok(self.settle(&cx, emits))
    }

    /// Polls once as the engine does: with configuration and snapshot as JSON.
    pub async fn poll(
        self: &Arc<Self>,
        trigger: &Operation,
        config: Value,
        since: Option<Value>,
    ) -> Result<PolledValue, Fault> {
        let Run::Polling(code) = &trigger.run else { return Err(other_kind(trigger, "a polling trigger")) };
        let cx = self.context(&self.message(Value::Null));
        let polled = code.poll(&cx, config, since).await?;
        self.apply(&cx.take_effects());
        Ok(polled)
    }

    /// Polls once with a trigger of a known type.
    pub async fn poll_typed<P: PollingTrigger>(
        self: &Arc<Self>,
        trigger: &P,
        config: P::Config,
        since: P::Snapshot,
    ) -> Result<Polled<P::Snapshot>, Fault> {
        let cx = self.context(&self.message(Value::Null));
        let polled = trigger.poll(&cx, config, since).await?;
        self.apply(&cx.take_effects());
        Ok(polled)
    }

    /// Hands a request to a webhook trigger as the engine does.
    pub async fn receive(
        self: &Arc<Self>,
        trigger: &Operation,
        config: Value,
        request: Request,
    ) -> Result<Received, Refusal> {
        let Run::Webhook(code) = &trigger.run else {
            return Err(Refusal::new(500, "other_kind", format!("`{}` is not a webhook", trigger.spec.name)));
        };
        code.receive(&self.context(&self.message(Value::Null)), config, request).await
    }

    /// Hands a request to a webhook trigger of a known type.
    pub async fn receive_typed<W: WebhookTrigger>(
        self: &Arc<Self>,
        trigger: &W,
        config: W::Config,
        request: Request,
    ) -> Result<Received, Refusal> {
        trigger.receive(&self.context(&self.message(Value::Null)), config, request).await
    }

    fn settle(&self, cx: &Context, emits: Vec<Emit>) -> Ran {
        let effects = cx.take_effects();
        self.apply(&effects);
        Ran { emits, reply: effects.reply }
    }

    fn with<T>(&self, look: impl FnOnce(&mut Memory) -> T) -> T {
        look(&mut self.memory.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn other_kind(operation: &Operation, expected: &str) -> Fault {
    Fault::misconfigured("other_kind", format!("`{}` is not {expected}", operation.spec.name))
}

#[async_trait]
impl Host for TestHost {
    fn now(&self) -> Timestamp {
        self.with(|memory| memory.now)
    }

    async fn state(&self, _: &QueueName, key: &str) -> Result<Option<Value>, Fault> {
        Ok(self.with(|memory| memory.state.get(key).cloned()))
    }

    async fn states(
        &self,
        _: &QueueName,
        prefix: &str,
        after: &str,
        max: usize,
    ) -> Result<Vec<(String, Value)>, Fault> {
        let start = prefix.max(after);
        Ok(self.with(|memory| {
            let entries = memory.state.range::<str, _>((Bound::Included(start), Bound::Unbounded));
            let entries = entries.skip_while(|(key, _)| key.as_str() <= after && !after.is_empty());
            let entries = entries.take_while(|(key, _)| key.starts_with(prefix));
            entries.take(max).map(|(key, value)| (key.clone(), value.clone())).collect()
        }))
    }

    async fn evaluate(&self, expression: &Expression, input: Value) -> Result<Option<Value>, Fault> {
        expression
            .evaluate(&Scope::new(&input), Limits::FULL)
            .map_err(|error| Fault::reject("expression_failed", error.to_string()))
    }

    fn attachments(&self) -> &dyn Attachments {
        self
    }

    fn log(&self, _: &Place, line: &str) {
        self.with(|memory| memory.log.push(line.to_owned()));
    }
}

#[async_trait]
impl Attachments for TestHost {
    async fn store(
        &self,
        _: ExecutionId,
        name: &str,
        content_type: &str,
        mut content: ByteStream,
        limit: Size,
    ) -> Result<Attachment, AttachmentError> {
        let mut collected = BytesMut::new();
        while let Some(part) = content.next().await {
            collected.extend_from_slice(&part?);
            if collected.len() as u64 > limit.0 {
                return Err(AttachmentError::TooLarge(limit));
            }
        }
        Ok(self.with(|memory| {
            let attachment = Attachment {
                id: format!("file-{}", memory.files.len() + 1),
                name: name.to_owned(),
                content_type: content_type.to_owned(),
                size: collected.len() as u64,
            };
            memory.files.insert(attachment.id.clone(), collected.freeze());
            attachment
        }))
    }

    async fn open(&self, attachment: &Attachment) -> Result<ByteStream, AttachmentError> {
        self.content(attachment).map(in_parts).ok_or_else(|| AttachmentError::Missing(attachment.id.clone()))
    }
}
