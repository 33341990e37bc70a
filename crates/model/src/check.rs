//! Checking: from the text of a flow to its plan, or to everything that is wrong with it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    Expression, OperationKind, OperationSpec, Outputs, QueueName, Runtime, StepId, Template, config, document,
    expression::Reads,
    flow::{After, Flow, Order, Placed, Step},
    graph::Graph,
    placement,
    plan::{Ordering, Plan, Route, StepPlan},
    problem::{Problem, ProblemCode, Span},
};

/// Checks the text of a flow against the operations there are.
pub fn check(text: &str, operations: &BTreeMap<String, Arc<OperationSpec>>) -> Result<Plan, Vec<Problem>> {
    let document = document::read(text)?;
    let mut problems = Vec::new();
    let flow = Flow::read(&document, &mut problems);
    let plan = flow.and_then(|flow| Checker { flow: &flow, operations, problems: &mut problems }.plan());
    problems.sort_by_key(|problem| (problem.span, problem.code));
    problems.dedup();
    match plan {
        Some(plan) if problems.is_empty() => Ok(plan),
        _ => Err(problems),
    }
}

struct Checker<'a> {
    flow: &'a Flow,
    operations: &'a BTreeMap<String, Arc<OperationSpec>>,
    problems: &'a mut Vec<Problem>,
}

/// A step together with what its operation says of itself.
struct Resolved<'a> {
    step: &'a Step,
    spec: &'a OperationSpec,
    with: Template,
    reads: Reads,
    runtime: Option<Runtime>,
}

impl<'a> Checker<'a> {
    fn plan(&mut self) -> Option<Plan> {
        let resolved: Vec<Resolved<'a>> = self.flow.steps.iter().filter_map(|step| self.resolve(step)).collect();
        self.check_names();
        let trigger = self.trigger(&resolved);
        let graph = Graph::of(self.flow);
        self.check_reach(&graph, &resolved);
        for step in &resolved {
            self.check_after(step, &resolved);
            self.check_schedule(step);
            self.check_reads(step, &graph);
            self.check_on_error(step);
        }
        let trigger = trigger?;
        let steps = resolved.iter().map(|step| (step.step.id.value.clone(), self.step_plan(step, &resolved, &graph)));
        Some(Plan {
            flow: self.flow.name.clone(),
            description: self.flow.description.clone(),
            trigger,
            steps: steps.collect(),
            listed: self.flow.steps.iter().map(|step| step.id.value.clone()).collect(),
        })
    }

    fn note(&mut self, code: ProblemCode, span: Span, message: impl Into<String>) {
        self.problems.push(Problem::new(code, span, message));
    }

    /// Finds the operation and compiles the configuration.
    fn resolve(&mut self, step: &'a Step) -> Option<Resolved<'a>> {
        let name = &step.operation.value;
        let Some(spec) = self.operations.get(name) else {
            let message = format!("there is no operation `{name}`");
            let problem = Problem::new(ProblemCode::UnknownOperation, step.operation.span, message);
            self.problems.push(problem.did_you_mean(name, self.operations.keys().map(String::as_str)));
            return None;
        };
        let with = config::compile(&step.with, spec, self.problems);
        placement::check_constants(&step.with, spec, self.problems);
        let runtime = placement::place(step, spec, self.flow.runtime.as_ref(), self.problems);
        let mut reads = with.reads();
        let order = step.order.as_ref().and_then(|order| match &order.value {
            Order::Key(key) => Some(key),
            Order::Whole => None,
        });
        let conditions = step.when.as_ref().map(|when| &when.value);
        conditions.into_iter().chain(order).for_each(|expression| reads.extend(&expression.reads()));
        Some(Resolved { step, spec, with, reads, runtime })
    }

    fn step_named(&self, id: &StepId) -> Option<&'a Step> {
        self.flow.steps.iter().find(|step| step.id.value == *id)
    }

    fn unknown_step(&mut self, id: &StepId, span: Span) {
        if self.flow.unread.iter().any(|name| name == id.as_str()) {
            return;
        }
        let known: Vec<&str> = self.flow.steps.iter().map(|step| step.id.value.as_str()).collect();
        let problem = Problem::new(ProblemCode::UnknownStep, span, format!("there is no step `{id}`"));
        self.problems.push(problem.did_you_mean(id.as_str(), known));
    }

