//! The reconciler: makes what runs equal to what should run. Nothing else starts a worker.
//!
//! What should run follows from the flows and from what waits on the queues: every step of an
//! active flow, and every step of an earlier version or a retired flow that messages still wait
//! for. It looks when it is told that something changed, and every few seconds anyway.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use flowline_model::{Fault, OperationKind, Plan, QueueName};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{EngineError, Shared, flows::RunningFlow, meter::Meter, pace::Pace, settling::Settling, worker::Worker};

/// How often it looks without being told to.
const LOOK: Duration = Duration::from_secs(5);

/// Makes what runs equal to what should run.
pub(crate) struct Reconciler {
    pub(crate) shared: Arc<Shared>,
    pub(crate) workers: TaskTracker,
    /// Told to workers that do not finish in time.
    pub(crate) abort: CancellationToken,
    running: BTreeMap<QueueName, Running>,
}

struct Running {
    version: u32,
    stop: CancellationToken,
}

/// The worker of a step that should run.
struct Wanted {
    version: u32,
    plan: Arc<Plan>,
}

impl Reconciler {
    pub(crate) fn new(shared: Arc<Shared>, workers: TaskTracker, abort: CancellationToken) -> Self {
        Self { shared, workers, abort, running: BTreeMap::new() }
    }

    /// Reconciles until it is stopped; then stops every worker.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            if let Err(error) = self.reconcile().await {
                tracing::warn!(%error, "what should run could not be found out; trying again");
            }
            tokio::select! {
                () = self.shared.changed.notified() => {}
                () = tokio::time::sleep(LOOK) => {}
                () = stop.cancelled() => break,
            }
        }
        for running in self.running.values() {
            running.stop.cancel();
        }
    }

    async fn reconcile(&mut self) -> Result<(), EngineError> {
        let wanted = self.wanted().await?;
        self.running.retain(|queue, running| {
            let same = wanted.get(queue).is_some_and(|wanted| wanted.version == running.version);
            if !same {
                running.stop.cancel();
            }
            same
        });
        for (queue, wanted) in wanted {
            if !self.running.contains_key(&queue) {
                self.start(queue, &wanted);
            }
        }
        Ok(())
    }

    /// Every worker that should run.
    async fn wanted(&self) -> Result<BTreeMap<QueueName, Wanted>, EngineError> {
        let depths = self.shared.queue.depths().await?;
        let waiting = depths.into_iter().filter(|depth| depth.ready + depth.leased + depth.delayed > 0);
        let mut waiting: BTreeSet<QueueName> = waiting.map(|depth| depth.queue).collect();
        let mut wanted = BTreeMap::new();
        for flow in self.shared.flows.all() {
            let has_waiting = waiting.iter().any(|queue| queue.flow == flow.plan.flow);
            if flow.state.active || has_waiting {
                for (queue, worker) in workers_of(&flow) {
                    waiting.remove(&queue);
                    wanted.insert(queue, worker);
                }
            }
        }
        for queue in waiting {
            if let Some(worker) = self.left_behind(&queue).await? {
                wanted.insert(queue, worker);
            }
        }
        Ok(wanted)
    }

    /// A worker for messages of a step that the current version does not have: they are finished
    /// on the version they belong to. If none is stored they become dead letters; never less.
    async fn left_behind(&self, queue: &QueueName) -> Result<Option<Wanted>, EngineError> {
        let Some(flow) = self.shared.flows.get(&queue.flow) else {
            self.bury(queue).await?;
            return Ok(None);
        };
        for version in (1..flow.version).rev() {
            if let Ok(plan) = self.shared.flows.plan(&self.shared.store, &queue.flow, version).await
                && plan.steps.get(&queue.step).is_some_and(|step| step.kind != OperationKind::Webhook)
            {
                return Ok(Some(Wanted { version, plan }));
            }
        }
        self.bury(queue).await?;
        Ok(None)
    }

    async fn bury(&self, queue: &QueueName) -> Result<(), EngineError> {
        if self.shared.is_broken(&queue.flow) {
            return Ok(());
        }
        let fault = Fault::reject("step_gone", format!("no version of the flow `{}` has this step", queue.flow));
        let count = self.shared.queue.dead_letter_all(queue, fault).await?;
        if count > 0 {
            tracing::warn!(%queue, count, "the step is gone; what waited for it lies in the dead letters");
            self.shared.news.notify_one();
        }
        Ok(())
    }

    fn start(&mut self, queue: QueueName, wanted: &Wanted) {
        let Some(plan) = wanted.plan.steps.get(&queue.step).cloned() else { return };
        let Some(operation) = self.shared.catalog.get(&plan.operation).cloned() else { return };
        let stop = CancellationToken::new();
        let worker = Worker {
            gate: self.shared.gate(&queue),
            meter: Meter::new(&queue),
            pace: Pace::new(plan.rate),
            settling: Settling::new(),
            shared: Arc::clone(&self.shared),
            version: wanted.version,
            operation,
            plan,
        };
        self.workers.spawn(Arc::new(worker).run(stop.clone(), self.abort.clone()));
        self.running.insert(queue, Running { version: wanted.version, stop });
    }
}

/// The workers of a flow: one for each step that takes messages.
fn workers_of(flow: &RunningFlow) -> Vec<(QueueName, Wanted)> {
    let steps = flow.plan.steps.values().filter(|step| step.kind != OperationKind::Webhook);
    let wanted = |step: &Arc<flowline_model::StepPlan>| {
        (step.queue.clone(), Wanted { version: flow.version, plan: Arc::clone(&flow.plan) })
    };
    steps.map(wanted).collect()
}

/// The queues that a flow needs.
pub(crate) fn queues(plan: &Plan) -> impl Iterator<Item = (QueueName, flowline_model::flow::QueueLimit)> + '_ {
    plan.steps.values().map(|step| (step.queue.clone(), step.limit))
}
