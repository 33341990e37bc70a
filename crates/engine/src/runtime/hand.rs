//! One worker from start to end: started, watched, stopped when it should, and cleared away.

use std::{sync::Arc, time::Duration};

use flowline_model::Fault;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{Ending, Trouble, Workplace};

/// What happens to a worker.
pub(super) enum News {
    /// It is up.
    Up,
    /// It never came up.
    Failed(Trouble),
    /// It ended by itself.
    Ended(Ending),
    /// It ended because it should.
    Stopped,
}

/// One worker, as its crew knows it.
pub(super) struct Hand {
    /// When it came up; none while it starts.
    pub(super) up: Option<Instant>,
    /// Since when it takes messages; none while it does not.
    pub(super) takes: Option<Instant>,
    /// When it last took messages, or came up.
    pub(super) took: Instant,
    /// It should end when it has finished what it has.
    pub(super) stop: CancellationToken,
    /// It should end now.
    pub(super) kill: CancellationToken,
}

impl Hand {
    /// Starts a worker; what happens to it is told.
    pub(super) fn start(
        place: Arc<dyn Workplace>,
        worker: String,
        grace: Duration,
        news: mpsc::Sender<(String, News)>,
    ) -> Self {
        let (stop, kill) = (CancellationToken::new(), CancellationToken::new());
        tokio::spawn(live(place, worker, grace, stop.clone(), kill.clone(), news));
        Self { up: None, takes: None, took: Instant::now(), stop, kill }
    }

    /// Whether it is on its way out.
    pub(super) fn is_leaving(&self) -> bool {
        self.stop.is_cancelled() || self.kill.is_cancelled()
    }
}

async fn live(
    place: Arc<dyn Workplace>,
    worker: String,
    grace: Duration,
    stop: CancellationToken,
    kill: CancellationToken,
    news: mpsc::Sender<(String, News)>,
) {
    // If nobody listens any more, nobody needs to know.
    let told = |event| news.send((worker.clone(), event));
    let started = tokio::select! {
        started = place.start(&worker) => started,
        () = stop.cancelled() => Err(Trouble::unreachable("it is not needed any more")),
        () = kill.cancelled() => Err(Trouble::unreachable("it is not needed any more")),
    };
    if let Err(trouble) = started {
        place.clear(&worker, Ending::lost(trouble.text.clone()).fault).await;
        let _ = told(if stop.is_cancelled() { News::Stopped } else { News::Failed(trouble) }).await;
        return;
    }
    let _ = told(News::Up).await;
    let ending = tokio::select! {
        biased;
        () = kill.cancelled() => None,
        () = stop.cancelled() => None,
        ending = place.ended(&worker) => Some(ending),
    };
    match ending {
        Some(ending) => {
            place.clear(&worker, ending.fault.clone()).await;
            let _ = told(News::Ended(ending)).await;
        }
        None => {
            end(&*place, &worker, grace, &kill).await;
            let reason = "the worker was stopped before it had finished";
            place.clear(&worker, Fault::retry("worker_lost", reason)).await;
            let _ = told(News::Stopped).await;
        }
    }
}

/// Stops a worker in its own time, or at once if it should.
async fn end(place: &dyn Workplace, worker: &str, grace: Duration, kill: &CancellationToken) {
    tokio::select! {
        biased;
        () = kill.cancelled() => {}
        () = place.stop(worker, grace) => return,
    }
    place.stop(worker, Duration::ZERO).await;
}
