//! Pagination: where the next page of a list is.
//!
//! A position says where a walk over the pages stands. It is plain data, so that a trigger can
//! make it durable between two pages.

use flowline_sdk::{Context, Expression, Fault};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use url::Url;

use super::{answer::Answer, link, target};

/// How the pages of a list follow each other.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Pagination {
    /// The `Link` header names the next page (`rel="next"`).
    Link,
    /// An expression gives the next page's address; it sees `status`, `headers` and `body` of the
    /// answer. The list ends where it gives nothing.
    Next(#[schemars(description = "Gives the next page's address; sees `status`, `headers` and `body`.")] Expression),
    /// Pages have numbers. The list ends with an empty page.
    Page(PageNumbers),
    /// Items are counted. The list ends with a page that is not full.
    Offset(Offsets),
    /// Each answer holds a mark to ask for the next page with.
    Cursor(Cursors),
}

/// Pages have numbers.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PageNumbers {
    /// The query parameter that takes the page's number.
    #[serde(default = "page")]
    param: String,
    /// The first page's number.
    #[serde(default = "one")]
    start: u64,
}

/// Items are counted.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Offsets {
    /// The query parameter that takes how many items to leave out.
    #[serde(default = "offset")]
    param: String,
    /// The query parameter that takes how many items a page has; left out if not given.
    #[serde(default)]
    size_param: Option<String>,
    /// How many items a full page has.
    #[serde(default = "hundred")]
    size: u64,
}

/// Each answer holds a mark for the next page.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Cursors {
    /// The query parameter that takes the mark.
    #[serde(default = "cursor")]
    param: String,
    /// Where the mark is in the answer; sees `status`, `headers` and `body`. The list ends where
    /// it gives nothing.
    next: Expression,
}

fn page() -> String {
    "page".to_owned()
}

fn offset() -> String {
    "offset".to_owned()
}

fn cursor() -> String {
    "cursor".to_owned()
}

fn one() -> u64 {
    1
}

fn hundred() -> u64 {
    100
}

/// Where a walk over the pages stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Position {
    /// At the page with this address.
    Url(String),
    /// At the page, or after as many items, as this number says.
    Number(u64),
    /// At the page with this mark.
    Mark(String),
}

impl Pagination {
    /// The address of the page at a position, none being the first. Nothing if the position is of
    /// another kind or another host: then the configuration has changed since.
    pub(crate) fn address(&self, first: &Url, at: Option<&Position>) -> Option<Url> {
        let mut url = first.clone();
        match (self, at) {
            (Pagination::Link | Pagination::Next(_), Some(Position::Url(next))) => {
                url = Url::parse(next).ok().filter(|next| next.origin() == first.origin())?;
            }
            (Pagination::Page(PageNumbers { param, start }), None) => target::set(&mut url, param, &start.to_string()),
            (Pagination::Page(PageNumbers { param, .. }), Some(Position::Number(number))) => {
                target::set(&mut url, param, &number.to_string());
            }
            (Pagination::Offset(offsets), None) => offsets.put(&mut url, 0),
            (Pagination::Offset(offsets), Some(Position::Number(count))) => offsets.put(&mut url, *count),
            (Pagination::Cursor(Cursors { param, .. }), Some(Position::Mark(mark))) => {
                target::set(&mut url, param, mark);
            }
            (Pagination::Link | Pagination::Next(_) | Pagination::Cursor(_), None) => {}
            _ => return None,
        }
        Some(url)
    }

    /// Where the page after this one is, if there is one; `view` is the answer as a value.
    pub(crate) async fn after(
        &self,
        cx: &Context,
        at: Option<&Position>,
        page: &Page<'_>,
    ) -> Result<Option<Position>, Fault> {
        let number = |first: u64| if let Some(Position::Number(number)) = at { *number } else { first };
        let next = match self {
            Pagination::Link => page.linked(link::target(&page.answer.headers, "next"))?,
            Pagination::Next(expression) => page.linked(page.find(cx, expression).await?)?,
            Pagination::Page(_) if page.items == 0 => None,
            Pagination::Page(PageNumbers { start, .. }) => Some(Position::Number(number(*start) + 1)),
            Pagination::Offset(Offsets { size, .. }) if page.items < *size => None,
            Pagination::Offset(_) => Some(Position::Number(number(0) + page.items)),
            Pagination::Cursor(Cursors { next, .. }) => page.find(cx, next).await?.map(Position::Mark),
        };
        // A page that names itself as the next one is the last.
        Ok(next.filter(|next| Some(next) != at))
    }
}

impl Offsets {
    fn put(&self, url: &mut Url, count: u64) {
        target::set(url, &self.param, &count.to_string());
        if let Some(param) = &self.size_param {
            target::set(url, param, &self.size.to_string());
        }
    }
}

/// A page that was read.
pub(crate) struct Page<'a> {
    /// The first page's address: credentials go to its host only.
    pub(crate) first: &'a Url,
    /// The answer it came with.
    pub(crate) answer: &'a Answer,
    /// The answer as expressions see it.
    pub(crate) view: &'a Value,
    /// How many items it has.
    pub(crate) items: u64,
}

impl Page<'_> {
    /// What an expression finds in the answer; nothing for null, false and the empty text.
    async fn find(&self, cx: &Context, expression: &Expression) -> Result<Option<String>, Fault> {
        let found = cx.evaluate(expression, self.view.clone()).await?.unwrap_or_default();
        Ok(target::text_of(&found).filter(|text| !text.is_empty() && found != Value::Bool(false)))
    }

    fn linked(&self, next: Option<String>) -> Result<Option<Position>, Fault> {
        let Some(next) = next else { return Ok(None) };
        let from = &self.answer.url;
        let url = from.join(&next).map_err(|error| {
            Fault::reject("pagination_invalid", format!("the next page has no valid address: {error}"))
        })?;
        if url.origin() != self.first.origin() {
            let text = format!("the next page of {} is on another host: {}", target::shown(from), target::shown(&url));
            return Err(Fault::reject("pagination_foreign", text));
        }
        Ok(Some(Position::Url(url.into())))
    }
}

/// The items of a body: where an expression finds them, else the body itself.
pub(crate) async fn items(cx: &Context, expression: Option<&Expression>, body: Value) -> Result<Vec<Value>, Fault> {
    let found = match expression {
        Some(expression) => cx.evaluate(expression, body).await?.unwrap_or_default(),
        None if body.is_object() => {
            let text = "the answer is an object, not a list: say with `items` where its list is";
            return Err(Fault::misconfigured("items_missing", text));
        }
        None => body,
    };
    Ok(match found {
        Value::Array(items) => items,
        Value::Null => Vec::new(),
        single => vec![single],
    })
}
