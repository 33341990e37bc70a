//! An attempt whose code runs outside this process: in a container or in a child process.
//!
//! How long it may take is watched where the worker is reached; here only a bug is kept from
//! taking the loop along.

use std::{panic::AssertUnwindSafe, sync::Arc};

use flowline_model::{Delivery, Fault, FaultKind, OperationKind, StateWrite, StepPlan, decide::Outcome};
use flowline_sdk::{Effects, Remote};
use futures::FutureExt;
use serde_json::json;

use super::{Attempted, context, panicked, state_writes};
use crate::{
    Shared,
    losses::{Losses, is_loss},
    prepare::{self, Prepared},
    tick,
};

/// Runs a delivery on one of the step's workers.
pub(super) async fn attempt(
    shared: &Arc<Shared>,
    step: &Arc<StepPlan>,
    remote: &dyn Remote,
    delivery: &Delivery,
) -> Attempted {
    if step.kind != OperationKind::Polling {
        return counted(shared, step, remote, delivery).await;
    }
    match tick::beat(shared, &step.queue, &delivery.message).await {
        Ok(beat) if beat.run => Attempted { beat, ..counted(shared, step, remote, delivery).await },
        Ok(beat) => Attempted { beat, ..Attempted::new(Ok(Outcome::default())) },
        Err(fault) => Attempted::failed(fault),
    }
}

/// Runs a round, and counts how often the message's worker was lost.
async fn counted(shared: &Arc<Shared>, step: &Arc<StepPlan>, remote: &dyn Remote, delivery: &Delivery) -> Attempted {
    let losses = match Losses::of(shared, delivery).await {
        Ok(losses) => losses,
        Err(fault) => return Attempted::failed(fault),
    };
    let mut attempted = match round(shared, step, remote, delivery).await {
        Ok(attempted) => attempted,
        Err(fault) => Attempted::failed(fault),
    };
    if attempted.outcome.as_ref().err().is_some_and(is_loss) {
        shared.workforces.lost(&step.queue);
    }
    let (write, deadly) = losses.count(attempted.outcome.as_ref().err());
    attempted.aside.extend(write);
    if let Some(deadly) = deadly {
        attempted.outcome = Err(deadly);
    }
    attempted
}

/// One round: what the worker made of the message, or the next part of it.
async fn round(
    shared: &Arc<Shared>,
    step: &Arc<StepPlan>,
    remote: &dyn Remote,
    delivery: &Delivery,
) -> Result<Attempted, Fault> {
    let Prepared::Run(config) = prepare::input(shared, step, &delivery.message).await? else {
        return Ok(Attempted::new(Ok(Outcome::default())));
    };
    let context = context(shared, step, delivery);
    let emitted_before = emitted_before(shared, delivery).await?;
    let run = AssertUnwindSafe(remote.run(&context, config, delivery.message.clone()));
    let produced = run.catch_unwind().await.unwrap_or_else(|panic| Err(panicked(&*panic)));
    let effects = context.take_effects();
    let produced = match produced {
        Ok(produced) => produced,
        Err(fault) => {
            let aside = forgotten(step, delivery, effects, &fault);
            return Ok(Attempted { aside, ..Attempted::failed(fault) });
        }
    };
    let mut state = state_writes(step, effects.state);
    if produced.more || emitted_before > 0 {
        let count = emitted_before + produced.emits.len() as u64;
        state.push(remember_emitted(delivery, count, produced.more));
    }
    let outcome = Outcome { emits: produced.emits, state, more: produced.more };
    Ok(Attempted { reply: effects.reply, emitted_before, ..Attempted::new(Ok(outcome)) })
}

/// What a fault does away with. What else was remembered does not count.
fn forgotten(step: &StepPlan, delivery: &Delivery, effects: Effects, fault: &Fault) -> Vec<StateWrite> {
    let gone = effects.state.into_iter().filter(|(_, value)| value.is_none());
    let mut writes = state_writes(step, gone.collect());
    // Parts came before, and no further one will.
    if !writes.is_empty() && fault.kind == FaultKind::Reject {
        writes.push(remember_emitted(delivery, 0, false));
    }
    writes
}

/// How many messages the earlier rounds of a delivery emitted.
async fn emitted_before(shared: &Shared, delivery: &Delivery) -> Result<u64, Fault> {
    let remembered = shared.queue.state(&delivery.queue, &emitted_key(delivery)).await;
    let remembered = remembered.map_err(|error| Fault::retry("state_unavailable", error.to_string()))?;
    Ok(remembered.and_then(|count| count.as_u64()).unwrap_or(0))
}

fn remember_emitted(delivery: &Delivery, count: u64, more: bool) -> StateWrite {
    StateWrite { queue: delivery.queue.clone(), key: emitted_key(delivery), value: more.then(|| json!(count)) }
}

/// Several messages may be under way at the same time: each has its own count.
fn emitted_key(delivery: &Delivery) -> String {
    format!("{}:{}", tick::EMITTED, delivery.message.id)
}
