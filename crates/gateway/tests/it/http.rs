//! The HTTP side: who may see what, objects, attachments, hooks, credentials, state.

use std::time::Duration;

use flowline_gateway::ServiceResult;
use flowline_model::{Attachment, Size};
use flowline_sdk::{Attachments, Contract, Effects, Gateway as _, RemoteStep, testing::in_parts};
use lapin::options::BasicAckOptions;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

use crate::rig::{Environment, Rig, end, step};

/// A worker's HTTP client.
struct Api {
    http: reqwest::Client,
    environment: Environment,
}

impl Api {
    fn new(environment: Environment) -> Self {
        // Another test may have done so.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self { http: reqwest::Client::new(), environment }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.environment["ELASTICIO_API_URI"])
    }

    fn api(&self, method: Method, path: &str) -> RequestBuilder {
        let (user, key) = (&self.environment["ELASTICIO_API_USERNAME"], &self.environment["ELASTICIO_API_KEY"]);
        self.http.request(method, self.url(path)).basic_auth(user, Some(key))
    }

    fn object(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, self.url(path)).bearer_auth(&self.environment["ELASTICIO_OBJECT_STORAGE_TOKEN"])
    }
}

async fn status(request: RequestBuilder) -> u16 {
    request.send().await.unwrap().status().as_u16()
}

async fn json_of(request: RequestBuilder) -> Value {
    request.send().await.unwrap().error_for_status().unwrap().json().await.unwrap()
}

#[tokio::test]
async fn step_data_is_for_the_step_itself() {
    let rig = Rig::with(RemoteStep { config: json!({"url": "x"}), ..step("act") }, |settings| {
        settings.variables.insert("REGION".into(), json!("eu"));
    })
    .await;
    rig.host.apply(&Effects { state: vec![("snapshot".into(), Some(json!({"at": 1})))], reply: None });
    let api = Api::new(rig.admit("w1"));
    let data = json_of(api.api(Method::GET, "/v1/tasks/test/steps/step")).await;
    assert_eq!(data["config"], json!({"url": "x", "_account": "test.step"}));
    assert_eq!(data["snapshot"], json!({"at": 1}));
    assert_eq!(data["variables"], json!({"REGION": "eu"}));
    assert_eq!((&data["id"], &data["function"], &data["comp_id"]), (&json!("step"), &json!("act"), &json!("sample")));
    assert_eq!(status(api.api(Method::GET, "/v1/tasks/test/steps/other")).await, 403);
    assert_eq!(status(api.api(Method::GET, "/v1/tasks/other/steps/step")).await, 403);
    let path = "/v1/tasks/test/steps/step";
    assert_eq!(status(api.http.get(api.url(path))).await, 401);
    assert_eq!(status(api.http.get(api.url(path)).basic_auth("w1", Some("wrong"))).await, 401);
    assert_eq!(status(api.api(Method::GET, "/v1/teams")).await, 404);
    // What is for our own worker is not for components.
    assert_eq!(status(api.api(Method::GET, "/v1/tasks/test/steps/step/state?key=snapshot")).await, 404);
    rig.step.expel("w1", flowline_model::Fault::retry("gone", "gone"));
    assert_eq!(status(api.api(Method::GET, path)).await, 401);
}

#[tokio::test]
async fn hooks_and_keys_are_kept() {
    let rig = Rig::with(RemoteStep { config: json!({"token": "old"}), ..step("act") }, |settings| {
        settings.limits.kept = Size(1000);
    })
    .await;
    let api = Api::new(rig.admit("w1"));
    let hook = "/sailor-support/hooks/task/test/startup/data";
    assert_eq!(status(api.api(Method::GET, hook)).await, 404);
    assert_eq!(status(api.api(Method::POST, hook).json(&json!({"id": 1}))).await, 201);
    let conflict = api.api(Method::POST, hook).json(&json!({"id": 2})).send().await.unwrap();
    assert_eq!(conflict.status(), StatusCode::CONFLICT);
    assert_eq!(conflict.json::<Value>().await.unwrap()["title"], json!("ConflictError"));
    assert_eq!(json_of(api.api(Method::GET, hook)).await, json!({"id": 1}));
    assert_eq!(status(api.api(Method::DELETE, hook)).await, 204);
    assert_eq!(status(api.api(Method::POST, hook)).await, 201);
    assert_eq!(status(api.api(Method::GET, &hook.replace("test", "other"))).await, 403);
    assert_eq!(status(api.api(Method::POST, hook).body("x".repeat(2000))).await, 413);

    let keys = json!({"keys": {"token": "new", "more": 1}});
    assert_eq!(status(api.api(Method::PUT, "/v1/accounts/other.step").json(&keys)).await, 403);
    assert_eq!(status(api.api(Method::PUT, "/v1/accounts/test.step").json(&keys)).await, 200);
    let data = json_of(api.api(Method::GET, "/v1/tasks/test/steps/step")).await;
    assert_eq!(data["config"], json!({"token": "new", "more": 1, "_account": "test.step"}));
}

