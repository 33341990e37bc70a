//! The decision: what becomes of a delivery, given what its step made of it. Pure.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    Delivery, Emit, Enqueue, Event, EventKind, ExecutionId, Fault, FaultKind, Lapse, Message, MessageId, OperationKind,
    QueueName, Recipient, Settlement, StateWrite, StepId, StepPlan, Timestamp, Verdict,
    expression::{Expression, ExpressionError, Limits, Scope},
    plan::{Ordering, Route, flow_variable},
};

/// What a step made of a delivery.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// What it emits.
    pub emits: Vec<Emit>,
    /// What it remembers from now on.
    pub state: Vec<StateWrite>,
    /// Whether it goes on with the same delivery: what it emitted so far becomes durable now.
    pub more: bool,
}

/// What a decision depends on besides the delivery and its outcome.
#[derive(Clone, Debug)]
pub struct Circumstances<'a> {
    /// When the attempt began.
    pub started_at: Timestamp,
    /// The time now.
    pub now: Timestamp,
    /// A random number in 0.0..1.0, for the jitter of retries.
    pub jitter: f64,
    /// How many messages this delivery emitted before: those of earlier rounds of a poll.
    pub emitted_before: u64,
    /// What expressions see as `$var`.
    pub vars: &'a Value,
    /// How long expressions may take.
    pub limits: Limits,
}

/// The longest recorded output of a step that nobody receives, as JSON text in bytes.
const LONGEST_OUTPUT: usize = 16 * 1024;
/// The most recorded outputs of one run.
const MOST_OUTPUTS: usize = 8;

/// The longest wait after a target was out of reach: probing spares the target already, and what
/// waits is to go out soon after it is back.
const LONGEST_OUTAGE_WAIT: Lapse = Lapse::seconds(15);

/// The header that marks a message a step sent to itself; it names the group it belongs to.
pub const REMINDER: &str = "flowline.reminder";

/// Decides what becomes of a delivery.
///
/// Fails only with [`ExpressionError::Timeout`], when a condition on the way to the next steps
/// took longer than `circumstances.limits` allow; deciding again with more time is safe.
pub fn decide(
    delivery: &Delivery,
    outcome: Result<Outcome, Fault>,
    step: &StepPlan,
    circumstances: &Circumstances<'_>,
) -> Result<Settlement, ExpressionError> {
    match outcome {
        Ok(outcome) => succeed(delivery, outcome, step, circumstances),
        Err(fault) => Ok(fail(delivery, fault, step, circumstances)),
    }
}

fn succeed(
    delivery: &Delivery,
    outcome: Outcome,
    step: &StepPlan,
    circumstances: &Circumstances<'_>,
) -> Result<Settlement, ExpressionError> {
    let routed = route(delivery, outcome.emits, step, circumstances)?;
    let mut events = routed.events;
    // Ticks are no news; what they brought is.
    if step.kind == OperationKind::Action && !outcome.more {
        let mut event = event(delivery, EventKind::Done, circumstances);
        event.emitted = u32::try_from(routed.messages.len()).unwrap_or(u32::MAX);
        event.outputs = routed.unreceived;
        events.push(event);
    }
    let verdict = if outcome.more { Verdict::Continue } else { Verdict::Done };
    Ok(Settlement { verdict, emits: routed.messages, state: outcome.state, events })
}

fn fail(delivery: &Delivery, fault: Fault, step: &StepPlan, circumstances: &Circumstances<'_>) -> Settlement {
    let verdict = match fault.kind {
        FaultKind::Unauthorized | FaultKind::Misconfigured => Verdict::Release,
        FaultKind::Retry if !exhausted(delivery, &fault, step, circumstances.now) => {
            let mut policy = step.retry;
            if fault.outage {
                policy.longest = policy.longest.min(LONGEST_OUTAGE_WAIT);
            }
            let wait = policy.wait(delivery.attempt, fault.after, circumstances.jitter);
            Verdict::Retry { at: circumstances.now + wait }
        }
        FaultKind::Retry | FaultKind::Reject => Verdict::DeadLetter { fault: fault.clone() },
    };
    let mut emits = Vec::new();
    let mut events = Vec::new();
    let kind = match verdict {
        Verdict::DeadLetter { .. } => Some(EventKind::DeadLettered),
        Verdict::Retry { .. } => Some(EventKind::Retried),
        _ => None,
    };
    if let Some(kind) = kind {
        let mut event = event(delivery, kind, circumstances);
        if kind == EventKind::DeadLettered {
            emits.extend(alert(delivery, &fault, step));
            event.emitted = u32::try_from(emits.len()).unwrap_or(u32::MAX);
        }
        event.fault = Some(fault);
        events.push(event);
    }
    Settlement { verdict, emits, state: Vec::new(), events }
}

