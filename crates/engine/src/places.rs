//! Places: how many messages a step works on at the same time. Where workers run outside this
//! process their number changes under way: the places follow the room that they have.

use tokio::sync::watch;

/// The places of one step. One loop takes them; whoever holds one gives it back by dropping it.
pub(crate) struct Places {
    room: watch::Receiver<usize>,
    most: usize,
    taken: watch::Sender<usize>,
}

/// A place that is taken.
pub(crate) struct Place {
    taken: watch::Sender<usize>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.taken.send_modify(|taken| *taken -= 1);
    }
}

/// Waits for a change; for ever if nobody is left to make one.
async fn told(change: &mut watch::Receiver<usize>) {
    if change.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

impl Places {
    /// Always so many.
    pub(crate) fn fixed(count: usize) -> Self {
        Self::following(watch::channel(count).1, usize::MAX)
    }

    /// As many as there is room, but never more than `most`.
    pub(crate) fn following(room: watch::Receiver<usize>, most: usize) -> Self {
        Self { room, most, taken: watch::Sender::new(0) }
    }

    fn count(&self) -> usize {
        (*self.room.borrow()).min(self.most)
    }

    /// Takes a place if there is one.
    pub(crate) fn try_take(&self) -> Option<Place> {
        let count = self.count();
        let took = self.taken.send_if_modified(|taken| {
            let free = *taken < count;
            *taken += usize::from(free);
            free
        });
        took.then(|| Place { taken: self.taken.clone() })
    }

    /// Waits for a place and takes it.
    pub(crate) async fn take(&self) -> Place {
        let (mut room, mut taken) = (self.room.clone(), self.taken.subscribe());
        loop {
            room.mark_unchanged();
            taken.mark_unchanged();
            if let Some(place) = self.try_take() {
                return place;
            }
            tokio::select! {
                () = told(&mut room) => {}
                () = told(&mut taken) => {}
            }
        }
    }

    /// Whether none is taken.
    pub(crate) fn are_empty(&self) -> bool {
        *self.taken.borrow() == 0
    }

    /// Waits until more are taken than there are: workers have gone.
    pub(crate) async fn crowded(&self) {
        let mut room = self.room.clone();
        loop {
            room.mark_unchanged();
            if *self.taken.borrow() > self.count() {
                return;
            }
            told(&mut room).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn waits(future: impl Future) -> bool {
        tokio::time::timeout(Duration::from_millis(20), future).await.is_err()
    }

    #[tokio::test]
    async fn a_place_is_free_again_when_it_is_dropped() {
        let places = Places::fixed(1);
        let place = places.take().await;
        assert!(places.try_take().is_none() && !places.are_empty());
        assert!(waits(places.take()).await);
        drop(place);
        drop(places.take().await);
        assert!(places.are_empty());
    }

    #[tokio::test]
    async fn places_come_and_go_with_the_room() {
        let (room, told) = watch::channel(0);
        let places = Places::following(told, 2);
        assert!(waits(places.take()).await);
        room.send_replace(3);
        let held = (places.take().await, places.take().await);
        assert!(places.try_take().is_none(), "never more than the most");
        assert!(waits(places.crowded()).await);
        room.send_replace(1);
        places.crowded().await;
        drop(held);
        assert!(places.try_take().is_some());
    }

    #[tokio::test]
    async fn one_that_waits_is_woken_by_new_room() {
        let (room, told) = watch::channel(0);
        let places = std::sync::Arc::new(Places::following(told, usize::MAX));
        let waiting = std::sync::Arc::clone(&places);
        let task = tokio::spawn(async move { drop(waiting.take().await) });
        tokio::task::yield_now().await;
        room.send_replace(1);
        task.await.unwrap();
    }
}
