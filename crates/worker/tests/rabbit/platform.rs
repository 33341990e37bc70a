//! The other side of the contract, as a broker and a few HTTP answers: what the gateway is.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use aes::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit, block_padding::Pkcs7};
use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode},
    routing::{get, post},
};
use base64::{Engine, prelude::BASE64_STANDARD as BASE64};
use flowline_model::Fault;
use futures::StreamExt;
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties, Consumer, ExchangeKind,
    options::*,
    types::{AMQPValue, FieldTable, LongString},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

const PASSWORD: &str = "a password";
const START: &str = "0123456789abcdef";
const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const REPLY_KEY: &str = "reply-key";

#[derive(Clone, Default)]
pub(crate) struct Kept {
    pub(crate) state: Arc<Mutex<BTreeMap<String, Value>>>,
    pub(crate) files: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
}

pub(crate) struct Platform {
    pub(crate) kept: Kept,
    pub(crate) http: String,
    broker: String,
    _connection: Connection,
    channel: Channel,
    published: Consumer,
}

/// Something that a worker published.
#[derive(Debug)]
pub(crate) struct Published {
    pub(crate) key: String,
    pub(crate) headers: BTreeMap<String, AMQPValue>,
    pub(crate) content: Value,
}

impl Published {
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        match self.headers.get(name)? {
            AMQPValue::LongString(text) => Some(text.to_string()),
            other => Some(format!("{other:?}")),
        }
    }

    pub(crate) fn fault(&self) -> Fault {
        assert_eq!(self.key, "error-key", "{:?}", self.content);
        let error = open(self.content["error"].as_str().unwrap().as_bytes());
        serde_json::from_value(error["fault"].clone()).unwrap()
    }
}

fn seal(value: &Value) -> Vec<u8> {
    let key: [u8; 32] = Sha256::digest(PASSWORD).into();
    let start: [u8; 16] = START.as_bytes().try_into().unwrap();
    let sealed = cbc::Encryptor::<aes::Aes256>::new(&key.into(), &start.into())
        .encrypt_padded_vec::<Pkcs7>(value.to_string().as_bytes());
    BASE64.encode(sealed).into_bytes()
}

fn open(sealed: &[u8]) -> Value {
    let key: [u8; 32] = Sha256::digest(PASSWORD).into();
    let start: [u8; 16] = START.as_bytes().try_into().unwrap();
    let sealed = BASE64.decode(sealed).unwrap();
    let text =
        cbc::Decryptor::<aes::Aes256>::new(&key.into(), &start.into()).decrypt_padded_vec::<Pkcs7>(&sealed).unwrap();
    serde_json::from_slice(&text).unwrap()
}

async fn state(
    State(kept): State<Kept>,
    headers: HeaderMap,
    Query(query): Query<BTreeMap<String, String>>,
) -> Result<Json<Value>, StatusCode> {
    assert!(headers["authorization"].to_str().unwrap().starts_with("Basic "));
    let state = kept.state.lock().unwrap();
    if let Some(key) = query.get("key") {
        return state.get(key).map(|value| Json(json!({ "value": value }))).ok_or(StatusCode::NOT_FOUND);
    }
    let (prefix, after, max) = (&query["prefix"], &query["after"], query["max"].parse().unwrap());
    let page = state.iter().filter(|(key, _)| key.starts_with(prefix) && *key > after).take(max);
    Ok(Json(json!({ "entries": page.collect::<Vec<_>>() })))
}

async fn store(State(kept): State<Kept>, headers: HeaderMap, content: Bytes) -> Json<Value> {
    assert_eq!(headers["authorization"], "Bearer token");
    let id = Uuid::from_bytes(rand::random()).to_string();
    kept.files.lock().unwrap().insert(id.clone(), content.to_vec());
    Json(json!({ "objectId": id }))
}

async fn read(State(kept): State<Kept>, Path(id): Path<String>) -> Result<Vec<u8>, StatusCode> {
    kept.files.lock().unwrap().get(&id).cloned().ok_or(StatusCode::NOT_FOUND)
}

