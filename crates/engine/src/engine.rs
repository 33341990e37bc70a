//! The engine: starts the parts, applies flows, and stops in an orderly way.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use flowline_model::{
    Emit, FlowName, MessageId, OperationKind, Plan, Problem, QueueName, StepId, StepPlan,
    expression::{Limits, Scope},
    plan::flow_variable,
};
use flowline_queue::{EmbeddedOptions, EmbeddedQueue, Limits as QueueLimits, Publication, QueueDeclaration, Topology};
use flowline_sdk::{Catalog, Request, Run};
use serde_json::Value;
use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Answer, ApplyError, EngineError, FlowStatus, Records, Settings,
    attachments::AttachmentFolder,
    flows::{Flows, Hook, RunningFlow},
    intake, janitor, meter,
    reconciler::{self, Reconciler},
    recorder::Recorder,
    records::{STORE_FILE, open_queue},
    runtime::{
        docker::{self, Docker},
        refusal,
    },
    shared::Shared,
    staff::Staff,
    status::flow_status,
    store::{FlowState, Store, StoredFlow},
    tick,
};

/// Runs flows. Clones are handles to the same engine.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
    records: Records,
    embedded: Arc<EmbeddedQueue>,
    parts: Arc<Parts>,
    /// One change of a flow at a time.
    applying: Arc<tokio::sync::Mutex<()>>,
}

/// What runs in the background.
struct Parts {
    tasks: TaskTracker,
    workers: TaskTracker,
    crews: TaskTracker,
    recorder: TaskTracker,
    stop: CancellationToken,
    stop_recorder: CancellationToken,
    abort: CancellationToken,
}

/// What came of applying a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The flow.
    pub flow: FlowName,
    /// The version that runs now.
    pub version: u32,
    /// Whether that is a new version.
    pub changed: bool,
}

impl Engine {
    /// Opens the data folder, takes up what was under way, and runs.
    pub async fn start(settings: Settings, catalog: Catalog) -> Result<Engine, EngineError> {
        let folder = |error: std::io::Error| EngineError::Folder(format!("{}: {error}", settings.data.display()));
        tokio::fs::create_dir_all(&settings.data).await.map_err(folder)?;
        let embedded = Arc::new(open_queue(&settings.data, options(&settings)).await?);
        let store = Store::open(&settings.data.join(STORE_FILE)).await?;
        let attachments = AttachmentFolder::open(settings.data.join("attachments")).await.map_err(folder)?;
        let specs: BTreeMap<_, _> = catalog.specs().map(|spec| (spec.name.clone(), Arc::clone(spec))).collect();
        let server = docker::server_id(&settings.data).await.map_err(folder)?;
        meter::describe();
        let shared = Arc::new(Shared {
            vars: Value::Object(settings.vars.clone()),
            queue: embedded.clone(),
            history: embedded.clone(),
            store: store.clone(),
            flows: Flows::new(specs),
            replies: Default::default(),
            attachments,
            news: Arc::new(Notify::new()),
            written: Arc::new(Notify::new()),
            changed: Notify::new(),
            broken: Mutex::default(),
            gates: Mutex::default(),
            workforces: Default::default(),
            docker: Arc::new(Docker::new(settings.docker.host.as_deref(), server)),
            catalog,
            settings,
        });
        let records = Records { queue: embedded.clone(), history: embedded.clone(), store };
        let engine = Engine { shared, records, embedded, parts: Arc::new(Parts::new()), applying: Arc::default() };
        engine.restore().await?;
        engine.spawn();
        Ok(engine)
    }

    fn spawn(&self) {
        let Parts { tasks, workers, crews, recorder, stop, stop_recorder, abort } = &*self.parts;
        let recorder_task = Recorder {
            history: Arc::clone(&self.shared.history),
            store: self.shared.store.clone(),
            news: Arc::clone(&self.shared.news),
            written: Arc::clone(&self.shared.written),
        };
        recorder.spawn(recorder_task.run(stop_recorder.clone()));
        tasks.spawn(janitor::run(Arc::clone(&self.shared), stop.clone()));
        if self.shared.settings.gateway.is_some() {
            tasks.spawn(docker::sweep(Arc::clone(&self.shared.docker), stop.clone()));
        }
        let staff = Staff::new(Arc::clone(&self.shared), workers.clone(), crews.clone(), abort.clone());
        let reconciler = Reconciler { shared: Arc::clone(&self.shared), staff };
        tasks.spawn(reconciler.run(stop.clone()));
    }

