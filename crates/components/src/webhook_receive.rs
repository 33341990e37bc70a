//! `webhook.receive`: begins an execution with each HTTP request that it accepts.
//!
//! A request is verified, bounded and read here, in this order; nothing of it is looked into
//! before it is known to come from somebody who may send it.

mod body;
mod multipart;
mod verify;
mod xml;

use std::collections::BTreeMap;

use flowline_sdk::prelude::*;

use verify::{Preset, Verify};

/// Headers that are never part of a message: what proves who the caller is, and what says how
/// the request travelled.
const WITHHELD: [&str; 11] = [
    "authorization",
    "connection",
    "content-length",
    "cookie",
    "expect",
    "keep-alive",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Headers in which senders name a delivery, unless the configuration says which.
const DELIVERY_HEADERS: [&str; 3] = ["idempotency-key", "x-delivery-id", "webhook-id"];

/// Which requests are accepted.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReceiveConfig {
    /// The path below `/hook/`; the flow's name unless said.
    #[serde(default)]
    #[schemars(extend("pattern" = "^[A-Za-z0-9._~/-]+$"))]
    path: Option<String>,
    /// The HTTP methods it is for.
    #[serde(default = "only_post")]
    #[schemars(extend("minItems" = 1))]
    methods: Vec<Method>,
    /// How callers prove who they are; anybody may call unless said.
    #[serde(default)]
    verify: Verify,
    /// The content types it is for, such as `application/json` or `image/*`; all unless said.
    #[serde(default)]
    accept: Vec<String>,
    /// The longest body, and the longest texts of a form together.
    #[serde(default = "one_mebibyte")]
    #[schemars(with = "Size")]
    body_limit: Size,
    /// The longest file. A request that is verified by a signature is no longer than `body_limit`
    /// as a whole.
    #[serde(default = "twenty_five_mebibytes")]
    #[schemars(with = "Size")]
    file_limit: Size,
    /// The most files in one request.
    #[serde(default = "twenty")]
    #[schemars(range(max = 1000))]
    files_limit: usize,
    /// The header that names a delivery: the same name again is accepted but not repeated.
    /// Unless said, one of `idempotency-key`, `x-delivery-id` and `webhook-id`, or what the
    /// preset of `verify` knows.
    #[serde(default)]
    delivery_id: Option<String>,
    /// How long the caller is kept waiting for the answer of a `webhook.reply` step. Unless said,
    /// it is answered at once, as soon as the message is durable.
    #[serde(default)]
    wait_for_reply: Option<Lapse>,
}

/// An HTTP method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
enum Method {
    Get,
    Post,
    Put,
    Patch,
    Delete,
}

fn only_post() -> Vec<Method> {
    vec![Method::Post]
}

fn one_mebibyte() -> Size {
    Size::mib(1)
}

fn twenty_five_mebibytes() -> Size {
    Size::mib(25)
}

fn twenty() -> usize {
    20
}

pub(crate) struct Receive;

impl WebhookTrigger for Receive {
    type Config = ReceiveConfig;

    fn spec() -> OperationSpec {
        OperationSpec::webhook(
            "webhook.receive",
            "Receive a request",
            "Begins an execution with each HTTP request it accepts.",
        )
        .description(include_str!("webhook_receive/description.md").trim_end())
        .example("path: orders")
        .example("verify: { api_key: { value: \"{{ $secret.shop }}\" } }\nbody_limit: 10MiB")
        .example("verify: { hmac: { preset: github, secret: \"{{ $secret.github }}\" } }")
        .example(
            "methods: [GET, POST]\nverify: { basic: { user: erp, password: \"{{ $secret.erp }}\" } }\n\
             accept: [application/xml, text/xml]\nwait_for_reply: 30s",
        )
    }

    fn accepts(config: &ReceiveConfig) -> Accepts {
        Accepts {
            path: config.path.as_deref().map(|path| path.trim_matches('/').to_owned()).filter(|path| !path.is_empty()),
            methods: config.methods.iter().map(|method| format!("{method:?}").to_ascii_uppercase()).collect(),
            reply_within: config.wait_for_reply.map(|lapse| lapse.0),
        }
    }

    async fn receive(&self, cx: &Context, config: ReceiveConfig, request: Request) -> Result<Received, Refusal> {
        let request = config.verify.check(request, config.body_limit, cx.now()).await?;
        let named = delivery_header(&config, &request);
        let headers = message_headers(&request);
        let content = body::read(cx, &config, request).await?;
        let delivery_id = named.or_else(|| delivery_of_body(config.verify.preset()?, &content.body));
        let emit = Emit { body: content.body, headers, attachments: content.attachments, ..Emit::default() };
        Ok(Received { emits: vec![emit], delivery_id })
    }
}

/// What a message says of the request it came with.
///
/// Names with a dot are Flowline's own, and no caller may set them.
fn message_headers(request: &Request) -> BTreeMap<String, String> {
    let mut headers = BTreeMap::new();
    for (name, value) in &request.headers {
        let name = name.to_ascii_lowercase();
        if !name.contains('.') && !WITHHELD.contains(&name.as_str()) {
            join(&mut headers, name, value);
        }
    }
    for (name, value) in url::form_urlencoded::parse(request.query.as_bytes()) {
        join(&mut headers, format!("http.query.{}", name.to_lowercase()), &value);
    }
    headers.insert("http.method".to_owned(), request.method.clone());
    headers.insert("http.path".to_owned(), request.path.clone());
    headers
}

/// Repeated values become one, as HTTP joins them.
fn join(headers: &mut BTreeMap<String, String>, name: String, value: &str) {
    let joined = headers.entry(name).or_default();
    if !joined.is_empty() {
        joined.push_str(", ");
    }
    joined.push_str(value);
}

/// The name of this delivery, as a header says it.
fn delivery_header(config: &ReceiveConfig, request: &Request) -> Option<String> {
    let value = |name: &str| request.header(name).filter(|value| !value.is_empty()).map(str::to_owned);
    match (&config.delivery_id, config.verify.preset()) {
        (Some(name), _) => value(name),
        (None, Some(Preset::Github)) => value("x-github-delivery"),
        // The name in the body is signed; one in a header could be changed to repeat a delivery.
        (None, Some(Preset::Slack | Preset::Stripe)) => None,
        (None, None) => DELIVERY_HEADERS.iter().find_map(|name| value(name)),
    }
}

/// The name of this delivery, where the sender puts it into the body.
fn delivery_of_body(preset: Preset, body: &Value) -> Option<String> {
    let field = match preset {
        Preset::Slack => "event_id",
        Preset::Stripe => "id",
        Preset::Github => return None,
    };
    body.get(field).and_then(Value::as_str).map(str::to_owned)
}

#[cfg(test)]
mod tests;
