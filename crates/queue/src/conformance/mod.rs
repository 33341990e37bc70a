//! The suite that every backend must pass: one named behaviour after another.
//!
//! A behaviour asks only what the traits promise, never how fast. A backend brings a [`Subject`]:
//! a fresh store, a way to let time pass, and a way to stop and start it again.

mod behaviour;
mod history;
mod order;

use std::{future::Future, time::Duration};

use async_trait::async_trait;
use flowline_model::{
    Enqueue, Event, EventKind, Fault, FlowName, Message, MessageId, QueueName, Settlement, StepId, Timestamp, Verdict,
};
use serde_json::{Value, json};

use crate::{
    History, Lease, LeaseRequest, Limits, Publication, Published, Queue, QueueDeclaration, QueueDepth, Topology,
};

/// A store under test, empty at first.
#[async_trait]
pub trait Subject: Send {
    /// The queues.
    fn queue(&self) -> &dyn Queue;
    /// What has left them.
    fn history(&self) -> &dyn History;
    /// What time it is for the store.
    fn now(&self) -> Timestamp;
    /// Lets time pass.
    async fn pass(&mut self, time: Duration);
    /// Closes the store in good order and opens it again.
    async fn restart(&mut self);
}

macro_rules! behaviours {
    ($($module:ident :: $name:ident,)*) => {
        /// The names of all behaviours.
        pub const BEHAVIOURS: &[&str] = &[$(stringify!($name)),*];

        /// Checks every behaviour, each with a store of its own; panics at the first that fails.
        pub async fn conformance<S: Subject, F: Future<Output = S>>(make: impl Fn() -> F) {
            $(
                tracing::info!(behaviour = stringify!($name));
                $module::$name(&mut make().await).await;
            )*
        }
    };
}

behaviours! {
    behaviour::what_was_published_is_leased_as_it_was,
    behaviour::an_unknown_queue_is_refused,
    behaviour::a_message_is_leased_to_one_worker,
    behaviour::a_lease_waits_for_a_message,
    behaviour::a_lease_is_bounded_in_messages_and_bytes,
    behaviour::done_takes_the_message_off_and_brings_its_emits,
    behaviour::continue_keeps_the_lease,
    behaviour::retry_comes_back_at_its_time_as_a_further_attempt,
    behaviour::release_counts_no_attempt,
    behaviour::an_ended_lease_settles_nothing,
    behaviour::a_lease_that_ends_returns_its_message,
    behaviour::a_renewed_lease_lasts,
    behaviour::a_delayed_message_waits_for_its_time,
    behaviour::everything_survives_a_restart,
    behaviour::a_full_queue_refuses_a_publication_as_a_whole,
    behaviour::a_settlement_is_never_refused_for_limits,
    behaviour::a_publication_is_accepted_once_per_key,
    behaviour::state_is_written_read_and_listed,
    behaviour::discard_empties_a_queue_but_not_its_leases,
    order::messages_come_in_the_order_they_were_published,
    order::due_messages_come_before_ready_ones,
    order::a_group_is_delivered_one_at_a_time_in_order,
    order::a_retrying_message_holds_back_its_group_only,
    order::a_group_goes_on_after_a_restart,
    order::a_long_queue_keeps_its_order,
    history::a_dead_letter_is_listed_and_replayed,
    history::a_replay_with_another_body_is_another_message,
    history::dead_letters_are_filtered_and_thrown_away,
    history::everything_waiting_can_become_dead_letters,
    history::events_are_numbered_in_order,
    history::a_trace_shows_one_execution,
    history::what_is_finished_is_forgotten,
}

/// The queue of a step of the test's flow.
fn queue(step: &str) -> QueueName {
    QueueName::new(FlowName::new("conformance").expect("a name"), StepId::new(step).expect("a name"))
}

/// Declares queues without limits.
async fn declare(subject: &mut dyn Subject, steps: &[&str]) {
    let declaration = |step: &&str| QueueDeclaration { name: queue(step), limits: Limits::default() };
    let topology = Topology { queues: steps.iter().map(declaration).collect() };
    subject.queue().declare(&topology).await.expect("queues are declared");
}

