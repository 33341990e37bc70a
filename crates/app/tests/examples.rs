//! The example flows, end to end: the real binary runs the files of `examples/flows` unchanged,
//! with the CMS and the mailbox of the story around it.

mod storm;

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Json, Router,
    extract::{Query, State},
    http::StatusCode,
    routing::get,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;

use storm::{
    client, eventually,
    program::{Installation, Program, free_port},
};

/// What the CMS wants contacts to be sent with.
const TOKEN: &str = "a-token-of-the-story";
/// How many orders the shop has.
const ORDERS: u64 = 250;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_form_arrives_at_the_cms_and_in_the_mailbox() {
    let story = Story::start();
    let installation = story.installation(&cms_url(story.cms_port), "register-interest.yaml");
    let _program = installation.up().await;
    let form = json!({
        "first": "Ada", "last": "Lovelace", "email": "Ada@Example.com",
        "lines": [{ "product": "Engine", "price": 450, "quantity": 2 }, { "product": "Card", "price": 1.5, "quantity": 4 }],
    });
    client::accepted(&client::new(), &installation.url("/hook/register-interest"), &form).await;

    let contacts = story.come(story.cms_port, "contacts", 1).await;
    assert_eq!(contacts, [json!({ "name": "Ada Lovelace", "email": "ada@example.com", "total": 906 })]);
    let mails = story.come(story.mailbox_port, "mails", 1).await;
    assert_eq!(mails.len(), 1, "{mails:?}");
    assert_eq!(mails[0]["to"], json!(["team@example.com"]));
    assert_eq!(mails[0]["subject"], json!("New interest: Ada Lovelace"));
    assert_eq!(mails[0]["text"], json!("Ada Lovelace <ada@example.com> is interested in goods for 906."));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_are_pushed_line_by_line_and_every_hundred_lines_are_reported() {
    let story = Story::start();
    let shop = Shop::start().await;
    let installation = story.installation(&shop.url, "orders.yaml");
    let _program = installation.up().await;
    let expected: Vec<Value> = (1..=ORDERS)
        .flat_map(|order| (0..order % 3).map(move |line| json!({ "order": order, "article": line, "quantity": order })))
        .collect();
    eventually("every line is pushed", async || shop.pushed().len() >= expected.len()).await;
    let mut pushed = shop.pushed();
    pushed.sort_by_key(|line| (line["order"].as_u64(), line["article"].as_u64()));
    assert_eq!(pushed, expected);

    let hundreds = expected.len() / 100;
    let mails = story.come(story.mailbox_port, "mails", hundreds).await;
    assert_eq!(mails.len(), hundreds, "{mails:?}");
    assert!(mails.iter().all(|mail| mail["subject"] == json!("100 more order lines")), "{mails:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_asks_for_a_price_is_answered() {
    let story = Story::start();
    let installation = story.installation(&cms_url(story.cms_port), "quote.yaml");
    let _program = installation.up().await;
    let client = client::new();
    for (customer, status, answer) in [
        (1, 200, json!({ "customer": "Alan Turing", "total": 900 })),
        (10, 200, json!({ "customer": "Ada Lovelace", "total": 810, "discount": "10 %" })),
        (99, 404, json!({ "problem": "there is no customer 99" })),
    ] {
        let request = json!({ "customer": customer, "price": 450, "quantity": 2 });
        let answered = client.post(installation.url("/hook/quote")).json(&request).send().await.expect("an answer");
        assert_eq!(answered.status().as_u16(), status);
        assert_eq!(answered.json::<Value>().await.expect("JSON"), answer);
    }
}

/// The CMS and the mailbox of the story.
struct Story {
    cms_port: u16,
    mailbox_port: u16,
    smtp_port: u16,
    _programs: [Program; 2],
    _folder: TempDir,
}

impl Story {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let log = |name: &str| folder.path().join(name);
        let [cms_port, mailbox_port, smtp_port] = [free_port(), free_port(), free_port()];
        let address = |port: u16| format!("127.0.0.1:{port}");
        let cms = Program::of("story-cms", &["--listen", &address(cms_port), "--token", TOKEN], &log("cms"));
        let arguments = ["--listen", &address(mailbox_port), "--smtp", &address(smtp_port)];
        let mailbox = Program::of("story-mailbox", &arguments, &log("mailbox"));
        Self { cms_port, mailbox_port, smtp_port, _programs: [cms, mailbox], _folder: folder }
    }

    /// Flowline with an example flow as it lies in the repository.
    fn installation(&self, cms: &str, flow: &'static str) -> Installation {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/flows");
        let text = fs::read_to_string(folder.join(flow)).expect("an example flow");
        let smtp_port = self.smtp_port;
        let configuration =
            format!("vars: {{ cms: '{cms}', team: team@example.com, smtp_host: 127.0.0.1, smtp_port: {smtp_port} }}\n");
        Installation::new(&configuration, &[(flow, text)]).with_secret("cms", TOKEN)
    }

    /// Waits until so many things have come to one of the two; everything that came.
    async fn come(&self, port: u16, things: &str, count: usize) -> Vec<Value> {
        let client = client::new();
        let mut come = Vec::new();
        eventually(things, async || {
            if let Ok(answer) = client.get(format!("http://127.0.0.1:{port}/api/{things}")).send().await {
                let answer: Value = answer.json().await.unwrap_or_default();
                come = answer[things].as_array().cloned().unwrap_or_default();
            }
            come.len() >= count
        })
        .await;
        come
    }
}

fn cms_url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

/// A CMS that has many orders at once: order n has n modulo 3 lines with n pieces each.
struct Shop {
    url: String,
    pushed: Arc<Mutex<Vec<Value>>>,
}

impl Shop {
    async fn start() -> Self {
        let pushed = Arc::new(Mutex::new(Vec::new()));
        let routes = get(orders_since).post(push);
        let router = Router::new().route("/api/orders", routes).with_state(Arc::clone(&pushed));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = cms_url(listener.local_addr().expect("its address").port());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, pushed }
    }

    fn pushed(&self) -> Vec<Value> {
        self.pushed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[derive(Deserialize)]
struct Since {
    #[serde(default)]
    since: u64,
}

async fn orders_since(Query(Since { since }): Query<Since>) -> Json<Value> {
    let orders = (since + 1..=ORDERS).map(|id| {
        let lines = (0..id % 3).map(|article| json!({ "article": article, "quantity": id }));
        json!({ "id": id, "lines": lines.collect::<Vec<_>>() })
    });
    Json(json!({ "orders": orders.collect::<Vec<_>>() }))
}

async fn push(State(pushed): State<Arc<Mutex<Vec<Value>>>>, Json(line): Json<Value>) -> StatusCode {
    pushed.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    StatusCode::CREATED
}
