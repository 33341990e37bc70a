//! The application at the other end: takes what flows deliver, offers items to poll, and can be
//! down in every way an application is down.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{net::TcpListener, runtime::Runtime};

use super::{
    deliveries::{Deliveries, Item},
    program::free_port,
};

/// How the target does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// It answers.
    Well,
    /// It answers 503.
    Unavailable,
    /// It takes requests and never answers.
    Hanging,
}

/// The application at the other end.
pub(crate) struct Target {
    host: String,
    port: u16,
    world: Arc<World>,
    runtime: Option<Runtime>,
}

/// What the target remembers while it is down.
struct World {
    deliveries: Mutex<Deliveries>,
    health: Mutex<Health>,
    attempts: AtomicUsize,
    source: Source,
}

/// Items to poll, one more every few milliseconds until all are there.
struct Source {
    begin: Instant,
    every: Duration,
    items: u64,
}

impl Source {
    fn available(&self) -> u64 {
        let ticks = self.begin.elapsed().as_micros() / self.every.as_micros().max(1);
        u64::try_from(ticks).unwrap_or(u64::MAX).min(self.items)
    }
}

impl Target {
    /// Starts a target that has `items` to poll in the end.
    pub(crate) fn start(items: u64) -> Self {
        Self::on("127.0.0.1", items)
    }

    /// Starts one that listens on another address of this machine.
    pub(crate) fn on(host: &str, items: u64) -> Self {
        let source = Source { begin: Instant::now(), every: Duration::from_millis(5), items };
        let world = World {
            deliveries: Mutex::default(),
            health: Mutex::new(Health::Well),
            attempts: AtomicUsize::new(0),
            source,
        };
        let mut target = Self { host: host.to_owned(), port: free_port(), world: Arc::new(world), runtime: None };
        target.listen();
        target
    }

    /// An address at the target.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}:{}{path}", self.host, self.port)
    }

    /// Makes it well or ill from the next request on.
    pub(crate) fn becomes(&self, health: Health) {
        *self.world.health.lock().unwrap_or_else(PoisonError::into_inner) = health;
    }

    /// Closes its port and every connection, so that it refuses new ones.
    pub(crate) fn shut(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// Opens its port (again). It has a runtime of its own, so that shutting it ends everything.
    pub(crate) fn listen(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let router = Router::new()
            .route("/deliver/{route}", post(deliver))
            .route("/items", get(items))
            .with_state(Arc::clone(&self.world));
        let address = (self.host.clone(), self.port);
        runtime.spawn(async move {
            let listener = TcpListener::bind(address).await.expect("the target's port is free");
            axum::serve(listener, router).await
        });
        self.runtime = Some(runtime);
    }

    /// What arrived so far.
    pub(crate) fn deliveries(&self) -> MutexGuard<'_, Deliveries> {
        self.world.deliveries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many deliveries were tried while it was listening.
    pub(crate) fn attempts(&self) -> usize {
        self.world.attempts.load(Ordering::Relaxed)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.shut();
    }
}

async fn deliver(
    State(world): State<Arc<World>>,
    Path(route): Path<String>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> StatusCode {
    world.attempts.fetch_add(1, Ordering::Relaxed);
    let health = *world.health.lock().unwrap_or_else(PoisonError::into_inner);
    match health {
        Health::Unavailable => return StatusCode::SERVICE_UNAVAILABLE,
        Health::Hanging => std::future::pending().await,
        Health::Well => {}
    }
    if body["refuse"] == json!(true) {
        return StatusCode::UNPROCESSABLE_ENTITY;
    }
    if let Some(pause) = body["pause"].as_u64() {
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    let key = headers.get("idempotency-key").and_then(|key| key.to_str().ok()).map(str::to_owned);
    let mut deliveries = world.deliveries.lock().unwrap_or_else(PoisonError::into_inner);
    deliveries.note(key, items_of(&route, &body));
    StatusCode::NO_CONTENT
}

/// The items that one request brings: a batch holds its members in a list.
fn items_of(route: &str, body: &Value) -> Vec<Item> {
    let name = |value: &Value| value["id"].as_str().map_or_else(|| value["id"].to_string(), str::to_owned);
    match body["items"].as_array() {
        Some(members) => members.iter().map(|member| Item::new(route, name(member))).collect(),
        None => vec![Item::new(route, name(body))],
    }
}

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    since: u64,
}

/// At most three hundred items after a cursor, in order.
async fn items(State(world): State<Arc<World>>, Query(page): Query<Page>) -> Json<Value> {
    let last = world.source.available().min(page.since + 300);
    let items: Vec<Value> =
        (page.since + 1..=last).map(|id| json!({ "id": id, "title": format!("item {id}") })).collect();
    Json(json!({ "items": items }))
}
