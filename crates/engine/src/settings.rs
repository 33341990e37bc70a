//! Settings: what an engine needs to be told. Every one has a default that is safe.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use flowline_model::{Lapse, Runtime, Size, Timestamp};
use flowline_queue::Limits;
use flowline_sdk::Gateway;
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
    /// Where steps run that say nothing of it, as far as their operations can.
    pub default_runtime: Runtime,
    /// What containers talk to; without it no step runs in one.
    pub gateway: Option<Arc<dyn Gateway>>,
    /// How containers are run.
    pub docker: DockerSettings,
}

/// How containers are run.
#[derive(Clone, Debug)]
pub struct DockerSettings {
    /// Where the Docker daemon listens, such as `unix:///run/docker.sock` or `tcp://10.0.0.7:2375`.
    /// None takes `DOCKER_HOST`, or the usual socket.
    pub host: Option<String>,
    /// The image that hosts the built-in components; without it none of them runs in a container.
    pub worker_image: Option<String>,
    /// What is started in that image; empty takes what it says itself.
    pub worker_command: Vec<String>,
    /// The network of the containers: a bridge, made if it is not there.
    pub network: String,
    /// Who containers run as whose image says nothing or root: user and group.
    pub user: String,
    /// How long a container may take to end when it is asked to.
    pub grace: Duration,
    /// How long a container may be up without taking messages before another takes its place.
    pub deaf_after: Duration,
    /// How long fewer workers must have been enough before a step that is scaled has one less.
    pub fewer_after: Duration,
    /// How long nothing must have come before a step that may have no worker has none.
    pub none_after: Duration,
}

impl Default for DockerSettings {
    fn default() -> Self {
        Self {
            host: None,
            worker_image: None,
            worker_command: Vec::new(),
            network: "flowline".to_owned(),
            user: "65534:65534".to_owned(),
            grace: Duration::from_secs(10),
            deaf_after: Duration::from_secs(60),
            fewer_after: Duration::from_secs(15),
            none_after: Duration::from_secs(30),
        }
    }
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
            default_runtime: Runtime::Task,
            gateway: None,
            docker: DockerSettings::default(),
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("data", &self.data).finish_non_exhaustive()
    }
}
