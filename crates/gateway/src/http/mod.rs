//! The HTTP side of the step contract. A worker proves who it is with each request and reaches
//! its own step and its own flow's objects; what is not built answers 404.

mod answer;
mod door;
mod hooks;
mod objects;
mod refreshed;
mod results;
mod step_data;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::StatusCode,
    routing::{get, post, put},
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tower_http::timeout::TimeoutLayer;

use crate::{gateway::Shared, places::Places};

/// Bytes of the answer to a service call: schemas can be long.
const LARGEST_RESULT: usize = 16 << 20;

/// How long to wait when no connection can be accepted: others need to end first.
const AGAIN: Duration = Duration::from_millis(500);

/// Answers requests until it is told to stop.
pub(crate) async fn serve(listener: TcpListener, shared: Arc<Shared>, stop: CancellationToken) {
    let limits = &shared.settings.limits;
    let (idle, places) = (limits.idle, Places::new(limits.connections, limits.address_connections));
    let router = router(Arc::clone(&shared));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, peer)) = accepted else {
            tokio::time::sleep(AGAIN).await;
            continue;
        };
        let Some(place) = places.take(peer.ip()) else {
            tracing::warn!(%peer, "a connection was refused: there are too many");
            continue;
        };
        let (router, stop) = (router.clone(), stop.clone());
        tokio::spawn(async move {
            connection(stream, router, idle, stop).await;
            drop(place);
        });
    }
}

async fn connection(stream: TcpStream, router: Router, idle: Duration, stop: CancellationToken) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(idle);
    let served = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::select! {
        // Clients come and go as they like.
        served = served => drop(served),
        () = stop.cancelled() => {}
    }
}

fn router(shared: Arc<Shared>) -> Router {
    let limits = &shared.settings.limits;
    let kept = usize::try_from(limits.kept.0).unwrap_or(usize::MAX);
    let brief = Router::new()
        .route("/v1/tasks/{flow}/steps/{step}", get(step_data::step_data))
        .route("/v1/tasks/{flow}/steps/{step}/state", get(step_data::state))
        .route("/v1/accounts/{id}", put(step_data::update_keys))
        .route(
            "/sailor-support/hooks/task/{flow}/startup/data",
            post(hooks::create).get(hooks::read).delete(hooks::remove),
        )
        .route("/v2/resources/storage/signed-url", post(objects::sign))
        .layer(DefaultBodyLimit::max(kept))
        .route("/results/{id}", post(results::post).layer(DefaultBodyLimit::max(LARGEST_RESULT)))
        .layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, limits.request));
    let stored = get(objects::find).post(objects::create).delete(objects::remove_found);
    Router::new()
        .route("/objects", stored.clone())
        .route("/objects/", stored)
        .route("/objects/{id}", get(objects::read).put(objects::replace).delete(objects::remove))
        .route("/files/{flow}/{link}", get(objects::read_link).put(objects::write_link))
        .layer(DefaultBodyLimit::disable())
        .merge(brief)
        .fallback(|| async { answer::problem(StatusCode::NOT_FOUND, "there is nothing here") })
        .with_state(shared)
}
