//! The handshake: who it is, how large frames may be, which virtual host.

use amq_protocol::{
    frame::{AMQPFrame, ProtocolVersion},
    protocol::{AMQPClass, AMQPErrorKind, AMQPHardError, AMQPSoftError, connection},
    types::{AMQPValue, FieldTable},
};

use super::{
    connection::{Connection, Phase},
    event::Event,
    refusal::Refusal,
};

/// The smallest largest frame a client may ask for: what amqplib asks for unless told otherwise.
const SMALLEST_FRAME_MAX: u32 = 4096;

impl Connection {
    pub(super) fn greet(&mut self, frame: &AMQPFrame) {
        if *frame != AMQPFrame::ProtocolHeader(ProtocolVersion::amqp_0_9_1()) {
            self.wrong_protocol();
            return;
        }
        self.send(
            0,
            AMQPClass::Connection(connection::AMQPMethod::Start(connection::Start {
                version_major: 0,
                version_minor: 9,
                server_properties: server_properties(),
                mechanisms: "PLAIN".into(),
                locales: "en_US".into(),
            })),
        );
        self.phase = Phase::StartOk;
    }

    /// Says which protocol is spoken here, and ends.
    pub(super) fn wrong_protocol(&mut self) {
        self.write(&AMQPFrame::ProtocolHeader(ProtocolVersion::amqp_0_9_1()));
        self.phase = Phase::Done;
    }

    pub(super) fn shake_hands(&mut self, method: connection::AMQPMethod) -> Result<(), Refusal> {
        match (self.phase, method) {
            (Phase::StartOk, connection::AMQPMethod::StartOk(start)) => self.start(&start),
            (Phase::TuneOk, connection::AMQPMethod::TuneOk(tune)) => self.tuned(&tune),
            (Phase::Open, connection::AMQPMethod::Open(_)) => {
                self.send(0, AMQPClass::Connection(connection::AMQPMethod::OpenOk(connection::OpenOk {})));
                self.phase = Phase::Running;
                self.events.push_back(Event::Opened);
                Ok(())
            }
            _ => Err(Refusal::hard(AMQPHardError::COMMANDINVALID, "not at this point of the handshake")),
        }
    }

    fn start(&mut self, start: &connection::StartOk) -> Result<(), Refusal> {
        if start.mechanism.as_str() != "PLAIN" {
            return Err(login_refused());
        }
        let mut parts = start.response.as_bytes().split(|byte| *byte == 0).map(String::from_utf8_lossy);
        let (Some(_), Some(user), Some(password), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(login_refused());
        };
        let (user, password) = (user.into_owned(), password.into_owned());
        self.phase = Phase::Login;
        self.events.push_back(Event::Login { user, password });
        Ok(())
    }

    pub(super) fn tune(&mut self) {
        let tune = connection::Tune {
            channel_max: self.limits.channels,
            frame_max: self.limits.frame,
            heartbeat: self.limits.heartbeat,
        };
        self.send(0, AMQPClass::Connection(connection::AMQPMethod::Tune(tune)));
        self.phase = Phase::TuneOk;
    }

    fn tuned(&mut self, tune: &connection::TuneOk) -> Result<(), Refusal> {
        let not_allowed = |text: String| Err(Refusal::hard(AMQPHardError::NOTALLOWED, text));
        match tune.frame_max {
            0 => {}
            frame if (SMALLEST_FRAME_MAX..=self.limits.frame).contains(&frame) => self.limits.frame = frame,
            frame => {
                let largest = self.limits.frame;
                return not_allowed(format!("frame_max {frame} is not in {SMALLEST_FRAME_MAX}..={largest}"));
            }
        }
        match tune.channel_max {
            0 => {}
            channels if channels <= self.limits.channels => self.limits.channels = channels,
            channels => return not_allowed(format!("channel_max {channels} is over {}", self.limits.channels)),
        }
        self.limits.heartbeat = tune.heartbeat;
        self.frames.agree(self.limits.frame as usize);
        self.phase = Phase::Open;
        Ok(())
    }
}

/// The same words whatever was wrong.
pub(super) fn login_refused() -> Refusal {
    Refusal { kind: AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED), text: "login refused".to_owned() }
}

fn server_properties() -> FieldTable {
    let mut capabilities = FieldTable::default();
    for name in ["publisher_confirms", "basic.nack", "consumer_cancel_notify", "authentication_failure_close"] {
        capabilities.insert(name.into(), AMQPValue::Boolean(true));
    }
    let mut properties = FieldTable::default();
    properties.insert("product".into(), AMQPValue::LongString("Flowline".into()));
    properties.insert("version".into(), AMQPValue::LongString(env!("CARGO_PKG_VERSION").into()));
    properties.insert("capabilities".into(), AMQPValue::FieldTable(capabilities));
    properties
}
