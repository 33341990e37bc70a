//! `http.request` against real servers: slow, broken, redirecting and demanding ones.

mod servers;

use std::time::{Duration, Instant};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Path, Request, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Redirect, Response},
    routing::{any, get, post},
};
use flowline_sdk::{
    Attachments, Emit, Fault, FaultKind, Operation, Size,
    testing::{TestHost, in_parts},
};
use futures::{StreamExt, future::join_all, stream};
use serde_json::{Value, json};
use servers::{Notes, Server, operation, self_signed};

/// Runs the operation with one message.
async fn run(operation: &Operation, config: Value) -> Result<Emit, Fault> {
    let host = TestHost::new();
    let ran = host.run(operation, config, host.message(json!({}))).await?;
    assert_eq!(ran.emits.len(), 1);
    Ok(ran.emits.into_iter().next().unwrap())
}

async fn body(config: Value) -> Value {
    run(&operation("http.request"), config).await.unwrap().body
}

async fn fault(config: Value) -> Fault {
    run(&operation("http.request"), config).await.unwrap_err()
}

/// Says what it received.
async fn echo(request: Request) -> Json<Value> {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let headers: serde_json::Map<_, _> =
        parts.headers.iter().map(|(name, value)| (name.to_string(), json!(value.to_str().unwrap()))).collect();
    Json(json!({
        "method": parts.method.as_str(),
        "target": parts.uri.to_string(),
        "headers": headers,
        "body": String::from_utf8_lossy(&body),
    }))
}

async fn echoing() -> Server {
    Server::web(Router::new().fallback(any(echo))).await
}

