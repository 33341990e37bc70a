//! The intake: webhook requests become messages. What it answers with 2xx is on disk.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use flowline_model::{
    Emit, Enqueue, Event, ExecutionId, MessageId, QueueName, Timestamp,
    decide::{Circumstances, begin},
    expression::{ExpressionError, Limits},
    plan::StepPlan,
};
use flowline_queue::{Once, Publication, Published, QueueError};
use flowline_sdk::{Context, Place, Received, Refusal, Request, Run};
use serde_json::json;

use crate::{
    Shared,
    flows::{Hook, RunningFlow},
    host::EngineHost,
    replies::{Answered, Wait},
};

/// How long a delivery id is remembered.
const REMEMBERED: Duration = Duration::from_secs(24 * 3_600);
/// The longest delivery id that is remembered as it is.
const LONGEST_DELIVERY_ID: usize = 256;

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Header names and values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    fn json(status: u16, body: &serde_json::Value) -> Self {
        let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
        Self { status, headers, body: body.to_string().into() }
    }

    fn refusal(refusal: Refusal) -> Self {
        let body = json!({
            "type": format!("urn:flowline:problem:{}", refusal.code),
            "title": refusal.message,
            "status": refusal.status,
            "code": refusal.code,
        });
        let mut answer = Self::json(refusal.status, &body);
        answer.headers[0].1 = "application/problem+json".to_owned();
        answer.headers.extend(refusal.headers);
        answer
    }

    fn problem(status: u16, code: &str, message: impl Into<String>) -> Self {
        Self::refusal(Refusal::new(status, code, message))
    }
}

/// Answers a request to the webhook at `path`.
pub(crate) async fn receive(shared: &Arc<Shared>, path: &str, request: Request) -> Answer {
    let Some((flow, hook)) = shared.flows.hooked(path) else {
        return Answer::problem(404, "no_webhook", "no flow has a webhook at this path");
    };
    if !hook.accepts.methods.contains(&request.method) {
        let allowed = hook.accepts.methods.join(", ");
        let refusal = Refusal::new(405, "method_not_allowed", format!("this webhook takes {allowed}"));
        return Answer::refusal(refusal.header("allow", &allowed));
    }
    if flow.state.draining {
        return unavailable("draining", "the flow takes no new messages while it is drained");
    }
    match accept(shared, &flow, &hook, request).await {
        Ok(answer) => answer,
        Err(refusal) => Answer::refusal(refusal),
    }
}

fn unavailable(code: &str, message: &str) -> Answer {
    Answer::refusal(Refusal::new(503, code, message).header("retry-after", "10"))
}

async fn accept(shared: &Arc<Shared>, flow: &RunningFlow, hook: &Hook, request: Request) -> Result<Answer, Refusal> {
    let execution = MessageId::root(shared.now(), rand::random());
    let received = run(shared, flow, hook, execution, request).await?;
    let count = received.emits.len();
    let wait = hook.accepts.reply_within.filter(|_| count > 0).map(|within| (within, shared.replies.wait(execution)));
    let trigger = flow.plan.trigger();
    let begun = begin_executions(shared, trigger, flow.version, execution, received.emits).await?;
    let once = received.delivery_id.map(|id| once(&trigger.queue, &id, execution));
    let publication = Publication { messages: begun.messages, events: begun.events, state: Vec::new(), once };
    let published = shared.queue.publish(publication).await.map_err(|error| refused(&error))?;
    shared.news.notify_one();
    match (published, wait) {
        (Published::Duplicate { first }, _) => Ok(Answer::json(202, &json!({ "message": first, "duplicate": true }))),
        (Published::Accepted, None) => Ok(Answer::json(202, &json!({ "message": execution }))),
        (Published::Accepted, Some((within, wait))) => Ok(reply(within, wait, execution).await),
    }
}

async fn run(
    shared: &Arc<Shared>,
    flow: &RunningFlow,
    hook: &Hook,
    execution: ExecutionId,
    request: Request,
) -> Result<Received, Refusal> {
    let Run::Webhook(webhook) = &hook.operation.run else {
        return Err(Refusal::new(500, "no_webhook", "the trigger takes no requests"));
    };
    let place = Place {
        flow: flow.plan.flow.clone(),
        version: flow.version,
        step: flow.plan.trigger.clone(),
        execution,
        message: execution,
        attempt: 1,
    };
    let context = Context::new(place, Arc::new(EngineHost { shared: Arc::clone(shared) }));
    webhook.receive(&context, hook.config.clone(), request).await
}

