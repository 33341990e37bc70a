//! The official runtime library with a real component, as node processes: the versions that
//! components out there are pinned to.

use std::{collections::BTreeMap, path::PathBuf, process::Stdio, time::Duration};

use flowline_gateway::{ServiceCall, ServiceResult, Settings, Verb};
use flowline_model::{FaultKind, Size};
use flowline_sdk::{Attachments, OperationKind, RemoteStep, testing::in_parts};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::rig::{Environment, Outcome, PATIENCE, Rig, end, step};

const NEWEST: &str = "2.7.8";

/// Where a version of the library is, installed if need be.
async fn library(version: &str) -> PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../.ci/npm");
    let output = Command::new(script).arg(version).output().await.expect("`.ci/npm` should be there");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the runtime library {version} could not be installed: {said}");
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim()).join("node_modules/elasticio-sailor-nodejs")
}

/// Starts node in the component's folder with nothing but this environment.
async fn node(version: &str, script: &[&str], environment: &Environment) -> Child {
    let library = library(version).await;
    let (first, rest) = script.split_first().unwrap();
    let mut command = Command::new("node");
    command.arg(library.join(first)).args(rest);
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/component"));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).envs(environment);
    command.env("LOG_LEVEL", "info").stdin(Stdio::null()).kill_on_drop(true);
    command.spawn().expect("node should be installed: https://nodejs.org")
}

/// One step with its only worker.
struct Worker {
    rig: Rig,
    process: Child,
}

impl Worker {
    async fn start(version: &str, step: RemoteStep) -> Self {
        Self::start_with(version, step, |_| {}).await
    }

    async fn start_with(version: &str, step: RemoteStep, change: impl FnOnce(&mut Settings)) -> Self {
        let rig = Rig::with(step, change).await;
        let process = node(version, &["run.js"], &rig.admit("w1")).await;
        Self { rig, process }
    }

    async fn run(&self, body: Value) -> Outcome {
        end(self.rig.run(self.rig.message(body))).await
    }

    /// Asks it to stop and waits until it did.
    async fn stop(mut self) -> i32 {
        let id = self.process.id().unwrap().to_string();
        Command::new("kill").args(["-TERM", &id]).status().await.unwrap();
        let status = tokio::time::timeout(PATIENCE, self.process.wait()).await.expect("it should stop").unwrap();
        status.code().unwrap_or(-1)
    }
}

fn polling() -> RemoteStep {
    RemoteStep { kind: OperationKind::Polling, config: json!({"token": "t"}), ..step("poll") }
}

async fn polls(version: &str) {
    let worker = Worker::start(version, polling()).await;
    for from in [0, 3] {
        let outcome = worker.run(json!({})).await;
        let expected: Vec<_> = (from..from + 3).map(|n| json!({"n": n, "token": "t"})).collect();
        assert_eq!((outcome.bodies(), outcome.fault), (expected, None));
        assert_eq!(worker.rig.host.entries(), [("snapshot".to_owned(), json!({"next": from + 3}))]);
    }
    // A new container goes on where the last one stopped.
    let environment = worker.rig.admit("w2");
    let mut second = node(version, &["run.js"], &environment).await;
    worker.rig.step.expel("w1", flowline_model::Fault::retry("replaced", "another one came"));
    let outcome = worker.run(json!({})).await;
    assert_eq!(outcome.bodies()[0], json!({"n": 6, "token": "t"}));
    second.kill().await.unwrap();

    assert!(worker.rig.step.awaits_shutdown().await);
    let environment = worker.rig.step.admit_shutdown("w3").into_iter().collect();
    let mut hook = node(version, &["run.js"], &environment).await;
    let status = tokio::time::timeout(PATIENCE, hook.wait()).await.expect("the hook should end").unwrap();
    assert!(status.success());
    assert!(!worker.rig.step.awaits_shutdown().await);
}

async fn emits_many_and_stops(version: &str) {
    let worker = Worker::start_with(version, step("many"), |settings| settings.limits.emits = 100).await;
    let outcome = worker.run(json!({"count": 1234})).await;
    let expected: Vec<_> = (0..1234).map(|n| json!({ "n": n })).collect();
    assert_eq!((outcome.bodies(), outcome.fault, outcome.rounds), (expected, None, 13));
    assert_eq!(worker.stop().await, 0);
}

