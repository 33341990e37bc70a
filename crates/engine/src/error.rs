//! Errors of the engine as a whole. What happens to a message is never one of them.

use std::path::PathBuf;

use flowline_model::{FlowName, Problem, StepId};
use flowline_queue::QueueError;

/// Why the engine could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The queues could not.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The store could not.
    #[error("the store of flows and executions: {0}")]
    Store(String),
    /// The data folder could not be made or read.
    #[error("the data folder: {0}")]
    Folder(String),
    /// There is no data in this folder.
    #[error("there is no data in {}", .0.display())]
    NoData(PathBuf),
    /// There is no such flow.
    #[error("there is no flow `{0}`")]
    NoFlow(FlowName),
    /// There is no such step.
    #[error("the flow `{0}` has no step `{1}`")]
    NoStep(FlowName, StepId),
    /// The flow's trigger does not poll.
    #[error("the trigger of `{0}` waits for requests; it cannot be run")]
    NotPolling(FlowName),
    /// An input could not become a message.
    #[error("the input was not accepted: {0}")]
    Input(String),
}

impl From<sqlx::Error> for EngineError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.to_string())
    }
}

/// Why a flow could not be applied. The version that runs goes on.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The document does not check.
    #[error("the flow has {} problem(s)", .0.len())]
    Problems(Vec<Problem>),
    /// It checks, but cannot run here: a path that another flow has, a secret that is not set.
    #[error("{0}")]
    Conflict(String),
    /// The engine could not.
    #[error(transparent)]
    Other(#[from] EngineError),
}

impl From<QueueError> for ApplyError {
    fn from(error: QueueError) -> Self {
        Self::Other(error.into())
    }
}
