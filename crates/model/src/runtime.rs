//! Where the workers of a step run, how many there are and how much one may use.

use std::{fmt, num::NonZeroU32, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::Size;

/// The most workers of one step.
pub const MOST_WORKERS: u32 = 1_000;

/// Where workers run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Runtime {
    /// In the server's process.
    #[default]
    Task,
    /// In child processes of the server.
    Process,
    /// In Docker containers, each step in its own.
    Docker,
}

impl Runtime {
    /// Every runtime.
    pub const ALL: [Runtime; 3] = [Runtime::Task, Runtime::Process, Runtime::Docker];

    /// How documents write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Task => "task",
            Self::Process => "process",
            Self::Docker => "docker",
        }
    }

    /// How many messages a worker works on at the same time, unless its step says otherwise.
    pub fn default_prefetch(self) -> NonZeroU32 {
        const MANY: NonZeroU32 = NonZeroU32::new(16).unwrap();
        match self {
            Self::Task => MANY,
            Self::Process | Self::Docker => NonZeroU32::MIN,
        }
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Why a text is not a runtime.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a runtime: it can be task, process or docker")]
pub struct InvalidRuntime {
    text: String,
}

impl FromStr for Runtime {
    type Err = InvalidRuntime;
    fn from_str(text: &str) -> Result<Self, InvalidRuntime> {
        let found = Self::ALL.into_iter().find(|runtime| runtime.as_str() == text);
        found.ok_or_else(|| InvalidRuntime { text: text.chars().take(80).collect() })
    }
}

/// How many workers a step has: as many as its backlog asks for, within these bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workers {
    /// At least so many, even with nothing to do.
    pub min: u32,
    /// At most so many, however much waits.
    pub max: NonZeroU32,
}

impl Workers {
    /// Always so many.
    pub const fn fixed(count: NonZeroU32) -> Self {
        Self { min: count.get(), max: count }
    }

    /// Whether their number changes with the backlog.
    pub fn is_scaled(self) -> bool {
        self.min < self.max.get()
    }
}

impl Default for Workers {
    /// One.
    fn default() -> Self {
        Self::fixed(NonZeroU32::MIN)
    }
}

/// How much one container may use.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContainerLimits {
    /// Memory; what goes beyond ends the container.
    pub memory: Size,
    /// Processors' time, in processors: 0.5 is half of one.
    pub cpus: f64,
    /// Processes and threads.
    pub pids: u32,
}

impl Default for ContainerLimits {
    /// 256 MiB, one processor, 256 processes.
    fn default() -> Self {
        Self { memory: Size::mib(256), cpus: 1.0, pids: 256 }
    }
}
