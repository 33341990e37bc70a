//! What runs flows: workers, scheduler, reconciler, recorder.
//!
//! An [`Engine`] is a value; two of them in one process work. It is given a catalog of
//! operations and never looks for one. Data flows one way: a request or a tick becomes messages
//! ([`intake`], [`tick`]), workers take them from queue to queue ([`worker`]), the recorder
//! reads what happened ([`recorder`]).
#![warn(missing_docs)]

mod attachments;
mod attempt;
mod engine;
mod error;
mod flows;
mod gate;
mod host;
mod intake;
mod janitor;
mod losses;
mod meter;
mod pace;
mod places;
mod prepare;
mod reconciler;
mod recorder;
mod records;
mod replies;
mod runtime;
mod secrets;
mod settings;
mod settling;
mod shared;
mod staff;
mod status;
mod store;
mod tick;
mod worker;

pub use engine::{Applied, Engine};
pub use error::{ApplyError, EngineError};
pub use intake::Answer;
pub use records::{Attempt, ExecutionDetail, Output, Records, StepRun};
pub use runtime::docker::ContainerNetwork;
pub use secrets::Secrets;
pub use settings::{Clock, DockerSettings, Keep, Settings, system_clock};
pub use status::{FlowStatus, StepState, StepStatus, WorkerTrouble, WorkersStatus};
pub use store::{Execution, ExecutionFilter, ExecutionStatus};

use shared::Shared;
