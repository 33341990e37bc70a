//! `email.send` against a real mail server: refusing, demanding, encrypted and hanging ones.

mod servers;

use std::time::Duration;

use bytes::Bytes;
use flowline_sdk::{
    Attachments, Emit, Fault, FaultKind, Message, Size,
    testing::{TestHost, in_parts},
};
use mail_parser::{MessageParser, MimeHeaders};
use serde_json::{Value, json};
use servers::{
    Server, operation,
    post::{Letter, Post},
    self_signed,
};

/// A mail to a server, and more of its configuration.
fn config(server: &Server, more: Value) -> Value {
    let mut config = json!({
        "from": "Shop <shop@example.com>", "to": "ada@example.com", "subject": "Hello", "text": "Good morning",
        "server": { "host": "127.0.0.1", "port": server.address.port(), "security": "none", "timeout": "5s" },
    });
    merge(&mut config, more);
    config
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

async fn send(config: Value) -> Result<Emit, Fault> {
    let host = TestHost::new();
    let ran = host.run(&operation("email.send"), config, host.message(json!({}))).await?;
    Ok(ran.emits.into_iter().next().unwrap())
}

async fn fault(config: Value) -> Fault {
    send(config).await.unwrap_err()
}

fn parsed(letter: &Letter) -> mail_parser::Message<'_> {
    MessageParser::default().parse(&letter.content).unwrap()
}

#[tokio::test]
async fn a_mail_reaches_everybody_it_is_for() {
    let post = Post::default();
    let server = post.start().await;
    let more = json!({
        "to": ["Ada <ada@example.com>", "bob@example.com, cy@example.com"], "cc": "dee@example.com",
        "bcc": ["eve@example.com"], "reply_to": "Info <info@example.com>", "subject": "Grüße", "html": "<p>Good</p>",
    });
    let emit = send(config(&server, more)).await.unwrap();
    assert_eq!(emit.body["recipients"].as_array().unwrap().len(), 5);
    let letters = post.received.all();
    assert_eq!(letters.len(), 1);
    assert_eq!((letters[0].from.as_str(), letters[0].to.len()), ("shop@example.com", 5));
    let mail = parsed(&letters[0]);
    assert_eq!(mail.subject(), Some("Grüße"));
    assert_eq!(mail.body_text(0).unwrap().trim(), "Good morning");
    assert_eq!(mail.body_html(0).unwrap().trim(), "<p>Good</p>");
    assert_eq!(mail.reply_to().unwrap().first().unwrap().address(), Some("info@example.com"));
    assert!(mail.bcc().is_none(), "nobody sees who else has a copy");
}

#[tokio::test]
async fn a_repetition_has_the_same_message_id_and_connection() {
    let post = Post::default();
    let server = post.start().await;
    let (host, email) = (TestHost::new(), operation("email.send"));
    let message = host.message(json!({}));
    for _ in 0..2 {
        host.run(&email, config(&server, json!({})), message.clone()).await.unwrap();
    }
    let letters = post.received.all();
    let expected = format!("{}@flowline", message.id);
    assert!(letters.iter().all(|letter| parsed(letter).message_id() == Some(&expected)));
    assert_eq!((letters.len(), post.connections.all().len()), (2, 1));
}

async fn with_file(host: &TestHost, mut message: Message, name: &str, content: Bytes) -> Message {
    let size = Size::mib(64);
    let stored = host.store(message.execution, name, "text/csv", in_parts(content), size).await.unwrap();
    message.attachments.push(stored);
    message
}

#[tokio::test]
async fn attachments_are_attached_within_bounds() {
    let post = Post::default();
    let server = post.start().await;
    let (host, email) = (TestHost::new(), operation("email.send"));
    let named = "Übersicht \"1\"\r\nBcc: x@example.com.csv";
    let message = with_file(&host, host.message(json!({})), named, Bytes::from_static(b"a,b\r\n")).await;
    host.run(&email, config(&server, json!({})), message.clone()).await.unwrap();
    host.run(&email, config(&server, json!({ "attachments": false })), message).await.unwrap();
    let letters = post.received.all();
    let (with, without) = (parsed(&letters[0]), parsed(&letters[1]));
    assert_eq!((with.attachment_count(), without.attachment_count()), (1, 0));
    assert_eq!(with.attachment(0).unwrap().contents(), b"a,b\r\n");
    assert!(with.attachment(0).unwrap().attachment_name().unwrap().starts_with("Übersicht"));
    assert!(with.bcc().is_none());

    let large = with_file(&host, host.message(json!({})), "large", vec![0; 26 << 20].into()).await;
    let fault = host.run(&email, config(&server, json!({})), large).await.unwrap_err();
    assert_eq!((fault.kind, fault.code.as_str()), (FaultKind::Reject, "attachments_too_large"));
}

