//! The protocol's state machine, whatever is said to it: it never panics, never forgets a
//! delivery and never lets through what the scope does not allow.

#[path = "../peer/mod.rs"]
mod peer;

use amq_protocol::{
    frame::{AMQPContentHeader, AMQPFrame},
    protocol::{AMQPClass, basic, channel, confirm},
};
use peer::{Peer, bytes, handshake};
use proptest::prelude::*;

fn method() -> impl Strategy<Value = AMQPClass> {
    let tag = || 0_u64..4;
    let key = prop_oneof![Just("key"), Just("reply.1"), Just("foreign")];
    let basic = prop_oneof![
        Just(basic::AMQPMethod::Consume(basic::Consume { queue: "queue".into(), ..Default::default() })),
        Just(basic::AMQPMethod::Get(basic::Get { queue: "queue".into(), no_ack: false })),
        (0_u16..5).prop_map(|count| basic::AMQPMethod::Qos(basic::Qos { prefetch_count: count, global: false })),
        (tag(), any::<bool>())
            .prop_map(|(delivery_tag, multiple)| basic::AMQPMethod::Ack(basic::Ack { delivery_tag, multiple })),
        (tag(), any::<bool>())
            .prop_map(|(delivery_tag, requeue)| basic::AMQPMethod::Reject(basic::Reject { delivery_tag, requeue })),
        key.prop_map(|key| basic::AMQPMethod::Publish(basic::Publish {
            exchange: "exchange".into(),
            routing_key: key.into(),
            ..Default::default()
        })),
        Just(basic::AMQPMethod::Cancel(basic::Cancel { consumer_tag: "consumer-1".into(), nowait: false })),
    ];
    prop_oneof![
        6 => basic.prop_map(AMQPClass::Basic),
        1 => any::<bool>().prop_map(|active| AMQPClass::Channel(channel::AMQPMethod::Flow(channel::Flow { active }))),
        1 => Just(AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {}))),
        1 => Just(AMQPClass::Channel(channel::AMQPMethod::Close(channel::Close::default()))),
        1 => Just(AMQPClass::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {}))),
        1 => Just(AMQPClass::Confirm(confirm::AMQPMethod::Select(confirm::Select { nowait: false }))),
    ]
}

fn frame() -> impl Strategy<Value = AMQPFrame> {
    let channel = || 1_u16..3;
    prop_oneof![
        6 => (channel(), method()).prop_map(|(channel, method)| AMQPFrame::Method(channel, method)),
        2 => (channel(), 0_u64..10).prop_map(|(channel, body_size)| {
            let header = AMQPContentHeader { class_id: 60, body_size, properties: Default::default() };
            AMQPFrame::Header(channel, header)
        }),
        2 => (channel(), 0_usize..6).prop_map(|(channel, length)| AMQPFrame::Body(channel, vec![b'x'; length])),
        1 => Just(AMQPFrame::Heartbeat),
    ]
}

/// A publication as a client sends it, which is unlikely to come about by chance.
fn publication() -> impl Strategy<Value = Vec<AMQPFrame>> {
    (1_u16..3, 0_usize..5).prop_map(|(channel, length)| {
        let publish = basic::Publish { exchange: "exchange".into(), routing_key: "key".into(), ..Default::default() };
        let header = AMQPContentHeader { class_id: 60, body_size: length as u64, properties: Default::default() };
        vec![
            AMQPFrame::Method(channel, AMQPClass::Basic(basic::AMQPMethod::Publish(publish))),
            AMQPFrame::Header(channel, header),
            AMQPFrame::Body(channel, vec![b'x'; length]),
        ]
    })
}

proptest! {
    #[test]
    fn frames_in_any_order(
        frames in prop::collection::vec(prop_oneof![2 => frame().prop_map(|frame| vec![frame]), 1 => publication()], 0..40),
        piece in 1_usize..200,
    ) {
        let mut peer = Peer::default();
        peer.receive(&handshake());
        prop_assert!(peer.connection.is_running());
        let said: Vec<u8> = frames.iter().flatten().flat_map(bytes).collect();
        for piece in said.chunks(piece) {
            peer.receive(piece);
        }
        peer.end();
    }

    #[test]
    fn bytes_of_any_kind(bytes in prop::collection::vec(any::<u8>(), 0..500), shaken: bool) {
        let mut peer = Peer::default();
        if shaken {
            peer.receive(&handshake());
        }
        peer.receive(&bytes);
        peer.end();
    }

    #[test]
    fn a_few_wrong_bits(frames in prop::collection::vec(frame(), 1..10), flips in prop::collection::vec(any::<u16>(), 1..4)) {
        let mut said: Vec<u8> = frames.iter().flat_map(bytes).collect();
        for flip in flips {
            let at = usize::from(flip) % (said.len() * 8);
            said[at / 8] ^= 1 << (at % 8);
        }
        let mut peer = Peer::default();
        peer.receive(&handshake());
        peer.receive(&said);
        peer.end();
    }
}
