//! The worker: one loop runs every step of every kind. *lease → prepare → run → decide → settle*
//!
//! It never sleeps on a message, never drops one and never settles one twice: a lease ends in
//! one settlement, or its time ends and the message returns to its queue.

use std::{sync::Arc, time::Duration};

use flowline_model::{
    EventKind, Fault, FaultKind, QueueName, Runtime, Settlement, StepId, StepPlan, Timestamp, Verdict, decide,
    decide::Circumstances,
    expression::{ExpressionError, Limits},
};
use flowline_queue::{Lease, LeaseRequest, QueueError};
use flowline_sdk::{Operation, Remote};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Shared,
    attempt::{Attempted, attempt},
    gate::{Gate, Passage},
    meter::Meter,
    pace::Pace,
    places::{Place, Places},
    replies::Answered,
    settling::Settling,
};

/// How long a lease lasts unless it is renewed.
const LEASE: Duration = Duration::from_secs(60);
/// How often the lease of a long attempt is renewed.
const RENEWAL: Duration = Duration::from_secs(20);
/// How long a worker waits for a message before it looks around.
const WAIT: Duration = Duration::from_secs(60);
/// Bytes of messages that a worker leases at once.
const LEASED_BYTES: usize = 4 << 20;
/// How often a worker looks whether the queues behind it have room again.
const ROOM: Duration = Duration::from_millis(50);
/// How long a probe waits for a worker before it looks around.
const PROBE_WAIT: Duration = Duration::from_secs(1);
/// How often a settlement is tried again while the disk has no room.
const UNSETTLED: Duration = Duration::from_millis(500);

/// What runs one step.
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) plan: Arc<StepPlan>,
    pub(crate) version: u32,
    pub(crate) operation: Operation,
    pub(crate) gate: Arc<Gate>,
    pub(crate) meter: Meter,
    pub(crate) pace: Pace,
    pub(crate) settling: Settling,
    /// The way to the step's workers, if they run outside this process.
    pub(crate) remote: Option<Arc<dyn Remote>>,
}

/// How many messages a step works on at the same time. A poll is never two at a time.
fn places(plan: &StepPlan, remote: Option<&dyn Remote>) -> Places {
    let most = if plan.schedule.is_some() { 1 } else { usize::MAX };
    if let Some(remote) = remote {
        return Places::following(remote.room(), most);
    }
    let count = plan.workers.max.get().saturating_mul(plan.prefetch_in(Runtime::Task).get());
    Places::fixed(usize::try_from(count).unwrap_or(usize::MAX).min(most))
}

