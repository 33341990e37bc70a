//! Records: what was recorded and what waits. Readable on a running server and on a stopped one.

use std::{path::Path, sync::Arc};

use flowline_model::{Event, EventKind, ExecutionId, Fault, MessageId, StepId, Timestamp};
use flowline_queue::{
    DeadLetter, DeadLetterFilter, EmbeddedOptions, EmbeddedQueue, History, Queue, QueueDepth, Replay, StoredMessage,
    Trace,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{EngineError, Execution, ExecutionFilter, recorder::Recorder, store::Store};

/// The most events and messages of one execution that are shown.
const MOST_SHOWN: usize = 1_000;

/// What was recorded and what waits.
#[derive(Clone)]
pub struct Records {
    pub(crate) queue: Arc<dyn Queue>,
    pub(crate) history: Arc<dyn History>,
    pub(crate) store: Store,
}

/// An execution with everything that is known about it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExecutionDetail {
    /// It in short.
    pub execution: Execution,
    /// What its steps did, in the order the messages came to them.
    pub steps: Vec<StepRun>,
}

/// What a step did with one message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRun {
    /// The step.
    pub step: StepId,
    /// The message.
    pub message: MessageId,
    /// The message's body; none once it has outlived its retention.
    pub input: Option<Value>,
    /// What the step produced.
    pub outputs: Vec<Output>,
    /// Each attempt and what else happened to the message.
    pub attempts: Vec<Attempt>,
}

/// Something that a step produced.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Output {
    /// The step that received it; none if no step did.
    pub to: Option<StepId>,
    /// The data.
    pub body: Value,
}

/// One attempt, or something else that happened to a message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// Which attempt, from 1; 0 where no step ran.
    pub attempt: u32,
    /// What happened.
    pub kind: EventKind,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

impl Records {
    /// Opens the records of a server that does not run.
    pub async fn open(data: &Path) -> Result<Records, EngineError> {
        if !data.join(QUEUE_FOLDER).is_dir() {
            return Err(EngineError::NoData(data.to_owned()));
        }
        let queue = Arc::new(open_queue(data, Default::default()).await?);
        let store = Store::open(&data.join(STORE_FILE)).await?;
        let records = Records { queue: queue.clone(), history: queue, store };
        records.recorder().catch_up().await?;
        Ok(records)
    }

    pub(crate) fn recorder(&self) -> Recorder {
        Recorder {
            history: Arc::clone(&self.history),
            store: self.store.clone(),
            news: Arc::default(),
            written: Arc::default(),
        }
    }

    /// What stands on every queue.
    pub async fn queues(&self) -> Result<Vec<QueueDepth>, EngineError> {
        Ok(self.queue.depths().await?)
    }

    /// Executions, the latest first.
    pub async fn executions(&self, filter: &ExecutionFilter) -> Result<Vec<Execution>, EngineError> {
        self.store.executions(filter).await
    }

    /// Everything that is known about an execution.
    pub async fn execution(&self, id: ExecutionId) -> Result<Option<ExecutionDetail>, EngineError> {
        let Some(execution) = self.store.execution(id).await? else { return Ok(None) };
        let trace = self.history.trace(id, MOST_SHOWN).await?;
        Ok(Some(ExecutionDetail { execution, steps: step_runs(&trace) }))
    }

    /// Dead letters, oldest first.
    pub async fn dead_letters(&self, filter: &DeadLetterFilter, max: usize) -> Result<Vec<DeadLetter>, EngineError> {
        Ok(self.queue.dead_letters(filter, max).await?)
    }

    /// Puts dead letters back onto their queues; returns how many.
    pub async fn replay(&self, filter: &DeadLetterFilter, replay: &Replay) -> Result<u64, EngineError> {
        let count = self.queue.replay(filter, replay).await?;
        self.recorder().catch_up().await?;
        Ok(count)
    }

    /// Throws dead letters away; returns how many.
    pub async fn discard_dead_letters(&self, filter: &DeadLetterFilter) -> Result<u64, EngineError> {
        let count = self.queue.discard_dead_letters(filter).await?;
        self.recorder().catch_up().await?;
        Ok(count)
    }
}

/// The folder of the queues within the data folder.
pub(crate) const QUEUE_FOLDER: &str = "queue";
/// The file of the store within the data folder.
pub(crate) const STORE_FILE: &str = "store.db";

/// Puts the events of an execution to the messages they are about.
fn step_runs(trace: &Trace) -> Vec<StepRun> {
    let mut runs: Vec<StepRun> = trace.messages.iter().map(|stored| run_of(stored, trace)).collect();
    // Messages that have outlived their retention still have events.
    for event in &trace.events {
        let known = runs.iter().any(|run| run.message == event.message && run.step == event.queue.step);
        if !known && event.kind != EventKind::Accepted {
            runs.push(StepRun {
                step: event.queue.step.clone(),
                message: event.message,
                input: None,
                outputs: Vec::new(),
                attempts: attempts(event.message, trace),
            });
        }
    }
    runs
}

fn run_of(stored: &StoredMessage, trace: &Trace) -> StepRun {
    let id = stored.message.id;
    let children = trace.messages.iter().filter(|other| other.message.parent == Some(id));
    let received =
        children.map(|child| Output { to: Some(child.queue.step.clone()), body: child.message.body.clone() });
    let unreceived = of_message(id, trace).flat_map(|event| &event.outputs);
    let unreceived = unreceived.map(|body| Output { to: None, body: body.clone() });
    StepRun {
        step: stored.queue.step.clone(),
        message: id,
        input: Some(stored.message.body.clone()),
        outputs: received.chain(unreceived).collect(),
        attempts: attempts(id, trace),
    }
}

fn of_message(id: MessageId, trace: &Trace) -> impl Iterator<Item = &Event> {
    trace.events.iter().filter(move |event| event.message == id && event.kind != EventKind::Accepted)
}

fn attempts(id: MessageId, trace: &Trace) -> Vec<Attempt> {
    let attempt = |event: &Event| Attempt {
        attempt: event.attempt,
        kind: event.kind,
        started_at: event.started_at,
        ended_at: event.ended_at,
        fault: event.fault.clone(),
    };
    of_message(id, trace).map(attempt).collect()
}

/// Opens the queues of a data folder, where it may block.
pub(crate) async fn open_queue(data: &Path, options: EmbeddedOptions) -> Result<EmbeddedQueue, EngineError> {
    let folder = data.join(QUEUE_FOLDER);
    tokio::task::spawn_blocking(move || EmbeddedQueue::open(&folder, options))
        .await
        .map_err(|error| EngineError::Folder(error.to_string()))?
        .map_err(EngineError::Queue)
}
