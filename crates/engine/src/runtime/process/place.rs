//! The child processes of one step, as its crew sees them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use flowline_model::{Fault, QueueName, StepPlan};
use flowline_sdk::{Presence, Remote};
use serde_json::{Map, Value};
use tokio::sync::watch;

use super::{child, post::Post, program::Program, seat::Seat};
use crate::runtime::{Ending, Trouble, Workplace, lines::LogTarget};

/// How long a child that was killed may take to be gone.
const KILLED: Duration = Duration::from_secs(5);

/// The child processes of one step.
pub(crate) struct ProcessPlace {
    queue: QueueName,
    program: Program,
    post: Arc<Post>,
    log: LogTarget,
    children: Mutex<BTreeMap<String, Kept>>,
}

#[derive(Clone)]
struct Kept {
    seat: Arc<Seat>,
    ended: watch::Receiver<Option<Ending>>,
}

impl ProcessPlace {
    pub(crate) fn new(plan: &StepPlan, constants: &Map<String, Value>, log: LogTarget) -> Result<Self, Fault> {
        Ok(Self {
            queue: plan.queue.clone(),
            program: Program::of(constants)?,
            post: Post::new(plan.kind, plan.timeout),
            log,
            children: Mutex::default(),
        })
    }

    fn children<T>(&self, look: impl FnOnce(&mut BTreeMap<String, Kept>) -> T) -> T {
        look(&mut self.children.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn child(&self, worker: &str) -> Option<Kept> {
        self.children(|children| children.get(worker).cloned())
    }
}

async fn ended(mut kept: Kept) -> Ending {
    match kept.ended.wait_for(Option::is_some).await {
        Ok(ending) => ending.clone().unwrap_or_else(|| Ending::lost("it ended")),
        Err(_) => Ending::lost("it ended"),
    }
}

#[async_trait]
impl Workplace for ProcessPlace {
    fn remote(&self) -> Arc<dyn Remote> {
        Arc::clone(&self.post) as Arc<dyn Remote>
    }

    fn name(&self) -> String {
        format!("{}-{}-{:08x}", self.queue.flow, self.queue.step, rand::random::<u32>())
    }

    async fn start(&self, worker: &str) -> Result<(), Trouble> {
        let child = self.program.start().await?;
        let (seat, post, log) = (Seat::new(), Arc::clone(&self.post), self.log.of(worker));
        let (tell, ended) = watch::channel(None);
        self.children(|children| children.insert(worker.to_owned(), Kept { seat: Arc::clone(&seat), ended }));
        tokio::spawn(async move {
            let ending = child::run(child, post, seat, log).await;
            tell.send_replace(Some(ending));
        });
        Ok(())
    }

    async fn ended(&self, worker: &str) -> Ending {
        match self.child(worker) {
            Some(kept) => ended(kept).await,
            None => Ending::lost("it ended"),
        }
    }

    async fn stop(&self, worker: &str, grace: Duration) {
        let Some(kept) = self.child(worker) else { return };
        kept.seat.stop.cancel();
        if tokio::time::timeout(grace, ended(kept.clone())).await.is_err() {
            kept.seat.kill.cancel();
            let _ = tokio::time::timeout(KILLED, ended(kept)).await;
        }
    }

    async fn clear(&self, worker: &str, reason: Fault) {
        if let Some(kept) = self.children(|children| children.remove(worker)) {
            kept.seat.expel(reason);
        }
    }

    fn expel(&self, worker: &str, reason: Fault) {
        if let Some(kept) = self.child(worker) {
            kept.seat.expel(reason);
        }
    }

    fn presence(&self, worker: &str) -> Option<Presence> {
        self.child(worker).map(|kept| kept.seat.presence())
    }
}
