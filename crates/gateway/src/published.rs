//! From what a worker publishes to what it means. What cannot be understood is a failure of its
//! delivery, never silently lost.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use flowline_model::{Attachment, Fault, Reply};
use flowline_sdk::Place;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::io::AsyncReadExt;
use uuid::Uuid;

use crate::{
    amqp::Publication,
    compose::OBJECT_ID,
    gathered::{Failure, Published},
    headers,
    names::Purpose,
    step::Step,
    stored::{Stored, To},
};

/// The longest text of an error that is kept.
const LONGEST_TEXT: usize = 4000;

/// A message as components write it.
#[derive(Deserialize)]
struct Inner {
    #[serde(default)]
    body: Value,
    #[serde(default)]
    headers: Option<Map<String, Value>>,
    #[serde(default)]
    attachments: Option<Map<String, Value>>,
    #[serde(default)]
    flowline: Option<Extension>,
}

/// What `flowline worker` says besides.
#[derive(Deserialize, Default)]
struct Extension {
    #[serde(default)]
    to: Option<To>,
    #[serde(default)]
    delay_ms: Option<u64>,
    #[serde(default)]
    headers: Option<BTreeMap<String, String>>,
    #[serde(default)]
    attachments: Option<Vec<Attachment>>,
}

type Understood<T> = Result<T, Failure>;

fn failure(text: impl Into<String>) -> Failure {
    let text: String = text.into();
    Failure { text: text.chars().take(LONGEST_TEXT).collect(), fault: None }
}

impl Step {
    /// What a publication means.
    pub(crate) async fn understand(&self, purpose: &Purpose, publication: &Publication, place: &Place) -> Published {
        let understood = match purpose {
            Purpose::Data => self.data(publication, place).await,
            Purpose::Error => self.error(publication),
            Purpose::Rebound => Ok(self.rebound(publication)),
            Purpose::Snapshot => snapshot(publication),
            Purpose::Reply(_) if headers::is_set(&publication.properties, "x-eio-error-response") => {
                self.error_reply(publication)
            }
            Purpose::Reply(_) => self.reply(publication).await,
        };
        understood.unwrap_or_else(Published::Failure)
    }

    fn open(&self, publication: &Publication) -> Understood<Vec<u8>> {
        let version = headers::number(&publication.properties, "protocolVersion").unwrap_or(1);
        self.cipher.open(version, &publication.body).map_err(|error| failure(error.to_string()))
    }

    async fn data(&self, publication: &Publication, place: &Place) -> Understood<Published> {
        let plain = self.open(publication)?;
        let inner: Inner = serde_json::from_slice(&plain)
            .map_err(|error| failure(format!("what the component emitted is not a message: {error}")))?;
        let mut size = plain.len();
        let headers = inner.headers.unwrap_or_default();
        let body = match headers.get(OBJECT_ID).and_then(Value::as_str) {
            Some(id) => {
                let (body, length) = self.stored_body(id).await?;
                size += length;
                body
            }
            None => inner.body,
        };
        let extension = inner.flowline.unwrap_or_default();
        let attachments = match extension.attachments {
            Some(attachments) => attachments,
            None => self.attachments(inner.attachments.unwrap_or_default(), place).await?,
        };
        let headers = extension.headers.unwrap_or_else(|| travelling(headers));
        let emit = Stored { body, headers, attachments, to: extension.to, delay_ms: extension.delay_ms };
        Ok(Published::Data(Box::new(emit), size))
    }

    /// A body that lies in the object store, and its length.
    async fn stored_body(&self, id: &str) -> Understood<(Value, usize)> {
        let trouble = |error: String| failure(format!("a body in the object store (`{id}`): {error}"));
        let limit = self.shared.settings.limits.body.0.saturating_mul(4);
        let flow = &self.spec.queue.flow;
        let object = id.parse::<Uuid>().map_err(|error| trouble(error.to_string()))?;
        let known =
            self.shared.objects.get(flow, object, crate::gateway::now()).map_err(|error| trouble(error.to_string()))?;
        if known.content_length > limit {
            return Err(trouble(format!("it is larger than {limit} bytes")));
        }
        let file = self.shared.objects.read(flow, object).await.map_err(|error| trouble(error.to_string()))?;
        let mut hidden = Vec::new();
        file.take(limit).read_to_end(&mut hidden).await.map_err(|error| trouble(error.to_string()))?;
        let plain = self.cipher.decrypt(&hidden).map_err(|error| trouble(error.to_string()))?;
        let body = serde_json::from_slice(&plain).map_err(|error| trouble(error.to_string()))?;
        Ok((body, plain.len()))
    }