/// Whether the retries of a message are used up. A target that is out of reach uses up none, and
/// a poll is never given up: the next one would be the same.
fn exhausted(delivery: &Delivery, fault: &Fault, step: &StepPlan, now: Timestamp) -> bool {
    let first_failure = delivery.first_failed_at.unwrap_or(now);
    let patient = (fault.outage || step.kind == OperationKind::Polling) && step.retry.horizon.0 > Duration::ZERO;
    !patient && step.retry.exhausted(first_failure, now)
}

/// What the step for dead letters is told.
fn alert(delivery: &Delivery, fault: &Fault, step: &StepPlan) -> Option<Enqueue> {
    let receiver = step.on_error.as_ref()?;
    let message = &delivery.message;
    let body = json!({
        "flow": step.queue.flow,
        "step": step.queue.step,
        "message": message.id,
        "execution": message.execution,
        "attempts": delivery.attempt,
        "fault": { "kind": fault.kind, "code": fault.code, "message": fault.message },
        "body": message.body,
    });
    Some(Enqueue {
        queue: QueueName::new(step.queue.flow.clone(), receiver.clone()),
        message: Message {
            id: message.id.child(receiver, u64::from(delivery.attempt)),
            parent: Some(message.id),
            body,
            headers: BTreeMap::new(),
            attachments: message.attachments.clone(),
            steps: BTreeMap::new(),
            execution: message.execution,
            version: message.version,
        },
        ready_at: None,
        group: None,
    })
}

fn event(delivery: &Delivery, kind: EventKind, circumstances: &Circumstances<'_>) -> Event {
    Event {
        execution: delivery.message.execution,
        queue: delivery.queue.clone(),
        message: delivery.message.id,
        kind,
        version: delivery.message.version,
        attempt: delivery.attempt,
        started_at: circumstances.started_at,
        ended_at: circumstances.now,
        emitted: 0,
        outputs: Vec::new(),
        fault: None,
    }
}

/// Where emits go.
#[derive(Debug, Default)]
struct Routed {
    messages: Vec<Enqueue>,
    /// The beginnings of executions, if the step is a trigger.
    events: Vec<Event>,
    /// What no step receives.
    unreceived: Vec<Value>,
}

/// Makes the messages that the following steps receive.
fn route(
    delivery: &Delivery,
    emits: Vec<Emit>,
    step: &StepPlan,
    circumstances: &Circumstances<'_>,
) -> Result<Routed, ExpressionError> {
    let mut routed = Routed::default();
    for (index, mut emit) in (circumstances.emitted_before..).zip(emits) {
        if emit.to == Recipient::Myself {
            routed.messages.push(reminder(delivery, &emit, index, circumstances.now));
        } else if step.kind == OperationKind::Action {
            let source = Source::of(&delivery.message, index);
            let received = receivers(&source, &mut emit, step, circumstances)?;
            if received.is_empty() && routed.unreceived.len() < MOST_OUTPUTS {
                routed.unreceived.push(bounded(&emit.body));
            }
            routed.messages.extend(received);
        } else {
            let execution = delivery.message.id.child(&step.queue.step, index);
            let (messages, event) = begin(execution, delivery.message.version, emit, step, circumstances)?;
            routed.messages.extend(messages);
            routed.events.push(event);
        }
    }
    Ok(routed)
}

/// Begins an execution: the messages that the steps after a trigger receive, and the event.
pub fn begin(
    execution: ExecutionId,
    version: u32,
    mut emit: Emit,
    trigger: &StepPlan,
    circumstances: &Circumstances<'_>,
) -> Result<(Vec<Enqueue>, Event), ExpressionError> {
    let no_headers = BTreeMap::new();
    let no_steps = BTreeMap::new();
    let source =
        Source { id: execution, parent: None, execution, version, index: 0, headers: &no_headers, steps: &no_steps };
    let messages = receivers(&source, &mut emit, trigger, circumstances)?;
    let event = Event {
        execution,
        queue: trigger.queue.clone(),
        message: execution,
        kind: EventKind::Accepted,
        version,
        attempt: 0,
        started_at: circumstances.started_at,
        ended_at: circumstances.now,
        emitted: u32::try_from(messages.len()).unwrap_or(u32::MAX),
        outputs: if messages.is_empty() { vec![bounded(&emit.body)] } else { Vec::new() },
        fault: None,
    };
    Ok((messages, event))
}

