//! TLS with servers that the machine trusts: which ones these are is a matter of the whole
//! process, so the calls are made by a process of their own.

mod servers;

use std::{io::Write, process::Command};

use flowline_sdk::testing::TestHost;
use serde_json::{Value, json};
use servers::{Notes, Server, operation, post::Post, signed};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What the other process does: an operation and its configuration.
const TASK: &str = "FLOWLINE_TEST_TASK";

/// Runs an operation in a process that trusts this certificate.
async fn run_trusting(certificate: &str, name: &str, config: Value) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(certificate.as_bytes()).unwrap();
    let task = json!({ "operation": name, "config": config }).to_string();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "the_other_process", "--ignored", "--nocapture"]);
    command.env("SSL_CERT_FILE", file.path()).env_remove("SSL_CERT_DIR").env(TASK, task);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
#[ignore = "run by the other tests"]
async fn the_other_process() {
    let Ok(task) = std::env::var(TASK) else { return };
    let task: Value = serde_json::from_str(&task).unwrap();
    let operation = operation(task["operation"].as_str().unwrap());
    let host = TestHost::new();
    host.run(&operation, task["config"].clone(), host.message(json!({}))).await.unwrap();
}

#[tokio::test]
async fn a_trusted_web_server_is_called() {
    let (acceptor, certificate) = signed();
    let served = Notes::default();
    let notes = served.clone();
    let server = Server::raw(move |stream| {
        let (acceptor, notes) = (acceptor.clone(), notes.clone());
        async move {
            let mut stream = acceptor.accept(stream).await.unwrap();
            let mut request = [0; 4096];
            assert!(stream.read(&mut request).await.unwrap() > 0);
            notes.add(());
            stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await.unwrap();
            let _ended = stream.shutdown().await;
        }
    })
    .await;
    let url = format!("https://localhost:{}/", server.address.port());
    run_trusting(&certificate, "http.request", json!({ "url": url })).await;
    assert_eq!(served.all().len(), 1);
}

#[tokio::test]
async fn a_trusted_mail_server_takes_mail() {
    for security in ["starttls", "tls"] {
        let (acceptor, certificate) = signed();
        let mut post = Post { password: Some("right"), ..Post::default() };
        match security {
            "tls" => post.tls = Some(acceptor),
            _ => post.starttls = Some(acceptor),
        }
        let server = post.start().await;
        let config = json!({
            "from": "shop@example.com", "to": "ada@example.com", "text": "Hello",
            "server": {
                "host": "localhost", "port": server.address.port(), "security": security,
                "user": "shop", "password": "right", "timeout": "5s",
            },
        });
        run_trusting(&certificate, "email.send", config).await;
        assert_eq!(post.received.all().len(), 1, "{security}");
    }
}
