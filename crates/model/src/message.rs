//! Messages: what travels between steps, and how their ids are derived.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use uuid::{Builder, Uuid};

use crate::{StepId, Timestamp};

/// Identifies a message for ever: written as a UUID.
///
/// The first message of an execution gets a UUIDv7 (RFC 9562); every other id is derived from
/// its parent, so a step that runs twice emits the same ids.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MessageId(Uuid);

/// Identifies everything that came from one emission of a trigger: the id of its first message.
pub type ExecutionId = MessageId;

impl MessageId {
    /// The id of a first message: UUIDv7 of `now` and ten random bytes.
    pub fn root(now: Timestamp, random: [u8; 10]) -> Self {
        let millis = now.as_millis().max(0).unsigned_abs();
        Self(Builder::from_unix_timestamp_millis(millis, &random).into_uuid())
    }

    /// The id that the `index`-th emit of this message's step has on the queue of `step`, the
    /// step that receives it. Two receivers get two ids: an id is the idempotency key of what
    /// one step does with one message.
    pub fn child(self, step: &StepId, index: u64) -> Self {
        self.derive(&[step.as_str().as_bytes(), &index.to_be_bytes()])
    }

    /// An id that follows from this one and a list of parts.
    pub fn derive(self, parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        hash.update(self.0.as_bytes());
        for part in parts {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash.finalize()[..16]);
        Self(Builder::from_custom_bytes(bytes).into_uuid())
    }

    /// The sixteen bytes of the id.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// The id with these sixteen bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for MessageId {
    type Err = uuid::Error;
    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        text.parse().map(Self)
    }
}

/// A file that belongs to a message and is stored outside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Where the attachment store keeps it.
    pub id: String,
    /// The file's name as its sender gave it; never a path.
    pub name: String,
    /// Its media type, such as `image/png`.
    pub content_type: String,
    /// Its length in bytes.
    pub size: u64,
}

/// What travels between steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Identifies this message; also the idempotency key of what is done with it.
    pub id: MessageId,
    /// The execution it belongs to.
    pub execution: ExecutionId,
    /// The message whose processing emitted it; none for what a trigger emitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<MessageId>,
    /// The version of the flow its execution began with.
    pub version: u32,
    /// The data.
    pub body: Value,
    /// What is said about the data: lower-case names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Files, by reference.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<Attachment>,
    /// What earlier steps produced, as far as later steps read it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub steps: BTreeMap<StepId, Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_runs_twice_emits_the_same_ids() {
        let root = MessageId::root(Timestamp::from_millis(1_790_000_000_000), [7; 10]);
        let map = StepId::new("map").unwrap();
        assert_eq!(root.child(&map, 0), root.child(&map, 0));
        assert_ne!(root.child(&map, 0), root.child(&map, 1));
        assert_ne!(root.child(&map, 0), root.child(&StepId::new("mail").unwrap(), 0));
        assert_eq!(root.to_string().parse::<MessageId>().unwrap(), root);
    }

    #[test]
    fn ids_of_first_messages_sort_by_time() {
        let at = |millis| MessageId::root(Timestamp::from_millis(millis), [255; 10]);
        assert!(at(1_000) < at(1_001));
    }
}
