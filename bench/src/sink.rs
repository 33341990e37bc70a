//! The local sink: takes contacts and verifies each, its content and its idempotency key. A
//! process of its own; `GET /report` tells what it saw, `GET /times` when.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Result;
use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, StatusCode},
    routing::get,
};
use serde::{Deserialize, Serialize};

use crate::{clock, form::Contact, process};

/// What the sink saw.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Different contacts.
    pub(crate) distinct: u64,
    /// Contacts that came again under the same key.
    pub(crate) repeated: u64,
    /// Requests with a wrong content, without a key, or under a second key.
    pub(crate) wrong: u64,
    /// When the last new contact came, in microseconds.
    pub(crate) last: u64,
}

#[derive(Default)]
struct Seen {
    report: Report,
    keys: HashMap<u64, String>,
    times: Vec<u64>,
}

type Shared = Arc<Mutex<Seen>>;

/// Serves until it is killed; prints its address first.
pub(crate) async fn run(host: &str) -> Result<()> {
    let seen = Shared::default();
    let router = Router::new()
        .route("/report", get(report))
        .route("/times", get(times))
        .fallback(take)
        .layer(DefaultBodyLimit::disable())
        .with_state(seen);
    process::serve(host, router).await
}

async fn take(State(seen): State<Shared>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let now = clock::micros();
    let contact = serde_json::from_slice::<Contact>(&body).ok().filter(Contact::is_right);
    let key = headers.get("idempotency-key").and_then(|key| key.to_str().ok());
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    let (Some(contact), Some(key)) = (contact, key) else {
        seen.report.wrong += 1;
        return StatusCode::BAD_REQUEST;
    };
    match seen.keys.get(&contact.id) {
        Some(known) if known == key => seen.report.repeated += 1,
        Some(_) => seen.report.wrong += 1,
        None => {
            seen.keys.insert(contact.id, key.to_owned());
            let index = usize::try_from(contact.id).unwrap_or_default();
            if seen.times.len() <= index {
                seen.times.resize(index + 1, 0);
            }
            seen.times[index] = now;
            seen.report.distinct += 1;
            seen.report.last = now;
        }
    }
    StatusCode::NO_CONTENT
}

async fn report(State(seen): State<Shared>) -> Json<Report> {
    Json(seen.lock().unwrap_or_else(PoisonError::into_inner).report.clone())
}

/// When each contact came, by number; zero if it did not.
async fn times(State(seen): State<Shared>) -> Json<Vec<u64>> {
    Json(seen.lock().unwrap_or_else(PoisonError::into_inner).times.clone())
}
