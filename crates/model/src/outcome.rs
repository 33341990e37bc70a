//! What an operation returns: messages for the steps that follow.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;

use crate::Attachment;

/// Which steps receive an emit.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Recipient {
    /// The steps after the operation's only output.
    #[default]
    Next,
    /// The steps after a named output.
    Output(String),
    /// The step itself, later: a reminder.
    Myself,
}

/// A message that an operation produces.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Emit {
    /// The data.
    pub body: Value,
    /// What is said about the data. The input's headers travel on; these are put over them.
    pub headers: BTreeMap<String, String>,
    /// Files; an action's output does not inherit those of its input.
    pub attachments: Vec<Attachment>,
    /// Who receives it.
    pub to: Recipient,
    /// How long to wait before it is delivered.
    pub delay: Option<Duration>,
}

impl Emit {
    /// Emits `body` to the steps that follow.
    pub fn new(body: impl Into<Value>) -> Self {
        Self { body: body.into(), ..Self::default() }
    }

    /// Emits through a named output.
    #[must_use]
    pub fn to_output(mut self, name: impl Into<String>) -> Self {
        self.to = Recipient::Output(name.into());
        self
    }

    /// Sends this to the step itself after a delay.
    pub fn reminder(body: impl Into<Value>, delay: Duration) -> Self {
        Self { body: body.into(), to: Recipient::Myself, delay: Some(delay), ..Self::default() }
    }

    /// With a header; names are lower case.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.insert(name.to_ascii_lowercase(), value.into());
        self
    }

    /// With files.
    #[must_use]
    pub fn attachments(mut self, attachments: Vec<Attachment>) -> Self {
        self.attachments = attachments;
        self
    }
}

/// The synchronous answer to the caller of a webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// HTTP status, 200 to 599.
    pub status: u16,
    /// Header names and values.
    pub headers: Vec<(String, String)>,
    /// The body as sent.
    pub body: Vec<u8>,
}
