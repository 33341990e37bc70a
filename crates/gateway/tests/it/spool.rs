//! Very many emits for one message: in bounded memory, and through a crash in the middle.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use flowline_gateway::Settings;
use flowline_model::Size;
use flowline_sdk::{OperationKind, RemoteStep};
use futures::{StreamExt, stream};
use lapin::{
    BasicProperties, Confirmation,
    options::{BasicAckOptions, BasicPublishOptions},
    types::AMQPValue,
};
use serde_json::{Value, json};

use crate::rig::{Client, Received, Rig, end, step};

/// Emits numbers, as quickly as confirms come.
async fn emit_numbers(client: &Client, received: &Received, count: u64) {
    let (exchange, key) = (client.name("PUBLISH_MESSAGES_TO"), client.name("DATA_ROUTING_KEY"));
    let mut headers = Client::headers(received);
    headers.insert("protocolVersion".into(), AMQPValue::LongInt(2));
    let properties = BasicProperties::default().with_headers(headers);
    stream::iter(0..count)
        .map(|number| {
            let body = client.encrypt(&json!({ "body": {"n": number} }));
            let (exchange, key, properties) = (exchange.clone(), key.clone(), properties.clone());
            async move {
                let options = BasicPublishOptions::default();
                let publish = client.writing.basic_publish(exchange.into(), key.into(), options, &body, properties);
                publish.await.unwrap().await.unwrap()
            }
        })
        .buffered(256)
        .for_each(|confirmation| async move { assert!(matches!(confirmation, Confirmation::Ack(_))) })
        .await;
}

fn polling() -> RemoteStep {
    RemoteStep { kind: OperationKind::Polling, ..step("poll") }
}

