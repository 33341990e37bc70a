//! Clients that keep to nothing: each is refused with the protocol's own error, and another
//! worker goes on working.

use std::time::Duration;

use amq_protocol::{
    frame::{AMQPContentHeader, AMQPFrame, WriteContext, gen_frame, parse_frame},
    protocol::{AMQPClass, basic, channel, connection},
};
use flowline_model::Size;
use flowline_sdk::RemoteStep;
use futures::StreamExt;
use lapin::{
    ErrorKind, ExchangeKind,
    options::{
        BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, BasicRecoverOptions, ExchangeDeclareOptions,
        QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
    },
    types::FieldTable,
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use crate::rig::{PATIENCE, Rig, connect, end, step};

/// Somebody else is still served.
async fn others_go_on(rig: &Rig) {
    let name = format!("other-{}", rand::random::<u32>());
    let client = rig.client(&name).await;
    let mut consumer = client.consume().await;
    let run = rig.run(rig.message(json!("other")));
    let received = client.next(&mut consumer).await;
    client.emit(&received, json!("done")).await;
    received.delivery.acker.ack(Default::default()).await.unwrap();
    assert_eq!(end(run).await.bodies(), [json!("done")]);
    rig.step.expel(&name, flowline_model::Fault::retry("done", "done"));
}

fn code(error: &lapin::Error) -> u16 {
    match error.kind() {
        ErrorKind::ProtocolError(error) => error.get_id(),
        other => panic!("not a refusal: {other:?}"),
    }
}

#[tokio::test]
async fn what_a_worker_may_not_do_is_refused_by_name() {
    let rig = Rig::new().await;
    let uri = rig.admit("w1")["ELASTICIO_AMQP_URI"].clone();
    let table = FieldTable::default;
    let own = "test.step.messages";
    macro_rules! refused {
        ($code:literal, $channel:ident => $call:expr) => {{
            let connection = connect(&uri).await.unwrap();
            let $channel = connection.create_channel().await.unwrap();
            let error = $call.await.err().expect("it should be refused");
            assert_eq!(code(&error), $code, "{error}");
            let _ = connection.close(200, "".into()).await;
        }};
    }
    let consume = BasicConsumeOptions::default;
    refused!(403, c => c.basic_consume("test.other.messages".into(), "".into(), consume(), table()));
    refused!(403, c => c.basic_get("test.other.messages".into(), BasicGetOptions::default()));
    let no_ack = BasicConsumeOptions { no_ack: true, ..consume() };
    refused!(540, c => c.basic_consume(own.into(), "".into(), no_ack, table()));
    refused!(403, c => c.queue_declare(own.into(), QueueDeclareOptions::default(), table()));
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    refused!(403, c => c.queue_declare("another.messages".into(), passive, table()));
    refused!(403, c => c.queue_delete(own.into(), QueueDeleteOptions::default()));
    refused!(403, c => c.queue_purge(own.into(), QueuePurgeOptions::default()));
    let bind = QueueBindOptions::default();
    refused!(403, c => c.queue_bind(own.into(), "x".into(), "#".into(), bind, table()));
    let declare = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
    refused!(404, c => c.exchange_declare("amq.topic".into(), ExchangeKind::Topic, declare, table()));
    refused!(540, c => c.tx_select());
    refused!(540, c => c.basic_recover(BasicRecoverOptions { requeue: true }));
    others_go_on(&rig).await;
}

#[tokio::test]
async fn foreign_keys_and_exchanges_are_refused() {
    let rig = Rig::new().await;
    let client = rig.client("w1").await;
    let properties = lapin::BasicProperties::default;
    let options = BasicPublishOptions::default;
    let own = client.name("PUBLISH_MESSAGES_TO");
    for (exchange, key, expected) in [
        (own.as_str(), "test.other.message", 403),
        (own.as_str(), "test.step.message2", 403),
        ("", "test.step.messages", 404),
        ("amq.direct", "test.step.message", 404),
    ] {
        let channel = client.connection.create_channel().await.unwrap();
        channel.confirm_select(Default::default()).await.unwrap();
        let publish = channel.basic_publish(exchange.into(), key.into(), options(), b"x", properties()).await;
        let error = publish.unwrap().await.expect_err("it should be refused");
        assert_eq!(code(&error), expected, "{exchange} {key}");
    }
    others_go_on(&rig).await;
}

#[tokio::test]
async fn wrong_credentials_are_refused_and_those_of_others_too() {
    let rig = Rig::new().await;
    let uri = rig.admit("w1")["ELASTICIO_AMQP_URI"].clone();
    let other = rig.admit("w2")["ELASTICIO_AMQP_URI"].clone();
    let wrong = [
        uri.replace("w1:", "w1:x"),
        uri.replace("w1:", "nobody:"),
        other.replace("w2:", "w1:"),
        uri.replace('?', "?auth_mechanism=amqplain&"),
    ];
    for uri in wrong {
        let error = connect(&uri).await.expect_err("it should be refused");
        assert_eq!(code(&error), 403, "{error}");
    }
    others_go_on(&rig).await;
}

/// A client by hand: frames made by the protocol library, sent whenever we like.
struct Raw {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Raw {
    async fn connect(rig: &Rig) -> Self {
        let address = rig.gateway.addresses().amqp.parse().unwrap();
        let socket = TcpSocket::new_v4().unwrap();
        // What it does not read does not go far: some systems would buffer tens of megabytes.
        socket.set_recv_buffer_size(64 << 10).unwrap();
        Self { stream: socket.connect(address).await.unwrap(), read: Vec::new() }
    }

    async fn open(rig: &Rig, uri: &str) -> Self {
        Self::beating(rig, uri, 0).await
    }

    /// Agrees on so many seconds between heartbeats.
    async fn beating(rig: &Rig, uri: &str, heartbeat: u16) -> Self {
        let mut raw = Self::connect(rig).await;
        raw.stream.write_all(b"AMQP\x00\x00\x09\x01").await.unwrap();
        raw.next().await;
        let login = url::Url::parse(uri).unwrap();
        raw.method(
            0,
            AMQPClass::Connection(connection::AMQPMethod::StartOk(connection::StartOk {
                mechanism: "PLAIN".into(),
                response: format!("\0{}\0{}", login.username(), login.password().unwrap()).into(),
                locale: "en_US".into(),
                ..Default::default()
            })),
        )
        .await;
        raw.next().await;
        let tune = connection::TuneOk { channel_max: 0, frame_max: 131_072, heartbeat };
        raw.method(0, AMQPClass::Connection(connection::AMQPMethod::TuneOk(tune))).await;
        raw.method(0, AMQPClass::Connection(connection::AMQPMethod::Open(connection::Open::default()))).await;
        raw.next().await;
        raw.method(1, AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {}))).await;
        raw.next().await;
        raw
    }

    async fn send(&mut self, frame: &AMQPFrame) {
        let bytes = gen_frame(frame)(WriteContext::from(Vec::new())).unwrap().into_inner().0;
        // It may have been refused in the meantime.
        let _ = self.stream.write_all(&bytes).await;
    }

    async fn method(&mut self, channel: u16, method: AMQPClass) {
        self.send(&AMQPFrame::Method(channel, method)).await;
    }

    /// The next frame; none at the end.
    async fn next(&mut self) -> Option<AMQPFrame> {
        tokio::time::timeout(PATIENCE, async {
            loop {
                let parsed =
                    parse_frame(&self.read[..]).ok().map(|(rest, frame)| (self.read.len() - rest.len(), frame));
                if let Some((length, frame)) = parsed {
                    self.read.drain(..length);
                    return Some(frame);
                }
                if !matches!(self.stream.read_buf(&mut self.read).await, Ok(1..)) {
                    return None;
                }
            }
        })
        .await
        .expect("an answer")
    }

    /// The code with which the connection or a channel is closed.
    async fn refusal(&mut self) -> u16 {
        loop {
            match self.next().await.expect("a refusal") {
                AMQPFrame::Method(_, AMQPClass::Connection(connection::AMQPMethod::Close(close))) => {
                    return close.reply_code;
                }
                AMQPFrame::Method(_, AMQPClass::Channel(channel::AMQPMethod::Close(close))) => {
                    return close.reply_code;
                }
                _ => {}
            }
        }
    }
}

