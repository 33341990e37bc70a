//! The AMQP 0-9-1 endpoint. [`Connection`] is the protocol: bytes in, bytes and [`Event`]s out,
//! without I/O or a clock. `server` is the thin shell around it.

mod basic;
mod budget;
mod channel;
mod connection;
mod content;
mod declare;
mod event;
mod frames;
mod handshake;
mod refusal;
mod scope;
pub(crate) mod server;

pub use budget::Budget;
pub use connection::Connection;
pub use content::{Content, Publication};
pub use event::{Event, Limits, Verdict};
pub use refusal::Refusal;
pub(crate) use refusal::short;
pub use scope::Scope;
