//! What the tests share: a gateway with one step on it, an engine that is only as much as they
//! need, and a plain AMQP client that keeps to the contract.

use std::{collections::HashMap, net::Ipv4Addr, sync::Arc, time::Duration};

use aes::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit, block_padding::Pkcs7};
use base64::{Engine, prelude::BASE64_STANDARD};
use flowline_gateway::{Gateway, Settings};
use flowline_model::{Emit, Fault, Message, Reply};
use flowline_sdk::{
    Context, Contract, Effects, Gateway as _, GatewayStep, Host, OperationKind, Place, RemoteStep, testing::TestHost,
};
use futures::StreamExt;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer,
    message::Delivery,
    options::{BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions},
    types::{AMQPValue, FieldTable},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::task::JoinHandle;

/// Longer than anything takes unless it is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The environment of a worker.
pub(crate) type Environment = HashMap<String, String>;

/// A gateway with the step `test/step` on it.
pub(crate) struct Rig {
    pub(crate) host: Arc<TestHost>,
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) step: Arc<dyn GatewayStep>,
    pub(crate) folder: Arc<TempDir>,
}

/// What a message came to, all rounds together.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) emits: Vec<Emit>,
    pub(crate) rounds: usize,
    pub(crate) reply: Option<Reply>,
    pub(crate) fault: Option<Fault>,
}

impl Outcome {
    pub(crate) fn bodies(&self) -> Vec<Value> {
        self.emits.iter().map(|emit| emit.body.clone()).collect()
    }
}

pub(crate) fn step(function: &str) -> RemoteStep {
    RemoteStep {
        queue: "test/step".parse().unwrap(),
        version: 1,
        contract: Contract::Component,
        kind: OperationKind::Action,
        component: "sample".into(),
        function: function.into(),
        config: json!({}),
        prefetch: 1,
        timeout: Duration::from_secs(60),
    }
}

impl Rig {
    pub(crate) async fn new() -> Self {
        Self::with(step("act"), |_| {}).await
    }

    pub(crate) async fn with(step: RemoteStep, change: impl FnOnce(&mut Settings)) -> Self {
        Self::again(step, change, TestHost::new(), Arc::new(tempfile::tempdir().unwrap())).await
    }

    /// A gateway on a folder and a memory that may have been used before.
    pub(crate) async fn again(
        step: RemoteStep,
        change: impl FnOnce(&mut Settings),
        host: Arc<TestHost>,
        folder: Arc<TempDir>,
    ) -> Self {
        let _ = tracing_subscriber::fmt().with_test_writer().try_init();
        let mut settings = Settings::new(folder.path());
        settings.limits.mourning = Duration::from_millis(200);
        change(&mut settings);
        let gateway = Gateway::bind(settings, Ipv4Addr::LOCALHOST.into()).await.unwrap();
        let step = gateway.open(step, Arc::clone(&host) as Arc<dyn Host>);
        Self { host, gateway, step, folder }
    }

    pub(crate) fn admit(&self, worker: &str) -> Environment {
        self.step.admit(worker).into_iter().collect()
    }

    pub(crate) async fn client(&self, worker: &str) -> Client {
        Client::new(self.admit(worker)).await
    }

    pub(crate) fn message(&self, body: Value) -> Message {
        self.host.message(body)
    }

    pub(crate) fn context(&self, message: &Message, attempt: u32) -> Context {
        let place = Place { attempt, ..self.host.context(message).place().clone() };
        Context::new(place, Arc::clone(&self.host) as Arc<dyn Host>)
    }

    /// Hands a message over and settles what comes of it, as the engine does.
    pub(crate) fn run(&self, message: Message) -> JoinHandle<Outcome> {
        self.run_attempt(message, 1, json!({}))
    }

    pub(crate) fn run_attempt(&self, message: Message, attempt: u32, config: Value) -> JoinHandle<Outcome> {
        let (host, step) = (Arc::clone(&self.host), Arc::clone(&self.step));
        let cx = self.context(&message, attempt);
        tokio::spawn(async move {
            let mut outcome = Outcome::default();
            loop {
                outcome.rounds += 1;
                match step.run(&cx, config.clone(), message.clone()).await {
                    Ok(produced) => {
                        let effects = cx.take_effects();
                        host.apply(&effects);
                        outcome.reply = outcome.reply.or(effects.reply);
                        outcome.emits.extend(produced.emits);
                        if !produced.more {
                            return outcome;
                        }
                    }
                    Err(fault) => {
                        let forgotten = cx.take_effects().state.into_iter().filter(|(_, value)| value.is_none());
                        host.apply(&Effects { state: forgotten.collect(), reply: None });
                        outcome.fault = Some(fault);
                        return outcome;
                    }
                }
            }
        })
    }

