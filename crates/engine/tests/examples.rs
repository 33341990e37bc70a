//! The example programs of `examples/`, run by the engine as they are.

#[path = "support/log.rs"]
mod step_log;
mod support;

use std::{collections::BTreeMap, fs, path::PathBuf};

use flowline_engine::Settings;
use flowline_sdk::{Accepts, Received, Refusal, Request, prelude::*};
use step_log::StepLog;
use support::Bench;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema counts")]
struct Program {
    command: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    memory: Option<Size>,
    input: Option<Value>,
}

/// Stands in for the webhook that begins an example: the test publishes.
struct Hook;

#[derive(Deserialize, JsonSchema)]
struct HookConfig {
    path: String,
}

impl WebhookTrigger for Hook {
    type Config = HookConfig;

    fn spec() -> OperationSpec {
        OperationSpec::webhook("webhook.receive", "Hook", "Takes nothing.")
    }

    fn accepts(config: &HookConfig) -> Accepts {
        Accepts { path: Some(config.path.clone()), methods: vec!["POST".to_owned()], reply_within: None }
    }

    async fn receive(&self, _: &Context, _: HookConfig, _: Request) -> Result<Received, Refusal> {
        Err(Refusal::new(503, "test", "the test publishes"))
    }
}

/// Stands in for the last step of an example.
struct Write;

#[derive(Deserialize, JsonSchema)]
struct WriteConfig {
    text: String,
}

impl Action for Write {
    type Config = WriteConfig;

    fn spec() -> OperationSpec {
        OperationSpec::action("log.write", "Write", "Writes into the log.")
    }

    async fn run(&self, cx: &Context, config: WriteConfig, _: Message) -> Result<Vec<Emit>, Fault> {
        cx.log(&config.text);
        Ok(Vec::new())
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// An engine in the folder of the repository, as the examples say it.
async fn bench(change: impl FnOnce(Settings) -> Settings) -> Bench {
    std::env::set_current_dir(root()).unwrap();
    let more = vec![
        Operation::process::<Program>(OperationSpec::action("process.run", "Run", "Runs a program.")),
        Operation::process::<Program>(OperationSpec::polling("process.poll", "Poll", "Polls with a program.")),
        Operation::webhook(Hook),
        Operation::action(Write),
    ];
    Bench::with(tempfile::tempdir().unwrap(), Default::default(), Default::default(), more, change).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_flow_with_a_program_in_python_adds_up_orders() {
    let log = StepLog::listen();
    let bench = bench(|settings| settings).await;
    let flow = bench.apply(&fs::read_to_string(root().join("examples/flows-process/prices.yaml")).unwrap()).await;
    let order = json!({ "id": 1, "lines": [{ "price": 450, "quantity": 2 }, { "price": 50 }] });
    bench.engine.publish(&flow, vec![order, json!({ "id": 2 })]).await.unwrap();
    bench.until(|| log.has("write: order 1: 950"), "the order in the log").await;
    assert!(log.has("total: order 1: 950"), "what the program says: {:?}", log.lines());
    let mut letters = Vec::new();
    for _ in 0..2_000 {
        letters = bench.engine.records().dead_letters(&Default::default(), 10).await.unwrap();
        if !letters.is_empty() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert!(letters[0].fault.message.contains("this is not an order"), "{:?}", letters[0].fault);
    bench.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_in_python_that_polls_counts_on() {
    let bench = bench(|settings| settings).await;
    let flow = bench
        .apply(
            "name: count\nsteps:\n  in:\n    use: process.poll\n    schedule: { cron: \"0 0 29 2 *\" }\n    \
             with: { command: [python3, examples/components/sample-python/count.py], env: { COUNT: \"3\" } }\n  \
             target: { use: test.target, after: in }\n",
        )
        .await;
    for count in [3, 6] {
        bench.engine.run_now(&flow).await.unwrap();
        bench.until_seen(count).await;
    }
    let mut numbers: Vec<i64> = bench.bodies().iter().filter_map(|body| body["number"].as_i64()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6]);
    bench.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_in_shell_stamps_messages() {
    let bench = bench(|settings| settings).await;
    let flow = bench
        .apply(
            "name: stamp\nsteps:\n  in: { use: webhook.receive, with: { path: stamp } }\n  stamp:\n    use: process.run\n    \
             after: in\n    with: { command: [examples/components/sample-shell/stamp], memory: 64MiB }\n  \
             target: { use: test.target, after: stamp }\n",
        )
        .await;
    bench.engine.publish(&flow, vec![json!({ "text": "a \"quoted\" \\ line\n" })]).await.unwrap();
    bench.until_seen(1).await;
    let body = &bench.bodies()[0];
    assert_eq!(body["text"], "a \"quoted\" \\ line\n");
    assert!(body["at"].as_str().is_some_and(|at| at.ends_with('Z')), "{body}");
    bench.engine.shutdown().await;
}
