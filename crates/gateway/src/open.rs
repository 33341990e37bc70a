//! The handle of an open step: what the engine holds. When it is dropped the step is closed.

use std::sync::Arc;

use async_trait::async_trait;
use flowline_model::{Fault, Message};
use flowline_sdk::{Context, GatewayStep, Presence, Produced, Remote};
use serde_json::Value;
use tokio::sync::watch;

use crate::{
    environment::{Secrets, environment},
    guests::Guest,
    kept::STARTUP,
    step::Step,
};

/// An open step.
pub(crate) struct Open {
    pub(crate) step: Arc<Step>,
}

impl Open {
    fn dismiss(&self, guest: &Guest, reason: &Fault) {
        guest.interrupt();
        guest.step.expel(&guest.name, reason);
    }
}

#[async_trait]
impl Remote for Open {
    fn room(&self) -> watch::Receiver<usize> {
        self.step.room()
    }

    async fn run(&self, cx: &Context, config: Value, input: Message) -> Result<Produced, Fault> {
        self.step.run(cx, config, &input).await
    }
}

#[async_trait]
impl GatewayStep for Open {
    fn admit(&self, worker: &str) -> Vec<(String, String)> {
        let secrets = Secrets::random();
        let shared = &self.step.shared;
        let environment = environment(&self.step.spec, worker, &secrets, &shared.addresses(), &self.step.cipher);
        let guest = Guest::new(worker, Arc::clone(&self.step), secrets);
        if let Some(earlier) = shared.guests.insert(Arc::new(guest)) {
            self.dismiss(&earlier, &Fault::retry("worker_lost", "another worker came under the same name"));
        }
        self.step.admit(worker);
        environment
    }

    async fn awaits_shutdown(&self) -> bool {
        let Step { spec, shared, .. } = &*self.step;
        match shared.kept.read(&spec.queue, STARTUP).await {
            Ok(left) => left.is_some(),
            Err(error) => {
                tracing::warn!(step = %spec.queue, %error, "the startup data could not be read");
                false
            }
        }
    }

    fn admit_shutdown(&self, worker: &str) -> Vec<(String, String)> {
        let mut environment = self.admit(worker);
        environment.push(("ELASTICIO_HOOK_SHUTDOWN".to_owned(), "true".to_owned()));
        environment
    }

    fn expel(&self, worker: &str, reason: Fault) {
        let guest = self.step.shared.guests.remove(worker);
        if let Some(guest) = guest {
            self.dismiss(&guest, &reason);
        }
    }

    fn presence(&self, worker: &str) -> Option<Presence> {
        self.step.presence(worker)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let reason = Fault::retry("worker_lost", "the step was closed");
        for guest in self.step.shared.guests.of(&self.step) {
            self.step.shared.guests.remove(&guest.name);
            self.dismiss(&guest, &reason);
        }
    }
}