    fn check_names(&mut self) {
        let named = self.flow.steps.iter().flat_map(|step| &step.after);
        let named = named.map(|after| (&after.value.step, after.span));
        let on_error = self.flow.on_error.iter().map(|step| (&step.value, step.span));
        for (id, span) in named.chain(on_error).collect::<Vec<_>>() {
            if self.step_named(id).is_none() {
                self.unknown_step(id, span);
            }
        }
    }

    fn trigger(&mut self, resolved: &[Resolved<'_>]) -> Option<StepId> {
        let mut triggers = resolved.iter().filter(|step| step.spec.is_trigger());
        let first = triggers.next();
        for other in triggers {
            let first = first.map_or("", |first| first.step.id.value.as_str());
            let message = format!("a flow has one trigger; `{first}` is one already");
            self.problems.push(
                Problem::new(ProblemCode::TwoTriggers, other.step.operation.span, message)
                    .hint("put the second trigger into a flow of its own"),
            );
        }
        let all_known = resolved.len() == self.flow.steps.len() && self.flow.unread.is_empty();
        if first.is_none() && all_known {
            let problem = Problem::new(ProblemCode::NoTrigger, self.flow.steps_span, "the flow has no trigger");
            let triggers = self.operations.values().filter(|spec| spec.is_trigger()).map(|spec| spec.name.as_str());
            let triggers = triggers.collect::<Vec<_>>().join(", ");
            self.problems.push(problem.hint(format!("begin with a step that uses one of: {triggers}")));
        }
        first.map(|step| step.step.id.value.clone())
    }

    fn check_reach(&mut self, graph: &Graph, resolved: &[Resolved<'_>]) {
        // Operations that are not known may be triggers: what comes after them is not judged.
        let unknown = self.flow.steps.iter().filter(|step| !self.operations.contains_key(&step.operation.value));
        let entrances = resolved.iter().filter(|step| step.spec.is_trigger()).map(|step| &step.step.id.value);
        let entrances = entrances.chain(unknown.map(|step| &step.id.value));
        let entrances = entrances.chain(self.flow.on_error.iter().map(|step| &step.value));
        let entrances: BTreeSet<StepId> = entrances.cloned().collect();
        let has_trigger = entrances.iter().any(|id| self.flow.on_error.as_ref().is_none_or(|step| step.value != *id));
        // A step that could not be read may be the trigger.
        if has_trigger && self.flow.unread.is_empty() {
            graph.check(self.flow, &entrances, self.problems);
        }
    }

    fn check_after(&mut self, resolved: &Resolved<'_>, all: &[Resolved<'_>]) {
        if resolved.spec.is_trigger() {
            if let Some(after) = resolved.step.after.first() {
                let message = format!("`{}` is a trigger: it cannot come after another step", resolved.spec.name);
                self.note(ProblemCode::TriggerAfter, after.span, message);
            }
            if let Some(when) = &resolved.step.when {
                self.problems.push(
                    Problem::new(ProblemCode::InvalidValue, when.span, "a trigger has no `when`")
                        .hint("put `when` on the steps after it"),
                );
            }
        }
        for after in &resolved.step.after {
            if let Some(earlier) = all.iter().find(|step| step.step.id.value == after.value.step) {
                self.check_output(after, earlier);
            }
        }
    }

    fn check_output(&mut self, after: &Placed<After>, earlier: &Resolved<'_>) {
        let names = output_names(earlier);
        let id = &after.value.step;
        match (&after.value.output, names) {
            (_, Some(names)) if names.is_empty() => {
                let message = format!("`{id}` has no outputs: no step can come after it");
                self.note(ProblemCode::UnknownOutput, after.span, message);
            }
            (None, Some(names)) => {
                let message = format!("`{id}` has named outputs; say which");
                let hint = names.iter().map(|name| format!("{id}.{name}")).collect::<Vec<_>>().join(", ");
                self.problems.push(
                    Problem::new(ProblemCode::UnknownOutput, after.span, message).hint(format!("it can be: {hint}")),
                );
            }
            (Some(output), Some(names)) if !names.contains(output) => {
                let message = format!("`{id}` has no output `{output}`");
                let problem = Problem::new(ProblemCode::UnknownOutput, after.span, message);
                let whole: Vec<String> = names.iter().map(|name| format!("{id}.{name}")).collect();
                let written = format!("{id}.{output}");
                self.problems.push(problem.did_you_mean(&written, whole.iter().map(String::as_str)));
            }
            (Some(_), None) => {
                let message = format!("`{id}` has only one output: write `after: {id}`");
                self.note(ProblemCode::UnknownOutput, after.span, message);
            }
            _ => {}
        }
    }

    fn check_schedule(&mut self, resolved: &Resolved<'_>) {
        let polling = resolved.spec.kind == OperationKind::Polling;
        match &resolved.step.schedule {
            None if polling => {
                let message = format!("`{}` asks at intervals: it needs `schedule`", resolved.spec.name);
                self.problems.push(
                    Problem::new(ProblemCode::BadSchedule, resolved.step.id.span, message)
                        .hint("write for example `schedule: { every: 5m }` or `schedule: { cron: \"0 8 * * *\" }`"),
                );
            }
            Some(schedule) if !polling => {
                self.note(ProblemCode::BadSchedule, schedule.span, "only a polling trigger has a schedule");
            }
            _ => {}
        }
    }

    /// Steps that an expression reads must have run before it is evaluated.
    fn check_reads(&mut self, resolved: &Resolved<'_>, graph: &Graph) {
        let id = &resolved.step.id.value;
        let ancestors = graph.ancestors(id);
        for name in &resolved.reads.steps {
            let span = place_of_read(resolved, name);
            match StepId::new(name) {
                Ok(read) if ancestors.contains(&read) && read != *id => {}
                Ok(read) if read == *id => {
                    let message = format!("`$steps.{read}` is not known here: `{read}` cannot read its own output");
                    self.note(ProblemCode::NotEarlier, span, message);
                }
                Ok(read) if self.step_named(&read).is_some() => {
                    let message = format!("`$steps.{read}` is not known here: `{read}` does not run before `{id}`");
                    self.note(ProblemCode::NotEarlier, span, message);
                }
                Ok(read) => self.unknown_step(&read, span),
                Err(error) => self.note(ProblemCode::InvalidName, span, error.to_string()),
            }
        }
        if resolved.spec.is_trigger() {
            let readable = ["var", "secret", "flow"];
            for name in resolved.reads.variables.iter().filter(|name| !readable.contains(&name.as_str())) {
                let span = place_of_read(resolved, name);
                let message = format!("a trigger has no `${name}`: no message has come yet");
                self.note(ProblemCode::UnknownVariable, span, message);
            }
        }
    }

    /// The step for dead letters is an entrance of its own.
    fn check_on_error(&mut self, resolved: &Resolved<'_>) {
        let id = &resolved.step.id.value;
        let Some(on_error) = self.flow.on_error.as_ref().filter(|step| step.value == *id) else { return };
        if resolved.spec.is_trigger() {
            let message = format!("`{id}` is the trigger: it cannot receive the dead letters");
            self.note(ProblemCode::InvalidValue, on_error.span, message);
        } else if let Some(after) = resolved.step.after.first() {
            let message = format!("`{id}` receives the dead letters: it cannot also come after other steps");
            self.note(ProblemCode::InvalidValue, after.span, message);
        }
    }

    fn step_plan(&self, resolved: &Resolved<'_>, all: &[Resolved<'_>], graph: &Graph) -> Arc<StepPlan> {
        let step = resolved.step;
        let id = &step.id.value;
        // What fails while it tells of a failure tells nobody: else one failure would go round for ever.
        let on_error = self.flow.on_error.as_ref().map(|step| step.value.clone());
        let on_error = on_error.filter(|target| target != id && !graph.descendants(target).contains(id));
        Arc::new(StepPlan {
            queue: QueueName::new(self.flow.name.clone(), id.clone()),
            operation: step.operation.value.clone(),
            kind: resolved.spec.kind,
            title: step.title.clone(),
            when: step.when.as_ref().map(|when| when.value.clone()),
            with: resolved.with.clone(),
            variables: resolved.reads.variables.clone(),
            retry: step.retry,
            runtime: resolved.runtime,
            workers: step.workers.as_ref().map(|workers| workers.value).unwrap_or_default(),
            prefetch: step.prefetch.as_ref().map(|prefetch| prefetch.value),
            container: step.container.as_ref().map(|container| container.value).unwrap_or_default(),
            rate: step.rate,
            order: ordering(resolved),
            timeout: step.timeout.0,
            schedule: step.schedule.as_ref().and_then(|schedule| schedule.value.clone()),
            limit: step.limit,
            routes: routes(id, all, graph),
            on_error,
        })
    }
}

