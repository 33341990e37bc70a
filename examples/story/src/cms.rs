//! The CMS: takes contacts and orders once for each `Idempotency-Key`, lists orders that grow by
//! themselves, knows customers, and is out of order for a while when asked to.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{Html, IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{Latest, page};

/// The most contacts and orders that are kept.
const KEPT: usize = 1_000;
/// There is a new order this often.
const ORDER_EVERY: Duration = Duration::from_secs(2);
/// The most orders of one answer.
const MOST_ORDERS: u64 = 1_000;

/// The CMS.
#[derive(Clone)]
pub struct Cms {
    contacts: Latest<Value>,
    orders: Latest<Value>,
    token: Arc<str>,
    began: Instant,
    down_until: Arc<Mutex<Option<Instant>>>,
}

impl Cms {
    /// A CMS that takes contacts with this token.
    pub fn new(token: &str) -> Self {
        let (contacts, orders) = (Latest::new(KEPT), Latest::new(KEPT));
        Self { contacts, orders, token: token.into(), began: Instant::now(), down_until: Arc::default() }
    }

    /// Its pages and its API.
    pub fn routes(self) -> Router {
        let api = Router::new()
            .route("/api/contacts", get(contacts).post(add_contact))
            .route("/api/orders", get(orders).post(add_order))
            .route("/api/customers/{id}", get(customer))
            .route_layer(middleware::from_fn_with_state(self.clone(), in_order));
        Router::new().route("/", get(home)).route("/outage", post(outage)).merge(api).with_state(self)
    }

    fn left_of_outage(&self) -> Option<Duration> {
        let until = (*self.down_until.lock().unwrap_or_else(PoisonError::into_inner))?;
        until.checked_duration_since(Instant::now())
    }

    fn is_authorized(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        given.and_then(|text| text.strip_prefix("Bearer ")) == Some(&*self.token)
    }
}

/// Answers 503 while the CMS is out of order.
async fn in_order(State(cms): State<Cms>, request: axum::extract::Request, next: Next) -> Response {
    match cms.left_of_outage() {
        None => next.run(request).await,
        Some(left) => {
            let wait = left.as_secs().max(1).to_string();
            let error = Json(json!({ "error": "the CMS is out of order" }));
            (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, wait)], error).into_response()
        }
    }
}

#[derive(Deserialize)]
struct Outage {
    r#for: String,
}

async fn outage(State(cms): State<Cms>, Json(outage): Json<Outage>) -> Response {
    let Ok(lasts) = humantime::parse_duration(&outage.r#for) else {
        let error = "say how long as in {\"for\": \"30s\"}";
        return (StatusCode::BAD_REQUEST, Json(json!({ "error": error }))).into_response();
    };
    let until = Instant::now().checked_add(lasts);
    *cms.down_until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    Json(json!({ "out_of_order_for": outage.r#for })).into_response()
}

async fn add_contact(State(cms): State<Cms>, headers: HeaderMap, Json(contact): Json<Value>) -> Response {
    if !cms.is_authorized(&headers) {
        return (StatusCode::UNAUTHORIZED, Json(json!({ "error": "a wrong or no token" }))).into_response();
    }
    taken(&cms.contacts, &headers, contact)
}

async fn add_order(State(cms): State<Cms>, headers: HeaderMap, Json(order): Json<Value>) -> Response {
    taken(&cms.orders, &headers, order)
}

/// Takes an entry: 201 if it is new, 200 if its key was seen before.
fn taken(entries: &Latest<Value>, headers: &HeaderMap, entry: Value) -> Response {
    let Some(key) = headers.get("idempotency-key").and_then(|value| value.to_str().ok()) else {
        return (StatusCode::BAD_REQUEST, Json(json!({ "error": "no Idempotency-Key" }))).into_response();
    };
    let status = if entries.add(key, entry) { StatusCode::CREATED } else { StatusCode::OK };
    (status, Json(json!({ "id": key }))).into_response()
}

async fn contacts(State(cms): State<Cms>) -> Json<Value> {
    Json(json!({ "contacts": cms.contacts.all() }))
}

#[derive(Deserialize)]
struct Since {
    #[serde(default)]
    since: u64,
    #[serde(default = "hundred")]
    limit: u64,
}

fn hundred() -> u64 {
    100
}

/// Orders with ids above `since`: there is one more every two seconds.
async fn orders(State(cms): State<Cms>, Query(asked): Query<Since>) -> Json<Value> {
    let newest = 10 + cms.began.elapsed().as_secs() / ORDER_EVERY.as_secs();
    let last = newest.min(asked.since.saturating_add(asked.limit.min(MOST_ORDERS)));
    let orders: Vec<Value> = (asked.since.saturating_add(1)..=last).map(order).collect();
    let next = (last < newest).then_some(last);
    Json(json!({ "orders": orders, "next": next, "sent_here": cms.orders.all() }))
}

fn order(id: u64) -> Value {
    let lines = json!([{ "article": format!("A-{}", id % 7), "quantity": id % 3 + 1, "price": 5 + id % 20 }]);
    json!({ "id": id, "customer": id % 50 + 1, "lines": lines })
}

const NAMES: [&str; 5] = ["Ada Lovelace", "Alan Turing", "Grace Hopper", "Emmy Noether", "Leonhard Euler"];

async fn customer(Path(id): Path<usize>) -> Response {
    if !(1..=50).contains(&id) {
        return (StatusCode::NOT_FOUND, Json(json!({ "error": "there are customers 1 to 50" }))).into_response();
    }
    let name = NAMES[id % NAMES.len()];
    let tier = if id.is_multiple_of(10) { "gold" } else { "basic" };
    Json(json!({ "id": id, "name": name, "email": format!("customer{id}@example.com"), "tier": tier })).into_response()
}

async fn home(State(cms): State<Cms>) -> Html<String> {
    let remark = match cms.left_of_outage() {
        Some(left) => format!("Out of order for another {} seconds.", left.as_secs().max(1)),
        None => "In order.".to_owned(),
    };
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let row = |kind: &str, entry: &Value| {
        let fields = entry.as_object().map(|fields| {
            fields.iter().map(|(name, value)| format!("{name}: {}", text(value))).collect::<Vec<_>>().join(", ")
        });
        vec![kind.to_owned(), fields.unwrap_or_else(|| text(entry))]
    };
    let mut rows: Vec<_> = cms.contacts.all().iter().map(|contact| row("Contact", contact)).collect();
    rows.extend(cms.orders.all().iter().map(|order| row("Order", order)));
    page::table("CMS", &remark, &["Kind", "What came"], &rows)
}
