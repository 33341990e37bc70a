//! The methods that carry messages: consume, get, publish, acknowledge.

use amq_protocol::{
    frame::{AMQPContentHeader, AMQPFrame},
    protocol::{AMQPClass, AMQPHardError, basic},
};

use super::{
    connection::Connection,
    content::Content,
    event::{Event, Verdict},
    frames::FRAME_OVERHEAD,
    refusal::{Refusal, short},
};

/// Consumers on one channel.
const MOST_CONSUMERS: usize = 16;

impl Connection {
    pub(super) fn basic(&mut self, id: u16, method: basic::AMQPMethod) -> Result<(), Refusal> {
        match method {
            basic::AMQPMethod::Qos(qos) => self.qos(id, &qos),
            basic::AMQPMethod::Consume(consume) => self.consume(id, &consume),
            basic::AMQPMethod::Cancel(cancel) => {
                self.cancel(id, &cancel);
                Ok(())
            }
            basic::AMQPMethod::Get(get) => self.get(id, &get),
            basic::AMQPMethod::Publish(publish) => self.publish(id, publish),
            basic::AMQPMethod::Ack(ack) => self.settle(id, ack.delivery_tag, ack.multiple, Verdict::Ack),
            basic::AMQPMethod::Reject(reject) => {
                self.settle(id, reject.delivery_tag, false, Verdict::no(reject.requeue))
            }
            basic::AMQPMethod::Nack(nack) => {
                self.settle(id, nack.delivery_tag, nack.multiple, Verdict::no(nack.requeue))
            }
            basic::AMQPMethod::Recover(_) | basic::AMQPMethod::RecoverAsync(_) => {
                Err(Refusal::not_implemented("basic.recover"))
            }
            _ => Err(Refusal::hard(AMQPHardError::COMMANDINVALID, "a method that only a server sends")),
        }
    }

    fn qos(&mut self, id: u16, qos: &basic::Qos) -> Result<(), Refusal> {
        self.channel(id)?.prefetch = qos.prefetch_count;
        self.send(id, AMQPClass::Basic(basic::AMQPMethod::QosOk(basic::QosOk {})));
        self.credit_changed(id);
        Ok(())
    }

    fn consume(&mut self, id: u16, consume: &basic::Consume) -> Result<(), Refusal> {
        self.own_queue(consume.queue.as_str())?;
        if consume.no_ack {
            return Err(Refusal::not_implemented("consuming without acknowledgement"));
        }
        if consume.exclusive {
            return Err(Refusal::access("a step's queue is shared by all of its workers"));
        }
        let mut tag = consume.consumer_tag.to_string();
        if tag.is_empty() {
            self.consumers += 1;
            tag = format!("{}-{}", self.limits.name, self.consumers);
        }
        let channel = self.channel(id)?;
        if channel.consumers.len() >= MOST_CONSUMERS {
            return Err(Refusal::hard(AMQPHardError::RESOURCEERROR, "too many consumers on one channel"));
        }
        if !channel.consumers.insert(tag.clone()) {
            return Err(Refusal::hard(AMQPHardError::NOTALLOWED, format!("the consumer tag `{tag}` is in use")));
        }
        if !consume.nowait {
            let answer = basic::ConsumeOk { consumer_tag: short(&tag) };
            self.send(id, AMQPClass::Basic(basic::AMQPMethod::ConsumeOk(answer)));
        }
        let credit = self.credit(id);
        self.events.push_back(Event::Consume { channel: id, tag, credit });
        Ok(())
    }

    fn cancel(&mut self, id: u16, cancel: &basic::Cancel) {
        let tag = cancel.consumer_tag.to_string();
        if self.channels.get_mut(&id).is_some_and(|channel| channel.consumers.remove(&tag)) {
            self.events.push_back(Event::Cancel { channel: id, tag });
        }
        if !cancel.nowait {
            let answer = basic::CancelOk { consumer_tag: cancel.consumer_tag.clone() };
            self.send(id, AMQPClass::Basic(basic::AMQPMethod::CancelOk(answer)));
        }
    }

