//! Preparation: from a step's configuration and a message to the input of its operation.

use std::{borrow::Cow, sync::Arc};

use flowline_model::{
    Fault, Message, StepPlan,
    decide::{REMINDER, condition, scope},
    expression::{ExpressionError, Limits},
};
use serde_json::Value;

use crate::Shared;

/// What is to be done with a message.
#[derive(Debug)]
pub(crate) enum Prepared {
    /// Run the operation with this configuration.
    Run(Value),
    /// The step's condition does not let it in.
    Filtered,
}

/// Evaluates the condition and the configuration of a step on a message.
///
/// Expressions are quick as a rule, so they are first evaluated where we are, with a few
/// milliseconds; only one that takes longer moves to a thread where it may block.
pub(crate) async fn input(shared: &Arc<Shared>, step: &Arc<StepPlan>, message: &Message) -> Result<Prepared, Fault> {
    if let Some(prepared) = evaluate(shared, step, message, Limits::BRIEF).transpose_timeout() {
        return prepared;
    }
    let (shared, step, message) = (Arc::clone(shared), Arc::clone(step), message.clone());
    let full = move || evaluate(&shared, &step, &message, Limits::FULL).map_err(Trouble::into_fault);
    tokio::task::spawn_blocking(full)
        .await
        .unwrap_or_else(|error| Err(Fault::retry("preparation_failed", error.to_string())))
}

/// Why an input could not be prepared.
enum Trouble {
    Timeout(Fault),
    Other(Fault),
}

impl Trouble {
    fn new(what: &str, error: &ExpressionError) -> Self {
        let fault = Fault::reject("expression", format!("{what}: {error}"));
        match error {
            ExpressionError::Timeout(_) => Self::Timeout(fault),
            _ => Self::Other(fault),
        }
    }

    fn into_fault(self) -> Fault {
        match self {
            Self::Timeout(fault) | Self::Other(fault) => fault,
        }
    }
}

trait TransposeTimeout {
    /// The result, or none if it only took too long.
    fn transpose_timeout(self) -> Option<Result<Prepared, Fault>>;
}

impl TransposeTimeout for Result<Prepared, Trouble> {
    fn transpose_timeout(self) -> Option<Result<Prepared, Fault>> {
        match self {
            Ok(prepared) => Some(Ok(prepared)),
            Err(Trouble::Timeout(_)) => None,
            Err(Trouble::Other(fault)) => Some(Err(fault)),
        }
    }
}

fn evaluate(shared: &Shared, step: &StepPlan, message: &Message, limits: Limits) -> Result<Prepared, Trouble> {
    let is_reminder = message.headers.contains_key(REMINDER);
    if let Some(when) = step.when.as_ref().filter(|_| !is_reminder) {
        let holds = condition(when, &step.queue, message, &shared.vars, limits);
        if !holds.map_err(|error| Trouble::new("`when`", &error))? {
            return Ok(Prepared::Filtered);
        }
    }
    if let Some(config) = step.with.constant() {
        return Ok(Prepared::Run(config.clone()));
    }
    let mut scope = scope(&step.queue, message, &shared.vars, &step.variables);
    if step.variables.contains("secret") {
        scope.provide("secret", Cow::Borrowed(shared.settings.secrets.exposed()));
    }
    let rendered = step.with.render(&scope, limits);
    let config = rendered.map_err(|error| Trouble::new(&format!("`with.{}`", error.path), &error.error))?;
    Ok(Prepared::Run(config.unwrap_or(Value::Null)))
}
