//! Replies: the callers of webhooks that wait for a synchronous answer.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use flowline_model::{ExecutionId, Fault, MessageId, Reply};
use tokio::sync::oneshot;

/// How the wait for a reply ended.
#[derive(Debug)]
pub(crate) enum Answered {
    /// A step replied.
    Reply(Reply),
    /// A message of the execution became a dead letter.
    Failed { message: MessageId, fault: Fault },
}

/// The callers that wait, by execution.
#[derive(Clone, Default)]
pub(crate) struct Replies {
    waiting: Arc<Mutex<HashMap<ExecutionId, oneshot::Sender<Answered>>>>,
}

/// One caller's wait; it ends with this value.
pub(crate) struct Wait {
    execution: ExecutionId,
    replies: Replies,
    answer: oneshot::Receiver<Answered>,
}

impl Replies {
    fn with<T>(&self, look: impl FnOnce(&mut HashMap<ExecutionId, oneshot::Sender<Answered>>) -> T) -> T {
        look(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Begins to wait; to be called before the message is published.
    pub(crate) fn wait(&self, execution: ExecutionId) -> Wait {
        let (sender, answer) = oneshot::channel();
        self.with(|waiting| waiting.insert(execution, sender));
        Wait { execution, replies: self.clone(), answer }
    }

    /// Whether anybody waits for this execution.
    pub(crate) fn awaited(&self, execution: ExecutionId) -> bool {
        self.with(|waiting| waiting.contains_key(&execution))
    }

    /// Ends a wait; the first answer counts.
    pub(crate) fn answer(&self, execution: ExecutionId, answered: Answered) {
        if let Some(sender) = self.with(|waiting| waiting.remove(&execution)) {
            // The caller may have hung up in the meantime.
            let _ = sender.send(answered);
        }
    }
}

impl Wait {
    /// The answer; none if nobody can give one any more.
    pub(crate) async fn answer(&mut self) -> Option<Answered> {
        (&mut self.answer).await.ok()
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.replies.with(|waiting| waiting.remove(&self.execution));
    }
}
