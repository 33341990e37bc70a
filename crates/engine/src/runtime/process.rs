//! The `process` runtime: each worker is a child process that speaks JSON lines on stdio, in
//! whatever language. `docs/reference/process-protocol.md` says how.

mod child;
mod place;
mod post;
mod program;
mod protocol;

pub(crate) use place::ProcessPlace;
