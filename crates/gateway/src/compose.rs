//! From our message to what a worker is sent: AMQP headers and an encrypted body.

use std::{collections::BTreeMap, sync::Arc};

use amq_protocol::protocol::BasicProperties;
use bytes::Bytes;
use flowline_model::{Attachment, Fault, Message, MessageId};
use flowline_sdk::{Contract, Place};
use futures::stream;
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

impl Step {
    /// What a worker is sent for a message, under this id.
    pub(crate) async fn compose(
        &self,
        id: MessageId,
        place: &Place,
        config: Value,
        input: &Message,
    ) -> Result<Content, Fault> {
        let mut inner = match self.spec.contract {
            Contract::Component => self.for_component(config, input),
            Contract::Worker => self.for_worker(place, config, input),
        };
        let mut plain = bytes(&inner)?;
        if plain.len() as u64 > self.shared.settings.limits.lightweight.0 && self.spec.contract == Contract::Component {
            self.lighten(&mut inner).await?;
            plain = bytes(&inner)?;
        }
        let body = self.cipher.encrypt_text(&plain);
        Ok(Content {
            key: self.names.key(&Purpose::Data),
            redelivered: place.attempt > 1,
            properties: BasicProperties::default()
                .with_content_type(short("application/json"))
                .with_content_encoding(short("utf8"))
                .with_delivery_mode(2)
                .with_headers(self.headers(id, place, input).into_table()),
            body: Arc::from(body.into_bytes()),
        })
    }

    fn headers(&self, id: MessageId, place: &Place, input: &Message) -> Headers {
        let mut headers = Headers::default();
        headers.text("messageId", id.to_string());
        headers.text("threadId", place.execution.to_string());
        headers.text("execId", place.execution.to_string());
        headers.text("taskId", place.flow.as_str());
        headers.text("workspaceId", OWNER);
        headers.text("userId", OWNER);
        headers.text("stepId", place.step.as_str());
        headers.text("reply_to", self.names.reply(id));
        headers.number("protocolVersion", 1);
        if place.attempt > 1 {
            headers.number("reboundIteration", i64::from(place.attempt) - 1);
        }
        for (name, value) in input.headers.iter().filter(|(name, _)| name.starts_with(TRACE)) {
            headers.text(name, value.as_str());
        }
        headers
    }

    fn for_component(&self, config: Value, input: &Message) -> Value {
        let mapped = if let Value::Object(mut config) = config { config.remove("body") } else { None };
        let earlier = |(step, body): (&flowline_model::StepId, &Value)| {
            (step.to_string(), json!({ "body": body, "headers": {}, "attachments": {} }))
        };
        json!({
            "id": input.id,
            // Components expect an object, a tick has no body.
            "body": mapped.or_else(|| Some(input.body.clone())).filter(|body| !body.is_null()).unwrap_or_else(|| json!({})),
            "headers": input.headers,
            "attachments": self.links(&input.attachments),
            "metadata": {},
            "passthrough": input.steps.iter().map(earlier).collect::<Map<_, _>>(),
        })
    }

    fn for_worker(&self, place: &Place, config: Value, input: &Message) -> Value {
        json!({
            "id": input.id,
            "body": {},
            "headers": {},
            "attachments": self.links(&input.attachments),
            "metadata": {},
            "passthrough": {},
            "flowline": {
                "config": config,
                "operation": self.spec.function,
                "place": {
                    "flow": place.flow,
                    "version": place.version,
                    "step": place.step,
                    "execution": place.execution,
                    "message": place.message,
                    "attempt": place.attempt,
                },
                "message": input,
            },
        })
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

    /// Moves the body and those of earlier steps to the object store.
    async fn lighten(&self, message: &mut Value) -> Result<(), Fault> {
        self.store_body(message).await?;
        if let Some(Value::Object(earlier)) = message.get_mut("passthrough") {
            for step in earlier.values_mut() {
                self.store_body(step).await?;
            }
        }
        Ok(())
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

fn bytes(value: &Value) -> Result<Vec<u8>, Fault> {
    serde_json::to_vec(value).map_err(|error| Fault::reject("message_unwritable", error.to_string()))
}
