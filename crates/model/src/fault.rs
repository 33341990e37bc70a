//! Faults: why a step could not process a message.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What kind of trouble it is, which decides what becomes of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// It may work later: the message is retried.
    Retry,
    /// It will never work with this message: it becomes a dead letter at once.
    Reject,
    /// The target does not accept our credential: the step pauses, the message waits.
    Unauthorized,
    /// The step's configuration cannot work: the step pauses, the message waits.
    Misconfigured,
}

/// Why a step could not process a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// What becomes of the message.
    pub kind: FaultKind,
    /// A stable word for machines, such as `http_503` or `timeout`.
    pub code: String,
    /// One sentence for people; never holds a secret.
    pub message: String,
    /// The least wait before the next attempt, as the target asked (`Retry-After`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Duration>,
    /// The target as a whole is out of reach: not this message's doing. Such faults start
    /// probing and never use up a message's attempts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub outage: bool,
}

impl Fault {
    fn new(kind: FaultKind, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { kind, code: code.into(), message: message.into(), after: None, outage: false }
    }

    /// It may work later.
    pub fn retry(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(FaultKind::Retry, code, message)
    }

    /// The target as a whole is out of reach: refused, timed out, 502, 503, 504, 429.
    pub fn outage(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { outage: true, ..Self::retry(code, message) }
    }

    /// It will never work with this message.
    pub fn reject(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(FaultKind::Reject, code, message)
    }

    /// The target does not accept our credential.
    pub fn unauthorized(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(FaultKind::Unauthorized, code, message)
    }

    /// The step's configuration cannot work.
    pub fn misconfigured(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(FaultKind::Misconfigured, code, message)
    }

    /// The same fault with the least wait that the target asked for.
    #[must_use]
    pub fn after(mut self, wait: Duration) -> Self {
        self.after = Some(wait);
        self
    }
}