async fn rebounds(version: &str) {
    let worker = Worker::start(version, step("rebound")).await;
    let message = worker.rig.message(json!({}));
    for (attempt, wait) in [(1, 15), (2, 30)] {
        let fault = end(worker.rig.run_attempt(message.clone(), attempt, json!({}))).await.fault.unwrap();
        assert_eq!((fault.code.as_str(), fault.message.as_str()), ("rebound", "not yet"));
        assert_eq!(fault.after, Some(Duration::from_secs(wait)));
    }
    let outcome = end(worker.rig.run_attempt(message.clone(), 3, json!({}))).await;
    assert_eq!(outcome.bodies(), [json!({"times": 3, "id": message.id})]);
}

async fn fails(version: &str) {
    let worker = Worker::start(version, step("fail")).await;
    let fault = worker.run(json!({})).await.fault.unwrap();
    assert_eq!((fault.kind, fault.message.as_str()), (FaultKind::Retry, "TypeError: this cannot work"));
    let outcome = worker.run(json!({"emit": true})).await;
    assert_eq!((outcome.bodies(), outcome.fault.unwrap().kind), (vec![json!({"emit": true})], FaultKind::Reject));
}

async fn replies(version: &str) {
    let worker = Worker::start(version, step("reply")).await;
    let outcome = worker.run(json!({"form": "event"})).await;
    let reply = outcome.reply.clone().unwrap();
    assert_eq!((reply.status, reply.body.as_slice()), (201, &br#"{"ok":true}"#[..]));
    assert_eq!(outcome.bodies(), [json!({"replied": true})]);
    let outcome = worker.run(json!({})).await;
    let reply = outcome.reply.clone().unwrap();
    assert_eq!((reply.status, reply.body.as_slice()), (202, &b"<p>hello</p>"[..]));
    assert_eq!(outcome.bodies(), [json!({"replied": true})]);
}

async fn refreshes_keys(version: &str) {
    let worker =
        Worker::start(version, RemoteStep { config: json!({"token": "old", "other": 1}), ..step("keys") }).await;
    let outcome = worker.run(json!({})).await;
    assert_eq!((outcome.bodies(), outcome.fault), (vec![json!({"before": "old"})], None));
    let environment = worker.rig.admit("w2");
    let mut second = node(version, &["run.js"], &environment).await;
    worker.rig.step.expel("w1", flowline_model::Fault::retry("replaced", "another one came"));
    assert_eq!(worker.run(json!({})).await.bodies(), [json!({"before": "refreshed"})]);
    second.kill().await.unwrap();
}

async fn sees_all_of_a_message(version: &str) {
    let worker = Worker::start_with(version, step("echo"), |settings| {
        settings.variables.insert("REGION".into(), json!("eu"));
    })
    .await;
    let mut message = worker.rig.message(json!({"a": 1}));
    message.headers = BTreeMap::from([("x-in".to_owned(), "1".to_owned())]);
    message.steps.insert("form".parse().unwrap(), json!({"name": "Ada"}));
    let content = in_parts(bytes::Bytes::from_static(b"hello"));
    let file = worker.rig.host.store(message.execution, "a.txt", "text/plain", content, Size(10)).await.unwrap();
    message.attachments = vec![file.clone()];
    let outcome = end(worker.rig.run(message.clone())).await;
    let body = &outcome.bodies()[0];
    assert_eq!(body["id"], json!(message.id));
    assert_eq!(body["passthrough"]["form"]["body"]["name"], json!("Ada"));
    assert_eq!(body["headers"]["x-in"], json!("1"));
    assert_eq!(body["variables"], json!({"REGION": "eu"}));
    assert_eq!(outcome.emits[0].headers["x-echo"], "yes");
    assert_eq!(outcome.emits[0].attachments, [file]);
}

/// From 2.6.14 on large bodies travel through the object store, both ways.
async fn exchanges_large_bodies(version: &str) {
    let worker = Worker::start_with(version, step("echo"), |settings| {
        settings.limits.lightweight = Size(100_000);
    })
    .await;
    let outcome = worker.run(json!({"large": "y".repeat(200_000), "grow": 2_000_000})).await;
    assert_eq!(outcome.fault, None);
    let body = &outcome.bodies()[0];
    assert!(body["length"].as_u64().unwrap() > 200_000);
    assert_eq!(body["padding"].as_str().unwrap().len(), 2_000_000);
}

macro_rules! versions {
    ($($module:ident $version:literal: $($test:ident)*;)*) => { $(
        mod $module {
            $(
                #[tokio::test]
                async fn $test() {
                    super::$test($version).await;
                }
            )*
        }
    )* };
}

versions! {
    v2_7_8 "2.7.8": polls emits_many_and_stops rebounds fails replies refreshes_keys sees_all_of_a_message
        exchanges_large_bodies;
    v2_6_29 "2.6.29": polls emits_many_and_stops rebounds fails replies refreshes_keys sees_all_of_a_message
        exchanges_large_bodies;
    v2_5_4 "2.5.4": polls emits_many_and_stops rebounds fails replies refreshes_keys sees_all_of_a_message;
}

/// What never ends is seen by whoever watches, and its expulsion is the end.
#[tokio::test]
async fn trap_8_a_component_that_hangs_is_seen_and_expelled() {
    let mut worker = Worker::start(NEWEST, step("hang")).await;
    let run = worker.rig.run(worker.rig.message(json!({})));
    worker.rig.until(|step| step.presence("w1").is_some_and(|presence| presence.holding_since.is_some())).await;
    worker.rig.step.expel("w1", flowline_model::Fault::retry("timeout", "the component took too long"));
    assert_eq!(end(run).await.fault.unwrap().code, "timeout");
    worker.process.kill().await.unwrap();
}

/// The runtime outlives an interruption and comes back, as the same worker.
#[tokio::test]
async fn trap_11_a_component_comes_back_after_an_interruption() {
    let worker = Worker::start_with(NEWEST, step("many"), |settings| {
        settings.limits.mourning = Duration::from_millis(100);
    })
    .await;
    assert_eq!(worker.run(json!({"count": 1})).await.fault, None);
    worker.rig.gateway.disconnect("w1");
    let outcome = worker.run(json!({"count": 2})).await;
    let outcome = if outcome.fault.is_some() { worker.run(json!({"count": 2})).await } else { outcome };
    assert_eq!((outcome.bodies().len(), outcome.fault), (2, None));
}

/// What goes on working after its connection was lost is not mixed up with the
/// delivery that comes again, to the same process.
#[tokio::test]
async fn trap_1_an_interruption_in_the_middle_loses_and_doubles_nothing() {
    let worker = Worker::start_with(NEWEST, step("many"), |settings| settings.limits.emits = 2).await;
    let message = worker.rig.message(json!({"count": 20, "delay": 50}));
    let first = worker.rig.run(message.clone());
    worker.rig.until(|_| worker.rig.gateway.figures().spooled > 0).await;
    worker.rig.gateway.disconnect("w1");
    let outcome = end(first).await;
    assert_eq!((outcome.fault.unwrap().code.as_str(), outcome.emits.len()), ("worker_lost", 0));
    let outcome = end(worker.rig.run_attempt(message, 2, json!({}))).await;
    let expected: Vec<_> = (0..20).map(|n| json!({ "n": n })).collect();
    assert_eq!((outcome.bodies(), outcome.fault), (expected, None));
}

#[tokio::test]
async fn service_calls_are_answered() {
    let rig = Rig::new().await;
    let call = |verb, config| ServiceCall {
        verb,
        component: "sample".into(),
        function: Some("choose".into()),
        method: Some("colors".into()),
        config,
    };
    let cases = [
        (Verb::VerifyCredentials, json!({"token": "right"}), json!({"verified": true})),
        (
            Verb::VerifyCredentials,
            json!({"token": "wrong"}),
            json!({"verified": false, "reason": "the token is wrong"}),
        ),
        (Verb::SelectModel, json!({"own": "Own"}), json!({"red": "Red", "own": "Own"})),
        (
            Verb::GetMetaModel,
            json!({"color": "red"}),
            json!({"in": {"type": "object", "title": "red"}, "out": {"type": "object"}}),
        ),
    ];
    for (verb, config, expected) in cases {
        let (url, result) = rig.gateway.expect_result();
        let environment = rig.gateway.service_environment(&call(verb, config), &url).into_iter().collect();
        let mut process = node(NEWEST, &["runService.js", verb.as_str()], &environment).await;
        assert_eq!(result.within(PATIENCE).await.unwrap(), ServiceResult::Success(expected));
        assert!(process.wait().await.unwrap().success());
    }
    let (_, result) = rig.gateway.expect_result();
    assert!(result.within(Duration::from_millis(10)).await.is_err());
}
