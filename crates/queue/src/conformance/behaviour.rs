//! Publishing, leasing, settling, limits and state.

use std::time::Duration;

use flowline_model::{Enqueue, MessageId, Settlement, StateWrite, Verdict};
use serde_json::json;

use super::{
    Subject, counts, declare, depth, enqueue, finish, lease, lease_one, message, number, numbers, publish, queue,
    settle, settlement,
};
use crate::{LeaseRequest, Limits, Once, Publication, Published, QueueDeclaration, QueueError, Topology};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);

pub(super) async fn what_was_published_is_leased_as_it_was(subject: &mut dyn Subject) {
    declare(subject, &["a"]).await;
    publish(subject, vec![enqueue("a", 7)]).await;
    let lease = lease_one(subject, "a").await;
    assert_eq!(lease.delivery.message, message(7));
    assert_eq!((lease.delivery.attempt, lease.delivery.first_failed_at), (1, None));
    assert_eq!(lease.delivery.queue, queue("a"));
    assert!(lease.bytes > 0);
}

pub(super) async fn an_unknown_queue_is_refused(subject: &mut dyn Subject) {
    declare(subject, &["a"]).await;
    let unknown = Err(QueueError::Unknown(queue("b")));
    let publication = Publication { messages: vec![enqueue("a", 1), enqueue("b", 2)], ..Publication::default() };
    assert_eq!(subject.queue().publish(publication).await, unknown);
    assert_eq!(counts(subject, "a").await, [0; 4]);
    let request = LeaseRequest { messages: 1, bytes: 1, duration: SECOND, wait: Duration::ZERO };
    assert_eq!(subject.queue().lease(&queue("b"), request).await.map(drop), unknown.map(drop));
}

pub(super) async fn a_message_is_leased_to_one_worker(subject: &mut dyn Subject) {
    declare(subject, &["a"]).await;
    publish(subject, vec![enqueue("a", 1)]).await;
    let _lease = lease_one(subject, "a").await;
    assert!(lease(subject, "a", 1).await.is_empty());
    assert_eq!(counts(subject, "a").await, [0, 1, 0, 0]);
}

pub(super) async fn a_lease_waits_for_a_message(subject: &mut dyn Subject) {
    declare(subject, &["a"]).await;
    let request = LeaseRequest { messages: 8, bytes: 1 << 20, duration: HOUR, wait: Duration::from_secs(30) };
    let name = queue("a");
    let waiting = subject.queue().lease(&name, request);
    let publishing = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        publish(subject, vec![enqueue("a", 1)]).await;
    };
    let (leases, ()) = tokio::join!(waiting, publishing);
    assert_eq!(numbers(&leases.expect("a lease")), [1]);
}

pub(super) async fn a_lease_is_bounded_in_messages_and_bytes(subject: &mut dyn Subject) {
    declare(subject, &["a"]).await;
    publish(subject, (0..10).map(|number| enqueue("a", number)).collect()).await;
    assert_eq!(numbers(&lease(subject, "a", 3).await), [0, 1, 2]);
    let request = LeaseRequest { messages: 10, bytes: 1, duration: HOUR, wait: Duration::ZERO };
    let one = subject.queue().lease(&queue("a"), request).await.expect("a lease");
    assert_eq!(numbers(&one), [3]);
    let request = LeaseRequest { bytes: one[0].bytes + 1, ..request };
    let two = subject.queue().lease(&queue("a"), request).await.expect("a lease");
    assert_eq!(numbers(&two), [4, 5]);
}

pub(super) async fn done_takes_the_message_off_and_brings_its_emits(subject: &mut dyn Subject) {
    declare(subject, &["a", "b"]).await;
    publish(subject, vec![enqueue("a", 1)]).await;
    let lease = lease_one(subject, "a").await;
    let done = Settlement { emits: vec![enqueue("b", 2), enqueue("b", 3)], ..settlement(Verdict::Done) };
    assert_eq!(subject.queue().settle(&lease, done).await, Ok(()));
    assert_eq!(counts(subject, "a").await, [0; 4]);
    assert_eq!(counts(subject, "b").await, [2, 0, 0, 0]);
    assert_eq!(depth(subject, "a").await.bytes, 0);
}

