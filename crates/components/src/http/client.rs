//! The client: connections are kept and shared; each request has its own time limit.

use std::{sync::OnceLock, time::Duration};

use bytes::Bytes;
use flowline_sdk::{Attachment, Context, Fault};
use reqwest::{
    Body, Client, Method, RequestBuilder, Response, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
    multipart::{Form, Part},
    redirect::{Attempt, Policy},
};
use serde_json::{Map, Value};
use url::Url;

use super::{
    auth::{Auth, Credential, Tokens},
    faults, target, tls,
};

/// The most redirects that a request may follow.
pub(crate) const MOST_REDIRECTS: usize = 10;

/// How Flowline names itself.
const USER_AGENT: &str = concat!("Flowline/", env!("CARGO_PKG_VERSION"));

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);
/// How long and how many unused connections are kept for each host.
const IDLE: Duration = Duration::from_secs(30);
const IDLE_PER_HOST: usize = 64;

/// One client for each way to treat redirects, made when it is first used.
#[derive(Default)]
pub(crate) struct HttpClient {
    clients: [[OnceLock<Client>; 4]; MOST_REDIRECTS + 1],
    tokens: Tokens,
}

/// A request.
pub(crate) struct Call<'a> {
    /// The method.
    pub(crate) method: Method,
    /// The address.
    pub(crate) url: Url,
    /// Headers besides those of the credential and the payload.
    pub(crate) headers: HeaderMap,
    /// What is sent.
    pub(crate) payload: Payload,
    /// How it authenticates.
    pub(crate) auth: &'a Auth,
    /// How long it may take, answer included.
    pub(crate) timeout: Duration,
    /// How many redirects it follows.
    pub(crate) redirects: usize,
}

/// What a request sends.
pub(crate) enum Payload {
    /// Nothing.
    None,
    /// Bytes of a media type.
    Bytes(Bytes, &'static str),
    /// A form of texts and files.
    Multipart {
        /// Names and texts.
        texts: Vec<(String, String)>,
        /// The name of each file's field.
        field: String,
        /// The files; read while they are sent.
        files: Vec<Attachment>,
    },
}

impl HttpClient {
    /// Sends a request; an OAuth 2 token that is refused is replaced once.
    pub(crate) async fn send(&self, cx: &Context, call: &Call<'_>) -> Result<Response, Fault> {
        let client = self.client(call)?;
        let credential = call.auth.credential(client, &self.tokens).await?;
        let response = call.send(cx, client, credential.as_ref()).await?;
        if response.status() == StatusCode::UNAUTHORIZED
            && let Some(refused) = &credential
            && call.auth.renew(&self.tokens, refused).await
        {
            let fresh = call.auth.credential(client, &self.tokens).await?;
            return call.send(cx, client, fresh.as_ref()).await;
        }
        Ok(response)
    }

