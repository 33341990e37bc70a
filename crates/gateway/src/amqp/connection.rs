//! One connection as a state machine: bytes in; bytes and events out. No I/O, no clock.
//!
//! It knows what a worker may do and refuses everything else with the protocol's own error. It
//! does not know what messages mean.

use std::collections::{BTreeMap, VecDeque};

use amq_protocol::{
    frame::AMQPFrame,
    protocol::{AMQPClass, AMQPHardError, channel, confirm, connection},
};

use super::{
    channel::{Channel, unexpected},
    content::Publication,
    event::{Event, Limits},
    frames::{self, Frames},
    handshake::login_refused,
    refusal::Refusal,
    scope::Scope,
};

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Greeting,
    StartOk,
    Login,
    TuneOk,
    Open,
    Running,
    /// We said goodbye and wait for the answer.
    Closing,
    Done,
}

/// One connection.
pub struct Connection {
    pub(super) phase: Phase,
    pub(super) limits: Limits,
    pub(super) scope: Option<Scope>,
    pub(super) frames: Frames,
    pub(super) channels: BTreeMap<u16, Channel>,
    pub(super) events: VecDeque<Event>,
    pub(super) consumers: u64,
    out: Vec<u8>,
    /// How much of it was sent.
    sent: usize,
}

impl Connection {
    /// A connection that has said nothing yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            phase: Phase::Greeting,
            limits,
            scope: None,
            frames: Frames::new(),
            channels: BTreeMap::new(),
            events: VecDeque::new(),
            consumers: 0,
            out: Vec::new(),
            sent: 0,
        }
    }

    /// Takes bytes from the other side.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.frames.push(bytes);
        self.go_on();
    }

    fn go_on(&mut self) {
        while !matches!(self.phase, Phase::Login | Phase::Done) {
            let frame = match self.frames.next() {
                Ok(Some(frame)) => frame,
                Ok(None) => return,
                Err(_) if self.phase == Phase::Greeting => return self.wrong_protocol(),
                Err(refusal) => {
                    // What follows cannot be told from noise.
                    self.close(&refusal);
                    self.phase = Phase::Done;
                    return;
                }
            };
            let channel = frame.channel_id();
            if let Err(refusal) = self.frame(frame) {
                self.refuse(channel, &refusal);
            }
        }
    }

    /// The next thing the protocol wants from the world.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// What is to be sent.
    pub fn out(&self) -> &[u8] {
        &self.out[self.sent..]
    }

    /// So many bytes from the front of it were sent.
    pub fn sent(&mut self, length: usize) {
        self.sent += length;
        // Moving what is left must not cost more than was sent.
        if self.sent * 2 >= self.out.len() {
            self.out.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// Everything was said.
    pub fn is_done(&self) -> bool {
        self.phase == Phase::Done
    }

    /// The handshake is over and nobody said goodbye.
    pub fn is_running(&self) -> bool {
        self.phase == Phase::Running
    }

    /// We said goodbye.
    pub fn is_closing(&self) -> bool {
        self.phase == Phase::Closing
    }

    /// Seconds between heartbeats, as agreed on; zero is none.
    pub fn heartbeat(&self) -> u16 {
        if self.phase == Phase::Running { self.limits.heartbeat } else { 0 }
    }

    /// Sends a heartbeat.
    pub fn beat(&mut self) {
        self.write(&AMQPFrame::Heartbeat);
    }

    /// Answers a login.
    pub fn admit(&mut self, scope: Option<Scope>) {
        if self.phase != Phase::Login {
            return;
        }
        self.scope = scope;
        if self.scope.is_some() {
            self.tune();
        } else {
            self.close(&login_refused());
        }
        self.go_on();
    }

    /// Ends the connection from here.
    pub fn end(&mut self, reason: &str) {
        self.close(&Refusal::hard(AMQPHardError::CONNECTIONFORCED, reason));
    }

    /// Everything that was delivered and not settled.
    pub fn take_unsettled(&mut self) -> Vec<u64> {
        self.channels.values_mut().flat_map(Channel::take_unsettled).collect()
    }

    pub(super) fn write(&mut self, frame: &AMQPFrame) {
        frames::write(frame, &mut self.out);
    }

    pub(super) fn write_body(&mut self, channel: u16, part: &[u8]) {
        frames::write_body(channel, part, &mut self.out);
    }

    pub(super) fn send(&mut self, channel: u16, method: AMQPClass) {
        self.write(&AMQPFrame::Method(channel, method));
    }

    pub(super) fn channel(&mut self, id: u16) -> Result<&mut Channel, Refusal> {
        self.channels.get_mut(&id).ok_or_else(|| no_channel(id))
    }

    /// A channel on which something can still be sent.
    pub(super) fn usable(&mut self, id: u16) -> Option<&mut Channel> {
        let running = self.phase == Phase::Running;
        self.channels.get_mut(&id).filter(|channel| running && !channel.closing)
    }

    pub(super) fn credit(&self, id: u16) -> u32 {
        let allowed = self.scope.as_ref().map_or(0, |scope| scope.prefetch);
        self.channels.get(&id).map_or(0, |channel| channel.credit(allowed))
    }

    pub(super) fn credit_changed(&mut self, id: u16) {
        let credit = self.credit(id);
        self.events.push_back(Event::Credit { channel: id, credit });
    }

    fn frame(&mut self, frame: AMQPFrame) -> Result<(), Refusal> {
        match (self.phase, frame) {
            (Phase::Greeting, frame) => {
                self.greet(&frame);
                Ok(())
            }
            (Phase::Closing, AMQPFrame::Method(0, AMQPClass::Connection(method))) => {
                self.last_words(&method);
                Ok(())
            }
            (Phase::Closing, _) | (_, AMQPFrame::Heartbeat) => Ok(()),
            (Phase::Running, AMQPFrame::Method(0, AMQPClass::Connection(method))) => self.connection(&method),
            (_, AMQPFrame::Method(0, AMQPClass::Connection(method))) => self.before(method),
            (Phase::Running, AMQPFrame::Method(0, _)) => {
                Err(Refusal::hard(AMQPHardError::COMMANDINVALID, "channel 0 is for the connection"))
            }
            (Phase::Running, AMQPFrame::Method(id, method)) => self.method(id, method),
            (Phase::Running, AMQPFrame::Header(id, header)) => {
                let (largest, budget) = (self.limits.body, self.limits.budget.clone());
                self.content(id, |channel| channel.header(id, header, largest, &budget))
            }
            (Phase::Running, AMQPFrame::Body(id, part)) => self.content(id, |channel| channel.body(id, &part)),
            _ => Err(unexpected()),
        }
    }

    /// A method of the connection while hands are shaken.
    fn before(&mut self, method: connection::AMQPMethod) -> Result<(), Refusal> {
        if let connection::AMQPMethod::Close(_) = method { self.connection(&method) } else { self.shake_hands(method) }
    }

    fn connection(&mut self, method: &connection::AMQPMethod) -> Result<(), Refusal> {
        match method {
            connection::AMQPMethod::Close(_) => {
                self.send(0, AMQPClass::Connection(connection::AMQPMethod::CloseOk(connection::CloseOk {})));
                self.phase = Phase::Done;
                Ok(())
            }
            connection::AMQPMethod::UpdateSecret(_) => Err(Refusal::not_implemented("connection.update-secret")),
            _ => Err(Refusal::hard(AMQPHardError::COMMANDINVALID, "not on an open connection")),
        }
    }

    fn last_words(&mut self, method: &connection::AMQPMethod) {
        if let connection::AMQPMethod::Close(_) = method {
            self.send(0, AMQPClass::Connection(connection::AMQPMethod::CloseOk(connection::CloseOk {})));
        }
        if matches!(method, connection::AMQPMethod::Close(_) | connection::AMQPMethod::CloseOk(_)) {
            self.phase = Phase::Done;
        }
    }

    fn method(&mut self, id: u16, method: AMQPClass) -> Result<(), Refusal> {
        if let AMQPClass::Channel(channel::AMQPMethod::Open(_)) = method {
            return self.open(id);
        }
        let channel = self.channel(id)?;
        if channel.closing {
            self.farewell(id, &method);
            return Ok(());
        }
        if channel.expects_content() {
            return Err(unexpected());
        }
        match method {
            AMQPClass::Channel(method) => self.on_channel(id, &method),
            AMQPClass::Basic(method) => self.basic(id, method),
            AMQPClass::Queue(method) => self.queue(id, method),
            AMQPClass::Exchange(method) => self.exchange(id, method),
            AMQPClass::Confirm(confirm::AMQPMethod::Select(select)) => {
                self.channel(id)?.confirms.get_or_insert(1);
                if !select.nowait {
                    self.send(id, AMQPClass::Confirm(confirm::AMQPMethod::SelectOk(confirm::SelectOk {})));
                }
                Ok(())
            }
            AMQPClass::Tx(_) => Err(Refusal::not_implemented("the class `tx`")),
            AMQPClass::Access(_) => Err(Refusal::not_implemented("the class `access`")),
            _ => Err(Refusal::hard(AMQPHardError::COMMANDINVALID, "not on a channel")),
        }
    }

    fn open(&mut self, id: u16) -> Result<(), Refusal> {
        if id > self.limits.channels {
            let text = format!("channel {id}: there may be {} channels", self.limits.channels);
            return Err(Refusal::hard(AMQPHardError::NOTALLOWED, text));
        }
        if self.channels.contains_key(&id) {
            return Err(Refusal::hard(AMQPHardError::CHANNELERROR, format!("channel {id} is open already")));
        }
        self.channels.insert(id, Channel::default());
        self.send(id, AMQPClass::Channel(channel::AMQPMethod::OpenOk(channel::OpenOk {})));
        Ok(())
    }

    fn on_channel(&mut self, id: u16, method: &channel::AMQPMethod) -> Result<(), Refusal> {
        match method {
            channel::AMQPMethod::Close(_) => {
                self.gone(id);
                self.channels.remove(&id);
                self.send(id, AMQPClass::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {})));
                Ok(())
            }
            channel::AMQPMethod::Flow(flow) => {
                self.channel(id)?.paused = !flow.active;
                self.credit_changed(id);
                let answer = channel::FlowOk { active: flow.active };
                self.send(id, AMQPClass::Channel(channel::AMQPMethod::FlowOk(answer)));
                Ok(())
            }
            _ => Err(Refusal::hard(AMQPHardError::COMMANDINVALID, "not on an open channel")),
        }
    }

    /// A method on a channel that we ended: only its end counts.
    fn farewell(&mut self, id: u16, method: &AMQPClass) {
        match method {
            AMQPClass::Channel(channel::AMQPMethod::CloseOk(_)) => {
                self.channels.remove(&id);
            }
            AMQPClass::Channel(channel::AMQPMethod::Close(_)) => {
                self.channels.remove(&id);
                self.send(id, AMQPClass::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {})));
            }
            _ => {}
        }
    }

    fn content(
        &mut self,
        id: u16,
        take: impl FnOnce(&mut Channel) -> Result<Option<Publication>, Refusal>,
    ) -> Result<(), Refusal> {
        let channel = self.channel(id)?;
        if channel.closing {
            return Ok(());
        }
        if let Some(publication) = take(channel)? {
            self.events.push_back(Event::Publish(Box::new(publication)));
        }
        Ok(())
    }

    fn refuse(&mut self, id: u16, refusal: &Refusal) {
        if refusal.is_hard() || id == 0 || !self.channels.contains_key(&id) {
            self.close(refusal);
            return;
        }
        self.told(refusal);
        self.gone(id);
        let close =
            channel::Close { reply_code: refusal.code(), reply_text: refusal.reply_text(), class_id: 0, method_id: 0 };
        self.send(id, AMQPClass::Channel(channel::AMQPMethod::Close(close)));
        if let Some(channel) = self.channels.get_mut(&id) {
            channel.closing = true;
            channel.abort();
        }
    }

    /// Tells that a channel ends, with what is on it.
    fn gone(&mut self, id: u16) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        channel.consumers.clear();
        let held = channel.take_unsettled();
        self.events.push_back(Event::ChannelGone { channel: id, held });
    }

    fn close(&mut self, refusal: &Refusal) {
        if matches!(self.phase, Phase::Closing | Phase::Done) {
            return;
        }
        self.told(refusal);
        let close = connection::Close {
            reply_code: refusal.code(),
            reply_text: refusal.reply_text(),
            class_id: 0,
            method_id: 0,
        };
        self.send(0, AMQPClass::Connection(connection::AMQPMethod::Close(close)));
        self.channels.values_mut().for_each(Channel::abort);
        self.phase = Phase::Closing;
    }

    fn told(&mut self, refusal: &Refusal) {
        self.events.push_back(Event::Refused { code: refusal.code(), text: refusal.text.clone() });
    }
}

fn no_channel(id: u16) -> Refusal {
    Refusal::hard(AMQPHardError::CHANNELERROR, format!("channel {id} is not open"))
}