#[tokio::test]
async fn objects_are_stored_found_and_belong_to_a_flow() {
    let rig = Rig::with(step("act"), |settings| settings.limits.object = Size(100_000)).await;
    let other =
        rig.gateway.open(RemoteStep { queue: "foreign/step".parse().unwrap(), ..step("act") }, rig.host.clone());
    let api = Api::new(rig.admit("w1"));
    let foreign = Api::new(other.admit("w2").into_iter().collect());
    let content = "x".repeat(50_000);
    let store = api.object(Method::POST, "/objects").header("x-query-key", "v").header("x-meta-m", "n");
    let stored = json_of(store.header("content-type", "text/plain").body(content.clone())).await;
    let path = format!("/objects/{}", stored["objectId"].as_str().unwrap());
    let read = api.object(Method::GET, &path).send().await.unwrap();
    assert_eq!(read.headers()["content-type"], "text/plain");
    assert_eq!(read.headers()["x-query-key"], "v");
    assert_eq!(read.headers()["x-meta-m"], "n");
    assert_eq!(read.text().await.unwrap(), content);
    assert_eq!(status(foreign.object(Method::GET, &path)).await, 404);
    assert_eq!(status(foreign.object(Method::DELETE, &path)).await, 404);
    assert_eq!(status(api.http.get(api.url(&path))).await, 401);
    assert_eq!(status(api.http.get(api.url(&path)).bearer_auth("w1:wrong")).await, 401);

    let found = json_of(api.object(Method::GET, "/objects?query[key]=v")).await;
    assert_eq!(found[0]["objectId"], stored["objectId"]);
    assert_eq!(json_of(foreign.object(Method::GET, "/objects?query[key]=v")).await, json!([]));
    assert_eq!(status(api.object(Method::GET, "/objects")).await, 400);
    let replace = api.object(Method::PUT, &path).header("x-query-second", "w").body("short");
    assert_eq!(json_of(replace).await["contentLength"], json!(5));
    let both = "/objects?query[key]=v&query[second]=w";
    assert_eq!(json_of(api.object(Method::GET, both)).await.as_array().unwrap().len(), 1);
    assert_eq!(status(api.object(Method::DELETE, both)).await, 204);
    assert_eq!(status(api.object(Method::GET, &path)).await, 404);

    assert_eq!(status(api.object(Method::POST, "/objects/").body("x".repeat(100_001))).await, 413);
    let brief = api.object(Method::POST, "/objects").header("x-eio-ttl", "0").body("x");
    let gone = json_of(brief).await;
    assert_eq!(status(api.object(Method::GET, &format!("/objects/{}", gone["objectId"].as_str().unwrap()))).await, 404);
    let mut many = api.object(Method::POST, "/objects").body("x");
    for number in 0..6 {
        many = many.header(format!("x-query-{number}"), "v");
    }
    assert_eq!(status(many).await, 400);
}

#[tokio::test]
async fn signed_links_need_no_credentials_and_cannot_be_made_up() {
    let rig = Rig::new().await;
    let api = Api::new(rig.admit("w1"));
    let signed = json_of(api.api(Method::POST, "/v2/resources/storage/signed-url")).await;
    let (put, get) = (signed["put_url"].as_str().unwrap(), signed["get_url"].as_str().unwrap());
    assert_eq!(status(api.http.get(get)).await, 404);
    assert_eq!(status(api.http.put(put).header("content-type", "text/csv").body("a,b")).await, 200);
    let read = api.http.get(get).send().await.unwrap();
    assert_eq!(read.headers()["content-type"], "text/csv");
    assert_eq!(read.text().await.unwrap(), "a,b");
    assert_eq!(status(api.http.get(get.replace("/test/", "/other/"))).await, 404);
    let mut forged = get.to_owned();
    forged.replace_range(forged.len() - 4.., "AAAA");
    assert_eq!(status(api.http.get(forged)).await, 404);
}