fn publish(key: &str) -> AMQPClass {
    AMQPClass::Basic(basic::AMQPMethod::Publish(basic::Publish {
        exchange: "test.step.exchange".into(),
        routing_key: key.into(),
        ..Default::default()
    }))
}

fn header(size: u64) -> AMQPContentHeader {
    AMQPContentHeader { class_id: 60, body_size: size, properties: Default::default() }
}

#[tokio::test]
async fn frames_at_the_wrong_time_and_garbage() {
    let rig = Rig::with(step("act"), |settings| settings.limits.body = Size(1000)).await;
    let uri = rig.admit("w1")["ELASTICIO_AMQP_URI"].clone();
    let key = "test.step.message";
    let open = || AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {}));
    let cases: Vec<(u16, Vec<AMQPFrame>)> = vec![
        (505, vec![AMQPFrame::Body(1, b"x".to_vec())]),
        (505, vec![AMQPFrame::Header(1, header(1))]),
        (505, vec![AMQPFrame::Method(1, publish(key)), AMQPFrame::Method(1, publish(key))]),
        (505, vec![AMQPFrame::Method(1, publish(key)), AMQPFrame::Body(1, vec![])]),
        (504, vec![AMQPFrame::Method(1, open())]),
        (504, vec![AMQPFrame::Method(2, publish(key))]),
        (504, vec![AMQPFrame::Body(2, b"x".to_vec())]),
        (530, vec![AMQPFrame::Method(1000, open())]),
        (311, vec![AMQPFrame::Method(1, publish(key)), AMQPFrame::Header(1, header(1 << 40))]),
        (
            501,
            vec![
                AMQPFrame::Method(1, publish(key)),
                AMQPFrame::Header(1, header(1)),
                AMQPFrame::Body(1, b"too long".to_vec()),
            ],
        ),
        (
            406,
            vec![AMQPFrame::Method(
                1,
                AMQPClass::Basic(basic::AMQPMethod::Ack(basic::Ack { delivery_tag: 7, multiple: false })),
            )],
        ),
        (503, vec![AMQPFrame::Method(1, AMQPClass::Basic(basic::AMQPMethod::Deliver(basic::Deliver::default())))]),
        (
            503,
            vec![AMQPFrame::Method(
                0,
                AMQPClass::Connection(connection::AMQPMethod::Open(connection::Open::default())),
            )],
        ),
    ];
    for (expected, frames) in cases {
        let mut raw = Raw::open(&rig, &uri).await;
        for frame in &frames {
            raw.send(frame).await;
        }
        assert_eq!(raw.refusal().await, expected, "{frames:?}");
    }
    for (expected, bytes) in [
        (501, &b"garbage that is no frame at all"[..]),
        (501, &[3, 0, 1, 0x7f, 0xff, 0xff, 0xff][..]),
        (501, &[1, 0, 1, 0, 0, 0, 1, 9, 9][..]),
        (503, &[1, 0, 1, 0, 0, 0, 4, 0, 99, 0, 10, 206][..]),
        (502, &[1, 0, 1, 0, 0, 0, 4, 0, 60, 0, 99, 206][..]),
    ] {
        let mut raw = Raw::open(&rig, &uri).await;
        raw.stream.write_all(bytes).await.unwrap();
        assert_eq!(raw.refusal().await, expected);
        assert_eq!(raw.next().await, None);
    }
    others_go_on(&rig).await;
}

