//! The decision: tables of what becomes of a delivery, and what holds for every one of them.

mod operations;

use std::{collections::BTreeSet, time::Duration};

use flowline_model::{
    Delivery, Emit, EventKind, Fault, Message, MessageId, Plan, QueueName, Recipient, Settlement, StepId, StepPlan,
    Timestamp, Verdict, decide,
    decide::{Circumstances, Outcome, REMINDER, begin},
    expression::{ExpressionError, Limits},
};
use operations::{flow, plan};
use proptest::prelude::*;
use serde_json::{Value, json};

const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_000);
const DAY: Duration = Duration::from_secs(86_400);

fn circumstances(vars: &Value) -> Circumstances<'_> {
    Circumstances { started_at: NOW, now: NOW, jitter: 1.0, emitted_before: 0, vars, limits: Limits::FULL }
}

fn step<'a>(plan: &'a Plan, name: &str) -> &'a StepPlan {
    &plan.steps[&StepId::new(name).unwrap()]
}

fn delivery(step: &StepPlan, body: Value) -> Delivery {
    let id = MessageId::root(NOW, [7; 10]);
    let message = Message {
        id,
        execution: MessageId::root(NOW, [1; 10]),
        parent: None,
        version: 3,
        body,
        headers: [("x-kept".to_owned(), "1".to_owned()), ("x-old".to_owned(), "old".to_owned())].into(),
        attachments: Vec::new(),
        steps: [(StepId::new("in").unwrap(), json!({"from": "in"}))].into(),
    };
    Delivery { queue: step.queue.clone(), message, attempt: 1, enqueued_at: NOW, first_failed_at: None, group: None }
}

fn settle(step: &StepPlan, outcome: Result<Outcome, Fault>) -> Settlement {
    let vars = json!({});
    decide(&delivery(step, json!({})), outcome, step, &circumstances(&vars)).unwrap()
}

fn emits(emits: Vec<Emit>) -> Result<Outcome, Fault> {
    Ok(Outcome { emits, ..Outcome::default() })
}

fn queues(settlement: &Settlement) -> Vec<String> {
    settlement.emits.iter().map(|emit| emit.queue.step.to_string()).collect()
}

