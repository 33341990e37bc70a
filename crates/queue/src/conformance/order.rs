//! Order: of a queue, of what is due, and within groups.

use std::time::Duration;

use flowline_model::{Enqueue, Verdict};

use super::{
    Subject, counts, declare, enqueue, fault, finish, grouped, lease, lease_one, number, numbers, publish, settle,
};

const HOUR: Duration = Duration::from_secs(3_600);

pub(super) async fn messages_come_in_the_order_they_were_published(subject: &mut dyn Subject) {
    declare(subject, &["a"]).await;
    for start in [0, 10, 20] {
        publish(subject, (start..start + 10).map(|number| enqueue("a", number)).collect()).await;
    }
    assert_eq!(numbers(&lease(subject, "a", 7).await), (0..7).collect::<Vec<_>>());
    assert_eq!(numbers(&lease(subject, "a", 99).await), (7..30).collect::<Vec<_>>());
}

pub(super) async fn due_messages_come_before_ready_ones(subject: &mut dyn Subject) {
    declare(subject, &["a"]).await;
    let now = subject.now();
    let at = |number, minutes: u32| Enqueue {
        ready_at: Some(now + minutes * Duration::from_secs(60)),
        ..enqueue("a", number)
    };
    publish(subject, vec![enqueue("a", 1), at(2, 20), at(3, 10), at(4, 600)]).await;
    subject.pass(HOUR).await;
    publish(subject, vec![enqueue("a", 5)]).await;
    assert_eq!(numbers(&lease(subject, "a", 9).await), [3, 2, 1, 5]);
    assert_eq!(counts(subject, "a").await, [0, 4, 1, 0]);
}

pub(super) async fn a_group_is_delivered_one_at_a_time_in_order(subject: &mut dyn Subject) {
    declare(subject, &["a"]).await;
    let messages = [("x", 1), ("x", 2), ("y", 3), ("x", 4), ("y", 5)];
    publish(subject, messages.map(|(group, number)| grouped("a", number, group)).into()).await;
    publish(subject, vec![enqueue("a", 6)]).await;
    let first = lease(subject, "a", 9).await;
    assert_eq!(numbers(&first), [1, 3, 6]);
    assert_eq!(first[0].delivery.group.as_deref(), Some("x"));
    assert!(lease(subject, "a", 9).await.is_empty());
    finish(subject, &first[0]).await;
    let second = lease(subject, "a", 9).await;
    assert_eq!(numbers(&second), [2]);
    settle(subject, &second[0], Verdict::DeadLetter { fault: fault() }).await;
    finish(subject, &first[1]).await;
    assert_eq!(numbers(&lease(subject, "a", 9).await), [4, 5]);
}

pub(super) async fn a_retrying_message_holds_back_its_group_only(subject: &mut dyn Subject) {
    declare(subject, &["a"]).await;
    let messages = [("x", 1), ("x", 2), ("y", 3), ("y", 4)];
    publish(subject, messages.map(|(group, number)| grouped("a", number, group)).into()).await;
    let leases = lease(subject, "a", 2).await;
    assert_eq!(numbers(&leases), [1, 3]);
    settle(subject, &leases[0], Verdict::Retry { at: subject.now() + HOUR }).await;
    finish(subject, &leases[1]).await;
    let next = lease(subject, "a", 9).await;
    assert_eq!(numbers(&next), [4]);
    finish(subject, &next[0]).await;
    assert!(lease(subject, "a", 9).await.is_empty());
    subject.pass(2 * HOUR).await;
    let retried = lease_one(subject, "a").await;
    assert_eq!(number(&retried), 1);
    settle(subject, &retried, Verdict::Release).await;
    let again = lease(subject, "a", 9).await;
    assert_eq!(numbers(&again), [1]);
    finish(subject, &again[0]).await;
    assert_eq!(numbers(&lease(subject, "a", 9).await), [2]);
}

pub(super) async fn a_group_goes_on_after_a_restart(subject: &mut dyn Subject) {
    declare(subject, &["a"]).await;
    publish(subject, (1..=4).map(|number| grouped("a", number, "x")).collect()).await;
    finish(subject, &lease_one(subject, "a").await).await;
    let second = lease_one(subject, "a").await;
    settle(subject, &second, Verdict::Retry { at: subject.now() + HOUR }).await;
    subject.restart().await;
    assert!(lease(subject, "a", 9).await.is_empty(), "its head waits for its time");
    publish(subject, vec![grouped("a", 5, "x"), grouped("a", 6, "y")]).await;
    assert_eq!(numbers(&lease(subject, "a", 9).await), [6]);
    subject.pass(2 * HOUR).await;
    for expected in [2, 3, 4, 5] {
        let leases = lease(subject, "a", 9).await;
        let mut group = leases.iter().filter(|lease| lease.delivery.group.as_deref() == Some("x"));
        let lease = group.next().expect("the next of the group");
        assert_eq!(number(lease), expected);
        assert!(group.next().is_none());
        finish(subject, lease).await;
    }
}

pub(super) async fn a_long_queue_keeps_its_order(subject: &mut dyn Subject) {
    declare(subject, &["a"]).await;
    for start in 0..5 {
        let messages = (start * 1_000..(start + 1) * 1_000).map(|number| enqueue("a", number)).collect();
        publish(subject, messages).await;
    }
    assert_eq!(counts(subject, "a").await, [5_000, 0, 0, 0]);
    let mut seen = Vec::new();
    let kept = lease(subject, "a", 10).await;
    while seen.len() < 4_990 {
        let leases = lease(subject, "a", 100).await;
        assert!(!leases.is_empty(), "after {}", seen.len());
        seen.extend(numbers(&leases));
        for lease in &leases {
            settle(subject, lease, Verdict::Done).await;
        }
        if seen.len() == 2_000 {
            subject.restart().await;
            let again = lease(subject, "a", 10).await;
            assert_eq!(numbers(&again), numbers(&kept));
        }
    }
    assert_eq!(seen, (10..5_000).collect::<Vec<_>>());
}
