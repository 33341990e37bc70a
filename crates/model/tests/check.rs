//! Checking flows: what is found, where, and what is said about it.

mod operations;

use flowline_model::{
    ContainerLimits, OperationSpec, Plan, ProblemCode, RetryPolicy, Runtime, Size, StepId, StepPlan, Template, Workers,
    check, plan::Ordering,
};
use operations::{flow, operations, plan, problems};

/// One case for each way to go wrong: a name, the code that it must have, and the document.
fn cases() -> Vec<(&'static str, ProblemCode, String)> {
    use ProblemCode::*;
    let step = |rest: &str| flow(&format!("  next: {{ use: transform.map, after: in, {rest} }}\n"));
    let request = |with: &str| flow(&format!("  next: {{ use: http.request, after: in, with: {{ {with} }} }}\n"));
    let hook = |with: &str| format!("name: test\nsteps:\n  in: {{ use: webhook.receive, with: {{ {with} }} }}\n");
    let deep = "[".repeat(70);
    vec![
        ("not yaml", Syntax, "name: test\nsteps: [".into()),
        ("tab", Syntax, "name: test\nsteps:\n\tin: {}\n".into()),
        ("unquoted braces", Syntax, "name: test\nsteps:\n  in:\n    use: {{ x }}\n".into()),
        ("two documents", Syntax, "name: a\n---\nname: b\n".into()),
        ("unknown alias", Syntax, "name: *nobody\n".into()),
        ("deep", TooLarge, format!("name: {deep}")),
        ("duplicate key", DuplicateKey, "name: a\nsteps: {}\nname: b\n".into()),
        ("empty", WrongType, String::new()),
        ("a list", WrongType, "- a\n".into()),
        ("no name, no steps", MissingField, "description: x\n".into()),
        ("steps is a list", WrongType, "name: test\nsteps:\n  - use: webhook.receive\n".into()),
        ("a step is a text", WrongType, "name: test\nsteps:\n  in: webhook.receive\n".into()),
        ("unknown key of flow", UnknownKey, "name: test\nstep: {}\nsteps:\n  in: { use: webhook.receive }\n".into()),
        ("unknown key of step", UnknownKey, step("wiht: {}")),
        ("unknown field", UnknownKey, request("url: x, metod: GET")),
        ("unknown nested field", UnknownKey, hook("verify: { hmac: { secret: s, heder: x } }")),
        ("unknown tagged field", UnknownKey, request("url: x, pages: { by: number, parametr: p }")),
        ("no use", MissingField, "name: test\nsteps:\n  in: { title: Hi }\n".into()),
        ("missing field", MissingField, request("method: GET")),
        ("missing nested field", MissingField, hook("verify: { hmac: { secret: s } }")),
        ("wrong type", WrongType, request("url: 7, follow: 'yes', tries: many")),
        ("wrong type of headers", WrongType, request("url: x, headers: [a]")),
        ("wrong choice", InvalidValue, request("url: x, method: PUT")),
        ("wrong choice nested", InvalidValue, hook("verify: hmca")),
        ("wrong alternative", UnknownKey, hook("verify: { hmca: { secret: s, header: x } }")),
        ("wrong tag", InvalidValue, request("url: x, pages: { by: nummer, parameter: p }")),
        ("not a lapse", InvalidValue, request("url: x, timeout: soon")),
        ("not a size", InvalidValue, request("url: x, largest: big")),
        ("out of range", InvalidValue, request("url: x, tries: 300")),
        ("workers", InvalidValue, step("with: { map: 1 }, workers: 0, prefetch: 1.5")),
        ("rate", InvalidValue, step("with: { map: 1 }, rate: 20 per second")),
        ("timeout", InvalidValue, step("with: { map: 1 }, timeout: 5 parsecs")),
        ("retry", InvalidValue, step("with: { map: 1 }, retry: { first: x, factor: 0.5, fro: 1h }")),
        ("limit", InvalidValue, step("with: { map: 1 }, limit: { messages: 0, bytes: 1 parsec }")),
        ("name of flow", InvalidName, "name: My Flow\nsteps:\n  in: { use: webhook.receive }\n".into()),
        ("name of step", InvalidName, "name: test\nsteps:\n  In: { use: webhook.receive }\n".into()),
        ("name in after", InvalidName, flow("  next: { use: transform.map, after: 'in put', with: { map: 1 } }\n")),
        ("unknown operation", UnknownOperation, flow("  next: { use: transfrom.map, after: in }\n")),
        ("unknown step", UnknownStep, flow("  next: { use: transform.map, after: inn, with: { map: 1 } }\n")),
        ("unknown step in on_error", UnknownStep, flow("on_error: alrt\n")),
        ("unknown step in expression", UnknownStep, step("with: { map: '{{ $steps.inn.a }}' }")),
        ("output needed", UnknownOutput, flow(&router("way"))),
        ("unknown output", UnknownOutput, flow(&router("way.larg"))),
        ("no named outputs", UnknownOutput, flow("  next: { use: transform.map, after: in.big, with: { map: 1 } }\n")),
        ("after a step without outputs", UnknownOutput, flow("  log: { use: log.write, after: in }\n  next: { use: transform.map, after: log, with: { map: 1 } }\n")),
        ("no trigger", NoTrigger, "name: test\nsteps:\n  next: { use: transform.map, with: { map: 1 } }\n".into()),
        ("no steps", NoTrigger, "name: test\nsteps: {}\n".into()),
        ("two triggers", TwoTriggers, flow("  also: { use: webhook.receive }\n")),
        ("trigger after", TriggerAfter, "name: test\nsteps:\n  in: { use: webhook.receive, after: next }\n  next: { use: transform.map, with: { map: 1 } }\n".into()),
        ("trigger with when", InvalidValue, "name: test\nsteps:\n  in: { use: webhook.receive, when: 'a' }\n".into()),
        ("unreachable", Unreachable, flow("  lost: { use: transform.map, with: { map: 1 } }\n")),
        ("self-loop", Cycle, flow("  next: { use: transform.map, after: [in, next], with: { map: 1 } }\n")),
        ("long cycle", Cycle, flow("  a: { use: transform.map, after: [in, c], with: { map: 1 } }\n  b: { use: transform.map, after: a, with: { map: 1 } }\n  c: { use: transform.map, after: b, with: { map: 1 } }\n")),
        ("bad expression", BadExpression, step("with: { map: { a: '{{ first & }}' } }")),
        ("unclosed", BadExpression, step("with: { map: 'Hi {{ first' }")),
        ("bad when", BadExpression, step("when: 'a >', with: { map: 1 }")),
        ("bad order", BadExpression, step("order: '{{ a. }}', with: { map: 1 }")),
        ("bad deferred", BadExpression, flow("  way: { use: router.switch, after: in, with: { routes: { large: 'total >' } } }\n")),
        ("when is a number", WrongType, step("when: 7, with: { map: 1 }")),
        ("not earlier", NotEarlier, flow("  a: { use: transform.map, after: in, with: { map: '{{ $steps.b.x }}' } }\n  b: { use: transform.map, after: in, with: { map: 1 } }\n")),
        ("itself", NotEarlier, step("with: { map: '{{ $steps.next.x }}' }")),
        ("not earlier in when", NotEarlier, flow("  a: { use: transform.map, after: in, when: $steps.b.ok, with: { map: 1 } }\n  b: { use: transform.map, after: in, with: { map: 1 } }\n")),
        ("no message yet", UnknownVariable, hook("path: '{{ $headers.a }}'")),
        ("mistyped variable", UnknownVariable, step("with: { map: '{{ $step.in.a }}' }")),
        ("no schedule", BadSchedule, "name: test\nsteps:\n  in: { use: http.poll, with: { url: x } }\n".into()),
        ("schedule of an action", BadSchedule, step("schedule: { every: 5m }, with: { map: 1 }")),
        ("both", BadSchedule, polling("every: 5m, cron: '* * * * *'")),
        ("neither", BadSchedule, polling("")),
        ("too often", BadSchedule, polling("every: 10ms")),
        ("not cron", BadSchedule, polling("cron: '61 * * * *'")),
        ("no such zone", BadSchedule, polling("cron: '0 8 * * *', time_zone: Europe/Berlinn")),
        ("never", BadSchedule, polling("cron: '0 0 31 2 *'")),
        ("every is no lapse", InvalidValue, polling("every: often")),
        ("misfire", InvalidValue, polling("every: 5m, misfire: onec")),
        ("twice after", InvalidValue, flow("  next: { use: transform.map, after: [in, in], with: { map: 1 } }\n")),
        ("unknown function", UnknownVariable, step("with: { map: '{{ $lowercas(a) }}' }")),
        ("unknown variable in deferred", UnknownVariable, flow("  way: { use: router.switch, after: in, with: { routes: { large: $body.total > 9 } } }\n")),
        ("not a runtime", InvalidValue, step("with: { map: 1 }, runtime: dokcer")),
        ("runtime is a number", WrongType, step("with: { map: 1 }, runtime: 1")),
        ("runtime of the flow", InvalidValue, flow("runtime: kubernetes\n")),
        ("workers as a map", InvalidValue, step("with: { map: 1 }, runtime: docker, workers: { min: 3, max: 2 }")),
        ("workers without max", MissingField, step("with: { map: 1 }, runtime: docker, workers: { min: 3, maximum: 4 }")),
        ("workers out of range", InvalidValue, step("with: { map: 1 }, runtime: docker, workers: { min: -1, max: 1001 }")),
        ("container", InvalidValue, step("with: { map: 1 }, runtime: docker, container: { memory: 1MiB, cpus: 0, pids: none, disk: 1 }")),
        ("a webhook in a container", WrongRuntime, "name: test\nsteps:\n  in: { use: webhook.receive, runtime: docker }\n".into()),
        ("an image in the process", WrongRuntime, flow("  next: { use: shop.create-order, after: in, runtime: task }\n")),
        ("an action as a process", WrongRuntime, step("with: { map: 1 }, runtime: process")),
        ("a flow of processes", WrongRuntime, flow("  next: { use: transform.map, after: in, with: { map: 1 } }\nruntime: process\n")),
        ("a scaled task", WrongRuntime, step("with: { map: 1 }, runtime: task, workers: { min: 0, max: 4 }")),
        ("a container of a task", WrongRuntime, step("with: { map: 1 }, runtime: task, container: { memory: 1GiB }")),
        ("prefetch of a process", WrongRuntime, flow("  next: { use: process.run, after: in, prefetch: 4, with: { command: [a] } }\n")),
        ("fields of a message", NotConstant, flow("  next: { use: shop.create-order, after: in, with: { fields: { shop: '{{ shop }}', all: ['{{ $headers.a }}', '{{ $var.b }}'] }, credential: { key: '{{ $secret.a & $steps.in.b }}' }, body: '{{ $ }}' } }\n")),
        ("a command of a message", NotConstant, flow("  next: { use: process.run, after: in, with: { command: [run, '{{ $.a }}'], input: '{{ a }}' } }\n")),
        ("on_error comes after", InvalidValue, flow("  alert: { use: log.write, after: in }\non_error: alert\n")),
        ("on_error is the trigger", InvalidValue, flow("on_error: in\n")),
    ]
}