/// It says nothing more and its connection lingers: what waits is for somebody else.
#[tokio::test]
async fn a_consumer_that_was_refused_takes_nothing_more() {
    let rig = Rig::new().await;
    let mut raw = Raw::open(&rig, &rig.admit("w1")["ELASTICIO_AMQP_URI"]).await;
    let consume = basic::Consume { queue: "test.step.messages".into(), ..Default::default() };
    raw.method(1, AMQPClass::Basic(basic::AMQPMethod::Consume(consume))).await;
    raw.next().await;
    rig.until(|step| *step.room().borrow() == 1).await;
    raw.send(&AMQPFrame::Body(1, b"x".to_vec())).await;
    assert_eq!(raw.refusal().await, 505);
    rig.until(|step| *step.room().borrow() == 0).await;
    others_go_on(&rig).await;
}

#[tokio::test]
async fn another_protocol_is_told_which_one_is_spoken() {
    let rig = Rig::new().await;
    for greeting in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"AMQP\x03\x01\x00\x00", b"AMQP\x00\x00\x09\x00"] {
        let mut raw = Raw::connect(&rig).await;
        raw.stream.write_all(greeting).await.unwrap();
        let mut answer = Vec::new();
        raw.stream.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"AMQP\x00\x00\x09\x01");
    }
}

