//! Attachments in the gateway's object store, streamed in both directions.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use flowline_model::{Attachment, ExecutionId, Size};
use flowline_sdk::{AttachmentError, Attachments, ByteStream};
use futures::{StreamExt, TryStreamExt};
use reqwest::{Body, RequestBuilder, StatusCode, header::CONTENT_TYPE};
use serde::Deserialize;

use crate::{host::Http, settings::Objects};

/// What the contract adds to the address of an object in this store.
const OURS: &str = "?storage_type=maester";

/// The store as all deliveries share it.
pub(crate) struct ObjectStore {
    http: Arc<Http>,
    /// Where objects lie, and the token for it.
    place: Option<(String, String)>,
}

/// The store as one delivery sees it.
pub(crate) struct RemoteObjects {
    store: Arc<ObjectStore>,
    /// Where the files of the message can be read, by their ids.
    links: HashMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    object_id: String,
}

impl ObjectStore {
    pub(crate) fn new(http: Arc<Http>, objects: Option<&Objects>) -> Self {
        let place = objects.map(|objects| (format!("{}/objects", objects.url), objects.token.clone()));
        Self { http, place }
    }

    /// Whether something lies in this store.
    pub(crate) fn holds(&self, url: &str) -> bool {
        let within = |rest: &str| rest.starts_with('/') && !rest.contains("..");
        self.place.as_ref().is_some_and(|(place, _)| url.strip_prefix(place.as_str()).is_some_and(within))
    }

    /// A request to the store, or to something in it. The token goes nowhere else.
    fn request(&self, method: reqwest::Method, url: Option<&str>) -> io::Result<RequestBuilder> {
        let missing = || io::Error::other("this worker was given no object storage");
        let (place, token) = self.place.as_ref().ok_or_else(missing)?;
        let url = url.filter(|url| self.holds(url)).unwrap_or(place);
        Ok(self.http.client().map_err(other)?.request(method, url).bearer_auth(token))
    }
}

impl RemoteObjects {
    pub(crate) fn new(store: Arc<ObjectStore>, links: HashMap<String, String>) -> Self {
        Self { store, links }
    }

    /// Where a file can be read: those of the message by their links, new ones by their ids.
    pub(crate) fn link<'a>(&'a self, attachment: &'a Attachment) -> Option<&'a str> {
        let link = self.links.get(&attachment.id).unwrap_or(&attachment.id);
        self.store.holds(link).then_some(link)
    }

    /// Whether a file was stored by a worker: Flowline knows it by its link only.
    pub(crate) fn is_new(&self, attachment: &Attachment) -> bool {
        self.store.holds(&attachment.id)
    }
}

/// An error of the HTTP client without the address, which may hold more than is to be told.
fn other(error: reqwest::Error) -> io::Error {
    io::Error::other(error.without_url())
}

/// The stream, which ends in an error where it is longer than allowed; its length is counted.
fn bounded(content: ByteStream, limit: Size, size: Arc<AtomicU64>) -> ByteStream {
    let counted = content.map(move |part: io::Result<Bytes>| {
        let part = part?;
        let so_far = size.fetch_add(part.len() as u64, Ordering::Relaxed) + part.len() as u64;
        if so_far > limit.0 { Err(io::Error::other("the file is too large")) } else { Ok(part) }
    });
    counted.boxed()
}

#[async_trait]
impl Attachments for RemoteObjects {
    async fn store(
        &self,
        _: ExecutionId,
        name: &str,
        content_type: &str,
        content: ByteStream,
        limit: Size,
    ) -> Result<Attachment, AttachmentError> {
        let size = Arc::new(AtomicU64::new(0));
        let body = Body::wrap_stream(bounded(content, limit, Arc::clone(&size)));
        let request = self.store.request(reqwest::Method::POST, None)?.header(CONTENT_TYPE, content_type);
        let sent = request.body(body).send().await;
        let length = size.load(Ordering::Relaxed);
        if length > limit.0 {
            return Err(AttachmentError::TooLarge(limit));
        }
        let response = sent.map_err(other)?;
        if response.status() == StatusCode::PAYLOAD_TOO_LARGE {
            return Err(AttachmentError::TooLarge(limit));
        }
        let stored: Stored = response.error_for_status().map_err(other)?.json().await.map_err(other)?;
        let place = self.store.place.as_ref().map_or("", |(place, _)| place);
        let id = format!("{place}/{}{OURS}", stored.object_id);
        Ok(Attachment { id, name: name.to_owned(), content_type: content_type.to_owned(), size: length })
    }

    async fn open(&self, attachment: &Attachment) -> Result<ByteStream, AttachmentError> {
        let link = self.link(attachment).ok_or_else(|| AttachmentError::Missing(attachment.name.clone()))?;
        let response = self.store.request(reqwest::Method::GET, Some(link))?.send().await.map_err(other)?;
        if response.status() == StatusCode::NOT_FOUND {
            return Err(AttachmentError::Missing(attachment.name.clone()));
        }
        let response = response.error_for_status().map_err(other)?;
        Ok(response.bytes_stream().map_err(other).boxed())
    }
}
