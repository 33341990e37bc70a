//! A small catalog of operations for tests, and an engine on a folder of its own.
#![allow(dead_code, reason = "each test uses some of it")]

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use flowline_engine::{Engine, ExecutionFilter, Settings};
use flowline_sdk::{model::FlowName, prelude::*};
use tempfile::TempDir;

/// What the target has been given: step, message id, body.
pub(crate) type Seen = Arc<Mutex<Vec<(String, String, Value)>>>;
/// What the target does next; once empty it succeeds.
pub(crate) type Script = Arc<Mutex<VecDeque<Fault>>>;

/// Remembers what it is given, and fails as its script says.
struct Target {
    seen: Seen,
    script: Script,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TargetConfig {
    /// What to remember; the whole body unless given.
    value: Option<Value>,
    /// How long it takes.
    #[serde(default = "no_time")]
    takes: Lapse,
    /// Fails with these messages only.
    only: Option<bool>,
}

fn no_time() -> Lapse {
    Lapse::seconds(0)
}

impl Action for Target {
    type Config = TargetConfig;

    fn spec() -> OperationSpec {
        OperationSpec::action("test.target", "Target", "Remembers what it is given.").writes_outside()
    }

    async fn run(&self, cx: &Context, config: TargetConfig, input: Message) -> Result<Vec<Emit>, Fault> {
        tokio::time::sleep(config.takes.0).await;
        let fault = if config.only == Some(false) { None } else { self.script.lock().unwrap().pop_front() };
        if let Some(fault) = fault {
            if fault.code == "panic" {
                panic!("as the script says");
            }
            return Err(fault);
        }
        let place = cx.place();
        let value = config.value.unwrap_or_else(|| input.body.clone());
        self.seen.lock().unwrap().push((place.step.to_string(), place.message.to_string(), value));
        Ok(vec![Emit::new(input.body)])
    }
}

/// Emits each item of a list.
struct Split;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SplitConfig {
    /// The items.
    items: Vec<Value>,
}

impl Action for Split {
    type Config = SplitConfig;

    fn spec() -> OperationSpec {
        OperationSpec::action("test.split", "Split", "Emits each item of a list.")
    }

    async fn run(&self, _: &Context, config: SplitConfig, _: Message) -> Result<Vec<Emit>, Fault> {
        Ok(config.items.into_iter().map(Emit::new).collect())
    }
}

/// Counts up, in chunks.
struct Counter {
    polls: Arc<Mutex<u64>>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CounterConfig {
    /// How many numbers each poll brings.
    items: u64,
    /// In chunks of so many.
    chunk: u64,
}

impl PollingTrigger for Counter {
    type Config = CounterConfig;
    type Snapshot = u64;

    fn spec() -> OperationSpec {
        OperationSpec::polling("test.count", "Count", "Counts up.")
    }

    async fn poll(&self, _: &Context, config: CounterConfig, since: u64) -> Result<Polled<u64>, Fault> {
        *self.polls.lock().unwrap() += 1;
        let end = (since / config.items + 1) * config.items;
        let to = (since + config.chunk).min(end);
        let emits = (since..to).map(|number| Emit::new(json!({ "number": number }))).collect();
        Ok(Polled { emits, snapshot: to, more: to < end })
    }
}

/// An engine on a folder of its own.
pub(crate) struct Bench {
    pub(crate) engine: Engine,
    pub(crate) seen: Seen,
    pub(crate) script: Script,
    pub(crate) polls: Arc<Mutex<u64>>,
    pub(crate) folder: TempDir,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        Self::on(tempfile::tempdir().unwrap(), Seen::default(), Script::default()).await
    }

    /// The same folder with a new engine, as after a restart.
    pub(crate) async fn restart(self) -> Self {
        self.engine.shutdown().await;
        Self::on(self.folder, self.seen, self.script).await
    }

    async fn on(folder: TempDir, seen: Seen, script: Script) -> Self {
        Self::with(folder, seen, script, Vec::new(), |settings| settings).await
    }

    /// With more operations and other settings.
    pub(crate) async fn with(
        folder: TempDir,
        seen: Seen,
        script: Script,
        more: Vec<Operation>,
        change: impl FnOnce(Settings) -> Settings,
    ) -> Self {
        let polls = Arc::default();
        let operations = [
            Operation::action(Target { seen: Arc::clone(&seen), script: Arc::clone(&script) }),
            Operation::action(Split),
            Operation::polling(Counter { polls: Arc::clone(&polls) }),
        ];
        let catalog = Catalog::new(operations.into_iter().chain(more));
        let settings = Settings { grace: Duration::from_millis(500), ..Settings::new(folder.path()) };
        let engine = Engine::start(change(settings), catalog).await.unwrap();
        Self { engine, seen, script, polls, folder }
    }

    pub(crate) async fn apply(&self, flow: &str) -> FlowName {
        match self.engine.apply(flow).await {
            Ok(applied) => applied.flow,
            Err(error) => panic!("{error:?}"),
        }
    }

    pub(crate) fn fail(&self, faults: impl IntoIterator<Item = Fault>) {
        self.script.lock().unwrap().extend(faults);
    }

    pub(crate) fn bodies(&self) -> Vec<Value> {
        self.seen.lock().unwrap().iter().map(|(.., body)| body.clone()).collect()
    }

    /// Waits until the target has been given so many messages; fails after a while.
    pub(crate) async fn until_seen(&self, count: usize) {
        self.until(|| self.seen.lock().unwrap().len() >= count, &format!("{count} messages at the target")).await;
    }

    pub(crate) async fn until(&self, mut reached: impl FnMut() -> bool, what: &str) {
        for _ in 0..6_000 {
            if reached() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let depths = self.engine.records().queues().await.unwrap();
        panic!("waited in vain for {what}; seen {:?}; {depths:#?}", self.seen.lock().unwrap());
    }

    /// Waits until nothing waits any more on the queues of actions.
    pub(crate) async fn until_idle(&self) {
        for _ in 0..6_000 {
            self.engine.caught_up().await.unwrap();
            let all = ExecutionFilter { limit: 10_000, ..ExecutionFilter::default() };
            let executions = self.engine.records().executions(&all).await.unwrap();
            if executions.iter().all(|execution| execution.waiting == 0) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("something still waits: {:#?}", self.engine.records().queues().await.unwrap());
    }
}

pub(crate) fn numbers(count: u64) -> Vec<Value> {
    (0..count).map(|number| json!({ "number": number })).collect()
}
