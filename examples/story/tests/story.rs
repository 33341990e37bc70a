//! The two servers as programs: started, asked and ended.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::Duration,
};

use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};

/// A program that ends with its test.
struct Program {
    child: Child,
    /// The addresses that it printed.
    addresses: Vec<String>,
}

impl Program {
    fn start(path: &str, arguments: &[&str]) -> Self {
        let mut child = Command::new(path).args(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let addresses = line.split_whitespace().skip(1).map(str::to_owned).collect();
        Self { child, addresses }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn client() -> Client {
    let _already = rustls::crypto::ring::default_provider().install_default();
    Client::builder().timeout(Duration::from_secs(10)).build().unwrap()
}

#[tokio::test]
async fn the_cms_takes_each_contact_once_and_can_be_out_of_order() {
    let cms = Program::start(env!("CARGO_BIN_EXE_story-cms"), &["--listen", "127.0.0.1:0", "--token", "t"]);
    let (client, base) = (client(), &cms.addresses[0]);
    let send = |token: &'static str| {
        let request = client.post(format!("{base}/api/contacts")).bearer_auth(token).header("idempotency-key", "k1");
        request.json(&json!({ "name": "<Ada>" })).send()
    };
    assert_eq!(send("wrong").await.unwrap().status(), StatusCode::UNAUTHORIZED);
    assert_eq!(send("t").await.unwrap().status(), StatusCode::CREATED);
    assert_eq!(send("t").await.unwrap().status(), StatusCode::OK);
    let get = async |path: &str| client.get(format!("{base}{path}")).send().await.unwrap();
    let listed: Value = get("/api/contacts").await.json().await.unwrap();
    assert_eq!(listed["contacts"], json!([{ "name": "<Ada>" }]));
    assert!(get("/").await.text().await.unwrap().contains("&lt;Ada&gt;"));
    let orders: Value = get("/api/orders?since=2&limit=3").await.json().await.unwrap();
    assert_eq!((orders["orders"][0]["id"].clone(), orders["next"].clone()), (json!(3), json!(5)));
    assert_eq!(get("/api/customers/51").await.status(), StatusCode::NOT_FOUND);

    client.post(format!("{base}/outage")).json(&json!({ "for": "30s" })).send().await.unwrap();
    let refused = send("t").await.unwrap();
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.headers().contains_key("retry-after"));
    client.post(format!("{base}/outage")).json(&json!({ "for": "0s" })).send().await.unwrap();
    assert_eq!(send("t").await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn the_mailbox_catches_mails() {
    let arguments = ["--listen", "127.0.0.1:0", "--smtp", "127.0.0.1:0"];
    let mailbox = Program::start(env!("CARGO_BIN_EXE_story-mailbox"), &arguments);
    let port = mailbox.addresses[1].rsplit(':').next().unwrap().parse().unwrap();
    let smtp = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous("127.0.0.1").port(port).build();
    let mail = Message::builder()
        .from("Shop <shop@example.com>".parse().unwrap())
        .to("ada@example.com".parse().unwrap())
        .subject("Grüße")
        .body("Good morning".to_owned())
        .unwrap();
    smtp.send(mail).await.unwrap();
    let (client, base) = (client(), &mailbox.addresses[0]);
    let caught: Value = client.get(format!("{base}/api/mails")).send().await.unwrap().json().await.unwrap();
    let mail = &caught["mails"][0];
    assert_eq!((&mail["subject"], &mail["text"]), (&json!("Grüße"), &json!("Good morning")));
    assert_eq!((&mail["from"], &mail["to"]), (&json!("shop@example.com"), &json!(["ada@example.com"])));
    let page = client.get(format!("{base}/")).send().await.unwrap().text().await.unwrap();
    assert!(page.contains("ada@example.com"));
}