impl Worker {
    /// Works until it is told to stop; then finishes what it has, or gives it back.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken, abort: CancellationToken) {
        let places = places(&self.plan, self.remote.as_deref());
        let running = TaskTracker::new();
        while !stop.is_cancelled() {
            let leased = tokio::select! {
                () = stop.cancelled() => break,
                leased = self.next(&places) => leased,
            };
            for (lease, place) in leased {
                let worker = Arc::clone(&self);
                let abort = abort.clone();
                running.spawn(async move { worker.process(lease, place, abort).await });
            }
        }
        running.close();
        running.wait().await;
    }

    /// The next messages to work on, each with its place among those under way.
    async fn next(&self, places: &Places) -> Vec<(Lease, Place)> {
        let Some(first) = self.place(places).await else { return Vec::new() };
        // Attempts that are about to end give their places back first: one lease for all of them.
        tokio::task::yield_now().await;
        let single = self.gate.is_probing() || self.pace.is_limited();
        let mut taken = vec![first];
        while !single && taken.len() < LARGEST_LEASE {
            let Some(more) = places.try_take() else { break };
            taken.push(more);
        }
        let request = LeaseRequest { messages: taken.len(), bytes: LEASED_BYTES, duration: LEASE, wait: WAIT };
        tokio::select! {
            leased = self.shared.queue.lease(&self.plan.queue, request) => match leased {
                Ok(leases) => leases.into_iter().zip(taken).collect(),
                Err(error) => {
                    tracing::warn!(queue = %self.plan.queue, %error, "no message could be leased");
                    tokio::time::sleep(UNSETTLED).await;
                    Vec::new()
                }
            },
            () = self.gate.changed() => Vec::new(),
            // What nobody is there to take stays on its queue.
            () = places.crowded() => Vec::new(),
        }
    }

    /// Waits for a place; none means: look again.
    async fn place(&self, places: &Places) -> Option<Place> {
        if self.is_held_back() {
            tokio::time::sleep(ROOM).await;
            return None;
        }
        match self.gate.passage() {
            Passage::Free => {
                let place = places.take().await;
                self.pace.next().await;
                // The gate may have narrowed, and a queue have filled, while all places were taken.
                (self.gate.passage() == Passage::Free && !self.is_held_back()).then_some(place)
            }
            Passage::Probe if places.are_empty() => {
                let place = tokio::time::timeout(PROBE_WAIT, places.take()).await.ok()?;
                (self.gate.passage() == Passage::Probe).then_some(place)
            }
            Passage::Probe => {
                tokio::time::sleep(ROOM).await;
                None
            }
            Passage::Wait(until) => {
                tokio::select! {
                    () = tokio::time::sleep_until(until) => {}
                    () = self.gate.changed() => {}
                }
                None
            }
            Passage::Closed => {
                self.gate.changed().await;
                None
            }
        }
    }

    /// Whether a queue behind it is full.
    fn is_held_back(&self) -> bool {
        let queue = |step: &StepId| QueueName::new(self.plan.queue.flow.clone(), step.clone());
        self.plan.routes.iter().any(|route| self.shared.queue.is_full(&queue(&route.to)))
    }

    /// Brings one lease to its end.
    async fn process(&self, lease: Lease, place: Place, abort: CancellationToken) {
        let work = self.work(&lease, place);
        tokio::pin!(work);
        loop {
            tokio::select! {
                () = &mut work => return,
                () = tokio::time::sleep(RENEWAL) => {
                    if let Err(error) = self.shared.queue.renew(&lease, LEASE).await {
                        tracing::warn!(queue = %self.plan.queue, %error, "a lease could not be renewed");
                    }
                }
                () = abort.cancelled() => break,
            }
        }
        let released =
            Settlement { verdict: Verdict::Release, emits: Vec::new(), state: Vec::new(), events: Vec::new() };
        // If this fails the lease ends with the process, which is the same.
        let _ = self.shared.queue.settle(&lease, released).await;
    }

    /// Attempts, decides and settles; a poll in as many rounds as it takes.
    async fn work(&self, lease: &Lease, place: Place) {
        let mut place = Some(place);
        loop {
            let started_at = self.shared.now();
            self.meter.received.increment(1);
            let step = self.step(lease).await;
            if let Some(turn) = step.as_ref().ok().and_then(|(step, _)| decide::take_turn(&lease.delivery, step)) {
                self.settle(lease, turn).await;
                return;
            }
            let attempted = match &step {
                Ok((step, operation)) => attempt(&self.shared, step, operation, self.remote_for(step), lease).await,
                Err(fault) => Attempted::failed(fault.clone()),
            };
            let step = step.as_ref().map_or(&self.plan, |(step, _)| step);
            if !self.conclude(lease, step, attempted, started_at, &mut place).await {
                return;
            }
        }
    }

    /// The step as the message's version of the flow has it, and the operation it uses there.
    async fn step(&self, lease: &Lease) -> Result<(Arc<StepPlan>, Operation), Fault> {
        let version = lease.delivery.message.version;
        // A tick is of no version: the trigger is what it is now.
        if version == self.version || self.plan.schedule.is_some() {
            return Ok((Arc::clone(&self.plan), self.operation.clone()));
        }
        let queue = &self.plan.queue;
        let step = self.shared.flows.step(&self.shared.store, &queue.flow, version, &queue.step).await?;
        let operation = self.shared.catalog.get(&step.operation).cloned().ok_or_else(|| {
            Fault::misconfigured("no_operation", format!("there is no operation `{}`", step.operation))
        })?;
        Ok((step, operation))
    }

    /// The way to the workers, if they do what the step does in the message's version of the flow.
    fn remote_for(&self, step: &StepPlan) -> Option<&dyn Remote> {
        self.remote.as_deref().filter(|_| step.operation == self.plan.operation)
    }

    /// Settles what came of an attempt; true if the delivery goes on.
    async fn conclude(
        &self,
        lease: &Lease,
        step: &Arc<StepPlan>,
        attempted: Attempted,
        started_at: Timestamp,
        place: &mut Option<Place>,
    ) -> bool {
        let Attempted { outcome, reply, emitted_before, beat, aside } = attempted;
        let outcome = outcome.map_err(|fault| self.scrubbed(fault));
        let fault = outcome.as_ref().err().cloned();
        let now = self.shared.now();
        let circumstances = Circumstances {
            started_at,
            now,
            jitter: rand::random(),
            emitted_before,
            vars: &self.shared.vars,
            limits: Limits::BRIEF,
        };
        let again = step.routes_by_expression().then(|| outcome.clone());
        let mut settlement = match decide(&lease.delivery, outcome, step, &circumstances) {
            Ok(settlement) => settlement,
            Err(timeout) => {
                let outcome = again.unwrap_or_else(|| Err(Fault::retry("expression", timeout.to_string())));
                self.decide_slowly(lease, outcome, step, &circumstances, timeout).await
            }
        };
        settlement.state.extend(aside);
        if matches!(settlement.verdict, Verdict::Done | Verdict::DeadLetter { .. }) {
            settlement.emits.extend(beat.next);
            settlement.state.extend(beat.state);
        }
        self.meter.took(now.since(started_at));
        self.count(&settlement);
        let verdict = settlement.verdict.clone();
        let has_events = !settlement.events.is_empty();
        let mut _room = None;
        if place.is_some() && self.may_overlap(&settlement) {
            _room = self.settling.room_for(lease.bytes).await;
            drop(place.take());
        }
        if !self.settle(lease, settlement).await {
            return false;
        }
        if has_events {
            self.shared.news.notify_one();
        }
        if lease.delivery.message.version != self.version {
            // What an earlier version emits may need a worker that nothing else needs.
            self.shared.changed.notify_one();
        }
        self.tell(lease, fault, reply, &verdict).await;
        verdict == Verdict::Continue
    }

    /// Whether the next message may be attempted before this settlement is durable. A fault may
    /// close the gate, what a step remembers is there for the next message, and a queue that is
    /// nearly full soon holds back its upstream.
    fn may_overlap(&self, settlement: &Settlement) -> bool {
        settlement.verdict == Verdict::Done
            && settlement.state.is_empty()
            && !self.gate.is_probing()
            && !settlement.emits.iter().any(|emit| self.shared.queue.is_nearly_full(&emit.queue))
    }

    fn scrubbed(&self, fault: Fault) -> Fault {
        Fault { message: self.shared.settings.secrets.scrub(fault.message), ..fault }
    }

    /// Decides again, with time, where it may block.
    async fn decide_slowly(
        &self,
        lease: &Lease,
        outcome: Result<decide::Outcome, Fault>,
        step: &Arc<StepPlan>,
        circumstances: &Circumstances<'_>,
        timeout: ExpressionError,
    ) -> Settlement {
        let (delivery, step) = (lease.delivery.clone(), Arc::clone(step));
        let shared = Arc::clone(&self.shared);
        let Circumstances { started_at, now, jitter, emitted_before, .. } = *circumstances;
        let decided = tokio::task::spawn_blocking(move || {
            let vars = &shared.vars;
            let full = Circumstances { started_at, now, jitter, emitted_before, vars, limits: Limits::FULL };
            decide(&delivery, outcome, &step, &full).or_else(|error| {
                let fault = Fault::reject("expression", format!("on the way to the next steps: {error}"));
                decide(&delivery, Err(fault), &step, &full)
            })
        });
        match decided.await {
            Ok(Ok(settlement)) => settlement,
            _ => {
                let fault = Fault::retry("expression", timeout.to_string());
                decide(&lease.delivery, Err(fault), &self.plan, circumstances).unwrap_or(Settlement {
                    verdict: Verdict::Release,
                    emits: Vec::new(),
                    state: Vec::new(),
                    events: Vec::new(),
                })
            }
        }
    }

    fn count(&self, settlement: &Settlement) {
        self.meter.emitted.increment(settlement.emits.len() as u64);
        let kinds = |kind| settlement.events.iter().filter(|event| event.kind == kind).count() as u64;
        self.meter.failed.increment(kinds(EventKind::DeadLettered));
        self.meter.retried.increment(kinds(EventKind::Retried));
    }

    /// Makes a settlement durable, however long the disk has no room; false if the lease ended.
    async fn settle(&self, lease: &Lease, settlement: Settlement) -> bool {
        let mut troubled = false;
        loop {
            match self.shared.queue.settle(lease, settlement.clone()).await {
                Ok(()) => return true,
                Err(QueueError::Disk(error)) => {
                    if !troubled {
                        tracing::error!(queue = %self.plan.queue, %error, "waiting for the disk");
                    }
                    troubled = true;
                    tokio::time::sleep(UNSETTLED).await;
                }
                Err(QueueError::LeaseEnded(_)) => {
                    tracing::warn!(queue = %self.plan.queue, message = %lease.delivery.message.id, "the lease ended before its settlement; the message is delivered again");
                    return false;
                }
                Err(error) => {
                    tracing::error!(queue = %self.plan.queue, %error, "a settlement failed; the message is delivered again");
                    return false;
                }
            }
        }
    }

    /// Tells everybody who wants to know how it ended.
    async fn tell(&self, lease: &Lease, fault: Option<Fault>, reply: Option<flowline_model::Reply>, verdict: &Verdict) {
        let execution = lease.delivery.message.execution;
        if let Some(reply) = reply.filter(|_| fault.is_none()) {
            self.shared.replies.answer(execution, Answered::Reply(reply));
        }
        match fault {
            None => self.gate.reached(),
            Some(fault) => {
                if matches!(verdict, Verdict::DeadLetter { .. }) {
                    self.failed(lease, &fault);
                }
                self.consider(fault).await;
            }
        }
    }

    fn failed(&self, lease: &Lease, fault: &Fault) {
        let message = lease.delivery.message.id;
        tracing::warn!(queue = %self.plan.queue, %message, code = fault.code, "dead letter: {fault}");
        let execution = lease.delivery.message.execution;
        if self.shared.replies.awaited(execution) {
            self.shared.replies.answer(execution, Answered::Failed { message, fault: fault.clone() });
        }
    }

    /// What a fault means for the step as a whole.
    async fn consider(&self, fault: Fault) {
        let queue = &self.plan.queue;
        match fault.kind {
            FaultKind::Unauthorized | FaultKind::Misconfigured => {
                if !self.gate.is_step_paused() {
                    tracing::error!(%queue, code = fault.code, "the step pauses itself: {fault}");
                    if let Err(error) = self.shared.store.pause_step(&queue.flow, &queue.step, Some(&fault)).await {
                        tracing::warn!(%queue, %error, "that the step is paused could not be stored");
                    }
                    self.gate.pause(Some(fault));
                }
            }
            FaultKind::Retry if fault.outage => {
                if self.gate.missed() {
                    tracing::warn!(%queue, code = fault.code, "the target is out of reach, probing: {fault}");
                }
            }
            // The target answered, even if it did not like the message.
            FaultKind::Retry | FaultKind::Reject => self.gate.reached(),
        }
    }
}

/// The most messages leased at once.
const LARGEST_LEASE: usize = 256;
