//! The staff: the loop of every step that should run and, where a step's workers are outside this
//! process, its crew; and how the one of a new version takes over from that of the old.
//!
//! No message is lost on the way, and none waits for longer than it must: the old ones go on
//! until the new ones take messages, and finish what they have.

use std::{collections::BTreeMap, sync::Arc};

use flowline_model::{Fault, Plan, QueueName, Runtime, StepPlan};
use flowline_sdk::Operation;
use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Shared, WorkerTrouble, WorkersStatus, meter::Meter, pace::Pace, runtime::Crew, settling::Settling, worker::Worker,
};

/// The worker of a step that should run.
pub(crate) struct Wanted {
    pub(crate) version: u32,
    pub(crate) plan: Arc<Plan>,
}

/// Who runs.
pub(crate) struct Staff {
    shared: Arc<Shared>,
    /// The loops.
    workers: TaskTracker,
    /// The crews, and what waits to dismiss one.
    crews: TaskTracker,
    /// Told to loops that do not finish in time.
    abort: CancellationToken,
    running: BTreeMap<QueueName, Running>,
    /// The steps that are not wanted any more, until the last of them is gone.
    leaving: BTreeMap<QueueName, JoinHandle<()>>,
    /// Told when nobody waits for components that undo what they did.
    ends: CancellationToken,
    /// Why a step's workers cannot even be tried.
    refused: BTreeMap<QueueName, String>,
}

struct Running {
    version: u32,
    operation: String,
    stop: CancellationToken,
    task: JoinHandle<()>,
    crew: Option<Arc<Crew>>,
    /// The crew that takes over once it takes messages.
    next: Option<Arc<Crew>>,
}

/// What a step needs to run.
struct Job {
    version: u32,
    plan: Arc<StepPlan>,
    operation: Operation,
}

impl Staff {
    pub(crate) fn new(shared: Arc<Shared>, workers: TaskTracker, crews: TaskTracker, abort: CancellationToken) -> Self {
        Self {
            shared,
            workers,
            crews,
            abort,
            running: BTreeMap::new(),
            leaving: BTreeMap::new(),
            ends: CancellationToken::new(),
            refused: BTreeMap::new(),
        }
    }

    /// Makes those who run equal to those who should.
    pub(crate) fn arrange(&mut self, wanted: BTreeMap<QueueName, Wanted>) {
        let gone: Vec<QueueName> = self.running.keys().filter(|queue| !wanted.contains_key(queue)).cloned().collect();
        gone.iter().for_each(|queue| self.let_go(queue));
        self.refused.retain(|queue, _| wanted.contains_key(queue));
        self.leaving.retain(|_, leaving| !leaving.is_finished());
        for (queue, wanted) in wanted {
            // One that comes back waits: what it did when it began is being undone.
            if self.leaving.contains_key(&queue) {
                continue;
            }
            let done = self.running.get(&queue).is_some_and(|running| running.version == wanted.version);
            if let Some(job) = self.job(&queue, &wanted).filter(|_| !done) {
                self.employ(&queue, job);
            }
        }
    }

    /// Lets everybody finish.
    pub(crate) fn retire_all(&mut self) {
        self.ends.cancel();
        for old in std::mem::take(&mut self.running).into_values() {
            self.finish(old);
        }
    }

    fn job(&self, queue: &QueueName, wanted: &Wanted) -> Option<Job> {
        let plan = wanted.plan.steps.get(&queue.step).cloned()?;
        let operation = self.shared.catalog.get(&plan.operation).cloned()?;
        Some(Job { version: wanted.version, plan, operation })
    }

    /// Begins to run a step, or to run it as another version has it.
    fn employ(&mut self, queue: &QueueName, job: Job) {
        let crew = match self.crew(queue, &job) {
            Ok(crew) => crew,
            Err(fault) => return self.refuse(queue, fault),
        };
        self.accept(queue);
        if let (Some(crew), Some(running)) = (&crew, self.running.get_mut(queue)) {
            let is_another = running.crew.as_ref().is_none_or(|old| !Arc::ptr_eq(old, crew));
            // Those of another operation cannot do the new one's work: messages wait for the new.
            let can_go_on = running.operation == job.plan.operation;
            if is_another && can_go_on && !crew.is_ready() {
                running.next = Some(Arc::clone(crew));
                return;
            }
        }
        self.take_over(queue, job, crew);
    }

