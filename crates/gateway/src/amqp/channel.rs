//! One channel: who consumes on it, what is not settled, and the content that is coming in.

use std::collections::{BTreeMap, BTreeSet};

use amq_protocol::{
    frame::AMQPContentHeader,
    protocol::{AMQPHardError, AMQPSoftError, BasicProperties, basic},
};

use super::{
    budget::{Budget, Share},
    content::Publication,
    refusal::Refusal,
};

/// One channel.
#[derive(Default)]
pub(super) struct Channel {
    /// We ended it and wait for the other side to say so too; everything else is dropped.
    pub(super) closing: bool,
    /// The number of the next publication, if they are confirmed.
    pub(super) confirms: Option<u64>,
    /// Messages that may be unsettled on it; zero is as many as the step allows.
    pub(super) prefetch: u16,
    /// Deliveries are wanted for now.
    pub(super) paused: bool,
    pub(super) consumers: BTreeSet<String>,
    /// It fetches messages one by one.
    pub(super) fetches: bool,
    next_tag: u64,
    /// What was delivered, by tag; the value is the caller's name for it.
    unsettled: BTreeMap<u64, u64>,
    incoming: Option<Incoming>,
}

/// A publication that is not complete.
enum Incoming {
    Header(basic::Publish),
    Body(Box<Unfinished>),
}

/// A publication whose body is coming in.
struct Unfinished {
    publish: basic::Publish,
    properties: BasicProperties,
    size: usize,
    body: Vec<u8>,
    share: Share,
}

impl Channel {
    /// How many messages it takes, of those that the step allows.
    pub(super) fn credit(&self, allowed: u32) -> u32 {
        match (self.paused, self.prefetch) {
            (true, _) => 0,
            (false, 0) => allowed,
            (false, prefetch) => allowed.min(prefetch.into()),
        }
    }

    /// The tag of a new delivery.
    pub(super) fn delivered(&mut self, held: u64) -> u64 {
        self.next_tag += 1;
        self.unsettled.insert(self.next_tag, held);
        self.next_tag
    }

    /// Takes what an acknowledgement means.
    pub(super) fn settle(&mut self, tag: u64, multiple: bool) -> Result<Vec<u64>, Refusal> {
        let unknown = || Refusal::soft(AMQPSoftError::PRECONDITIONFAILED, format!("unknown delivery tag {tag}"));
        if !multiple {
            return self.unsettled.remove(&tag).map(|held| vec![held]).ok_or_else(unknown);
        }
        if tag == 0 {
            return Ok(std::mem::take(&mut self.unsettled).into_values().collect());
        }
        if !self.unsettled.contains_key(&tag) {
            return Err(unknown());
        }
        let later = self.unsettled.split_off(&(tag + 1));
        Ok(std::mem::replace(&mut self.unsettled, later).into_values().collect())
    }

    /// Everything that is not settled.
    pub(super) fn take_unsettled(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.unsettled).into_values().collect()
    }

    /// Whether the next frame has to be a content frame.
    pub(super) fn expects_content(&self) -> bool {
        self.incoming.is_some()
    }

    /// A publication begins.
    pub(super) fn begin(&mut self, publish: basic::Publish) {
        self.incoming = Some(Incoming::Header(publish));
    }

    /// Forgets a publication that is not complete.
    pub(super) fn abort(&mut self) {
        self.incoming = None;
    }

    /// The header of a publication; gives it back if it has no body.
    pub(super) fn header(
        &mut self,
        id: u16,
        header: AMQPContentHeader,
        largest: usize,
        budget: &Budget,
    ) -> Result<Option<Publication>, Refusal> {
        let Some(Incoming::Header(publish)) = self.incoming.take() else { return Err(unexpected()) };
        if header.class_id != publish.get_amqp_class_id() {
            return Err(Refusal::hard(AMQPHardError::FRAMEERROR, "a header of another class than its method"));
        }
        let size = usize::try_from(header.body_size).unwrap_or(usize::MAX);
        if size > largest {
            let text = format!("a body of {size} bytes; the largest is {largest}");
            return Err(Refusal::soft(AMQPSoftError::CONTENTTOOLARGE, text));
        }
        let share = budget.take(0).ok_or_else(exhausted)?;
        let unfinished = Unfinished { publish, properties: header.properties, size, body: Vec::new(), share };
        self.incoming = Some(Incoming::Body(Box::new(unfinished)));
        Ok(self.complete(id))
    }

    /// A part of a body; gives the publication if it is the last.
    pub(super) fn body(&mut self, id: u16, part: &[u8]) -> Result<Option<Publication>, Refusal> {
        let Some(Incoming::Body(unfinished)) = &mut self.incoming else { return Err(unexpected()) };
        if unfinished.body.len() + part.len() > unfinished.size {
            return Err(Refusal::hard(AMQPHardError::FRAMEERROR, "more body than its header said"));
        }
        if !unfinished.share.grow(part.len()) {
            return Err(exhausted());
        }
        unfinished.body.extend_from_slice(part);
        Ok(self.complete(id))
    }

    fn complete(&mut self, channel: u16) -> Option<Publication> {
        let is_whole = |unfinished: &Unfinished| unfinished.body.len() == unfinished.size;
        if !matches!(&self.incoming, Some(Incoming::Body(unfinished)) if is_whole(unfinished)) {
            return None;
        }
        let Some(Incoming::Body(whole)) = self.incoming.take() else { return None };
        let Unfinished { publish, properties, body, .. } = *whole;
        let number = self.confirms.inspect(|number| self.confirms = Some(number + 1));
        Some(Publication { channel, number, key: publish.routing_key.into(), properties, body })
    }
}

/// A frame at the wrong time.
pub(super) fn unexpected() -> Refusal {
    Refusal::hard(AMQPHardError::UNEXPECTEDFRAME, "a frame that does not belong here")
}

fn exhausted() -> Refusal {
    Refusal::hard(AMQPHardError::RESOURCEERROR, "too many bodies under way; try again later")
}
