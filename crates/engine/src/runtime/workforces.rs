//! How the workers of all steps stand: written by their crews, read by those who look.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use flowline_model::QueueName;

use crate::WorkersStatus;

/// How the workers of all steps stand.
#[derive(Default)]
pub(crate) struct Workforces {
    /// By step, and by the number of the crew: two while one gives way to another.
    by_crew: Mutex<BTreeMap<(QueueName, u64), WorkersStatus>>,
    /// How often a worker was lost with a message, by step.
    losses: Mutex<BTreeMap<QueueName, u64>>,
}

impl Workforces {
    fn with<T>(&self, look: impl FnOnce(&mut BTreeMap<(QueueName, u64), WorkersStatus>) -> T) -> T {
        look(&mut self.by_crew.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How a crew stands now.
    pub(crate) fn put(&self, queue: &QueueName, crew: u64, status: WorkersStatus) {
        self.with(|all| all.insert((queue.clone(), crew), status));
    }

    /// A crew is gone.
    pub(crate) fn remove(&self, queue: &QueueName, crew: u64) {
        self.with(|all| all.remove(&(queue.clone(), crew)));
        if self.status(queue).is_none() {
            self.losses.lock().unwrap_or_else(PoisonError::into_inner).remove(queue);
        }
    }

    /// A worker of a step was lost while it worked on a message.
    pub(crate) fn lost(&self, queue: &QueueName) {
        *self.losses.lock().unwrap_or_else(PoisonError::into_inner).entry(queue.clone()).or_default() += 1;
    }

    /// How often that was.
    pub(crate) fn losses(&self, queue: &QueueName) -> u64 {
        self.losses.lock().unwrap_or_else(PoisonError::into_inner).get(queue).copied().unwrap_or(0)
    }

    /// How the workers of a step stand: those of the newest crew are wanted, all count.
    pub(crate) fn status(&self, queue: &QueueName) -> Option<WorkersStatus> {
        let range = (queue.clone(), 0)..=(queue.clone(), u64::MAX);
        self.with(|all| {
            all.range(range).map(|(_, status)| status.clone()).reduce(|earlier, later| WorkersStatus {
                running: earlier.running + later.running,
                wanted: later.wanted,
                trouble: later.trouble.or(earlier.trouble),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use flowline_model::{FlowName, StepId};

    use super::*;

    #[test]
    fn two_crews_of_a_step_are_seen_as_one() {
        let queue = |step| QueueName::new(FlowName::new("f").unwrap(), StepId::new(step).unwrap());
        let workforces = Workforces::default();
        let status = |running, wanted| WorkersStatus { running, wanted, trouble: None };
        workforces.put(&queue("a"), 1, status(2, 2));
        workforces.put(&queue("a"), 7, status(1, 3));
        workforces.put(&queue("b"), 2, status(9, 9));
        assert_eq!(workforces.status(&queue("a")), Some(status(3, 3)));
        workforces.remove(&queue("a"), 1);
        assert_eq!(workforces.status(&queue("a")), Some(status(1, 3)));
        assert_eq!(workforces.status(&queue("c")), None);
    }
}
