//! From our message to what a worker is sent: AMQP headers and an encrypted body.

use std::{borrow::Cow, collections::BTreeMap};

use amq_protocol::protocol::BasicProperties;
use bytes::Bytes;
use flowline_model::{Attachment, ExecutionId, Fault, FlowName, Message, MessageId, StepId};
use flowline_sdk::{Contract, Place};
use futures::stream;
use serde::Serialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::{
    amqp::{Content, short},
    environment::OWNER,
    headers::Headers,
    names::Purpose,
    objects::Described,
    step::Step,
};

/// The header of a message whose body lies in the object store.
pub(crate) const OBJECT_ID: &str = "x-ipaas-object-storage-id";
/// Free tracing headers, which travel through every step.
const TRACE: &str = "x-eio-meta-";

/// A message as components read it.
#[derive(Serialize)]
struct Inner<'a> {
    id: MessageId,
    body: Cow<'a, Value>,
    headers: Cow<'a, BTreeMap<String, String>>,
    attachments: Map<String, Value>,
    metadata: Map<String, Value>,
    passthrough: BTreeMap<&'a StepId, Earlier<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flowline: Option<Extension<'a>>,
}

/// What an earlier step produced.
#[derive(Serialize)]
struct Earlier<'a> {
    body: &'a Value,
    headers: Map<String, Value>,
    attachments: Map<String, Value>,
}

/// What `flowline worker` is told besides.
#[derive(Serialize)]
struct Extension<'a> {
    config: &'a Value,
    operation: &'a str,
    place: At<'a>,
    message: &'a Message,
    /// How long an attempt may take: the worker ends it itself, so that it need not be killed.
    timeout_ms: u64,
}

/// Where a message is worked on.
#[derive(Serialize)]
struct At<'a> {
    flow: &'a FlowName,
    version: u32,
    step: &'a StepId,
    execution: ExecutionId,
    message: MessageId,
    attempt: u32,
}

impl<'a> From<&'a Place> for At<'a> {
    fn from(place: &'a Place) -> Self {
        let Place { flow, version, step, execution, message, attempt } = place;
        Self { flow, version: *version, step, execution: *execution, message: *message, attempt: *attempt }
    }
}

impl Step {
    /// What a worker is sent for a message, under this id.
    pub(crate) async fn compose(
        &self,
        id: MessageId,
        place: &Place,
        mut config: Value,
        input: &Message,
    ) -> Result<Content, Fault> {
        let inner = match self.spec.contract {
            Contract::Component => self.for_component(&mut config, input),
            Contract::Worker => self.for_worker(place, &config, input),
        };
        let mut plain = bytes(&inner)?;
        if plain.len() as u64 > self.shared.settings.limits.lightweight.0 && self.spec.contract == Contract::Component {
            plain = self.lightened(&inner).await?;
        }
        let version = self.protocol();
        let body =
            if version < 2 { self.cipher.encrypt_text(&plain).into_bytes() } else { self.cipher.encrypt(&plain) };
        Ok(Content {
            key: self.names.key(&Purpose::Data),
            redelivered: place.attempt > 1,
            properties: BasicProperties::default()
                .with_content_type(short("application/json"))
                .with_content_encoding(short("utf8"))
                .with_delivery_mode(2)
                .with_headers(self.headers(id, place, input, version).into_table()),
            body: body.into(),
        })
    }

    /// How bodies are written: our own worker reads them raw, old runtimes only as text.
    fn protocol(&self) -> i64 {
        match self.spec.contract {
            Contract::Component => 1,
            Contract::Worker => 2,
        }
    }

    fn headers(&self, id: MessageId, place: &Place, input: &Message, version: i64) -> Headers {
        let mut headers = Headers::default();
        headers.text("messageId", id.to_string());
        headers.text("threadId", place.execution.to_string());
        headers.text("execId", place.execution.to_string());
        headers.text("taskId", place.flow.as_str());
        headers.text("workspaceId", OWNER);
        headers.text("userId", OWNER);
        headers.text("stepId", place.step.as_str());
        headers.text("reply_to", self.names.reply(id));
        headers.number("protocolVersion", version);
        if place.attempt > 1 {
            headers.number("reboundIteration", i64::from(place.attempt) - 1);
        }
        for (name, value) in input.headers.iter().filter(|(name, _)| name.starts_with(TRACE)) {
            headers.text(name, value.as_str());
        }
        headers
    }

