//! Attachments in the gateway's object store, streamed in both directions.

use std::{
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
use url::Url;

use crate::{host::Http, settings::Objects};

/// Says which execution a file belongs to, and how it is called.
const EXECUTION: &str = "x-flowline-execution";
const NAME: &str = "x-flowline-name";

/// Attachments that Flowline keeps.
pub(crate) struct RemoteObjects {
    http: Arc<Http>,
    place: Option<(Url, String)>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    object_id: String,
}

impl RemoteObjects {
    pub(crate) fn new(http: Arc<Http>, objects: Option<&Objects>) -> Self {
        let place = objects.and_then(|objects| {
            let url = Url::parse(&format!("{}/objects", objects.url)).ok()?;
            Some((url, objects.token.clone()))
        });
        Self { http, place }
    }

    /// A request to the store, or to one object in it.
    fn request(&self, method: reqwest::Method, object: Option<&str>) -> io::Result<RequestBuilder> {
        let missing = || io::Error::other("this worker was given no object storage");
        let (url, token) = self.place.as_ref().ok_or_else(missing)?;
        let mut url = url.clone();
        if let (Some(object), Ok(mut path)) = (object, url.path_segments_mut()) {
            path.push(object);
        }
        Ok(self.http.client().map_err(other)?.request(method, url).bearer_auth(token))
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

/// A header that may hold any text.
fn encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}

#[async_trait]
impl Attachments for RemoteObjects {
    async fn store(
        &self,
        execution: ExecutionId,
        name: &str,
        content_type: &str,
        content: ByteStream,
        limit: Size,
    ) -> Result<Attachment, AttachmentError> {
        let size = Arc::new(AtomicU64::new(0));
        let body = Body::wrap_stream(bounded(content, limit, Arc::clone(&size)));
        let request = self.request(reqwest::Method::POST, None)?.header(CONTENT_TYPE, content_type);
        let request = request.header(EXECUTION, execution.to_string()).header(NAME, encoded(name)).body(body);
        let sent = request.send().await;
        let length = size.load(Ordering::Relaxed);
        if length > limit.0 {
            return Err(AttachmentError::TooLarge(limit));
        }
        let response = sent.map_err(other)?;
        if response.status() == StatusCode::PAYLOAD_TOO_LARGE {
            return Err(AttachmentError::TooLarge(limit));
        }
        let stored: Stored = response.error_for_status().map_err(other)?.json().await.map_err(other)?;
        let (name, content_type) = (name.to_owned(), content_type.to_owned());
        Ok(Attachment { id: stored.object_id, name, content_type, size: length })
    }

    async fn open(&self, attachment: &Attachment) -> Result<ByteStream, AttachmentError> {
        let response = self.request(reqwest::Method::GET, Some(&attachment.id))?.send().await.map_err(other)?;
        if response.status() == StatusCode::NOT_FOUND {
            return Err(AttachmentError::Missing(attachment.name.clone()));
        }
        let response = response.error_for_status().map_err(other)?;
        Ok(response.bytes_stream().map_err(other).boxed())
    }
}
