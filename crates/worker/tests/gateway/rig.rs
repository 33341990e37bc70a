//! A gateway with one step on it, and a worker that runs the step.

use std::{collections::HashMap, net::Ipv4Addr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Path, Query},
    http::{HeaderMap, HeaderValue, StatusCode, header::RETRY_AFTER},
    routing::{get, post},
};
use flowline_gateway::{Gateway, Settings};
use flowline_model::{Emit, Fault, Message, Reply};
use flowline_sdk::{
    Catalog, Contract, Effects, Gateway as _, GatewayStep, Host, Operation, OperationKind, RemoteStep,
    testing::TestHost,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{sync::oneshot, task::JoinHandle};

use crate::operations::{Behave, Counting};

const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Rig {
    pub(crate) host: Arc<TestHost>,
    pub(crate) gateway: Arc<Gateway>,
    step: Arc<dyn GatewayStep>,
    stop: Option<oneshot::Sender<()>>,
    work: JoinHandle<Result<(), flowline_worker::WorkerError>>,
    _folder: TempDir,
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
        assert_eq!(self.fault, None);
        self.emits.iter().map(|emit| emit.body.clone()).collect()
    }
}

fn catalog() -> Catalog {
    let built_in = flowline_components::catalog();
    let names: Vec<String> = built_in.specs().map(|spec| spec.name.clone()).collect();
    let own = [Operation::action(Behave), Operation::polling(Counting)];
    Catalog::new(names.iter().filter_map(|name| built_in.get(name).cloned()).chain(own))
}

impl Rig {
    pub(crate) async fn new(function: &str) -> Self {
        Self::with_timeout(function, PATIENCE).await
    }

    pub(crate) async fn with_timeout(function: &str, timeout: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = Settings::new(folder.path());
        settings.limits.mourning = Duration::from_millis(200);
        let gateway = Gateway::bind(settings, Ipv4Addr::LOCALHOST.into()).await.unwrap();
        let host = TestHost::new();
        let polls = catalog().get(function).is_some_and(|operation| operation.spec.kind == OperationKind::Polling);
        let remote = RemoteStep {
            queue: "test/step".parse().unwrap(),
            version: 1,
            contract: Contract::Worker,
            kind: if polls { OperationKind::Polling } else { OperationKind::Action },
            component: function.split('.').next().unwrap().to_owned(),
            function: function.to_owned(),
            config: json!({}),
            prefetch: 1,
            timeout,
        };
        let step = gateway.open(remote, Arc::clone(&host) as Arc<dyn Host>);
        let environment: HashMap<String, String> = step.admit("worker-1").into_iter().collect();
        let (stop, stopped) = oneshot::channel();
        let work = tokio::spawn(flowline_worker::run(catalog(), move |name| environment.get(name).cloned(), stopped));
        Self { host, gateway, step, stop: Some(stop), work, _folder: folder }
    }

    /// Hands a message over and settles what comes of it, as the engine does.
    pub(crate) fn begin(&self, config: Value, message: Message) -> JoinHandle<Outcome> {
        let (host, step, cx) = (Arc::clone(&self.host), Arc::clone(&self.step), self.host.context(&message));
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

    pub(crate) async fn run(&self, config: Value, body: Value) -> Outcome {
        let message = self.host.message(body);
        finished(self.begin(config, message)).await
    }

    pub(crate) async fn until_held(&self) {
        let end = tokio::time::Instant::now() + PATIENCE;
        while self.step.presence("worker-1").is_none_or(|presence| presence.holding == 0) {
            assert!(tokio::time::Instant::now() < end);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn stop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
        tokio::time::timeout(PATIENCE, &mut self.work).await.expect("it stops").unwrap().unwrap();
    }
}

pub(crate) async fn finished(run: JoinHandle<Outcome>) -> Outcome {
    tokio::time::timeout(PATIENCE, run).await.expect("it comes to something").unwrap()
}

/// A server with a list and a target; returns its address.
pub(crate) async fn target() -> String {
    let items = |Query(query): Query<HashMap<String, u64>>| async move {
        let page = query.get("page").copied().unwrap_or(1);
        let items: Vec<Value> =
            if page > 2 { vec![] } else { (0..3).map(|n| json!({ "id": page * 10 + n })).collect() };
        Json(items)
    };
    let echo = |body: String| async move { Json(json!({ "got": body })) };
    let status = |Path(status): Path<u16>| async move {
        let wait = (status == 503).then_some((RETRY_AFTER, HeaderValue::from_static("7")));
        (StatusCode::from_u16(status).unwrap(), HeaderMap::from_iter(wait))
    };
    let router = Router::new().route("/items", get(items)).route("/echo", post(echo)).route("/{status}", get(status));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}
