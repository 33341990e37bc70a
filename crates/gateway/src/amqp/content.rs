//! What travels: content that is delivered, content that is published.

use amq_protocol::protocol::BasicProperties;
use bytes::Bytes;

/// A message for a worker, ready to be sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Content {
    /// The routing key it came with, for the curious.
    pub key: String,
    /// Whether it was delivered before.
    pub redelivered: bool,
    /// Its properties, headers among them.
    pub properties: BasicProperties,
    /// Its body.
    pub body: Bytes,
}

/// A message from a worker, complete.
#[derive(Debug, Clone, PartialEq)]
pub struct Publication {
    /// The channel it came on.
    pub channel: u16,
    /// Its number on a channel with confirms.
    pub number: Option<u64>,
    /// Its routing key: one that the scope allows.
    pub key: String,
    /// Its properties, headers among them.
    pub properties: BasicProperties,
    /// Its body.
    pub body: Vec<u8>,
}
