//! Steps in containers of a real Docker daemon: life, limits, crashes, takeover, nothing leaked.
//!
//! How messages travel is tested with the step gateway itself; here a small one stands in, and
//! the containers run a shell. Nothing is needed but `docker.io` and `busybox-static`.

mod broom;
mod daemon;
mod ends;
mod gateway;
mod life;
mod place;
mod scale;
#[path = "../support/log.rs"]
mod step_log;
#[path = "../support/mod.rs"]
mod support;