#[tokio::test]
async fn a_thousand_channels_are_too_many() {
    let rig = Rig::new().await;
    let uri = rig.admit("w1")["ELASTICIO_AMQP_URI"].clone();
    let mut raw = Raw::open(&rig, &uri).await;
    for id in 2..1000 {
        raw.method(id, AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {}))).await;
    }
    assert_eq!(raw.refusal().await, 530);
    others_go_on(&rig).await;
}

#[tokio::test]
async fn a_worker_has_so_many_connections_and_no_more() {
    let rig = Rig::with(step("act"), |settings| settings.limits.worker_connections = 3).await;
    let uri = rig.admit("w1")["ELASTICIO_AMQP_URI"].clone();
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(connect(&uri).await.unwrap());
    }
    assert_eq!(code(&connect(&uri).await.err().unwrap()), 403);
    others_go_on(&rig).await;
    open.pop().unwrap().close(200, "".into()).await.unwrap();
    let again = async {
        while connect(&uri).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, again).await.expect("there should be room for one more");
}

#[tokio::test]
async fn there_are_so_many_connections_and_no_more() {
    let rig = Rig::with(step("act"), |settings| settings.limits.connections = 2).await;
    let mut held = [Raw::connect(&rig).await, Raw::connect(&rig).await];
    for raw in &mut held {
        raw.stream.write_all(b"AMQP\x00\x00\x09\x01").await.unwrap();
        assert!(raw.next().await.is_some());
    }
    let mut third = Raw::connect(&rig).await;
    let _ = third.stream.write_all(b"AMQP\x00\x00\x09\x01").await;
    assert_eq!(third.next().await, None);
}

