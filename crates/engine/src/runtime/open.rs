//! Opening a step for workers: from its plan to the place where they run.

use std::{
    borrow::Cow,
    sync::{Arc, Mutex},
};

use flowline_model::{
    Fault, Runtime, StepPlan,
    expression::{Limits, Scope},
    plan::flow_variable,
};
use flowline_sdk::{Contract, Operation, RemoteStep, Run};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::{
    Workplace,
    docker::{DockerPlace, Recipe},
    lines::LogTarget,
    process::ProcessPlace,
};
use crate::{Shared, host::EngineHost};

/// What tells the workers of one plan from those of another.
///
/// The number of the version is not part of it: a step that a new version leaves as it was keeps
/// its workers.
pub(super) fn identity(shared: &Shared, plan: &StepPlan, version: u32, operation: &Operation) -> Result<String, Fault> {
    let (image, command) = image(shared, operation);
    let what = json!([
        shared.runtime_of(plan),
        plan.operation,
        plan.prefetch,
        plan.container,
        plan.timeout.as_millis(),
        image,
        command,
        constants(shared, plan, version, operation)?,
    ]);
    Ok(hex::encode(Sha256::digest(what.to_string())))
}

/// The place where a step's workers run.
pub(super) fn workplace(
    shared: &Arc<Shared>,
    plan: &StepPlan,
    version: u32,
    operation: &Operation,
) -> Result<Arc<dyn Workplace>, Fault> {
    let log = LogTarget { queue: plan.queue.clone(), worker: String::new(), secrets: shared.settings.secrets.clone() };
    let constants = constants(shared, plan, version, operation)?;
    if shared.runtime_of(plan) == Runtime::Process {
        return Ok(Arc::new(ProcessPlace::new(plan, &constants, log)?));
    }
    let gateway = shared.settings.gateway.as_ref().ok_or_else(|| {
        Fault::misconfigured("no_gateway", "steps in containers need the step gateway, which does not run here")
    })?;
    let (image, command) = image(shared, operation);
    let image = image.ok_or_else(|| {
        let message = "the image that hosts the built-in components is not known: set the worker image";
        Fault::misconfigured("no_worker_image", message)
    })?;
    let host = Arc::new(EngineHost { shared: Arc::clone(shared) });
    let step = gateway.open(remote_step(plan, version, operation, constants), host);
    let settings = &shared.settings.docker;
    let environment = match &operation.run {
        Run::Image(image) => image.environment.clone(),
        _ => Vec::new(),
    };
    let recipe = Recipe {
        server: shared.docker.server.clone(),
        queue: plan.queue.clone(),
        version,
        image,
        command,
        environment,
        limits: plan.container,
        network: settings.network.clone(),
        user: settings.user.clone(),
    };
    let (docker, gateway) = (Arc::clone(&shared.docker), Arc::clone(gateway));
    Ok(Arc::new(DockerPlace { docker, gateway, step, recipe, log, kept: Mutex::default() }))
}

/// The image of an operation, and what is started in it.
fn image(shared: &Shared, operation: &Operation) -> (Option<String>, Vec<String>) {
    let settings = &shared.settings.docker;
    match &operation.run {
        Run::Image(image) => (Some(image.name.clone()), image.command.clone()),
        _ => (settings.worker_image.clone(), settings.worker_command.clone()),
    }
}

fn remote_step(plan: &StepPlan, version: u32, operation: &Operation, constants: Map<String, Value>) -> RemoteStep {
    let (contract, function, config) = match &operation.run {
        Run::Image(image) => (Contract::Component, image.function.clone(), flat(constants)),
        _ => (Contract::Worker, plan.operation.clone(), Value::Null),
    };
    RemoteStep {
        queue: plan.queue.clone(),
        version,
        contract,
        kind: plan.kind,
        component: operation.spec.component().to_owned(),
        function,
        config,
        prefetch: plan.prefetch_in(Runtime::Docker).get(),
        timeout: plan.timeout,
    }
}

/// What a component's container is told: its fields, and over them its credential.
fn flat(constants: Map<String, Value>) -> Value {
    let mut told = Map::new();
    for (_, part) in constants {
        if let Value::Object(entries) = part {
            told.extend(entries);
        }
    }
    Value::Object(told)
}

/// The part of the configuration that holds for a worker's life, in the order of the spec.
fn constants(
    shared: &Shared,
    plan: &StepPlan,
    version: u32,
    operation: &Operation,
) -> Result<Map<String, Value>, Fault> {
    let mut scope = Scope::new(&Value::Null);
    scope.provide("flow", Cow::Owned(flow_variable(&plan.queue.flow, version)));
    scope.provide("var", Cow::Borrowed(&shared.vars));
    scope.provide("secret", Cow::Borrowed(shared.settings.secrets.exposed()));
    let mut constants = Map::new();
    for name in &operation.spec.constant {
        let Some(field) = plan.with.field(name) else { continue };
        let value = field.render(&scope, Limits::FULL).map_err(|error| {
            let message = shared.settings.secrets.scrub(format!("`with.{name}`: {error}"));
            Fault::misconfigured("config_invalid", message)
        })?;
        constants.extend(value.map(|value| (name.clone(), value)));
    }
    Ok(constants)
}
