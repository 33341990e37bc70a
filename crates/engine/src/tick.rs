//! Ticks: the messages that make a polling trigger ask.
//!
//! Each schedule has one chain of ticks: the settlement of a tick puts the next one onto the
//! trigger's queue, so polls never overlap and a crash neither loses nor doubles the beat. Which
//! tick is the chain's is remembered; any other tick (somebody asked to run now, or replayed a
//! dead one) polls once and goes no further.

use flowline_model::{
    Enqueue, ExecutionId, Fault, Message, MessageId, Plan, QueueName, Schedule, StateWrite, Timestamp,
};
use flowline_queue::Publication;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{EngineError, Shared, store::FlowState};

/// Where the chain's tick is remembered.
const CHAIN: &str = "tick";
/// Where the snapshot of a polling trigger is remembered.
pub(crate) const SNAPSHOT: &str = "snapshot";
/// Where is remembered how many messages the rounds of an unfinished poll emitted.
pub(crate) const EMITTED: &str = "emitted";

/// The chain of a schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Chain {
    /// The schedule it follows.
    schedule: String,
    /// Its tick.
    tick: MessageId,
}

/// What a tick says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Tick {
    /// When it is due.
    scheduled_at: Timestamp,
    /// The schedule it belongs to; none for a tick that somebody asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    schedule: Option<String>,
}

/// What a tick leads to.
#[derive(Debug, Default)]
pub(crate) struct Beat {
    /// Whether to poll.
    pub(crate) run: bool,
    /// The next tick, to be put onto the trigger's queue together with the outcome.
    pub(crate) next: Option<Enqueue>,
    /// What is remembered of the chain from then on.
    pub(crate) state: Vec<StateWrite>,
}

/// Makes sure that the chain of a flow's schedule has its tick.
pub(crate) async fn begin(shared: &Shared, plan: &Plan, version: u32) -> Result<(), EngineError> {
    let trigger = plan.trigger();
    let Some(schedule) = &trigger.schedule else { return Ok(()) };
    let chain = shared.queue.state(&trigger.queue, CHAIN).await?.and_then(|chain| Chain::deserialize(chain).ok());
    if chain.is_some_and(|chain| chain.schedule == schedule.identity()) {
        return Ok(());
    }
    let now = shared.now();
    let Some(first) = schedule.first(now) else { return Ok(()) };
    let id = MessageId::root(now, rand::random());
    let publication = Publication {
        messages: vec![tick(&trigger.queue, id, version, chained_tick(schedule, first))],
        state: vec![remember(&trigger.queue, &Chain { schedule: schedule.identity(), tick: id })],
        ..Publication::default()
    };
    shared.queue.publish(publication).await?;
    Ok(())
}

/// Puts a tick of its own onto a trigger's queue: run now.
pub(crate) async fn now(shared: &Shared, plan: &Plan, version: u32) -> Result<MessageId, EngineError> {
    let now = shared.now();
    let id = MessageId::root(now, rand::random());
    let messages = vec![tick(&plan.trigger().queue, id, version, Tick { scheduled_at: now, schedule: None })];
    shared.queue.publish(Publication { messages, ..Publication::default() }).await?;
    Ok(id)
}

fn chained_tick(schedule: &Schedule, due: Timestamp) -> Tick {
    Tick { scheduled_at: due, schedule: Some(schedule.identity()) }
}

fn tick(queue: &QueueName, id: ExecutionId, version: u32, tick: Tick) -> Enqueue {
    Enqueue {
        queue: queue.clone(),
        message: Message {
            id,
            execution: id,
            parent: None,
            version,
            body: json!(tick),
            headers: Default::default(),
            attachments: Vec::new(),
            steps: Default::default(),
        },
        ready_at: Some(tick.scheduled_at),
        group: None,
    }
}

fn remember(queue: &QueueName, chain: &Chain) -> StateWrite {
    StateWrite { queue: queue.clone(), key: CHAIN.to_owned(), value: serde_json::to_value(chain).ok() }
}

/// What a tick leads to, given the flow as it is now.
pub(crate) async fn beat(shared: &Shared, queue: &QueueName, message: &Message) -> Result<Beat, Fault> {
    let unavailable = |error: flowline_queue::QueueError| Fault::retry("state_unavailable", error.to_string());
    let chain = shared.queue.state(queue, CHAIN).await.map_err(unavailable)?;
    let chain = chain.and_then(|chain| Chain::deserialize(chain).ok());
    let flow = shared.flows.get(&queue.flow);
    let wanted = flow.filter(|flow| flow.state == FlowState { draining: false, active: true, ..flow.state });
    let chained = chain.as_ref().is_some_and(|chain| chain.tick == message.id);
    let said = Tick::deserialize(&message.body).ok();
    if !chained {
        // Somebody asked to run now, or replayed a dead tick: it polls once and ends. One of a
        // schedule that was replaced in the meantime does nothing.
        let current = wanted.as_ref().and_then(|flow| flow.plan.trigger().schedule.as_ref()).map(Schedule::identity);
        let stale = said.and_then(|tick| tick.schedule).is_some_and(|schedule| Some(schedule) != current);
        return Ok(Beat { run: current.is_some() && !stale, ..Beat::default() });
    }
    let end = |run| Beat {
        run,
        next: None,
        state: vec![StateWrite { queue: queue.clone(), key: CHAIN.to_owned(), value: None }],
    };
    let Some(flow) = wanted else { return Ok(end(false)) };
    let Some(schedule) = &flow.plan.trigger().schedule else { return Ok(end(false)) };
    let scheduled = said.map_or_else(|| shared.now(), |tick| tick.scheduled_at);
    let due = schedule.due(scheduled, shared.now());
    let Some(next) = due.next else { return Ok(end(due.run)) };
    let id = message.id.derive(&[b"tick", &next.as_millis().to_be_bytes()]);
    Ok(Beat {
        run: due.run,
        next: Some(tick(queue, id, flow.version, chained_tick(schedule, next))),
        state: vec![remember(queue, &Chain { schedule: schedule.identity(), tick: id })],
    })
}

/// How many messages the earlier rounds of this poll emitted.
pub(crate) fn emitted_before(remembered: Option<Value>, tick: MessageId) -> u64 {
    let remembered = remembered.unwrap_or(Value::Null);
    let same = remembered.get("tick").and_then(Value::as_str) == Some(tick.to_string().as_str());
    remembered.get("count").and_then(Value::as_u64).filter(|_| same).unwrap_or(0)
}

/// Remembers how many messages the rounds of a poll emitted so far; forgets it with the last.
pub(crate) fn remember_emitted(queue: &QueueName, tick: MessageId, count: u64, more: bool) -> StateWrite {
    let value = more.then(|| json!({ "tick": tick, "count": count }));
    StateWrite { queue: queue.clone(), key: EMITTED.to_owned(), value }
}