async fn items(Query(query): Query<BTreeMap<String, String>>) -> Json<Value> {
    let page: u64 = query.get("page").and_then(|page| page.parse().ok()).unwrap_or(1);
    let items: Vec<Value> = if page > 2 { vec![] } else { (0..3).map(|n| json!({ "id": page * 10 + n })).collect() };
    Json(json!(items))
}

async fn serve(kept: Kept) -> String {
    let answer = |status: u16| (StatusCode::from_u16(status).unwrap(), "told so");
    let router = Router::new()
        .route("/v1/tasks/orders/steps/work/state", get(state))
        .route("/objects", post(store))
        .route("/objects/{id}", get(read))
        .route("/target/{status}", get(move |Path(status): Path<u16>| async move { answer(status) }))
        .route("/items", get(items))
        .with_state(kept);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

impl Platform {
    pub(crate) async fn new(broker: String) -> Self {
        let kept = Kept::default();
        let http = serve(kept.clone()).await;
        let (connection, channel, published) = connect(&broker).await;
        Self { kept, http, broker, _connection: connection, channel, published }
    }

    /// Connects again, after the broker was away.
    pub(crate) async fn reconnect(&mut self) {
        (self._connection, self.channel, self.published) = connect(&self.broker).await;
    }

    /// The environment of a worker.
    pub(crate) fn environment(&self) -> impl Fn(&str) -> Option<String> + Send + 'static {
        let (http, broker) = (self.http.clone(), self.broker.clone());
        move |name| {
            let value = match name.strip_prefix("ELASTICIO_")? {
                "FLOW_ID" => "orders",
                "STEP_ID" => "work",
                "API_URI" | "OBJECT_STORAGE_URI" => &http,
                "OBJECT_STORAGE_TOKEN" => "token",
                "AMQP_URI" => &broker,
                "LISTEN_MESSAGES_ON" => "in",
                "PUBLISH_MESSAGES_TO" => "out",
                "DATA_ROUTING_KEY" => "data-key",
                "ERROR_ROUTING_KEY" => "error-key",
                "SNAPSHOT_ROUTING_KEY" => "snapshot-key",
                "MESSAGE_CRYPTO_PASSWORD" => PASSWORD,
                "MESSAGE_CRYPTO_IV" => START,
                "AMQP_PERSISTENT_MESSAGES" => "true",
                "OUTGOING_MESSAGE_SIZE_LIMIT" | "PROTOCOL_VERSION" | "RABBITMQ_PREFETCH_SAILOR" => return None,
                other => return Some(other.to_lowercase()),
            };
            Some(value.to_owned())
        }
    }

    /// Gives the worker something to do; returns the id of the message.
    pub(crate) async fn ask(&self, operation: &str, config: Value, message: Value) -> String {
        let id = Uuid::from_bytes(rand::random()).to_string();
        let mut whole = json!({ "id": id, "execution": id, "version": 3, "body": null });
        whole.as_object_mut().unwrap().extend(message.as_object().unwrap().clone());
        let place =
            json!({ "flow": "orders", "version": 3, "step": "work", "execution": id, "message": id, "attempt": 1 });
        let flowline =
            json!({ "operation": operation, "config": config, "place": place, "message": whole, "timeout_ms": 20_000 });
        let files = flowline["message"]["attachments"].as_array().cloned().unwrap_or_default();
        let link = |file: &Value| match file["id"].as_str().unwrap() {
            id if id.contains("://") => json!({ "url": id }),
            _ => json!({ "url": format!("{}/objects/linked?storage_type=maester", self.http) }),
        };
        let links: serde_json::Map<String, Value> =
            files.iter().map(|file| (file["name"].as_str().unwrap().to_owned(), link(file))).collect();
        self.send(&id, seal(&json!({ "id": id, "body": {}, "attachments": links, "flowline": flowline }))).await;
        id
    }

    pub(crate) async fn send(&self, id: &str, payload: Vec<u8>) {
        let mut headers = FieldTable::default();
        for (name, value) in
            [("messageId", id), ("threadId", "thread"), ("reply_to", REPLY_KEY), ("x-eio-meta-a", "b"), ("other", "x")]
        {
            headers.insert(name.into(), AMQPValue::LongString(LongString::from(value)));
        }
        let properties = BasicProperties::default().with_headers(headers).with_delivery_mode(2);
        let options = BasicPublishOptions::default();
        self.channel.basic_publish("".into(), "in".into(), options, &payload, properties).await.unwrap().await.unwrap();
    }

    /// What the worker publishes next.
    pub(crate) async fn next(&mut self) -> Published {
        let delivery = tokio::time::timeout(PATIENCE, self.published.next()).await.expect("a publication");
        let delivery = delivery.unwrap().unwrap();
        delivery.ack(BasicAckOptions::default()).await.unwrap();
        assert_eq!(*delivery.properties.delivery_mode(), Some(2));
        let headers = delivery.properties.headers().clone().unwrap();
        let headers = headers.inner().iter().map(|(name, value)| (name.to_string(), value.clone())).collect();
        let key = delivery.routing_key.to_string();
        let sealed = matches!(key.as_str(), "data-key" | REPLY_KEY);
        let content = if sealed { open(&delivery.data) } else { serde_json::from_slice(&delivery.data).unwrap() };
        Published { key, headers, content }
    }

    /// What it publishes next, which is `count` messages.
    pub(crate) async fn bodies(&mut self, count: usize) -> Vec<Value> {
        let mut bodies = Vec::new();
        for _ in 0..count {
            let mut data = self.next().await;
            assert_eq!(data.key, "data-key", "{:?}", data.content);
            bodies.push(data.content["body"].take());
        }
        bodies
    }

    pub(crate) fn nothing_waits(&mut self) -> bool {
        futures::FutureExt::now_or_never(self.published.next()).is_none()
    }

    /// How many messages are ready, and how many consumers there are.
    pub(crate) async fn waiting(&self) -> (u32, u32) {
        let options = QueueDeclareOptions { passive: true, ..Default::default() };
        let queue = self.channel.queue_declare("in".into(), options, FieldTable::default()).await.unwrap();
        (queue.message_count(), queue.consumer_count())
    }

    pub(crate) async fn until_waiting(&self, ready: u32, consumers: u32) {
        let end = tokio::time::Instant::now() + PATIENCE;
        while self.waiting().await != (ready, consumers) {
            assert!(tokio::time::Instant::now() < end, "{:?}", self.waiting().await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Takes the queue away and puts a new one in its place.
    pub(crate) async fn replace_queue(&self) {
        self.channel.queue_delete("in".into(), QueueDeleteOptions::default()).await.unwrap();
        declare(&self.channel, "in").await;
    }
}

async fn declare(channel: &Channel, queue: &str) {
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare(queue.into(), options, FieldTable::default()).await.unwrap();
}

async fn connect(broker: &str) -> (Connection, Channel, Consumer) {
    let end = tokio::time::Instant::now() + PATIENCE;
    let connection = loop {
        match Connection::connect(broker, ConnectionProperties::default()).await {
            Ok(connection) => break connection,
            Err(error) => assert!(tokio::time::Instant::now() < end, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    declare(&channel, "in").await;
    declare(&channel, "published").await;
    let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
    channel.exchange_declare("out".into(), ExchangeKind::Direct, options, FieldTable::default()).await.unwrap();
    for key in ["data-key", "error-key", "snapshot-key", REPLY_KEY] {
        let options = QueueBindOptions::default();
        channel.queue_bind("published".into(), "out".into(), key.into(), options, FieldTable::default()).await.unwrap();
    }
    let options = BasicConsumeOptions::default();
    let published = channel.basic_consume("published".into(), "".into(), options, FieldTable::default()).await.unwrap();
    (connection, channel, published)
}
