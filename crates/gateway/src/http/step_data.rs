//! A step's data: what a component asks for when it starts, and the credentials it refreshes.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, Query, State},
    http::StatusCode,
};
use flowline_sdk::Contract;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    answer::{Answer, ok, problem, trouble},
    door::ApiGuest,
    refreshed::Refreshed,
};
use crate::{gateway::Shared, gathered::SNAPSHOT, guests::Guest, kept::CREDENTIAL};

/// Entries of state in one answer.
const MOST_ENTRIES: usize = 1000;

/// The name of a step's credential, for `updateKeys`.
fn account(guest: &Guest) -> String {
    format!("{}.{}", guest.spec().queue.flow, guest.spec().queue.step)
}

pub(super) async fn step_data(
    State(shared): State<Arc<Shared>>,
    guest: ApiGuest,
    Path((flow, step)): Path<(String, String)>,
) -> Answer {
    let guest = guest.of_step(&flow, &step)?;
    let spec = guest.spec();
    let mut config = spec.config.as_object().cloned().unwrap_or_default();
    let kept = shared.kept.read(&spec.queue, CREDENTIAL).await;
    let kept = kept.map_err(|error| trouble("the step's refreshed credentials could not be read", &error))?;
    config.extend(Refreshed::of(kept, &config));
    config.insert("_account".to_owned(), Value::String(account(&guest)));
    let snapshot = guest.step.host.state(&spec.queue, SNAPSHOT).await;
    let snapshot = snapshot.map_err(|error| trouble("the step's snapshot could not be read", &error))?;
    Ok(ok(json!({
        "id": step,
        "comp_id": spec.component,
        "function": spec.function,
        "config": config,
        "snapshot": snapshot.unwrap_or_else(|| Value::Object(Map::new())),
        // What earlier steps produced travels with our messages, not with the component's.
        "is_passthrough": false,
        "variables": shared.settings.variables,
    })))
}

/// `updateKeys`: keys of the step's credential, put over the configured ones from now on.
pub(super) async fn update_keys(
    State(shared): State<Arc<Shared>>,
    guest: ApiGuest,
    Path(id): Path<String>,
    Json(body): Json<Value>,
) -> Answer {
    let guest = guest.0;
    if id != account(&guest) {
        return Err(problem(StatusCode::FORBIDDEN, "a worker changes its own step's credential only"));
    }
    let Some(Value::Object(keys)) = body.get("keys").cloned() else {
        return Err(problem(StatusCode::BAD_REQUEST, "there is no object `keys`"));
    };
    let spec = guest.spec();
    let (fresh, nothing) = (keys.clone(), Map::new());
    let change = move |kept| Refreshed::over(kept, fresh, spec.config.as_object().unwrap_or(&nothing));
    let stored = shared.kept.change(&spec.queue, CREDENTIAL, change).await;
    stored.map_err(|error| trouble("the credential could not be stored", &error))?;
    Ok(ok(json!({ "id": id, "keys": keys })))
}

/// Which entries of state are asked for.
#[derive(Deserialize)]
pub(super) struct Wanted {
    key: Option<String>,
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    after: String,
    max: Option<usize>,
}

/// What the step remembers, for `flowline worker`: one entry, or a page of them.
pub(super) async fn state(
    State(_): State<Arc<Shared>>,
    guest: ApiGuest,
    Path((flow, step)): Path<(String, String)>,
    Query(wanted): Query<Wanted>,
) -> Answer {
    let guest = guest.of_step(&flow, &step)?;
    if guest.spec().contract != Contract::Worker {
        return Err(problem(StatusCode::NOT_FOUND, "there is nothing here"));
    }
    let (host, queue) = (&guest.step.host, &guest.spec().queue);
    let unreadable = |error| trouble("the step's state could not be read", &error);
    if let Some(key) = wanted.key {
        let value = host.state(queue, &key).await.map_err(unreadable)?;
        return Ok(ok(json!({ "value": value, "found": value.is_some() })));
    }
    let max = wanted.max.unwrap_or(MOST_ENTRIES).min(MOST_ENTRIES);
    let entries = host.states(queue, &wanted.prefix, &wanted.after, max).await.map_err(unreadable)?;
    Ok(ok(json!({ "entries": entries })))
}