    /// The crew that a step needs: one that is there already, or a new one. None runs in process.
    fn crew(&mut self, queue: &QueueName, job: &Job) -> Result<Option<Arc<Crew>>, Fault> {
        let next = self.running.get_mut(queue).and_then(|running| running.next.take());
        if self.shared.runtime_of(&job.plan) == Runtime::Task {
            next.iter().for_each(|crew| crew.dismiss());
            return Ok(None);
        }
        let identity = Crew::identity(&self.shared, &job.plan, job.version, &job.operation);
        let identity = identity.inspect_err(|_| next.iter().for_each(|crew| crew.dismiss()))?;
        let current = self.running.get(queue).and_then(|running| running.crew.clone());
        if let Some(found) = current.filter(|crew| crew.is(&identity)) {
            next.iter().for_each(|crew| crew.dismiss());
            found.follow(&job.plan);
            return Ok(Some(found));
        }
        match next {
            Some(found) if found.is(&identity) => {
                found.follow(&job.plan);
                return Ok(Some(found));
            }
            other => other.iter().for_each(|crew| crew.dismiss()),
        }
        Crew::hire(&self.shared, &job.plan, job.version, &job.operation, &self.crews).map(Some)
    }

    /// The loop of another version takes over; the workers of the old one finish what they have.
    fn take_over(&mut self, queue: &QueueName, job: Job, crew: Option<Arc<Crew>>) {
        let old = self.running.remove(queue);
        let stop = CancellationToken::new();
        let operation = job.plan.operation.clone();
        let worker = Worker {
            gate: self.shared.gate(queue),
            meter: Meter::new(queue),
            pace: Pace::new(job.plan.rate),
            settling: Settling::new(),
            shared: Arc::clone(&self.shared),
            version: job.version,
            remote: crew.as_ref().map(|crew| crew.remote()),
            operation: job.operation,
            plan: job.plan,
        };
        if let Some(mut old) = old {
            let stays = |old: &Arc<Crew>| crew.as_ref().is_some_and(|crew| Arc::ptr_eq(old, crew));
            old.crew = old.crew.filter(|old| !stays(old));
            self.finish(old);
        }
        let task = self.workers.spawn(Arc::new(worker).run(stop.clone(), self.abort.clone()));
        let running = Running { version: job.version, operation, stop, task, crew, next: None };
        self.running.insert(queue.clone(), running);
    }

    /// A step is not wanted any more.
    fn let_go(&mut self, queue: &QueueName) {
        let Some(old) = self.running.remove(queue) else { return };
        if let Some(crew) = old.crew.clone() {
            let (ends, shared) = (self.ends.clone(), Arc::clone(&self.shared));
            let leaving = self.crews.spawn(async move {
                crew.gone().await;
                crew.shut_down(&ends).await;
                shared.changed.notify_one();
            });
            self.leaving.insert(queue.clone(), leaving);
        }
        self.finish(old);
    }

    /// Takes no more messages, finishes those under way, and then lets the workers go.
    fn finish(&self, old: Running) {
        old.stop.cancel();
        old.next.iter().for_each(|crew| crew.dismiss());
        if let Some(crew) = old.crew {
            self.crews.spawn(async move {
                // It ends in any case: in time, or aborted.
                let _ = old.task.await;
                crew.dismiss();
                crew.gone().await;
            });
        }
    }

    /// A step that cannot run waits, and says why; told in the log once.
    fn refuse(&mut self, queue: &QueueName, fault: Fault) {
        let message = self.shared.settings.secrets.scrub(fault.message);
        if self.refused.get(queue) != Some(&message) {
            tracing::error!(%queue, code = fault.code, "the step's workers cannot be started: {message}");
        }
        let trouble = WorkerTrouble { message: message.clone(), at: self.shared.now(), failures: 1, next_start: None };
        let status = WorkersStatus { trouble: Some(trouble), wanted: 1, ..WorkersStatus::default() };
        self.shared.workforces.put(queue, 0, status);
        self.refused.insert(queue.clone(), message);
    }

    fn accept(&mut self, queue: &QueueName) {
        if self.refused.remove(queue).is_some() {
            self.shared.workforces.remove(queue, 0);
        }
    }
}
