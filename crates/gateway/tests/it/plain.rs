//! The contract, kept by a plain AMQP client: every trap that it warns of, and every way in which
//! a delivery can end.

use std::time::Duration;

use flowline_model::{Attachment, Emit, Fault, FaultKind, Recipient, StepId};
use flowline_sdk::{Contract, OperationKind, RemoteStep};
use lapin::{
    BasicProperties, Confirmation,
    options::{
        BasicAckOptions, BasicCancelOptions, BasicGetOptions, BasicNackOptions, BasicQosOptions, BasicRejectOptions,
        ExchangeDeclareOptions, QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable},
};
use serde_json::{Value, json};

use crate::rig::{Client, Received, Rig, end, step};

async fn ack(received: &Received) {
    received.delivery.acker.ack(BasicAckOptions::default()).await.unwrap();
}

async fn reject(received: &Received, requeue: bool) {
    received.delivery.acker.reject(BasicRejectOptions { requeue }).await.unwrap();
}

fn taken(confirmation: &Confirmation) -> bool {
    matches!(confirmation, Confirmation::Ack(_))
}

#[tokio::test]
async fn a_message_goes_out_and_what_it_emits_comes_back_in_order() {
    let rig = Rig::new().await;
    let client = rig.client("w1").await;
    let mut consumer = client.consume().await;
    let mut message = rig.message(json!({"n": 1}));
    message.headers.insert("x-eio-meta-trace".into(), "t".into());
    message.steps.insert(StepId::new("form").unwrap(), json!({"name": "Ada"}));
    let run = rig.run(message.clone());

    let received = client.next(&mut consumer).await;
    assert_eq!(received.message["body"], json!({"n": 1}));
    assert_eq!(received.message["id"], json!(message.id));
    assert_eq!(received.message["passthrough"]["form"]["body"], json!({"name": "Ada"}));
    assert_eq!(received.header("messageId"), message.id.to_string());
    assert_eq!(received.header("threadId"), message.execution.to_string());
    assert_eq!(received.header("taskId"), "test");
    assert_eq!(received.header("x-eio-meta-trace"), "t");
    for name in ["execId", "userId", "stepId", "reply_to"] {
        assert!(!received.header(name).is_empty());
    }
    for number in 0..3 {
        let emitted = json!({ "body": number, "headers": {"X-Color": "red", "reply_to": "no"} });
        assert!(taken(&client.emit_message(&received, &emitted).await));
    }
    ack(&received).await;
    let outcome = end(run).await;
    let emit = |number: i32| Emit::new(number).header("x-color", "red");
    assert_eq!(outcome.emits, [emit(0), emit(1), emit(2)]);
    assert_eq!((outcome.rounds, outcome.fault), (1, None));
}

/// Ids are there, unique among what is in flight, and new for each delivery.
#[tokio::test]
async fn trap_1_every_delivery_has_an_id_of_its_own_and_emits_with_one_id_do_not_collide() {
    let rig = Rig::with(RemoteStep { prefetch: 10, ..step("act") }, |_| {}).await;
    let client = rig.client("w1").await;
    let mut consumer = client.consume().await;
    let message = rig.message(json!(1));
    let first = rig.run(message.clone());
    let one = client.next(&mut consumer).await;
    let second = rig.run(message.clone());
    let two = client.next(&mut consumer).await;
    assert_ne!(one.header("messageId"), two.header("messageId"));
    assert_eq!(one.message["id"], two.message["id"]);
    // All emits carry the same id, as components do that set none.
    client.emit(&two, json!("second")).await;
    client.emit(&one, json!("first")).await;
    client.emit(&one, json!("first again")).await;
    ack(&two).await;
    ack(&one).await;
    assert_eq!(end(second).await.bodies(), [json!("second")]);
    assert_eq!(end(first).await.bodies(), [json!("first"), json!("first again")]);

    let retried = rig.run_attempt(message, 2, json!({}));
    let three = client.next(&mut consumer).await;
    assert!(three.delivery.redelivered);
    assert_eq!(three.header("reboundIteration"), "1");
    assert_ne!(three.header("messageId"), one.header("messageId"));
    ack(&three).await;
    end(retried).await;
}