    fn error(&self, publication: &Publication) -> Understood<Published> {
        #[derive(Deserialize)]
        struct Outer {
            error: String,
        }
        let outer: Outer = serde_json::from_slice(&publication.body)
            .map_err(|error| failure(format!("the component reported an error that cannot be read: {error}")))?;
        let error = self.opened_error(outer.error.as_bytes())?;
        let text = error_text(&error);
        let fault = error.get("fault").filter(|fault| !fault.is_null()).cloned().map(|mut fault| {
            if fault.get("message").is_none() {
                fault["message"] = Value::String(text.clone());
            }
            serde_json::from_value::<Fault>(fault)
        });
        let fault =
            fault.transpose().map_err(|error| failure(format!("{text} (its fault cannot be read: {error})")))?;
        Ok(Published::Failure(Failure { fault, ..failure(text) }))
    }

    /// The text of an error report that belongs to no message.
    pub(crate) fn start_failure(&self, publication: &Publication) -> String {
        match self.error(publication) {
            Ok(Published::Failure(failure)) | Err(failure) => failure.text,
            Ok(_) => String::new(),
        }
    }

    fn opened_error(&self, hidden: &[u8]) -> Understood<Value> {
        let plain = self.cipher.decrypt_text(hidden).map_err(|error| failure(format!("an error report: {error}")))?;
        serde_json::from_slice(&plain).map_err(|error| failure(format!("an error report: {error}")))
    }

    fn rebound(&self, publication: &Publication) -> Published {
        let reason = headers::text(&publication.properties, "reboundReason").unwrap_or_default();
        let expiration = publication.properties.expiration().as_ref().map(|text| text.as_str().parse::<f64>());
        let millis = expiration.and_then(Result::ok).filter(|millis| *millis >= 0.0).unwrap_or(0.0);
        let longest = self.shared.settings.limits.rebound;
        let after = Duration::try_from_secs_f64(millis / 1000.0).unwrap_or(longest).min(longest);
        Published::Rebound { reason: reason.chars().take(LONGEST_TEXT).collect(), after }
    }

    fn error_reply(&self, publication: &Publication) -> Understood<Published> {
        let error = self.opened_error(&publication.body)?;
        Ok(Published::ErrorReply(Reply {
            status: 500,
            headers: vec![("content-type".to_owned(), "text/plain; charset=utf-8".to_owned())],
            body: error_text(&error).into_bytes(),
        }))
    }

    /// A reply: the event's form has a `statusCode`, the component's form hides it in its headers.
    async fn reply(&self, publication: &Publication) -> Understood<Published> {
        let mut reply: Value = serde_json::from_slice(&self.open(publication)?)
            .map_err(|error| failure(format!("the component's reply is not JSON: {error}")))?;
        let mut headers = match reply.get_mut("headers").map(Value::take) {
            Some(Value::Object(headers)) => headers,
            _ => Map::new(),
        };
        let status = reply.get("statusCode").cloned().or_else(|| take(&mut headers, "x-eio-status-code"));
        let mut body = reply.get_mut("body").map(Value::take).unwrap_or_default();
        if let Some(Value::String(id)) = take(&mut headers, OBJECT_ID) {
            body = self.stored_body(&id).await?.0;
        }
        take(&mut headers, "reply_to");
        let raw = reply.get("body_base64").and_then(Value::as_str).map(|raw| BASE64_STANDARD.decode(raw));
        let raw = raw.transpose().map_err(|error| failure(format!("the body of a reply: {error}")))?;
        Ok(Published::Reply(answer(status.as_ref(), headers, body, raw)))
    }
}