#[tokio::test]
async fn nothing_becomes_a_header_or_a_recipient() {
    let post = Post::default();
    let server = post.start().await;
    let more = json!({
        "subject": "Hi\r\nBcc: eve@example.com\r\n\r\nfalse body",
        "from": "\"Shop\\r\\nBcc: eve@example.com\" <shop@example.com>",
        "text": "first\r\n.\r\nMAIL FROM:<eve@example.com>\r\n",
    });
    send(config(&server, more)).await.unwrap();
    let letters = post.received.all();
    assert_eq!((letters.len(), &letters[0].to), (1, &vec!["ada@example.com".to_owned()]));
    let mail = parsed(&letters[0]);
    assert!(mail.bcc().is_none(), "{}", String::from_utf8_lossy(&letters[0].content));
    assert!(mail.body_text(0).unwrap().starts_with("first"));
    for to in ["ada@example.com\r\nRCPT TO:<eve@example.com>", "ada", "@", "<>"] {
        let fault = fault(config(&server, json!({ "to": to }))).await;
        assert_eq!((fault.kind, fault.code.as_str()), (FaultKind::Reject, "address_invalid"), "{to:?}");
    }
    assert_eq!(fault(config(&server, json!({ "to": [] }))).await.code, "mail_invalid");
}

#[tokio::test]
async fn the_servers_answer_decides_what_becomes_of_the_message() {
    let with = |post: Post| async move {
        let server = post.start().await;
        let fault = fault(config(&server, json!({}))).await;
        (fault.kind, fault.outage, fault.code)
    };
    let (retry, reject) = (FaultKind::Retry, FaultKind::Reject);
    let busy = Post { instead: Some("421 too busy\r\n"), ..Post::default() };
    assert_eq!(with(busy).await, (retry, true, "smtp_421".to_owned()));
    let later = Post { recipients: Some(450), ..Post::default() };
    assert_eq!(with(later).await, (retry, false, "smtp_450".to_owned()));
    let unknown = Post { recipients: Some(550), ..Post::default() };
    assert_eq!(with(unknown).await, (reject, false, "smtp_550".to_owned()));
    let spam = Post { mails: Some(554), ..Post::default() };
    assert_eq!(with(spam).await, (reject, false, "smtp_554".to_owned()));
    let other = Post { instead: Some("HTTP/1.1 400 Bad Request\r\n\r\n"), ..Post::default() };
    assert!(with(other).await.1);
}

#[tokio::test]
async fn a_wrong_password_pauses_the_step() {
    let post = Post { password: Some("right"), ..Post::default() };
    let server = post.start().await;
    let wrong = fault(config(&server, json!({ "server": { "user": "shop", "password": "hunter2" } }))).await;
    assert_eq!((wrong.kind, wrong.code.as_str()), (FaultKind::Unauthorized, "smtp_535"));
    assert!(!wrong.message.contains("hunter2"));
    send(config(&server, json!({ "server": { "user": "shop", "password": "right" } }))).await.unwrap();
    assert_eq!(post.received.all().len(), 1);
}

#[tokio::test]
async fn a_server_out_of_reach_is_an_outage() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let hanging = Server::raw(|stream| async move {
        tokio::time::sleep(Duration::from_secs(60)).await;
        drop(stream);
    })
    .await;
    let gone = fault(config(&hanging, json!({ "server": { "port": closed.port() } }))).await;
    assert!(gone.outage, "{gone:?}");
    let slow = fault(config(&hanging, json!({ "server": { "timeout": "300ms" } }))).await;
    assert!(slow.outage, "{slow:?}");
}

#[tokio::test]
async fn encryption_is_verified_and_never_left_out() {
    let post = Post { starttls: Some(self_signed()), ..Post::default() };
    let server = post.start().await;
    let refused = fault(config(&server, json!({ "server": { "security": "starttls" } }))).await;
    assert_eq!((refused.kind, refused.code.as_str()), (FaultKind::Misconfigured, "tls_certificate"), "{refused}");
    let server = Post { tls: Some(self_signed()), ..Post::default() }.start().await;
    let refused = fault(config(&server, json!({ "server": { "security": "tls" } }))).await;
    assert_eq!((refused.kind, refused.code.as_str()), (FaultKind::Misconfigured, "tls_certificate"), "{refused}");
    let plain = Post::default();
    let server = plain.start().await;
    let unable = fault(config(&server, json!({ "server": { "security": "starttls" } }))).await;
    assert_eq!((unable.kind, unable.code.as_str()), (FaultKind::Misconfigured, "smtp_unsuitable"), "{unable}");
    let open = fault(config(&server, json!({ "server": { "host": "mail.example.com" } }))).await;
    assert_eq!((open.kind, open.code.as_str()), (FaultKind::Misconfigured, "smtp_insecure"), "{open}");
    assert!(post.received.all().is_empty() && plain.received.all().is_empty());
}
