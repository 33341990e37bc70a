//! The API under `/api/v1`, and what stands beside it: health, readiness, metrics.

mod components;
pub(crate) use dead_letters::{DiscardRequest, ReplayRequest};
mod dead_letters;
mod executions;
mod extract;
mod flows;
mod queues;

use std::path::PathBuf;

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State},
    http::{HeaderValue, StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use flowline_engine::{Engine, EngineError};
use flowline_queue::QueueError;
use metrics_exporter_prometheus::PrometheusHandle;
use serde::{Deserialize, Serialize};

use crate::{
    guard::{self, Guard},
    problem_details::ProblemDetails,
    registry::Registry,
};

/// The longest body of an API request, in bytes.
const LONGEST_BODY: usize = 16 << 20;

/// What the API answers from.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) engine: Engine,
    pub(crate) registry: Registry,
    pub(crate) metrics: PrometheusHandle,
    pub(crate) about: About,
}

/// Which server this is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct About {
    /// The program's version.
    pub(crate) version: String,
    /// The data folder.
    pub(crate) data: PathBuf,
    /// The process.
    pub(crate) process: u32,
}

/// What an API route answers.
type Answer<T> = Result<Json<T>, ProblemDetails>;

/// Every route but the webhooks.
pub(crate) fn router(api: Api, guard: Guard) -> Router {
    let guarded = Router::new()
        .nest("/api/v1", routes())
        .route("/metrics", get(metrics))
        .layer(DefaultBodyLimit::max(LONGEST_BODY))
        .layer(middleware::from_fn_with_state(guard, guard::admit));
    guarded
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .fallback(|| async { ProblemDetails::not_found("there is nothing at this address; the API is at /api/v1") })
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(api)
}

fn routes() -> Router<Api> {
    Router::new()
        .route("/server", get(about))
        .route("/flows", get(flows::list))
        .route("/flows/{flow}", get(flows::show))
        .route("/flows/{flow}/pause", post(flows::pause))
        .route("/flows/{flow}/resume", post(flows::resume))
        .route("/flows/{flow}/drain", post(flows::drain))
        .route("/flows/{flow}/discard", post(flows::discard))
        .route("/flows/{flow}/run", post(flows::run))
        .route("/check", post(flows::check))
        .route("/queues", get(queues::list))
        .route("/executions", get(executions::list))
        .route("/executions/{id}", get(executions::show))
        .route("/dead-letters", get(dead_letters::list))
        .route("/dead-letters/{id}", get(dead_letters::show))
        .route("/dead-letters/replay", post(dead_letters::replay))
        .route("/dead-letters/discard", post(dead_letters::discard))
        .route("/components", get(components::list))
}

async fn about(State(api): State<Api>) -> Json<About> {
    Json(api.about)
}

/// Whether the store answers, so that requests can be accepted.
async fn ready(State(api): State<Api>) -> Response {
    match api.engine.records().queues().await {
        Ok(_) => "ready\n".into_response(),
        Err(error) => ProblemDetails::from(error).into_response(),
    }
}

async fn metrics(State(api): State<Api>) -> Result<Response, ProblemDetails> {
    api.engine.measure().await?;
    let content_type = HeaderValue::from_static("text/plain; version=0.0.4");
    Ok(([(header::CONTENT_TYPE, content_type)], api.metrics.render()).into_response())
}

async fn method_not_allowed() -> ProblemDetails {
    let detail = "this address does not take requests with this method";
    ProblemDetails::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
}

impl From<EngineError> for ProblemDetails {
    fn from(error: EngineError) -> Self {
        let conflict = |code| Self::new(StatusCode::CONFLICT, code, error.to_string());
        match &error {
            EngineError::NoFlow(_) | EngineError::NoStep(..) | EngineError::Queue(QueueError::NotFound(_)) => {
                Self::not_found(error.to_string())
            }
            EngineError::NotPolling(_) => conflict("not_polling"),
            EngineError::Queue(QueueError::Full { .. }) => conflict("queue_full"),
            EngineError::Queue(QueueError::Disk(_) | QueueError::Closed) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", error.to_string())
            }
            _ => {
                tracing::error!(%error, "a request could not be answered");
                Self::internal()
            }
        }
    }
}