fn take(headers: &mut Map<String, Value>, name: &str) -> Option<Value> {
    let key = headers.keys().find(|key| key.eq_ignore_ascii_case(name))?.clone();
    headers.remove(&key)
}

fn answer(status: Option<&Value>, headers: Map<String, Value>, body: Value, raw: Option<Vec<u8>>) -> Reply {
    let status = match status {
        Some(Value::String(text)) => text.parse().ok(),
        Some(Value::Number(number)) => number.as_u64(),
        _ => None,
    };
    let status = status.and_then(|status| u16::try_from(status).ok()).filter(|status| (200..600).contains(status));
    let mut headers: Vec<_> =
        headers.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), text(value))).collect();
    let is_typed = headers.iter().any(|(name, _)| name == "content-type");
    let (body, kind) = match (raw, body) {
        (Some(raw), _) => (raw, "application/octet-stream"),
        (None, Value::Null) => (Vec::new(), "text/plain; charset=utf-8"),
        (None, Value::String(text)) => (text.into_bytes(), "text/plain; charset=utf-8"),
        (None, body) => (body.to_string().into_bytes(), "application/json"),
    };
    if !is_typed {
        headers.push(("content-type".to_owned(), kind.to_owned()));
    }
    Reply { status: status.unwrap_or(200), headers, body }
}

/// A text as it is, anything else as JSON.
fn text(value: Value) -> String {
    if let Value::String(text) = value { text } else { value.to_string() }
}

/// `Name: message`, as stack traces begin.
fn error_text(error: &Value) -> String {
    let part = |key| error.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    match (part("name"), part("message")) {
        (Some(name), Some(message)) => format!("{name}: {message}"),
        (Some(text), None) | (None, Some(text)) => text.to_owned(),
        (None, None) => "the component reported an error without a message".to_owned(),
    }
}

/// Headers that travel on with an emit.
fn travelling(headers: Map<String, Value>) -> BTreeMap<String, String> {
    const STAY: [&str; 3] = ["reply_to", "x-eio-routing-key", OBJECT_ID];
    let lower = headers.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value));
    let travel = lower.filter(|(name, value)| !STAY.contains(&name.as_str()) && !value.is_null());
    travel.map(|(name, value)| (name, text(value))).collect()
}

fn snapshot(publication: &Publication) -> Understood<Published> {
    let value: Value = serde_json::from_slice(&publication.body)
        .map_err(|error| failure(format!("the component's snapshot is not JSON: {error}")))?;
    match (headers::text(&publication.properties, "snapshotEvent").as_deref(), value) {
        (Some("updateSnapshot"), Value::Object(update)) => Ok(Published::UpdateSnapshot(update)),
        (Some("state"), value) => {
            let entries: Vec<(String, Option<Value>)> = serde_json::from_value(value)
                .map_err(|error| failure(format!("the worker's state cannot be read: {error}")))?;
            Ok(Published::State(entries, publication.body.len()))
        }
        (_, value) => Ok(Published::Snapshot(value)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn replies_become_bytes_with_a_type() {
        let map = |value: Value| value.as_object().cloned().unwrap();
        let reply = answer(Some(&json!(201)), map(json!({"X-A": 1})), json!({"a": 1}), None);
        assert_eq!((reply.status, reply.body.as_slice()), (201, &br#"{"a":1}"#[..]));
        assert_eq!(reply.headers, [("x-a".into(), "1".into()), ("content-type".into(), "application/json".into())]);
        let reply = answer(Some(&json!("404")), map(json!({"Content-Type": "text/html"})), json!("<p>"), None);
        assert_eq!((reply.status, reply.body.as_slice(), reply.headers.len()), (404, &b"<p>"[..], 1));
        assert_eq!(answer(Some(&json!(99)), Map::new(), Value::Null, Some(vec![0])).status, 200);
    }

    #[test]
    fn headers_of_the_transport_stay_behind() {
        let headers = json!({"X-A": "b", "n": 1, "reply_to": "x", "X-Ipaas-Object-Storage-Id": "x", "none": null});
        let travelled = travelling(headers.as_object().cloned().unwrap());
        assert_eq!(travelled, BTreeMap::from([("x-a".into(), "b".into()), ("n".into(), "1".into())]));
    }
}
