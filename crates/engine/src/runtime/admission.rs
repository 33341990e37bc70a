//! Admission: whether a step could run on this server at all, before its flow is applied.

use flowline_model::{Runtime, StepPlan};
use flowline_sdk::Run;

use crate::Shared;

/// Why a step cannot run here; none if it can.
pub(crate) fn refusal(shared: &Shared, step: &StepPlan) -> Option<String> {
    let id = &step.queue.step;
    let operation = shared.catalog.get(&step.operation)?;
    match shared.runtime_of(step) {
        Runtime::Task if step.workers.is_scaled() => Some(format!(
            "the step `{id}` runs in the server's process, where workers are not scaled: write one number, or \
             `runtime: docker`"
        )),
        Runtime::Docker if shared.settings.gateway.is_none() => Some(format!(
            "the step `{id}` runs in `docker`, and the step gateway that containers talk to does not run on this \
             server"
        )),
        Runtime::Docker if shared.settings.docker.worker_image.is_none() && !matches!(operation.run, Run::Image(_)) => {
            Some(format!(
                "the step `{id}` runs in `docker`, and the image that hosts `{}` is not known: set the worker image",
                step.operation
            ))
        }
        Runtime::Task | Runtime::Process | Runtime::Docker => None,
    }
}
