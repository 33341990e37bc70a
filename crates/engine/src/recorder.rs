//! The recorder: reads the events of the queues and keeps the index of executions.
//!
//! It runs aside: messages never wait for it. It may be late; since how far it has read is stored
//! together with what it wrote, it is never wrong.

use std::{collections::HashMap, sync::Arc, time::Duration};

use flowline_model::{Event, EventKind, ExecutionId};
use flowline_queue::History;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{EngineError, store::ExecutionChange, store::Store};

/// Events read at once.
const BATCH: usize = 4_000;
/// How long events are gathered before they are written.
const GATHER: Duration = Duration::from_millis(100);
/// How long they are gathered while very many come: messages go first, and the events of one
/// execution that are read together are one row to write.
const GATHER_LONGER: Duration = Duration::from_millis(500);
/// So many events at once are very many.
const MANY: usize = 500;
/// How often it looks without being told to.
const LOOK: Duration = Duration::from_secs(5);

/// Keeps the index of executions.
pub(crate) struct Recorder {
    pub(crate) history: Arc<dyn History>,
    pub(crate) store: Store,
    /// Told when something was settled.
    pub(crate) news: Arc<Notify>,
    /// Tells when everything was written.
    pub(crate) written: Arc<Notify>,
}

impl Recorder {
    /// Records until it is stopped, then once more.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut gather = GATHER;
        loop {
            tokio::select! {
                () = self.news.notified() => {
                    tokio::select! {
                        () = tokio::time::sleep(gather) => {}
                        () = stop.cancelled() => {}
                    }
                }
                () = tokio::time::sleep(LOOK) => {}
                () = stop.cancelled() => {}
            }
            match self.catch_up().await {
                Ok(events) => gather = if events < MANY { GATHER } else { GATHER_LONGER },
                Err(error) => {
                    tracing::warn!(%error, "the history could not be written; trying again");
                    tokio::time::sleep(LOOK.min(Duration::from_secs(1))).await;
                }
            }
            self.written.notify_waiters();
            if stop.is_cancelled() {
                return;
            }
        }
    }

    /// Writes everything that has been settled so far; returns how many events that were.
    pub(crate) async fn catch_up(&self) -> Result<usize, EngineError> {
        let mut recorded = self.store.recorded().await?;
        let mut count = 0;
        loop {
            let events = self.history.events(recorded, BATCH).await?;
            let Some((last, _)) = events.last() else { return Ok(count) };
            recorded = *last;
            count += events.len();
            let full = events.len() == BATCH;
            self.store.record(&changes(events.into_iter().map(|(_, event)| event)), recorded).await?;
            if !full {
                return Ok(count);
            }
        }
    }
}

/// What events change, one entry for each execution, in the order they first occur.
fn changes(events: impl Iterator<Item = Event>) -> Vec<ExecutionChange> {
    let mut places: HashMap<ExecutionId, usize> = HashMap::new();
    let mut changes = Vec::new();
    for event in events {
        let place = *places.entry(event.execution).or_insert_with(|| {
            changes.push(beginning(&event));
            changes.len() - 1
        });
        add(&mut changes[place], &event);
    }
    changes
}

fn beginning(event: &Event) -> ExecutionChange {
    ExecutionChange {
        id: event.execution,
        flow: event.queue.flow.clone(),
        version: event.version,
        started_at: event.started_at.as_millis(),
        ended_at: event.ended_at.as_millis(),
        waiting: 0,
        done: 0,
        retried: 0,
        dead: 0,
    }
}

fn add(change: &mut ExecutionChange, event: &Event) {
    change.ended_at = change.ended_at.max(event.ended_at.as_millis());
    change.waiting += i64::from(event.emitted);
    match event.kind {
        EventKind::Accepted => {}
        EventKind::Retried => change.retried += 1,
        EventKind::Done => {
            change.done += 1;
            change.waiting -= 1;
        }
        EventKind::DeadLettered => {
            change.dead += 1;
            change.waiting -= 1;
        }
        EventKind::Replayed => {
            change.dead -= 1;
            change.waiting += 1;
        }
        // What is thrown away was either waiting or, with its fault, a dead letter.
        EventKind::Discarded if event.fault.is_some() => change.dead -= 1,
        EventKind::Discarded => change.waiting -= 1,
    }
}
