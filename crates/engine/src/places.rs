//! Places: how many messages a step works on at the same time.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The places of one step. One loop takes them; whoever holds one gives it back by dropping it.
pub(crate) struct Places {
    free: Arc<Semaphore>,
    count: usize,
}

/// A place that is taken.
pub(crate) struct Place {
    _permit: OwnedSemaphorePermit,
}

impl Places {
    /// Always so many.
    pub(crate) fn fixed(count: usize) -> Self {
        let count = count.min(Semaphore::MAX_PERMITS);
        Self { free: Arc::new(Semaphore::new(count)), count }
    }

    /// Takes a place if there is one.
    pub(crate) fn try_take(&self) -> Option<Place> {
        Arc::clone(&self.free).try_acquire_owned().ok().map(|permit| Place { _permit: permit })
    }

    /// Waits for a place and takes it.
    pub(crate) async fn take(&self) -> Option<Place> {
        Arc::clone(&self.free).acquire_owned().await.ok().map(|permit| Place { _permit: permit })
    }

    /// Whether none is taken.
    pub(crate) fn are_empty(&self) -> bool {
        self.free.available_permits() == self.count
    }
}