#[tokio::test]
async fn a_body_is_posted_as_json_with_an_idempotency_key() {
    let server = echoing().await;
    let (request, host) = (operation("http.request"), TestHost::new());
    let message = host.message(json!({}));
    let config = json!({
        "url": server.url("/api?x=1"), "query": { "y": [2, 3] }, "headers": { "x-team": "a", "x-none": null },
        "body": { "name": "Ada" }, "auth": { "bearer": { "token": "t0ken" } },
    });
    for _ in 0..2 {
        let said = host.run(&request, config.clone(), message.clone()).await.unwrap().emits.remove(0).body;
        assert_eq!((&said["method"], &said["target"]), (&json!("POST"), &json!("/api?x=1&y=2&y=3")));
        assert_eq!(said["body"], r#"{"name":"Ada"}"#);
        let headers = &said["headers"];
        assert_eq!(headers["idempotency-key"], json!(message.id.to_string()));
        assert_eq!(headers["authorization"], "Bearer t0ken");
        assert_eq!(headers["content-type"], "application/json");
        assert_eq!((&headers["x-team"], &headers["x-none"]), (&json!("a"), &Value::Null));
        assert!(headers["user-agent"].as_str().unwrap().starts_with("Flowline/"));
    }
}

#[tokio::test]
async fn reading_needs_no_key_and_ones_own_key_counts() {
    let server = echoing().await;
    let said = body(json!({ "url": server.url("/") })).await;
    assert_eq!((&said["method"], &said["headers"]["idempotency-key"]), (&json!("GET"), &Value::Null));
    let config = json!({ "url": server.url("/"), "method": "DELETE", "headers": { "Idempotency-Key": "mine" } });
    let said = body(config).await;
    assert_eq!((&said["method"], &said["headers"]["idempotency-key"]), (&json!("DELETE"), &json!("mine")));
}

#[tokio::test]
async fn bodies_are_sent_as_forms_and_texts() {
    let server = echoing().await;
    let form = json!({ "url": server.url("/"), "body_as": "form", "body": { "a": "x y", "b": [1, 2], "c": null } });
    assert_eq!(body(form).await["body"], "a=x+y&b=1&b=2");
    let text = body(json!({
        "url": server.url("/"), "body_as": "text", "body": "<a/>", "headers": { "content-type": "text/xml" },
    }));
    let text = text.await;
    assert_eq!((&text["body"], &text["headers"]["content-type"]), (&json!("<a/>"), &json!("text/xml")));
    let basic = json!({ "url": server.url("/"), "auth": { "basic": { "user": "u", "password": "p" } } });
    assert_eq!(body(basic).await["headers"]["authorization"], "Basic dTpw");
    let own = json!({ "url": server.url("/"), "auth": { "header": { "name": "x-api-key", "value": "k" } } });
    assert_eq!(body(own).await["headers"]["x-api-key"], "k");
}

#[tokio::test]
async fn attachments_are_sent_as_a_multipart_form() {
    let server = echoing().await;
    let host = TestHost::new();
    let mut message = host.message(json!({}));
    let content = in_parts(Bytes::from_static(b"a,b\n1,2\n"));
    let stored = host.store(message.execution, "list.csv", "text/csv", content, Size::mib(1)).await.unwrap();
    message.attachments = vec![stored];
    let config = json!({ "url": server.url("/"), "attachments": true, "body": { "kind": "list" } });
    let said = host.run(&operation("http.request"), config, message).await.unwrap().emits.remove(0).body;
    let sent = said["body"].as_str().unwrap();
    assert!(said["headers"]["content-type"].as_str().unwrap().starts_with("multipart/form-data"));
    assert!(sent.contains("name=\"kind\"") && sent.contains("filename=\"list.csv\"") && sent.contains("a,b\n1,2\n"));
}

#[tokio::test]
async fn answers_are_what_their_media_type_says() {
    let typed = |content_type: &'static str, body: &'static [u8]| {
        get(move || async move { ([("content-type", content_type)], body) })
    };
    let app = Router::new()
        .route("/json", typed("application/problem+json", b"{\"a\":1}"))
        .route("/text", typed("text/plain; charset=iso-8859-1", b"Gr\xfc\xdfe"))
        .route("/xml", typed("application/xml", b"<a/>"))
        .route("/files/logo.png", typed("image/png", b"\x89PNG\x00"))
        .route("/broken", typed("application/json", b"{"))
        .route("/none", get(|| async { StatusCode::NO_CONTENT }));
    let server = Server::web(app).await;
    assert_eq!(body(json!({ "url": server.url("/json") })).await, json!({ "a": 1 }));
    assert_eq!(body(json!({ "url": server.url("/text") })).await, json!("Grüße"));
    assert_eq!(body(json!({ "url": server.url("/xml") })).await, json!("<a/>"));
    assert_eq!(body(json!({ "url": server.url("/none") })).await, Value::Null);
    assert_eq!(fault(json!({ "url": server.url("/broken") })).await.code, "response_invalid");

    let host = TestHost::new();
    let config = json!({ "url": server.url("/files/logo.png"), "response": "full" });
    let emit = host.run(&operation("http.request"), config, host.message(json!({}))).await.unwrap().emits.remove(0);
    assert_eq!(emit.body["body"], json!({ "name": "logo.png", "content_type": "image/png", "size": 5 }));
    assert_eq!((&emit.body["status"], &emit.body["headers"]["content-type"]), (&json!(200), &json!("image/png")));
    assert_eq!(host.content(&emit.attachments[0]).unwrap(), Bytes::from_static(b"\x89PNG\x00"));
}

#[tokio::test]
async fn a_status_decides_what_becomes_of_the_message() {
    let say = |Path(status): Path<u16>| async move {
        (StatusCode::from_u16(status).unwrap(), [("retry-after", "7")], "the reason")
    };
    let server = Server::web(Router::new().route("/{status}", any(say))).await;
    let at = |status: u16| server.url(&format!("/{status}"));
    let busy = fault(json!({ "url": at(503) })).await;
    assert_eq!((busy.outage, busy.after), (true, Some(Duration::from_secs(7))));
    let wrong = fault(json!({ "url": at(422), "body": {} })).await;
    assert_eq!((wrong.kind, wrong.code.as_str()), (FaultKind::Reject, "http_422"));
    assert!(wrong.message.ends_with("/422 answered 422 Unprocessable Entity: the reason"), "{wrong}");
    assert_eq!(fault(json!({ "url": at(500) })).await.kind, FaultKind::Retry);
    assert_eq!(fault(json!({ "url": at(401) })).await.kind, FaultKind::Reject);
    let refused = fault(json!({ "url": at(401), "auth": { "bearer": { "token": "old" } } })).await;
    assert_eq!(refused.kind, FaultKind::Unauthorized);
    let found = body(json!({ "url": at(404), "accept": [404], "response": "full" })).await;
    assert_eq!((&found["status"], &found["body"]), (&json!(404), &json!("the reason")));
}

#[tokio::test]
async fn a_target_out_of_reach_is_an_outage_and_its_secrets_stay_hidden() {
    let gone = Server::saying(b"").await.address;
    let hanging = Server::raw(|stream| async move {
        tokio::time::sleep(Duration::from_secs(60)).await;
        drop(stream);
    })
    .await;
    let cut = Server::saying(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{").await;
    let silent = Server::saying(b"").await;
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    for (url, code) in [
        (format!("http://user:hunter2@{closed}/a?key=hunter2"), "connect"),
        (format!("http://user:hunter2@{}/a?key=hunter2", hanging.address), "timeout"),
        (format!("http://user:hunter2@{}/a?key=hunter2", cut.address), "connection_broken"),
        (format!("http://user:hunter2@{}/a?key=hunter2", silent.address), "connection_broken"),
        ("http://user:hunter2@nowhere.invalid/a?key=hunter2".to_owned(), "dns"),
    ] {
        let began = Instant::now();
        let fault = fault(json!({ "url": url, "timeout": "700ms", "body": { "password": "hunter2" } })).await;
        assert!(fault.outage, "{url}: {fault:?}");
        // A name that nobody answers for may also end by the time limit.
        assert!(fault.code == code || (code == "dns" && fault.code == "timeout"), "{url}: {fault:?}");
        assert!(!fault.message.contains("hunter2"), "{fault}");
        assert!(began.elapsed() < Duration::from_secs(5));
    }
    assert_ne!(gone.port(), 0);
}

#[tokio::test]
async fn an_endless_answer_is_cut_off() {
    let endless = || async {
        let chunks = stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&[b'x'; 4096])));
        ([("content-type", "text/plain")], Body::from_stream(chunks))
    };
    let binary = || async {
        let chunks = stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&[0; 4096])));
        ([("content-type", "application/zip")], Body::from_stream(chunks.boxed()))
    };
    let server = Server::web(Router::new().route("/text", get(endless)).route("/zip", get(binary))).await;
    for path in ["/text", "/zip"] {
        let fault = fault(json!({ "url": server.url(path), "response_limit": "64KiB" })).await;
        assert_eq!((fault.kind, fault.code.as_str()), (FaultKind::Reject, "response_too_large"), "{path}");
    }
}