    fn client(&self, call: &Call<'_>) -> Result<&Client, Fault> {
        let redirects = Redirects {
            most: call.redirects.min(MOST_REDIRECTS),
            keep_method: !matches!(call.method, Method::GET | Method::HEAD),
            keep_origin: call.auth.is_own_header(),
        };
        let place =
            &self.clients[redirects.most][usize::from(redirects.keep_method) + 2 * usize::from(redirects.keep_origin)];
        if let Some(client) = place.get() {
            return Ok(client);
        }
        let client = build(redirects)
            .map_err(|error| Fault::retry("http_client", format!("the HTTP client cannot start: {error}")))?;
        Ok(place.get_or_init(|| client))
    }
}

fn build(redirects: Redirects) -> reqwest::Result<Client> {
    tls::install_provider();
    Client::builder()
        .user_agent(USER_AGENT)
        .connect_timeout(CONNECT)
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(IDLE_PER_HOST)
        .tcp_nodelay(true)
        // A referrer would carry the query, and with it secrets, to another host.
        .referer(false)
        .redirect(Policy::custom(move |attempt| redirects.decide(attempt)))
        .build()
}

/// How redirects are treated.
#[derive(Clone, Copy)]
struct Redirects {
    most: usize,
    /// 301 and 302 turn a POST into a GET: what was sent would be lost without anybody noticing.
    keep_method: bool,
    /// The credential must not reach another host.
    keep_origin: bool,
}

impl Redirects {
    fn decide(self, attempt: Attempt<'_>) -> reqwest::redirect::Action {
        let status = attempt.status();
        let changes_method = matches!(status, StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND);
        let leaves = attempt.previous().last().is_some_and(|last| last.origin() != attempt.url().origin());
        if self.most == 0 || (self.keep_method && changes_method) {
            attempt.stop()
        } else if attempt.previous().len() > self.most {
            attempt.error("too many redirects")
        } else if self.keep_origin && leaves {
            attempt.error("another host, which must not see the credential")
        } else {
            attempt.follow()
        }
    }
}

impl Call<'_> {
    /// Whether 401 and 403 speak of our credential.
    pub(crate) fn has_credential(&self) -> bool {
        self.auth.is_some() || self.headers.contains_key(AUTHORIZATION) || !self.url.username().is_empty()
    }

    async fn send(&self, cx: &Context, client: &Client, credential: Option<&Credential>) -> Result<Response, Fault> {
        let mut request = client.request(self.method.clone(), self.url.clone()).timeout(self.timeout);
        request = self.payload.attach(cx, request, self.headers.contains_key(CONTENT_TYPE)).await?;
        if let Some(credential) = credential {
            request = credential.apply(request);
        }
        let request = request.headers(self.headers.clone());
        request.send().await.map_err(|error| faults::unanswered(&error, &target::shown(&self.url)))
    }
}

impl Payload {
    /// The request with this payload; `named` if the user said what type it is.
    async fn attach(&self, cx: &Context, request: RequestBuilder, named: bool) -> Result<RequestBuilder, Fault> {
        Ok(match self {
            Payload::None => request,
            Payload::Bytes(bytes, _) if named => request.body(bytes.clone()),
            Payload::Bytes(bytes, content_type) => request.header(CONTENT_TYPE, *content_type).body(bytes.clone()),
            Payload::Multipart { texts, field, files } => {
                let mut form = Form::new();
                for (name, text) in texts {
                    form = form.text(name.clone(), text.clone());
                }
                for file in files {
                    form = form.part(field.clone(), part(cx, file).await?);
                }
                request.multipart(form)
            }
        })
    }
}

async fn part(cx: &Context, file: &Attachment) -> Result<Part, Fault> {
    let content = cx
        .attachments()
        .open(file)
        .await
        .map_err(|error| Fault::reject("attachment_unreadable", format!("`{}`: {error}", file.name)))?;
    let part = Part::stream_with_length(Body::wrap_stream(content), file.size).file_name(file.name.clone());
    part.mime_str(&file.content_type)
        .map_err(|_| Fault::reject("attachment_type", format!("`{}` is not a media type", file.content_type)))
}

/// Headers from a configuration; what is null is left out.
pub(crate) fn headers(config: &Map<String, Value>) -> Result<HeaderMap, Fault> {
    let invalid = |name: &str| Fault::reject("header_invalid", format!("the header `{name}` cannot be sent"));
    let mut headers = HeaderMap::with_capacity(config.len() + 1);
    for (name, value) in config.iter().filter(|(_, value)| !value.is_null()) {
        let text = target::text_of(value).ok_or_else(|| invalid(name))?;
        let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| invalid(name))?;
        headers.insert(key, HeaderValue::from_str(&text).map_err(|_| invalid(name))?);
    }
    Ok(headers)
}

/// A header's value.
pub(crate) fn value(text: &str) -> Result<HeaderValue, Fault> {
    HeaderValue::from_str(text).map_err(|_| Fault::reject("header_invalid", "a header's value cannot be sent"))
}
