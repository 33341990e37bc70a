//! The object store over HTTP, as the components' client speaks to it, and attachments of
//! messages, which look like objects to a component.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{Path, RawQuery, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
};
use flowline_model::FlowName;
use flowline_sdk::{AttachmentError, ByteStream};
use futures::{StreamExt, stream};
use serde_json::json;
use tokio_util::io::ReaderStream;
use uuid::Uuid;

use super::{
    answer::{Answer, Problem, ok, problem, trouble},
    door::{ApiGuest, ObjectGuest},
};
use crate::{
    gateway::{Shared, now},
    guests::Guest,
    objects::{Described, MOST_PAIRS, Object, ObjectError},
    seal::is_attachment,
};

const QUERY: &str = "x-query-";
const META: &str = "x-meta-";
/// Objects in one answer, or removed by one request.
const MOST_FOUND: usize = 1000;

pub(super) async fn create(
    State(shared): State<Arc<Shared>>,
    ObjectGuest(guest): ObjectGuest,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let id = Uuid::from_bytes(rand::random());
    let object = put(&shared, &guest.spec().queue.flow, id, &headers, body).await?;
    Ok((StatusCode::CREATED, ok(json!(object))).into_response())
}

pub(super) async fn replace(
    State(shared): State<Arc<Shared>>,
    ObjectGuest(guest): ObjectGuest,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let flow = &guest.spec().queue.flow;
    let id = parse(&id)?;
    shared.objects.get(flow, id, now())?;
    let object = put(&shared, flow, id, &headers, body).await?;
    Ok(ok(json!(object)))
}

pub(super) async fn read(
    State(shared): State<Arc<Shared>>,
    ObjectGuest(guest): ObjectGuest,
    Path(id): Path<String>,
) -> Answer {
    if is_attachment(&id) {
        return attachment(&shared, &guest, &id).await;
    }
    content(&shared, &guest.spec().queue.flow, parse(&id)?).await
}

