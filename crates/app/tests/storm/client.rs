//! The sender's side: one request, and what its sender knows of it afterwards.

use reqwest::Client;
use serde_json::Value;

use super::program::ANSWER_WITHIN;

/// What a sender knows of a message after one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Answered with a 2xx and this message id: it must arrive.
    Accepted(String),
    /// No answer came: it may have been accepted or not.
    Unknown,
    /// Answered with another status, or never sent: it must not arrive.
    Refused,
}

/// A client that keeps its connections.
pub(crate) fn new() -> Client {
    // Fails when another test of this process was first, which is as good.
    drop(rustls::crypto::ring::default_provider().install_default());
    Client::builder().timeout(ANSWER_WITHIN).build().expect("a client")
}

/// Sends one message to a webhook; with a name for the delivery it can be sent again.
pub(crate) async fn send(client: &Client, url: &str, delivery: Option<&str>, body: &Value) -> Fate {
    let mut request = client.post(url).json(body);
    if let Some(delivery) = delivery {
        request = request.header("x-delivery-id", delivery);
    }
    let answer = match request.send().await {
        Err(error) if error.is_connect() => return Fate::Refused,
        Err(_) => return Fate::Unknown,
        Ok(answer) => answer,
    };
    if !answer.status().is_success() {
        return Fate::Refused;
    }
    // The status has come: what breaks afterwards takes nothing back.
    let told = answer.json::<Value>().await.unwrap_or_default();
    Fate::Accepted(told["message"].as_str().unwrap_or_default().to_owned())
}

/// Sends one message and insists that it is accepted.
pub(crate) async fn accepted(client: &Client, url: &str, body: &Value) -> String {
    match send(client, url, None, body).await {
        Fate::Accepted(message) => message,
        other => panic!("{url} did not accept the message: {other:?}"),
    }
}
