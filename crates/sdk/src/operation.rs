//! Operations: what authors write, and the form in which the engine holds it.

use std::{future::Future, sync::Arc};

use async_trait::async_trait;
use flowline_model::{Emit, Fault, Message, OperationKind, OperationSpec, Runtime};
use schemars::{JsonSchema, generate::SchemaSettings};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{Accepts, Context, Received, Refusal, Request};

/// Transforms what it receives or acts on it.
pub trait Action: Send + Sync + 'static {
    /// Its configuration: expressions are evaluated on the message before it gets here.
    type Config: DeserializeOwned + JsonSchema + Send;

    /// What it says of itself.
    fn spec() -> OperationSpec;

    /// Processes one message; emits what the next steps receive.
    fn run(
        &self,
        cx: &Context,
        config: Self::Config,
        input: Message,
    ) -> impl Future<Output = Result<Vec<Emit>, Fault>> + Send;
}

/// Asks a source at intervals and remembers how far it came.
pub trait PollingTrigger: Send + Sync + 'static {
    /// Its configuration.
    type Config: DeserializeOwned + JsonSchema + Send;
    /// What it remembers between polls.
    type Snapshot: Serialize + DeserializeOwned + Default + Send;

    /// What it says of itself.
    fn spec() -> OperationSpec;

    /// Asks for what is new since the snapshot. The snapshot it returns becomes durable in the
    /// same operation as its emits.
    fn poll(
        &self,
        cx: &Context,
        config: Self::Config,
        since: Self::Snapshot,
    ) -> impl Future<Output = Result<Polled<Self::Snapshot>, Fault>> + Send;
}

/// What one poll brought.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Polled<S> {
    /// What is new; each emit begins an execution.
    pub emits: Vec<Emit>,
    /// How far it came with these emits.
    pub snapshot: S,
    /// There is more: ask again at once, with this snapshot. A source with very many items is
    /// read in chunks this way, each durable before the next.
    pub more: bool,
}

/// Waits to be told over HTTP.
pub trait WebhookTrigger: Send + Sync + 'static {
    /// Its configuration.
    type Config: DeserializeOwned + JsonSchema + Send;

    /// What it says of itself.
    fn spec() -> OperationSpec;

    /// Which requests it is for; asked once, when the flow starts.
    fn accepts(config: &Self::Config) -> Accepts;

    /// Verifies, bounds and parses one request.
    fn receive(
        &self,
        cx: &Context,
        config: Self::Config,
        request: Request,
    ) -> impl Future<Output = Result<Received, Refusal>> + Send;
}

/// An action whose configuration type is not known any more.
#[async_trait]
pub trait ErasedAction: Send + Sync {
    /// See [`Action::run`].
    async fn run(&self, cx: &Context, config: Value, input: Message) -> Result<Vec<Emit>, Fault>;
}

/// A polling trigger whose types are not known any more.
#[async_trait]
pub trait ErasedPolling: Send + Sync {
    /// See [`PollingTrigger::poll`].
    async fn poll(&self, cx: &Context, config: Value, since: Option<Value>) -> Result<PolledValue, Fault>;
}

/// What one poll brought, the snapshot as JSON.
pub type PolledValue = Polled<Value>;

/// A webhook trigger whose configuration type is not known any more.
#[async_trait]
pub trait ErasedWebhook: Send + Sync {
    /// See [`WebhookTrigger::accepts`].
    fn accepts(&self, config: Value) -> Result<Accepts, Fault>;

    /// See [`WebhookTrigger::receive`].
    async fn receive(&self, cx: &Context, config: Value, request: Request) -> Result<Received, Refusal>;
}

/// The code of an operation.
#[derive(Clone)]
pub enum Run {
    /// Of an action.
    Action(Arc<dyn ErasedAction>),
    /// Of a polling trigger.
    Polling(Arc<dyn ErasedPolling>),
    /// Of a webhook trigger.
    Webhook(Arc<dyn ErasedWebhook>),
    /// In a container image: such an operation never runs in this process.
    Image(Arc<Image>),
    /// In a program that is started as a child process.
    Process,
}

/// A container image that holds the code of a component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its name, as `docker run` takes it.
    pub name: String,
    /// The operation's key in the component: what the container is told to run.
    pub function: String,
    /// What is started in it; empty takes what the image says.
    pub command: Vec<String>,
    /// Further environment that the component asks for, without secrets.
    pub environment: Vec<(String, String)>,
}

