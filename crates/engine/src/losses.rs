//! Losses: how often in a row a message's worker was lost while it worked on it.
//!
//! A worker outside this process can die of a message. The count is kept with the step's state,
//! so that it outlives this process, and only while there is one.

use flowline_model::{Delivery, Fault, StateWrite};
use serde_json::json;

use crate::Shared;

/// Losses in a row after which a message is set aside.
const MOST_LOSSES: u64 = 10;
/// Codes of faults that say the worker is gone, and nothing of the message.
const LOST: [&str; 2] = ["worker_lost", "out_of_memory"];

/// The losses of one delivery.
pub(crate) struct Losses<'a> {
    delivery: &'a Delivery,
    count: u64,
}

impl<'a> Losses<'a> {
    /// Reads what is remembered of earlier attempts.
    pub(crate) async fn of(shared: &Shared, delivery: &'a Delivery) -> Result<Self, Fault> {
        let mut count = 0;
        if delivery.attempt > 1 {
            let remembered = shared.queue.state(&delivery.queue, &key(delivery)).await;
            let remembered = remembered.map_err(|error| Fault::retry("state_unavailable", error.to_string()))?;
            count = remembered.and_then(|count| count.as_u64()).unwrap_or(0);
        }
        Ok(Self { delivery, count })
    }

    /// Counts an attempt: what is to be remembered of it, and the fault that comes of one loss
    /// too many.
    pub(crate) fn count(self, fault: Option<&Fault>) -> (Option<StateWrite>, Option<Fault>) {
        let Some(loss) = fault.filter(|fault| is_loss(fault)) else {
            return ((self.count > 0).then(|| self.write(None)), None);
        };
        let count = self.count + 1;
        if count < MOST_LOSSES {
            return (Some(self.write(Some(count))), None);
        }
        let message = format!("its worker ended {count} times in a row while it worked on it; at last: {loss}");
        ((self.count > 0).then(|| self.write(None)), Some(Fault::reject("deadly", message)))
    }

    fn write(&self, count: Option<u64>) -> StateWrite {
        let queue = self.delivery.queue.clone();
        StateWrite { queue, key: key(self.delivery), value: count.map(|count| json!(count)) }
    }
}

/// Whether a fault says that the worker is gone.
pub(crate) fn is_loss(fault: &Fault) -> bool {
    LOST.contains(&fault.code.as_str())
}

fn key(delivery: &Delivery) -> String {
    format!("lost:{}", delivery.message.id)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use flowline_model::{FlowName, Message, MessageId, QueueName, StepId, Timestamp};

    use super::*;

    fn delivery() -> Delivery {
        let id = MessageId::from_bytes([7; 16]);
        Delivery {
            queue: QueueName::new(FlowName::new("f").unwrap(), StepId::new("s").unwrap()),
            message: Message {
                id,
                execution: id,
                parent: None,
                version: 1,
                body: json!({}),
                headers: BTreeMap::new(),
                attachments: Vec::new(),
                steps: BTreeMap::new(),
            },
            attempt: 2,
            enqueued_at: Timestamp::from_millis(0),
            first_failed_at: None,
            group: None,
        }
    }

    #[test]
    fn the_tenth_loss_in_a_row_sets_a_message_aside() {
        let delivery = delivery();
        let lost = Fault::retry("worker_lost", "connection lost");
        for (count, fault, remembered, deadly) in [
            (0, Some(&lost), Some(Some(json!(1))), false),
            (8, Some(&lost), Some(Some(json!(9))), false),
            (9, Some(&lost), Some(None), true),
            (5, None, Some(None), false),
            (0, None, None, false),
            (5, Some(&Fault::retry("http_503", "")), Some(None), false),
        ] {
            let (write, fault) = Losses { delivery: &delivery, count }.count(fault);
            assert_eq!(write.map(|write| write.value), remembered, "{count}");
            assert_eq!(fault.is_some_and(|fault| fault.code == "deadly"), deadly, "{count}");
        }
    }
}
