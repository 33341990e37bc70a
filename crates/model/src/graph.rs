//! The graph of a flow: which steps come before which.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::{
    StepId,
    flow::Flow,
    problem::{Problem, ProblemCode},
};

/// Steps and the ways between them; only steps that exist.
pub(crate) struct Graph {
    next: BTreeMap<StepId, BTreeSet<StepId>>,
    previous: BTreeMap<StepId, BTreeSet<StepId>>,
}

impl Graph {
    pub(crate) fn of(flow: &Flow) -> Self {
        let mut next: BTreeMap<StepId, BTreeSet<StepId>> = BTreeMap::new();
        let mut previous = next.clone();
        for step in &flow.steps {
            next.entry(step.id.value.clone()).or_default();
            previous.entry(step.id.value.clone()).or_default();
        }
        for step in &flow.steps {
            for after in &step.after {
                if let Some(receivers) = next.get_mut(&after.value.step) {
                    receivers.insert(step.id.value.clone());
                    previous.entry(step.id.value.clone()).or_default().insert(after.value.step.clone());
                }
            }
        }
        Self { next, previous }
    }

    /// The steps that can be reached from some, without them unless a circle leads back.
    fn reach(edges: &BTreeMap<StepId, BTreeSet<StepId>>, from: &StepId) -> BTreeSet<StepId> {
        let mut found = BTreeSet::new();
        let mut open = VecDeque::from([from]);
        while let Some(step) = open.pop_front() {
            for neighbour in edges.get(step).into_iter().flatten() {
                if found.insert(neighbour.clone()) {
                    open.push_back(neighbour);
                }
            }
        }
        found
    }

    pub(crate) fn ancestors(&self, step: &StepId) -> BTreeSet<StepId> {
        Self::reach(&self.previous, step)
    }

    pub(crate) fn descendants(&self, step: &StepId) -> BTreeSet<StepId> {
        Self::reach(&self.next, step)
    }

    /// Notes circles, each once, and steps that no message can reach.
    pub(crate) fn check(&self, flow: &Flow, entrances: &BTreeSet<StepId>, problems: &mut Vec<Problem>) {
        let mut circled = BTreeSet::new();
        for step in &flow.steps {
            let id = &step.id.value;
            let descendants = self.descendants(id);
            if descendants.contains(id) && !circled.contains(id) {
                let circle: BTreeSet<_> = descendants.intersection(&self.ancestors(id)).cloned().collect();
                let message = if circle.len() == 1 {
                    format!("`{id}` comes after itself")
                } else {
                    let names = circle.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
                    format!("these steps come after each other in a circle: {names}")
                };
                let problem = Problem::new(ProblemCode::Cycle, step.id.span, message);
                problems.push(problem.hint("take one of them out of the `after` that closes the circle"));
                circled.extend(circle);
            }
        }
        self.check_reach(flow, entrances, &circled, problems);
    }

    fn check_reach(
        &self,
        flow: &Flow,
        entrances: &BTreeSet<StepId>,
        circled: &BTreeSet<StepId>,
        problems: &mut Vec<Problem>,
    ) {
        for step in &flow.steps {
            let id = &step.id.value;
            let ancestors = self.ancestors(id);
            // A step after an unknown one, or in or behind a circle, has its problem already.
            let excused = step.after.iter().any(|after| !self.next.contains_key(&after.value.step))
                || ancestors.iter().any(|ancestor| circled.contains(ancestor));
            let reached = entrances.contains(id) || ancestors.iter().any(|ancestor| entrances.contains(ancestor));
            if !reached && !excused && !circled.contains(id) {
                let message = format!("no message can ever reach the step `{id}`");
                problems.push(
                    Problem::new(ProblemCode::Unreachable, step.id.span, message)
                        .hint("say with `after:` which step it comes after"),
                );
            }
        }
    }
}
