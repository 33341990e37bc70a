//! The intake: webhook requests, from the connection to the engine. The hottest path of the
//! server: it looks at nothing that the engine does not need, and logs nothing.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, Request, Response, StatusCode},
};
use bytes::Bytes;
use flowline_engine::{Answer, Engine};
use futures::Stream;
use hyper::body::{Body as _, Incoming};
use tokio::time::{Instant, Sleep, sleep_until};

/// Where webhooks are.
pub(crate) const HOOK: &str = "/hook/";

/// How long a request's body may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// Between two parts.
    pub(crate) idle: Duration,
    /// Altogether.
    pub(crate) total: Duration,
}

/// A body that breaks off when its sender is too slow.
pub(crate) struct TimedBody {
    body: Incoming,
    idle: Duration,
    end: Instant,
    /// Set only while nothing comes, so that a body that is there already costs no timer.
    pause: Option<Pin<Box<Sleep>>>,
}

impl TimedBody {
    /// Bounds a body in time, from now.
    pub(crate) fn new(body: Incoming, patience: Patience) -> Self {
        Self { body, idle: patience.idle, end: Instant::now() + patience.total, pause: None }
    }
}

impl Stream for TimedBody {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.pause = None;
                    if let Ok(data) = frame.into_data() {
                        return Poll::Ready(Some(Ok(data)));
                    }
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(io::Error::other(error)))),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => {
                    let until = self.end.min(Instant::now() + self.idle);
                    let pause = self.pause.get_or_insert_with(|| Box::pin(sleep_until(until)));
                    ready!(pause.as_mut().poll(cx));
                    let error = io::Error::new(io::ErrorKind::TimedOut, "it was sent too slowly");
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }
}

/// Gives a request to the webhook it is for.
pub(crate) async fn receive(engine: &Engine, request: Request<Incoming>, patience: Patience) -> Response<Body> {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    let headers = head.headers.iter();
    let request = flowline_sdk::Request {
        method: head.method.as_str().to_owned(),
        path: path.to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        headers: headers.map(|(name, value)| (name.as_str().to_owned(), text(value))).collect(),
        body: Box::pin(TimedBody::new(body, patience)),
    };
    respond(engine.receive(path.strip_prefix(HOOK).unwrap_or_default(), request).await)
}

fn text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

/// The engine's answer on the wire. A header that HTTP does not allow is left out.
fn respond(answer: Answer) -> Response<Body> {
    let mut response = Response::new(Body::from(answer.body));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in answer.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            response.headers_mut().append(name, value);
        }
    }
    response
}
