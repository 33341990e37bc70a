//! Dead letters, events, traces and forgetting.

use std::time::Duration;

use flowline_model::{EventKind, Settlement, Verdict};
use serde_json::json;

use super::{
    Subject, counts, declare, depth, enqueue, event, fault, finish, grouped, lease, lease_one, message, numbers,
    publish, queue, settle, settlement,
};
use crate::{DeadLetterFilter, Replay, Retention};

const HOUR: Duration = Duration::from_secs(3_600);

fn all() -> DeadLetterFilter {
    DeadLetterFilter::default()
}

async fn bury(subject: &dyn Subject, step: &str) {
    let leased = lease_one(subject, step).await;
    settle(subject, &leased, Verdict::DeadLetter { fault: fault() }).await;
}

pub(super) async fn a_dead_letter_is_listed_and_replayed(subject: &mut dyn Subject) {
    declare(subject, &["a"]).await;
    publish(subject, vec![enqueue("a", 1)]).await;
    bury(subject, "a").await;
    assert_eq!(counts(subject, "a").await, [0, 0, 0, 1]);
    assert!(depth(subject, "a").await.bytes > 0);
    subject.restart().await;
    let letters = subject.queue().dead_letters(&all(), 9).await.expect("dead letters");
    assert_eq!(letters.len(), 1);
    assert_eq!((&letters[0].message, &letters[0].fault), (&message(1), &fault()));
    assert_eq!((letters[0].attempts, &letters[0].queue), (1, &queue("a")));
    assert_eq!(subject.queue().replay(&all(), &Replay::default()).await, Ok(1));
    assert_eq!(counts(subject, "a").await, [1, 0, 0, 0]);
    let lease = lease_one(subject, "a").await;
    assert_eq!((&lease.delivery.message, lease.delivery.attempt), (&message(1), 1));
    let events = subject.history().events(0, 9).await.expect("events");
    assert_eq!(events.iter().map(|(_, event)| event.kind).collect::<Vec<_>>(), [EventKind::Replayed]);
}

pub(super) async fn a_replay_with_another_body_is_another_message(subject: &mut dyn Subject) {
    declare(subject, &["a"]).await;
    publish(subject, vec![enqueue("a", 1)]).await;
    bury(subject, "a").await;
    let replay = Replay { body: Some(json!({ "number": 2 })), version: Some(7) };
    assert_eq!(subject.queue().replay(&all(), &replay).await, Ok(1));
    let lease = lease_one(subject, "a").await;
    let changed = &lease.delivery.message;
    assert_ne!(changed.id, message(1).id, "it is another request to the target");
    assert_eq!((changed.execution, changed.version), (message(1).execution, 7));
    assert_eq!((&changed.body, &changed.headers), (&json!({ "number": 2 }), &message(1).headers));
    settle(subject, &lease, Verdict::DeadLetter { fault: fault() }).await;
    let newest = Replay { body: None, version: Some(8) };
    assert_eq!(subject.queue().replay(&all(), &newest).await, Ok(1));
    let again = lease_one(subject, "a").await;
    assert_eq!((again.delivery.message.id, again.delivery.message.version), (changed.id, 8));
}

pub(super) async fn dead_letters_are_filtered_and_thrown_away(subject: &mut dyn Subject) {
    declare(subject, &["a", "b"]).await;
    publish(subject, vec![enqueue("a", 1), enqueue("a", 2), enqueue("b", 3)]).await;
    bury(subject, "a").await;
    bury(subject, "b").await;
    bury(subject, "a").await;
    let queues = subject.queue();
    let of_a = DeadLetterFilter { step: Some(queue("a").step), ..all() };
    let found = queues.dead_letters(&of_a, 9).await.expect("dead letters");
    assert_eq!(found.iter().map(|letter| letter.message.id).collect::<Vec<_>>(), [message(1).id, message(2).id]);
    let page = DeadLetterFilter { after: Some(found[0].id), ..of_a.clone() };
    assert_eq!(queues.dead_letters(&page, 9).await.expect("dead letters").len(), 1);
    assert_eq!(queues.dead_letters(&all(), 2).await.expect("dead letters").len(), 2);
    let other = DeadLetterFilter { code: Some("other".into()), ..all() };
    assert_eq!(queues.discard_dead_letters(&other).await, Ok(0));
    let one = DeadLetterFilter { ids: vec![found[0].id], code: Some("broken".into()), ..all() };
    assert_eq!(queues.discard_dead_letters(&one).await, Ok(1));
    assert_eq!(queues.replay(&of_a, &Replay::default()).await, Ok(1));
    assert_eq!(queues.discard_dead_letters(&all()).await, Ok(1));
    assert_eq!(counts(subject, "a").await, [1, 0, 0, 0]);
    assert_eq!(counts(subject, "b").await, [0; 4]);
    assert_eq!(depth(subject, "b").await.bytes, 0);
}

