//! Emits in the form in which they are written down.

use std::{collections::BTreeMap, time::Duration};

use flowline_model::{Attachment, Emit, Recipient};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// An emit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Stored {
    pub(crate) body: Value,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) headers: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) attachments: Vec<Attachment>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) to: Option<To>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) delay_ms: Option<u64>,
}

/// A recipient other than the steps that follow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum To {
    /// The steps after a named output.
    Output(String),
    /// The step itself.
    Myself,
}

impl From<Emit> for Stored {
    fn from(emit: Emit) -> Self {
        let to = match emit.to {
            Recipient::Next => None,
            Recipient::Output(name) => Some(To::Output(name)),
            Recipient::Myself => Some(To::Myself),
        };
        let delay_ms = emit.delay.map(|delay| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX));
        Self { body: emit.body, headers: emit.headers, attachments: emit.attachments, to, delay_ms }
    }
}

impl From<Stored> for Emit {
    fn from(stored: Stored) -> Self {
        let to = match stored.to {
            None => Recipient::Next,
            Some(To::Output(name)) => Recipient::Output(name),
            Some(To::Myself) => Recipient::Myself,
        };
        let delay = stored.delay_ms.map(Duration::from_millis);
        Self { body: stored.body, headers: stored.headers, attachments: stored.attachments, to, delay }
    }
}