/// The names are there before anybody comes.
#[tokio::test]
async fn trap_2_queue_and_exchange_are_there_to_be_asked_for() {
    let rig = Rig::new().await;
    let client = rig.client("w1").await;
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let queue = client.name("LISTEN_MESSAGES_ON");
    client.reading.queue_declare(queue.into(), passive, FieldTable::default()).await.unwrap();
    let passive = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
    let exchange = client.name("PUBLISH_MESSAGES_TO");
    let kind = lapin::ExchangeKind::Direct;
    client.reading.exchange_declare(exchange.into(), kind, passive, FieldTable::default()).await.unwrap();
}

/// A client that asks for small frames gets them, and large bodies in them.
#[tokio::test]
async fn trap_3_small_frames_are_accepted() {
    let rig = Rig::new().await;
    let mut environment = rig.admit("w1");
    let uri = environment["ELASTICIO_AMQP_URI"].replace("frameMax=131072", "frame_max=4096");
    environment.insert("ELASTICIO_AMQP_URI".into(), uri);
    let client = Client::new(environment).await;
    let mut consumer = client.consume().await;
    let large = "x".repeat(1_000_000);
    let run = rig.run(rig.message(json!(large)));
    let received = client.next(&mut consumer).await;
    assert_eq!(received.message["body"], json!(large));
    client.emit(&received, json!(large)).await;
    ack(&received).await;
    assert_eq!(end(run).await.bodies(), [json!(large)]);
}

/// What a worker holds is a lease on disk; what it is sent and told is persistent all the same.
#[tokio::test]
async fn trap_4_messages_are_persistent_without_being_asked_for() {
    let rig = Rig::new().await;
    let client = rig.client("w1").await;
    assert_eq!(client.name("AMQP_PERSISTENT_MESSAGES"), "true");
    let mut consumer = client.consume().await;
    let run = rig.run(rig.message(json!(1)));
    let received = client.next(&mut consumer).await;
    assert_eq!(*received.delivery.properties.delivery_mode(), Some(2));
    // As a runtime that was told nothing.
    let properties = BasicProperties::default().with_headers(Client::headers(&received)).with_delivery_mode(1);
    let body = client.encrypt_text(&json!({"body": "transient"}));
    client.publish_with(&client.name("DATA_ROUTING_KEY"), properties, body.as_bytes()).await;
    ack(&received).await;
    assert_eq!(end(run).await.bodies(), [json!("transient")]);
}

/// An error is kept with its text, and the reject that follows is not what counts.
#[tokio::test]
async fn trap_5_an_error_is_a_fault_that_is_retried() {
    let rig = Rig::new().await;
    let client = rig.client("w1").await;
    let mut consumer = client.consume().await;
    let run = rig.run(rig.message(json!(1)));
    let received = client.next(&mut consumer).await;
    let error = json!({"name": "TypeError", "message": "no such field", "stack": "at …"});
    assert!(taken(&client.fail(&received, &error).await));
    reject(&received, false).await;
    let fault = end(run).await.fault.unwrap();
    assert_eq!(fault, Fault::retry("component_error", "TypeError: no such field"));
}

#[tokio::test]
async fn an_error_after_emits_keeps_them_and_becomes_a_dead_letter() {
    let rig = Rig::new().await;
    let client = rig.client("w1").await;
    let mut consumer = client.consume().await;
    let message = rig.message(json!(1));
    let run = rig.run(message.clone());
    let received = client.next(&mut consumer).await;
    client.emit(&received, json!("kept")).await;
    client.snapshot(&received, "snapshot", &json!({"at": 1})).await;
    client.fail(&received, &json!({"name": "Error", "message": "halfway"})).await;
    reject(&received, false).await;
    let outcome = end(run).await;
    assert_eq!((outcome.bodies(), outcome.rounds), (vec![json!("kept")], 2));
    assert_eq!(outcome.fault.unwrap(), Fault::reject("component_error", "Error: halfway"));
    assert_eq!(rig.host.entries(), [("snapshot".to_owned(), json!({"at": 1}))]);
    rig.until(|_| rig.gateway.figures().spooled == 0).await;

    // A replay of the dead letter is worked on again.
    let run = rig.run(message);
    ack(&client.next(&mut consumer).await).await;
    let outcome = end(run).await;
    assert_eq!((outcome.emits.len(), outcome.fault), (0, None));
}

