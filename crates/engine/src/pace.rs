//! The pace of a step: at most so many messages in each period.

use flowline_model::Rate;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

/// The pace of a step.
pub(crate) struct Pace {
    limiter: Option<DefaultDirectRateLimiter>,
}

impl Pace {
    /// The messages of a period are spread over it; none limits nothing.
    pub(crate) fn new(rate: Option<Rate>) -> Self {
        let quota = rate.and_then(|rate| Quota::with_period(rate.period / rate.count.get()));
        Self { limiter: quota.map(RateLimiter::direct) }
    }

    pub(crate) fn is_limited(&self) -> bool {
        self.limiter.is_some()
    }

    /// Waits until the next message may be worked on.
    pub(crate) async fn next(&self) {
        if let Some(limiter) = &self.limiter {
            limiter.until_ready().await;
        }
    }
}
