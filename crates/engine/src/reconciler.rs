//! The reconciler: makes what runs equal to what should run. Nothing else starts a worker.
//!
//! What should run follows from the flows and from what waits on the queues: every step of an
//! active flow, and every step of an earlier version or a retired flow that messages still wait
//! for. It looks when it is told that something changed, and every few seconds anyway.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use flowline_model::{Fault, OperationKind, Plan, QueueName};
use flowline_queue::QueueDepth;
use tokio_util::sync::CancellationToken;

use crate::{
    EngineError, Shared,
    flows::RunningFlow,
    staff::{Staff, Wanted},
};

/// How often it looks without being told to.
const LOOK: Duration = Duration::from_secs(5);

/// Makes what runs equal to what should run.
pub(crate) struct Reconciler {
    pub(crate) shared: Arc<Shared>,
    pub(crate) staff: Staff,
}

impl Reconciler {
    /// Reconciles until it is stopped; then stops every worker.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            match self.wanted().await {
                Ok(wanted) => self.staff.arrange(wanted),
                Err(error) => tracing::warn!(%error, "what should run could not be found out; trying again"),
            }
            tokio::select! {
                () = self.shared.changed.notified() => {}
                () = tokio::time::sleep(LOOK) => {}
                () = stop.cancelled() => break,
            }
        }
        self.staff.retire_all();
    }

    /// Every worker that should run.
    async fn wanted(&self) -> Result<BTreeMap<QueueName, Wanted>, EngineError> {
        let depths = self.shared.queue.depths().await?;
        let waiting = depths.into_iter().filter(|depth| depth.ready + depth.leased + depth.delayed > 0);
        let mut waiting: BTreeMap<QueueName, QueueDepth> = waiting.map(|depth| (depth.queue.clone(), depth)).collect();
        let mut wanted = BTreeMap::new();
        for flow in self.shared.flows.all() {
            let trigger = flow.plan.trigger();
            // The next tick of a flow that is gone is no work, and ends its schedule when it is due.
            let tick = trigger.schedule.as_ref().and_then(|_| waiting.remove(&trigger.queue));
            let has_waiting = waiting.keys().any(|queue| queue.flow == flow.plan.flow);
            let is_due = tick.is_some_and(|tick| tick.ready + tick.leased > 0);
            for (queue, worker) in workers_of(&flow) {
                if flow.state.active || has_waiting || is_due && queue == trigger.queue {
                    waiting.remove(&queue);
                    wanted.insert(queue, worker);
                }
            }
        }
        for queue in waiting.into_keys() {
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
