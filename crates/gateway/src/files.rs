//! Attachments that components put into messages: what lies in our object store becomes an
//! attachment of the execution, what lies elsewhere stays a link.

use flowline_model::Attachment;
use flowline_sdk::Place;
use futures::TryStreamExt;
use serde_json::{Map, Value};
use tokio_util::io::ReaderStream;
use uuid::Uuid;

use crate::{gathered::Failure, seal::is_attachment, step::Step};

/// Attachments of one message.
const MOST_ATTACHMENTS: usize = 1000;

fn failure(text: String) -> Failure {
    Failure { text, fault: None }
}

impl Step {
    pub(crate) async fn attachments(
        &self,
        links: Map<String, Value>,
        place: &Place,
    ) -> Result<Vec<Attachment>, Failure> {
        if links.len() > MOST_ATTACHMENTS {
            return Err(failure(format!("a message has at most {MOST_ATTACHMENTS} attachments")));
        }
        let mut attachments = Vec::with_capacity(links.len());
        for (name, link) in links {
            attachments.push(self.attachment(&name, &link, place).await?);
        }
        Ok(attachments)
    }

    async fn attachment(&self, name: &str, link: &Value, place: &Place) -> Result<Attachment, Failure> {
        let url = link.get("url").and_then(Value::as_str).unwrap_or_default();
        let content_type = link.get("content-type").and_then(Value::as_str).unwrap_or("application/octet-stream");
        if url.is_empty() {
            return Err(failure(format!("the attachment `{name}` has no `url`")));
        }
        let Some(own) = url.strip_prefix(&self.shared.addresses().api()) else {
            // It is not ours; whoever needs it fetches it.
            let size = link.get("size").and_then(Value::as_u64).unwrap_or(0);
            let content_type = content_type.to_owned();
            return Ok(Attachment { id: url.to_owned(), name: name.to_owned(), content_type, size });
        };
        let path = own.split(['?', '#']).next().unwrap_or_default();
        let last = path.rsplit('/').next().unwrap_or_default();
        let flow = &self.spec.queue.flow;
        let unknown = || failure(format!("the attachment `{name}` refers to an object that is not this flow's"));
        if is_attachment(last) {
            let known = self.shared.seal.open_attachment(flow, last).ok_or_else(unknown)?;
            return Ok(Attachment { name: name.to_owned(), ..known });
        }
        let object = last.parse::<Uuid>().ok().or_else(|| self.shared.seal.open_object(flow, last));
        self.adopt(object.ok_or_else(unknown)?, name, content_type, place).await
    }

    /// Copies an object to the attachments of an execution: objects end with their time.
    async fn adopt(&self, id: Uuid, name: &str, content_type: &str, place: &Place) -> Result<Attachment, Failure> {
        let trouble = |error: String| failure(format!("the attachment `{name}`: {error}"));
        let flow = &self.spec.queue.flow;
        self.shared.objects.get(flow, id, crate::gateway::now()).map_err(|error| trouble(error.to_string()))?;
        let file = self.shared.objects.read(flow, id).await.map_err(|error| trouble(error.to_string()))?;
        let content = Box::pin(ReaderStream::with_capacity(file, 64 * 1024).map_ok(Into::into));
        let limit = self.shared.settings.limits.object;
        let stored = self.host.attachments().store(place.execution, name, content_type, content, limit).await;
        stored.map_err(|error| trouble(error.to_string()))
    }
}
