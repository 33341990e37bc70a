//! The example flows, end to end: the real binary runs the files of `examples/flows` unchanged,
//! with the CMS and the mailbox of the story, or a shop and a warehouse, around it.

mod storm;

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Json, Router,
    extract::{Path as UrlPath, Query, State},
    http::StatusCode,
    routing::{get, post},
};
use serde_json::{Value, json};

use storm::{
    client, eventually,
    program::{Installation, Program, free_port},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_form_arrives_at_the_cms_and_in_the_mailbox() {
    let story = Story::start();
    let installation = Installation::new(&story.configuration(), &[example("register-interest.yaml")]);
    let _program = installation.up().await;
    let form = json!({
        "first": "Ada", "last": "Lovelace", "email": "Ada@Example.com",
        "lines": [{ "product": "Engine", "price": 450, "quantity": 2 }, { "product": "Card", "price": 1.5, "quantity": 4 }],
    });
    client::accepted(&client::new(), &installation.url("/hook/register-interest"), &form).await;

    let contact = story.the_only(story.cms_port, "/api/contacts").await;
    for (field, value) in [("name", json!("Ada Lovelace")), ("email", json!("ada@example.com")), ("total", json!(906))]
    {
        assert_eq!(contact[field], value, "{contact}");
    }
    let mail = story.the_only(story.mailbox_port, "/api/mails").await;
    assert_eq!(mail["subject"], json!("New interest: Ada Lovelace"), "{mail}");
    let text = mail["text"].as_str().unwrap_or_default();
    assert!(text.contains("Ada Lovelace <ada@example.com> is interested in goods for 906."), "{mail}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_arrive_line_by_line_and_every_hundred_is_reported() {
    let shop = Shop::start(250).await;
    let installation = Installation::new(&shop.configuration(), &[example("orders.yaml")]);
    let _program = installation.up().await;
    // Order n has n modulo 3 lines, each with n pieces.
    let expected: Vec<Value> = (1..=250_u64)
        .flat_map(|order| (0..order % 3).map(move |line| json!({ "order": order, "sku": line, "quantity": order })))
        .collect();
    eventually("every line is in the warehouse", async || shop.received("lines").len() >= expected.len()).await;
    eventually("two hundreds are reported", async || shop.received("reports").len() >= expected.len() / 100).await;

    let sorted = |mut values: Vec<Value>| {
        values.sort_by_key(|value| (value["order"].as_u64(), value["sku"].as_u64()));
        values
    };
    assert_eq!(sorted(shop.received("lines")), sorted(expected));
    let reports = shop.received("reports");
    assert_eq!(reports.len(), 2, "{reports:?}");
    assert!(reports.iter().all(|report| report["lines"] == json!(100)), "{reports:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_asks_for_a_price_is_answered() {
    let shop = Shop::start(0).await;
    let installation = Installation::new(&shop.configuration(), &[example("quote.yaml")]);
    let _program = installation.up().await;
    let client = client::new();
    for (quantity, status, answer) in [
        (2, 200, json!({ "product": "Engine", "total": 900 })),
        (20, 200, json!({ "product": "Engine", "total": 8100, "discount": "10%" })),
        (31, 409, json!({ "problem": "only 30 of Engine are there" })),
    ] {
        let request =
            client.post(installation.url("/hook/quote")).json(&json!({ "sku": "engine", "quantity": quantity }));
        let answered = request.send().await.expect("an answer");
        assert_eq!(answered.status().as_u16(), status);
        assert_eq!(answered.json::<Value>().await.expect("JSON"), answer);
    }
    let unknown = client.post(installation.url("/hook/quote")).json(&json!({ "sku": "nothing", "quantity": 1 }));
    let answered = unknown.send().await.expect("an answer");
    assert!(answered.status().is_server_error(), "{}", answered.status());
}

/// An example flow as it lies in the repository.
fn example(name: &'static str) -> (&'static str, String) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/flows");
    (name, fs::read_to_string(folder.join(name)).expect("an example flow"))
}

/// The CMS and the mailbox of the story.
struct Story {
    cms_port: u16,
    mailbox_port: u16,
    smtp_port: u16,
    _programs: [Program; 2],
    _folder: tempfile::TempDir,
}

impl Story {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let log = |name: &str| -> PathBuf { folder.path().join(name) };
        let [cms_port, mailbox_port, smtp_port] = [free_port(), free_port(), free_port()];
        let address = |port: u16| format!("127.0.0.1:{port}");
        let cms = Program::of("story-cms", &["--listen", &address(cms_port)], &log("cms"));
        let arguments = ["--listen", &address(mailbox_port), "--smtp", &address(smtp_port)];
        let mailbox = Program::of("story-mailbox", &arguments, &log("mailbox"));
        Self { cms_port, mailbox_port, smtp_port, _programs: [cms, mailbox], _folder: folder }
    }

    fn configuration(&self) -> String {
        format!(
            "vars: {{ cms: 'http://127.0.0.1:{}', team: team@example.com, smtp_host: 127.0.0.1, smtp_port: {} }}\n",
            self.cms_port, self.smtp_port
        )
    }

    /// Waits for something to arrive at one of the two; it must be one thing.
    async fn the_only(&self, port: u16, path: &str) -> Value {
        let client = client::new();
        let mut things = Vec::new();
        eventually(path, async || {
            let answer = client.get(format!("http://127.0.0.1:{port}{path}")).send().await;
            if let Ok(answer) = answer {
                things = answer.json().await.unwrap_or_default();
            }
            !things.is_empty()
        })
        .await;
        assert_eq!(things.len(), 1, "{things:?}");
        things.remove(0)
    }
}

/// A shop with orders and a product, which is its own warehouse.
struct Shop {
    port: u16,
    received: Arc<Received>,
}

/// What came to the warehouse, with the path it came to.
#[derive(Default)]
struct Received {
    orders: u64,
    things: Mutex<Vec<(String, Value)>>,
}

impl Shop {
    async fn start(orders: u64) -> Self {
        let received = Arc::new(Received { orders, ..Received::default() });
        let router = Router::new()
            .route("/api/orders", get(orders_since))
            .route("/api/products/{sku}", get(product))
            .route("/api/{things}", post(take))
            .with_state(Arc::clone(&received));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket for async use");
        let port = listener.local_addr().expect("its number").port();
        let listener = tokio::net::TcpListener::from_std(listener).expect("a socket for async use");
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { port, received }
    }

    fn configuration(&self) -> String {
        let address = format!("http://127.0.0.1:{}", self.port);
        format!("vars: {{ shop: '{address}', warehouse: '{address}' }}\n")
    }

    fn received(&self, path: &str) -> Vec<Value> {
        let things = self.received.things.lock().unwrap_or_else(PoisonError::into_inner);
        things.iter().filter(|(came_to, _)| came_to == path).map(|(_, thing)| thing.clone()).collect()
    }
}

/// At most forty orders after a cursor.
async fn orders_since(State(shop): State<Arc<Received>>, Query(query): Query<Value>) -> Json<Value> {
    let since = query["since"].as_str().and_then(|text| text.parse().ok()).unwrap_or(0_u64);
    let orders = (since + 1..=shop.orders.min(since + 40)).map(|id| {
        let lines = (0..id % 3).map(|sku| json!({ "sku": sku, "quantity": id }));
        json!({ "id": id, "lines": lines.collect::<Vec<_>>() })
    });
    Json(json!({ "orders": orders.collect::<Vec<_>>() }))
}

async fn product(UrlPath(sku): UrlPath<String>) -> Result<Json<Value>, StatusCode> {
    let engine = json!({ "name": "Engine", "price": 450, "stock": 30 });
    if sku == "engine" { Ok(Json(engine)) } else { Err(StatusCode::NOT_FOUND) }
}

async fn take(
    State(shop): State<Arc<Received>>,
    UrlPath(things): UrlPath<String>,
    Json(thing): Json<Value>,
) -> StatusCode {
    shop.things.lock().unwrap_or_else(PoisonError::into_inner).push((things, thing));
    StatusCode::CREATED
}