/// What a component attaches by a link of ours becomes an attachment; a foreign link stays one.
#[tokio::test]
async fn attachments_come_and_go() {
    let rig = Rig::new().await;
    let client = rig.client("w1").await;
    let api = Api::new(client.environment.clone());
    let mut consumer = client.consume().await;
    let mut message = rig.message(json!({}));
    let content = in_parts(bytes::Bytes::from_static(b"incoming"));
    let file = rig.host.store(message.execution, "in.txt", "text/plain", content, Size(10)).await.unwrap();
    message.attachments = vec![file.clone(), file.clone()];
    let run = rig.run(message);
    let received = client.next(&mut consumer).await;
    let link = received.message["attachments"]["in.txt"].clone();
    assert_eq!((&link["size"], &link["content-type"]), (&json!(8), &json!("text/plain")));
    assert_eq!(received.message["attachments"]["2-in.txt"]["size"], json!(8));
    let url = link["url"].as_str().unwrap();
    let path = url.strip_prefix(&api.url("")).unwrap();
    assert_eq!(api.object(Method::GET, path).send().await.unwrap().text().await.unwrap(), "incoming");
    let other =
        rig.gateway.open(RemoteStep { queue: "foreign/step".parse().unwrap(), ..step("act") }, rig.host.clone());
    let foreign = Api::new(other.admit("w2").into_iter().collect());
    assert_eq!(status(foreign.object(Method::GET, path)).await, 404);

    let stored = json_of(api.object(Method::POST, "/objects").body("outgoing")).await;
    let own =
        format!("{}?storage_type=maester", api.url(&format!("/objects/{}", stored["objectId"].as_str().unwrap())));
    let emitted = json!({ "body": {}, "attachments": {
        "1.txt": {"url": url},
        "2.txt": {"url": own, "content-type": "text/plain"},
        "3.txt": {"url": "https://files.example/3.txt", "size": 3},
    }});
    client.emit_message(&received, &emitted).await;
    received.delivery.acker.ack(BasicAckOptions::default()).await.unwrap();
    let attachments = end(run).await.emits.remove(0).attachments;
    assert_eq!(attachments[0], Attachment { name: "1.txt".into(), ..file });
    assert_eq!((attachments[1].name.as_str(), attachments[1].size), ("2.txt", 8));
    assert_eq!(rig.host.content(&attachments[1]).unwrap(), "outgoing");
    assert_eq!((attachments[2].id.as_str(), attachments[2].size), ("https://files.example/3.txt", 3));

    let run = rig.run(rig.message(json!({})));
    let received = client.next(&mut consumer).await;
    let unknown = api.url("/objects/00000000-0000-4000-8000-000000000000");
    client.emit_message(&received, &json!({"body": {}, "attachments": {"x": {"url": unknown}}})).await;
    received.delivery.acker.ack(BasicAckOptions::default()).await.unwrap();
    assert!(end(run).await.fault.unwrap().message.contains("attachment `x`"));
}

#[tokio::test]
async fn our_own_worker_reads_its_state() {
    let rig = Rig::with(RemoteStep { contract: Contract::Worker, ..step("demo.count") }, |_| {}).await;
    let entry = |key: &str, value: i32| (key.to_owned(), Some(json!(value)));
    rig.host.apply(&Effects { state: vec![entry("a:1", 1), entry("a:2", 2), entry("b", 3)], reply: None });
    let api = Api::new(rig.admit("w1"));
    let state = |query: &str| json_of(api.api(Method::GET, &format!("/v1/tasks/test/steps/step/state?{query}")));
    assert_eq!(state("key=b").await, json!({"value": 3, "found": true}));
    assert_eq!(state("key=c").await, json!({"value": null, "found": false}));
    assert_eq!(state("prefix=a:&max=1").await, json!({"entries": [["a:1", 1]]}));
    assert_eq!(state("prefix=a:&after=a:1&max=10").await, json!({"entries": [["a:2", 2]]}));
}

#[tokio::test]
async fn a_result_is_taken_once_and_only_with_its_secret() {
    let rig = Rig::new().await;
    let api = Api::new(rig.admit("w1"));
    let (url, result) = rig.gateway.expect_result();
    let wrong = url.replace("result:", "result:x");
    let body = json!({"status": "error", "data": {"message": "no"}});
    assert_eq!(status(api.http.post(wrong).json(&body)).await, 404);
    assert_eq!(status(api.http.post(&url).json(&body)).await, 200);
    assert_eq!(status(api.http.post(&url).json(&body)).await, 404);
    let result = result.within(Duration::from_secs(10)).await.unwrap();
    assert_eq!(result, ServiceResult::Error(json!({"message": "no"})));
}