    fn for_component<'a>(&self, config: &mut Value, input: &'a Message) -> Inner<'a> {
        let mapped = config.as_object_mut().and_then(|config| config.remove("body"));
        let body = mapped.map_or(Cow::Borrowed(&input.body), Cow::Owned);
        let earlier = |body| Earlier { body, headers: Map::new(), attachments: Map::new() };
        Inner {
            id: input.id,
            // Components expect an object, a tick has no body.
            body: if body.is_null() { Cow::Owned(Map::new().into()) } else { body },
            headers: Cow::Borrowed(&input.headers),
            attachments: self.links(&input.attachments),
            metadata: Map::new(),
            passthrough: input.steps.iter().map(|(step, body)| (step, earlier(body))).collect(),
            flowline: None,
        }
    }

    fn for_worker<'a>(&'a self, place: &'a Place, config: &'a Value, input: &'a Message) -> Inner<'a> {
        let (operation, place) = (self.spec.function.as_str(), place.into());
        let timeout_ms = u64::try_from(self.spec.timeout.as_millis()).unwrap_or(u64::MAX);
        Inner {
            id: input.id,
            body: Cow::Owned(Map::new().into()),
            headers: Cow::Owned(BTreeMap::new()),
            attachments: self.links(&input.attachments),
            metadata: Map::new(),
            passthrough: BTreeMap::new(),
            flowline: Some(Extension { config, operation, place, message: input, timeout_ms }),
        }
    }

    /// Attachments as a component sees them.
    fn links(&self, attachments: &[Attachment]) -> Map<String, Value> {
        let mut links = Map::new();
        for attachment in attachments {
            let mut name = attachment.name.clone();
            for copy in 2.. {
                if !links.contains_key(&name) {
                    break;
                }
                name = format!("{copy}-{}", attachment.name);
            }
            let link = json!({ "url": self.link(attachment), "content-type": attachment.content_type, "size": attachment.size });
            links.insert(name, link);
        }
        links
    }

    fn link(&self, attachment: &Attachment) -> String {
        if attachment.id.contains("://") {
            return attachment.id.clone();
        }
        let name = self.shared.seal.attachment(&self.spec.queue.flow, attachment);
        format!("{}/objects/{name}?storage_type=maester", self.shared.addresses().api())
    }

    /// The message with its body and those of earlier steps in the object store.
    async fn lightened(&self, inner: &Inner<'_>) -> Result<Vec<u8>, Fault> {
        let mut message = serde_json::to_value(inner).map_err(unwritable)?;
        self.store_body(&mut message).await?;
        if let Some(Value::Object(earlier)) = message.get_mut("passthrough") {
            for step in earlier.values_mut() {
                self.store_body(step).await?;
            }
        }
        bytes(&message)
    }

    async fn store_body(&self, message: &mut Value) -> Result<(), Fault> {
        let body = message.get_mut("body").map(Value::take).unwrap_or_default();
        let hidden = Bytes::from(self.cipher.encrypt(&bytes(&body)?));
        let content = Box::pin(stream::once(async move { Ok(hidden) }));
        let described = Described { query: BTreeMap::new(), ..Described::default() };
        let (flow, id) = (&self.spec.queue.flow, Uuid::from_bytes(rand::random()));
        let stored = self.shared.objects.put(flow, id, described, content, crate::gateway::now()).await;
        let object = stored.map_err(|error| {
            Fault::outage("object_not_stored", format!("a large body for a container could not be stored: {error}"))
        })?;
        message["body"] = json!({});
        message["headers"][OBJECT_ID] = Value::String(object.object_id.to_string());
        Ok(())
    }
}

fn bytes(value: &impl Serialize) -> Result<Vec<u8>, Fault> {
    serde_json::to_vec(value).map_err(unwritable)
}

fn unwritable(error: serde_json::Error) -> Fault {
    Fault::reject("message_unwritable", error.to_string())
}