pub(super) async fn everything_waiting_can_become_dead_letters(subject: &mut dyn Subject) {
    declare(subject, &["a"]).await;
    publish(subject, (0..700).map(|number| enqueue("a", number)).collect()).await;
    publish(subject, (700..1_400).map(|number| grouped("a", number, "x")).collect()).await;
    let leased = lease(subject, "a", 1).await;
    assert_eq!(subject.queue().dead_letter_all(&queue("a"), fault()).await, Ok(1_399));
    assert_eq!(counts(subject, "a").await, [0, 1, 0, 1_399]);
    settle(subject, &leased[0], Verdict::Done).await;
    assert_eq!(subject.queue().replay(&all(), &Replay::default()).await, Ok(1_399));
    assert_eq!(counts(subject, "a").await, [1_399, 0, 0, 0]);
    let leases = lease(subject, "a", 2_000).await;
    assert!(!leases.is_empty() && numbers(&leases).iter().all(|number| (1..1_400).contains(number)));
    let events = subject.history().events(0, 9_000).await.expect("events");
    let count = |kind| events.iter().filter(|(_, event)| event.kind == kind).count();
    assert_eq!((count(EventKind::DeadLettered), count(EventKind::Replayed)), (1_399, 1_399));
}

pub(super) async fn events_are_numbered_in_order(subject: &mut dyn Subject) {
    declare(subject, &["a"]).await;
    publish(subject, (0..5).map(|number| enqueue("a", number)).collect()).await;
    for lease in lease(subject, "a", 5).await {
        finish(subject, &lease).await;
    }
    let events = subject.history().events(0, 9).await.expect("events");
    assert_eq!(events.len(), 5);
    assert!(events.windows(2).all(|pair| pair[0].0 < pair[1].0));
    assert_eq!(events[2].1.message, message(2).id);
    assert_eq!(events[2].1.outputs, [json!({ "seen": true })]);
    let rest = subject.history().events(events[2].0, 1).await.expect("events");
    assert_eq!(rest, [events[3].clone()]);
}

pub(super) async fn a_trace_shows_one_execution(subject: &mut dyn Subject) {
    declare(subject, &["a", "b"]).await;
    publish(subject, vec![enqueue("a", 1), enqueue("a", 2)]).await;
    let parent = lease_one(subject, "a").await;
    let mut child = enqueue("b", 3);
    child.message.execution = message(1).execution;
    child.message.parent = Some(message(1).id);
    let done = Settlement {
        emits: vec![child.clone()],
        events: vec![event(&parent, EventKind::Done, subject.now())],
        ..settlement(Verdict::Done)
    };
    assert_eq!(subject.queue().settle(&parent, done).await, Ok(()));
    let trace = subject.history().trace(message(1).execution, 9).await.expect("a trace");
    let messages: Vec<_> = trace.messages.iter().map(|stored| (&stored.queue, &stored.message)).collect();
    assert_eq!(messages, [(&queue("a"), &message(1)), (&queue("b"), &child.message)]);
    assert_eq!(trace.events.len(), 1);
}

pub(super) async fn what_is_finished_is_forgotten(subject: &mut dyn Subject) {
    declare(subject, &["a"]).await;
    publish(subject, (0..20).map(|number| enqueue("a", number)).collect()).await;
    for lease in lease(subject, "a", 10).await {
        finish(subject, &lease).await;
    }
    let history = subject.history();
    let events = history.events(0, 99).await.expect("events");
    let keep = Retention { before: subject.now() + HOUR, bytes: u64::MAX, recorded: events[4].0 };
    let mut forgotten = 0;
    while let count @ 1.. = history.forget(keep).await.expect("forgotten") {
        forgotten += count;
    }
    assert_eq!(forgotten, 5, "what is not recorded yet stays");
    assert!(history.trace(message(0).execution, 9).await.expect("a trace").messages.is_empty());
    assert_eq!(history.trace(message(7).execution, 9).await.expect("a trace").messages.len(), 1);
    let young = Retention { before: events[0].1.ended_at, bytes: u64::MAX, recorded: u64::MAX };
    assert_eq!(history.forget(young).await, Ok(0));
    let none = Retention { bytes: 0, ..young };
    while history.forget(none).await.expect("forgotten") > 0 {}
    assert!(history.trace(message(7).execution, 9).await.expect("a trace").messages.is_empty());
    subject.restart().await;
    assert_eq!(counts(subject, "a").await, [10, 0, 0, 0], "what waits is never forgotten");
    let leases = lease(subject, "a", 1).await;
    finish(subject, &leases[0]).await;
    let later = subject.history().events(events[9].0, 9).await.expect("events");
    assert_eq!(later.len(), 1, "no number is given twice");
}
