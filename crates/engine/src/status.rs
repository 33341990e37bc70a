//! How flows and steps stand, for those who look.

use flowline_model::{Fault, FlowName, Runtime, StepId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{Shared, flows::RunningFlow};

/// How a flow stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlowStatus {
    /// Its name.
    pub name: FlowName,
    /// Its version.
    pub version: u32,
    /// What it is for.
    pub description: String,
    /// Its document is there: it takes new input.
    pub active: bool,
    /// Its steps do not work; its queues fill.
    pub paused: bool,
    /// It takes no new input and finishes what waits.
    pub draining: bool,
    /// Its first step.
    pub trigger: StepId,
    /// The path of its webhook below `/hook/`.
    pub hook: Option<String>,
    /// When its trigger is due.
    pub schedule: Option<String>,
    /// Its steps, as the document lists them.
    pub steps: Vec<StepStatus>,
}

/// How a step stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepStatus {
    /// Its name.
    pub id: StepId,
    /// The operation it uses.
    pub operation: String,
    /// What it is called on screens.
    pub title: Option<String>,
    /// The steps that receive what it emits.
    pub next: Vec<StepId>,
    /// How it stands.
    pub state: StepState,
    /// Why it paused itself.
    pub alert: Option<Fault>,
    /// Where it runs.
    #[serde(default)]
    pub runtime: Runtime,
    /// How its workers stand; none where they are tasks in the server's process.
    #[serde(default)]
    pub workers: Option<WorkersStatus>,
}

/// How the workers of a step stand.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkersStatus {
    /// How many take messages.
    pub running: u32,
    /// How many should.
    pub wanted: u32,
    /// What last went wrong with one of them.
    pub trouble: Option<WorkerTrouble>,
}

/// What went wrong with a worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerTrouble {
    /// What, and what to do about it.
    pub message: String,
    /// When.
    pub at: Timestamp,
    /// How often in a row by then; zero once a worker stands again.
    pub failures: u32,
    /// When the next worker is started; none if nothing is waited for.
    pub next_start: Option<Timestamp>,
}

/// How a step stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    /// It works on what comes.
    Running,
    /// It is paused, by somebody or by itself.
    Paused,
    /// Its target is out of reach; it tries with one message at a time.
    Probing,
}

pub(crate) fn flow_status(shared: &Shared, flow: &RunningFlow) -> FlowStatus {
    let steps = flow.plan.listed.iter().filter_map(|id| {
        let step = flow.plan.steps.get(id)?;
        let gate = shared.gate(&step.queue);
        let state = if flow.state.paused || gate.is_step_paused() {
            StepState::Paused
        } else if gate.is_probing() {
            StepState::Probing
        } else {
            StepState::Running
        };
        Some(StepStatus {
            id: id.clone(),
            operation: step.operation.clone(),
            title: step.title.clone(),
            next: step.routes.iter().map(|route| route.to.clone()).collect(),
            state,
            alert: gate.alert(),
            runtime: shared.runtime_of(step),
            workers: shared.workforces.status(&step.queue),
        })
    });
    FlowStatus {
        name: flow.plan.flow.clone(),
        version: flow.version,
        description: flow.plan.description.clone(),
        active: flow.state.active,
        paused: flow.state.paused,
        draining: flow.state.draining,
        trigger: flow.plan.trigger.clone(),
        hook: flow.hook.as_ref().map(|hook| hook.path.clone()),
        schedule: flow.plan.trigger().schedule.as_ref().map(flowline_model::Schedule::identity),
        steps: steps.collect(),
    }
}