pub(super) async fn continue_keeps_the_lease(subject: &mut dyn Subject) {
    declare(subject, &["a", "b"]).await;
    publish(subject, vec![enqueue("a", 1)]).await;
    let lease = lease_one(subject, "a").await;
    let first = Settlement { emits: vec![enqueue("b", 2)], ..settlement(Verdict::Continue) };
    assert_eq!(subject.queue().settle(&lease, first).await, Ok(()));
    assert_eq!(counts(subject, "a").await, [0, 1, 0, 0]);
    assert_eq!(counts(subject, "b").await, [1, 0, 0, 0]);
    settle(subject, &lease, Verdict::Done).await;
    assert_eq!(counts(subject, "a").await, [0; 4]);
}

pub(super) async fn retry_comes_back_at_its_time_as_a_further_attempt(subject: &mut dyn Subject) {
    declare(subject, &["a"]).await;
    publish(subject, vec![enqueue("a", 1)]).await;
    let first = lease_one(subject, "a").await;
    let failed_at = subject.now();
    settle(subject, &first, Verdict::Retry { at: failed_at + HOUR }).await;
    assert_eq!(counts(subject, "a").await, [0, 0, 1, 0]);
    assert!(lease(subject, "a", 1).await.is_empty());
    subject.pass(HOUR + SECOND).await;
    let second = lease_one(subject, "a").await;
    assert_eq!(second.delivery.attempt, 2);
    assert_eq!(second.delivery.first_failed_at, Some(failed_at));
    assert_eq!(second.delivery.enqueued_at, first.delivery.enqueued_at);
}

pub(super) async fn release_counts_no_attempt(subject: &mut dyn Subject) {
    declare(subject, &["a"]).await;
    publish(subject, vec![enqueue("a", 1), enqueue("a", 2)]).await;
    let first = lease_one(subject, "a").await;
    settle(subject, &first, Verdict::Release).await;
    let again = lease(subject, "a", 2).await;
    assert_eq!(numbers(&again), [1, 2], "it goes back to where it stood");
    assert_eq!(again[0].delivery.attempt, 1);
    assert_ne!(again[0].token, first.token);
}

pub(super) async fn an_ended_lease_settles_nothing(subject: &mut dyn Subject) {
    declare(subject, &["a", "b"]).await;
    publish(subject, vec![enqueue("a", 1)]).await;
    let lease = lease_one(subject, "a").await;
    subject.pass(HOUR).await;
    let ended = Err(QueueError::LeaseEnded(message(1).id));
    let done = Settlement { emits: vec![enqueue("b", 2)], ..settlement(Verdict::Done) };
    assert_eq!(subject.queue().settle(&lease, done).await, ended);
    assert_eq!(subject.queue().renew(&lease, HOUR).await, ended);
    assert_eq!(counts(subject, "b").await, [0; 4]);
    let again = lease_one(subject, "a").await;
    settle(subject, &again, Verdict::Done).await;
    assert_eq!(subject.queue().settle(&again, settlement(Verdict::Done)).await, ended);
}

pub(super) async fn a_lease_that_ends_returns_its_message(subject: &mut dyn Subject) {
    declare(subject, &["a"]).await;
    publish(subject, vec![enqueue("a", 1), enqueue("a", 2)]).await;
    let first = lease_one(subject, "a").await;
    assert_eq!(number(&first), 1);
    subject.pass(HOUR).await;
    let again = lease(subject, "a", 2).await;
    assert_eq!(numbers(&again), [1, 2]);
    assert_eq!(again[0].delivery.attempt, 2);
    assert_eq!(again[1].delivery.attempt, 1);
}