/// The named outputs of a step; none if it has one without a name.
fn output_names(resolved: &Resolved<'_>) -> Option<Vec<String>> {
    match &resolved.spec.outputs {
        Outputs::One => None,
        Outputs::None => Some(Vec::new()),
        Outputs::Named { keys_of, always } => {
            let field = resolved.step.with.get(keys_of);
            let keys = field.iter().flat_map(|entry| entry.value.entries()).map(|entry| entry.key.clone());
            Some(keys.chain(always.iter().cloned()).collect())
        }
    }
}

fn ordering(resolved: &Resolved<'_>) -> Ordering {
    if let Some(field) = &resolved.spec.ordered_by {
        return resolved.with.field(field).map_or(Ordering::Whole, Ordering::Key);
    }
    match resolved.step.order.as_ref().map(|order| &order.value) {
        None => Ordering::Parallel,
        Some(Order::Whole) => Ordering::Whole,
        Some(Order::Key(key)) => Ordering::Key(Template::Expression(Expression::clone(key))),
    }
}

/// The ways out of a step. A message carries an earlier output only as far as it is read.
fn routes(from: &StepId, all: &[Resolved<'_>], graph: &Graph) -> Vec<Route> {
    let receivers = all.iter().flat_map(|receiver| {
        receiver.step.after.iter().filter(|after| after.value.step == *from).map(move |after| (receiver, after))
    });
    receivers
        .map(|(receiver, after)| Route {
            to: receiver.step.id.value.clone(),
            output: after.value.output.clone(),
            when: receiver.step.when.as_ref().map(|when| when.value.clone()),
            order: ordering(receiver),
            carries: carried(receiver, all, graph),
        })
        .collect()
}

/// What a message on a step's queue carries: the outputs of its ancestors that it or one of its
/// descendants reads.
fn carried(step: &Resolved<'_>, all: &[Resolved<'_>], graph: &Graph) -> BTreeSet<StepId> {
    let id = &step.step.id.value;
    let ancestors = graph.ancestors(id);
    let mut readers = graph.descendants(id);
    readers.insert(id.clone());
    let readers = all.iter().filter(|reader| readers.contains(&reader.step.id.value));
    let mut carried = BTreeSet::new();
    for reader in readers {
        if reader.reads.all_steps {
            return ancestors;
        }
        carried.extend(ancestors.iter().filter(|ancestor| reader.reads.steps.contains(ancestor.as_str())).cloned());
    }
    carried
}

/// Where a step reads a name: in its configuration, in `when` or in `order`.
fn place_of_read(resolved: &Resolved<'_>, name: &str) -> Span {
    let step = resolved.step;
    let when = step.when.as_ref().filter(|when| when.value.source().contains(name)).map(|when| when.span);
    let order = step.order.as_ref().map(|order| order.span);
    place_of(&step.with, name).or(when).or(order).unwrap_or(step.id.span)
}

/// The first expression in a configuration that has a word in it.
fn place_of(node: &document::Node, word: &str) -> Option<Span> {
    match &node.content {
        document::Content::Scalar(_) => {
            node.as_str().filter(|text| text.contains("{{") && text.contains(word)).map(|_| node.span)
        }
        document::Content::List(items) => items.iter().find_map(|item| place_of(item, word)),
        document::Content::Map(entries) => entries.iter().find_map(|entry| place_of(&entry.value, word)),
    }
}
