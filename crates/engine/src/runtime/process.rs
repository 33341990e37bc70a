//! The `process` runtime: each worker is a child process that speaks JSON lines on stdio, in
//! whatever language. `docs/guides/own-component.md` says how.

mod child;
mod nursery;
mod place;
mod post;
mod program;
mod protocol;
mod seat;

pub(crate) use place::ProcessPlace;