/// The `number`-th message of a test.
fn message(number: u64) -> Message {
    let mut random = [0; 10];
    random[2..].copy_from_slice(&number.to_be_bytes());
    let id = MessageId::root(Timestamp::from_millis(1_790_000_000_000), random);
    Message {
        id,
        execution: id,
        parent: None,
        version: 1,
        body: json!({ "number": number }),
        headers: [("x-number".to_owned(), number.to_string())].into(),
        attachments: Vec::new(),
        steps: [(StepId::new("before").expect("a name"), json!([number]))].into(),
    }
}

fn enqueue(step: &str, number: u64) -> Enqueue {
    Enqueue { queue: queue(step), message: message(number), ready_at: None, group: None }
}

fn grouped(step: &str, number: u64, group: &str) -> Enqueue {
    Enqueue { group: Some(group.to_owned()), ..enqueue(step, number) }
}

async fn publish(subject: &dyn Subject, messages: Vec<Enqueue>) {
    let publication = Publication { messages, ..Publication::default() };
    assert_eq!(subject.queue().publish(publication).await, Ok(Published::Accepted));
}

/// Leases up to `messages` messages for a minute without waiting.
async fn lease(subject: &dyn Subject, step: &str, messages: usize) -> Vec<Lease> {
    let minute = Duration::from_secs(60);
    let request = LeaseRequest { messages, bytes: usize::MAX, duration: minute, wait: Duration::ZERO };
    subject.queue().lease(&queue(step), request).await.expect("a lease")
}

async fn lease_one(subject: &dyn Subject, step: &str) -> Lease {
    let mut leases = lease(subject, step, 1).await;
    assert_eq!(leases.len(), 1, "one message should be there");
    leases.remove(0)
}

fn settlement(verdict: Verdict) -> Settlement {
    Settlement { verdict, emits: Vec::new(), state: Vec::new(), events: Vec::new() }
}

async fn settle(subject: &dyn Subject, lease: &Lease, verdict: Verdict) {
    assert_eq!(subject.queue().settle(lease, settlement(verdict)).await, Ok(()));
}

/// The event that a worker writes about a lease.
fn event(lease: &Lease, kind: EventKind, now: Timestamp) -> Event {
    Event {
        execution: lease.delivery.message.execution,
        queue: lease.delivery.queue.clone(),
        message: lease.delivery.message.id,
        kind,
        version: lease.delivery.message.version,
        attempt: lease.delivery.attempt,
        started_at: now,
        ended_at: now,
        emitted: 0,
        outputs: vec![json!({ "seen": true })],
        fault: None,
    }
}

/// Settles a lease as done, with the event that tells of it.
async fn finish(subject: &dyn Subject, lease: &Lease) {
    let done = Settlement { events: vec![event(lease, EventKind::Done, subject.now())], ..settlement(Verdict::Done) };
    assert_eq!(subject.queue().settle(lease, done).await, Ok(()));
}

async fn depth(subject: &dyn Subject, step: &str) -> QueueDepth {
    let depths = subject.queue().depths().await.expect("depths");
    let depth = depths.into_iter().find(|depth| depth.queue == queue(step)).expect("the queue is declared");
    assert_eq!(subject.queue().depth(&queue(step)).await, Ok(Some(depth.clone())), "the same of one and of all");
    depth
}

/// Ready, leased, delayed, dead.
async fn counts(subject: &dyn Subject, step: &str) -> [u64; 4] {
    let depth = depth(subject, step).await;
    [depth.ready, depth.leased, depth.delayed, depth.dead]
}

fn number(lease: &Lease) -> u64 {
    lease.delivery.message.body.get("number").and_then(Value::as_u64).expect("a test's message")
}

fn numbers(leases: &[Lease]) -> Vec<u64> {
    leases.iter().map(number).collect()
}

fn fault() -> Fault {
    Fault::reject("broken", "It is broken.")
}