fn router(after: &str) -> String {
    format!(
        "  way: {{ use: router.switch, after: in, with: {{ routes: {{ large: total > 9, small: total < 2 }} }} }}\n  \
         next: {{ use: transform.map, after: {after}, with: {{ map: 1 }} }}\n"
    )
}

fn polling(schedule: &str) -> String {
    format!("name: test\nsteps:\n  in: {{ use: http.poll, with: {{ url: x }}, schedule: {{ {schedule} }} }}\n")
}

#[test]
fn every_problem_is_found_where_it_is() {
    let mut told = String::new();
    for (name, _, text) in cases() {
        told += &format!("## {name}\n{}\n", problems(&text));
    }
    insta::assert_snapshot!(told);
}

#[test]
fn every_problem_has_its_code() {
    for (name, code, text) in cases() {
        let found = check(&text, &operations()).err().unwrap_or_default();
        assert!(found.iter().any(|problem| problem.code == code), "{name}: {found:#?}");
    }
    for code in ProblemCode::ALL {
        assert!(cases().iter().any(|case| case.1 == code), "no case for {code}");
    }
}

#[test]
fn several_problems_are_found_in_one_pass() {
    insta::assert_snapshot!(problems(
        "name: Bad Name
colour: red
steps:
  in:
    use: webhook.recieve
  map:
    use: transform.map
    after: [in, nowhere]
    when: 'a >'
    retries: 3
    with: { mapp: {} }
  mail:
    use: http.request
    after: map
    workers: many
    with: { url: 'https://x.example/{{ $steps.later.id }}', method: PSOT, follow: '{{ a }}' }
  later:
    use: http.request
    after: mail
on_error: alert
"
    ));
}

