//! How the gateway is set up, and the limits that everything keeps to.

use std::{path::PathBuf, time::Duration};

use flowline_model::Size;
use serde_json::{Map, Value};

/// How the gateway is set up.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The gateway's own folder: spools, stored objects, what components keep.
    pub folder: PathBuf,
    /// Variables that components may read.
    pub variables: Map<String, Value>,
    /// The limits.
    pub limits: Limits,
}

impl Settings {
    /// The defaults, with this folder.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), variables: Map::new(), limits: Limits::default() }
    }
}

/// What nobody gets more of.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The largest body of an AMQP message.
    pub body: Size,
    /// Memory for bodies that are not complete, of all connections together.
    pub unfinished: Size,
    /// Channels of a connection.
    pub channels: u16,
    /// Connections of a worker.
    pub worker_connections: usize,
    /// Connections of everybody, to each of the two listeners.
    pub connections: usize,
    /// Of these, connections of one address: a container has an address of its own.
    pub address_connections: usize,
    /// How long an HTTP connection may be idle, or take for the head of a request.
    pub idle: Duration,
    /// Until when a client must be through the handshake.
    pub handshake: Duration,
    /// How long a client may read nothing of what it is sent.
    pub stalled: Duration,
    /// The time between heartbeats; a client that is silent for three times as long is gone.
    pub heartbeat: Duration,
    /// How long the end of a delivery waits for the reason: why a connection was lost, the error
    /// for which a message was refused.
    pub mourning: Duration,
    /// The longest wait that a rebound may ask for.
    pub rebound: Duration,
    /// All spools together.
    pub spool: Size,
    /// Emits that one delivery keeps in memory; more go to a spool. Also the size of a chunk.
    pub emits: usize,
    /// Bytes of emits that one delivery keeps in memory. Also the size of a chunk.
    pub emit_bytes: usize,
    /// Bodies above this go to containers through the object store.
    pub lightweight: Size,
    /// One stored object or attachment.
    pub object: Size,
    /// All stored objects together.
    pub objects: Size,
    /// How many objects are stored.
    pub object_count: usize,
    /// How long an object is kept unless its sender says so.
    pub object_ttl: Duration,
    /// The longest that an object is kept.
    pub longest_ttl: Duration,
    /// What a component may keep besides its snapshot: startup data, refreshed credentials.
    pub kept: Size,
    /// How long an HTTP request may take, transfers of objects excepted.
    pub request: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        const HOUR: u64 = 60 * 60;
        Self {
            body: Size::mib(16),
            unfinished: Size::mib(256),
            channels: 16,
            worker_connections: 8,
            connections: 4096,
            address_connections: 512,
            idle: Duration::from_secs(300),
            handshake: Duration::from_secs(10),
            stalled: Duration::from_secs(60),
            heartbeat: Duration::from_secs(30),
            mourning: Duration::from_secs(1),
            rebound: Duration::from_secs(24 * HOUR),
            spool: Size(8 << 30),
            emits: 1000,
            emit_bytes: 1 << 20,
            lightweight: Size::mib(10),
            object: Size::mib(1024),
            objects: Size(32 << 30),
            object_count: 200_000,
            object_ttl: Duration::from_secs(24 * HOUR),
            longest_ttl: Duration::from_secs(30 * 24 * HOUR),
            kept: Size::mib(1),
            request: Duration::from_secs(30),
        }
    }
}
