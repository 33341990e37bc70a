//! The worker and the gateway together, with the components that are built in.

#[path = "../rabbit/operations.rs"]
mod operations;
mod rig;

use std::time::Duration;

use flowline_model::{Attachment, FaultKind, Recipient, Size};
use flowline_sdk::{Host as _, testing::in_parts};
use operations::GO_ON;
use rig::{Rig, finished, target};
use serde_json::{Value, json};

#[tokio::test]
async fn a_map_and_a_reminder() {
    let rig = Rig::new("transform.map").await;
    assert_eq!(rig.run(json!({ "map": { "name": "Ada" } }), json!({})).await.bodies(), [json!({ "name": "Ada" })]);
    let rig = Rig::new("test.behave").await;
    let outcome = rig.run(json!("remind"), json!({})).await;
    assert_eq!(outcome.emits[0].to, Recipient::Output("large".into()));
    assert_eq!(outcome.emits[0].headers["x-why"], "test");
    assert_eq!((&outcome.emits[1].to, outcome.emits[1].delay), (&Recipient::Myself, Some(Duration::from_secs(9))));
}

#[tokio::test]
async fn a_split_streams_and_keeps_its_order() {
    let rig = Rig::new("transform.split").await;
    let items: Vec<Value> = (0..20_000).map(|n| json!({ "n": n })).collect();
    let outcome = rig.run(json!({ "items": items, "max": 20_000 }), json!({})).await;
    assert!(outcome.bodies() == items && outcome.rounds > 1, "{} rounds", outcome.rounds);
    assert_eq!(outcome.emits[7].headers["split.index"], "7");
}

#[tokio::test]
async fn a_group_is_gathered_over_messages() {
    let rig = Rig::new("transform.aggregate").await;
    let gather = json!({ "key": "k", "count": 3 });
    for n in 1..3 {
        assert_eq!(rig.run(gather.clone(), json!(n)).await.bodies(), Vec::<Value>::new());
    }
    assert_eq!(rig.run(gather, json!(3)).await.bodies()[0]["items"], json!([1, 2, 3]));
    assert_eq!(rig.host.entries(), []);
}