/// An operation as a catalog holds it: spec and code.
#[derive(Clone)]
pub struct Operation {
    /// What it says of itself.
    pub spec: Arc<OperationSpec>,
    /// Its code.
    pub run: Run,
}

impl Operation {
    /// Takes an action.
    pub fn action<A: Action>(action: A) -> Self {
        Self::new::<A::Config>(A::spec(), OperationKind::Action, Run::Action(Arc::new(Typed(action))))
    }

    /// Takes a polling trigger.
    pub fn polling<P: PollingTrigger>(trigger: P) -> Self {
        Self::new::<P::Config>(P::spec(), OperationKind::Polling, Run::Polling(Arc::new(Typed(trigger))))
    }

    /// Takes a webhook trigger.
    pub fn webhook<W: WebhookTrigger>(trigger: W) -> Self {
        Self::new::<W::Config>(W::spec(), OperationKind::Webhook, Run::Webhook(Arc::new(Typed(trigger))))
    }

    /// Takes an operation of a component in a container image. Its workers are told `fields` and
    /// `credential` when they start, and `body` with each message.
    pub fn image(spec: OperationSpec, image: Image) -> Self {
        let spec = spec.runtimes(&[Runtime::Docker]).constant(&["fields", "credential"]);
        Self { spec: Arc::new(spec), run: Run::Image(Arc::new(image)) }
    }

    /// Takes an operation that starts the flow author's own program. Its workers are told
    /// `command`, `env` and `memory` when they start, and `input` with each message.
    pub fn process<C: JsonSchema>(spec: OperationSpec) -> Self {
        let kind = spec.kind;
        let spec = spec.runtimes(&[Runtime::Process]).constant(&["command", "env", "memory"]);
        Self::new::<C>(spec, kind, Run::Process)
    }

    fn new<C: JsonSchema>(mut spec: OperationSpec, kind: OperationKind, run: Run) -> Self {
        let schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<C>();
        spec.kind = kind;
        spec.config = schema.to_value();
        Self { spec: Arc::new(spec), run }
    }
}

/// Joins an operation's typed face to the untyped one of the engine.
struct Typed<T>(T);

/// Reads a configuration; says which field does not fit.
fn typed<C: DeserializeOwned>(config: Value) -> Result<C, Fault> {
    // To know the place of a mistake costs more than to read a configuration without one.
    if let Ok(config) = C::deserialize(&config) {
        return Ok(config);
    }
    serde_path_to_error::deserialize(config).map_err(|error| {
        let path = error.path().to_string();
        let field = if path == "." { String::new() } else { format!(" in `with.{path}`") };
        Fault::reject("config_invalid", format!("the configuration does not fit{field}: {}", error.inner()))
    })
}

#[async_trait]
impl<A: Action> ErasedAction for Typed<A> {
    async fn run(&self, cx: &Context, config: Value, input: Message) -> Result<Vec<Emit>, Fault> {
        self.0.run(cx, typed(config)?, input).await
    }
}

#[async_trait]
impl<P: PollingTrigger> ErasedPolling for Typed<P> {
    async fn poll(&self, cx: &Context, config: Value, since: Option<Value>) -> Result<PolledValue, Fault> {
        let since = match since {
            None => P::Snapshot::default(),
            Some(value) => serde_json::from_value(value).map_err(|error| {
                Fault::misconfigured("snapshot_unreadable", format!("the snapshot of an earlier poll: {error}"))
            })?,
        };
        let polled = self.0.poll(cx, typed(config)?, since).await?;
        let snapshot = serde_json::to_value(polled.snapshot)
            .map_err(|error| Fault::misconfigured("snapshot_unwritable", error.to_string()))?;
        Ok(Polled { emits: polled.emits, snapshot, more: polled.more })
    }
}

#[async_trait]
impl<W: WebhookTrigger> ErasedWebhook for Typed<W> {
    fn accepts(&self, config: Value) -> Result<Accepts, Fault> {
        Ok(W::accepts(&typed(config)?))
    }

    async fn receive(&self, cx: &Context, config: Value, request: Request) -> Result<Received, Refusal> {
        let config = typed(config)
            .map_err(|_| Refusal::new(500, "config_invalid", "the webhook's configuration does not fit"))?;
        self.0.receive(cx, config, request).await
    }
}