#[tokio::test]
async fn a_reject_without_an_error_is_a_dead_letter_and_giving_back_is_a_retry() {
    let rig = Rig::new().await;
    let client = rig.client("w1").await;
    let mut consumer = client.consume().await;
    let run = rig.run(rig.message(json!(1)));
    reject(&client.next(&mut consumer).await, false).await;
    let fault = end(run).await.fault.unwrap();
    assert_eq!((fault.kind, fault.code.as_str()), (FaultKind::Reject, "undecodable"));
    let run = rig.run(rig.message(json!(2)));
    reject(&client.next(&mut consumer).await, true).await;
    let fault = end(run).await.fault.unwrap();
    assert_eq!((fault.kind, fault.code.as_str()), (FaultKind::Retry, "returned"));
}

/// However long the wait, nothing overflows.
#[tokio::test]
async fn trap_6_a_rebound_is_a_retry_with_a_wait() {
    let rig = Rig::new().await;
    let client = rig.client("w1").await;
    let mut consumer = client.consume().await;
    let day = Duration::from_secs(24 * 60 * 60);
    let cases = [("15000", Duration::from_secs(15)), ("1e+21", day), ("Infinity", day), ("", Duration::ZERO)];
    for (expiration, wait) in cases {
        let run = rig.run(rig.message(json!(1)));
        let received = client.next(&mut consumer).await;
        // As the runtime does: all original headers and no parent.
        let mut headers = received.delivery.properties.headers().clone().unwrap();
        headers.insert("reboundReason".into(), AMQPValue::LongString("later".into()));
        headers.insert("reboundIteration".into(), AMQPValue::LongInt(1));
        let properties = BasicProperties::default().with_headers(headers).with_expiration(expiration.into());
        let body = received.delivery.data.clone();
        client.publish_with(&client.name("REBOUND_ROUTING_KEY"), properties, &body).await;
        ack(&received).await;
        assert_eq!(end(run).await.fault.unwrap(), Fault::retry("rebound", "later").after(wait), "{expiration}");
    }
}

/// Whatever a worker held when it went comes again, with the reason if there is one.
#[tokio::test]
async fn trap_9_what_a_lost_worker_held_comes_again() {
    let rig = Rig::new().await;
    let client = rig.client("w1").await;
    let mut consumer = client.consume().await;
    let run = rig.run(rig.message(json!(1)));
    let received = client.next(&mut consumer).await;
    client.emit(&received, json!("forgotten")).await;
    client.connection.close(320, "bye".into()).await.unwrap();
    let outcome = end(run).await;
    assert_eq!((outcome.fault.unwrap().code.as_str(), outcome.emits.len()), ("worker_lost", 0));
    assert!(!rig.step.presence("w1").unwrap().connected);
}

/// It is up and connected and takes nothing: its watchdog sees that, and others get what waits.
#[tokio::test]
async fn trap_11_a_deaf_worker_is_seen_and_gets_nothing() {
    let rig = Rig::new().await;
    let deaf = rig.client("w1").await;
    let consumer = deaf.consume().await;
    rig.until(|step| step.presence("w1").is_some_and(|presence| presence.consuming)).await;
    deaf.reading.basic_cancel(consumer.tag(), BasicCancelOptions::default()).await.unwrap();
    rig.until(|step| step.presence("w1").is_some_and(|presence| presence.connected && !presence.consuming)).await;
    assert_eq!(*rig.step.room().borrow(), 0);
    let run = rig.run(rig.message(json!(1)));
    let client = rig.client("w2").await;
    let mut consumer = client.consume().await;
    ack(&client.next(&mut consumer).await).await;
    assert_eq!(end(run).await.fault, None);
}

#[tokio::test]
async fn an_expelled_worker_is_out_and_its_reason_is_told() {
    let rig = Rig::new().await;
    let client = rig.client("w1").await;
    let mut consumer = client.consume().await;
    let run = rig.run(rig.message(json!(1)));
    client.next(&mut consumer).await;
    assert_eq!(rig.step.presence("w1").unwrap().holding, 1);
    rig.step.expel("w1", Fault::retry("out_of_memory", "the container ran out of memory"));
    assert_eq!(end(run).await.fault.unwrap().code, "out_of_memory");
    assert!(rig.step.presence("w1").is_none());
    assert!(crate::rig::connect(&client.name("AMQP_URI")).await.is_err());
}