/// What the messages that an emit becomes have in common.
struct Source<'a> {
    id: MessageId,
    parent: Option<MessageId>,
    execution: ExecutionId,
    version: u32,
    index: u64,
    headers: &'a BTreeMap<String, String>,
    steps: &'a BTreeMap<StepId, Value>,
}

impl<'a> Source<'a> {
    fn of(message: &'a Message, index: u64) -> Self {
        Self {
            id: message.id,
            parent: Some(message.id),
            execution: message.execution,
            version: message.version,
            index,
            headers: &message.headers,
            steps: &message.steps,
        }
    }
}

/// The last receiver gets the body itself, the others get copies; the emit keeps it if there is no
/// receiver.
fn receivers(
    source: &Source<'_>,
    emit: &mut Emit,
    step: &StepPlan,
    circumstances: &Circumstances<'_>,
) -> Result<Vec<Enqueue>, ExpressionError> {
    let to = emit.to.clone();
    let output = match &to {
        Recipient::Output(name) => Some(name),
        Recipient::Next | Recipient::Myself => None,
    };
    let mut messages = Vec::new();
    let mut routes = step.routes.iter().filter(|route| route.output.as_ref() == output).peekable();
    while let Some(route) = routes.next() {
        let is_last = routes.peek().is_none();
        let steps = carried(route, &step.queue.step, emit, source.steps);
        let message = Message {
            id: source.id.child(&route.to, source.index),
            execution: source.execution,
            parent: source.parent,
            version: source.version,
            body: if is_last { emit.body.take() } else { emit.body.clone() },
            headers: headers(source.headers, &emit.headers),
            attachments: emit.attachments.clone(),
            steps,
        };
        let queue = QueueName::new(step.queue.flow.clone(), route.to.clone());
        if !lets_in(route, &queue, &message, circumstances)? {
            if is_last {
                emit.body = message.body;
            }
            continue;
        }
        let group = group(&route.order, &queue, &message, circumstances)?;
        let ready_at = emit.delay.map(|delay| circumstances.now + delay);
        messages.push(Enqueue { queue, message, ready_at, group });
    }
    Ok(messages)
}

