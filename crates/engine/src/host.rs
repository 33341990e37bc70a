//! The host: what operations may ask of the engine.

use std::sync::Arc;

use async_trait::async_trait;
use flowline_model::{
    Expression, Fault, QueueName, Timestamp,
    expression::{ExpressionError, Limits, Scope},
};
use flowline_queue::QueueError;
use flowline_sdk::{Attachments, Host, Place};
use serde_json::Value;

use crate::Shared;

/// What operations may ask of the engine.
pub(crate) struct EngineHost {
    pub(crate) shared: Arc<Shared>,
}

/// What a step remembers could not be read: not the message's fault.
fn unavailable(error: &QueueError) -> Fault {
    Fault::retry("state_unavailable", error.to_string())
}

#[async_trait]
impl Host for EngineHost {
    fn now(&self) -> Timestamp {
        self.shared.now()
    }

    async fn state(&self, step: &QueueName, key: &str) -> Result<Option<Value>, Fault> {
        self.shared.queue.state(step, key).await.map_err(|error| unavailable(&error))
    }

    async fn states(
        &self,
        step: &QueueName,
        prefix: &str,
        after: &str,
        max: usize,
    ) -> Result<Vec<(String, Value)>, Fault> {
        self.shared.queue.states(step, prefix, after, max).await.map_err(|error| unavailable(&error))
    }

    async fn evaluate(&self, expression: &Expression, input: Value) -> Result<Option<Value>, Fault> {
        let rejected = |error: ExpressionError| Fault::reject("expression", error.to_string());
        let brief = expression.evaluate(&Scope::new(&input), Limits::BRIEF);
        match brief {
            Err(ExpressionError::Timeout(_)) => {
                let expression = expression.clone();
                tokio::task::spawn_blocking(move || expression.evaluate(&Scope::new(&input), Limits::FULL))
                    .await
                    .map_err(|error| Fault::retry("expression", error.to_string()))?
                    .map_err(rejected)
            }
            result => result.map_err(rejected),
        }
    }

    fn attachments(&self) -> &dyn Attachments {
        &self.shared.attachments
    }

    fn log(&self, place: &Place, line: &str) {
        let line = self.shared.settings.secrets.scrub(line.to_owned());
        tracing::info!(target: "flowline::step", flow = %place.flow, step = %place.step, execution = %place.execution, "{line}");
    }
}