#[tokio::test]
async fn a_slow_handshake_is_cut_off() {
    let rig = Rig::with(step("act"), |settings| settings.limits.handshake = Duration::from_millis(300)).await;
    let mut silent = Raw::connect(&rig).await;
    let mut slow = Raw::connect(&rig).await;
    slow.stream.write_all(b"AMQP\x00\x00\x09\x01").await.unwrap();
    assert!(slow.next().await.is_some());
    assert_eq!(slow.next().await, None);
    assert_eq!(silent.next().await, None);
    others_go_on(&rig).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stops_reading_gets_no_more_than_the_prefetch_and_is_cut_off() {
    let large = |number: u64| json!([number, "x".repeat(8_000_000)]);
    let rig = Rig::with(RemoteStep { prefetch: 4, ..step("act") }, |settings| {
        settings.limits.stalled = Duration::from_secs(2);
    })
    .await;
    let uri = rig.admit("w1")["ELASTICIO_AMQP_URI"].clone();
    let mut raw = Raw::open(&rig, &uri).await;
    let consume = basic::Consume { queue: "test.step.messages".into(), ..Default::default() };
    raw.method(1, AMQPClass::Basic(basic::AMQPMethod::Consume(consume))).await;
    raw.next().await;
    let runs: Vec<_> = (0..6).map(|number| rig.run(rig.message(large(number)))).collect();
    rig.until(|step| step.presence("w1").is_some_and(|presence| presence.holding > 0)).await;
    // Reads nothing from here on.
    rig.until(|step| {
        let presence = step.presence("w1").unwrap();
        assert!(presence.holding <= 4, "more than the prefetch: {presence:?}");
        !presence.connected
    })
    .await;
    // What was sent to it is lost to it; what was not waits for somebody else.
    let client = rig.client("w2").await;
    let mut consumer = client.consume().await;
    let serve = async {
        loop {
            consumer.next().await.unwrap().unwrap().acker.ack(Default::default()).await.unwrap();
        }
    };
    let ends = async {
        let mut lost = 0;
        for run in runs {
            if let Some(fault) = end(run).await.fault {
                assert_eq!(fault.code, "worker_lost");
                lost += 1;
            }
        }
        lost
    };
    let lost = tokio::select! {
        lost = ends => lost,
        () = serve => unreachable!("it serves for ever"),
    };
    assert!((1..=4).contains(&lost), "{lost}");
}

#[tokio::test]
async fn a_silent_client_is_noticed() {
    let rig = Rig::with(step("act"), |settings| settings.limits.heartbeat = Duration::from_secs(1)).await;
    let uri = rig.admit("w1")["ELASTICIO_AMQP_URI"].clone();
    let mut raw = Raw::beating(&rig, &uri, 1).await;
    while raw.next().await.is_some() {}
    others_go_on(&rig).await;
}

/// Clients notice silence too, also those that have nothing to do but beat.
#[tokio::test]
async fn heartbeats_are_answered_by_heartbeats() {
    let rig = Rig::with(step("act"), |settings| settings.limits.heartbeat = Duration::from_secs(1)).await;
    let mut raw = Raw::beating(&rig, &rig.admit("w1")["ELASTICIO_AMQP_URI"], 1).await;
    let mut beats = 0;
    let beating = async {
        while beats < 3 {
            raw.send(&AMQPFrame::Heartbeat).await;
            // More often than the gateway beats by itself.
            let heard = tokio::time::timeout(Duration::from_millis(200), raw.next()).await;
            beats += u32::from(heard.is_ok_and(|frame| frame == Some(AMQPFrame::Heartbeat)));
        }
    };
    tokio::time::timeout(PATIENCE, beating).await.expect("heartbeats should come");
}

#[tokio::test]
async fn memory_for_bodies_is_shared_and_bounded() {
    let rig = Rig::with(step("act"), |settings| settings.limits.unfinished = Size(100_000)).await;
    let uri = rig.admit("w1")["ELASTICIO_AMQP_URI"].clone();
    let mut raw = Raw::open(&rig, &uri).await;
    raw.method(1, publish("test.step.message")).await;
    raw.send(&AMQPFrame::Header(1, header(1_000_000))).await;
    raw.send(&AMQPFrame::Body(1, vec![0; 90_000])).await;
    let mut second = Raw::open(&rig, &uri).await;
    second.method(1, publish("test.step.message")).await;
    second.send(&AMQPFrame::Header(1, header(1_000_000))).await;
    second.send(&AMQPFrame::Body(1, vec![0; 90_000])).await;
    assert_eq!(second.refusal().await, 506);
    drop(raw);
    others_go_on(&rig).await;
}

/// Credentials that were good are not any more.
#[tokio::test]
async fn an_expelled_worker_is_told_so() {
    let rig = Rig::new().await;
    let uri = rig.admit("w1")["ELASTICIO_AMQP_URI"].clone();
    let mut raw = Raw::open(&rig, &uri).await;
    rig.step.expel("w1", flowline_model::Fault::retry("replaced", "replaced"));
    assert_eq!(raw.refusal().await, 320);
    let client: lapin::Result<_> = connect(&uri).await;
    assert_eq!(code(&client.err().unwrap()), 403);
}
