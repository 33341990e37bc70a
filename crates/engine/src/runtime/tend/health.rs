//! Health: which workers take messages, which are deaf or hold one for too long, and which have
//! stood long enough for their failures to be forgotten.

use std::time::Duration;

use flowline_model::Fault;
use tokio::time::Instant;

use super::Tender;
use crate::runtime::hand::Hand;

/// How long a worker must have taken messages before its failures are forgotten.
const STOOD: Duration = Duration::from_secs(5);
/// What a worker may hold a message for beyond the step's time limit before it is killed.
const OVERTIME: Duration = Duration::from_millis(500);

impl Tender {
    /// Looks at every worker: who takes messages, who is deaf, who holds one for too long.
    pub(super) fn watch(&mut self) {
        let now = Instant::now();
        let mut deaf = Vec::new();
        for (worker, hand) in self.hands.iter_mut().filter(|(_, hand)| hand.up.is_some() && !hand.is_leaving()) {
            let presence = self.crew.place.presence(worker);
            if presence.is_some_and(|presence| presence.consuming) {
                hand.took = now;
                hand.takes.get_or_insert(now);
            } else {
                hand.takes = None;
                if now.duration_since(hand.took) >= self.crew.shared.settings.docker.deaf_after {
                    deaf.push(worker.clone());
                }
            }
            let held = presence.and_then(|presence| presence.holding_since).map(|since| now.duration_since(since));
            if held.is_some_and(|held| held > self.plan.timeout + OVERTIME) {
                let message = format!("the attempt took longer than {:?}; its worker was killed", self.plan.timeout);
                tracing::warn!(queue = %self.plan.queue, worker, "{message}");
                self.crew.place.expel(worker, Fault::retry("timeout", message));
                hand.kill.cancel();
            }
        }
        for worker in deaf {
            self.replace_deaf(&worker);
        }
        if self.backoff.was_idle() && self.has_lost() {
            self.backoff.was_at_work();
        }
        if self.all_stand(now) {
            self.backoff.stood();
        }
    }

    /// Whether a worker was lost with a message, since this was asked last: it may be known before
    /// or after its end is.
    pub(super) fn has_lost(&mut self) -> bool {
        let losses = self.crew.shared.workforces.losses(&self.plan.queue);
        std::mem::replace(&mut self.losses, losses) != losses
    }

    /// Whether there are as many workers as there should be, and none of them is new.
    fn all_stand(&self, now: Instant) -> bool {
        let stands = |hand: &&Hand| hand.takes.is_some_and(|since| now.duration_since(since) >= STOOD);
        let count = self.hands.values().filter(|hand| !hand.is_leaving()).filter(stands).count();
        count > 0 && u32::try_from(count).is_ok_and(|count| count >= self.wanted)
    }

    fn replace_deaf(&mut self, worker: &str) {
        let after = self.crew.shared.settings.docker.deaf_after;
        let text = format!("it was up, but took no messages for {after:?}: another takes its place");
        self.crew.place.expel(worker, Fault::retry("worker_lost", format!("its worker was replaced: {text}")));
        if let Some(hand) = self.hands.get(worker) {
            hand.kill.cancel();
        }
        self.failed(worker, &text);
    }
}
