//! `http.poll`: asks an HTTP API for a list at intervals and emits what is new on it.
//!
//! Each page is durable, with where the walk over the pages stands, before the next is asked
//! for: a crash in between neither skips an item nor repeats one.

mod progress;

use flowline_sdk::prelude::*;
use reqwest::Method;
use serde_json::Map;
use url::Url;

use crate::http::{
    answer::{Answer, Reading},
    auth::Auth,
    client::{self, Call, HttpClient, Payload},
    pagination::{self, Page, Pagination},
    target,
};
use progress::{Item, Progress};

/// What to ask and what tells new items from known ones.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct HttpPollConfig {
    /// The list's address; `http` or `https`.
    url: String,
    /// Parameters that are added to the address's query.
    #[serde(default)]
    query: Map<String, Value>,
    /// Headers. Null leaves one out.
    #[serde(default)]
    headers: Map<String, Value>,
    /// What is sent, as JSON, for lists that are asked for with `POST`; `GET` otherwise.
    #[serde(default)]
    body: Option<Value>,
    /// How to authenticate.
    #[serde(default)]
    auth: Auth,
    /// How long one page may take.
    #[serde(default = "half_a_minute")]
    timeout: Lapse,
    /// How many redirects are followed, at most 10.
    #[serde(default = "five")]
    #[schemars(range(max = 10))]
    redirects: usize,
    /// The longest page.
    #[serde(default = "ten_mebibytes")]
    response_limit: Size,
    /// Where the items are in the answer's body, if it is not a list itself.
    #[serde(default)]
    items: Option<Expression>,
    /// How the pages of the list follow each other.
    #[serde(default)]
    pagination: Option<Pagination>,
    /// The most pages that are read at once; the next poll goes on where this one stopped.
    #[serde(default = "hundred")]
    max_pages: u32,
    /// What identifies an item, such as `id`. With neither `id` nor `cursor` an item is new if
    /// there was none exactly like it.
    #[serde(default)]
    id: Option<Expression>,
    /// Asks only for what came after the last poll. With `id` an item counts as new again when
    /// its cursor changes.
    #[serde(default)]
    cursor: Option<Cursor>,
    /// How many items are remembered as known.
    #[serde(default = "ten_thousand")]
    #[schemars(range(min = 1, max = 1_000_000))]
    window: usize,
    /// Whether the first poll emits `all` items that are there, or only remembers them and emits
    /// what is `new` afterwards.
    #[serde(default)]
    first: First,
}

/// How to ask only for what came after the last poll.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Cursor {
    /// What grows with every new or changed item, such as `updated_at`; on an item.
    field: Expression,
    /// The query parameter that takes the highest one known. The source may include that one:
    /// known items are dropped.
    param: String,
    /// From where the first poll asks; from the beginning if not given.
    #[serde(default)]
    start: Option<Value>,
}

/// What the first poll emits.
#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum First {
    /// All items that are there.
    #[default]
    All,
    /// Nothing: only what comes later is emitted.
    New,
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

fn ten_thousand() -> usize {
    10_000
}

/// Asks an HTTP API for a list and emits what is new on it.
#[derive(Default)]
pub(crate) struct HttpPoll {
    http: HttpClient,
}

impl PollingTrigger for HttpPoll {
    type Config = HttpPollConfig;
    type Snapshot = Progress;

    fn spec() -> OperationSpec {
        OperationSpec::polling("http.poll", "Poll an HTTP API", "Asks an HTTP API for a list and emits each new item.")
            .description(DESCRIPTION)
            .example("url: https://shop.example/api/orders\nid: id")
            .example(
                "url: https://shop.example/api/orders\nitems: orders\nid: id\n\
                 cursor: { field: updated_at, param: updated_since }\npagination: { page: { param: page } }\n\
                 auth: { basic: { user: flowline, password: \"{{ $secret.shop }}\" } }",
            )
    }

