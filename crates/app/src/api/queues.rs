//! Queues: what waits on each.

use axum::{Json, extract::State};
use flowline_queue::QueueDepth;
use serde::Serialize;

use super::{Answer, Api};

#[derive(Serialize)]
pub(super) struct Queues {
    queues: Vec<QueueDepth>,
}

pub(super) async fn list(State(api): State<Api>) -> Answer<Queues> {
    Ok(Json(Queues { queues: api.engine.records().queues().await? }))
}
