//! One delivery, from its receipt to its acknowledgement: run, publish, confirm, acknowledge.

use std::{any::Any, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use flowline_model::Fault;
use flowline_sdk::{Context, ErasedAction, ErasedPolling, Host, Run};
use futures::FutureExt;
use lapin::{
    message::Delivery,
    options::{BasicAckOptions, BasicRejectOptions},
};
use serde_json::Value;

use crate::{
    Worker,
    host::StepHost,
    incoming::Incoming,
    objects::RemoteObjects,
    publication::Publications,
    publisher::{Publisher, Target},
    remembered::Remembered,
};

/// Where the snapshot of a polling trigger is remembered.
const SNAPSHOT: &str = "snapshot";

/// Why an attempt ended early.
enum Ended {
    /// The message could not be processed.
    Fault(Fault),
    /// There is nobody to tell any more.
    Link(lapin::Error),
}

impl From<Fault> for Ended {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<lapin::Error> for Ended {
    fn from(error: lapin::Error) -> Self {
        Self::Link(error)
    }
}

/// Brings one delivery to its end. An error means that the connection is lost: the message is
/// delivered again elsewhere.
pub(crate) async fn process(worker: Arc<Worker>, target: Target, delivery: Delivery) -> lapin::Result<()> {
    let incoming = match Incoming::read(&worker.settings.cipher, &delivery) {
        Ok(incoming) => incoming,
        Err(unreadable) => {
            worker.lines.warn(&format!("a message cannot be read: {unreadable}"));
            return reject(&delivery).await;
        }
    };
    let host = Arc::new(StepHost {
        platform: Arc::clone(&worker.platform),
        remembered: Remembered::default(),
        files: RemoteObjects::new(Arc::clone(&worker.platform.objects), incoming.links.clone()),
        thread: incoming.thread.clone(),
        message: incoming.id.clone(),
    });
    let publications = Publications::new(&worker.settings, &incoming);
    let mut attempt =
        Attempt { worker: &worker, incoming: &incoming, host, publications, publisher: Publisher::new(target) };
    match attempt.run().await {
        Ok(()) => {
            attempt.publisher.confirmed().await?;
            delivery.ack(BasicAckOptions::default()).await.map(drop)
        }
        Err(Ended::Fault(fault)) => {
            let told = attempt.publications.fault(&fault);
            attempt.publisher.publish(told).await?;
            attempt.publisher.confirmed().await?;
            reject(&delivery).await
        }
        Err(Ended::Link(error)) => Err(error),
    }
}

async fn reject(delivery: &Delivery) -> lapin::Result<()> {
    delivery.reject(BasicRejectOptions { requeue: false }).await.map(drop)
}

/// One attempt with one message.
struct Attempt<'a> {
    worker: &'a Worker,
    incoming: &'a Incoming,
    host: Arc<StepHost>,
    publications: Publications<'a>,
    publisher: Publisher,
}

impl Attempt<'_> {
    async fn run(&mut self) -> Result<(), Ended> {
        let name = &self.incoming.job.operation;
        let operation = self.worker.catalog.get(name).ok_or_else(|| {
            Fault::misconfigured("no_operation", format!("this version of Flowline has no operation `{name}`"))
        })?;
        match &operation.run {
            Run::Action(action) => self.act(&**action).await,
            Run::Polling(trigger) => self.poll(&**trigger).await,
            _ => Err(Fault::misconfigured("no_worker", format!("`{name}` does not run in a container")).into()),
        }
    }

    fn context(&self) -> Context {
        let host: Arc<dyn Host> = Arc::<StepHost>::clone(&self.host);
        Context::new(self.incoming.job.place(), host)
    }

    /// How long one run may take; none leaves that to the other side.
    fn limit(&self) -> Option<Duration> {
        self.incoming.job.timeout_ms.map(Duration::from_millis)
    }

    async fn act(&mut self, action: &dyn ErasedAction) -> Result<(), Ended> {
        let cx = self.context();
        let job = &self.incoming.job;
        let emits = guarded(self.limit(), action.run(&cx, job.config.clone(), job.message.clone())).await?;
        // All of an action's emits count or none: what is too large is found before any is sent.
        let data =
            emits.iter().map(|emit| self.publications.data(emit, &self.host.files)).collect::<Result<Vec<_>, _>>()?;
        drop(emits);
        for publication in data {
            self.publisher.publish(publication).await?;
        }
        self.take_effects(&cx);
        self.tell_effects(&cx).await
    }

    /// Polls in as many rounds as it takes. What the rounds before a fault brought counts.
    async fn poll(&mut self, trigger: &dyn ErasedPolling) -> Result<(), Ended> {
        let cx = self.context();
        let mut since: Option<Value> = cx.state(SNAPSHOT).await?;
        let mut moved = false;
        let ended = loop {
            let config = self.incoming.job.config.clone();
            let polled = match guarded(self.limit(), trigger.poll(&cx, config, since.clone())).await {
                Ok(polled) => polled,
                Err(fault) => break Err(fault),
            };
            for emit in &polled.emits {
                let publication = self.publications.data(emit, &self.host.files)?;
                self.publisher.publish(publication).await?;
            }
            self.take_effects(&cx);
            since = Some(polled.snapshot);
            moved = true;
            if !polled.more {
                break Ok(());
            }
        };
        self.tell_effects(&cx).await?;
        if let Some(snapshot) = since.filter(|_| moved) {
            let publication = self.publications.snapshot(&snapshot);
            self.publisher.publish(publication).await?;
        }
        ended.map_err(Ended::Fault)
    }

    /// Keeps what the code asked to remember for the rounds that follow and for the end.
    fn take_effects(&self, cx: &Context) {
        let effects = cx.take_effects();
        self.host.remembered.apply(effects.state);
        if let Some(reply) = effects.reply {
            cx.reply(reply);
        }
    }

    async fn tell_effects(&mut self, cx: &Context) -> Result<(), Ended> {
        let changes = self.host.remembered.all();
        if !changes.is_empty() {
            let publication = self.publications.state(&changes);
            self.publisher.publish(publication).await?;
        }
        let reply = cx.take_effects().reply.and_then(|reply| self.publications.reply(&reply));
        if let Some(publication) = reply {
            self.publisher.publish(publication).await?;
        }
        Ok(())
    }
}

/// Runs code of an operation so that a panic or a hang is a fault and nothing more.
async fn guarded<T>(limit: Option<Duration>, code: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    let code = AssertUnwindSafe(code).catch_unwind();
    let ran = match limit {
        None => code.await,
        Some(limit) => tokio::time::timeout(limit, code)
            .await
            .map_err(|_| Fault::retry("timeout", format!("the attempt took longer than {limit:?}")))?,
    };
    ran.unwrap_or_else(|panic| Err(panicked(&*panic)))
}

fn panicked(panic: &(dyn Any + Send)) -> Fault {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message");
    Fault::retry("panic", format!("the step's code panicked: {text}"))
}
