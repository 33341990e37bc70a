//! `http.request`: calls an HTTP API and emits its answer.
//!
//! Every attempt with a message carries the same `Idempotency-Key`, so that a target that knows
//! it acts once, however often the request has to be repeated.

use bytes::Bytes;
use flowline_sdk::{Attachment, prelude::*};
use reqwest::{Method, header::HeaderMap};
use serde_json::Map;
use url::form_urlencoded;

use crate::http::{
    answer::{Answer, Reading},
    auth::Auth,
    client::{self, Call, HttpClient, Payload},
    pagination::{self, Page, Pagination},
    target,
};

/// The header that makes a repeated request recognisable.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// What to call and how.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct HttpRequestConfig {
    /// The address; `http` or `https`.
    url: String,
    /// The method: `POST` if something is sent, else `GET`, unless said.
    #[serde(default)]
    method: Option<RequestMethod>,
    /// Parameters that are added to the address's query. A list gives the parameter several times,
    /// null leaves it out.
    #[serde(default)]
    query: Map<String, Value>,
    /// Headers. Null leaves one out.
    #[serde(default)]
    headers: Map<String, Value>,
    /// What is sent.
    #[serde(default)]
    body: Option<Value>,
    /// As what the body is sent.
    #[serde(default)]
    body_as: BodyAs,
    /// Sends the message's attachments as `multipart/form-data`, with the fields of the body, if
    /// it is an object, as further fields.
    #[serde(default)]
    attachments: bool,
    /// The name of the form field of each attachment.
    #[serde(default = "file")]
    attachment_field: String,
    /// How to authenticate.
    #[serde(default)]
    auth: Auth,
    /// How long the request may take, answer included.
    #[serde(default = "half_a_minute")]
    timeout: Lapse,
    /// How many redirects are followed, at most 10; 0 follows none. A 301 or 302 that would turn
    /// a `POST` into a `GET` is never followed.
    #[serde(default = "five")]
    #[schemars(range(max = 10))]
    redirects: usize,
    /// The longest answer, over all pages.
    #[serde(default = "ten_mebibytes")]
    response_limit: Size,
    /// What is emitted: the answer's `body`, or `full` for `status`, `headers` and `body`.
    #[serde(default)]
    response: Emitted,
    /// Statuses that count as success besides 2xx, such as 404.
    #[serde(default)]
    accept: Vec<u16>,
    /// Reads a list over all its pages and emits one message with all items.
    #[serde(default)]
    pagination: Option<Pagination>,
    /// Where the items of a page are in the answer's body, if it is not a list itself. With
    /// pagination only.
    #[serde(default)]
    items: Option<Expression>,
    /// The most pages that are read.
    #[serde(default = "hundred")]
    max_pages: u32,
}

/// HTTP methods.
#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
enum RequestMethod {
    #[serde(alias = "get")]
    Get,
    #[serde(alias = "post")]
    Post,
    #[serde(alias = "put")]
    Put,
    #[serde(alias = "patch")]
    Patch,
    #[serde(alias = "delete")]
    Delete,
    #[serde(alias = "head")]
    Head,
    #[serde(alias = "options")]
    Options,
}

/// As what a body is sent.
#[derive(Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum BodyAs {
    /// As JSON.
    #[default]
    Json,
    /// As an HTML form; for objects.
    Form,
    /// As it is; for texts.
    Text,
}

/// What is emitted.
#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Emitted {
    /// The body alone.
    #[default]
    Body,
    /// Status, headers and body.
    Full,
}

fn file() -> String {
    "file".to_owned()
}

fn half_a_minute() -> Lapse {
    Lapse::seconds(30)
}

fn five() -> usize {
    5
}

fn ten_mebibytes() -> Size {
    Size::mib(10)
}

fn hundred() -> u32 {
    100
}

/// Calls an HTTP API and emits its answer.
#[derive(Default)]
pub(crate) struct HttpRequest {
    http: HttpClient,
}

impl Action for HttpRequest {
    type Config = HttpRequestConfig;

    fn spec() -> OperationSpec {
        OperationSpec::action("http.request", "Call an HTTP API", "Sends an HTTP request and emits the answer.")
            .description(DESCRIPTION)
            .writes_outside()
            .example("url: https://cms.example/api/contacts\nbody: \"{{ $ }}\"\nauth: { bearer: { token: \"{{ $secret.cms }}\" } }")
            .example("url: https://api.example/customers/{{ customer }}\naccept: [404]\nresponse: full")
            .example(
                "url: https://api.example/orders\nquery: { state: open }\npagination: link\nitems: orders\nmax_pages: 20",
            )
    }

    async fn run(&self, cx: &Context, mut config: HttpRequestConfig, input: Message) -> Result<Vec<Emit>, Fault> {
        let url = target::parse(&config.url, &config.query)?;
        let payload = config.payload(input.attachments)?;
        let method = config.method(&payload);
        let headers = config.headers(cx, &method)?;
        let call = Call {
            method,
            url,
            headers,
            payload,
            auth: &config.auth,
            timeout: config.timeout.0,
            redirects: config.redirects,
        };
        match &config.pagination {
            None => self.once(cx, &config, call).await,
            Some(pages) => self.all_pages(cx, &config, call, pages).await,
        }
    }
}

impl HttpRequest {
    async fn once(&self, cx: &Context, config: &HttpRequestConfig, call: Call<'_>) -> Result<Vec<Emit>, Fault> {
        let mut answer = self.answer(cx, config, &call, config.response_limit).await?;
        let body = std::mem::take(&mut answer.body);
        let file = answer.file.take();
        Ok(vec![Emit::new(config.emitted(&answer, body)).attachments(file.into_iter().collect())])
    }