    /// Takes up the flows that ran before.
    async fn restore(&self) -> Result<(), EngineError> {
        for stored in self.shared.store.flows().await? {
            if let Err(error) = self.restore_flow(&stored).await {
                tracing::error!(flow = %stored.name, "the flow cannot run as it is stored, what waits for it waits on: {error}");
                self.shared.broken.lock().unwrap_or_else(PoisonError::into_inner).insert(stored.name.clone());
            }
        }
        for (flow, step, fault) in self.shared.store.paused_steps().await? {
            self.shared.gate(&QueueName::new(flow, step)).pause(fault);
        }
        Ok(())
    }

    async fn restore_flow(&self, stored: &StoredFlow) -> Result<(), ApplyError> {
        let plan = self.check(&stored.document).map_err(ApplyError::Problems)?;
        let state = FlowState { active: stored.active, paused: stored.paused, draining: stored.draining };
        self.install(plan, stored.version, &stored.document, state).await
    }

    /// Checks a flow document; all of what is wrong with it comes back.
    pub fn check(&self, text: &str) -> Result<Plan, Vec<Problem>> {
        self.shared.flows.check(text)
    }

    /// Runs a flow, or its new version in place of the one that runs. What waits is not dropped.
    pub async fn apply(&self, text: &str) -> Result<Applied, ApplyError> {
        let _one_at_a_time = self.applying.lock().await;
        let plan = self.check(text).map_err(ApplyError::Problems)?;
        let flow = plan.flow.clone();
        let running = self.shared.flows.get(&flow);
        if let Some(running) = running.as_ref().filter(|running| *running.document == *text && running.state.active) {
            tick::begin(&self.shared, &running.plan, running.version).await?;
            return Ok(Applied { flow, version: running.version, changed: false });
        }
        self.admissible(&plan)?;
        let version = running.as_ref().map_or(1, |running| running.version + 1);
        let state =
            FlowState { active: true, paused: running.is_some_and(|running| running.state.paused), draining: false };
        let hook = self.hook(&plan, version)?;
        if let Some(holder) = hook.as_ref().and_then(|hook| self.shared.flows.holder(&hook.path, &flow)) {
            let path = hook.map_or_else(String::new, |hook| hook.path);
            return Err(ApplyError::Conflict(format!("the path `/hook/{path}` belongs to the flow `{holder}`")));
        }
        self.shared.store.publish(&flow, version, text, self.shared.now()).await?;
        self.resume_alerted(&plan).await?;
        self.install(plan, version, text, state).await?;
        Ok(Applied { flow, version, changed: true })
    }

    /// Steps that paused themselves get another chance with a new version.
    async fn resume_alerted(&self, plan: &Plan) -> Result<(), EngineError> {
        for step in plan.steps.values() {
            let gate = self.shared.gate(&step.queue);
            if gate.alert().is_some() {
                self.shared.store.resume_step(&step.queue.flow, &step.queue.step).await?;
                gate.resume();
            }
        }
        Ok(())
    }

    /// Whether everything that a plan reads from the outside is there.
    fn admissible(&self, plan: &Plan) -> Result<(), ApplyError> {
        for step in plan.steps.values() {
            if let Some(refusal) = refusal(&self.shared, step) {
                return Err(ApplyError::Conflict(refusal));
            }
            let reads = step.with.reads();
            let id = &step.queue.step;
            if let Some(secret) = reads.secrets.iter().find(|name| !self.shared.settings.secrets.contains(name)) {
                let variable = secret.to_ascii_uppercase().replace('-', "_");
                return Err(ApplyError::Conflict(format!(
                    "the step `{id}` reads `$secret.{secret}`, which is not set: set FLOWLINE_SECRET_{variable}"
                )));
            }
            if let Some(var) = reads.vars.iter().find(|name| self.shared.vars.get(name.as_str()).is_none()) {
                return Err(ApplyError::Conflict(format!(
                    "the step `{id}` reads `$var.{var}`, which is not set: set it under `vars` in the configuration"
                )));
            }
        }
        Ok(())
    }

