//! All that the author of a component imports.
//!
//! A component is a small application for one service or job. It offers *operations*: actions,
//! polling triggers and webhook triggers. Each is a type with a typed configuration, a spec and
//! one async function; everything else (queues, retries, time limits, dead letters, state,
//! history, metrics) is done around it.
//!
//! ```
//! use flowline_sdk::prelude::*;
//!
//! /// How to greet.
//! #[derive(Deserialize, JsonSchema)]
//! #[serde(deny_unknown_fields)]
//! struct GreetConfig {
//!     /// Whom to greet.
//!     name: String,
//! }
//!
//! struct Greet;
//!
//! impl Action for Greet {
//!     type Config = GreetConfig;
//!
//!     fn spec() -> OperationSpec {
//!         OperationSpec::action("demo.greet", "Greet", "Says hello to somebody.")
//!     }
//!
//!     async fn run(&self, _: &Context, config: GreetConfig, _: Message) -> Result<Vec<Emit>, Fault> {
//!         Ok(vec![Emit::new(format!("Hello, {}!", config.name))])
//!     }
//! }
//!
//! let catalog = Catalog::new([Operation::action(Greet)]);
//! assert!(catalog.get("demo.greet").is_some());
//! ```
#![warn(missing_docs)]

mod attachments;
mod catalog;
mod context;
mod operation;
mod remote;
mod request;
pub mod testing;

pub use attachments::{AttachmentError, Attachments, ByteStream};
pub use catalog::{Catalog, ComponentInfo};
pub use context::{Context, Effects, Host, Place};
pub use flowline_model::{
    self as model, Attachment, Emit, Expression, Fault, FaultKind, Lapse, Message, MessageId, OperationKind,
    OperationSpec, Outputs, Recipient, Reply, Runtime, Size, Timestamp,
};
pub use operation::{
    Action, ErasedAction, ErasedPolling, ErasedWebhook, Image, Operation, Polled, PolledValue, PollingTrigger, Run,
    WebhookTrigger,
};
pub use remote::{Contract, Gateway, GatewayStep, Presence, Produced, Remote, RemoteStep};
pub use request::{Accepts, Received, Refusal, Request};

/// What nearly every component needs.
pub mod prelude {
    pub use schemars::JsonSchema;
    pub use serde::{Deserialize, Serialize};
    pub use serde_json::{Value, json};

    pub use crate::{
        Accepts, Action, Attachment, Catalog, Context, Emit, Expression, Fault, FaultKind, Lapse, Message, Operation,
        OperationSpec, Outputs, Polled, PollingTrigger, Received, Refusal, Reply, Request, Size, Timestamp,
        WebhookTrigger,
    };
}