#[test]
fn an_expression_is_excused_from_its_type() {
    plan(&flow(
        "  next:
    use: http.request
    after: in
    with:
      url: 'https://x.example/{{ id }}'
      method: '{{ verb }}'
      tries: '{{ n }}'
      follow: '{{ a }}'
      timeout: '{{ wait }}'
      headers: '{{ headers }}'
      pages: '{{ pages }}'
      body: { a: ['{{ b }}', 1] }
",
    ));
    plan(&flow(
        "  next: { use: http.request, after: in, with: { url: x, pages: { by: number, parameter: '{{ p }}' } } }\n",
    ));
}

#[test]
fn deferred_expressions_stay_as_they_are() {
    let plan = plan(&flow(
        "  way: { use: router.switch, after: in, with: { routes: { large: 'total > 9', small: '{{ total < 2 }}' } } }\n",
    ));
    let with = &step_of(&plan, "way").with;
    let routes = serde_json::json!({"routes": {"large": "total > 9", "small": "{{ total < 2 }}"}});
    assert_eq!(with.constant(), Some(&routes));
}

#[test]
fn json_is_a_flow_too() {
    let plan = plan(
        r#"{"name": "test", "steps": {
        "in": {"use": "http.poll", "with": {"url": "x"}, "schedule": {"every": "5m"}},
        "next": {"use": "transform.map", "after": "in", "when": "{{ n > 1 }}", "with": {"map": {"a": "{{ n }}"}}}}}"#,
    );
    assert_eq!(plan.trigger().queue.to_string(), "test/in");
    assert_eq!(step_of(&plan, "next").when.as_ref().unwrap().source(), "n > 1");
    assert_eq!(plan.listed.iter().map(|step| step.as_str()).collect::<Vec<_>>(), ["in", "next"]);
}