    /// Makes a version the one that runs.
    async fn install(&self, plan: Plan, version: u32, document: &str, state: FlowState) -> Result<(), ApplyError> {
        let hook = self.hook(&plan, version)?.map(Arc::new);
        let defaults = self.shared.settings.queue_limits;
        let queues = reconciler::queues(&plan).map(|(name, limit)| QueueDeclaration {
            name,
            limits: QueueLimits {
                messages: limit.messages.unwrap_or(defaults.messages),
                bytes: limit.bytes.map_or(defaults.bytes, |bytes| bytes.0),
            },
        });
        self.shared.queue.declare(&Topology { queues: queues.collect() }).await?;
        for step in plan.steps.values() {
            self.shared.gate(&step.queue).pause_flow(state.paused);
        }
        let plan = Arc::new(plan);
        self.shared.flows.put(RunningFlow { version, plan: Arc::clone(&plan), document: document.into(), state, hook });
        if state.active && !state.draining {
            tick::begin(&self.shared, &plan, version).await?;
        }
        self.shared.changed.notify_one();
        Ok(())
    }

    /// The webhook of a plan, its configuration evaluated.
    fn hook(&self, plan: &Plan, version: u32) -> Result<Option<Hook>, ApplyError> {
        let trigger = plan.trigger();
        let Some(operation) = self.shared.catalog.get(&trigger.operation) else { return Ok(None) };
        let Run::Webhook(webhook) = &operation.run else { return Ok(None) };
        let config = self.trigger_config(trigger, version)?;
        let accepts = webhook.accepts(config.clone()).map_err(|fault| ApplyError::Conflict(fault.message))?;
        let path = accepts.path.clone().unwrap_or_else(|| plan.flow.to_string());
        let path = path.trim_matches('/').to_owned();
        Ok(Some(Hook { path, accepts, config, operation: operation.clone() }))
    }

    fn trigger_config(&self, trigger: &StepPlan, version: u32) -> Result<Value, ApplyError> {
        let mut scope = Scope::new(&Value::Null);
        scope.provide("flow", Cow::Owned(flow_variable(&trigger.queue.flow, version)));
        scope.provide("var", Cow::Borrowed(&self.shared.vars));
        scope.provide("secret", Cow::Borrowed(self.shared.settings.secrets.exposed()));
        let config = trigger.with.render(&scope, Limits::FULL);
        let config = config
            .map_err(|error| ApplyError::Conflict(format!("the configuration of `{}`: {error}", trigger.queue.step)))?;
        Ok(config.unwrap_or(Value::Null))
    }

    /// Takes no new input for a flow whose document is gone; what waits is finished.
    pub async fn retire(&self, flow: &FlowName) -> Result<(), EngineError> {
        self.change(flow, |state| state.active = false).await
    }

    async fn change(&self, flow: &FlowName, change: impl FnOnce(&mut FlowState)) -> Result<(), EngineError> {
        let _one_at_a_time = self.applying.lock().await;
        let mut running = self.running(flow)?;
        change(&mut running.state);
        self.shared.store.set_flow(flow, running.state).await?;
        self.shared.pause_flow(flow, running.state.paused);
        let restart = running.state.active && !running.state.draining;
        let (plan, version) = (Arc::clone(&running.plan), running.version);
        self.shared.flows.put(running);
        if restart {
            tick::begin(&self.shared, &plan, version).await?;
        }
        self.shared.changed.notify_one();
        Ok(())
    }

    fn running(&self, flow: &FlowName) -> Result<RunningFlow, EngineError> {
        self.shared.flows.get(flow).ok_or_else(|| EngineError::NoFlow(flow.clone()))
    }

    fn step(&self, flow: &FlowName, step: &StepId) -> Result<QueueName, EngineError> {
        let running = self.running(flow)?;
        let known = running.plan.steps.get(step);
        known.map(|step| step.queue.clone()).ok_or_else(|| EngineError::NoStep(flow.clone(), step.clone()))
    }

    /// How every flow stands.
    pub fn flows(&self) -> Vec<FlowStatus> {
        self.shared.flows.all().iter().map(|flow| flow_status(&self.shared, flow)).collect()
    }

    /// Answers a request to the webhook at `path`, what stands behind `/hook/`.
    pub async fn receive(&self, path: &str, request: Request) -> Answer {
        intake::receive(&self.shared, path.trim_matches('/'), request).await
    }

    /// Puts inputs in place of what a flow's trigger would emit; they are durable when it returns.
    pub async fn publish(&self, flow: &FlowName, bodies: Vec<Value>) -> Result<Vec<MessageId>, EngineError> {
        let running = self.running(flow)?;
        let first = MessageId::root(self.shared.now(), rand::random());
        let emits = bodies.into_iter().map(Emit::new).collect();
        let trigger = running.plan.trigger();
        let begun = intake::begin_executions(&self.shared, trigger, running.version, first, emits)
            .await
            .map_err(|refusal| EngineError::Input(refusal.message))?;
        let publication = Publication { messages: begun.messages, events: begun.events, ..Publication::default() };
        self.shared.queue.publish(publication).await?;
        self.shared.news.notify_one();
        Ok(begun.ids)
    }