/// A flow with a step of every kind of way out.
fn example() -> Plan {
    plan(&flow(
        "  work: { use: transform.map, after: in, with: { map: 1 } }
  way: { use: router.switch, after: work, with: { routes: { large: a } } }
  big: { use: transform.map, after: way.large, when: total > 9, order: customer.id, with: { map: 1 } }
  every: { use: transform.map, after: [way.large, way.otherwise], order: true, with: { map: '{{ $steps.in.x }}' } }
  odd: { use: transform.map, after: way.otherwise, when: \"total & 'x'\", with: { map: 1 } }
  hasty: { use: http.request, after: in, retry: false, with: { url: x } }
  end: { use: transform.map, after: work, when: $var.on, with: { map: 1 } }
  alert: { use: transform.map, with: { map: 1 } }
on_error: alert
",
    ))
}

#[test]
fn a_fault_of_each_kind_has_its_verdict() {
    let plan = example();
    let dead = |step| Case { step, failed: None, dead: true, event: Some(EventKind::DeadLettered) };
    let again = |step| Case { step, failed: None, dead: false, event: Some(EventKind::Retried) };
    for (case, fault) in [
        (again("work"), Fault::retry("http_500", "no")),
        (again("work"), Fault::outage("http_503", "down")),
        (dead("work"), Fault::reject("http_400", "bad")),
        (dead("hasty"), Fault::retry("http_500", "no")),
        (dead("hasty"), Fault::outage("http_503", "down")),
        (dead("in"), Fault::reject("broken", "bad")),
        (Case { failed: Some(DAY), ..dead("work") }, Fault::retry("http_500", "no")),
        (Case { failed: Some(DAY - Duration::from_millis(1)), ..again("work") }, Fault::retry("http_500", "no")),
        (Case { failed: Some(DAY * 9_999), ..again("work") }, Fault::outage("http_503", "down")),
        (Case { event: None, ..again("work") }, Fault::unauthorized("http_401", "who")),
        (Case { event: None, ..again("work") }, Fault::misconfigured("no_host", "where")),
        (Case { failed: Some(DAY), event: None, ..again("work") }, Fault::unauthorized("http_401", "who")),
    ] {
        case.check(&plan, &fault);
    }
}

/// What a fault is to lead to.
struct Case {
    step: &'static str,
    /// How long ago the first attempt failed.
    failed: Option<Duration>,
    dead: bool,
    event: Option<EventKind>,
}

impl Case {
    fn check(&self, plan: &Plan, fault: &Fault) {
        let step = step(plan, self.step);
        let vars = json!({});
        let mut delivery = delivery(step, json!({"a": 1}));
        let ago = self.failed.map_or(0, |ago| i64::try_from(ago.as_millis()).unwrap());
        delivery.first_failed_at = self.failed.map(|_| Timestamp::from_millis(NOW.as_millis() - ago));
        let settlement = decide(&delivery, Err(fault.clone()), step, &circumstances(&vars)).unwrap();
        match (&settlement.verdict, self.event) {
            (Verdict::DeadLetter { fault: told }, Some(_)) if self.dead => assert_eq!(told, fault),
            (Verdict::Retry { at }, Some(_)) => assert!(!self.dead && *at > NOW),
            (Verdict::Release, None) => assert!(!self.dead),
            (other, _) => panic!("{}: {fault:?} gives {other:?}", self.step),
        }
        let kinds: Vec<_> = settlement.events.iter().map(|event| event.kind).collect();
        assert_eq!(kinds, self.event.into_iter().collect::<Vec<_>>());
        assert_eq!(queues(&settlement), if self.dead { vec!["alert"] } else { vec![] });
        assert!(settlement.state.is_empty());
        assert!(settlement.events.iter().all(|event| event.fault.as_ref() == Some(fault)));
    }
}

#[test]
fn a_poll_is_never_given_up() {
    let plan = plan("name: test\nsteps:\n  in: { use: http.poll, with: { url: x }, schedule: { every: 5m } }\n");
    let step = plan.trigger();
    let mut delivery = delivery(step, json!({}));
    delivery.first_failed_at = Some(Timestamp::from_millis(0));
    delivery.attempt = u32::MAX;
    let vars = json!({});
    let settlement = decide(&delivery, Err(Fault::retry("x", "y")), step, &circumstances(&vars)).unwrap();
    assert!(matches!(settlement.verdict, Verdict::Retry { .. }));
}

#[test]
fn the_alert_says_what_happened() {
    let plan = example();
    let settlement = settle(step(&plan, "work"), Err(Fault::reject("http_400", "bad request")));
    let alert = &settlement.emits[0];
    insta::assert_json_snapshot!(alert.message.body);
    assert_eq!(settlement.events[0].emitted, 1);
    assert!(alert.message.headers.is_empty() && alert.message.steps.is_empty());
    assert_eq!(settle(step(&plan, "alert"), Err(Fault::reject("x", "y"))).emits, []);
}

#[test]
fn routes_let_in_what_their_conditions_hold_for() {
    let plan = example();
    let way = step(&plan, "way");
    let to = |output: &str, body: Value| queues(&settle(way, emits(vec![Emit::new(body).to_output(output)])));
    assert_eq!(to("large", json!({"total": 10})), ["big", "every"]);
    assert_eq!(to("large", json!({"total": 9})), ["every"]);
    assert_eq!(to("large", json!({})), ["every"]);
    assert_eq!(to("nowhere", json!({})), [""; 0]);
    // A condition that fails (its result is no truth value) lets the message in, to be seen.
    assert_eq!(to("otherwise", json!({"total": 1})), ["every", "odd"]);
    assert_eq!(queues(&settle(way, emits(vec![Emit::new(json!({}))]))), [""; 0]);
}

#[test]
fn conditions_see_variables() {
    let plan = example();
    let work = step(&plan, "work");
    for (vars, expected) in [(json!({"on": true}), vec!["way", "end"]), (json!({}), vec!["way"])] {
        let outcome = emits(vec![Emit::new(1)]);
        let settlement = decide(&delivery(work, json!({})), outcome, work, &circumstances(&vars)).unwrap();
        assert_eq!(queues(&settlement), expected);
    }
}

#[test]
fn groups_are_the_receivers_keys() {
    let plan = example();
    let group = |body: Value| {
        let settlement = settle(step(&plan, "way"), emits(vec![Emit::new(body).to_output("large")]));
        let groups: Vec<_> = settlement.emits.into_iter().map(|emit| emit.group).collect();
        groups
    };
    let key = |key: &str| vec![Some(key.to_owned()), Some(String::new())];
    assert_eq!(group(json!({"total": 10, "customer": {"id": "ada"}})), key("ada"));
    assert_eq!(group(json!({"total": 10, "customer": {"id": 7}})), key("7"));
    assert_eq!(group(json!({"total": 10})), key(""));
    let long = group(json!({"total": 10, "customer": {"id": "x".repeat(1_000)}}))[0].clone().unwrap();
    assert!(long.len() < 64, "{long}");
}

#[test]
fn headers_are_inherited_and_overridden() {
    let plan = example();
    let emit = Emit::new(1).header("x-old", "new").header("X-New", "1");
    let settlement = settle(step(&plan, "work"), emits(vec![emit]));
    let headers = json!(settlement.emits[0].message.headers);
    assert_eq!(headers, json!({"x-kept": "1", "x-old": "new", "x-new": "1"}));
}

#[test]
fn a_reminder_comes_back_and_its_mark_does_not_travel() {
    let plan = example();
    let work = step(&plan, "work");
    let settlement = settle(work, emits(vec![Emit::reminder(json!({"n": 1}), DAY)]));
    let reminder = &settlement.emits[0];
    assert_eq!((reminder.queue.clone(), reminder.ready_at), (work.queue.clone(), Some(NOW + DAY)));
    assert!(reminder.message.headers.contains_key(REMINDER));
    assert_eq!(settlement.events[0].outputs, Vec::<Value>::new());

    let mut due = delivery(work, json!({}));
    due.message = reminder.message.clone();
    let vars = json!({});
    let settlement = decide(&due, emits(vec![Emit::new(1)]), work, &circumstances(&vars)).unwrap();
    assert!(settlement.emits.iter().all(|emit| !emit.message.headers.contains_key(REMINDER)));
}

#[test]
fn messages_carry_what_their_route_says() {
    let plan = example();
    let settlement = settle(step(&plan, "way"), emits(vec![Emit::new(1).to_output("large")]));
    assert_eq!(queues(&settlement), ["every"]);
    assert_eq!(json!(settlement.emits[0].message.steps), json!({"in": {"from": "in"}}));
    assert_eq!(settlement.emits[0].message.parent, Some(MessageId::root(NOW, [7; 10])));
}

#[test]
fn what_nobody_receives_is_recorded_within_bounds() {
    let plan = example();
    let many = (0..100).map(|n| Emit::new(json!({ "n": n }))).collect();
    let settlement = settle(step(&plan, "big"), emits(many));
    assert_eq!(settlement.events[0].outputs.len(), 8);
    assert_eq!(settlement.events[0].outputs[1], json!({"n": 1}));

    let huge = Emit::new(json!({"text": "ä".repeat(1 << 20)}));
    let outputs = &settle(step(&plan, "big"), emits(vec![huge])).events[0].outputs;
    assert!(outputs[0].to_string().len() < 20_000);
    assert_eq!(outputs[0]["bytes"], json!((2 << 20) + 11));
}

#[test]
fn an_unfinished_poll_keeps_its_lease() {
    let plan = plan(
        "name: test\nsteps:\n  in: { use: http.poll, with: { url: x }, schedule: { every: 5m } }\n  \
                     next: { use: transform.map, after: in, with: { map: 1 } }\n",
    );
    let trigger = plan.trigger();
    let round = |emitted_before, more| {
        let outcome = Outcome { emits: vec![Emit::new(1), Emit::new(2)], more, ..Outcome::default() };
        let vars = json!({});
        let around = Circumstances { emitted_before, ..circumstances(&vars) };
        decide(&delivery(trigger, json!({})), Ok(outcome), trigger, &around).unwrap()
    };
    let (first, last) = (round(0, true), round(2, false));
    assert_eq!((&first.verdict, &last.verdict), (&Verdict::Continue, &Verdict::Done));
    let executions: BTreeSet<_> = first.events.iter().chain(&last.events).map(|event| event.execution).collect();
    assert_eq!(executions.len(), 4);
    assert_eq!(round(0, true), first);
}

#[test]
fn executions_begin_with_ids_that_follow_from_their_own() {
    let plan = example();
    let trigger = plan.trigger();
    let execution = MessageId::root(NOW, [9; 10]);
    let vars = json!({});
    let start = || begin(execution, 5, Emit::new(json!({"a": 1})), trigger, &circumstances(&vars)).unwrap();
    let (messages, event) = start();
    assert_eq!(messages.iter().map(|m| m.queue.step.to_string()).collect::<Vec<_>>(), ["work", "hasty"]);
    for enqueue in &messages {
        assert_eq!(enqueue.message.id, execution.child(&enqueue.queue.step, 0));
        assert_eq!((enqueue.message.execution, enqueue.message.version), (execution, 5));
        assert_eq!(enqueue.message.parent, None);
    }
    assert_eq!((event.kind, event.emitted, event.execution), (EventKind::Accepted, 2, execution));
    assert_eq!(start().0, messages);
}

#[test]
fn only_too_little_time_is_an_error() {
    let plan = plan(&flow(
        "  next: { use: transform.map, after: in, when: '($f := function() { $f() }; $f())', with: { map: 1 } }\n",
    ));
    let vars = json!({});
    let brief = Circumstances { limits: Limits::BRIEF, ..circumstances(&vars) };
    let error = begin(MessageId::root(NOW, [1; 10]), 1, Emit::new(1), plan.trigger(), &brief).unwrap_err();
    assert!(matches!(error, ExpressionError::Timeout(_)));
}

fn any_fault() -> impl Strategy<Value = Fault> {
    let kinds = [Fault::retry, Fault::outage, Fault::reject, Fault::unauthorized, Fault::misconfigured];
    (0..kinds.len(), proptest::option::of(0_u64..100_000)).prop_map(move |(kind, after)| {
        let fault: Fault = kinds[kind]("code", "message");
        match after {
            Some(seconds) => fault.after(Duration::from_secs(seconds)),
            None => fault,
        }
    })
}

fn any_emit() -> impl Strategy<Value = Emit> {
    let to = prop_oneof![
        Just(Recipient::Next),
        Just(Recipient::Myself),
        prop_oneof![Just("large"), Just("otherwise"), Just("odd")].prop_map(|name| Recipient::Output(name.into())),
    ];
    let body = prop_oneof![Just(json!({"total": 10})), Just(json!({})), Just(Value::Null), Just(json!("x"))];
    (to, body, proptest::option::of(0_u64..1_000)).prop_map(|(to, body, delay)| Emit {
        to,
        body,
        delay: delay.map(Duration::from_secs),
        ..Emit::default()
    })
}

fn any_outcome() -> impl Strategy<Value = Result<Outcome, Fault>> {
    let outcome = (proptest::collection::vec(any_emit(), 0..12), any::<bool>())
        .prop_map(|(emits, more)| Ok(Outcome { emits, more, ..Outcome::default() }));
    prop_oneof![outcome, any_fault().prop_map(Err)]
}

proptest! {
    #[test]
    fn every_delivery_has_one_fate(
        name in prop_oneof![Just("in"), Just("work"), Just("way"), Just("big"), Just("hasty"), Just("alert")],
        outcome in any_outcome(),
        attempt in 1_u32..,
        failed in proptest::option::of(any::<i64>()),
        jitter in 0.0..1.0_f64,
        emitted_before in 0_u64..1_000,
    ) {
        let plan = example();
        let step = step(&plan, name);
        let vars = json!({});
        let around = Circumstances { jitter, emitted_before, ..circumstances(&vars) };
        let mut delivery = delivery(step, json!({}));
        delivery.attempt = attempt;
        delivery.first_failed_at = failed.map(Timestamp::from_millis);
        let settlement = decide(&delivery, outcome.clone(), step, &around).unwrap();

        // Decided twice, it is the same, down to the ids.
        prop_assert_eq!(&decide(&delivery, outcome.clone(), step, &around).unwrap(), &settlement);
        // No two messages have one id, and none has the id of what was delivered.
        let ids: BTreeSet<_> = settlement.emits.iter().map(|emit| emit.message.id).collect();
        prop_assert_eq!(ids.len(), settlement.emits.len());
        prop_assert!(!ids.contains(&delivery.message.id));
        // Everything stays within the flow, and goes only to steps that there are.
        for emit in &settlement.emits {
            prop_assert_eq!(&emit.queue, &QueueName::new(plan.flow.clone(), emit.queue.step.clone()));
            prop_assert!(plan.steps.contains_key(&emit.queue.step));
        }
        let fits = match (&settlement.verdict, &outcome) {
            (Verdict::Done, Ok(outcome)) => !outcome.more,
            (Verdict::Continue, Ok(outcome)) => outcome.more,
            (Verdict::Retry { at }, Err(_)) => *at >= NOW && settlement.emits.is_empty(),
            (Verdict::Release, Err(_)) => settlement.emits.is_empty() && settlement.events.is_empty(),
            (Verdict::DeadLetter { fault }, Err(given)) => fault == given && settlement.emits.len() <= 1,
            _ => false,
        };
        prop_assert!(fits, "{:?} of {:?}", settlement.verdict, outcome);
    }
}
