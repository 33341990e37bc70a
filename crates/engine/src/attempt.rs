//! One attempt: the operation's code, within its time limit, whatever it does.

mod remote;

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use flowline_model::{Delivery, Fault, Reply, StateWrite, StepPlan, decide::Outcome};
use flowline_queue::Lease;
use flowline_sdk::{Context, Operation, Place, Remote, Run};
use futures::FutureExt;
use serde_json::Value;

use crate::{
    Shared,
    host::EngineHost,
    prepare::{self, Prepared},
    tick::{self, Beat, SNAPSHOT},
};

/// Attempts after which a message that never failed in an orderly way is set aside: it must have
/// ended its worker's process each time.
const DEADLY_ATTEMPTS: u32 = 10;

/// What came of one attempt.
pub(crate) struct Attempted {
    pub(crate) outcome: Result<Outcome, Fault>,
    pub(crate) reply: Option<Reply>,
    /// Messages that earlier rounds of this delivery emitted.
    pub(crate) emitted_before: u64,
    /// For a tick: what its schedule goes on with.
    pub(crate) beat: Beat,
    /// What the step remembers, whatever became of the message.
    pub(crate) aside: Vec<StateWrite>,
}

impl Attempted {
    pub(crate) fn failed(fault: Fault) -> Self {
        Self::new(Err(fault))
    }

    fn new(outcome: Result<Outcome, Fault>) -> Self {
        Self { outcome, reply: None, emitted_before: 0, beat: Beat::default(), aside: Vec::new() }
    }
}

/// Runs an operation on a delivery: on a worker outside this process if there is a way to one.
pub(crate) async fn attempt(
    shared: &Arc<Shared>,
    step: &Arc<StepPlan>,
    operation: &Operation,
    remote: Option<&dyn Remote>,
    lease: &Lease,
) -> Attempted {
    let delivery = &lease.delivery;
    if delivery.attempt > DEADLY_ATTEMPTS && delivery.first_failed_at.is_none() {
        let message = format!("the process ended {} times while it worked on this message", delivery.attempt - 1);
        return Attempted::new(Err(Fault::reject("deadly", message)));
    }
    if let Some(remote) = remote {
        return remote::attempt(shared, step, remote, delivery).await;
    }
    match &operation.run {
        Run::Polling(_) => poll(shared, step, operation, delivery).await,
        Run::Action(_) => act(shared, step, operation, delivery).await,
        Run::Webhook(_) => {
            let message = format!("`{}` waits for requests; it takes no messages", step.operation);
            Attempted::new(Err(Fault::reject("no_action", message)))
        }
        Run::Image(_) | Run::Process => {
            let message = format!(
                "the message belongs to version {} of the flow, where the step used `{}`, which has no workers any \
                 more; replay it to go on with the newest version",
                delivery.message.version, step.operation
            );
            Attempted::new(Err(Fault::reject("earlier_operation", message)))
        }
    }
}

fn context(shared: &Arc<Shared>, step: &StepPlan, delivery: &Delivery) -> Context {
    let place = Place {
        flow: step.queue.flow.clone(),
        version: delivery.message.version,
        step: step.queue.step.clone(),
        execution: delivery.message.execution,
        message: delivery.message.id,
        attempt: delivery.attempt,
    };
    Context::new(place, Arc::new(EngineHost { shared: Arc::clone(shared) }))
}

/// Runs code of an operation so that a panic or a hang is a fault and nothing more.
async fn guarded<T>(limit: Duration, code: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    match tokio::time::timeout(limit, AssertUnwindSafe(code).catch_unwind()).await {
        Ok(Ok(result)) => result,
        Ok(Err(panic)) => Err(panicked(&*panic)),
        Err(_) => Err(Fault::retry("timeout", format!("the attempt took longer than {limit:?}"))),
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> Fault {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message");
    Fault::retry("panic", format!("the step's code panicked: {text}"))
}

async fn act(shared: &Arc<Shared>, step: &Arc<StepPlan>, operation: &Operation, delivery: &Delivery) -> Attempted {
    let Run::Action(action) = &operation.run else { return Attempted::new(Ok(Outcome::default())) };
    let config = match prepare::input(shared, step, &delivery.message).await {
        Ok(Prepared::Run(config)) => config,
        Ok(Prepared::Filtered) => return Attempted::new(Ok(Outcome::default())),
        Err(fault) => return Attempted::new(Err(fault)),
    };
    let context = context(shared, step, delivery);
    let emits = guarded(step.timeout, action.run(&context, config, delivery.message.clone())).await;
    let effects = context.take_effects();
    let writes = state_writes(step, effects.state);
    Attempted {
        reply: effects.reply,
        ..Attempted::new(emits.map(|emits| Outcome { emits, state: writes, more: false }))
    }
}

fn state_writes(step: &StepPlan, state: Vec<(String, Option<Value>)>) -> Vec<StateWrite> {
    state.into_iter().map(|(key, value)| StateWrite { queue: step.queue.clone(), key, value }).collect()
}

async fn poll(shared: &Arc<Shared>, step: &Arc<StepPlan>, operation: &Operation, delivery: &Delivery) -> Attempted {
    let beat = match tick::beat(shared, &step.queue, &delivery.message).await {
        Ok(beat) if beat.run => beat,
        Ok(beat) => return Attempted { beat, ..Attempted::new(Ok(Outcome::default())) },
        Err(fault) => return Attempted::new(Err(fault)),
    };
    match round(shared, step, operation, delivery).await {
        Ok((outcome, emitted_before)) => Attempted { emitted_before, beat, ..Attempted::new(Ok(outcome)) },
        Err(fault) => Attempted { beat, ..Attempted::new(Err(fault)) },
    }
}

/// One round of a poll: what is new since the snapshot, or the first part of it.
async fn round(
    shared: &Arc<Shared>,
    step: &Arc<StepPlan>,
    operation: &Operation,
    delivery: &Delivery,
) -> Result<(Outcome, u64), Fault> {
    let Run::Polling(trigger) = &operation.run else { return Ok((Outcome::default(), 0)) };
    let Prepared::Run(config) = prepare::input(shared, step, &delivery.message).await? else {
        return Ok((Outcome::default(), 0));
    };
    let context = context(shared, step, delivery);
    let since = context.state(SNAPSHOT).await?;
    let emitted = tick::emitted_before(context.state(tick::EMITTED).await?, delivery.message.id);
    let polled = guarded(step.timeout, trigger.poll(&context, config, since)).await?;
    let mut state = state_writes(step, context.take_effects().state);
    state.extend(state_writes(step, vec![(SNAPSHOT.to_owned(), Some(polled.snapshot))]));
    if polled.more || emitted > 0 {
        let count = emitted + polled.emits.len() as u64;
        state.push(tick::remember_emitted(&step.queue, delivery.message.id, count, polled.more));
    }
    Ok((Outcome { emits: polled.emits, state, more: polled.more }, emitted))
}