    /// Makes a polling trigger ask now, whatever its schedule.
    pub async fn run_now(&self, flow: &FlowName) -> Result<(), EngineError> {
        let running = self.running(flow)?;
        if running.plan.trigger().kind != OperationKind::Polling {
            return Err(EngineError::NotPolling(flow.clone()));
        }
        tick::now(&self.shared, &running.plan, running.version).await.map(drop)
    }

    /// Stops the work of a flow or a step; its queues go on to fill.
    pub async fn pause(&self, flow: &FlowName, step: Option<&StepId>) -> Result<(), EngineError> {
        let Some(step) = step else { return self.change(flow, |state| state.paused = true).await };
        let queue = self.step(flow, step)?;
        self.shared.store.pause_step(flow, step, None).await?;
        self.shared.gate(&queue).pause(None);
        Ok(())
    }

    /// Goes on with the work of a flow or a step.
    pub async fn resume(&self, flow: &FlowName, step: Option<&StepId>) -> Result<(), EngineError> {
        let Some(step) = step else {
            return self
                .change(flow, |state| {
                    state.paused = false;
                    state.draining = false;
                })
                .await;
        };
        let queue = self.step(flow, step)?;
        self.shared.store.resume_step(flow, step).await?;
        self.shared.gate(&queue).resume();
        Ok(())
    }

    /// Takes no new input for a flow and finishes what waits.
    pub async fn drain(&self, flow: &FlowName) -> Result<(), EngineError> {
        self.change(flow, |state| state.draining = true).await
    }

    /// Throws away what waits for a flow or a step, but for the ticks of its schedule; returns
    /// how many messages.
    pub async fn discard(&self, flow: &FlowName, step: Option<&StepId>) -> Result<u64, EngineError> {
        let queues: Vec<QueueName> = match step {
            Some(step) => vec![self.step(flow, step)?],
            None => self.running(flow)?.plan.steps.values().map(|step| step.queue.clone()).collect(),
        };
        let trigger = self.running(flow)?.plan.trigger().queue.clone();
        let mut count = 0;
        for queue in queues.iter().filter(|queue| **queue != trigger) {
            count += self.shared.queue.discard(queue).await?;
        }
        self.shared.news.notify_one();
        Ok(count)
    }

    /// What was recorded and what waits.
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// Brings the gauges of the queues up to date, for whoever reads the metrics.
    pub async fn measure(&self) -> Result<(), EngineError> {
        meter::set_depths(&self.shared.queue.depths().await?, self.shared.now());
        Ok(())
    }

    /// Waits until everything that is settled by now is recorded.
    pub async fn caught_up(&self) -> Result<(), EngineError> {
        loop {
            let written = self.shared.written.notified();
            let recorded = self.shared.store.recorded().await?;
            if self.shared.history.events(recorded, 1).await?.is_empty() {
                return Ok(());
            }
            self.shared.news.notify_one();
            written.await;
        }
    }

    /// Finishes what runs, or gives it back to its queue when the grace time is over; then
    /// closes the data folder.
    pub async fn shutdown(self) {
        let Parts { tasks, workers, crews, recorder, stop, stop_recorder, abort } = &*self.parts;
        stop.cancel();
        tasks.close();
        tasks.wait().await;
        workers.close();
        if tokio::time::timeout(self.shared.settings.grace, workers.wait()).await.is_err() {
            tracing::warn!("some steps did not finish in time; their messages return to their queues");
            abort.cancel();
            workers.wait().await;
        }
        crews.close();
        crews.wait().await;
        if self.shared.settings.gateway.is_some() {
            docker::last_sweep(&self.shared.docker).await;
        }
        recorder.close();
        stop_recorder.cancel();
        recorder.wait().await;
        self.shared.store.close().await;
        self.embedded.close().await;
    }
}

impl Parts {
    fn new() -> Self {
        Self {
            tasks: TaskTracker::new(),
            workers: TaskTracker::new(),
            crews: TaskTracker::new(),
            recorder: TaskTracker::new(),
            stop: CancellationToken::new(),
            stop_recorder: CancellationToken::new(),
            abort: CancellationToken::new(),
        }
    }
}

fn options(settings: &Settings) -> EmbeddedOptions {
    EmbeddedOptions { clock: Arc::clone(&settings.clock), ..EmbeddedOptions::default() }
}
