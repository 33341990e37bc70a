//! The names that a step's workers see: queue, exchange, routing keys. All of them are the step's
//! own; they mean nothing outside the gateway.

use flowline_model::{MessageId, QueueName};

use crate::amqp::Scope;

/// What a routing key is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Purpose {
    Data,
    Error,
    Rebound,
    Snapshot,
    /// The reply to the caller of the delivery with this id.
    Reply(String),
}

/// A step's names.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    prefix: String,
}

impl Names {
    pub(crate) fn new(queue: &QueueName) -> Self {
        Self { prefix: format!("{}.{}", queue.flow, queue.step) }
    }

    pub(crate) fn queue(&self) -> String {
        format!("{}.messages", self.prefix)
    }

    pub(crate) fn exchange(&self) -> String {
        format!("{}.exchange", self.prefix)
    }

    pub(crate) fn key(&self, purpose: &Purpose) -> String {
        let last = match purpose {
            Purpose::Data => "message",
            Purpose::Error => "error",
            Purpose::Rebound => "rebound",
            Purpose::Snapshot => "snapshot",
            Purpose::Reply(id) => return format!("{}{id}", self.replies()),
        };
        format!("{}.{last}", self.prefix)
    }

    pub(crate) fn reply(&self, id: MessageId) -> String {
        self.key(&Purpose::Reply(id.to_string()))
    }

    fn replies(&self) -> String {
        format!("{}.reply.", self.prefix)
    }

    /// What a routing key is for; none if it is not this step's.
    pub(crate) fn purpose(&self, key: &str) -> Option<Purpose> {
        match key.strip_prefix(&self.prefix)?.strip_prefix('.')? {
            "message" => Some(Purpose::Data),
            "error" => Some(Purpose::Error),
            "rebound" => Some(Purpose::Rebound),
            "snapshot" => Some(Purpose::Snapshot),
            last => last.strip_prefix("reply.").map(|id| Purpose::Reply(id.to_owned())),
        }
    }

    pub(crate) fn scope(&self, prefetch: u32) -> Scope {
        let purposes = [Purpose::Data, Purpose::Error, Purpose::Rebound, Purpose::Snapshot];
        Scope {
            queue: self.queue(),
            exchange: self.exchange(),
            keys: purposes.iter().map(|purpose| self.key(purpose)).collect(),
            replies: self.replies(),
            prefetch,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_recognised_and_no_other() {
        let names = Names::new(&"orders/cms".parse().unwrap());
        for purpose in [Purpose::Data, Purpose::Error, Purpose::Rebound, Purpose::Snapshot, Purpose::Reply("x".into())]
        {
            assert_eq!(names.purpose(&names.key(&purpose)), Some(purpose));
        }
        let other = Names::new(&"orders/cms2".parse().unwrap());
        assert_eq!(names.purpose(&other.key(&Purpose::Data)), None);
    }
}
