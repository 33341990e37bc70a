//! What the parts of an engine share.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use flowline_model::{FlowName, QueueName, Runtime, StepPlan, Timestamp};
use flowline_queue::{History, Queue};
use flowline_sdk::Catalog;
use serde_json::Value;
use tokio::sync::Notify;

use crate::{
    Settings,
    attachments::AttachmentFolder,
    flows::Flows,
    gate::Gate,
    replies::Replies,
    runtime::{Workforces, docker::Docker},
    store::Store,
};

/// What the parts of an engine share.
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) catalog: Catalog,
    pub(crate) queue: Arc<dyn Queue>,
    pub(crate) history: Arc<dyn History>,
    pub(crate) store: Store,
    pub(crate) flows: Flows,
    pub(crate) replies: Replies,
    pub(crate) attachments: AttachmentFolder,
    /// What expressions see as `$var`.
    pub(crate) vars: Value,
    /// Told to the recorder when something was settled.
    pub(crate) news: Arc<Notify>,
    /// Told by the recorder when everything was written.
    pub(crate) written: Arc<Notify>,
    /// Told to the reconciler when something should run, or should not run any more.
    pub(crate) changed: Notify,
    /// Stored flows that this version of Flowline cannot run; what waits for them waits on.
    pub(crate) broken: Mutex<BTreeSet<FlowName>>,
    pub(crate) gates: Mutex<BTreeMap<QueueName, Arc<Gate>>>,
    /// How the workers outside this process stand.
    pub(crate) workforces: Workforces,
    pub(crate) docker: Arc<Docker>,
}

impl Shared {
    pub(crate) fn now(&self) -> Timestamp {
        (self.settings.clock)()
    }

    /// Where a step runs.
    pub(crate) fn runtime_of(&self, step: &StepPlan) -> Runtime {
        let spec = self.catalog.get(&step.operation).map(|operation| &operation.spec);
        let default = self.settings.default_runtime;
        spec.map_or(Runtime::Task, |spec| spec.runtime(step.runtime, default))
    }

    /// The gate before a step: one for each, for as long as the engine runs.
    pub(crate) fn gate(&self, queue: &QueueName) -> Arc<Gate> {
        let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(gates.entry(queue.clone()).or_default())
    }

    /// Opens or closes the gates before all steps of a flow, those of earlier versions too.
    pub(crate) fn pause_flow(&self, flow: &FlowName, paused: bool) {
        let gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        gates.iter().filter(|(queue, _)| queue.flow == *flow).for_each(|(_, gate)| gate.pause_flow(paused));
    }

    pub(crate) fn is_broken(&self, flow: &FlowName) -> bool {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).contains(flow)
    }
}
