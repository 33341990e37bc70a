//! Back-off: how long a step waits before it starts another worker after one failed. Each step
//! has its own, so that one that crashes again and again leaves the others alone.

use std::time::Duration;

use tokio::time::Instant;

/// The wait after the second failure in a row; the first is made good at once.
const FIRST: Duration = Duration::from_millis(500);
/// The longest wait after one that had begun to work: its messages have waits of their own.
const LONGEST_AT_WORK: Duration = Duration::from_secs(2);
/// The longest wait after one that had not.
const LONGEST: Duration = Duration::from_secs(60);
/// The wait before asking again somebody who does not answer at all: not the worker's failure.
const UNREACHABLE: Duration = Duration::from_secs(2);
/// Failures in a row from which on it is a loop.
const LOOP: u32 = 3;

/// What is known of the failures of a step's workers.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
    /// When the last one failed, if it was not at work as far as is known.
    idle_failure: Option<Instant>,
    next: Option<Instant>,
}

impl Backoff {
    /// A worker failed: it ended by itself, at work or not, or never came up.
    pub(crate) fn failed(&mut self, now: Instant, at_work: bool) {
        self.failures = self.failures.saturating_add(1);
        let longest = if at_work { LONGEST_AT_WORK } else { LONGEST };
        self.idle_failure = (!at_work).then_some(now);
        self.next = Some(now + wait(self.failures).min(longest));
    }

    /// Whether the one that failed last was not at work, as far as is known.
    pub(crate) fn was_idle(&self) -> bool {
        self.idle_failure.is_some()
    }

    /// The one that failed last was at work after all: it was lost with a message.
    pub(crate) fn was_at_work(&mut self) {
        if let Some(failed) = self.idle_failure.take() {
            self.next = self.next.min(Some(failed + LONGEST_AT_WORK));
        }
    }

    /// No worker could be started, for a reason that is not its own.
    pub(crate) fn unreachable(&mut self, now: Instant) {
        self.next = Some(now + UNREACHABLE);
    }

    /// A worker has stood long enough: what was, is forgotten.
    pub(crate) fn stood(&mut self) {
        *self = Self::default();
    }

    /// How many failures there were in a row.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    /// When the next worker may be started; none means now.
    pub(crate) fn next(&self, now: Instant) -> Option<Instant> {
        self.next.filter(|next| *next > now)
    }

    /// Whether so many fail that only one at a time is tried.
    pub(crate) fn is_loop(&self) -> bool {
        self.failures >= LOOP
    }

    /// Whether this failure is worth a line in the log: ever fewer of a long row.
    pub(crate) fn is_news(&self) -> bool {
        self.failures <= LOOP || self.failures.is_power_of_two()
    }
}

fn wait(failures: u32) -> Duration {
    match failures.checked_sub(2) {
        None => Duration::ZERO,
        Some(doublings) => FIRST.saturating_mul(1 << doublings.min(16)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_a_bound() {
        let waits = [1, 2, 3, 4, 9, 10, 1_000].map(|failures| wait(failures).as_millis());
        assert_eq!(waits, [0, 500, 1_000, 2_000, 64_000, 128_000, 32_768_000]);
        let now = Instant::now();
        for (at_work, longest) in [(true, LONGEST_AT_WORK), (false, LONGEST)] {
            let mut backoff = Backoff { failures: 50, ..Backoff::default() };
            backoff.failed(now, at_work);
            assert_eq!(backoff.next(now), Some(now + longest));
            backoff.was_at_work();
            assert_eq!(backoff.next(now), Some(now + LONGEST_AT_WORK));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_stood_begins_again() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        backoff.failed(now, false);
        assert_eq!(backoff.next(now), None);
        backoff.failed(now, false);
        assert_eq!(backoff.next(now), Some(now + FIRST));
        assert_eq!(backoff.next(now + FIRST), None);
        assert!(!backoff.is_loop());
        backoff.failed(now, false);
        assert!(backoff.is_loop() && backoff.is_news());
        backoff.stood();
        assert_eq!((backoff.failures(), backoff.next(now)), (0, None));
    }
}
