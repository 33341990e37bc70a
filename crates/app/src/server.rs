//! The server: connections, and which part answers which request.
//!
//! Everything a client can hold on to has a limit: how many connections there are, how long a
//! request's head may be and take, how long its body may take, how long an answer may go unread.

use std::{convert::Infallible, net::SocketAddr, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{Request, Response},
    response::IntoResponse as _,
};
use flowline_engine::Engine;
use futures::FutureExt as _;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::{GracefulConnection, GracefulShutdown},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::{
    cli::{Listen, Token},
    failure::{Failure, Outcome},
    intake::{self, Patience, TimedBody},
    problem_details::ProblemDetails,
};

/// The longest head of a request, in bytes.
const LONGEST_HEAD: usize = 64 << 10;
/// The most headers of a request.
const MOST_HEADERS: usize = 128;
/// How long to wait when the machine has no room for another connection.
const BREATH: Duration = Duration::from_millis(100);

/// What answers requests.
pub(crate) struct Server {
    engine: Engine,
    /// Everything but webhooks.
    router: Router,
    limits: Limits,
}

/// What clients may hold on to.
#[derive(Debug, Clone, Copy)]
struct Limits {
    connections: usize,
    head: Duration,
    patience: Patience,
}

impl Server {
    /// A server that gives webhooks to the engine and the rest to the router.
    pub(crate) fn new(engine: Engine, router: Router, options: &Listen) -> Self {
        let patience = Patience { idle: options.idle_timeout.0, total: options.body_timeout.0 };
        let connections = options.connections as usize;
        Self { engine, router, limits: Limits { connections, head: options.head_timeout.0, patience } }
    }

    /// Answers requests until it is told to stop; then those that have begun, within `grace`.
    pub(crate) async fn serve(self, listener: TcpListener, stop: CancellationToken, grace: Duration) {
        let connections = Arc::new(Semaphore::new(self.limits.connections));
        let open = GracefulShutdown::new();
        let server = Arc::new(self);
        loop {
            let place = tokio::select! {
                place = Arc::clone(&connections).acquire_owned() => place,
                () = stop.cancelled() => break,
            };
            let stream = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => break,
            };
            match stream {
                Ok((stream, _)) => {
                    let connection = open.watch(server.connection(stream));
                    tokio::spawn(async move {
                        // What goes wrong with a connection is its client's affair.
                        let _ended = connection.await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "a connection could not be accepted");
                    tokio::time::sleep(BREATH).await;
                }
            }
        }
        drop(listener);
        if tokio::time::timeout(grace, open.shutdown()).await.is_err() {
            tracing::warn!("some requests were still running and are cut off");
        }
    }

    /// One connection, bounded in what it may send and how long it may be silent.
    fn connection(
        self: &Arc<Self>,
        stream: TcpStream,
    ) -> impl GracefulConnection<Error = hyper::Error> + Send + 'static + use<> {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection stays with delayed packets");
        }
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(self.limits.patience.idle));
        let server = Arc::clone(self);
        let service = service_fn(move |request| {
            let server = Arc::clone(&server);
            async move { Ok::<_, Infallible>(server.answer_safely(request).await) }
        });
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.head)
            .max_buf_size(LONGEST_HEAD)
            .max_headers(MOST_HEADERS)
            .serve_connection(TokioIo::new(Box::pin(stream)), service)
    }

    /// Answers one request; a panic is answered too.
    async fn answer_safely(&self, request: Request<Incoming>) -> Response<Body> {
        let answer = AssertUnwindSafe(self.answer(request)).catch_unwind().await;
        answer.unwrap_or_else(|_| ProblemDetails::internal().into_response())
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let patience = self.limits.patience;
        if request.uri().path().starts_with(intake::HOOK) {
            return intake::receive(&self.engine, request, patience).await;
        }
        let request = request.map(|body| Body::from_stream(TimedBody::new(body, patience)));
        match self.router.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

/// The shortest token, in characters.
const SHORTEST_TOKEN: usize = 16;

/// Listens on the address, unless that would open the API to everybody.
pub(crate) async fn listen(options: &Listen) -> Outcome<TcpListener> {
    let address = options.listen;
    if !address.ip().is_loopback() && options.token.is_none() {
        return Err(Failure::usage(format!("{address} can be reached by others, and there is no token"))
            .hint("set FLOWLINE_TOKEN to at least 16 random characters, or listen on 127.0.0.1"));
    }
    let is_weak = |token: &Token| {
        token.expose().len() < SHORTEST_TOKEN || !token.expose().bytes().all(|byte| byte.is_ascii_graphic())
    };
    if options.token.as_ref().is_some_and(is_weak) {
        return Err(Failure::usage(format!(
            "the token has fewer than {SHORTEST_TOKEN} characters, or some that are not visible ASCII"
        ))
        .hint("make one with `openssl rand -hex 24`"));
    }
    TcpListener::bind(address).await.map_err(|error| cannot_listen(address, &error))
}

fn cannot_listen(address: SocketAddr, error: &std::io::Error) -> Failure {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => Failure::new(format!("{address} is in use by another program"))
            .hint("stop that program, or choose another address with `--listen ADDR:PORT`"),
        std::io::ErrorKind::PermissionDenied => Failure::new(format!("this user may not listen on {address}"))
            .hint("choose a port above 1023 with `--listen ADDR:PORT`"),
        _ => Failure::new(format!("the server cannot listen on {address}: {error}"))
            .hint("choose another address with `--listen ADDR:PORT`"),
    }
}
