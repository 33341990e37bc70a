//! Containers that end badly, or never begin: said, explained, and nobody else's concern.

use std::time::Duration;

use flowline_queue::{DeadLetter, Replay};

use super::place::{Place, does, flow};

async fn until_dead(place: &Place, count: usize) -> Vec<DeadLetter> {
    for _ in 0..2_400 {
        let letters = place.bench.engine.records().dead_letters(&Default::default(), 10).await.unwrap();
        if letters.len() >= count {
            return letters;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("no dead letter: {:#?}", place.bench.engine.flows());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_out_of_memory_says_what_to_do() {
    let place = Place::new().await;
    place.bench.apply(&does("memory", ", container: { memory: 16MiB }, retry: false")).await;
    place.publish(1).await;
    place.until(|place| place.trouble("work").is_some(), "trouble").await;
    let told = place.trouble("work").unwrap().message;
    assert!(told.contains("out of memory at 16MiB") && told.contains("raise `container.memory`"), "{told}");
    place.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_loop_backs_off_alone_and_ends_when_it_is_mended() {
    let place = Place::new().await;
    let two = |what: &str| {
        format!(
            "{}  beside: {{ use: shell.work, after: in, with: {{ fields: {{ does: echo }} }} }}\n  \
             end: {{ use: test.target, after: beside }}\n",
            does(what, "")
        )
    };
    place.bench.apply(&two("crash")).await;
    place.publish(3).await;
    place.until(|place| place.trouble("work").is_some_and(|told| told.failures >= 4), "a crash loop").await;
    let told = place.trouble("work").unwrap();
    assert!(told.message.contains("exit code 3"), "{told:?}");
    place.until(|place| place.trouble("work").is_some_and(|told| told.next_start.is_some()), "a wait").await;
    // The step beside it works as if nothing were.
    place.until_seen(3).await;
    assert_eq!(place.trouble("beside"), None);
    place.bench.apply(&two("echo")).await;
    place.until_seen(6).await;
    place.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_never_starts_says_why_and_a_mended_version_takes_over() {
    let place = Place::new().await;
    for (operation, part) in [("shell.broken", "not found"), ("shell.absent", "is not there and cannot be fetched")] {
        place.bench.apply(&flow(&format!("use: {operation}"))).await;
        place.until(|place| place.trouble("work").is_some_and(|told| told.message.contains(part)), part).await;
    }
    // What waited belongs to an operation that nobody does any more: set aside, and replayed.
    place.publish(2).await;
    let applied = place.bench.engine.apply(&does("echo", "")).await.unwrap();
    place.publish(1).await;
    place.until_seen(1).await;
    for letter in until_dead(&place, 2).await {
        assert_eq!(letter.fault.code, "earlier_operation");
    }
    let newest = Replay { version: Some(applied.version), ..Replay::default() };
    assert_eq!(place.bench.engine.records().replay(&Default::default(), &newest).await.unwrap(), 2);
    place.until_seen(3).await;
    place.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deaf_container_is_replaced() {
    let place = Place::new().await;
    place.bench.apply(&does("deaf", "")).await;
    place.until(|place| place.containers("work").len() == 1, "a container").await;
    let first = place.containers("work");
    let deaf = |place: &Place| place.trouble("work").is_some_and(|told| told.message.contains("took no messages"));
    place.until(deaf, "trouble").await;
    place.until(|place| place.containers("work").iter().any(|name| !first.contains(name)), "another").await;
    place.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_held_for_too_long_costs_its_worker() {
    let place = Place::new().await;
    place.bench.apply(&does("hang", ", timeout: 3s, retry: false, workers: 2")).await;
    place.publish(3).await;
    place.until_seen(2).await;
    assert_eq!(until_dead(&place, 1).await[0].fault.code, "timeout");
    place.end().await;
}