#[test]
fn what_is_not_said_has_its_default() {
    let plan = plan(&flow("  next: { use: transform.map, after: in, with: { map: 1 } }\n"));
    let step = &step_of(&plan, "next");
    assert_eq!((step.workers, step.runtime, step.prefetch), (Workers::default(), None, None));
    let prefetches = Runtime::ALL.map(|runtime| step.prefetch_in(runtime).get());
    assert_eq!(prefetches, [16, 1, 1]);
    assert_eq!(step.container, ContainerLimits::default());
    assert_eq!(step.retry, RetryPolicy::default());
    assert_eq!(step.timeout.as_secs(), 300);
    assert_eq!(step.order, Ordering::Parallel);
    assert!(step.rate.is_none() && step.when.is_none() && step.limit.messages.is_none() && step.on_error.is_none());
}

#[test]
fn a_step_runs_where_it_says_else_where_its_flow_says() {
    let steps = "  a: { use: transform.map, after: in, with: { map: 1 } }
  b: { use: transform.map, after: a, runtime: task, with: { map: 1 } }
  c: { use: shop.create-order, after: b }
  d: { use: process.run, after: b, with: { command: [a] } }
";
    let runtimes = |text: &str| {
        let plan = plan(text);
        ["in", "a", "b", "c", "d"].map(|step| step_of(&plan, step).runtime)
    };
    use Runtime::{Docker, Process, Task};
    assert_eq!(runtimes(&flow(steps)), [Some(Task), None, Some(Task), Some(Docker), Some(Process)]);
    let in_docker = runtimes(&flow(&format!("{steps}runtime: docker\n")));
    assert_eq!(in_docker, [Some(Task), Some(Docker), Some(Task), Some(Docker), Some(Process)]);
}

#[test]
fn where_nothing_is_said_the_server_decides_as_far_as_the_operation_can() {
    use Runtime::{Docker, Process, Task};
    let action = OperationSpec::action("a.b", "", "");
    let webhook = OperationSpec::webhook("a.b", "", "");
    let image = OperationSpec::action("a.b", "", "").runtimes(&[Docker]);
    for (spec, asked, default, expected) in [
        (&action, None, Task, Task),
        (&action, None, Docker, Docker),
        (&action, Some(Task), Docker, Task),
        (&action, None, Process, Task),
        (&webhook, None, Docker, Task),
        (&image, None, Task, Docker),
        (&image, Some(Docker), Task, Docker),
    ] {
        assert_eq!(spec.runtime(asked, default), expected, "{:?} {asked:?} {default}", spec.runtimes);
    }
}

