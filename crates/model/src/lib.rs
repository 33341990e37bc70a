//! The pure core of Flowline: what a flow is, what a message is, and what becomes of a delivery.
//!
//! Nothing in this crate does I/O, reads a clock or draws a random number: time and randomness
//! are arguments. It compiles without an async runtime.
#![warn(missing_docs)]

pub mod check;
mod config;
pub mod decide;
pub mod delivery;
pub mod document;
pub mod event;
pub mod expression;
pub mod fault;
pub mod flow;
mod graph;
mod guard;
pub mod lapse;
pub mod message;
pub mod name;
pub mod outcome;
mod placement;
pub mod plan;
pub mod problem;
pub mod rate;
pub mod retry;
pub mod runtime;
pub mod schedule;
pub mod size;
pub mod spec;
pub mod template;
pub mod timestamp;

pub use check::check;
pub use decide::decide;
pub use delivery::{Delivery, Enqueue, Settlement, StateWrite, Verdict};
pub use event::{Event, EventKind};
pub use expression::Expression;
pub use fault::{Fault, FaultKind};
pub use lapse::Lapse;
pub use message::{Attachment, ExecutionId, Message, MessageId};
pub use name::{FlowName, QueueName, StepId};
pub use outcome::{Emit, Recipient, Reply};
pub use plan::{Plan, StepPlan};
pub use problem::{Problem, ProblemCode, Span};
pub use rate::Rate;
pub use retry::RetryPolicy;
pub use runtime::{ContainerLimits, Runtime, Workers};
pub use schedule::{Misfire, Schedule};
pub use size::Size;
pub use spec::{OperationKind, OperationSpec, Outputs};
pub use template::Template;
pub use timestamp::Timestamp;