    async fn all_pages(
        &self,
        cx: &Context,
        config: &HttpRequestConfig,
        mut call: Call<'_>,
        pages: &Pagination,
    ) -> Result<Vec<Emit>, Fault> {
        let first = call.url.clone();
        let (mut at, mut all, mut left) = (None, Vec::new(), config.response_limit);
        for _ in 0..config.max_pages.max(1) {
            call.url = pages.address(&first, at.as_ref()).unwrap_or_else(|| first.clone());
            let answer = self.answer(cx, config, &call, left).await?;
            left = Size(left.0.saturating_sub(answer.size));
            let items = pagination::items(cx, config.items.as_ref(), answer.body.clone()).await?;
            let page = Page {
                first: &first,
                answer: &answer,
                view: &answer.full(answer.body.clone()),
                items: items.len() as u64,
            };
            all.extend(items);
            at = pages.after(cx, at.as_ref(), &page).await?;
            if at.is_none() {
                return Ok(vec![Emit::new(config.emitted(&answer, Value::Array(all)))]);
            }
        }
        let text = format!("{} has more than {} pages (`max_pages`)", target::shown(&first), config.max_pages);
        Err(Fault::reject("too_many_pages", text))
    }

    async fn answer(
        &self,
        cx: &Context,
        config: &HttpRequestConfig,
        call: &Call<'_>,
        limit: Size,
    ) -> Result<Answer, Fault> {
        let response = self.http.send(cx, call).await?;
        let reading = Reading { accept: &config.accept, limit, with_credential: call.has_credential() };
        Answer::read(cx, response, &reading).await
    }
}

impl HttpRequestConfig {
    fn method(&self, payload: &Payload) -> Method {
        match (self.method, payload) {
            (None, Payload::None) | (Some(RequestMethod::Get), _) => Method::GET,
            (None, _) | (Some(RequestMethod::Post), _) => Method::POST,
            (Some(RequestMethod::Put), _) => Method::PUT,
            (Some(RequestMethod::Patch), _) => Method::PATCH,
            (Some(RequestMethod::Delete), _) => Method::DELETE,
            (Some(RequestMethod::Head), _) => Method::HEAD,
            (Some(RequestMethod::Options), _) => Method::OPTIONS,
        }
    }

    fn headers(&self, cx: &Context, method: &Method) -> Result<HeaderMap, Fault> {
        let mut headers = client::headers(&self.headers)?;
        let writes = !matches!(*method, Method::GET | Method::HEAD);
        if writes && !headers.contains_key(IDEMPOTENCY_KEY) {
            headers.insert(IDEMPOTENCY_KEY, client::value(&cx.idempotency_key())?);
        }
        Ok(headers)
    }

    fn payload(&mut self, files: Vec<Attachment>) -> Result<Payload, Fault> {
        let body = self.body.take();
        if self.attachments {
            let texts = body.map_or_else(|| Ok(Vec::new()), |body| form_fields(&body))?;
            return Ok(Payload::Multipart { texts, field: self.attachment_field.clone(), files });
        }
        let Some(body) = body else { return Ok(Payload::None) };
        Ok(match self.body_as {
            BodyAs::Json => {
                let json = serde_json::to_vec(&body)
                    .map_err(|error| Fault::reject("body_invalid", format!("the body is not JSON: {error}")))?;
                Payload::Bytes(json.into(), "application/json")
            }
            BodyAs::Form => {
                let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(form_fields(&body)?).finish();
                Payload::Bytes(form.into(), "application/x-www-form-urlencoded")
            }
            BodyAs::Text => Payload::Bytes(text(&body)?, "text/plain; charset=utf-8"),
        })
    }

    fn emitted(&self, answer: &Answer, body: Value) -> Value {
        match self.response {
            Emitted::Body => body,
            Emitted::Full => answer.full(body),
        }
    }
}

fn text(body: &Value) -> Result<Bytes, Fault> {
    let text = target::text_of(body).ok_or_else(|| {
        Fault::reject("body_invalid", "`body_as: text` needs a text, but the body is a list or an object")
    })?;
    Ok(text.into())
}

/// The fields of a form; a list gives a field several times, null leaves it out.
fn form_fields(body: &Value) -> Result<Vec<(String, String)>, Fault> {
    let fields = body.as_object().ok_or_else(|| Fault::reject("body_invalid", "a form needs an object as its body"))?;
    let mut form = Vec::with_capacity(fields.len());
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
        let single = std::slice::from_ref(value);
        for item in value.as_array().map_or(single, Vec::as_slice) {
            let text = target::text_of(item).unwrap_or_else(|| item.to_string());
            form.push((name.clone(), text));
        }
    }
    Ok(form)
}

const DESCRIPTION: &str = "\
Calls an HTTP API and emits what it answers: JSON as it is, text as text. Anything else becomes an attachment, and the
message's body says its `name`, `content_type` and `size`.

Every attempt with the same message carries the same `Idempotency-Key` header (except `GET` and `HEAD`), so a target
that knows this header acts once even if the request has to be repeated.

| Answer | What becomes of the message |
|---|---|
| 2xx, or a status in `accept` | the answer is emitted |
| no answer, 408, 425, 429, 502, 503, 504 | it waits until the target is back (`Retry-After` is respected) |
| other 5xx | it is retried |
| 401, 403 with `auth` | the step pauses: the target does not accept the credential |
| anything else | it becomes a dead letter |

With `pagination` a list is read over all its pages and one message with all its items is emitted.";
