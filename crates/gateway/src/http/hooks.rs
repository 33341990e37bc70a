//! Startup data: what a component's `startup` hook leaves for its `shutdown` hook.

use std::sync::Arc;

use axum::{
    body::Bytes,
    extract::{Path, State},
    http::StatusCode,
    response::IntoResponse,
};
use serde_json::{Map, Value};

use super::{
    answer::{Answer, ok, problem, trouble},
    door::ApiGuest,
};
use crate::{gateway::Shared, kept::STARTUP};

const NOT_KEPT: &str = "the startup data could not be stored or read";

pub(super) async fn create(
    State(shared): State<Arc<Shared>>,
    guest: ApiGuest,
    Path(flow): Path<String>,
    body: Bytes,
) -> Answer {
    let guest = guest.of_flow(&flow)?;
    let data = if body.is_empty() { Ok(Value::Object(Map::new())) } else { serde_json::from_slice(&body) };
    let data = data.map_err(|error| problem(StatusCode::BAD_REQUEST, format!("the body is not JSON: {error}")))?;
    let created = shared.kept.create(&guest.spec().queue, STARTUP, &data).await;
    if created.map_err(|error| trouble(NOT_KEPT, &error))? {
        return Ok((StatusCode::CREATED, ok(data)).into_response());
    }
    Err(problem(StatusCode::CONFLICT, "there is startup data already"))
}

pub(super) async fn read(State(shared): State<Arc<Shared>>, guest: ApiGuest, Path(flow): Path<String>) -> Answer {
    let guest = guest.of_flow(&flow)?;
    let data = shared.kept.read(&guest.spec().queue, STARTUP).await.map_err(|error| trouble(NOT_KEPT, &error))?;
    data.map(ok).ok_or_else(|| problem(StatusCode::NOT_FOUND, "there is no startup data"))
}

pub(super) async fn remove(State(shared): State<Arc<Shared>>, guest: ApiGuest, Path(flow): Path<String>) -> Answer {
    let guest = guest.of_flow(&flow)?;
    shared.kept.remove(&guest.spec().queue, STARTUP).await.map_err(|error| trouble(NOT_KEPT, &error))?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
