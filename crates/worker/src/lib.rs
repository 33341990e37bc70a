//! The client side of the step contract: hosts built-in components in a container.
//!
//! It takes messages over AMQP 0-9-1, runs their operation, publishes what comes of it and
//! acknowledges, in this order. It keeps nothing: what it held when a connection is lost is
//! delivered again elsewhere, so its results are dropped. It never decides what becomes of a
//! message; it tells what happened.
#![warn(missing_docs)]

mod cipher;
mod host;
mod incoming;
mod lines;
mod objects;
mod publication;
mod publisher;
mod remembered;
mod session;
mod settings;
mod work;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use flowline_sdk::Catalog;
use tokio_util::sync::CancellationToken;

use crate::{host::Platform, lines::Lines, session::Session, settings::Settings};

pub use settings::WorkerError;

/// The first wait before a connection is tried again.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// The longest.
const LONGEST_WAIT: Duration = Duration::from_secs(15);

/// What all connections of one worker share.
pub(crate) struct Worker {
    pub(crate) settings: Settings,
    pub(crate) catalog: Catalog,
    pub(crate) platform: Arc<Platform>,
    pub(crate) lines: Lines,
}

/// Runs one step's worker until `stop` is told; then it finishes what it holds and returns.
///
/// The environment says which step and where: the variables `ELASTICIO_…` of the step contract.
/// While the other side cannot be reached it tries again, for ever.
///
/// # Errors
///
/// If the environment lacks a variable or holds one that cannot be used.
pub async fn run(
    catalog: Catalog,
    environment: impl Fn(&str) -> Option<String>,
    stop: impl Future,
) -> Result<(), WorkerError> {
    let settings = Settings::read(environment)?;
    let lines = Lines::start(&settings);
    let platform = Arc::new(Platform::new(&settings, lines.clone()));
    let worker = Arc::new(Worker { settings, catalog, platform, lines: lines.clone() });
    let told = CancellationToken::new();
    {
        let mut work = Box::pin(keep_connected(worker, told.clone()));
        tokio::select! {
            () = &mut work => {}
            _ = stop => {
                told.cancel();
                work.await;
            }
        }
    }
    lines.finish().await;
    Ok(())
}

/// One connection after the other, until it is told to stop.
async fn keep_connected(worker: Arc<Worker>, told: CancellationToken) {
    let mut wait = FIRST_WAIT;
    loop {
        let opened = tokio::select! {
            opened = Session::open(&worker) => opened,
            () = told.cancelled() => return,
        };
        let begun = Instant::now();
        let ended = match opened {
            Ok(session) => session.serve(told.clone()).await,
            Err(error) => Err(error),
        };
        let Err(error) = ended else { return };
        worker.lines.warn(&format!("the connection is lost, trying again: {error}"));
        if begun.elapsed() > LONGEST_WAIT {
            wait = FIRST_WAIT;
        }
        tokio::select! {
            () = tokio::time::sleep(wait.mul_f64(rand::random_range(0.5..=1.0))) => {}
            () = told.cancelled() => return,
        }
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}
