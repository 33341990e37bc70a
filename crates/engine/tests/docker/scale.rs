//! How many containers a step has: as its backlog asks for.

use super::place::{Place, does};

/// A trigger that polls in containers, and the target after it.
const POLL: &str = "name: test\nsteps:\n  work: { use: shell.poll, schedule: { cron: \"0 0 29 2 *\" }, \
    workers: { min: 0, max: 1 }, with: { fields: { does: echo } } }\n  target: { use: test.target, after: work }\n";

#[tokio::test(flavor = "multi_thread")]
async fn one_becomes_four_and_one_again() {
    let place = Place::new().await;
    place.bench.apply(&does("slow", ", workers: { min: 1, max: 4 }")).await;
    place.until(|place| place.running("work") == 1, "the one").await;
    let first = place.containers("work");
    assert_eq!(first.len(), 1);
    place.publish(300).await;
    place.until(|place| place.running("work") == 4, "four").await;
    place.until_seen(300).await;
    place.until(|place| place.workers("work").wanted == 1, "that one is enough").await;
    place.until(|place| place.containers("work").len() == 1, "the others to go").await;
    place.bench.until_idle().await;
    assert_eq!(place.bench.bodies().len(), 300);
    place.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_may_has_no_container_until_something_comes() {
    let place = Place::new().await;
    place.bench.apply(&does("echo", ", workers: { min: 0, max: 3 }")).await;
    for round in 1..3 {
        place.until(|place| place.workers("work").wanted == 0, "that nobody is wanted").await;
        place.until(|place| place.daemon.all(&place.server).is_empty(), "nobody").await;
        place.publish(1).await;
        place.until_seen(round).await;
    }
    place.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_poll_has_no_container() {
    let place = Place::new().await;
    let flow = place.bench.apply(POLL).await;
    for round in 1..3 {
        place.until(|place| place.daemon.all(&place.server).is_empty(), "nobody").await;
        place.bench.engine.run_now(&flow).await.unwrap();
        place.until_seen(round).await;
    }
    place.until(|place| place.daemon.all(&place.server).is_empty(), "nobody again").await;
    place.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_number_of_workers_changes_nothing_else() {
    let place = Place::new().await;
    place.bench.apply(&does("echo", "")).await;
    place.until(|place| place.running("work") == 1, "one").await;
    let first = place.containers("work");
    place.bench.apply(&does("echo", ", workers: 3")).await;
    place.until(|place| place.running("work") == 3, "three").await;
    assert!(place.containers("work").contains(&first[0]));
    place.bench.apply(&does("echo", ", workers: 1")).await;
    place.until(|place| place.containers("work").len() == 1, "one again").await;
    place.publish(5).await;
    place.until_seen(5).await;
    place.end().await;
}
