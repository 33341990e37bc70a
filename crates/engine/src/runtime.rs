//! Where the workers of a step run, if not in this process, and who tends them.
//!
//! A [`crew`] keeps as many workers as the step should have; a [`Workplace`] knows how one is
//! started and stopped there. Neither sees messages: those go through the workplace's `Remote`.

mod admission;
mod backoff;
mod crew;
pub(crate) mod docker;
mod hand;
mod lines;
mod open;
pub(crate) mod process;
mod record;
mod scale;
mod tend;
mod workforces;

pub(crate) use admission::refusal;
pub(crate) use crew::Crew;
pub(crate) use workforces::Workforces;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use flowline_model::Fault;
use flowline_sdk::{Presence, Remote};
use tokio_util::sync::CancellationToken;

/// Where the workers of one step run.
#[async_trait]
pub(crate) trait Workplace: Send + Sync + 'static {
    /// What carries messages to them.
    fn remote(&self) -> Arc<dyn Remote>;

    /// A name for another worker, unique among all.
    fn name(&self) -> String;

    /// Starts a worker; returns when it is up, which is before it takes messages.
    async fn start(&self, worker: &str) -> Result<(), Trouble>;

    /// Waits until a worker that was started has ended, and says how.
    async fn ended(&self, worker: &str) -> Ending;

    /// Asks a worker to end, and kills it when its time is up.
    async fn stop(&self, worker: &str, grace: Duration);

    /// Leaves nothing of a worker behind; what it still holds is given this fault.
    async fn clear(&self, worker: &str, reason: Fault);

    /// Takes from a worker what it holds, with this fault, and lets it have nothing more.
    fn expel(&self, worker: &str, reason: Fault);

    /// How a worker stands; none if it is not known.
    fn presence(&self, worker: &str) -> Option<Presence>;

    /// Lets the component undo what it did when its step began, as one that has subscribed to
    /// something; given up when it takes long or is not waited for any more.
    async fn shut_down(&self, _not_waited_for: &CancellationToken) {}
}

/// How a worker ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ending {
    /// In words.
    pub(crate) text: String,
    /// What that means for the messages it held.
    pub(crate) fault: Fault,
}

impl Ending {
    /// It is gone, and with it what it held.
    pub(crate) fn lost(text: impl Into<String>) -> Self {
        let text = text.into();
        Self { fault: Fault::retry("worker_lost", format!("its worker ended: {text}")), text }
    }
}

/// Why a worker could not be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// In words.
    pub(crate) text: String,
    /// Whether that is not the worker's doing: nobody could have been started.
    pub(crate) is_unreachable: bool,
}

impl Trouble {
    /// The worker cannot be started as it is.
    pub(crate) fn failed(text: impl Into<String>) -> Self {
        Self { text: text.into(), is_unreachable: false }
    }

    /// Whoever starts workers is away.
    pub(crate) fn unreachable(text: impl Into<String>) -> Self {
        Self { text: text.into(), is_unreachable: true }
    }
}