#[tokio::test]
async fn a_reply_reaches_the_caller() {
    let rig = Rig::new("webhook.reply").await;
    let config = json!({ "status": 201, "headers": { "x-a": "b" }, "body": { "a": "ü" } });
    let reply = rig.run(config, json!({})).await.reply.unwrap();
    assert_eq!((reply.status, reply.body.as_slice()), (201, r#"{"a":"ü"}"#.as_bytes()));
    assert!(reply.headers.contains(&("x-a".to_owned(), "b".to_owned())), "{:?}", reply.headers);
}

#[tokio::test]
async fn requests_and_their_faults() {
    let (rig, target) = (Rig::new("http.request").await, target().await);
    let config = json!({ "method": "POST", "url": format!("{target}/echo"), "body": { "a": 1 } });
    assert_eq!(rig.run(config, json!({})).await.bodies()[0]["got"], json!(r#"{"a":1}"#));
    for (status, kind, outage) in
        [(401, FaultKind::Unauthorized, false), (422, FaultKind::Reject, false), (503, FaultKind::Retry, true)]
    {
        let auth = json!({ "bearer": { "token": "t" } });
        let config = json!({ "method": "GET", "url": format!("{target}/{status}"), "auth": auth });
        let fault = rig.run(config, json!({})).await.fault.unwrap();
        assert_eq!((fault.kind, fault.outage, fault.code), (kind, outage, format!("http_{status}")));
        assert_eq!(fault.after, outage.then(|| Duration::from_secs(7)));
    }
}

#[tokio::test]
async fn a_poll_remembers_its_snapshot() {
    let (rig, target) = (Rig::new("http.poll").await, target().await);
    let config = json!({ "url": format!("{target}/items"), "id": "id", "pagination": { "page": { "param": "page" } } });
    assert_eq!(rig.run(config.clone(), json!({})).await.bodies().len(), 6);
    assert_eq!(rig.run(config, json!({})).await.bodies(), Vec::<Value>::new());
    assert_eq!(rig.host.entries()[0].0, "snapshot");
}

#[tokio::test]
async fn faults_of_every_kind() {
    let rig = Rig::new("test.behave").await;
    for (behaviour, kind, code) in [
        ("panic", FaultKind::Retry, "panic"),
        ("reject", FaultKind::Reject, "bad_input"),
        ("unauthorized", FaultKind::Unauthorized, "http_401"),
        ("misconfigured", FaultKind::Misconfigured, "no_such_host"),
        ("outage", FaultKind::Retry, "http_503"),
        ("large", FaultKind::Reject, "too_large"),
    ] {
        let outcome = rig.run(json!(behaviour), json!({})).await;
        let fault = outcome.fault.unwrap();
        assert_eq!((fault.kind, fault.code.as_str(), outcome.emits.len()), (kind, code, 0));
        assert_eq!((fault.outage, fault.after.is_some()), (behaviour == "outage", behaviour == "outage"));
    }
}

#[tokio::test]
async fn a_poll_that_fails_on_its_way_keeps_what_it_has() {
    let rig = Rig::new("test.count").await;
    let outcome = rig.run(json!({ "fails_at": 4 }), json!({})).await;
    assert_eq!(outcome.emits.iter().map(|emit| emit.body.clone()).collect::<Vec<_>>(), [1, 2, 3, 4].map(Value::from));
    let fault = outcome.fault.unwrap();
    assert_eq!((fault.kind, fault.code.as_str()), (FaultKind::Retry, "source"));
    assert_eq!(rig.host.entries().len(), 2, "the snapshot, and what it remembers besides");
    assert_eq!(rig.run(json!({}), json!({})).await.bodies(), [5, 6].map(Value::from));
}

#[tokio::test]
async fn files_go_in_and_out() {
    let rig = Rig::new("test.behave").await;
    let mut message = rig.host.message(json!({}));
    let files = rig.host.attachments();
    let content = in_parts(b"content".to_vec().into());
    let file = files.store(message.execution, "a.txt", "text/plain", content, Size(100)).await.unwrap();
    message.attachments = vec![file.clone()];
    let outcome = finished(rig.begin(json!("copy"), message)).await;
    assert_eq!(outcome.bodies(), [json!(7)]);
    let copy: &Attachment = &outcome.emits[0].attachments[0];
    assert_eq!((copy.name.as_str(), copy.content_type.as_str(), copy.size), ("ä copy.txt", "text/plain", 7));
    assert_eq!(rig.host.content(copy).unwrap().as_ref(), b"CONTENT");
    drop(rig);

    let rig = Rig::new("transform.split").await;
    let mut message = rig.host.message(json!({}));
    message.attachments = vec![file.clone()];
    let outcome = finished(rig.begin(json!({ "items": [1] }), message)).await;
    assert_eq!(outcome.emits[0].attachments, [file]);
}

#[tokio::test]
async fn an_attempt_that_takes_too_long_is_ended_by_the_worker_itself() {
    let rig = Rig::with_timeout("test.behave", Duration::from_millis(300)).await;
    assert_eq!(rig.run(json!("hang"), json!({})).await.fault.unwrap().code, "timeout");
    assert_eq!(rig.run(json!("reject"), json!({})).await.fault.unwrap().code, "bad_input");
}

#[tokio::test]
async fn a_worker_that_stops_finishes_what_it_holds() {
    let mut rig = Rig::new("test.behave").await;
    let message = rig.host.message(json!({}));
    let run = rig.begin(json!("slow"), message.clone());
    rig.until_held().await;
    // A lost connection on the way: what was held is a fault, and the worker comes back.
    rig.gateway.disconnect("worker-1");
    assert_eq!(finished(run).await.fault.unwrap().code, "worker_lost");
    let run = rig.begin(json!("slow"), message.clone());
    rig.until_held().await;
    let (stopped, ()) = tokio::join!(rig.stop(), async { GO_ON.notify_one() });
    assert_eq!(stopped, ());
    assert_eq!(finished(run).await.bodies(), [json!(message.id)]);
}