#[tokio::test]
async fn redirects_keep_methods_and_secrets() {
    let other = echoing().await;
    let elsewhere = other.url("/there");
    let to =
        |status: StatusCode, url: String| any(move || async move { (status, [("location", url)]).into_response() });
    let app = Router::new()
        .route("/302", to(StatusCode::FOUND, elsewhere.clone()))
        .route("/307", to(StatusCode::TEMPORARY_REDIRECT, elsewhere.clone()))
        .route("/loop", any(|| async { Redirect::temporary("/loop") }));
    let server = Server::web(app).await;
    let bearer = json!({ "bearer": { "token": "t" } });

    let followed = body(json!({ "url": server.url("/302"), "auth": bearer })).await;
    assert_eq!((&followed["target"], &followed["headers"]["authorization"]), (&json!("/there"), &Value::Null));
    let kept = body(json!({ "url": server.url("/307"), "body": [1] })).await;
    assert_eq!((&kept["method"], &kept["body"]), (&json!("POST"), &json!("[1]")));

    let lost = fault(json!({ "url": server.url("/302"), "body": [1] })).await;
    assert_eq!((lost.kind, lost.code.as_str()), (FaultKind::Reject, "http_302"));
    let still = fault(json!({ "url": server.url("/302"), "redirects": 0 })).await;
    assert_eq!(still.code, "http_302");
    let endless = fault(json!({ "url": server.url("/loop"), "redirects": 3 })).await;
    assert_eq!(endless.code, "redirect_refused");
    let key = json!({ "header": { "name": "x-api-key", "value": "k" } });
    let guarded = fault(json!({ "url": server.url("/302"), "auth": key })).await;
    assert_eq!(guarded.code, "redirect_refused");
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_is_refused() {
    let acceptor = self_signed();
    let server = Server::raw(move |stream| {
        let acceptor = acceptor.clone();
        async move { drop(acceptor.accept(stream).await) }
    })
    .await;
    let fault = fault(json!({ "url": format!("https://localhost:{}/", server.address.port()) })).await;
    assert_eq!((fault.kind, fault.code.as_str()), (FaultKind::Misconfigured, "tls_certificate"), "{fault}");
}

#[tokio::test]
async fn what_is_no_http_address_is_rejected() {
    for url in ["file:///etc/passwd", "nonsense", ""] {
        let fault = fault(json!({ "url": url })).await;
        assert_eq!((fault.kind, fault.code.as_str()), (FaultKind::Reject, "url_invalid"), "{url}");
    }
}

/// A service that demands tokens, and the server that gives them.
#[derive(Clone, Default)]
struct Guarded {
    /// How often a token was asked for, and with which form.
    asked: Notes<String>,
    /// Tokens that were refused.
    refused: Notes<String>,
}

impl Guarded {
    async fn start(&self, refuse_first: bool) -> Server {
        let token = |State(guarded): State<Guarded>, headers: HeaderMap, form: String| async move {
            let basic = headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
            // Basic of `client:s%3Acret`, as RFC 6749 wants it encoded.
            if basic.as_deref() != Some("Basic Y2xpZW50OnMlM0FjcmV0") {
                return (StatusCode::BAD_REQUEST, Json(json!({ "error": "invalid_client" }))).into_response();
            }
            let count = guarded.asked.add(form);
            tokio::time::sleep(Duration::from_millis(100)).await;
            let answer = json!({ "access_token": format!("t{count}"), "token_type": "bearer", "expires_in": 3600 });
            Json(answer).into_response()
        };
        let api = move |State(guarded): State<Guarded>, headers: HeaderMap| async move {
            let token = headers["authorization"].to_str().unwrap().to_owned();
            if refuse_first && token == "Bearer t1" {
                guarded.refused.add(token);
                return StatusCode::UNAUTHORIZED.into_response();
            }
            token.into_response()
        };
        let app = Router::new().route("/token", post(token)).route("/api", any(api)).with_state(self.clone());
        Server::web(app).await
    }
}

fn oauth2(server: &Server, secret: &str) -> Value {
    json!({
        "url": server.url("/api"),
        "auth": { "oauth2": {
            "token_url": server.url("/token"), "client_id": "client", "client_secret": secret, "scope": "write",
        } },
    })
}

#[tokio::test]
async fn one_token_is_fetched_for_all_runs() {
    let guarded = Guarded::default();
    let server = guarded.start(false).await;
    let request = operation("http.request");
    let runs = (0..8).map(|_| run(&request, oauth2(&server, "s:cret")));
    for emit in join_all(runs).await {
        assert_eq!(emit.unwrap().body, "Bearer t1");
    }
    assert_eq!(guarded.asked.all(), ["grant_type=client_credentials&scope=write"]);
}

#[tokio::test]
async fn a_refused_token_is_replaced_once() {
    let guarded = Guarded::default();
    let server = guarded.start(true).await;
    let request = operation("http.request");
    let runs = (0..4).map(|_| run(&request, oauth2(&server, "s:cret")));
    for emit in join_all(runs).await {
        assert_eq!(emit.unwrap().body, "Bearer t2");
    }
    assert_eq!(guarded.asked.all().len(), 2);
}

#[tokio::test]
async fn a_wrong_client_secret_pauses_the_step() {
    let server = Guarded::default().start(false).await;
    let fault = fault(oauth2(&server, "wr0ng")).await;
    assert_eq!((fault.kind, fault.code.as_str()), (FaultKind::Unauthorized, "oauth2_refused"));
    assert!(!fault.message.contains("wr0ng"));
}

async fn numbered(Path(page): Path<u32>) -> Response {
    let next = format!("</list/{}>; rel=\"next\"", page + 1);
    let items = Json(json!({ "items": [page * 10, page * 10 + 1] }));
    if page < 3 { ([("link", next)], items).into_response() } else { items.into_response() }
}

#[tokio::test]
async fn all_pages_become_one_message() {
    let server = Server::web(Router::new().route("/list/{page}", get(numbered))).await;
    let all = body(json!({ "url": server.url("/list/1"), "pagination": "link", "items": "items" })).await;
    assert_eq!(all, json!([10, 11, 20, 21, 30, 31]));
    let next = json!({ "next": "body.items[0] < 30 ? '/list/' & $string(body.items[0] / 10 + 1)" });
    let all = body(json!({ "url": server.url("/list/1"), "pagination": next, "items": "{{ items }}" })).await;
    assert_eq!(all, json!([10, 11, 20, 21, 30, 31]));
    let long = json!({ "url": server.url("/list/1"), "pagination": "link", "items": "items", "max_pages": 2 });
    assert_eq!(fault(long).await.code, "too_many_pages");
}