    fn get(&mut self, id: u16, get: &basic::Get) -> Result<(), Refusal> {
        self.own_queue(get.queue.as_str())?;
        if get.no_ack {
            return Err(Refusal::not_implemented("fetching without acknowledgement"));
        }
        self.channel(id)?.fetches = true;
        let credit = self.credit(id);
        self.events.push_back(Event::Get { channel: id, credit });
        Ok(())
    }

    fn publish(&mut self, id: u16, publish: basic::Publish) -> Result<(), Refusal> {
        self.own_exchange(publish.exchange.as_str())?;
        let key = publish.routing_key.as_str();
        if !self.scope.as_ref().is_some_and(|scope| scope.allows(key)) {
            return Err(Refusal::access(format!("the routing key `{key}` is not this worker's")));
        }
        if publish.immediate {
            return Err(Refusal::not_implemented("`immediate`"));
        }
        self.channel(id)?.begin(publish);
        Ok(())
    }

    fn settle(&mut self, id: u16, tag: u64, multiple: bool, verdict: Verdict) -> Result<(), Refusal> {
        let settled = self.channel(id)?.settle(tag, multiple)?;
        self.events.extend(settled.into_iter().map(|held| Event::Settle { held, verdict }));
        Ok(())
    }

    /// Sends a message to a consumer; false if it is not there any more.
    pub fn deliver(&mut self, id: u16, tag: &str, held: u64, content: &Content) -> bool {
        let exchange = self.scope.as_ref().map(|scope| short(&scope.exchange)).unwrap_or_default();
        let Some(channel) = self.usable(id) else { return false };
        if !channel.consumers.contains(tag) {
            return false;
        }
        let deliver = basic::Deliver {
            consumer_tag: short(tag),
            delivery_tag: channel.delivered(held),
            redelivered: content.redelivered,
            exchange,
            routing_key: short(&content.key),
        };
        self.send(id, AMQPClass::Basic(basic::AMQPMethod::Deliver(deliver)));
        self.send_content(id, content);
        true
    }

    /// Answers a `basic.get`; false if the channel is not there any more.
    pub fn answer_get(&mut self, id: u16, fetched: Option<(u64, &Content)>) -> bool {
        let exchange = self.scope.as_ref().map(|scope| short(&scope.exchange)).unwrap_or_default();
        let Some(channel) = self.usable(id) else { return false };
        let Some((held, content)) = fetched else {
            self.send(id, AMQPClass::Basic(basic::AMQPMethod::GetEmpty(basic::GetEmpty {})));
            return true;
        };
        let answer = basic::GetOk {
            delivery_tag: channel.delivered(held),
            redelivered: content.redelivered,
            exchange,
            routing_key: short(&content.key),
            message_count: 0,
        };
        self.send(id, AMQPClass::Basic(basic::AMQPMethod::GetOk(answer)));
        self.send_content(id, content);
        true
    }

    fn send_content(&mut self, id: u16, content: &Content) {
        let header = AMQPContentHeader {
            class_id: 60,
            body_size: content.body.len() as u64,
            properties: content.properties.clone(),
        };
        self.write(&AMQPFrame::Header(id, header));
        for part in content.body.chunks(self.limits.frame as usize - FRAME_OVERHEAD) {
            self.write_body(id, part);
        }
    }

    /// Confirms a publication, or says that it was not taken.
    pub fn confirm(&mut self, id: u16, number: u64, taken: bool) {
        if self.usable(id).is_none() {
            return;
        }
        let answer = if taken {
            basic::AMQPMethod::Ack(basic::Ack { delivery_tag: number, multiple: false })
        } else {
            basic::AMQPMethod::Nack(basic::Nack { delivery_tag: number, multiple: false, requeue: false })
        };
        self.send(id, AMQPClass::Basic(answer));
    }
}