fn headers(old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let kept = old.iter().filter(|(name, _)| name.as_str() != REMINDER);
    kept.chain(new).map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn carried(route: &Route, step: &StepId, emit: &Emit, steps: &BTreeMap<StepId, Value>) -> BTreeMap<StepId, Value> {
    let output = |id: &StepId| if id == step { Some(&emit.body) } else { steps.get(id) };
    route.carries.iter().filter_map(|id| Some((id.clone(), output(id)?.clone()))).collect()
}

/// Whether a route's condition holds. A condition that fails lets the message in: the receiver
/// evaluates it again and makes a dead letter of it, where it can be seen and replayed.
fn lets_in(
    route: &Route,
    queue: &QueueName,
    message: &Message,
    circumstances: &Circumstances<'_>,
) -> Result<bool, ExpressionError> {
    let Some(when) = &route.when else { return Ok(true) };
    match condition(when, queue, message, circumstances.vars, circumstances.limits) {
        Err(timeout @ ExpressionError::Timeout(_)) => Err(timeout),
        Err(_) => Ok(true),
        Ok(holds) => Ok(holds),
    }
}

/// Whether a condition holds for a message; a missing result does not hold.
pub fn condition(
    when: &Expression,
    queue: &QueueName,
    message: &Message,
    vars: &Value,
    limits: Limits,
) -> Result<bool, ExpressionError> {
    let names = when.reads().variables;
    let scope = scope(queue, message, vars, &names);
    match when.evaluate(&scope, limits)? {
        None | Some(Value::Null | Value::Bool(false)) => Ok(false),
        Some(Value::Bool(true)) => Ok(true),
        Some(other) => {
            let text: String = other.to_string().chars().take(80).collect();
            Err(ExpressionError::Evaluation(format!("a condition is true or false, not {text}")))
        }
    }
}

/// What expressions on a message of a queue see; only the provided names that are asked for.
pub fn scope<'a>(queue: &QueueName, message: &'a Message, vars: &'a Value, names: &BTreeSet<String>) -> Scope<'a> {
    let mut scope = Scope::new(&message.body);
    let wanted = |name: &str| names.contains(name);
    if wanted("steps") {
        let steps = message.steps.iter().map(|(id, output)| (id.to_string(), output.clone())).collect();
        scope.provide("steps", Cow::Owned(Value::Object(steps)));
    }
    if wanted("headers") {
        let headers = message.headers.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        scope.provide("headers", Cow::Owned(Value::Object(headers)));
    }
    if wanted("flow") {
        scope.provide("flow", Cow::Owned(flow_variable(&queue.flow, message.version)));
    }
    if wanted("execution") {
        let execution = json!({ "id": message.execution, "message": message.id });
        scope.provide("execution", Cow::Owned(execution));
    }
    if wanted("var") {
        scope.provide("var", Cow::Borrowed(vars));
    }
    scope
}

/// The longest group that is kept as it is; a longer one is hashed.
const LONGEST_GROUP: usize = 128;

/// The group of a message on a queue. A key that fails puts the message into the group without
/// a name: the receiver finds the same error when it prepares the message.
fn group(
    order: &Ordering,
    queue: &QueueName,
    message: &Message,
    circumstances: &Circumstances<'_>,
) -> Result<Option<String>, ExpressionError> {
    let template = match order {
        Ordering::Parallel => return Ok(None),
        Ordering::Whole => return Ok(Some(String::new())),
        Ordering::Key(template) => template,
    };
    let names = template.reads().variables;
    let key = match template.render(&scope(queue, message, circumstances.vars, &names), circumstances.limits) {
        Err(error) if matches!(error.error, ExpressionError::Timeout(_)) => return Err(error.error),
        Err(_) | Ok(None | Some(Value::Null)) => String::new(),
        Ok(Some(Value::String(text))) => text,
        Ok(Some(other)) => other.to_string(),
    };
    if key.len() <= LONGEST_GROUP {
        return Ok(Some(key));
    }
    let nil = MessageId::from_bytes([0; 16]);
    Ok(Some(nil.derive(&[key.as_bytes()]).to_string()))
}

fn reminder(delivery: &Delivery, emit: &Emit, index: u64, now: Timestamp) -> Enqueue {
    let input = &delivery.message;
    let mut headers = emit.headers.clone();
    headers.insert(REMINDER.to_owned(), delivery.group.clone().unwrap_or_default());
    Enqueue {
        queue: delivery.queue.clone(),
        message: Message {
            id: input.id.derive(&[REMINDER.as_bytes(), &index.to_be_bytes()]),
            execution: input.execution,
            parent: Some(input.id),
            version: input.version,
            body: emit.body.clone(),
            headers,
            attachments: emit.attachments.clone(),
            steps: input.steps.clone(),
        },
        ready_at: emit.delay.map(|delay| now + delay),
        // It takes its place in its group only once it is due: until then others go first.
        group: None,
    }
}

/// For a reminder that has just become due on a queue with an order: it goes into its group, and
/// comes back when it is its turn.
pub fn take_turn(delivery: &Delivery, step: &StepPlan) -> Option<Settlement> {
    let group = delivery.message.headers.get(REMINDER)?;
    if delivery.group.is_some() || step.order == Ordering::Parallel {
        return None;
    }
    let id = delivery.message.id.derive(&[b"turn"]);
    let message = Message { id, ..delivery.message.clone() };
    let turn = Enqueue { queue: delivery.queue.clone(), message, ready_at: None, group: Some(group.clone()) };
    Some(Settlement { verdict: Verdict::Done, emits: vec![turn], state: Vec::new(), events: Vec::new() })
}

/// An output as it is recorded: whole if it is small, else the beginning of its text.
fn bounded(body: &Value) -> Value {
    let text = body.to_string();
    if text.len() <= LONGEST_OUTPUT {
        return body.clone();
    }
    let beginning: String = text.chars().take(LONGEST_OUTPUT / 4).collect();
    json!({ "truncated": beginning, "bytes": text.len() })
}
