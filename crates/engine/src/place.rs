//! Places: how many messages a step works on at the same time.
//!
//! A message has a place while it is attempted. A settlement then waits for a flush of the disk
//! that it shares with whatever else came meanwhile: a place that waited with it would bound the
//! step to so many messages for each flush. So it is given free before, and the settlements under
//! way have bounds of their own.

use std::sync::Arc;

use flowline_model::StepPlan;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What may be in settlement at the same time, in KiB of messages.
const SETTLING_KIB: u32 = 4 << 10;
/// As so much counts even a small message: at most 256 are in settlement.
const SMALLEST_KIB: u32 = 16;

/// The places of one step.
pub(crate) struct Places {
    /// How many there are.
    pub(crate) all: usize,
    working: Arc<Semaphore>,
    settling: Arc<Semaphore>,
}

/// The place of one message.
pub(crate) struct Place {
    working: OwnedSemaphorePermit,
    settling: Arc<Semaphore>,
}

/// A message in settlement, whose place is free again.
pub(crate) struct Settling {
    _bound: OwnedSemaphorePermit,
}

impl Places {
    /// The places that a plan provides. A poll is never two at a time.
    pub(crate) fn of(plan: &StepPlan) -> Self {
        let slots = plan.workers.get().saturating_mul(plan.prefetch.get());
        let slots = usize::try_from(slots).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        let all = if plan.schedule.is_some() { 1 } else { slots };
        let settling = Arc::new(Semaphore::new(SETTLING_KIB as usize));
        Self { all, working: Arc::new(Semaphore::new(all)), settling }
    }

    /// Whether no message has one.
    pub(crate) fn are_free(&self) -> bool {
        self.working.available_permits() == self.all
    }

    /// Waits for a place.
    pub(crate) async fn next(&self) -> Option<Place> {
        let working = Arc::clone(&self.working).acquire_owned().await.ok()?;
        Some(Place { working, settling: Arc::clone(&self.settling) })
    }

    /// A place, if one is free.
    pub(crate) fn at_once(&self) -> Option<Place> {
        let working = Arc::clone(&self.working).try_acquire_owned().ok()?;
        Some(Place { working, settling: Arc::clone(&self.settling) })
    }
}

impl Place {
    /// Gives the place free for the next message once there is room for the settlement of this one,
    /// which takes so many bytes.
    pub(crate) async fn settle(self, bytes: usize) -> Option<Settling> {
        let kib = u32::try_from(bytes / 1024).unwrap_or(u32::MAX).clamp(SMALLEST_KIB, SETTLING_KIB);
        let bound = self.settling.acquire_many_owned(kib).await.ok()?;
        drop(self.working);
        Some(Settling { _bound: bound })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(all: usize) -> Places {
        let settling = Arc::new(Semaphore::new(SETTLING_KIB as usize));
        Places { all, working: Arc::new(Semaphore::new(all)), settling }
    }

    #[tokio::test]
    async fn a_settlement_holds_no_place_and_too_many_settlements_do() {
        let places = places(1);
        let mut settling = Vec::new();
        for _ in 0..SETTLING_KIB / SMALLEST_KIB {
            let place = places.next().await.unwrap();
            assert!(places.at_once().is_none());
            settling.push(place.settle(900).await.unwrap());
            assert!(places.are_free());
        }
        let mut last = std::pin::pin!(places.next().await.unwrap().settle(900));
        assert!(futures::poll!(last.as_mut()).is_pending());
        assert!(!places.are_free());
        settling.pop();
        assert!(futures::poll!(last.as_mut()).is_ready());
        assert!(places.are_free());
    }

    #[tokio::test]
    async fn a_huge_message_is_settled_alone_but_is_settled() {
        let places = places(2);
        let huge = places.next().await.unwrap().settle(1 << 30).await;
        let mut next = std::pin::pin!(places.next().await.unwrap().settle(1));
        assert!(futures::poll!(next.as_mut()).is_pending());
        drop(huge);
        assert!(futures::poll!(next.as_mut()).is_ready());
    }
}