#[test]
fn workers_and_containers_are_as_they_are_written() {
    let plan = plan(&flow(
        "  a: { use: transform.map, after: in, workers: 3, prefetch: 2, with: { map: 1 } }
  b: { use: transform.map, after: in, runtime: docker, workers: { min: 0, max: 4 }, with: { map: 1 } }
  c: { use: shop.create-order, after: in, workers: { max: 4 }, container: { memory: 1GiB, cpus: 0.5, pids: 40 } }
",
    ));
    let workers = |step: &str| (step_of(&plan, step).workers.min, step_of(&plan, step).workers.max.get());
    assert_eq!([workers("a"), workers("b"), workers("c")], [(3, 3), (0, 4), (1, 4)]);
    assert_eq!(step_of(&plan, "a").prefetch_in(Runtime::Docker).get(), 2);
    let limits = ContainerLimits { memory: Size::mib(1024), cpus: 0.5, pids: 40 };
    assert_eq!(step_of(&plan, "c").container, limits);
}

#[test]
fn several_steps_fan_in_and_out() {
    let plan = plan(&flow(
        "  way: { use: router.switch, after: in, with: { routes: { large: a } } }
  big: { use: transform.map, after: way.large, when: b, with: { map: 1 } }
  all: { use: transform.map, after: [way.large, way.otherwise, big], order: true, with: { map: 1 } }
",
    ));
    let routes = |step: &str| {
        let route = |route: &flowline_model::plan::Route| (route.to.to_string(), route.output.clone());
        step_of(&plan, step).routes.iter().map(route).collect::<Vec<_>>()
    };
    let to = |step: &str, output: Option<&str>| (step.to_owned(), output.map(str::to_owned));
    assert_eq!(routes("in"), [to("way", None)]);
    assert_eq!(routes("way"), [to("big", Some("large")), to("all", Some("large")), to("all", Some("otherwise"))]);
    assert_eq!(routes("big"), [to("all", None)]);
    assert_eq!(step_of(&plan, "way").routes[1].order, Ordering::Whole);
}

#[test]
fn the_order_that_an_operation_needs_wins() {
    let plan = plan(&flow(
        "  keyed: { use: transform.aggregate, after: in, order: true, with: { key: '{{ id }}', count: 2 } }
  whole: { use: transform.aggregate, after: in, with: { count: 2 } }
  own: { use: transform.map, after: in, order: customer.id, with: { map: 1 } }
",
    ));
    let Ordering::Key(Template::Expression(key)) = &step_of(&plan, "keyed").order else { panic!("no key") };
    assert_eq!(key.source(), "id");
    assert_eq!(step_of(&plan, "whole").order, Ordering::Whole);
    assert!(matches!(&step_of(&plan, "own").order, Ordering::Key(_)));
}

#[test]
fn messages_carry_what_later_steps_read_and_no_more() {
    let plan = plan(&flow(
        "  a: { use: transform.map, after: in, with: { map: 1 } }
  b: { use: transform.map, after: a, with: { map: 1 } }
  c: { use: transform.map, after: b, when: $steps.a.ok, with: { map: '{{ $steps.in.x }}' } }
  d: { use: transform.map, after: c, order: $steps.b.id, with: { map: 1 } }
  all: { use: transform.map, after: a, with: { map: '{{ $lookup($steps, which) }}' } }
",
    ));
    let carries = |from: &str, to: &str| {
        let route = step_of(&plan, from).routes.iter().find(|route| route.to.as_str() == to).unwrap();
        route.carries.iter().map(|step| step.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(carries("in", "a"), ["in"]);
    assert_eq!(carries("a", "b"), ["a", "in"]);
    assert_eq!(carries("b", "c"), ["a", "b", "in"]);
    assert_eq!(carries("c", "d"), ["b"]);
    assert_eq!(carries("a", "all"), ["a", "in"]);
}

#[test]
fn failures_of_the_alert_alert_nobody() {
    let plan = plan(&flow(
        "  next: { use: transform.map, after: in, with: { map: 1 } }
  alert: { use: transform.map, with: { map: 1 } }
  mail: { use: http.request, after: alert, with: { url: x } }
on_error: alert
",
    ));
    let told = |step: &str| step_of(&plan, step).on_error.as_ref().map(|step| step.as_str());
    assert_eq!(["in", "next", "alert", "mail"].map(told), [Some("alert"), Some("alert"), None, None]);
}

fn step_of<'a>(plan: &'a Plan, name: &str) -> &'a StepPlan {
    &plan.steps[&StepId::new(name).unwrap()]
}
