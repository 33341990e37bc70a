//! Queues and exchanges: a worker may ask whether its own are there. It creates, binds, empties
//! and deletes nothing.

use amq_protocol::protocol::{AMQPClass, AMQPSoftError, exchange, queue};

use super::{connection::Connection, refusal::Refusal};

impl Connection {
    pub(super) fn queue(&mut self, channel: u16, method: queue::AMQPMethod) -> Result<(), Refusal> {
        let queue::AMQPMethod::Declare(declare) = method else {
            return Err(Refusal::access("queues are not changed from here"));
        };
        self.own_queue(declare.queue.as_str())?;
        if !declare.passive {
            return Err(Refusal::access("queues are not declared from here; ask with `passive`"));
        }
        if !declare.nowait {
            let answer = queue::DeclareOk { queue: declare.queue, message_count: 0, consumer_count: 0 };
            self.send(channel, AMQPClass::Queue(queue::AMQPMethod::DeclareOk(answer)));
        }
        Ok(())
    }

    pub(super) fn exchange(&mut self, channel: u16, method: exchange::AMQPMethod) -> Result<(), Refusal> {
        let exchange::AMQPMethod::Declare(declare) = method else {
            return Err(Refusal::access("exchanges are not changed from here"));
        };
        self.own_exchange(declare.exchange.as_str())?;
        if !declare.passive {
            return Err(Refusal::access("exchanges are not declared from here; ask with `passive`"));
        }
        if !declare.nowait {
            self.send(channel, AMQPClass::Exchange(exchange::AMQPMethod::DeclareOk(exchange::DeclareOk {})));
        }
        Ok(())
    }

    /// Another step's queue is refused in the same way whether it is there or not.
    pub(super) fn own_queue(&self, name: &str) -> Result<(), Refusal> {
        match &self.scope {
            Some(scope) if scope.queue == name => Ok(()),
            _ => Err(Refusal::access(format!("the queue `{name}` is not this worker's"))),
        }
    }

    pub(super) fn own_exchange(&self, name: &str) -> Result<(), Refusal> {
        match &self.scope {
            Some(scope) if scope.exchange == name => Ok(()),
            _ => Err(Refusal::soft(AMQPSoftError::NOTFOUND, format!("there is no exchange `{name}` for this worker"))),
        }
    }
}
