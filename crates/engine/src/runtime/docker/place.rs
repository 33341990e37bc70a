//! The containers of one step, as its crew sees them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bollard::models::ContainerCreateBody;
use flowline_model::Fault;
use flowline_sdk::{Gateway, GatewayStep, Presence, Remote};
use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{
    Docker, Recipe,
    containers::Gone,
    exit::explain,
    network::ContainerNetwork,
    spec::{container, user},
};
use crate::runtime::{Ending, Trouble, Workplace, lines::LogTarget};

/// How often removing is tried before it is left to the sweep.
const TRIES: u32 = 3;
/// How long between.
const BETWEEN_TRIES: Duration = Duration::from_millis(200);
/// How long a container that is being made is waited for before it is removed.
const MADE: Duration = Duration::from_secs(30);
/// How long a component may take to undo what it did.
const SHUTDOWN: Duration = Duration::from_secs(60);
/// How long the last lines of a container are waited for.
const LAST_LINES: Duration = Duration::from_secs(2);

/// The containers of one step.
pub(crate) struct DockerPlace {
    pub(crate) docker: Arc<Docker>,
    pub(crate) gateway: Arc<dyn Gateway>,
    pub(crate) step: Arc<dyn GatewayStep>,
    pub(crate) recipe: Recipe,
    pub(crate) log: LogTarget,
    pub(crate) kept: Mutex<BTreeMap<String, Kept>>,
}

/// What is under way for a container.
#[derive(Default)]
pub(crate) struct Kept {
    /// It is made and started.
    made: Option<Shared<BoxFuture<'static, Result<(), Trouble>>>>,
    /// What it says is read.
    reader: Option<JoinHandle<()>>,
}

impl DockerPlace {
    fn kept<T>(&self, look: impl FnOnce(&mut BTreeMap<String, Kept>) -> T) -> T {
        look(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes a container and starts it. Once begun it is not given up: what is half made could
    /// not be removed yet.
    async fn make(&self, worker: &str, body: ContainerCreateBody) -> Result<(), Trouble> {
        let (docker, name) = (Arc::clone(&self.docker), worker.to_owned());
        let making = tokio::spawn(async move { docker.run(&name, body).await });
        let made = making.map(|made| made.unwrap_or_else(|error| Err(Trouble::failed(error.to_string()))));
        let made = made.boxed().shared();
        self.kept(|kept| kept.entry(worker.to_owned()).or_default().made = Some(made.clone()));
        made.await
    }

    fn read(&self, worker: &str) {
        let (docker, name, log) = (Arc::clone(&self.docker), worker.to_owned(), self.log.of(worker));
        let reader = tokio::spawn(async move { docker.follow(&name, log).await });
        self.kept(|kept| kept.entry(worker.to_owned()).or_default().reader = Some(reader));
    }

    /// Makes and starts a container. What admits it is asked for once the gateway listens: it says
    /// where.
    async fn run(&self, worker: &str, admit: impl FnOnce() -> Vec<(String, String)> + Send) -> Result<(), Trouble> {
        self.docker.known(|known| known.insert(worker.to_owned()));
        let ContainerNetwork { id: network, address } = self.docker.network(&self.recipe.network).await?;
        let recipe = Recipe { network, ..self.recipe.clone() };
        self.gateway.listen(address).await.map_err(|error| {
            Trouble::unreachable(format!(
                "the step gateway cannot listen on {address}, where containers reach it: {error}"
            ))
        })?;
        let of_image = self.docker.user_of(&self.recipe.image).await?;
        let user = user(of_image.as_deref(), &self.recipe.user);
        self.make(worker, container(&recipe, worker, user, admit())).await?;
        self.read(worker);
        Ok(())
    }

    async fn remove(&self, worker: &str) -> bool {
        for _ in 0..TRIES {
            if self.docker.remove(worker).await.is_ok() {
                return true;
            }
            tokio::time::sleep(BETWEEN_TRIES).await;
        }
        false
    }

    /// The last lines of one that crashed are those that matter: they are read before it goes.
    async fn read_to_the_end(reader: Option<JoinHandle<()>>) {
        if let Some(mut reader) = reader
            && tokio::time::timeout(LAST_LINES, &mut reader).await.is_err()
        {
            reader.abort();
        }
    }
}

#[async_trait]
impl Workplace for DockerPlace {
    fn remote(&self) -> Arc<dyn Remote> {
        Arc::clone(&self.step) as Arc<dyn Remote>
    }

    fn name(&self) -> String {
        let queue = &self.recipe.queue;
        let short = |name: &str| name.chars().take(40).collect::<String>();
        format!("flowline-{}-{}-{:08x}", short(queue.flow.as_str()), short(queue.step.as_str()), rand::random::<u32>())
    }

    async fn start(&self, worker: &str) -> Result<(), Trouble> {
        self.run(worker, || self.step.admit(worker)).await
    }

    async fn ended(&self, worker: &str) -> Ending {
        match self.docker.gone(worker).await {
            Gone::Exited(exit) => explain(&exit, &self.recipe.limits),
            Gone::Removed => Ending::lost("somebody removed its container"),
        }
    }

    async fn stop(&self, worker: &str, grace: Duration) {
        if let Err(trouble) = self.docker.stop(worker, grace).await {
            tracing::debug!(worker, "{}", trouble.text);
        }
    }

    async fn clear(&self, worker: &str, reason: Fault) {
        self.step.expel(worker, reason);
        let Kept { made, reader } = self.kept(|kept| kept.remove(worker)).unwrap_or_default();
        if let Some(made) = made {
            let _ = tokio::time::timeout(MADE, made).await;
        }
        Self::read_to_the_end(reader).await;
        let is_removed = self.remove(worker).await;
        self.docker.known(|known| known.remove(worker));
        if !is_removed {
            self.docker.litter.notify_one();
        }
    }

    fn expel(&self, worker: &str, reason: Fault) {
        self.step.expel(worker, reason);
    }

    fn presence(&self, worker: &str) -> Option<Presence> {
        self.step.presence(worker)
    }

    async fn shut_down(&self, not_waited_for: &CancellationToken) {
        if !self.step.awaits_shutdown().await {
            return;
        }
        let worker = self.name();
        let hook = async {
            self.run(&worker, || self.step.admit_shutdown(&worker)).await.map_err(|trouble| trouble.text)?;
            match self.docker.gone(&worker).await {
                Gone::Exited(exit) if exit.code == 0 => Ok(()),
                Gone::Exited(exit) => Err(explain(&exit, &self.recipe.limits).text),
                Gone::Removed => Err("somebody removed its container".to_owned()),
            }
        };
        let ended = tokio::select! {
            ended = tokio::time::timeout(SHUTDOWN, hook) => {
                ended.unwrap_or_else(|_| Err(format!("it took longer than {SHUTDOWN:?}")))
            }
            () = not_waited_for.cancelled() => Err("the server ends".to_owned()),
        };
        let step = &self.recipe.queue;
        match ended {
            Ok(()) => tracing::info!(%step, "the component's shutdown hook is done"),
            Err(why) => tracing::warn!(%step, "the component's shutdown hook failed: {why}"),
        }
        self.clear(&worker, Fault::retry("worker_stopped", "its step is not wanted any more")).await;
    }
}
