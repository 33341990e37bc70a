//! `webhook.reply`: answers the caller of the webhook that began the execution.

use std::collections::BTreeMap;

use flowline_sdk::prelude::*;
use reqwest::header::{HeaderName, HeaderValue};

use crate::evaluated::present;

/// Headers that say how the answer travels; the server writes them itself.
const OF_THE_SERVER: [&str; 5] = ["connection", "content-length", "date", "transfer-encoding", "upgrade"];

/// The answer.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReplyConfig {
    /// HTTP status, 200 to 599.
    #[serde(default = "ok")]
    #[schemars(range(min = 200, max = 599))]
    status: u16,
    /// Headers of the answer.
    #[serde(default)]
    headers: BTreeMap<String, HeaderText>,
    /// The body: a text is sent as `text/plain`, anything else as JSON. Without it, or where its
    /// expression has no result, the answer has no body.
    #[serde(default, deserialize_with = "present")]
    body: Option<Value>,
}

fn ok() -> u16 {
    200
}

/// The value of a header; expressions may give numbers and truth values.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum HeaderText {
    Text(String),
    Whole(i64),
    Number(f64),
    Flag(bool),
}

impl HeaderText {
    fn into_text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Whole(number) => number.to_string(),
            Self::Number(number) => number.to_string(),
            Self::Flag(flag) => flag.to_string(),
        }
    }
}

pub(crate) struct ReplyToCaller;

impl Action for ReplyToCaller {
    type Config = ReplyConfig;

    fn spec() -> OperationSpec {
        OperationSpec::action("webhook.reply", "Answer the caller", "Answers the caller of the flow's webhook.")
            .description(
                "The webhook must wait for it: give `webhook.receive` a `wait_for_reply`. The first answer counts; \
                 whoever has stopped waiting was told that the message is accepted. The message itself is passed \
                 on unchanged, so further steps can follow.",
            )
            .example("body: { id: \"{{ id }}\", accepted: true }")
            .example("status: 201\nheaders: { location: \"/orders/{{ id }}\" }\nbody: \"created\"")
    }

    async fn run(&self, cx: &Context, config: ReplyConfig, input: Message) -> Result<Vec<Emit>, Fault> {
        cx.reply(answer(config)?);
        Ok(vec![crate::pass_on(input)])
    }
}

fn answer(config: ReplyConfig) -> Result<Reply, Fault> {
    let status = config.status;
    if !(200..=599).contains(&status) {
        return Err(Fault::reject("invalid_status", format!("a status is 200 to 599, not {status}")));
    }
    let mut headers = Vec::with_capacity(config.headers.len() + 1);
    for (name, value) in config.headers {
        headers.push(header(&name, value.into_text())?);
    }
    let (content_type, body) = match config.body {
        None => return Ok(Reply { status, headers, body: Vec::new() }),
        Some(Value::String(text)) => ("text/plain; charset=utf-8", text.into_bytes()),
        Some(other) => ("application/json", other.to_string().into_bytes()),
    };
    if !headers.iter().any(|(name, _)| name == "content-type") {
        headers.push(("content-type".to_owned(), content_type.to_owned()));
    }
    Ok(Reply { status, headers, body })
}

fn header(name: &str, value: String) -> Result<(String, String), Fault> {
    let invalid = |why: &str| Fault::reject("invalid_header", format!("the header `{name}` {why}"));
    let name = HeaderName::try_from(name).map_err(|_| invalid("has a name that HTTP does not allow"))?;
    if OF_THE_SERVER.contains(&name.as_str()) {
        return Err(invalid("is written by the server"));
    }
    HeaderValue::try_from(&value).map_err(|_| invalid("has a value that HTTP does not allow"))?;
    Ok((name.as_str().to_owned(), value))
}

#[cfg(test)]
mod tests {
    use flowline_sdk::testing::TestHost;

    use super::*;

    async fn reply(config: Value) -> Result<Reply, String> {
        let host = TestHost::new();
        let ran = host.run(&Operation::action(ReplyToCaller), config, host.message(json!({ "a": 1 }))).await;
        let ran = ran.map_err(|fault| fault.code)?;
        assert_eq!(ran.emits, [Emit::new(json!({ "a": 1 }))]);
        Ok(ran.reply.unwrap())
    }

    fn expected(status: u16, headers: &[(&str, &str)], body: &str) -> Reply {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Reply { status, headers, body: body.into() }
    }

    #[tokio::test]
    async fn the_body_says_its_content_type() {
        let text = [("content-type", "text/plain; charset=utf-8")];
        let json = [("content-type", "application/json")];
        for (config, answer) in [
            (json!({}), expected(200, &[], "")),
            (json!({ "status": 404, "body": "no" }), expected(404, &text, "no")),
            (json!({ "body": { "b": [1] } }), expected(200, &json, "{\"b\":[1]}")),
            (json!({ "body": null }), expected(200, &json, "null")),
            (
                json!({ "headers": { "Content-Type": "text/csv", "X-Count": 3 }, "body": "a;b" }),
                expected(200, &[("content-type", "text/csv"), ("x-count", "3")], "a;b"),
            ),
        ] {
            assert_eq!(reply(config.clone()).await, Ok(answer), "{config}");
        }
    }

    #[tokio::test]
    async fn an_answer_that_http_does_not_allow_is_rejected() {
        for (config, code) in [
            (json!({ "status": 199 }), "invalid_status"),
            (json!({ "status": 600 }), "invalid_status"),
            (json!({ "headers": { "a b": "c" } }), "invalid_header"),
            (json!({ "headers": { "x-a": "1\r\nset-cookie: b" } }), "invalid_header"),
            (json!({ "headers": { "Content-Length": "5" } }), "invalid_header"),
        ] {
            assert_eq!(reply(config.clone()).await, Err(code.to_owned()), "{config}");
        }
    }
}
