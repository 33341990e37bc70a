//! Flows through a real engine with real queues: what arrives, what is retried, what is kept.

mod support;

use std::time::Duration;

use flowline_engine::{ExecutionFilter, ExecutionStatus, StepState};
use flowline_model::{EventKind, Fault, FlowName, StepId};
use flowline_queue::{DeadLetterFilter, Replay};
use serde_json::{Value, json};
use support::{Bench, numbers};

const SIMPLE: &str = "
name: simple
steps:
  source: { use: test.count, with: { items: 3, chunk: 3 }, schedule: { cron: '0 0 1 1 *' } }
  first: { use: test.target, after: source, with: { value: 'first {{ number }}' } }
  second: { use: test.target, after: first, when: number < 2, with: { value: 'second {{ number }}', only: false } }
";

fn sorted(bodies: Vec<Value>) -> Vec<String> {
    let mut texts: Vec<String> = bodies.iter().map(Value::to_string).collect();
    texts.sort();
    texts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inputs_pass_every_step_that_lets_them_in() {
    let bench = Bench::new().await;
    let flow = bench.apply(SIMPLE).await;
    let ids = bench.engine.publish(&flow, numbers(3)).await.unwrap();
    bench.until_idle().await;
    let expected = ["\"first 0\"", "\"first 1\"", "\"first 2\"", "\"second 0\"", "\"second 1\""];
    assert_eq!(sorted(bench.bodies()), expected);

    let detail = bench.engine.records().execution(ids[0]).await.unwrap().unwrap();
    assert_eq!(detail.execution.status, ExecutionStatus::Done);
    assert_eq!(detail.steps.len(), 2);
    assert_eq!(detail.steps[0].input, Some(json!({ "number": 0 })));
    assert_eq!(detail.steps[0].outputs[0].to, Some(StepId::new("second").unwrap()));
    assert_eq!(detail.steps[1].outputs[0].body, json!({ "number": 0 }));
    assert_eq!(detail.steps[1].attempts[0].kind, EventKind::Done);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_is_retried_and_what_is_rejected_is_kept() {
    let bench = Bench::new().await;
    let flow = bench
        .apply(
            &SIMPLE
                .replace("first:", "first: # quick retries\n   ")
                .replace("use: test.target, after: source", "use: test.target, after: source, retry: { first: 20ms }"),
        )
        .await;
    bench.fail([Fault::retry("busy", "later"), Fault::reject("bad", "never")]);
    bench.engine.publish(&flow, numbers(2)).await.unwrap();
    bench.until_idle().await;
    assert_eq!(bench.bodies().len(), 2, "one message passed both steps: {:?}", bench.bodies());
    let dead = bench.engine.records().dead_letters(&DeadLetterFilter::default(), 10).await.unwrap();
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].fault.code, "bad");

    let failed = ExecutionFilter { status: Some(ExecutionStatus::Failed), limit: 10, ..Default::default() };
    assert_eq!(bench.engine.records().executions(&failed).await.unwrap().len(), 1);

    let replayed = bench.engine.records().replay(&DeadLetterFilter::default(), &Replay::default()).await.unwrap();
    assert_eq!(replayed, 1);
    bench.until_idle().await;
    assert_eq!(bench.bodies().len(), 4);
    assert!(bench.engine.records().executions(&failed).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_is_an_attempt_and_nothing_more() {
    let bench = Bench::new().await;
    let flow = bench.apply(&SIMPLE.replace("after: source,", "after: source, retry: { first: 20ms },")).await;
    bench.fail([Fault::retry("panic", "")]);
    let ids = bench.engine.publish(&flow, numbers(1)).await.unwrap();
    bench.until_seen(2).await;
    bench.until_idle().await;
    let detail = bench.engine.records().execution(ids[0]).await.unwrap().unwrap();
    assert_eq!(detail.steps[0].attempts[0].fault.as_ref().unwrap().code, "panic");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_credential_pauses_the_step_and_nothing_is_used_up() {
    let bench = Bench::new().await;
    let flow = bench.apply(SIMPLE).await;
    let first = StepId::new("first").unwrap();
    bench.fail((0..16).map(|_| Fault::unauthorized("http_401", "the token is not accepted")));
    bench.engine.publish(&flow, numbers(3)).await.unwrap();
    let paused = || {
        let flows = bench.engine.flows();
        flows[0].steps.iter().any(|step| step.id == first && step.state == StepState::Paused && step.alert.is_some())
    };
    bench.until(paused, "the step to pause itself").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(bench.bodies().is_empty());
    bench.script.lock().unwrap().clear();

    let bench = bench.restart().await;
    assert_eq!(bench.engine.flows()[0].steps[1].state, StepState::Paused, "a pause outlives a restart");
    bench.engine.resume(&flow, Some(&first)).await.unwrap();
    bench.until_seen(5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_a_wait_and_uses_up_no_attempts() {
    let bench = Bench::new().await;
    let flow = bench
        .apply(&SIMPLE.replace("after: source,", "after: source, prefetch: 1, retry: { first: 20ms, for: 1ms },"))
        .await;
    bench.fail((0..6).map(|_| Fault::outage("http_503", "down")));
    bench.engine.publish(&flow, numbers(50)).await.unwrap();
    bench.until_seen(52).await;
    bench.until_idle().await;
    let all = ExecutionFilter { limit: 100, ..Default::default() };
    let executions = bench.engine.records().executions(&all).await.unwrap();
    assert_eq!(executions.iter().map(|execution| execution.retried).sum::<u32>(), 6);
    assert!(executions.iter().all(|execution| execution.status == ExecutionStatus::Done));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poll_emits_in_chunks_and_goes_on_where_it_stopped() {
    let bench = Bench::new().await;
    let flow = bench.apply(&SIMPLE.replace("items: 3, chunk: 3", "items: 10, chunk: 3")).await;
    bench.engine.run_now(&flow).await.unwrap();
    bench.until_seen(12).await;
    let bench = bench.restart().await;
    bench.engine.run_now(&flow).await.unwrap();
    bench.until_seen(22).await;
    bench.until_idle().await;
    let firsts = bench.bodies().iter().filter(|body| body.as_str().unwrap().starts_with("first")).count();
    assert_eq!(firsts, 20);
    let mut distinct: Vec<_> =
        bench.seen.lock().unwrap().iter().map(|(step, id, _)| (step.clone(), id.clone())).collect();
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), 22, "every message has an id of its own");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schedule_keeps_its_beat_and_stops_with_its_flow() {
    let bench = Bench::new().await;
    let flow = bench.apply(&SIMPLE.replace("cron: '0 0 1 1 *'", "every: 1s")).await;
    bench.until(|| *bench.polls.lock().unwrap() >= 2, "two polls").await;
    bench.engine.retire(&flow).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let stopped = *bench.polls.lock().unwrap();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(*bench.polls.lock().unwrap(), stopped);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_is_kept_for_the_queue_and_for_each_key() {
    let bench = Bench::new().await;
    let ordered = "
name: ordered
steps:
  source: { use: test.count, with: { items: 1, chunk: 1 }, schedule: { cron: '0 0 1 1 *' } }
  whole: { use: test.target, after: source, order: true, retry: { first: 20ms } }
";
    let flow = bench.apply(ordered).await;
    bench.fail([Fault::retry("busy", "later"), Fault::retry("busy", "later")]);
    bench.engine.publish(&flow, numbers(30)).await.unwrap();
    bench.until_seen(30).await;
    assert_eq!(bench.bodies(), numbers(30));

    bench.seen.lock().unwrap().clear();
    let by_key = ordered.replace("order: true", "order: '{{ number % 3 }}'");
    let flow = bench.apply(&by_key).await;
    bench.fail([Fault::retry("busy", "later")]);
    bench.engine.publish(&flow, numbers(30)).await.unwrap();
    bench.until_seen(30).await;
    for key in 0..3 {
        let of_key: Vec<_> =
            bench.bodies().into_iter().filter(|body| body["number"].as_u64().unwrap() % 3 == key).collect();
        let expected: Vec<_> =
            numbers(30).into_iter().filter(|body| body["number"].as_u64().unwrap() % 3 == key).collect();
        assert_eq!(of_key, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_flow_fills_its_queues_and_a_discard_counts_what_it_throws_away() {
    let bench = Bench::new().await;
    let flow = bench.apply(SIMPLE).await;
    bench.engine.pause(&flow, None).await.unwrap();
    bench.engine.publish(&flow, numbers(7)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(bench.bodies().is_empty());
    assert_eq!(bench.engine.discard(&flow, None).await.unwrap(), 7);
    bench.engine.publish(&flow, numbers(1)).await.unwrap();
    let bench = bench.restart().await;
    assert!(bench.engine.flows()[0].paused);
    bench.engine.resume(&flow, None).await.unwrap();
    bench.until_seen(2).await;
    bench.until_idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_execution_ends_on_the_version_it_began_with() {
    let bench = Bench::new().await;
    let flow = bench.apply(SIMPLE).await;
    bench.engine.pause(&flow, None).await.unwrap();
    bench.engine.publish(&flow, numbers(1)).await.unwrap();
    // The new version has no step `second`, and another text in `first`.
    let newer = SIMPLE.lines().filter(|line| !line.contains("second")).collect::<Vec<_>>().join("\n");
    bench.apply(&newer.replace("first {{", "newer {{")).await;
    bench.engine.publish(&flow, numbers(1)).await.unwrap();
    bench.engine.resume(&flow, None).await.unwrap();
    bench.until_seen(3).await;
    bench.until_idle().await;
    assert_eq!(sorted(bench.bodies()), ["\"first 0\"", "\"newer 0\"", "\"second 0\""]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_are_told_to_the_step_for_them() {
    let bench = Bench::new().await;
    let flow = "
name: alerting
on_error: alert
steps:
  source: { use: test.count, with: { items: 1, chunk: 1 }, schedule: { cron: '0 0 1 1 *' } }
  fragile: { use: test.target, after: source, with: { value: '{{ $toMillis($string(number) & \"x\") }}' } }
  alert: { use: test.target, with: { value: '{{ step & \": \" & fault.code }}' } }
";
    let flow = bench.apply(flow).await;
    bench.engine.publish(&flow, numbers(1)).await.unwrap();
    bench.until_seen(1).await;
    bench.until_idle().await;
    assert_eq!(bench.bodies(), [json!("fragile: expression")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_holds_back_its_upstream_and_refuses_input() {
    let bench = Bench::new().await;
    let flow = "
name: narrow
steps:
  source: { use: test.count, with: { items: 1, chunk: 1 }, schedule: { cron: '0 0 1 1 *' } }
  wide: { use: test.target, after: source, limit: { messages: 40 } }
  narrow: { use: test.target, after: wide, limit: { messages: 5 }, with: { only: false } }
";
    let flow = bench.apply(flow).await;
    let narrow = StepId::new("narrow").unwrap();
    bench.engine.pause(&flow, Some(&narrow)).await.unwrap();
    for _ in 0..6 {
        bench.engine.publish(&flow, numbers(5)).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let passed = bench.bodies().len();
    assert!((5..30).contains(&passed), "the step before the full queue goes on: {passed}");
    let mut refused = false;
    for _ in 0..6 {
        refused |= bench.engine.publish(&flow, numbers(5)).await.is_err();
    }
    assert!(refused);
    bench.engine.resume(&flow, Some(&narrow)).await.unwrap();
    bench.until_idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_engines_in_one_process_do_not_know_each_other() {
    let (one, other) = (Bench::new().await, Bench::new().await);
    let flow = one.apply(SIMPLE).await;
    one.engine.publish(&flow, numbers(1)).await.unwrap();
    one.until_seen(2).await;
    assert!(other.engine.flows().is_empty());
    assert!(other.engine.publish(&FlowName::new("simple").unwrap(), numbers(1)).await.is_err());
    assert!(other.bodies().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_that_hangs_ends_with_its_time_limit_and_shutdown_gives_back_what_runs() {
    let bench = Bench::new().await;
    let slow = SIMPLE.replace("'first {{ number }}'", "'first {{ number }}', takes: 30s");
    let flow = bench.apply(&slow.replace("after: source,", "after: source, timeout: 200ms,")).await;
    let ids = bench.engine.publish(&flow, numbers(1)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(600)).await;
    bench.engine.caught_up().await.unwrap();
    let detail = bench.engine.records().execution(ids[0]).await.unwrap().unwrap();
    assert_eq!(detail.steps[0].attempts[0].fault.as_ref().unwrap().code, "timeout");

    bench.apply(&slow).await;
    bench.engine.publish(&flow, numbers(1)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let bench = bench.restart().await;
    bench.apply(SIMPLE).await;
    let depths = bench.engine.records().queues().await.unwrap();
    assert!(depths.iter().any(|depth| depth.ready + depth.leased + depth.delayed > 0), "{depths:?}");
}