/// The reason may come a moment after the connection is gone.
#[tokio::test]
async fn the_reason_for_a_loss_may_come_late() {
    let rig = Rig::with(step("act"), |settings| settings.limits.mourning = Duration::from_secs(20)).await;
    let client = rig.client("w1").await;
    let mut consumer = client.consume().await;
    let run = rig.run(rig.message(json!(1)));
    client.next(&mut consumer).await;
    client.connection.close(320, "bye".into()).await.unwrap();
    rig.until(|step| step.presence("w1").is_some_and(|presence| !presence.connected)).await;
    rig.step.expel("w1", Fault::retry("out_of_memory", "the container ran out of memory"));
    assert_eq!(end(run).await.fault.unwrap().code, "out_of_memory");
}

/// What comes after the end is confirmed and not kept; what belongs to nothing
/// is refused.
#[tokio::test]
async fn late_and_foreign_publications() {
    let rig = Rig::new().await;
    let client = rig.client("w1").await;
    let mut consumer = client.consume().await;
    let run = rig.run(rig.message(json!(1)));
    let received = client.next(&mut consumer).await;
    let other = rig.client("w2").await;
    assert!(!taken(&other.emit(&received, json!("of another worker")).await));
    ack(&received).await;
    assert_eq!(end(run).await.emits, []);
    assert!(taken(&client.emit(&received, json!("late")).await));
    let mut headers = Client::headers(&received);
    headers.insert("parentMessageId".into(), AMQPValue::LongString("nothing".into()));
    let body = client.encrypt_text(&json!({"body": {}}));
    let key = client.name("DATA_ROUTING_KEY");
    assert!(!taken(&client.publish(&key, headers, body.as_bytes()).await));
    // A report that the component did not start belongs to nothing either.
    let report = json!({ "error": client.encrypt_text(&json!({"name": "Error", "message": "no module"})) });
    let key = client.name("ERROR_ROUTING_KEY");
    assert!(taken(&client.publish(&key, FieldTable::default(), report.to_string().as_bytes()).await));
}

#[tokio::test]
async fn what_cannot_be_decrypted_is_a_failure_of_its_message() {
    let rig = Rig::new().await;
    let client = rig.client("w1").await;
    let mut consumer = client.consume().await;
    let run = rig.run(rig.message(json!(1)));
    let received = client.next(&mut consumer).await;
    let key = client.name("DATA_ROUTING_KEY");
    assert!(taken(&client.publish(&key, Client::headers(&received), b"garbage").await));
    ack(&received).await;
    assert_eq!(end(run).await.fault.unwrap().code, "component_error");
}

#[tokio::test]
async fn snapshots_replace_and_update() {
    let rig = Rig::with(RemoteStep { kind: OperationKind::Polling, ..step("poll") }, |_| {}).await;
    let client = rig.client("w1").await;
    let mut consumer = client.consume().await;
    let steps = [
        vec![("snapshot", json!({"a": 1, "b": 1}))],
        vec![("updateSnapshot", json!({"b": 2})), ("updateSnapshot", json!({"c": 3}))],
        vec![("snapshot", json!({"d": 4})), ("updateSnapshot", json!({"e": 5}))],
    ];
    let expected = [json!({"a": 1, "b": 1}), json!({"a": 1, "b": 2, "c": 3}), json!({"d": 4, "e": 5})];
    for (events, expected) in steps.into_iter().zip(expected) {
        let run = rig.run(rig.message(json!({})));
        let received = client.next(&mut consumer).await;
        for (event, snapshot) in events {
            client.snapshot(&received, event, &snapshot).await;
        }
        ack(&received).await;
        end(run).await;
        assert_eq!(rig.host.entries(), [("snapshot".to_owned(), expected)]);
    }
}

