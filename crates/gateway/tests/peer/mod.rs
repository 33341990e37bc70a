//! A world around a connection that says yes to everything, for whatever bytes come. It checks
//! what has to hold whoever is on the other side. Shared by the tests and the fuzz target.

use std::collections::BTreeSet;

use amq_protocol::{
    frame::{AMQPFrame, ProtocolVersion, WriteContext, gen_frame},
    protocol::{AMQPClass, BasicProperties, channel, connection},
};
use flowline_gateway::amqp::{Budget, Connection, Content, Event, Limits, Scope};

/// Bytes of a frame.
pub(crate) fn bytes(frame: &AMQPFrame) -> Vec<u8> {
    gen_frame(frame)(WriteContext::from(Vec::new())).map(|written| written.into_inner().0).unwrap_or_default()
}

/// What a client says until its first channel is open.
pub(crate) fn handshake() -> Vec<u8> {
    let start = connection::StartOk {
        mechanism: "PLAIN".into(),
        response: "\0user\0password".into(),
        locale: "en_US".into(),
        ..Default::default()
    };
    let tune = connection::TuneOk { channel_max: 4, frame_max: 4096, heartbeat: 0 };
    let open = connection::Open::default();
    let mut said = bytes(&AMQPFrame::ProtocolHeader(ProtocolVersion::amqp_0_9_1()));
    for method in [
        AMQPClass::Connection(connection::AMQPMethod::StartOk(start)),
        AMQPClass::Connection(connection::AMQPMethod::TuneOk(tune)),
        AMQPClass::Connection(connection::AMQPMethod::Open(open)),
    ] {
        said.extend(bytes(&AMQPFrame::Method(0, method)));
    }
    said.extend(bytes(&AMQPFrame::Method(1, AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {})))));
    said
}

/// The world: hands out messages, takes publications, and keeps count.
pub(crate) struct Peer {
    pub(crate) connection: Connection,
    pub(crate) published: usize,
    content: Content,
    held: BTreeSet<u64>,
    next: u64,
}

impl Default for Peer {
    fn default() -> Self {
        let budget = Budget::new(1 << 20);
        let limits =
            Limits { name: "consumer".into(), frame: 131_072, channels: 16, heartbeat: 30, body: 100_000, budget };
        let content = Content {
            key: "key".into(),
            redelivered: false,
            properties: BasicProperties::default(),
            body: vec![b'x'; 5000].into(),
        };
        Self { connection: Connection::new(limits), published: 0, content, held: BTreeSet::new(), next: 0 }
    }
}

impl Peer {
    /// Takes bytes and answers what they ask for.
    pub(crate) fn receive(&mut self, bytes: &[u8]) {
        self.connection.receive(bytes);
        while let Some(event) = self.connection.next_event() {
            self.answer(event);
        }
        let pending = self.connection.out().len();
        self.connection.sent(pending);
        assert!(self.connection.out().is_empty());
    }

    fn answer(&mut self, event: Event) {
        match event {
            Event::Login { user, .. } => self.connection.admit((user == "user").then(|| Scope {
                queue: "queue".into(),
                exchange: "exchange".into(),
                keys: vec!["key".into()],
                replies: "reply.".into(),
                prefetch: 3,
            })),
            Event::Publish(publication) => {
                assert!(publication.key == "key" || publication.key.starts_with("reply."));
                assert!(publication.body.len() <= 100_000);
                self.published += 1;
                if let Some(number) = publication.number {
                    self.connection.confirm(publication.channel, number, self.published.is_multiple_of(2));
                }
            }
            Event::Consume { channel, tag, credit } => {
                assert!(credit <= 3);
                self.next += 1;
                if self.connection.deliver(channel, &tag, self.next, &self.content) {
                    self.held.insert(self.next);
                }
            }
            Event::Get { channel, .. } => {
                self.next += 1;
                if self.connection.answer_get(channel, Some((self.next, &self.content))) {
                    self.held.insert(self.next);
                }
            }
            Event::Settle { held, .. } => assert!(self.held.remove(&held), "settled twice or never delivered"),
            Event::ChannelGone { held, .. } => {
                for held in held {
                    assert!(self.held.remove(&held), "settled twice or never delivered");
                }
            }
            Event::Opened | Event::Cancel { .. } | Event::Credit { .. } | Event::Refused { .. } => {}
        }
    }

    /// The connection is gone: everything that was delivered is settled or given back.
    pub(crate) fn end(mut self) {
        for held in self.connection.take_unsettled() {
            assert!(self.held.remove(&held), "settled twice or never delivered");
        }
        assert!(self.held.is_empty(), "lost: {:?}", self.held);
    }
}
