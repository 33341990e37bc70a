//! Settlements under way: how many messages of a step may wait to become durable.
//!
//! A message has a place while it is attempted. Its settlement then waits for a flush of the disk
//! that it shares with whatever else came meanwhile: a place that waited with it would bound the
//! step to so many messages for each flush. So it is given back before, and this is the bound of
//! those that wait.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How much may wait at the same time, in KiB of messages.
const MOST_KIB: u32 = 4 << 10;
/// As so much counts even a small message: at most 256 wait.
const SMALLEST_KIB: u32 = 16;

/// The settlements of one step.
pub(crate) struct Settling {
    room: Arc<Semaphore>,
}

impl Settling {
    pub(crate) fn new() -> Self {
        Self { room: Arc::new(Semaphore::new(MOST_KIB as usize)) }
    }

    /// Waits until the settlement of a message of so many bytes may wait too; it does as long as
    /// what is returned lives.
    pub(crate) async fn room_for(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let kib = u32::try_from(bytes / 1024).unwrap_or(u32::MAX).clamp(SMALLEST_KIB, MOST_KIB);
        Arc::clone(&self.room).acquire_many_owned(kib).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn so_many_messages_wait_and_no_more() {
        let settling = Settling::new();
        let mut waiting = Vec::new();
        for _ in 0..MOST_KIB / SMALLEST_KIB {
            waiting.push(tokio::task::unconstrained(settling.room_for(900)).await.unwrap());
        }
        let mut next = std::pin::pin!(tokio::task::unconstrained(settling.room_for(900)));
        assert!(futures::poll!(next.as_mut()).is_pending());
        waiting.pop();
        assert!(futures::poll!(next.as_mut()).is_ready());
    }

    #[tokio::test]
    async fn a_huge_message_waits_alone_but_it_does() {
        let settling = Settling::new();
        let huge = settling.room_for(1 << 30).await.unwrap();
        let mut next = std::pin::pin!(settling.room_for(1));
        assert!(futures::poll!(next.as_mut()).is_pending());
        drop(huge);
        assert!(futures::poll!(next.as_mut()).is_ready());
    }
}
