//! Steps in containers: what workers outside this process talk to. An AMQP 0-9-1 endpoint and a
//! small HTTP API, exactly as components written for elastic.io's Node.js runtime expect them.
//!
//! There is no broker behind it. A delivery to a worker is a lease of the engine; what the worker
//! publishes is gathered for that delivery; its acknowledgement is the outcome. The gateway never
//! queues, retries or decides, and never confirms what would be lost if it ended now: until the
//! acknowledgement the lease holds the input, from then on a spool on disk holds the output.
//!
//! A worker reaches its own step and nothing else. What it publishes after it acknowledged its
//! message is lost, as everywhere: the contract cannot be kept by one side alone.
#![warn(missing_docs)]

pub mod amqp;
mod board;
mod cipher;
mod compose;
mod environment;
mod files;
mod gateway;
mod gathered;
mod guests;
mod headers;
mod http;
mod kept;
mod listening;
mod marks;
mod names;
mod objects;
mod open;
mod outcome;
mod places;
mod published;
mod seal;
mod service_call;
mod settings;
mod spool;
mod step;
mod stored;

pub use gateway::{Figures, Gateway};
pub use listening::Addresses;
pub use service_call::{ExpectedResult, ResultError, ServiceCall, ServiceResult, Verb};
pub use settings::{Limits, Settings};
