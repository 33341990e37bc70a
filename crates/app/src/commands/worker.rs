//! `flowline worker`: the workers of one step, in a container.

use std::process::ExitCode;

use crate::{
    commands::up::signalled,
    failure::{Doing as _, Failure, Outcome},
};

/// Threads: one for the operation's code, one so that the connection stays alive meanwhile.
const THREADS: usize = 2;

pub(super) fn run() -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build();
    let runtime = runtime.doing(|| "the program cannot start its threads".to_owned())?;
    let environment = |name: &str| std::env::var(name).ok();
    let work = flowline_worker::run(flowline_components::catalog(), environment, signalled());
    runtime.block_on(Box::pin(work)).map_err(|error| Failure::usage(error.to_string()))?;
    Ok(ExitCode::SUCCESS)
}