async fn ack(received: &Received) {
    received.delivery.acker.ack(BasicAckOptions::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn very_many_messages_pass_through_little_memory() {
    // `FLOWLINE_EMITS=1000000` to measure.
    let count = std::env::var("FLOWLINE_EMITS").ok().and_then(|text| text.parse().ok()).unwrap_or(200_000_u64);
    let rig = Rig::with(polling(), |_| {}).await;
    let client = rig.client("w1").await;
    let mut consumer = client.consume().await;
    let message = rig.message(json!({}));
    let (step, host) = (Arc::clone(&rig.step), Arc::clone(&rig.host));
    let cx = rig.context(&message, 1);
    let run = tokio::spawn(async move {
        let (mut expected, mut rounds) = (0, 0);
        loop {
            let produced = step.run(&cx, json!({}), message.clone()).await.unwrap();
            host.apply(&cx.take_effects());
            assert!(produced.emits.len() <= 1000);
            for emit in produced.emits {
                assert_eq!(emit.body, json!({ "n": expected }));
                expected += 1;
            }
            rounds += 1;
            if !produced.more {
                return (expected, rounds);
            }
            assert!(host.entries().iter().all(|(key, _)| key != "snapshot"));
        }
    });
    let received = client.next(&mut consumer).await;
    let begun = Instant::now();
    emit_numbers(&client, &received, count).await;
    let taken = begun.elapsed();
    client.snapshot(&received, "snapshot", &json!({"at": count})).await;
    ack(&received).await;
    let (emitted, rounds) = run.await.unwrap();
    println!("{count} emits: taken in {taken:.2?}, handed out after {:.2?}", begun.elapsed());
    assert_eq!((emitted, rounds), (count, count.div_ceil(1000) + u64::from(count.is_multiple_of(1000))));
    let figures = rig.gateway.figures();
    assert!(figures.most_gathered < 2 << 20, "{figures:?}");
    assert_eq!(figures.gathered, 0);
    assert_eq!(rig.host.entries(), [("snapshot".to_owned(), json!({"at": count}))]);
    spools_are_gone(&rig).await;
}

async fn spools_are_gone(rig: &Rig) {
    rig.until(|_| rig.gateway.figures().spooled == 0).await;
    let left = std::fs::read_dir(rig.folder.path().join("spool/test/step")).unwrap().count();
    assert_eq!(left, 0);
}

fn small(settings: &mut Settings) {
    settings.limits.emits = 10;
}

/// The process ends after some parts were settled: the next one goes on, without a worker.
#[tokio::test]
async fn a_crash_in_the_middle_loses_and_doubles_nothing() {
    let mut rig = Rig::with(polling(), small).await;
    let client = rig.client("w1").await;
    let mut consumer = client.consume().await;
    let message = rig.message(json!({}));
    let first = {
        let (step, message, cx) = (Arc::clone(&rig.step), message.clone(), rig.context(&message, 1));
        tokio::spawn(async move { (step.run(&cx, json!({}), message).await.unwrap(), cx.take_effects()) })
    };
    let received = client.next(&mut consumer).await;
    emit_numbers(&client, &received, 95).await;
    client.snapshot(&received, "snapshot", &json!({"at": 95})).await;
    ack(&received).await;
    let (produced, effects) = first.await.unwrap();
    rig.host.apply(&effects);
    let mut bodies: Vec<Value> = produced.emits.into_iter().map(|emit| emit.body).collect();
    // Another part is handed out, but it never becomes durable.
    let cx = rig.context(&message, 1);
    rig.step.run(&cx, json!({}), message.clone()).await.unwrap();
    drop(client);
    let (host, folder) = (Arc::clone(&rig.host), Arc::clone(&rig.folder));
    drop(rig);

    rig = Rig::again(polling(), small, host, folder).await;
    let rest = end(rig.run_attempt(message, 2, json!({}))).await;
    assert_eq!(rest.fault, None);
    bodies.extend(rest.bodies());
    assert_eq!(bodies, (0..95).map(|number| json!({ "n": number })).collect::<Vec<_>>());
    assert_eq!(rig.host.entries(), [("snapshot".to_owned(), json!({"at": 95}))]);
    spools_are_gone(&rig).await;
}

/// The process ends before anything was settled: the spool is of no use, the message comes again.
#[tokio::test]
async fn a_spool_that_nothing_refers_to_is_removed_at_the_start() {
    let mut rig = Rig::with(polling(), small).await;
    let client = rig.client("w1").await;
    let mut consumer = client.consume().await;
    let message = rig.message(json!({}));
    let first = {
        let (step, message, cx) = (Arc::clone(&rig.step), message.clone(), rig.context(&message, 1));
        tokio::spawn(async move { step.run(&cx, json!({}), message).await.unwrap() })
    };
    let received = client.next(&mut consumer).await;
    emit_numbers(&client, &received, 95).await;
    ack(&received).await;
    assert!(first.await.unwrap().more);
    drop(client);
    let (host, folder) = (Arc::clone(&rig.host), Arc::clone(&rig.folder));
    drop(rig);

    rig = Rig::again(polling(), small, host, folder).await;
    let client = rig.client("w1").await;
    let mut consumer = client.consume().await;
    let run = rig.run_attempt(message, 2, json!({}));
    let received = client.next(&mut consumer).await;
    assert_eq!(rig.gateway.figures().spooled, 0);
    client.emit(&received, json!("again")).await;
    ack(&received).await;
    assert_eq!(end(run).await.bodies(), [json!("again")]);
}

/// The worker ends before its acknowledgement: what it emitted is thrown away.
#[tokio::test]
async fn the_spool_of_a_lost_worker_is_thrown_away() {
    let rig = Rig::with(polling(), small).await;
    let client = rig.client("w1").await;
    let mut consumer = client.consume().await;
    let run = rig.run(rig.message(json!({})));
    let received = client.next(&mut consumer).await;
    emit_numbers(&client, &received, 95).await;
    assert!(rig.gateway.figures().spooled > 0);
    client.connection.close(200, "".into()).await.unwrap();
    assert_eq!(end(run).await.fault.unwrap().code, "worker_lost");
    spools_are_gone(&rig).await;
}

/// What there is no room for is refused, not lost; it is taken as soon as there is.
#[tokio::test]
async fn trap_7_a_full_spool_holds_back_and_loses_nothing() {
    let rig = Rig::with(RemoteStep { prefetch: 2, ..polling() }, |settings| {
        small(settings);
        settings.limits.spool = Size(600);
    })
    .await;
    let client = rig.client("w1").await;
    let mut consumer = client.consume().await;
    let first = rig.run(rig.message(json!({})));
    let one = client.next(&mut consumer).await;
    let second = rig.run(rig.message(json!({})));
    let two = client.next(&mut consumer).await;
    emit_numbers(&client, &one, 12).await;
    emit_numbers(&client, &two, 10).await;
    assert!(matches!(client.emit(&two, json!("x".repeat(300))).await, Confirmation::Nack(_)));
    ack(&one).await;
    assert_eq!(end(first).await.emits.len(), 12);
    let again = async {
        while !matches!(client.emit(&two, json!("x".repeat(30))).await, Confirmation::Ack(_)) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(crate::rig::PATIENCE, again).await.expect("there should be room");
    ack(&two).await;
    assert_eq!(end(second).await.emits.len(), 11);
}
