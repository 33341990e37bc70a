//! Placement: whether a step can run where it is said to, and what of its configuration must not
//! change from message to message there.

use crate::{
    OperationKind, OperationSpec, Template,
    document::{Content, Node},
    flow::{Placed, Step},
    problem::{Problem, ProblemCode},
    runtime::Runtime,
};

/// Where a step runs: as it says, else as its flow says, else as the server does (none). An
/// operation that runs in one place only runs there, whatever the flow prefers.
pub(crate) fn place(
    step: &Step,
    spec: &OperationSpec,
    flow: Option<&Placed<Runtime>>,
    problems: &mut Vec<Problem>,
) -> Option<Runtime> {
    let runtime = runtime(step, spec, flow, problems);
    if let Some(runtime) = runtime {
        check_workers(step, runtime, problems);
        check_container(step, runtime, problems);
        check_prefetch(step, runtime, problems);
    }
    runtime
}

fn runtime(
    step: &Step,
    spec: &OperationSpec,
    flow: Option<&Placed<Runtime>>,
    problems: &mut Vec<Problem>,
) -> Option<Runtime> {
    if let Some(said) = &step.runtime {
        if !spec.runtimes.contains(&said.value) {
            let message = format!("`{}` cannot run in `{}`", spec.name, said.value);
            problems.push(Problem::new(ProblemCode::WrongRuntime, said.span, message).hint(instead(spec)));
        }
        return Some(said.value);
    }
    if let [only] = *spec.runtimes {
        return Some(only);
    }
    let flow = flow?;
    if !spec.runtimes.contains(&flow.value) {
        let message = format!("`{}` of the step `{}` cannot run in `{}`", spec.name, step.id.value, flow.value);
        let problem = Problem::new(ProblemCode::WrongRuntime, flow.span, message);
        problems.push(problem.hint(format!("say it on that step: {}", choices(spec))));
    }
    Some(flow.value)
}

fn instead(spec: &OperationSpec) -> String {
    match (spec.kind, spec.runtimes.as_slice()) {
        (OperationKind::Webhook, _) => {
            "the server itself takes in the requests of a webhook trigger: leave `runtime` out".to_owned()
        }
        (_, [only]) => format!("it runs in `{only}` only: leave `runtime` out"),
        _ => format!("it can be: {}", choices(spec)),
    }
}

fn choices(spec: &OperationSpec) -> String {
    spec.runtimes.iter().map(|runtime| format!("`runtime: {runtime}`")).collect::<Vec<_>>().join(" or ")
}

fn check_workers(step: &Step, runtime: Runtime, problems: &mut Vec<Problem>) {
    let scaled = step.workers.as_ref().filter(|workers| workers.value.is_scaled());
    if let Some(workers) = scaled.filter(|_| runtime == Runtime::Task) {
        let message = "the workers of a step in the server's process are not scaled";
        problems.push(
            Problem::new(ProblemCode::WrongRuntime, workers.span, message)
                .hint("write one number, or let the step run in `docker`"),
        );
    }
}

fn check_container(step: &Step, runtime: Runtime, problems: &mut Vec<Problem>) {
    if let Some(container) = step.container.as_ref().filter(|_| runtime != Runtime::Docker) {
        let message = format!("the step runs in `{runtime}`: it has no container");
        problems.push(
            Problem::new(ProblemCode::WrongRuntime, container.span, message)
                .hint("leave `container` out, or let the step run in `docker`"),
        );
    }
}

fn check_prefetch(step: &Step, runtime: Runtime, problems: &mut Vec<Problem>) {
    let several = step.prefetch.as_ref().filter(|prefetch| prefetch.value.get() > 1);
    if let Some(prefetch) = several.filter(|_| runtime == Runtime::Process) {
        let message = "a child process takes one message at a time";
        problems.push(
            Problem::new(ProblemCode::WrongRuntime, prefetch.span, message).hint("say how many children: `workers`"),
        );
    }
}

/// What a worker is told once, when it starts, cannot read messages.
pub(crate) fn check_constants(with: &Node, spec: &OperationSpec, problems: &mut Vec<Problem>) {
    for field in &spec.constant {
        if let Some(entry) = with.get(field) {
            check_constant(&entry.value, field, problems);
        }
    }
}

fn check_constant(node: &Node, field: &str, problems: &mut Vec<Problem>) {
    match &node.content {
        Content::List(items) => items.iter().for_each(|item| check_constant(item, field, problems)),
        Content::Map(entries) => entries.iter().for_each(|entry| check_constant(&entry.value, field, problems)),
        Content::Scalar(_) => {
            let template = node.as_str().and_then(|text| Template::compile_text(text).ok());
            if template.is_some_and(|template| template.reads().is_of_a_message()) {
                let message = format!("`{field}` is told to a worker once, when it starts: it cannot read messages");
                problems.push(
                    Problem::new(ProblemCode::NotConstant, node.span, message)
                        .hint("it can read `$var`, `$secret` and `$flow`"),
                );
            }
        }
    }
}
