//! A crew: the workers of one step outside this process, and the task that keeps them.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use flowline_model::{Fault, Runtime, StepPlan};
use flowline_sdk::{Operation, Remote};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Workplace, open, tend::Tender};
use crate::Shared;

/// The workers of one step.
pub(crate) struct Crew {
    pub(super) shared: Arc<Shared>,
    /// The step as its newest version has it.
    plan: Mutex<Arc<StepPlan>>,
    pub(super) runtime: Runtime,
    pub(super) place: Arc<dyn Workplace>,
    /// Later crews have higher numbers.
    pub(super) number: u64,
    /// Whether somebody takes messages, or nobody needs to.
    pub(super) ready: AtomicBool,
    identity: String,
    stop: CancellationToken,
    stopped: CancellationToken,
}

impl Crew {
    /// What tells the workers of one plan from those of another: with the same they can stay.
    pub(crate) fn identity(
        shared: &Shared,
        plan: &StepPlan,
        version: u32,
        operation: &Operation,
    ) -> Result<String, Fault> {
        open::identity(shared, plan, version, operation)
    }

    /// Opens the step for workers, and keeps as many as it should have until it is dismissed.
    pub(crate) fn hire(
        shared: &Arc<Shared>,
        plan: &Arc<StepPlan>,
        version: u32,
        operation: &Operation,
        tasks: &TaskTracker,
    ) -> Result<Arc<Self>, Fault> {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        let crew = Arc::new(Self {
            place: open::workplace(shared, plan, version, operation)?,
            identity: open::identity(shared, plan, version, operation)?,
            shared: Arc::clone(shared),
            runtime: shared.runtime_of(plan),
            plan: Mutex::new(Arc::clone(plan)),
            number: NUMBER.fetch_add(1, Ordering::Relaxed),
            ready: AtomicBool::new(false),
            stop: CancellationToken::new(),
            stopped: CancellationToken::new(),
        });
        let (tended, stop, stopped) = (Arc::clone(&crew), crew.stop.clone(), crew.stopped.clone());
        tasks.spawn(async move {
            let queue = tended.plan().queue.clone();
            let (shared, number) = (Arc::clone(&tended.shared), tended.number);
            Tender::new(tended).run(stop).await;
            shared.workforces.remove(&queue, number);
            stopped.cancel();
        });
        Ok(crew)
    }

    /// The step as its newest version has it.
    pub(super) fn plan(&self) -> Arc<StepPlan> {
        Arc::clone(&self.plan.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Follows another version that these workers do for: what changes is how many there are.
    pub(crate) fn follow(&self, plan: &Arc<StepPlan>) {
        *self.plan.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(plan);
    }

    /// The way to the workers.
    pub(crate) fn remote(&self) -> Arc<dyn Remote> {
        self.place.remote()
    }

    /// Whether these workers are what a plan needs.
    pub(crate) fn is(&self, identity: &str) -> bool {
        self.identity == identity
    }

    /// Whether messages can be given to it: somebody takes them, or nobody needs to yet.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// Lets every worker finish what it has, within its grace.
    pub(crate) fn dismiss(&self) {
        self.stop.cancel();
    }

    /// Lets the component undo what it did when the step began; the workers are gone for good.
    pub(crate) async fn shut_down(&self, not_waited_for: &CancellationToken) {
        self.place.shut_down(not_waited_for).await;
    }

    /// Waits until the last worker of a crew that was dismissed has gone.
    pub(crate) async fn gone(&self) {
        self.stopped.cancelled().await;
    }
}
