//! Plans: a flow that checks, made ready to run.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};

use serde_json::Value;

use crate::{
    ContainerLimits, Expression, FlowName, OperationKind, QueueName, Rate, RetryPolicy, Runtime, Schedule, StepId,
    Template, Workers, flow::QueueLimit,
};

/// A flow that checks, made ready to run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The flow's name.
    pub flow: FlowName,
    /// What it is for.
    pub description: String,
    /// The first step.
    pub trigger: StepId,
    /// Every step by name.
    pub steps: BTreeMap<StepId, Arc<StepPlan>>,
    /// The steps as the document lists them.
    pub listed: Vec<StepId>,
}

impl Plan {
    /// The trigger's plan.
    pub fn trigger(&self) -> &Arc<StepPlan> {
        &self.steps[&self.trigger]
    }

    /// The queue of one of its steps.
    pub fn queue(&self, step: &StepId) -> QueueName {
        QueueName::new(self.flow.clone(), step.clone())
    }
}

/// A step made ready to run.
#[derive(Clone, Debug)]
pub struct StepPlan {
    /// Its queue: flow and step.
    pub queue: QueueName,
    /// The operation it uses.
    pub operation: String,
    /// What that is used for.
    pub kind: OperationKind,
    /// What it is called on screens.
    pub title: Option<String>,
    /// Which messages are let in.
    pub when: Option<Expression>,
    /// The configuration.
    pub with: Template,
    /// What its expressions read besides the body.
    pub variables: BTreeSet<String>,
    /// How to repeat what failed.
    pub retry: RetryPolicy,
    /// Where it runs; none means wherever the server runs steps.
    pub runtime: Option<Runtime>,
    /// How many run at the same time.
    pub workers: Workers,
    /// How many messages each of them works on at the same time; none means as its runtime does.
    pub prefetch: Option<NonZeroU32>,
    /// How much its containers may use.
    pub container: ContainerLimits,
    /// At most so many messages in each period.
    pub rate: Option<Rate>,
    /// Which messages keep their order.
    pub order: Ordering,
    /// How long one attempt may take.
    pub timeout: Duration,
    /// When a polling trigger is due.
    pub schedule: Option<Schedule>,
    /// How much its queue may hold.
    pub limit: QueueLimit,
    /// Who receives what it emits.
    pub routes: Vec<Route>,
    /// The step that receives its dead letters.
    pub on_error: Option<StepId>,
}

impl StepPlan {
    /// How many messages one worker works on at the same time in a runtime.
    pub fn prefetch_in(&self, runtime: Runtime) -> NonZeroU32 {
        self.prefetch.unwrap_or_else(|| runtime.default_prefetch())
    }

    /// Whether expressions decide where its messages go: then a decision may take too long, and
    /// is made again with more time.
    pub fn routes_by_expression(&self) -> bool {
        self.routes.iter().any(|route| route.when.is_some() || matches!(route.order, Ordering::Key(_)))
    }
}

/// Which messages on a queue are delivered one at a time, in order.
#[derive(Clone, Debug, PartialEq, Default)]
pub enum Ordering {
    /// None: they run in parallel.
    #[default]
    Parallel,
    /// All.
    Whole,
    /// Those with the same key.
    Key(Template),
}

/// A way from a step to one that comes after it.
#[derive(Clone, Debug)]
pub struct Route {
    /// The step that receives.
    pub to: StepId,
    /// Through which output; none means the only one.
    pub output: Option<String>,
    /// Which messages are let in.
    pub when: Option<Expression>,
    /// How the receiver orders its messages.
    pub order: Ordering,
    /// The outputs of earlier steps that the receiver or those after it read.
    pub carries: BTreeSet<StepId>,
}

/// What expressions see as `$flow`.
pub fn flow_variable(flow: &FlowName, version: u32) -> Value {
    serde_json::json!({ "name": flow.as_str(), "version": version })
}
