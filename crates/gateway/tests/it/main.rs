//! The gateway against real clients: a plain AMQP client that keeps to the contract, clients that
//! keep to nothing, and the official runtime library with a real component.

mod abuse;
mod http;
mod plain;
mod protocol;
mod rig;
mod sailor;
mod spool;
mod throughput;
