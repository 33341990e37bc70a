//! An outage elsewhere is a wait, not a failure: whatever way the target is down, everything
//! arrives when it is back, nobody acts, and no message's attempts are used up.

mod storm;

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use storm::{
    client,
    deliveries::Item,
    eventually,
    program::Installation,
    target::{Health, Target},
};

/// How many messages wait during the outage.
const MESSAGES: u64 = 200;
/// How long the target is down: longer than the flows with a short `for` retry a message.
const OUTAGE: Duration = Duration::from_secs(6);
/// The most requests during the outage. Those that were under way when it began fail once each;
/// after them one message at a time probes.
const MOST_ATTEMPTS: usize = 60;

/// Retries that would give every message up before the outage ends, if outages counted.
const SHORT: &str = "retry: { first: 100ms, factor: 1.5, longest: 1s, for: 2s }, ";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_answers_503_is_waited_for() {
    let target = Target::start(0);
    sit_out(target, SHORT, |target| target.becomes(Health::Unavailable), |target| target.becomes(Health::Well)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_refuses_connections_is_waited_for() {
    sit_out(Target::start(0), SHORT, Target::shut, Target::listen).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_never_answers_is_waited_for() {
    let well_again = |target: &mut Target| target.becomes(Health::Well);
    sit_out(Target::start(0), SHORT, |target| target.becomes(Health::Hanging), well_again).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_needs_to_be_configured_for_it() {
    sit_out(Target::start(0), "", Target::shut, Target::listen).await;
}

/// Sends messages while the target is down and looks at what became of them.
async fn sit_out(
    mut target: Target,
    settings: &str,
    down: impl FnOnce(&mut Target),
    up_again: impl FnOnce(&mut Target),
) {
    let installation = Installation::new("{}", &[("orders.yaml", flow(&target, settings))]);
    let _program = installation.up().await;
    let client = client::new();
    let hook = installation.url("/hook/orders");
    client::accepted(&client, &hook, &json!({ "id": 0 })).await;
    arrived(&target, 0).await;

    down(&mut target);
    let attempts_before = target.attempts();
    let mut executions = Vec::new();
    for id in 1..=MESSAGES {
        executions.push(client::accepted(&client, &hook, &json!({ "id": id })).await);
    }
    sleep(OUTAGE).await;
    let attempts = target.attempts() - attempts_before;
    assert!(attempts <= MOST_ATTEMPTS, "{attempts} requests during the outage");

    up_again(&mut target);
    for id in 1..=MESSAGES {
        arrived(&target, id).await;
    }
    assert_eq!(target.deliveries().violations(), Vec::<String>::new());
    assert_eq!(installation.dead_letters("orders").await, Vec::<Value>::new(), "an outage kills no message");
    assert_few_attempts(&installation, &executions).await;
}

async fn arrived(target: &Target, id: u64) {
    let item = Item::new("orders", id);
    eventually("a message arrives after the outage", async || target.deliveries().has(&item)).await;
}

/// Most messages waited for the whole outage without a single attempt.
async fn assert_few_attempts(installation: &Installation, executions: &[String]) {
    let mut untouched = 0;
    for execution in executions {
        let shown = installation.api(&format!("/executions/{execution}")).await;
        let steps = shown["steps"].as_array().cloned().unwrap_or_default();
        let attempts = steps.iter().filter_map(|step| step["attempts"].as_array()).map(Vec::len).max();
        assert!(attempts.is_some(), "an execution without attempts: {shown}");
        untouched += usize::from(attempts == Some(1));
    }
    let needed = executions.len() * 3 / 4;
    assert!(untouched >= needed, "only {untouched} of {} messages kept their attempts", executions.len());
}

fn flow(target: &Target, settings: &str) -> String {
    let url = target.url("/deliver/orders");
    format!(
        "name: orders
steps:
  form: {{ use: webhook.receive }}
  push: {{ after: form, use: http.request, {settings}with: {{ method: POST, url: '{url}', body: '{{{{ $ }}}}', timeout: 1s }} }}
"
    )
}