pub(super) async fn remove(
    State(shared): State<Arc<Shared>>,
    ObjectGuest(guest): ObjectGuest,
    Path(id): Path<String>,
) -> Answer {
    let removed = shared.objects.remove(&guest.spec().queue.flow, parse(&id)?).await;
    removed?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(super) async fn find(
    State(shared): State<Arc<Shared>>,
    ObjectGuest(guest): ObjectGuest,
    RawQuery(query): RawQuery,
) -> Answer {
    let pairs = pairs(query.as_deref())?;
    let found = shared.objects.find(&guest.spec().queue.flow, &pairs, MOST_FOUND, now());
    Ok(ok(json!(found)))
}

pub(super) async fn remove_found(
    State(shared): State<Arc<Shared>>,
    ObjectGuest(guest): ObjectGuest,
    RawQuery(query): RawQuery,
) -> Answer {
    let pairs = pairs(query.as_deref())?;
    let flow = &guest.spec().queue.flow;
    for object in shared.objects.find(flow, &pairs, MOST_FOUND, now()) {
        match shared.objects.remove(flow, object.object_id).await {
            // Somebody else was quicker.
            Ok(()) | Err(ObjectError::Missing) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Two links to an object that does not exist yet, which need no further credentials.
pub(super) async fn sign(State(shared): State<Arc<Shared>>, ApiGuest(guest): ApiGuest) -> Answer {
    let flow = &guest.spec().queue.flow;
    let link = shared.seal.object(flow, Uuid::from_bytes(rand::random()));
    let url = format!("{}/files/{flow}/{link}", shared.addresses().api());
    let expires = now() + shared.settings.limits.object_ttl;
    Ok(ok(json!({ "put_url": url, "get_url": url, "expires": expires })))
}

pub(super) async fn write_link(
    State(shared): State<Arc<Shared>>,
    Path((flow, link)): Path<(FlowName, String)>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let id = shared.seal.open_object(&flow, &link).ok_or_else(missing)?;
    put(&shared, &flow, id, &headers, body).await?;
    Ok(StatusCode::OK.into_response())
}

pub(super) async fn read_link(
    State(shared): State<Arc<Shared>>,
    Path((flow, link)): Path<(FlowName, String)>,
) -> Answer {
    let id = shared.seal.open_object(&flow, &link).ok_or_else(missing)?;
    content(&shared, &flow, id).await
}

fn missing() -> Problem {
    ObjectError::Missing.into()
}

fn parse(id: &str) -> Result<Uuid, Problem> {
    id.parse().map_err(|_| missing())
}

async fn put(shared: &Shared, flow: &FlowName, id: Uuid, headers: &HeaderMap, body: Body) -> Result<Object, Problem> {
    let content = unhurried(body, shared.settings.limits.stalled);
    let stored = shared.objects.put(flow, id, described(headers), content, now()).await;
    Ok(stored?)
}

/// A body whose sender may take its time, but not for ever between two parts.
fn unhurried(body: Body, stalled: Duration) -> ByteStream {
    let parts = stream::unfold(body.into_data_stream(), move |mut parts| async move {
        let part = match tokio::time::timeout(stalled, parts.next()).await {
            Ok(part) => part?.map_err(io::Error::other),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the sender stalled")),
        };
        Some((part, parts))
    });
    parts.boxed()
}

fn described(headers: &HeaderMap) -> Described {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let with = |prefix: &str| -> BTreeMap<String, String> {
        let named = headers.iter().filter_map(|(name, value)| {
            Some((name.as_str().strip_prefix(prefix)?.to_owned(), value.to_str().ok()?.to_owned()))
        });
        named.collect()
    };
    Described {
        content_type: text(CONTENT_TYPE.as_str()),
        ttl: text("x-eio-ttl").and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs),
        query: with(QUERY),
        metadata: with(META),
    }
}

fn pairs(query: Option<&str>) -> Result<BTreeMap<String, String>, Problem> {
    let named = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()).filter_map(|(name, value)| {
        let key = name.strip_prefix("query[")?.strip_suffix(']')?.to_owned();
        Some((key, value.into_owned()))
    });
    let pairs: BTreeMap<_, _> = named.collect();
    if pairs.is_empty() || pairs.len() > MOST_PAIRS {
        let text = format!("ask with 1 to {MOST_PAIRS} pairs: query[key]=value");
        return Err(problem(StatusCode::BAD_REQUEST, text));
    }
    Ok(pairs)
}

async fn content(shared: &Shared, flow: &FlowName, id: Uuid) -> Answer {
    let object = shared.objects.get(flow, id, now())?;
    let file = shared.objects.read(flow, id).await?;
    let mut headers = HeaderMap::new();
    typed(&mut headers, &object.content_type);
    for (prefix, pairs) in [(QUERY, &object.query), (META, &object.metadata)] {
        for (key, value) in pairs {
            let name = HeaderName::try_from(format!("{prefix}{key}"));
            if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
                headers.insert(name, value);
            }
        }
    }
    Ok((headers, Body::from_stream(ReaderStream::with_capacity(file, 64 * 1024))).into_response())
}

async fn attachment(shared: &Shared, guest: &Guest, name: &str) -> Answer {
    let attachment = shared.seal.open_attachment(&guest.spec().queue.flow, name).ok_or_else(missing)?;
    let content = guest.step.host.attachments().open(&attachment).await.map_err(|error| match error {
        AttachmentError::Missing(_) => missing(),
        error => trouble("an attachment could not be read", &error),
    })?;
    let mut headers = HeaderMap::new();
    typed(&mut headers, &attachment.content_type);
    Ok((headers, Body::from_stream(content)).into_response())
}

fn typed(headers: &mut HeaderMap, content_type: &str) {
    let value = HeaderValue::from_str(content_type);
    headers.insert(CONTENT_TYPE, value.unwrap_or(HeaderValue::from_static("application/octet-stream")));
}