    async fn poll(&self, cx: &Context, config: HttpPollConfig, since: Progress) -> Result<Polled<Progress>, Fault> {
        let mut progress = since;
        let window = config.window.max(1);
        let first = config.first_page(&progress)?;
        let answer = self.page(cx, &config, &first, &mut progress).await?;
        let items = pagination::items(cx, config.items.as_ref(), answer.body.clone()).await?;
        let next = match &config.pagination {
            None => None,
            Some(pages) => {
                let view = answer.full(answer.body.clone());
                let page = Page { first: &first, answer: &answer, view: &view, items: items.len() as u64 };
                pages.after(cx, progress.position(), &page).await?
            }
        };
        let silent = config.first == First::New && !progress.primed;
        let new = progress.take(config.identified(cx, items).await?, window)?;
        let more = progress.turn(next, config.max_pages.max(1), window)?;
        let emits = if silent { Vec::new() } else { new.into_iter().map(Emit::new).collect() };
        Ok(Polled { emits, snapshot: progress, more })
    }
}

impl HttpPoll {
    /// Reads the page at which the walk stands.
    async fn page(
        &self,
        cx: &Context,
        config: &HttpPollConfig,
        first: &Url,
        progress: &mut Progress,
    ) -> Result<Answer, Fault> {
        let pages = config.pagination.as_ref();
        let found = match (pages, progress.position()) {
            (None, None) => Some(first.clone()),
            (None, Some(_)) => None,
            (Some(pages), at) => pages.address(first, at),
        };
        let url = match found {
            Some(url) => url,
            None => {
                // The pagination was configured anew while a walk was under way.
                progress.restart();
                pages.and_then(|pages| pages.address(first, None)).unwrap_or_else(|| first.clone())
            }
        };
        let call = config.call(url)?;
        let response = self.http.send(cx, &call).await?;
        let reading = Reading { accept: &[], limit: config.response_limit, with_credential: call.has_credential() };
        Answer::read(cx, response, &reading).await
    }
}

impl HttpPollConfig {
    fn first_page(&self, progress: &Progress) -> Result<Url, Fault> {
        let mut url = target::parse(&self.url, &self.query)?;
        if let Some(cursor) = &self.cursor {
            let from = progress.cursor.as_ref().or(cursor.start.as_ref());
            if let Some(text) = from.and_then(target::text_of) {
                target::set(&mut url, &cursor.param, &text);
            }
        }
        Ok(url)
    }

    fn call(&self, url: Url) -> Result<Call<'_>, Fault> {
        let (method, payload) = match &self.body {
            None => (Method::GET, Payload::None),
            Some(body) => (Method::POST, Payload::Bytes(body.to_string().into(), "application/json")),
        };
        let headers = client::headers(&self.headers)?;
        Ok(Call { method, url, headers, payload, auth: &self.auth, timeout: self.timeout.0, redirects: self.redirects })
    }

    /// The items with what identifies them.
    async fn identified(&self, cx: &Context, items: Vec<Value>) -> Result<Vec<Item>, Fault> {
        let mut identified = Vec::with_capacity(items.len());
        for body in items {
            let cursor = match &self.cursor {
                Some(cursor) => Some(part(cx, &cursor.field, &body, "cursor.field").await?),
                None => None,
            };
            let key = match (&self.id, &cursor) {
                (Some(id), _) => progress::key(&part(cx, id, &body, "id").await?, cursor.as_ref()),
                (None, Some(cursor)) => progress::key(cursor, None),
                (None, None) => progress::key(&body, None),
            };
            identified.push(Item { key, cursor, body });
        }
        Ok(identified)
    }
}

/// What an expression finds on an item; it has to be there.
async fn part(cx: &Context, expression: &Expression, item: &Value, field: &str) -> Result<Value, Fault> {
    let found = cx.evaluate(expression, item.clone()).await?;
    found.filter(|value| !value.is_null()).ok_or_else(|| {
        let text = format!("`{field}` finds nothing on an item: `{}`", expression.source());
        Fault::misconfigured("item_unidentified", text)
    })
}

const DESCRIPTION: &str = "\
Asks an HTTP API for a list at intervals and emits each item that is new, one message each.

What is new is told by `id` (items whose id was seen are dropped), by `cursor` (only what came after the highest cursor
is asked for), or by both: then an item is emitted again whenever its cursor changes, as with `updated_at`. A cursor
without `id` has to differ from item to item.

Every page is stored before the next one is asked for. A list that changes while its pages are read is no trouble: the
cursor only moves as far as nothing can have been missed.";