pub(super) async fn a_renewed_lease_lasts(subject: &mut dyn Subject) {
    declare(subject, &["a"]).await;
    publish(subject, vec![enqueue("a", 1)]).await;
    let first = lease_one(subject, "a").await;
    assert_eq!(subject.queue().renew(&first, 2 * HOUR).await, Ok(()));
    subject.pass(HOUR).await;
    assert!(lease(subject, "a", 1).await.is_empty());
    settle(subject, &first, Verdict::Done).await;
}

pub(super) async fn a_delayed_message_waits_for_its_time(subject: &mut dyn Subject) {
    declare(subject, &["a"]).await;
    let at = subject.now() + HOUR;
    publish(subject, vec![Enqueue { ready_at: Some(at), ..enqueue("a", 1) }, enqueue("a", 2)]).await;
    assert_eq!(counts(subject, "a").await, [1, 0, 1, 0]);
    let ready = lease(subject, "a", 2).await;
    assert_eq!(numbers(&ready), [2]);
    subject.pass(HOUR + SECOND).await;
    assert_eq!(counts(subject, "a").await[2], 0);
    assert!(numbers(&lease(subject, "a", 2).await).contains(&1));
}

pub(super) async fn everything_survives_a_restart(subject: &mut dyn Subject) {
    declare(subject, &["a", "b"]).await;
    let at = subject.now() + HOUR;
    let delayed = Enqueue { ready_at: Some(at), ..enqueue("a", 4) };
    publish(subject, vec![enqueue("a", 1), enqueue("a", 2), enqueue("a", 3), delayed]).await;
    finish(subject, &lease_one(subject, "a").await).await;
    let leased = lease_one(subject, "a").await;
    let bytes = depth(subject, "a").await.bytes;
    subject.restart().await;
    assert_eq!(counts(subject, "a").await, [2, 0, 1, 0]);
    assert_eq!(depth(subject, "a").await.bytes, bytes);
    let ended = subject.queue().settle(&leased, settlement(Verdict::Done)).await;
    assert_eq!(ended, Err(QueueError::LeaseEnded(message(2).id)));
    assert_eq!(numbers(&lease(subject, "a", 9).await), [2, 3]);
    subject.pass(2 * HOUR).await;
    assert!(numbers(&lease(subject, "a", 9).await).contains(&4));
}

pub(super) async fn a_full_queue_refuses_a_publication_as_a_whole(subject: &mut dyn Subject) {
    let limits = Limits { messages: 2, ..Limits::default() };
    let small = QueueDeclaration { name: queue("small"), limits };
    let large = QueueDeclaration { name: queue("large"), limits: Limits::default() };
    let topology = Topology { queues: vec![small, large] };
    subject.queue().declare(&topology).await.expect("declared");
    publish(subject, vec![enqueue("small", 1)]).await;
    assert!(!subject.queue().is_full(&queue("small")));
    publish(subject, vec![enqueue("small", 2)]).await;
    assert!(subject.queue().is_full(&queue("small")));
    let both = Publication { messages: vec![enqueue("large", 3), enqueue("small", 4)], ..Publication::default() };
    let refused = subject.queue().publish(both).await;
    assert!(matches!(&refused, Err(QueueError::Full { queue: full, .. }) if *full == queue("small")), "{refused:?}");
    assert_eq!(counts(subject, "large").await, [0; 4]);
    settle(subject, &lease_one(subject, "small").await, Verdict::Done).await;
    assert!(!subject.queue().is_full(&queue("small")));
    publish(subject, vec![enqueue("small", 5)]).await;
}

pub(super) async fn a_settlement_is_never_refused_for_limits(subject: &mut dyn Subject) {
    let limits = Limits { messages: 1, ..Limits::default() };
    let topology = Topology { queues: vec![QueueDeclaration { name: queue("a"), limits }] };
    subject.queue().declare(&topology).await.expect("declared");
    publish(subject, vec![enqueue("a", 1)]).await;
    let lease = lease_one(subject, "a").await;
    let emits = vec![enqueue("a", 2), enqueue("a", 3), enqueue("undeclared", 4)];
    let done = Settlement { emits, ..settlement(Verdict::Done) };
    assert_eq!(subject.queue().settle(&lease, done).await, Ok(()));
    assert_eq!(counts(subject, "a").await, [2, 0, 0, 0]);
    assert_eq!(counts(subject, "undeclared").await, [1, 0, 0, 0], "what was accepted finds a place");
}

