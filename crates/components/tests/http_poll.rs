//! `http.poll` against real servers: every way to page, and crashes between pages.

mod servers;

use axum::{
    Json, Router,
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use flowline_sdk::{Fault, Operation, testing::TestHost};
use serde::Deserialize;
use serde_json::{Value, json};
use servers::{Notes, Server, operation};

/// How the test asks.
#[derive(Default, Deserialize)]
struct Asked {
    page: Option<usize>,
    offset: Option<usize>,
    cursor: Option<usize>,
    since: Option<u64>,
}

/// A list that grows, three items a page.
#[derive(Clone, Default)]
struct List {
    items: Notes<Value>,
    /// The queries that came.
    asked: Notes<String>,
}

const PAGE: usize = 3;

impl List {
    fn add(&self, ids: std::ops::Range<u64>) {
        for id in ids {
            self.items.add(json!({ "id": id }));
        }
    }

    async fn start(&self) -> Server {
        Server::web(Router::new().route("/list", get(Self::answer)).with_state(self.clone())).await
    }

    async fn answer(State(list): State<List>, Query(asked): Query<Asked>, uri: axum::http::Uri) -> Response {
        list.asked.add(uri.query().unwrap_or_default().to_owned());
        let since = asked.since.unwrap_or(0);
        let all: Vec<Value> =
            list.items.all().into_iter().filter(|item| item["id"].as_u64().unwrap() >= since).collect();
        let from = asked.offset.or(asked.cursor).unwrap_or_else(|| (asked.page.unwrap_or(1) - 1) * PAGE);
        let items: Vec<&Value> = all.iter().skip(from).take(PAGE).collect();
        let more = from + PAGE < all.len();
        let next = more.then_some(from + PAGE);
        let link = next.map(|next| format!("<?offset={next}>; rel=next")).unwrap_or_default();
        ([("link", link)], Json(json!({ "items": items, "next": next }))).into_response()
    }
}

/// Polls until there is no more; each snapshot is asked for twice, as after a crash before it
/// was stored. Returns the ids that were emitted.
async fn tick(poll: &Operation, config: &Value, snapshot: &mut Option<Value>) -> Result<Vec<u64>, Fault> {
    let (host, mut ids) = (TestHost::new(), Vec::new());
    loop {
        let lost = host.poll(poll, config.clone(), snapshot.clone()).await?;
        let polled = host.poll(poll, config.clone(), snapshot.clone()).await?;
        assert_eq!(lost, polled, "what a crash takes comes again");
        ids.extend(polled.emits.iter().map(|emit| emit.body["id"].as_u64().unwrap()));
        *snapshot = Some(polled.snapshot);
        if !polled.more {
            return Ok(ids);
        }
    }
}

#[tokio::test]
async fn every_way_to_page_emits_each_item_once() {
    for pagination in [
        json!("link"),
        json!({ "page": { "param": "page", "start": 1 } }),
        json!({ "offset": { "param": "offset", "size": 3 } }),
        json!({ "cursor": { "param": "cursor", "next": "body.next" } }),
        json!({ "next": "body.next ? '?offset=' & $string(body.next)" }),
    ] {
        let list = List::default();
        let server = list.start().await;
        list.add(0..8);
        let config = json!({ "url": server.url("/list"), "items": "items", "id": "id", "pagination": pagination });
        let (poll, mut snapshot) = (operation("http.poll"), None);
        let first = tick(&poll, &config, &mut snapshot).await.unwrap();
        assert_eq!(first, (0..8).collect::<Vec<_>>(), "{pagination}");
        assert_eq!(tick(&poll, &config, &mut snapshot).await.unwrap().len(), 0, "{pagination}");
        list.add(8..13);
        let later = tick(&poll, &config, &mut snapshot).await.unwrap();
        assert_eq!(later, (8..13).collect::<Vec<_>>(), "{pagination}");
    }
}

#[tokio::test]
async fn the_cursor_asks_only_for_what_is_new() {
    let list = List::default();
    let server = list.start().await;
    list.add(0..7);
    let config = json!({
        "url": server.url("/list"), "items": "items", "cursor": { "field": "id", "param": "since" },
        "pagination": { "offset": { "param": "offset", "size": 3 } },
    });
    let (poll, mut snapshot) = (operation("http.poll"), None);
    assert_eq!(tick(&poll, &config, &mut snapshot).await.unwrap().len(), 7);
    list.add(7..9);
    assert_eq!(tick(&poll, &config, &mut snapshot).await.unwrap(), [7, 8]);
    let asked = list.asked.all();
    assert!(asked[..6].iter().all(|query| !query.contains("since")), "not before the walk has ended: {asked:?}");
    assert_eq!(asked[6], "since=6&offset=0");
}

#[tokio::test]
async fn the_first_poll_can_be_silent() {
    let list = List::default();
    let server = list.start().await;
    list.add(0..5);
    let config =
        json!({ "url": server.url("/list"), "items": "items", "id": "id", "pagination": "link", "first": "new" });
    let (poll, mut snapshot) = (operation("http.poll"), None);
    assert_eq!(tick(&poll, &config, &mut snapshot).await.unwrap().len(), 0);
    list.add(5..7);
    assert_eq!(tick(&poll, &config, &mut snapshot).await.unwrap(), [5, 6]);
}

#[tokio::test]
async fn after_the_most_pages_the_next_poll_goes_on() {
    let list = List::default();
    let server = list.start().await;
    list.add(0..10);
    let config =
        json!({ "url": server.url("/list"), "items": "items", "id": "id", "pagination": "link", "max_pages": 2 });
    let (poll, mut snapshot) = (operation("http.poll"), None);
    assert_eq!(tick(&poll, &config, &mut snapshot).await.unwrap(), [0, 1, 2, 3, 4, 5]);
    assert_eq!(tick(&poll, &config, &mut snapshot).await.unwrap(), [6, 7, 8, 9]);
}

#[tokio::test]
async fn an_outage_between_pages_loses_nothing() {
    let list = List::default();
    list.add(0..6);
    let broken = Notes::<()>::default();
    let (state, switch) = (list.clone(), broken.clone());
    let answer = move |query: Query<Asked>, uri: axum::http::Uri| {
        let (state, down) = (state.clone(), query.offset == Some(3) && switch.add(()) == 1);
        async move {
            if down {
                return StatusCode::SERVICE_UNAVAILABLE.into_response();
            }
            List::answer(State(state), query, uri).await
        }
    };
    let server = Server::web(Router::new().route("/list", get(answer))).await;
    let config = json!({ "url": server.url("/list"), "items": "items", "id": "id", "pagination": "link" });
    let (poll, host) = (operation("http.poll"), TestHost::new());
    let first = host.poll(&poll, config.clone(), None).await.unwrap();
    assert!(first.more && first.emits.len() == 3);
    assert!(host.poll(&poll, config.clone(), Some(first.snapshot.clone())).await.unwrap_err().outage);
    let second = host.poll(&poll, config, Some(first.snapshot)).await.unwrap();
    assert_eq!(second.emits.iter().map(|emit| emit.body["id"].as_u64().unwrap()).collect::<Vec<_>>(), [3, 4, 5]);
}

#[tokio::test]
async fn what_cannot_be_told_apart_is_said() {
    let list = List::default();
    let server = list.start().await;
    list.add(0..1);
    let poll = operation("http.poll");
    let faulty = |more: Value| {
        let mut config = json!({ "url": server.url("/list") });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let poll = poll.clone();
        async move { TestHost::new().poll(&poll, config, None).await.unwrap_err().code }
    };
    assert_eq!(faulty(json!({})).await, "items_missing");
    assert_eq!(faulty(json!({ "items": "items", "id": "nothing" })).await, "item_unidentified");
    assert_eq!(faulty(json!({ "items": "items", "id": "id", "nonsense": 1 })).await, "config_invalid");
    let plain = json!({ "url": server.url("/list"), "items": "items" });
    let mut snapshot = None;
    assert_eq!(tick(&poll, &plain, &mut snapshot).await.unwrap(), [0]);
    assert_eq!(tick(&poll, &plain, &mut snapshot).await.unwrap().len(), 0, "the item itself tells it apart");
}
