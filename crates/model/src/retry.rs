//! When to try again: exponential with jitter, for a day.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Lapse, Timestamp};

/// How a step repeats what failed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetryPolicy {
    /// The wait after the first failure.
    pub first: Lapse,
    /// By what each further wait is longer than the one before; at least 1.
    pub factor: f64,
    /// The longest wait.
    pub longest: Lapse,
    /// For how long after the first failure to go on; `0s` means: do not retry.
    #[serde(rename = "for")]
    pub horizon: Lapse,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { first: Lapse::seconds(1), factor: 2.0, longest: Lapse::seconds(3_600), horizon: Lapse::seconds(86_400) }
    }
}

impl RetryPolicy {
    /// The wait before the next attempt.
    ///
    /// `attempt` is the one that just failed, from 1. `jitter` is a random number in 0.0..1.0;
    /// the wait is between half and the whole of the exponential one, and never shorter than
    /// what the target asked for with `asked`.
    pub fn wait(&self, attempt: u32, asked: Option<Duration>, jitter: f64) -> Duration {
        let longest = self.longest.0.as_secs_f64();
        let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        // Not infinity, of which nothing would be no number.
        let growth = self.factor.max(1.0).powi(exponent).min(f64::MAX);
        let full = (self.first.0.as_secs_f64() * growth).min(longest);
        let jittered = full * (0.5 + 0.5 * jitter.clamp(0.0, 1.0));
        Duration::try_from_secs_f64(jittered).unwrap_or(self.longest.0).max(asked.unwrap_or_default())
    }

    /// Whether it is too late for another attempt.
    pub fn exhausted(&self, first_failure: Timestamp, now: Timestamp) -> bool {
        now.since(first_failure) >= self.horizon.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_longest() {
        let policy = RetryPolicy::default();
        let seconds = |attempt| policy.wait(attempt, None, 1.0).as_secs();
        assert_eq!([1, 2, 3, 4, 12, 13, 1_000_000].map(seconds), [1, 2, 4, 8, 2048, 3600, 3600]);
        assert_eq!(policy.wait(3, None, 0.0), Duration::from_secs(2));
    }

    #[test]
    fn extreme_policies_have_a_wait() {
        let at_once = RetryPolicy { first: Lapse::seconds(0), ..RetryPolicy::default() };
        assert_eq!(at_once.wait(100_000, None, 1.0), Duration::ZERO);
        let ages = Lapse(Duration::MAX);
        let patient = RetryPolicy { first: ages, longest: ages, ..RetryPolicy::default() };
        assert_eq!(patient.wait(3, None, 1.0), Duration::MAX);
    }

    #[test]
    fn the_target_may_ask_for_more_but_not_for_less() {
        let policy = RetryPolicy::default();
        assert_eq!(policy.wait(1, Some(Duration::from_secs(90)), 0.3), Duration::from_secs(90));
        assert_eq!(policy.wait(8, Some(Duration::from_secs(1)), 1.0), Duration::from_secs(128));
    }
}