fn once(queue: &QueueName, id: &str, message: MessageId) -> Once {
    let key = if id.len() <= LONGEST_DELIVERY_ID {
        id.to_owned()
    } else {
        MessageId::from_bytes([0; 16]).derive(&[id.as_bytes()]).to_string()
    };
    Once { queue: queue.clone(), key, message, remember: REMEMBERED }
}

fn refused(error: &QueueError) -> Refusal {
    match error {
        QueueError::Full { .. } => {
            Refusal::new(429, "queue_full", "the flow has no room for more messages; nothing was accepted")
                .header("retry-after", "5")
        }
        QueueError::Disk(_) => {
            Refusal::new(503, "disk_unavailable", "the data cannot be written now; nothing was accepted")
                .header("retry-after", "10")
        }
        _ => {
            Refusal::new(503, "unavailable", "the server is not ready; nothing was accepted").header("retry-after", "2")
        }
    }
}

/// Executions that begin together.
pub(crate) struct Begun {
    pub(crate) messages: Vec<Enqueue>,
    pub(crate) events: Vec<Event>,
    pub(crate) ids: Vec<ExecutionId>,
}

/// Makes the first messages of what a trigger emits. The first emit begins the execution `first`,
/// further ones begin executions whose ids follow from it.
pub(crate) async fn begin_executions(
    shared: &Arc<Shared>,
    trigger: &Arc<StepPlan>,
    version: u32,
    first: ExecutionId,
    emits: Vec<Emit>,
) -> Result<Begun, Refusal> {
    let now = shared.now();
    let again = trigger.routes_by_expression().then(|| emits.clone());
    let brief = begin_all(shared, trigger, version, first, emits, (now, Limits::BRIEF));
    let begun = match (brief, again) {
        (Err(ExpressionError::Timeout(_)), Some(emits)) => {
            let (shared, trigger) = (Arc::clone(shared), Arc::clone(trigger));
            tokio::task::spawn_blocking(move || {
                begin_all(&shared, &trigger, version, first, emits, (now, Limits::FULL))
            })
            .await
            .map_err(|error| Refusal::new(500, "failed", error.to_string()))?
        }
        (begun, _) => begun,
    };
    begun.map_err(|error| Refusal::new(422, "expression", format!("a condition after the trigger: {error}")))
}

fn begin_all(
    shared: &Shared,
    trigger: &StepPlan,
    version: u32,
    first: ExecutionId,
    emits: Vec<Emit>,
    (now, limits): (Timestamp, Limits),
) -> Result<Begun, ExpressionError> {
    let circumstances =
        Circumstances { started_at: now, now, jitter: 0.0, emitted_before: 0, vars: &shared.vars, limits };
    let mut begun = Begun { messages: Vec::new(), events: Vec::new(), ids: Vec::new() };
    for (index, emit) in (0u64..).zip(emits) {
        let id = if index == 0 { first } else { first.child(&trigger.queue.step, index) };
        let (messages, event) = begin(id, version, emit, trigger, &circumstances)?;
        begun.messages.extend(messages);
        begun.events.push(event);
        begun.ids.push(id);
    }
    Ok(begun)
}

/// Waits for the reply of a step.
async fn reply(within: Duration, mut wait: Wait, execution: ExecutionId) -> Answer {
    match tokio::time::timeout(within, wait.answer()).await {
        Ok(Some(Answered::Reply(reply))) => {
            Answer { status: reply.status, headers: reply.headers, body: reply.body.into() }
        }
        Ok(Some(Answered::Failed { message, fault })) => Answer::json(
            502,
            &json!({
                "message": execution, "dead_letter": message, "code": fault.code,
                "title": "the message could not be processed; it lies in the dead letters",
            }),
        ),
        Ok(None) => Answer::json(503, &json!({ "message": execution, "title": "the server is stopping" })),
        Err(_) => Answer::json(
            504,
            &json!({
                "message": execution,
                "title": format!("accepted, but no step replied within {within:?}; it is still being processed"),
            }),
        ),
    }
}
