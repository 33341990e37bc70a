//! The worker against a real RabbitMQ: what it speaks is plain AMQP, whoever is the other side.

mod node;
mod operations;
mod platform;

use std::time::Duration;

use flowline_model::FaultKind;
use flowline_sdk::{Catalog, Operation};
use serde_json::{Value, json};
use tokio::{sync::oneshot, task::JoinHandle};

use node::Node;
use operations::{Behave, Counting, GO_ON};
use platform::{Platform, REPLY_KEY};

fn catalog() -> Catalog {
    let built_in = flowline_components::catalog();
    let names: Vec<String> = built_in.specs().map(|spec| spec.name.clone()).collect();
    let own = [Operation::action(Behave), Operation::polling(Counting)];
    Catalog::new(names.iter().filter_map(|name| built_in.get(name).cloned()).chain(own))
}

struct Worker {
    stop: oneshot::Sender<()>,
    work: JoinHandle<Result<(), flowline_worker::WorkerError>>,
}

impl Worker {
    fn start(platform: &Platform) -> Self {
        let (stop, stopped) = oneshot::channel();
        let work = tokio::spawn(flowline_worker::run(catalog(), platform.environment(), stopped));
        Self { stop, work }
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        tokio::time::timeout(Duration::from_secs(30), self.work).await.expect("it stops").unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_keeps_the_contract() {
    let mut node = Node::start();
    let mut platform = Platform::new(node.url()).await;
    let worker = Worker::start(&platform);
    actions(&mut platform).await;
    state_and_replies(&mut platform).await;
    polls(&mut platform).await;
    faults(&mut platform).await;
    attachments(&mut platform).await;
    platform.until_waiting(0, 1).await;
    loses_its_queue(&mut platform).await;
    loses_its_broker(&mut platform, &mut node).await;
    stops_in_order(&mut platform, worker).await;
}

async fn actions(platform: &mut Platform) {
    let id = platform.ask("transform.map", json!({ "map": { "name": "Ada" } }), json!({})).await;
    let data = platform.next().await;
    assert_eq!((data.key.as_str(), &data.content["body"]), ("data-key", &json!({ "name": "Ada" })));
    assert_eq!(data.content["flowline"], json!({ "headers": {}, "attachments": [] }));
    let expected = [
        ("parentMessageId", id.as_str()),
        ("threadId", "thread"),
        ("taskId", "orders"),
        ("stepId", "work"),
        ("containerId", "container_id"),
        ("reply_to", REPLY_KEY),
        ("x-eio-meta-a", "b"),
    ];
    for (name, value) in expected {
        assert_eq!(data.header(name).as_deref(), Some(value), "{name}");
    }
    assert_eq!(data.header("other"), None, "only what the contract says travels");

    platform.ask("test.behave", json!("remind"), json!({})).await;
    let first = platform.next().await.content;
    assert_eq!(first["flowline"]["to"], json!({ "output": "large" }));
    assert_eq!(
        (&first["headers"], &first["flowline"]["headers"]),
        (&json!({ "x-why": "test" }), &json!({ "x-why": "test" }))
    );
    let reminder = platform.next().await.content["flowline"].take();
    assert_eq!(reminder, json!({ "to": "myself", "delay_ms": 9000, "headers": {}, "attachments": [] }));

    let items: Vec<u32> = (0..5_000).collect();
    platform.ask("transform.split", json!({ "items": items }), json!({})).await;
    let bodies = platform.bodies(5_000).await;
    assert!(bodies.iter().zip(&items).all(|(body, item)| *body == json!(item)), "all, and in order");
}

async fn state_and_replies(platform: &mut Platform) {
    let config = json!({ "status": 201, "headers": { "x-a": "b" }, "body": "grüße" });
    platform.ask("webhook.reply", config, json!({})).await;
    let published = [platform.next().await, platform.next().await];
    let reply = published.iter().find(|published| published.key == REPLY_KEY).unwrap();
    assert_eq!((&reply.content["statusCode"], &reply.content["body"]), (&json!(201), &json!("grüße")));
    assert_eq!(reply.content["headers"]["x-a"], json!("b"));

    let gather = json!({ "key": "k", "count": 2 });
    platform.ask("transform.aggregate", gather.clone(), json!({ "body": 1 })).await;
    let changes = platform.next().await;
    assert_eq!((changes.key.as_str(), changes.header("snapshotEvent").as_deref()), ("snapshot-key", Some("state")));
    apply(platform, &changes.content);
    platform.ask("transform.aggregate", gather, json!({ "body": 2 })).await;
    let group = platform.next().await.content;
    assert_eq!(group["body"]["items"], json!([1, 2]), "{group}");
    let changes = platform.next().await.content;
    apply(platform, &changes);
    assert!(platform.kept.state.lock().unwrap().is_empty(), "a complete group is forgotten: {changes}");
}

/// Makes durable what a worker asked to remember.
fn apply(platform: &Platform, changes: &Value) {
    let mut state = platform.kept.state.lock().unwrap();
    for change in changes.as_array().unwrap() {
        let key = change[0].as_str().unwrap().to_owned();
        if change[1].is_null() {
            state.remove(&key)
        } else {
            state.insert(key, change[1].clone())
        };
    }
}

async fn polls(platform: &mut Platform) {
    let url = format!("{}/items", platform.http);
    let config = json!({ "url": url, "id": "id", "pagination": { "page": { "param": "page" } } });
    platform.ask("http.poll", config.clone(), json!({})).await;
    let bodies = platform.bodies(6).await;
    assert_eq!(bodies[5], json!({ "id": 22 }));
    let snapshot = platform.next().await;
    assert_eq!(snapshot.header("snapshotEvent").as_deref(), Some("snapshot"));
    platform.kept.state.lock().unwrap().insert("snapshot".into(), snapshot.content);
    platform.ask("http.poll", config, json!({})).await;
    assert_eq!(platform.next().await.key, "snapshot-key", "nothing is new");

    platform.kept.state.lock().unwrap().clear();
    platform.ask("test.count", json!({ "fails_at": 4 }), json!({})).await;
    assert_eq!(platform.bodies(4).await, [1, 2, 3, 4].map(Value::from));
    assert_eq!(platform.next().await.content, json!([["reached", 4]]));
    assert_eq!(platform.next().await.content, json!(4), "what came before the fault counts");
    assert_eq!(platform.next().await.fault().code, "source");
}

async fn faults(platform: &mut Platform) {
    for (behaviour, kind, code) in [
        ("panic", FaultKind::Retry, "panic"),
        ("reject", FaultKind::Reject, "bad_input"),
        ("unauthorized", FaultKind::Unauthorized, "http_401"),
        ("misconfigured", FaultKind::Misconfigured, "no_such_host"),
        ("outage", FaultKind::Retry, "http_503"),
        ("large", FaultKind::Reject, "too_large"),
        ("none of these", FaultKind::Reject, "config_invalid"),
    ] {
        platform.ask("test.behave", json!(behaviour), json!({})).await;
        let fault = platform.next().await.fault();
        assert_eq!((fault.kind, fault.code.as_str()), (kind, code));
        assert_eq!(fault.outage, code == "http_503");
        assert_eq!(fault.after, fault.outage.then(|| Duration::from_millis(1500)));
    }
    platform.ask("no.such", json!({}), json!({})).await;
    assert_eq!(platform.next().await.fault().code, "no_operation");
    platform.ask("webhook.receive", json!({}), json!({})).await;
    assert_eq!(platform.next().await.fault().code, "no_worker");
    for (status, kind) in [(401, FaultKind::Unauthorized), (503, FaultKind::Retry), (422, FaultKind::Reject)] {
        let config = json!({ "url": format!("{}/target/{status}", platform.http), "method": "GET", "auth": { "bearer": { "token": "t" } } });
        platform.ask("http.request", config, json!({})).await;
        assert_eq!(platform.next().await.fault().kind, kind, "{status}");
    }
    // What cannot be read is refused; the worker goes on.
    platform.send("garbage", b"garbage".to_vec()).await;
    platform.ask("transform.map", json!({ "map": 1 }), json!({})).await;
    assert_eq!(platform.bodies(1).await, [json!(1)]);
}

async fn attachments(platform: &mut Platform) {
    platform.kept.files.lock().unwrap().insert("linked".into(), b"content".to_vec());
    let file = json!({ "id": "execution/file", "name": "a.txt", "content_type": "text/plain", "size": 7 });
    platform.ask("test.behave", json!("copy"), json!({ "attachments": [&file] })).await;
    let data = platform.next().await;
    let stored = &data.content["attachments"]["ä copy.txt"];
    assert_eq!((&stored["content-type"], &stored["size"]), (&json!("text/plain"), &json!(7)), "{:?}", data.content);
    let url = stored["url"].as_str().unwrap().strip_suffix("?storage_type=maester").unwrap();
    let id = url.strip_prefix(&format!("{}/objects/", platform.http)).unwrap();
    assert_eq!(platform.kept.files.lock().unwrap()[id], b"CONTENT");

    // Files that are passed on travel as they are named inside Flowline.
    let elsewhere = json!({ "id": "http://elsewhere/x", "name": "b", "content_type": "text/plain", "size": 1 });
    let files = json!([&file, &elsewhere]);
    platform.ask("transform.split", json!({ "items": [1] }), json!({ "attachments": files })).await;
    let data = platform.next().await;
    assert_eq!((&data.content["attachments"], &data.content["flowline"]["attachments"]), (&json!({}), &files));
    // The token is for the object store and nobody else.
    platform.ask("test.behave", json!("copy"), json!({ "attachments": [elsewhere] })).await;
    assert_eq!(platform.next().await.fault().code, "attachment");
}

async fn loses_its_queue(platform: &mut Platform) {
    platform.replace_queue().await;
    platform.ask("transform.map", json!({ "map": 2 }), json!({})).await;
    assert_eq!(platform.bodies(1).await, [json!(2)]);
}

async fn loses_its_broker(platform: &mut Platform, node: &mut Node) {
    let id = platform.ask("test.behave", json!("slow"), json!({})).await;
    platform.until_waiting(0, 1).await;
    node.stop();
    node.launch();
    platform.reconnect().await;
    platform.until_waiting(0, 1).await;
    assert!(platform.nothing_waits());
    GO_ON.notify_one();
    assert_eq!(platform.bodies(1).await, [json!(id)], "the one that was held comes again, once");
    platform.until_waiting(0, 1).await;
    assert!(platform.nothing_waits());
}

async fn stops_in_order(platform: &mut Platform, worker: Worker) {
    let id = platform.ask("test.behave", json!("slow"), json!({})).await;
    platform.until_waiting(0, 1).await;
    let waits = platform.ask("transform.map", json!({ "map": 3 }), json!({})).await;
    let stopping = tokio::spawn(worker.stop());
    platform.until_waiting(1, 0).await;
    GO_ON.notify_one();
    assert_eq!(platform.bodies(1).await, [json!(id)]);
    stopping.await.unwrap();
    assert_eq!(platform.waiting().await, (1, 0), "{waits} waits for another worker");
}