    /// Waits until a worker is as it should be.
    pub(crate) async fn until(&self, what: impl Fn(&dyn GatewayStep) -> bool) {
        let wait = async {
            while !what(&*self.step) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("it should have come to this");
    }
}

/// The end of a run, which must come.
pub(crate) async fn end(run: JoinHandle<Outcome>) -> Outcome {
    tokio::time::timeout(PATIENCE, run).await.expect("the message should have come to an end").unwrap()
}

/// A plain client that keeps to the contract.
pub(crate) struct Client {
    pub(crate) environment: Environment,
    pub(crate) connection: Connection,
    pub(crate) reading: Channel,
    pub(crate) writing: Channel,
}

/// A message as a client received it.
pub(crate) struct Received {
    pub(crate) delivery: Delivery,
    pub(crate) message: Value,
}

impl Received {
    pub(crate) fn header(&self, name: &str) -> String {
        match self.delivery.properties.headers().as_ref().unwrap().inner().get(name) {
            Some(AMQPValue::LongString(text)) => text.to_string(),
            Some(AMQPValue::LongInt(number)) => number.to_string(),
            other => panic!("the header {name} is {other:?}"),
        }
    }
}

impl Client {
    pub(crate) async fn new(environment: Environment) -> Self {
        let connection = connect(&environment["ELASTICIO_AMQP_URI"]).await.unwrap();
        let reading = connection.create_channel().await.unwrap();
        let writing = connection.create_channel().await.unwrap();
        writing.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        Self { environment, connection, reading, writing }
    }

    pub(crate) fn name(&self, variable: &str) -> String {
        self.environment[&format!("ELASTICIO_{variable}")].clone()
    }

    pub(crate) async fn consume(&self) -> Consumer {
        let prefetch = self.name("RABBITMQ_PREFETCH_SAILOR").parse().unwrap();
        self.reading.basic_qos(prefetch, BasicQosOptions::default()).await.unwrap();
        let queue = self.name("LISTEN_MESSAGES_ON");
        let options = BasicConsumeOptions::default();
        self.reading.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await.unwrap()
    }

    pub(crate) async fn next(&self, consumer: &mut Consumer) -> Received {
        let next = tokio::time::timeout(PATIENCE, consumer.next()).await;
        let delivery = next.expect("a message should have come").unwrap().unwrap();
        let mut received = Received { delivery, message: Value::Null };
        let hidden = &received.delivery.data;
        let plain =
            if received.header("protocolVersion") == "1" { self.decrypt_text(hidden) } else { self.decrypt(hidden) };
        received.message = serde_json::from_slice(&plain).unwrap();
        received
    }

    /// The headers that a component answers with.
    pub(crate) fn headers(received: &Received) -> FieldTable {
        let mut headers = FieldTable::default();
        let mut set = |name: &str, value: String| {
            headers.insert(name.into(), AMQPValue::LongString(value.into()));
        };
        set("parentMessageId", received.header("messageId"));
        set("messageId", "f3b4a6a0-0000-4000-8000-000000000001".into());
        set("threadId", received.header("threadId"));
        headers
    }

    pub(crate) async fn publish(&self, key: &str, headers: FieldTable, body: &[u8]) -> Confirmation {
        let properties = BasicProperties::default().with_headers(headers);
        self.publish_with(key, properties, body).await
    }

    pub(crate) async fn publish_with(&self, key: &str, properties: BasicProperties, body: &[u8]) -> Confirmation {
        let exchange = self.name("PUBLISH_MESSAGES_TO");
        let options = BasicPublishOptions::default();
        let publish = self.writing.basic_publish(exchange.into(), key.into(), options, body, properties).await;
        tokio::time::timeout(PATIENCE, publish.unwrap()).await.expect("a confirm").unwrap()
    }

    pub(crate) async fn emit(&self, received: &Received, body: Value) -> Confirmation {
        self.emit_message(received, &json!({ "body": body, "headers": {} })).await
    }

    pub(crate) async fn emit_message(&self, received: &Received, message: &Value) -> Confirmation {
        let body = self.encrypt_text(message);
        self.publish(&self.name("DATA_ROUTING_KEY"), Self::headers(received), body.as_bytes()).await
    }

    pub(crate) async fn fail(&self, received: &Received, error: &Value) -> Confirmation {
        let body = json!({ "error": self.encrypt_text(error), "errorInput": "" }).to_string();
        self.publish(&self.name("ERROR_ROUTING_KEY"), Self::headers(received), body.as_bytes()).await
    }

    pub(crate) async fn snapshot(&self, received: &Received, event: &str, snapshot: &Value) -> Confirmation {
        let mut headers = Self::headers(received);
        headers.insert("snapshotEvent".into(), AMQPValue::LongString(event.into()));
        self.publish(&self.name("SNAPSHOT_ROUTING_KEY"), headers, snapshot.to_string().as_bytes()).await
    }

    fn key(&self) -> ([u8; 32], [u8; 16]) {
        let key = Sha256::digest(self.name("MESSAGE_CRYPTO_PASSWORD")).into();
        (key, self.name("MESSAGE_CRYPTO_IV").as_bytes().try_into().unwrap())
    }

    pub(crate) fn encrypt(&self, value: &Value) -> Vec<u8> {
        let (key, iv) = self.key();
        cbc::Encryptor::<aes::Aes256>::new(&key.into(), &iv.into())
            .encrypt_padded_vec::<Pkcs7>(value.to_string().as_bytes())
    }

    pub(crate) fn encrypt_text(&self, value: &Value) -> String {
        BASE64_STANDARD.encode(self.encrypt(value))
    }

    pub(crate) fn decrypt(&self, hidden: &[u8]) -> Vec<u8> {
        let (key, iv) = self.key();
        cbc::Decryptor::<aes::Aes256>::new(&key.into(), &iv.into()).decrypt_padded_vec::<Pkcs7>(hidden).unwrap()
    }

    fn decrypt_text(&self, hidden: &[u8]) -> Vec<u8> {
        self.decrypt(&BASE64_STANDARD.decode(hidden).unwrap())
    }
}

pub(crate) async fn connect(uri: &str) -> lapin::Result<Connection> {
    Connection::connect(uri, ConnectionProperties::default()).await
}
