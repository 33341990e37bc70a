//! The flows that are known: the plan of every current version, and earlier ones on demand.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use flowline_model::{Fault, FlowName, OperationSpec, Plan, StepId, StepPlan, check};
use flowline_sdk::{Accepts, Operation};
use serde_json::Value;

use crate::{EngineError, store::FlowState, store::Store};

/// Earlier versions whose plans are kept in memory.
const KEPT_VERSIONS: usize = 256;

/// A flow as it runs.
#[derive(Clone)]
pub(crate) struct RunningFlow {
    pub(crate) version: u32,
    pub(crate) plan: Arc<Plan>,
    pub(crate) document: Arc<str>,
    pub(crate) state: FlowState,
    pub(crate) hook: Option<Arc<Hook>>,
}

/// The webhook of a flow, ready to receive.
pub(crate) struct Hook {
    pub(crate) path: String,
    pub(crate) accepts: Accepts,
    pub(crate) config: Value,
    pub(crate) operation: Operation,
}

/// The flows that are known.
pub(crate) struct Flows {
    operations: BTreeMap<String, Arc<OperationSpec>>,
    current: RwLock<Current>,
    earlier: Mutex<HashMap<(FlowName, u32), Arc<Plan>>>,
}

#[derive(Default)]
struct Current {
    flows: BTreeMap<FlowName, RunningFlow>,
    hooks: HashMap<String, FlowName>,
}

impl Flows {
    pub(crate) fn new(operations: BTreeMap<String, Arc<OperationSpec>>) -> Self {
        Self { operations, current: RwLock::default(), earlier: Mutex::default() }
    }

    pub(crate) fn check(&self, text: &str) -> Result<Plan, Vec<flowline_model::Problem>> {
        check(text, &self.operations)
    }

    fn read<T>(&self, look: impl FnOnce(&Current) -> T) -> T {
        look(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, change: impl FnOnce(&mut Current) -> T) -> T {
        change(&mut self.current.write().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn get(&self, flow: &FlowName) -> Option<RunningFlow> {
        self.read(|current| current.flows.get(flow).cloned())
    }

    pub(crate) fn all(&self) -> Vec<RunningFlow> {
        self.read(|current| current.flows.values().cloned().collect())
    }

    /// The flow whose webhook has this path.
    pub(crate) fn hooked(&self, path: &str) -> Option<(RunningFlow, Arc<Hook>)> {
        self.read(|current| {
            let flow = current.flows.get(current.hooks.get(path)?)?;
            Some((flow.clone(), Arc::clone(flow.hook.as_ref()?)))
        })
    }

    /// The other flow that has a webhook at this path.
    pub(crate) fn holder(&self, path: &str, flow: &FlowName) -> Option<FlowName> {
        self.read(|current| current.hooks.get(path).filter(|holder| *holder != flow).cloned())
    }

    /// Puts a flow in the place of its earlier version.
    pub(crate) fn put(&self, flow: RunningFlow) {
        let name = flow.plan.flow.clone();
        let replaced = self.write(|current| {
            current.hooks.retain(|_, holder| *holder != name);
            if let Some(hook) = flow.hook.as_ref().filter(|_| flow.state.active) {
                current.hooks.insert(hook.path.clone(), name.clone());
            }
            current.flows.insert(name.clone(), flow)
        });
        if let Some(replaced) = replaced {
            self.keep((name, replaced.version), replaced.plan);
        }
    }

    fn keep(&self, key: (FlowName, u32), plan: Arc<Plan>) {
        let mut earlier = self.earlier.lock().unwrap_or_else(PoisonError::into_inner);
        if earlier.len() >= KEPT_VERSIONS {
            earlier.clear();
        }
        earlier.insert(key, plan);
    }

    /// The plan of a version of a flow: an execution ends on the version it began with.
    pub(crate) async fn plan(&self, store: &Store, flow: &FlowName, version: u32) -> Result<Arc<Plan>, Fault> {
        let current = self.read(|current| {
            current.flows.get(flow).filter(|flow| flow.version == version).map(|flow| Arc::clone(&flow.plan))
        });
        if let Some(plan) = current {
            return Ok(plan);
        }
        let key = (flow.clone(), version);
        if let Some(plan) = self.earlier.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(Arc::clone(plan));
        }
        let gone = || Fault::reject("version_gone", format!("version {version} of the flow `{flow}` is not stored"));
        let unavailable = |error: EngineError| Fault::retry("store_unavailable", error.to_string());
        let document = store.document(flow, version).await.map_err(unavailable)?.ok_or_else(gone)?;
        let plan = self.check(&document).map_err(|problems| {
            let first = problems.first().map_or_else(String::new, |problem| problem.message.clone());
            Fault::misconfigured("version_broken", format!("version {version} of `{flow}` does not check: {first}"))
        })?;
        let plan = Arc::new(plan);
        self.keep(key, Arc::clone(&plan));
        Ok(plan)
    }

    /// The plan of a step in a version of its flow.
    pub(crate) async fn step(
        &self,
        store: &Store,
        flow: &FlowName,
        version: u32,
        step: &StepId,
    ) -> Result<Arc<StepPlan>, Fault> {
        let plan = self.plan(store, flow, version).await?;
        plan.steps.get(step).cloned().ok_or_else(|| {
            Fault::reject("step_gone", format!("version {version} of the flow `{flow}` has no step `{step}`"))
        })
    }
}