pub(super) async fn a_publication_is_accepted_once_per_key(subject: &mut dyn Subject) {
    declare(subject, &["a"]).await;
    let once = |number: u64| Publication {
        messages: vec![enqueue("a", number)],
        once: Some(Once { queue: queue("a"), key: "k".into(), message: message(number).id, remember: HOUR }),
        ..Publication::default()
    };
    let repeated = Ok(Published::Duplicate { first: message(1).id });
    let (one, other) = tokio::join!(subject.queue().publish(once(1)), subject.queue().publish(once(1)));
    assert!([&one, &other].contains(&&Ok(Published::Accepted)), "{one:?} {other:?}");
    assert!([&one, &other].contains(&&repeated), "{one:?} {other:?}");
    subject.restart().await;
    assert_eq!(subject.queue().publish(once(2)).await, repeated);
    assert_eq!(counts(subject, "a").await, [1, 0, 0, 0]);
    subject.pass(2 * HOUR).await;
    assert_eq!(subject.queue().publish(once(3)).await, Ok(Published::Accepted));
}

pub(super) async fn state_is_written_read_and_listed(subject: &mut dyn Subject) {
    declare(subject, &["a", "b"]).await;
    let write = |key: &str, value| StateWrite { queue: queue("a"), key: key.into(), value };
    let state = vec![
        write("join/2", Some(json!({ "n": 2 }))),
        write("join/1", Some(json!(1))),
        write("other", Some(json!("x"))),
        write("join/3", Some(json!(3))),
    ];
    let publication = Publication { messages: vec![enqueue("a", 1)], state, ..Publication::default() };
    assert_eq!(subject.queue().publish(publication).await, Ok(Published::Accepted));
    let lease = lease_one(subject, "a").await;
    let done = Settlement { state: vec![write("join/3", None)], ..settlement(Verdict::Done) };
    assert_eq!(subject.queue().settle(&lease, done).await, Ok(()));
    subject.restart().await;
    let read = subject.queue();
    assert_eq!(read.state(&queue("a"), "join/2").await, Ok(Some(json!({ "n": 2 }))));
    assert_eq!(read.state(&queue("a"), "join/3").await, Ok(None));
    assert_eq!(read.state(&queue("b"), "join/2").await, Ok(None));
    let all = read.states(&queue("a"), "join/", "", 9).await.expect("states");
    assert_eq!(all, [("join/1".to_owned(), json!(1)), ("join/2".to_owned(), json!({ "n": 2 }))]);
    let page = read.states(&queue("a"), "join/", "join/1", 1).await.expect("states");
    assert_eq!(page.len(), 1);
    assert_eq!(page[0].0, "join/2");
}

pub(super) async fn discard_empties_a_queue_but_not_its_leases(subject: &mut dyn Subject) {
    declare(subject, &["a"]).await;
    let delayed = Enqueue { ready_at: Some(subject.now() + HOUR), ..enqueue("a", 1_500) };
    publish(subject, (0..1_200).map(|number| enqueue("a", number)).chain([delayed]).collect()).await;
    let leased = lease_one(subject, "a").await;
    assert_eq!(subject.queue().discard(&queue("a")).await, Ok(1_200));
    assert_eq!(counts(subject, "a").await, [0, 1, 0, 0]);
    assert!(lease(subject, "a", 9).await.is_empty());
    settle(subject, &leased, Verdict::Done).await;
    assert_eq!(depth(subject, "a").await.bytes, 0);
    let events = subject.history().events(0, 5_000).await.expect("events");
    assert_eq!(events.len(), 1_200, "each of them is told of");
    let told: std::collections::BTreeSet<MessageId> = events.iter().map(|(_, event)| event.message).collect();
    assert_eq!(told.len(), 1_200);
}
