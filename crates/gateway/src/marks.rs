//! Which messages may have a sealed spool: a hint in memory, so that nobody asks the store for
//! every message. The truth is the step's durable state.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use flowline_model::{Fault, MessageId, QueueName};
use flowline_sdk::Context;

use crate::{spool::Mark, step::Step};

/// What the keys of marks begin with.
const PREFIX: &str = "spool:";
const PAGE: usize = 500;
/// How often, and at first how soon, it is looked whether a spool is not needed any more.
const LOOKS: u32 = 12;
const FIRST_LOOK: Duration = Duration::from_millis(50);

/// Under which key a step remembers how far a message's spool was handed out.
pub(crate) fn key(message: MessageId) -> String {
    format!("{PREFIX}{message}")
}

/// Messages that may have a spool, with its file.
#[derive(Default)]
pub(crate) struct Marks {
    files: Mutex<HashMap<(QueueName, MessageId), String>>,
}

impl Marks {
    fn lock(&self) -> MutexGuard<'_, HashMap<(QueueName, MessageId), String>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn insert(&self, queue: &QueueName, message: MessageId, file: &str) {
        self.lock().insert((queue.clone(), message), file.to_owned());
    }

    fn get(&self, queue: &QueueName, message: MessageId) -> Option<String> {
        self.lock().get(&(queue.clone(), message)).cloned()
    }

    fn remove(&self, queue: &QueueName, message: MessageId) {
        self.lock().remove(&(queue.clone(), message));
    }
}

impl Step {
    /// How far this message's spool was handed out; none if it has no spool.
    pub(crate) async fn mark(&self, cx: &Context) -> Result<Option<Mark>, Fault> {
        self.marks_read.get_or_try_init(|| self.read_marks()).await?;
        let (queue, message) = (&self.spec.queue, cx.place().message);
        let Some(file) = self.shared.marks.get(queue, message) else { return Ok(None) };
        let mark: Option<Mark> = cx.state(&key(message)).await?;
        if mark.is_none() {
            // It was never made durable that there is one.
            self.shared.marks.remove(queue, message);
            self.remove_spool(&file).await;
        }
        Ok(mark)
    }

    /// Learns what an earlier process left, and removes those of its spools that nothing refers to.
    async fn read_marks(&self) -> Result<(), Fault> {
        let queue = &self.spec.queue;
        let mut needed = HashSet::new();
        let mut after = String::new();
        loop {
            let page = self.host.states(queue, PREFIX, &after, PAGE).await?;
            let Some((last, _)) = page.last() else { break };
            after.clone_from(last);
            for (key, value) in page {
                let message = key.strip_prefix(PREFIX).and_then(|id| id.parse().ok());
                if let (Some(message), Ok(mark)) = (message, serde_json::from_value::<Mark>(value)) {
                    self.shared.marks.insert(queue, message, &mark.file);
                    needed.insert(mark.file);
                }
            }
        }
        for file in self.shared.take_left_spools(queue) {
            if !needed.contains(&file) {
                self.remove_spool(&file).await;
            }
        }
        Ok(())
    }

    async fn remove_spool(&self, file: &str) {
        if let Err(error) = self.shared.spools.remove(&self.spec.queue, file).await {
            tracing::warn!(queue = %self.spec.queue, file, %error, "a spool could not be removed");
        }
    }

    /// Removes a spool as soon as it is durable that it was handed out; at the latest the next
    /// start does.
    pub(crate) fn done_with(&self, message: MessageId, file: String) {
        let (shared, host, queue) = (Arc::clone(&self.shared), Arc::clone(&self.host), self.spec.queue.clone());
        tokio::spawn(async move {
            for look in 0..LOOKS {
                tokio::time::sleep(FIRST_LOOK * 2_u32.pow(look)).await;
                if !matches!(host.state(&queue, &key(message)).await, Ok(None)) {
                    continue;
                }
                shared.marks.remove(&queue, message);
                if let Err(error) = shared.spools.remove(&queue, &file).await {
                    tracing::warn!(%queue, file, %error, "a spool could not be removed");
                }
                return;
            }
        });
    }
}