#[tokio::test]
async fn all_three_forms_of_a_reply() {
    let rig = Rig::new().await;
    let client = rig.client("w1").await;
    let mut consumer = client.consume().await;
    let event = json!({"statusCode": 202, "headers": {"X-A": "b"}, "body": {"ok": true}});
    let component = json!({"body": "<p>", "headers": {"Content-Type": "text/html", "x-eio-status-code": 404}});
    for (form, status, body) in [(event, 202, r#"{"ok":true}"#), (component, 404, "<p>")] {
        let run = rig.run(rig.message(json!(1)));
        let received = client.next(&mut consumer).await;
        let hidden = client.encrypt_text(&form);
        client.publish(&received.header("reply_to"), Client::headers(&received), hidden.as_bytes()).await;
        ack(&received).await;
        let reply = end(run).await.reply.unwrap();
        assert_eq!((reply.status, String::from_utf8(reply.body).unwrap().as_str()), (status, body));
    }
    // An error's reply counts only if the message does not come again.
    let run = rig.run(rig.message(json!(1)));
    let received = client.next(&mut consumer).await;
    let error = json!({"name": "Error", "message": "no"});
    client.emit(&received, json!(1)).await;
    client.fail(&received, &error).await;
    let mut headers = Client::headers(&received);
    headers.insert("x-eio-error-response".into(), AMQPValue::Boolean(true));
    client.publish(&received.header("reply_to"), headers, client.encrypt_text(&error).as_bytes()).await;
    reject(&received, false).await;
    let reply = end(run).await.reply.unwrap();
    assert_eq!((reply.status, reply.body.as_slice()), (500, &b"Error: no"[..]));
}

#[tokio::test]
async fn both_versions_of_the_protocol_are_understood() {
    let rig = Rig::new().await;
    let client = rig.client("w1").await;
    let mut consumer = client.consume().await;
    let run = rig.run(rig.message(json!(1)));
    let received = client.next(&mut consumer).await;
    let mut headers = Client::headers(&received);
    headers.insert("protocolVersion".into(), AMQPValue::ShortShortInt(2));
    let body = client.encrypt(&json!({"body": "raw"}));
    client.publish(&client.name("DATA_ROUTING_KEY"), headers, &body).await;
    ack(&received).await;
    assert_eq!(end(run).await.bodies(), [json!("raw")]);
}

/// Old runtimes fetch; they are never consumers.
#[tokio::test]
async fn messages_can_be_fetched() {
    let rig = Rig::new().await;
    let client = rig.client("w1").await;
    let queue = client.name("LISTEN_MESSAGES_ON");
    let get = || client.reading.basic_get(queue.clone().into(), BasicGetOptions::default());
    assert!(get().await.unwrap().is_none());
    assert_eq!(*rig.step.room().borrow(), 1);
    let run = rig.run(rig.message(json!(1)));
    let got = loop {
        if let Some(got) = get().await.unwrap() {
            break got;
        }
    };
    assert!(get().await.unwrap().is_none());
    got.delivery.acker.ack(BasicAckOptions::default()).await.unwrap();
    assert_eq!(end(run).await.fault, None);
}

#[tokio::test]
async fn room_is_told_and_several_are_acknowledged_at_once() {
    let rig = Rig::with(RemoteStep { prefetch: 3, ..step("act") }, |_| {}).await;
    let mut room = rig.step.room();
    let client = rig.client("w1").await;
    assert_eq!(*room.borrow_and_update(), 0);
    let mut consumer = client.consume().await;
    assert_eq!(*room.wait_for(|room| *room > 0).await.unwrap(), 3);
    let runs: Vec<_> = (0..4).map(|number| rig.run(rig.message(json!(number)))).collect();
    client.next(&mut consumer).await;
    client.next(&mut consumer).await;
    let third = client.next(&mut consumer).await;
    assert_eq!(rig.step.presence("w1").unwrap().holding, 3);
    third.delivery.acker.ack(BasicAckOptions { multiple: true }).await.unwrap();
    let fourth = client.next(&mut consumer).await;
    fourth.delivery.acker.nack(BasicNackOptions { multiple: true, requeue: false }).await.unwrap();
    let mut faults = Vec::new();
    for run in runs {
        faults.push(end(run).await.fault.map(|fault| fault.code));
    }
    assert_eq!(faults, [None, None, None, Some("undecodable".to_owned())]);
    client.reading.basic_qos(1, BasicQosOptions::default()).await.unwrap();
    room.wait_for(|room| *room == 1).await.unwrap();
    client.reading.basic_cancel(consumer.tag(), BasicCancelOptions::default()).await.unwrap();
    room.wait_for(|room| *room == 0).await.unwrap();
}

#[tokio::test]
async fn what_waits_when_a_run_is_given_up_is_not_delivered() {
    let rig = Rig::new().await;
    let waiting = rig.run(rig.message(json!("given up")));
    tokio::task::yield_now().await;
    waiting.abort();
    let _ = waiting.await;
    let client = rig.client("w1").await;
    let mut consumer = client.consume().await;
    let run = rig.run(rig.message(json!("wanted")));
    let received = client.next(&mut consumer).await;
    assert_eq!(received.message["body"], json!("wanted"));
    ack(&received).await;
    end(run).await;
}

#[tokio::test]
async fn a_component_gets_the_mapped_body() {
    let rig = Rig::new().await;
    let client = rig.client("w1").await;
    let mut consumer = client.consume().await;
    let config = json!({"fields": {"a": 1}, "body": {"mapped": true}});
    let run = rig.run_attempt(rig.message(json!({"n": 1})), 1, config);
    let received = client.next(&mut consumer).await;
    assert_eq!(received.message["body"], json!({"mapped": true}));
    ack(&received).await;
    end(run).await;
    let run = rig.run(rig.message(Value::Null));
    let received = client.next(&mut consumer).await;
    assert_eq!(received.message["body"], json!({}));
    ack(&received).await;
    end(run).await;
}

/// What `flowline worker` and the gateway say to each other beyond the contract.
#[tokio::test]
async fn our_own_worker_gets_and_says_more() {
    let rig = Rig::with(RemoteStep { contract: Contract::Worker, ..step("demo.count") }, |_| {}).await;
    let client = rig.client("w1").await;
    let mut consumer = client.consume().await;
    let message = rig.message(json!({"n": 1}));
    let run = rig.run_attempt(message.clone(), 1, json!({"by": 2}));
    let received = client.next(&mut consumer).await;
    let told = &received.message["flowline"];
    assert_eq!(told["operation"], json!("demo.count"));
    assert_eq!(told["config"], json!({"by": 2}));
    assert_eq!(told["place"]["attempt"], json!(1));
    assert_eq!(serde_json::from_value::<flowline_model::Message>(told["message"].clone()).unwrap(), message);
    let attachment = Attachment { id: "an/id".into(), name: "a".into(), content_type: "text/plain".into(), size: 1 };
    let more = json!({
        "to": {"output": "large"}, "delay_ms": 1500, "headers": {"a": "b"}, "attachments": [attachment],
    });
    client.emit_message(&received, &json!({"body": 3, "flowline": more})).await;
    client.emit_message(&received, &json!({"body": 4, "flowline": {"to": "myself"}})).await;
    client.snapshot(&received, "state", &json!([["count", 1], ["old", null]])).await;
    ack(&received).await;
    let outcome = end(run).await;
    assert_eq!(outcome.emits[0].to, Recipient::Output("large".into()));
    assert_eq!(outcome.emits[0].delay, Some(Duration::from_millis(1500)));
    assert_eq!(outcome.emits[0].attachments, [attachment]);
    assert_eq!(outcome.emits[1].to, Recipient::Myself);
    assert_eq!(rig.host.entries(), [("count".to_owned(), json!(1))]);

    let run = rig.run(rig.message(json!({})));
    let received = client.next(&mut consumer).await;
    let fault = Fault::outage("http_503", "the target is down").after(Duration::from_secs(7));
    let error = json!({"name": "Fault", "message": "the target is down", "fault": fault});
    client.fail(&received, &error).await;
    reject(&received, false).await;
    assert_eq!(end(run).await.fault.unwrap(), fault);
}

#[tokio::test]
async fn a_delivery_finds_the_less_busy_of_two_workers() {
    let rig = Rig::new().await;
    let (one, two) = (rig.client("w1").await, rig.client("w2").await);
    let (mut first, mut second) = (one.consume().await, two.consume().await);
    let runs = [rig.run(rig.message(json!(1))), rig.run(rig.message(json!(2)))];
    let (a, b): (Received, Received) = (one.next(&mut first).await, two.next(&mut second).await);
    assert_ne!(a.message["body"], b.message["body"]);
    ack(&a).await;
    ack(&b).await;
    for run in runs {
        let outcome = end(run).await;
        assert_eq!((outcome.bodies(), outcome.fault), (Vec::<Value>::new(), None));
    }
}
