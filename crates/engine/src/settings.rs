//! Settings: what an engine needs to be told. Every one has a default that is safe.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use flowline_model::{Lapse, Size, Timestamp};
use flowline_queue::Limits;
use serde_json::{Map, Value};

use crate::Secrets;

/// Tells the time: an argument, so that tests can steer it.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The time of the machine.
pub fn system_clock() -> Clock {
    Arc::new(|| {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    })
}

/// How long what is finished is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// At most so long.
    pub age: Lapse,
    /// At most so many bytes of messages.
    pub bytes: Size,
}

impl Default for Keep {
    /// A week, one gibibyte.
    fn default() -> Self {
        Self { age: Lapse::seconds(7 * 86_400), bytes: Size::mib(1_024) }
    }
}

/// What an engine needs to be told.
#[derive(Clone)]
pub struct Settings {
    /// The folder of everything durable.
    pub data: PathBuf,
    /// What expressions see as `$var`.
    pub vars: Map<String, Value>,
    /// What expressions in configurations see as `$secret`.
    pub secrets: Secrets,
    /// How much each queue may hold unless its step says otherwise.
    pub queue_limits: Limits,
    /// How long what is finished is kept.
    pub retention: Keep,
    /// How long running steps may take to finish when the engine is shut down.
    pub grace: Duration,
    /// Tells the time.
    pub clock: Clock,
}

impl Settings {
    /// The defaults, with this data folder.
    pub fn new(data: impl Into<PathBuf>) -> Self {
        Self {
            data: data.into(),
            vars: Map::new(),
            secrets: Secrets::default(),
            queue_limits: Limits::default(),
            retention: Keep::default(),
            grace: Duration::from_secs(10),
            clock: system_clock(),
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("data", &self.data).finish_non_exhaustive()
    }
}
